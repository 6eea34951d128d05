package worker

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/offstage-dev/offstage"
)

// Runner performs attempts of tasks that are not Go functions of this program. Implementations must be safe for
// concurrent use: Run is called once per slot.
type Runner interface {
	// Tasks are the names it can run. It is asked once, when the worker starts.
	Tasks() []string

	// Run performs one attempt. It returns when nothing of the attempt is left behind: ctx ends on cancel,
	// timeout, a lost claim or a forced stop, and context.Cause says which; Run must then stop the work and return.
	// The result is JSON, or nil for none. The error may be one of offstage.Cancel, Fail, Snooze or RetryIn.
	// Lines the task prints go to Log(ctx).
	Run(ctx context.Context, job *offstage.Job) (result json.RawMessage, err error)
}

// Claim is what a runner may want to know of an attempt besides its job.
type Claim struct {
	Worker  int32  // the worker's id
	Number  int64  // of the claim
	TaskID  int32  // the task's number
	QueueID *int32 // the queue's; nil if the job has none
	Alone   bool   // two processes in a row, workers or a runner's, died while they had the job: let it have one of its own
}

// ClaimOf is the claim under which the attempt of ctx runs; false outside of one.
func ClaimOf(ctx context.Context) (Claim, bool) {
	a, ok := ctx.Value(attemptKey{}).(*attempt)
	if !ok {
		c, ok := ctx.Value(claimKey{}).(Claim)
		return c, ok
	}
	return Claim{Worker: a.s.id, Number: a.claim, TaskID: a.task, QueueID: a.queue, Alone: a.suspect()}, true
}

// Grace is how long a runner may leave an attempt to end by itself, once its context has ended for this cause, before it makes an
// end of it: as long as it would otherwise, but at most half a second if others take the job (a beat later), and at most
// a second if the worker leaves.
func Grace(cause error, otherwise time.Duration) time.Duration {
	switch {
	case errors.Is(cause, offstage.ErrLost):
		return min(otherwise, time.Second/2)
	case errors.Is(cause, offstage.ErrStopping):
		return min(otherwise, abandonAfter/2)
	}
	return otherwise
}

type claimKey struct{}

// WithClaim gives ctx the claim that ClaimOf returns; for tests of runners.
func WithClaim(ctx context.Context, c Claim) context.Context {
	return context.WithValue(ctx, claimKey{}, c)
}

// Released is the error of a runner that could not finish an attempt through no fault of its job: the job is given back
// at once, and no attempt is spent.
func Released(err error) error { return &offstage.Control{Verb: "release", Err: err} }

// Crashed is the error of a runner for an attempt whose process died when nobody can know whether that was the job's
// fault: the job is given back, and no attempt is spent. After the second time in a row it runs alone (see Claim.Alone), and
// the third time it fails.
func Crashed(err error) error { return &offstage.Control{Verb: "crash", Err: err} }
