package exec

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/offstage-dev/offstage/internal/runner/lines"
	"github.com/offstage-dev/offstage/worker"
)

// progress reads how far a task is: lines such as "50 half of it", which the task writes to a named pipe beside its result.
// We hold both of its ends open, so that a task neither waits for us to open it nor ends it by closing it.
type progress struct {
	path  string
	pipe  *os.File
	mark  []byte // what we write ourselves, behind all that the task has written; by chance, so that no task writes it
	ended atomic.Bool
	read  chan struct{} // closed when the reader has ended
}

// the message of a progress may be so long; of a line no more is kept.
const longestProgress = 1000

// followProgress makes the pipe in dir and reads it until end.
func followProgress(ctx context.Context, dir string, log *slog.Logger) (*progress, error) {
	p := &progress{path: filepath.Join(dir, "progress"), mark: []byte(rand.Text()), read: make(chan struct{})}
	if err := syscall.Mkfifo(p.path, 0o600); err != nil {
		return nil, fmt.Errorf("make a named pipe: %w", err)
	}
	var err error
	if p.pipe, err = os.OpenFile(p.path, os.O_RDWR, 0); err != nil {
		return nil, err
	}
	told := false // of a task that gets it wrong, once
	line := &lines.Writer{Limit: longestProgress, Emit: func(line string) {
		if err := report(ctx, line); err != nil && !told && ctx.Err() == nil {
			told = true
			log.Warn(fmt.Sprintf("what the task writes to $%s is not understood: %v", progressVariable, err))
		}
	}}
	go func() {
		defer close(p.read)
		var text []byte // read, not handed on
		for buf := make([]byte, 4096); ; {
			n, err := p.pipe.Read(buf)
			if err != nil {
				return
			}
			text = append(text, buf[:n]...)
			rest := 0
			if p.ended.Load() {
				if end := bytes.Index(text, p.mark); end >= 0 {
					_, _ = line.Write(text[:end])
					line.Flush()
					return
				}
				rest = min(len(text), len(p.mark)-1) // perhaps the beginning of the mark
			}
			_, _ = line.Write(text[:len(text)-rest])
			text = append(text[:0], text[len(text)-rest:]...)
		}
	}()
	return p, nil
}

func report(ctx context.Context, line string) error {
	line = strings.TrimSpace(line)
	if line == "" {
		return nil
	}
	number, message, _ := strings.Cut(line, " ")
	percent, err := strconv.ParseFloat(strings.TrimSuffix(number, "%"), 32)
	if err != nil {
		return fmt.Errorf("%.60q does not begin with a number; write for instance: echo \"50 half of it\" > \"$%s\"", line, progressVariable)
	}
	return worker.Progress(ctx, float32(percent), strings.TrimSpace(message))
}

// end reads what is there and returns when nothing is left of it.
func (p *progress) end() {
	p.ended.Store(true)
	_, _ = p.pipe.Write(p.mark)
	<-p.read
	_ = p.pipe.Close()
}
