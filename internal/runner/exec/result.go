package exec

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"unicode/utf8"

	"github.com/offstage-dev/offstage"
)

// result is where one attempt may leave its result: a file in a directory of its own, so that a task can write
// beside it and rename, and nobody else can read it.
type result struct {
	dir   string
	path  string
	owner *os.File // locked while the attempt runs: by it, sweep tells the directories of dead workers from ours
}

const (
	resultDirs = "offstage-attempt-*"
	ownerFile  = ".owner"
)

func newResult(temp string) (r result, err error) {
	dir, err := os.MkdirTemp(temp, resultDirs)
	if err != nil {
		return result{}, err
	}
	// Locked before it has its name, so that nobody ever finds it unlocked while we live.
	unnamed := filepath.Join(dir, ownerFile+".new")
	owner, err := os.OpenFile(unnamed, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err == nil {
		if err = syscall.Flock(int(owner.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err == nil {
			err = os.Rename(unnamed, filepath.Join(dir, ownerFile))
		}
		if err != nil {
			owner.Close()
		}
	}
	if err != nil {
		return result{}, errors.Join(err, os.RemoveAll(dir))
	}
	return result{dir: dir, path: filepath.Join(dir, "result.json"), owner: owner}, nil
}

// sweep removes the directories that killed workers have left in temp: those of this user whose lock nobody holds. What
// cannot be looked at is left alone.
func sweep(temp string) error {
	dirs, err := filepath.Glob(filepath.Join(temp, resultDirs))
	if err != nil {
		return err
	}
	var failed []error
	for _, dir := range dirs {
		if info, err := os.Lstat(dir); err != nil || !info.IsDir() || !ours(info) {
			continue
		}
		owner, err := os.OpenFile(filepath.Join(dir, ownerFile), os.O_RDWR|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
		if err != nil {
			continue // being made, or not made by us
		}
		if syscall.Flock(int(owner.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
			failed = append(failed, os.RemoveAll(dir))
		}
		owner.Close()
	}
	return errors.Join(failed...)
}

func ours(info fs.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(stat.Uid) == os.Getuid()
}

// read gives what the task wrote, nil if that is nothing.
func (r result) read(limit int) (json.RawMessage, error) {
	if r.path == "" {
		return nil, nil
	}
	// Without O_NONBLOCK a named pipe in its place would keep us here for ever.
	f, err := os.OpenFile(r.path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the result: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("read the result: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("what the task left at $%s is not a file", resultVariable)
	}
	b, err := io.ReadAll(io.LimitReader(f, int64(limit)+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read the result: %w", err)
	case len(b) > limit:
		return nil, offstage.Fail(fmt.Errorf("the result is larger than %d bytes, which are the most: store it elsewhere, and write where to $%s", limit, resultVariable))
	}
	b = bytes.TrimSpace(b)
	if len(b) == 0 {
		return nil, nil
	}
	if !utf8.Valid(b) {
		return nil, fmt.Errorf("what the task wrote to $%s is not valid UTF-8", resultVariable)
	}
	var value json.RawMessage
	if err := json.Unmarshal(b, &value); err != nil {
		return nil, fmt.Errorf("what the task wrote to $%s is not JSON: %w", resultVariable, err)
	}
	return value, nil
}

func (r result) remove() error {
	if r.dir == "" {
		return nil
	}
	defer r.owner.Close()
	return os.RemoveAll(r.dir)
}
