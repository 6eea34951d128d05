package node

import (
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/offstage-dev/offstage/internal/runner/lines"
	"github.com/offstage-dev/offstage/worker"
)

var levels = map[string]slog.Level{"info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError}

// logLine writes a line to its attempt's log: [level, text, attributes].
func (p *process) logLine(m message) error {
	var level, text string
	var attributes map[string]attribute
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
		attrs = append(attrs, slog.Any(key, attributes[key].value()))
	}
	// Without the attempt's context, which may have ended: that is no reason for a handler to lose a line.
	c.log.LogAttrs(context.Background(), levels[level], text, attrs...)
	return nil
}

// attribute is JSON.
type attribute struct{ json.RawMessage }

// value is a string for a string, and otherwise the JSON, which prints itself.
func (a attribute) value() any {
	var text string
	if json.Unmarshal(a.RawMessage, &text) == nil {
		return text
	}
	return a
}

func (a attribute) String() string { return string(a.RawMessage) }

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

// logWriter writes what a process prints to the worker's log, line by line, and remembers the last lines. One goroutine
// writes; it ends before Flush.
type logWriter struct {
	lines.Writer
	mu   sync.Mutex // guards last; fatal may be called meanwhile
	last []string   // for why a process died
}

const (
	longestLine = 16 << 10
	lastLines   = 40
)

func newLogWriter(log func(line string)) *logWriter {
	w := &logWriter{}
	w.Writer = lines.Writer{Limit: longestLine, Emit: func(line string) {
		if line == "" {
			return
		}
		w.mu.Lock()
		if w.last = append(w.last, line); len(w.last) > lastLines {
			w.last = w.last[1:]
		}
		w.mu.Unlock()
		log(line)
	}}
	return w
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
