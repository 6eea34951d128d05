package offstage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
)

// EndedError is what Await returns for a job that did not succeed.
type EndedError struct {
	JobID   int64
	Outcome Outcome
	Reason  string // the last error, or the reason of a cancel
}

func (e *EndedError) Error() string {
	if e.Reason == "" {
		return fmt.Sprintf("job %d %s", e.JobID, e.Outcome)
	}
	return fmt.Sprintf("job %d %s: %s", e.JobID, e.Outcome, e.Reason)
}

// Await waits until the job has ended and decodes its result into T. It returns *EndedError for every other outcome than
// succeeded, ErrNotFound for a job that is unknown, and ctx's error when that ends first. A job whose history is not kept
// (keep "none", by its task or its own option) is unknown as well if it ended before Await was called: what somebody awaits
// is kept from then on only. Give a job that is to be awaited the option keep "all".
//
// All awaits of a process through one pool, however many, share one connection, on which they are told within milliseconds; it is
// kept for five seconds after the last one.
// Should that be lost, or a notification, they look by themselves: after 20 ms, then ever more rarely, every two seconds in
// the end. While the database cannot be reached they go on waiting; ctx is what limits that.
func Await[T any](ctx context.Context, c *Client, id int64) (result T, err error) {
	e, err := c.await(ctx, id)
	if err != nil {
		return result, err
	}
	if e.outcome != OutcomeSucceeded {
		return result, &EndedError{id, e.outcome, e.reason}
	}
	if e.result != nil {
		if err := json.Unmarshal(e.result, &result); err != nil {
			return result, fmt.Errorf("await job %d: its result does not fit %T: %w", id, result, err)
		}
	}
	return result, nil
}

// end is what a waiter is told.
type end struct {
	outcome Outcome // "" if the job is not known
	result  json.RawMessage
	reason  string
	err     error
}

// await looks from outside of the caller's transaction, if the client is in one: it would wait for itself.
func (c *Client) await(ctx context.Context, id int64) (end, error) {
	if c.pool == nil {
		return end{}, errors.New("await: the client has no pool, and a job does not end while the transaction that added it is open: await it with a client made by New(pool, …)")
	}
	told, leave := c.waiters.join(id)
	defer leave()
	select {
	case e := <-told:
		switch {
		case e.err != nil:
			return e, fmt.Errorf("await job %d: %w", id, fault(e.err))
		case e.outcome == "":
			return e, fmt.Errorf("await: no job with this id is known; if it has ended already, its history is not kept "+
				"(keep \"none\", or it is older than retention): add it with keep \"all\" to await it later: job %d: %w", id, ErrNotFound)
		}
		return e, nil
	case <-ctx.Done():
		if err := c.waiters.trouble(); err != nil {
			return end{}, fmt.Errorf("await job %d: %w; the database could not be asked: %w", id, ctx.Err(), err)
		}
		return end{}, fmt.Errorf("await job %d: %w", id, ctx.Err())
	}
}
