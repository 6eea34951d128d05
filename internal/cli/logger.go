package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/worker"
)

// logger is the log of a server: lines for people on a terminal, key=value elsewhere, or JSON.
func (a *app) logger(format string, level slog.Level) *slog.Logger {
	options := &slog.HandlerOptions{Level: level}
	switch {
	case format == "json":
		return slog.New(slog.NewJSONHandler(a.Stderr, options))
	case a.ErrTerminal:
		return slog.New(&readable{out: &output{w: a.Stderr}, level: level, paint: a.errPaint()})
	}
	return slog.New(slog.NewTextHandler(a.Stderr, options))
}

// readable is a slog.Handler for eyes:
//
//	15:04:05.123 started   #42 greet, attempt 1
//	15:04:05.140 succeeded #42 greet, attempt 1 in 17 ms
type readable struct {
	out    *output
	level  slog.Level
	paint  painter
	attrs  []slog.Attr // of With
	prefix string      // of WithGroup
}

// output keeps lines whole.
type output struct {
	mu sync.Mutex // guards w
	w  io.Writer
}

func (h *readable) Enabled(_ context.Context, level slog.Level) bool { return level >= h.level }

func (h *readable) Handle(_ context.Context, r slog.Record) error {
	var job, task, attempt, took, fault string
	var rest strings.Builder
	each := func(at slog.Attr) bool {
		v := at.Value.Resolve().String()
		switch at.Key {
		case "job_id":
			job = v
		case "task":
			task = v
		case "attempt":
			attempt = v
		case "took":
			took = v
		case "error":
			fault = v
		default:
			fmt.Fprintf(&rest, " %s=%s", h.prefix+at.Key, v)
		}
		return true
	}
	for _, at := range h.attrs {
		each(at)
	}
	r.Attrs(each)

	message, colour := r.Message, ""
	switch {
	case r.Level >= slog.LevelError:
		colour = red
	case r.Level >= slog.LevelWarn:
		colour = yellow
	}
	about := ""
	if job != "" {
		if c, known := stateColours[message]; known || message == attemptStarted {
			colour = c
			message = fmt.Sprintf("%-9s", message)
			about = fmt.Sprintf(" #%s %s, attempt %s", job, task, attempt)
		} else { // a line of the job's own
			about = h.paint.paint(dim, fmt.Sprintf("#%s %s |", job, task))
			message, about = about+" "+h.paint.paint(colour, clean(message, false)), ""
			colour = ""
		}
	} else if task != "" {
		fmt.Fprintf(&rest, " task=%s", task)
	}
	line := h.paint.paint(dim, r.Time.Format("15:04:05.000")) + " " + h.paint.paint(colour, message) + about
	if took != "" {
		line += " in " + took
	}
	if fault != "" {
		line += ": " + strings.ReplaceAll(strings.TrimSpace(clean(fault, true)), "\n", "\n               ")
	}
	line += h.paint.paint(dim, clean(rest.String(), false))
	h.out.mu.Lock()
	defer h.out.mu.Unlock()
	_, err := io.WriteString(h.out.w, line+"\n")
	return err
}

func (h *readable) WithAttrs(attrs []slog.Attr) slog.Handler {
	clone := *h
	clone.attrs = append(append([]slog.Attr(nil), h.attrs...), attrs...)
	return &clone
}

func (h *readable) WithGroup(name string) slog.Handler {
	clone := *h
	clone.prefix += name + "."
	return &clone
}

// JobLog is a log for people who watch a worker, and middleware that writes every attempt to it.
func (m Main) JobLog() (*slog.Logger, func(worker.Handler) worker.Handler) {
	log := (&app{Main: m}).logger("text", slog.LevelInfo)
	return log, logAttempts(log)
}

const attemptStarted = "started"

// logAttempts is middleware that logs the start and the end of every attempt, and how long it took.
func logAttempts(log *slog.Logger) func(worker.Handler) worker.Handler {
	return func(next worker.Handler) worker.Handler {
		return func(ctx context.Context, job *offstage.Job) (json.RawMessage, error) {
			log := log.With("job_id", job.ID, "task", job.Task, "attempt", job.Attempt)
			log.Info(attemptStarted)
			begin := time.Now()
			returned := false
			defer func() {
				if !returned { // it goes on panicking, and the worker makes an error of it
					log.Warn("failed", "took", span(time.Since(begin)), "error", "the handler panicked")
				}
			}()
			result, err := next(ctx, job)
			returned = true
			took := span(time.Since(begin))
			if err == nil {
				log.Info(string(offstage.OutcomeSucceeded), "took", took)
				return result, nil
			}
			outcome, what := verdict(ctx, job, err)
			log.Warn(outcome, "took", took, "error", err.Error()+what)
			return result, err
		}
	}
}

// verdict says in a word and a half sentence what the worker will make of an error.
func verdict(ctx context.Context, job *offstage.Job, err error) (outcome, next string) {
	var control *offstage.Control
	cause := context.Cause(ctx)
	switch {
	case errors.As(err, &control) && control.Verb == "snooze":
		return "snoozed", ""
	case errors.As(err, &control) && (control.Verb == "release" || control.Verb == "crash"):
		return string(offstage.OutcomeReleased), ""
	case errors.As(err, &control) && control.Verb == "cancel", errors.Is(cause, offstage.ErrCancelled):
		return string(offstage.OutcomeCancelled), ""
	case errors.Is(cause, offstage.ErrStopping), errors.Is(cause, offstage.ErrLost):
		return string(offstage.OutcomeReleased), ""
	case errors.As(err, &control) && control.Verb == "fail":
		return "failed", "; for good"
	case job.Attempt >= job.MaxAttempts:
		return "failed", "; no attempt is left"
	case errors.As(err, &control) && control.Verb == "retry":
		return "failed", "; tries again in " + span(control.Delay)
	}
	return "failed", "; tries again"
}
