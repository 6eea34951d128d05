package worker

import (
	"context"
	"log/slog"
	"slices"
)

type logKey struct{}

// Log is the logger of the attempt that ctx belongs to: what is written to it goes to the worker's log with the
// job's id, task and attempt, and is stored as a line of the job's log, with its level and attributes, while the attempt
// runs. Of what an attempt logs, the first 64 KB and the last 16 KB are stored, and a line between them says what is
// left out. Levels below info are not stored. Outside an attempt it is slog.Default().
func Log(ctx context.Context) *slog.Logger {
	if l, ok := ctx.Value(logKey{}).(*slog.Logger); ok {
		return l
	}
	if a, ok := ctx.Value(attemptKey{}).(*attempt); ok {
		return a.reports().log(a)
	}
	return slog.Default()
}

// WithLog gives ctx the logger that Log returns; for tests of runners.
func WithLog(ctx context.Context, l *slog.Logger) context.Context {
	return context.WithValue(ctx, logKey{}, l)
}

// log is the attempt's logger, which is made once.
func (r *report) log(a *attempt) *slog.Logger {
	r.once.Do(func() {
		next := a.s.cfg.Log.With("job_id", a.job.ID, "task", a.job.Task, "attempt", a.job.Attempt)
		r.logger = slog.New(&keeper{next: next.Handler(), keep: a.keep, scopes: make([]scope, 1)})
	})
	return r.logger
}

// keeper is a slog.Handler that passes records on, and keeps them as lines.
type keeper struct {
	next   slog.Handler
	keep   func(level slog.Level, message string, attrs []slog.Attr)
	scopes []scope // one more for each group
}

// scope is what With has added since the group began.
type scope struct {
	group string
	attrs []slog.Attr
}

// Enabled is true for all that is kept; the next handler is asked in Handle.
func (k *keeper) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelInfo }

func (k *keeper) Handle(ctx context.Context, r slog.Record) error {
	attrs := make([]slog.Attr, 0, r.NumAttrs())
	r.Attrs(func(a slog.Attr) bool {
		attrs = append(attrs, a)
		return true
	})
	for i := len(k.scopes) - 1; i >= 0; i-- {
		attrs = slices.Concat(k.scopes[i].attrs, attrs)
		if i > 0 {
			attrs = []slog.Attr{{Key: k.scopes[i].group, Value: slog.GroupValue(attrs...)}}
		}
	}
	k.keep(r.Level, r.Message, attrs)
	if !k.next.Enabled(ctx, r.Level) {
		return nil
	}
	return k.next.Handle(ctx, r)
}

func (k *keeper) WithAttrs(attrs []slog.Attr) slog.Handler {
	scopes := slices.Clone(k.scopes)
	last := &scopes[len(scopes)-1]
	last.attrs = slices.Concat(last.attrs, attrs)
	return &keeper{k.next.WithAttrs(attrs), k.keep, scopes}
}

func (k *keeper) WithGroup(name string) slog.Handler {
	if name == "" {
		return k
	}
	return &keeper{k.next.WithGroup(name), k.keep, append(slices.Clone(k.scopes), scope{group: name})}
}
