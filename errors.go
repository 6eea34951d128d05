package offstage

import (
	"errors"
	"fmt"
	"time"
)

// Sentinels that callers compare with errors.Is.
var (
	// ErrNotFound: no job of that id is known, neither live nor in history.
	ErrNotFound = errors.New("job not found")
	// ErrNoSchedule: no schedule of that name is known.
	ErrNoSchedule = errors.New("schedule not found")
	// ErrLost: the claim is gone (the job was rescued, released or its worker was declared dead); nothing was written.
	ErrLost = errors.New("claim lost")
	// ErrNotInstalled: the database holds no Offstage schema of that name.
	ErrNotInstalled = errors.New("schema not installed")
	// ErrCancelled is the cause of an attempt's context when somebody cancelled the job.
	ErrCancelled = errors.New("job cancelled")
	// ErrTimeout is the cause of an attempt's context when the attempt ran longer than its timeout.
	ErrTimeout = errors.New("attempt timed out")
	// ErrStopping is the cause of an attempt's context when its worker stops and the grace period is over.
	ErrStopping = errors.New("worker is stopping")
)

// Control is an error by which a handler says how its attempt is to be settled. It is made by Cancel, Fail,
// Snooze and RetryIn; handlers may wrap it, errors.As finds it.
type Control struct {
	// Verb is "cancel", "fail", "snooze" or "retry"; from runners also "release" or "crash".
	Verb string
	// Delay is how long to wait, for snooze and retry, and for release.
	Delay time.Duration
	// Err is the reason; nil for snooze.
	Err error
}

func (c *Control) Error() string {
	if c.Err == nil {
		return fmt.Sprintf("%s in %s", c.Verb, c.Delay)
	}
	return c.Err.Error()
}

func (c *Control) Unwrap() error { return c.Err }

// Cancel ends the job with outcome cancelled; it is not tried again.
func Cancel(err error) error {
	return &Control{Verb: "cancel", Err: reason(err, "cancelled by its handler")}
}

// Fail ends the job with outcome failed, whatever attempts are left. A failed job can be retried by hand.
func Fail(err error) error { return &Control{Verb: "fail", Err: reason(err, "failed by its handler")} }

// Snooze puts the job off by d without spending an attempt.
func Snooze(d time.Duration) error { return &Control{Verb: "snooze", Delay: max(d, 0)} }

// RetryIn fails the attempt and tries again after d, instead of the delay of the task's retry policy.
func RetryIn(d time.Duration, err error) error {
	return &Control{Verb: "retry", Delay: max(d, 0), Err: reason(err, "retry asked for by its handler")}
}

func reason(err error, otherwise string) error {
	if err == nil {
		return errors.New(otherwise)
	}
	return err
}
