package worker

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/offstage-dev/offstage"
)

// Job is a job with its payload decoded.
type Job[T any] struct {
	*offstage.Job
	Payload T
}

// RetryPolicy says how long to wait before a failed attempt is tried again. Without one the delays are
// e, e², … e¹⁰ seconds (2.7 s, 7.4 s, 20 s … 6 h), as in Graphile Worker.
type RetryPolicy struct {
	policy string
	base   time.Duration
	factor float64
	limit  time.Duration
	delays []time.Duration
	jitter float64
}

// Exponential waits base, base·factor, base·factor² …, at most limit (0: 6 h 7 min).
func Exponential(base time.Duration, factor float64, limit time.Duration) *RetryPolicy {
	return &RetryPolicy{policy: "exponential", base: base, factor: factor, limit: limit}
}

// Fixed always waits d.
func Fixed(d time.Duration) *RetryPolicy { return &RetryPolicy{policy: "fixed", base: d} }

// Delays waits the n-th of these after the n-th attempt, and the last one after all later attempts.
func Delays(d ...time.Duration) *RetryPolicy { return &RetryPolicy{policy: "list", delays: d} }

// Jitter leaves up to this part (0 to 1) of each delay to chance, so that jobs which failed together are not all
// tried again together.
func (p RetryPolicy) Jitter(part float64) *RetryPolicy {
	p.jitter = part
	return &p
}

// MarshalJSON is the form in which the database stores the policy.
func (p RetryPolicy) MarshalJSON() ([]byte, error) {
	m := map[string]any{"policy": p.policy}
	if p.jitter != 0 {
		m["jitter"] = p.jitter
	}
	switch p.policy {
	case "exponential":
		m["base"], m["factor"] = interval(p.base), p.factor
		if p.limit > 0 {
			m["max"] = interval(p.limit)
		}
	case "fixed":
		m["delay"] = interval(p.base)
	case "list":
		delays := make([]string, len(p.delays))
		for i, d := range p.delays {
			delays[i] = interval(d)
		}
		m["delays"] = delays
	}
	return json.Marshal(m)
}

// interval is d as PostgreSQL reads it; in seconds, because version 14 takes no more than 2³¹ microseconds.
func interval(d time.Duration) string { return strconv.FormatFloat(d.Seconds(), 'f', 6, 64) + " s" }

// Option is a setting of a task that the program states. Settings are stored with the task; what a program does not
// state stays as it is in the database (see configure_task).
type Option func(map[string]any)

// MaxAttempts of jobs that do not bring their own. Default: 25.
func MaxAttempts(n int) Option { return func(m map[string]any) { m["max_attempts"] = n } }

// Retry sets the task's retry policy.
func Retry(p *RetryPolicy) Option { return func(m map[string]any) { m["retry"] = p } }

// Timeout of one attempt: its context ends, and the attempt fails. Default: none.
func Timeout(d time.Duration) Option { return func(m map[string]any) { m["timeout"] = interval(d) } }

// Keep says what history holds of the task's jobs: "all" (default), "failures" or "none".
func Keep(what string) Option { return func(m map[string]any) { m["keep"] = what } }

// Handle registers a handler for a task. The payload is decoded into T, or given as it is where T is json.RawMessage, which saves
// most of the worker's time where payloads are large. The result R is stored as JSON; a handler without a result returns struct{}. A
// payload that does not fit T fails the attempt. To settle otherwise than by success or retry, return offstage.Cancel, Fail, Snooze
// or RetryIn. The handler must stop when ctx ends. A result larger than MaxResult fails the job for good.
//
// Handle panics when the task has a handler already, or the worker runs.
func Handle[T, R any](w *Worker, task string, handler func(context.Context, *Job[T]) (R, error), options ...Option) {
	_, noResult := any(*new(R)).(struct{})
	w.register(task, func(ctx context.Context, job *offstage.Job) (json.RawMessage, error) {
		typed := Job[T]{Job: job}
		if raw, is := any(&typed.Payload).(*json.RawMessage); is {
			*raw = job.Payload // JSON, as the database has it
		} else if err := json.Unmarshal(job.Payload, &typed.Payload); err != nil {
			return nil, fmt.Errorf("payload of task %s does not fit %T: %w", task, typed.Payload, err)
		}
		result, err := handler(ctx, &typed)
		if err != nil || noResult {
			return nil, err
		}
		b, err := json.Marshal(result)
		if err != nil {
			return nil, fmt.Errorf("result of task %s is not JSON: %w", task, err)
		}
		return b, nil
	}, options)
}

// HandleBatch registers a handler for jobs whose payload is an array. The handler answers one error for each element
// (nil: done), or an empty slice for all done. If some failed, the job is tried again with just those elements. The
// second error fails the attempt with the payload unchanged.
func HandleBatch[T any](w *Worker, task string, handler func(context.Context, *Job[[]T]) ([]error, error), options ...Option) {
	w.register(task, func(ctx context.Context, job *offstage.Job) (json.RawMessage, error) {
		typed := Job[[]T]{Job: job}
		var elements []json.RawMessage
		if err := json.Unmarshal(job.Payload, &elements); err != nil {
			return nil, fmt.Errorf("payload of batch task %s is not an array: %w", task, err)
		}
		if err := json.Unmarshal(job.Payload, &typed.Payload); err != nil {
			return nil, fmt.Errorf("payload of task %s does not fit %T: %w", task, typed.Payload, err)
		}
		errs, err := handler(ctx, &typed)
		if err != nil || len(errs) == 0 {
			return nil, err
		}
		if len(errs) != len(elements) {
			return nil, fmt.Errorf("batch task %s answered %d errors for %d elements", task, len(errs), len(elements))
		}
		return nil, Partial(elements, errs)
	}, options)
}

// PartialError is a batch job of which some elements failed.
type PartialError struct {
	// Left is the payload of what failed: the job's next one.
	Left json.RawMessage
	errs []error
}

// Partial is nil if no element failed, and otherwise the error that keeps just those that did. For runners.
func Partial(elements []json.RawMessage, errs []error) error {
	var left []json.RawMessage
	e := &PartialError{}
	for i, err := range errs {
		if err != nil {
			left = append(left, elements[i])
			e.errs = append(e.errs, err)
		}
	}
	if len(left) == 0 {
		return nil
	}
	e.Left, _ = json.Marshal(left) // raw messages of a decoded array
	return e
}

func (e *PartialError) Error() string {
	var b strings.Builder
	b.WriteString("Batch failures:")
	for _, err := range e.errs {
		b.WriteString("\n" + err.Error())
	}
	return b.String()
}

func (e *PartialError) Unwrap() []error { return e.errs }
