package node

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"
)

//go:embed js/*.cjs
var embedded embed.FS

const scriptsPrefix = "offstage-node-"

// scripts is a directory of our own with the JavaScript side. Node reads it when a process starts, and files there are what
// tasks see as the main module.
type scripts struct {
	mu  sync.Mutex // guards dir
	dir string
}

// write makes the files, again if somebody has cleared the temporary directory meanwhile.
func (s *scripts) write() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dir != "" {
		if _, err := os.Stat(filepath.Join(s.dir, "main.cjs")); err == nil {
			return nil
		}
	} else {
		sweep()
	}
	dir, err := os.MkdirTemp("", scriptsPrefix)
	if err != nil {
		return fmt.Errorf("node runner: a temporary directory for its JavaScript cannot be made (TMPDIR names another place): %w", err)
	}
	entries, err := embedded.ReadDir("js")
	for _, entry := range entries {
		var text []byte
		if text, err = embedded.ReadFile("js/" + entry.Name()); err == nil {
			err = os.WriteFile(filepath.Join(dir, entry.Name()), text, 0o600)
		}
		if err != nil {
			break
		}
	}
	if err != nil {
		return errors.Join(fmt.Errorf("node runner: %w", err), os.RemoveAll(dir))
	}
	s.dir = dir
	return nil
}

func (s *scripts) remove() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dir != "" {
		_ = os.RemoveAll(s.dir) // what stays is swept by the next one
		s.dir = ""
	}
}

// sweep removes what workers left behind that were killed. Running ones make theirs again if they need them.
func sweep() {
	left, _ := filepath.Glob(filepath.Join(os.TempDir(), scriptsPrefix+"*"))
	for _, dir := range left {
		info, err := os.Lstat(dir)
		if err != nil || !info.IsDir() || time.Since(info.ModTime()) < 24*time.Hour {
			continue
		}
		if _, err := os.Stat(filepath.Join(dir, "main.cjs")); !errors.Is(err, fs.ErrNotExist) {
			_ = os.RemoveAll(dir) // somebody else's stays
		}
	}
}
