package worker

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
)

type logKey struct{}

// Log is the logger of the attempt that ctx belongs to: what is written to it goes to the worker's log with the
// job's id, task and attempt, and is kept with the attempt in history (the first and the last 32 KB of it).
// Outside an attempt it is slog.Default().
func Log(ctx context.Context) *slog.Logger {
	if l, ok := ctx.Value(logKey{}).(*slog.Logger); ok {
		return l
	}
	if a, ok := ctx.Value(attemptKey{}).(*attempt); ok {
		next := a.s.cfg.Log.With("job_id", a.job.ID, "task", a.job.Task, "attempt", a.job.Attempt)
		return slog.New(&keeper{next.Handler(), &a.lines, ""})
	}
	return slog.Default()
}

// WithLog gives ctx the logger that Log returns; for tests of runners.
func WithLog(ctx context.Context, l *slog.Logger) context.Context {
	return context.WithValue(ctx, logKey{}, l)
}

// keeper is a slog.Handler that passes records on and keeps them as lines.
type keeper struct {
	next  slog.Handler
	lines *lines
	attrs string
}

// Enabled is true for all that is kept; the next handler is asked in Handle.
func (k *keeper) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelInfo }

func (k *keeper) Handle(ctx context.Context, r slog.Record) error {
	var b strings.Builder
	b.WriteString(r.Time.UTC().Format("15:04:05.000"))
	if r.Level != slog.LevelInfo {
		b.WriteString(" " + r.Level.String())
	}
	b.WriteString(" " + r.Message + k.attrs)
	r.Attrs(func(a slog.Attr) bool {
		fmt.Fprintf(&b, " %s=%v", a.Key, a.Value)
		return true
	})
	k.lines.add(b.String())
	if !k.next.Enabled(ctx, r.Level) {
		return nil
	}
	return k.next.Handle(ctx, r)
}

func (k *keeper) WithAttrs(attrs []slog.Attr) slog.Handler {
	text := k.attrs
	for _, a := range attrs {
		text += fmt.Sprintf(" %s=%v", a.Key, a.Value)
	}
	return &keeper{k.next.WithAttrs(attrs), k.lines, text}
}

func (k *keeper) WithGroup(name string) slog.Handler {
	return &keeper{k.next.WithGroup(name), k.lines, k.attrs}
}

// keepLog is how much of an attempt's log is kept of its beginning, and as much again of its end.
const keepLog = 32 << 10

// lines are the log of an attempt. Handlers may log from many goroutines, and after they have returned.
type lines struct {
	mu         sync.Mutex
	head, tail []byte
	dropped    int // bytes between them
}

func (l *lines) add(line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	line += "\n"
	if room := keepLog - len(l.head); room > 0 && l.tail == nil {
		n := min(room, len(line))
		l.head = append(l.head, line[:n]...)
		line = line[n:]
	}
	if line == "" {
		return
	}
	if len(line) > keepLog {
		l.dropped += len(line) - keepLog
		line = line[len(line)-keepLog:]
	}
	l.tail = append(l.tail, line...)
	if len(l.tail) > 2*keepLog { // cut now and then, not at every line
		l.dropped += len(l.tail) - keepLog
		l.tail = append([]byte(nil), l.tail[len(l.tail)-keepLog:]...)
	}
}

func (l *lines) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.head == nil && l.tail == nil {
		return ""
	}
	tail := l.tail
	dropped := l.dropped
	if len(tail) > keepLog {
		dropped += len(tail) - keepLog
		tail = tail[len(tail)-keepLog:]
	}
	text := string(l.head)
	if dropped > 0 {
		text += fmt.Sprintf("… %d bytes left out …\n", dropped)
	}
	return storable(text+string(tail), 3*keepLog)
}
