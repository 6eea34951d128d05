package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/internal/store"
)

// MaxResult is how many bytes of JSON a result may have. A larger one fails the job for good, because it would be as large the
// next time.
const MaxResult = 1 << 20

// attempt is one try of one job, from claim to settle. A turner makes it, a runner runs it, a turner settles it; each
// hands it on and does not touch it again. cancel may be called by anybody once it is in session.current.
type attempt struct {
	s       *session
	job     *offstage.Job
	claim   int64
	place   pgtype.TID // of the job's row; none where a caller may hold it (it has a key)
	arrival *arrival
	task    int32
	queue   *int32
	crashes int16
	expired bool
	timeout time.Duration
	handler Handler
	life    life
	report  atomic.Pointer[report] // nil while it has told nothing

	finishing atomic.Bool // the handler called Complete
	abandoned bool        // its job was released while it still runs; under session.mu
	tries     int         // to settle it
	took      time.Duration
	endedAt   time.Time
	ending    *store.Ending // nil is success
	result    json.RawMessage
}

type attemptKey struct{}

// attemptContext is the context of an attempt, and carries it, for Log, Progress and Complete. Most handlers of short jobs
// never wait for their context: a real one is made when the first asks.
type attemptContext struct{ a *attempt }

// life says whether an attempt is to go on.
type life struct {
	mu    sync.Mutex // guards what is below
	ended bool
	more  *moreLife // nil for most
}

// moreLife is what there is once somebody has asked for a real context, or it has ended for a cause.
type moreLife struct {
	real  context.Context
	end   context.CancelCauseFunc // of real
	cause error
}

func (l *life) context(base context.Context) context.Context {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.more == nil {
		l.more = &moreLife{}
	}
	m := l.more
	if m.real == nil {
		m.real, m.end = context.WithCancelCause(base)
		if l.ended {
			m.end(m.cause)
		}
	}
	return m.real
}

// cancel ends the attempt's context, with the first cause that was given. The real one ends under the same lock: whoever
// sees Err finds Done closed and Cause said.
func (a *attempt) cancel(cause error) {
	l := &a.life
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return
	}
	l.ended = true
	if l.more == nil && cause != nil {
		l.more = &moreLife{}
	}
	if m := l.more; m != nil {
		m.cause = cause
		if m.end != nil {
			m.end(cause)
		}
	}
}

func (c attemptContext) Deadline() (time.Time, bool) { return c.a.s.base.Deadline() }
func (c attemptContext) Done() <-chan struct{}       { return c.a.life.context(c.a.s.base).Done() }

func (c attemptContext) Err() error {
	c.a.life.mu.Lock()
	defer c.a.life.mu.Unlock()
	if c.a.life.ended {
		return context.Canceled
	}
	return nil
}

func (c attemptContext) Value(key any) any {
	if key == (attemptKey{}) {
		return c.a
	}
	return c.a.life.context(c.a.s.base).Value(key)
}

func (a *attempt) lease() int64 { return a.claim &^ 1023 }

// newAttempts are the attempts of what one claim brought.
func (s *session) newAttempts(claimed []store.Claimed, from *arrival) []*attempt {
	all := make([]*attempt, len(claimed))
	attempts := make([]attempt, len(claimed)) // two allocations instead of two a job
	jobs := make([]offstage.Job, len(claimed))
	tasks := *s.tasks.Load()
	for i := range claimed {
		c, a, job := &claimed[i], &attempts[i], &jobs[i]
		k := tasks[c.TaskID]
		a.s, a.job, a.claim, a.task, a.queue, a.crashes, a.expired, a.timeout, a.handler = s, job, c.Claim, c.TaskID, c.QueueID, c.Crashes, c.Expired, k.timeout, k.handler
		a.arrival = from
		if c.Key == "" {
			a.place = c.Place
		}
		if c.Timeout > 0 {
			a.timeout = c.Timeout
		}
		*job = offstage.Job{
			ID: c.JobID, Task: k.name, Payload: c.Payload, Priority: int(c.Priority), RunAt: c.RunAt, AddedAt: c.AddedAt,
			Attempt: int(c.Attempt), MaxAttempts: k.maxAttempts, State: offstage.Running,
			Queue: c.QueueName, HasQueue: c.QueueID != nil, Key: c.Key, LastError: c.LastError, Traceparent: c.Traceparent,
		}
		if c.MaxAttempts > 0 {
			job.MaxAttempts = int(c.MaxAttempts)
		}
		if c.Flags != nil {
			var set map[string]bool
			if json.Unmarshal(c.Flags, &set) == nil {
				job.Flags = slices.Sorted(maps.Keys(set))
			}
		}
		all[i] = a
	}
	return all
}

// attempt runs a and hands it to the turners. It says when that ended.
func (s *session) attempt(i int, a *attempt, started time.Time) (ended time.Time) {
	returned := false
	defer func() {
		s.current[i].Store(nil)
		if !returned {
			a.ending = a.endingOf(errors.New("the handler ended its goroutine (runtime.Goexit)"), nil)
		}
		ended = time.Now()
		a.endedAt, a.took = ended, ended.Sub(started)
		a.cancel(nil)
		s.turns.ended(a)
	}()

	s.current[i].Store(a)
	if cause := s.cause.Load(); cause != nil { // before it was published, cancelAll could not see it
		a.cancel(*cause)
	}
	if a.arrival.lost.Load() {
		a.cancel(offstage.ErrLost)
	}
	s.turns.started(started)
	if reason, ok := (*s.cancelledNow())[a.job.ID]; ok {
		a.cancel(cancelledBy(reason))
	}
	a.result, a.ending = a.run(attemptContext{a})
	returned = true
	return ended
}

