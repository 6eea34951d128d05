package worker

import (
	"context"
	"encoding/json"

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
