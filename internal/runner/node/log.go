package node

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/offstage-dev/offstage/worker"
)

var levels = map[string]slog.Level{"info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError}

// logLine writes a line to its attempt's log: [level, text, attributes].
func (p *process) logLine(m message) error {
	var level, text string
	var attributes map[string]string
	if err := decode(m.rest, &level, &text, &attributes); err != nil {
		return err
	}
	c := p.find(m.seq)
	if c == nil {
		return nil
	}
	if c.log == nil {
		c.log = worker.Log(c.ctx)
	}
	var attrs []slog.Attr
	for _, key := range slices.Sorted(maps.Keys(attributes)) {
		attrs = append(attrs, slog.String(key, attributes[key]))
	}
	// Without the attempt's context, which may have ended: that is no reason for a handler to lose a line.
	c.log.LogAttrs(context.Background(), levels[level], text, attrs...)
	return nil
}

// logOther writes a line to the worker's log: [level, text, task].
func (p *process) logOther(b []byte) error {
	var level, text, task string
	if err := decode(b, &level, &text, &task); err != nil {
		return err
	}
	attrs := []slog.Attr{slog.Int("node", p.pid)}
	if task != "" {
		attrs = append(attrs, slog.String("task", task))
	}
	p.r.config.Log.LogAttrs(context.Background(), levels[level], text, attrs...)
	return nil
}

// decode reads an array whose last elements may be missing.
func decode(b []byte, into ...any) error {
	return json.Unmarshal(b, &into)
}

// logWriter cuts what a process prints into lines for the worker's log. One goroutine writes; it ends before flush.
type logWriter struct {
	log func(line string)

	mu   sync.Mutex // guards what follows; fatal may be called meanwhile
	held []byte
	last []string // lines, for why a process died
}

const (
	longestLine = 16 << 10
	lastLines   = 40
)

func (w *logWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := len(p)
	for {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			w.hold(p)
			return n, nil
		}
		w.hold(p[:i])
		w.end()
		p = p[i+1:]
	}
}

func (w *logWriter) hold(p []byte) {
	w.held = append(w.held, p[:min(len(p), longestLine-len(w.held))]...)
}

func (w *logWriter) end() {
	line := strings.TrimSuffix(strings.ToValidUTF8(string(w.held), "\uFFFD"), "\r")
	w.held = w.held[:0]
	if line == "" {
		return
	}
	if w.last = append(w.last, line); len(w.last) > lastLines {
		w.last = w.last[1:]
	}
	w.log(line)
}

func (w *logWriter) flush() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.held) > 0 {
		w.end()
	}
}

// fatal is the line that says why the process died: V8's, or the last one.
func (w *logWriter) fatal() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, line := range w.last {
		if strings.HasPrefix(line, "FATAL ERROR: ") {
			return line
		}
	}
	if len(w.last) > 0 {
		return w.last[len(w.last)-1]
	}
	return ""
}
