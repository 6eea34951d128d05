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
)

// result is where one attempt may leave its result: a file in a directory of its own, so that a task can write
// beside it and rename, and nobody else can read it.
type result struct {
	dir  string
	path string
}

func newResult(temp string) (result, error) {
	dir, err := os.MkdirTemp(temp, "offstage-attempt-*")
	if err != nil {
		return result{}, err
	}
	return result{dir: dir, path: filepath.Join(dir, "result.json")}, nil
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
		return nil, fmt.Errorf("the result is larger than %d bytes", limit)
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
	return os.RemoveAll(r.dir)
}