func (s *session) cancelledNow() *map[int64]string {
	if m := s.cancelled.Load(); m != nil {
		return m
	}
	return &map[int64]string{}
}

func (a *attempt) run(ctx context.Context) (json.RawMessage, *store.Ending) {
	switch {
	case ctx.Err() != nil:
		return nil, a.endingOf(context.Cause(ctx), context.Cause(ctx))
	case a.expired:
		return nil, a.endingOf(offstage.Cancel(errors.New("expired before it was started (expires_at)")), nil)
	case a.handler == nil:
		return nil, a.end("release", nil) // its task was renamed under us
	case a.suspect():
		switch err := a.mark(ctx); {
		case ctx.Err() != nil:
			return nil, a.endingOf(context.Cause(ctx), context.Cause(ctx))
		case err != nil:
			return nil, a.end("release", err)
		}
	}
	if a.timeout > 0 {
		var stop context.CancelFunc
		ctx, stop = context.WithTimeoutCause(ctx, a.timeout, fmt.Errorf("%w after %s", offstage.ErrTimeout, a.timeout))
		defer stop()
	}
	if a.s.cfg.LogJobs {
		a.s.cfg.Log.Info("started", "job_id", a.job.ID, "task", a.job.Task, "attempt", a.job.Attempt)
	}
	result, err := perform(ctx, a.handler, a.job)
	if err == nil && result != nil && !json.Valid(result) {
		result, err = nil, fmt.Errorf("the result of task %s is not JSON", a.job.Task)
	}
	if err == nil {
		if err = checkSize(result); err != nil {
			result = nil
		}
	}
	var ending *store.Ending
	if err != nil || a.finishing.Load() {
		ending = a.endingOf(err, context.Cause(ctx))
	}
	if a.s.cfg.LogJobs {
		if err != nil {
			a.s.cfg.Log.Warn("failed", "job_id", a.job.ID, "task", a.job.Task, "attempt", a.job.Attempt, "settle", ending.Ending, "error", err)
		} else {
			a.s.cfg.Log.Info("succeeded", "job_id", a.job.ID, "task", a.job.Task, "attempt", a.job.Attempt)
		}
	}
	return result, ending
}

func checkSize(result []byte) error {
	if len(result) > MaxResult {
		return offstage.Fail(fmt.Errorf("the result has %d bytes, and %d are the most: store it elsewhere, and return where", len(result), MaxResult))
	}
	return nil
}

// perform runs the handler and turns panics into errors.
func perform(ctx context.Context, handler Handler, job *offstage.Job) (result json.RawMessage, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, stack())
		}
	}()
	return handler(ctx, job)
}

// endingOf decides how an attempt is settled that ended with err, under a context that had ended for cause.
func (a *attempt) endingOf(err, cause error) *store.Ending {
	var control *offstage.Control
	var partial *PartialError
	switch {
	case err == nil:
		return a.end("finished", nil)
	case errors.As(err, &control):
		e := a.end(control.Verb, nil)
		if control.Err != nil {
			e = a.end(control.Verb, err) // with what it was wrapped in
		}
		if control.Verb == "snooze" || control.Verb == "retry" || control.Verb == "release" && control.Delay > 0 {
			seconds := control.Delay.Seconds()
			e.Delay = &seconds
		}
		return e
	case errors.Is(cause, offstage.ErrCancelled):
		return a.end("cancel", cause)
	case errors.Is(cause, offstage.ErrStopping), errors.Is(cause, offstage.ErrLost):
		return a.end("release", cause)
	case errors.Is(cause, offstage.ErrTimeout) && !errors.Is(err, offstage.ErrTimeout):
		return a.end("retry", fmt.Errorf("%w: %w", cause, err))
	case errors.As(err, &partial):
		e := a.end("retry", err)
		e.Payload = partial.Left
		return e
	}
	return a.end("retry", err)
}

func (a *attempt) end(ending string, err error) *store.Ending {
	e := &store.Ending{Claim: a.claim, JobID: a.job.ID, Ending: ending}
	if err != nil {
		e.Error = storable(err.Error(), 16<<10)
	}
	if a.finishing.Load() {
		e.QueueID = a.queue
	}
	return e
}

// storable makes a text that PostgreSQL takes: valid UTF-8, without NUL, at most n bytes and an ellipsis.
func storable(text string, n int) string {
	if len(text) > 4*n { // what is cut away anyway need not be cleaned
		text = text[:4*n]
	}
	text = strings.ReplaceAll(strings.ToValidUTF8(text, "\uFFFD"), "\x00", "\uFFFD")
	if len(text) <= n {
		return text
	}
	cut := n
	for !utf8.RuneStart(text[cut]) {
		cut--
	}
	return text[:cut] + "…"
}

func cancelledBy(reason string) error { return fmt.Errorf("%w: %s", offstage.ErrCancelled, reason) }
