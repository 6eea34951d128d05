package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/offstage-dev/offstage"
)

var errNoAttempt = errors.New("the context is not that of an attempt")

// Progress says how far the attempt of ctx is, from 0 to 100 percent, with a message for people. It returns at once; the
// latest is stored within half a second. When ctx has ended it returns the cause. ErrLost: the claim is gone, stop.
func Progress(ctx context.Context, percent float32, message string) error {
	tell, ok := ctx.Value(progressKey{}).(func(float32, string))
	if a, is := ctx.Value(attemptKey{}).(*attempt); !ok && is {
		tell, ok = a.progress, true
	}
	if !ok {
		return fmt.Errorf("progress: %w", errNoAttempt)
	}
	if !(percent >= 0 && percent <= 100) { // nor NaN
		return fmt.Errorf("progress: %v percent; use 0 to 100", percent)
	}
	if ctx.Err() != nil {
		return fmt.Errorf("progress: %w", context.Cause(ctx))
	}
	tell(percent, message)
	return nil
}

type progressKey struct{}

// WithProgress gives ctx what Progress calls; for tests of runners.
func WithProgress(ctx context.Context, tell func(percent float32, message string)) context.Context {
	return context.WithValue(ctx, progressKey{}, tell)
}

// Complete ends the job of ctx as succeeded inside tx: what the handler has written in tx and the job's end become true
// together, or not at all. Then commit, and return nil. ErrLost: the claim is gone; roll back and return.
// The result is stored instead of what the handler returns. One that is larger than MaxResult is refused with an error that,
// returned by the handler, fails the job for good.
func Complete(ctx context.Context, tx pgx.Tx, result any) error {
	a, ok := ctx.Value(attemptKey{}).(*attempt)
	if !ok {
		return fmt.Errorf("complete: %w", errNoAttempt)
	}
	var text *string
	if result != nil {
		b, err := json.Marshal(result)
		if err != nil {
			return fmt.Errorf("complete: the result does not encode to JSON: %w", err)
		}
		if err := checkSize(b); err != nil {
			return fmt.Errorf("complete: %w", err)
		}
		s := string(b)
		text = &s
	}
	if err := a.confirmed(ctx); err != nil {
		return fmt.Errorf("complete: %w", err)
	}
	a.finishing.Store(true)
	held, err := a.s.store.Finish(ctx, tx, a.s.id, a.claim, a.job.ID, text)
	if err == nil && !held {
		err = offstage.ErrLost
	}
	if err != nil {
		return fmt.Errorf("complete: %w", err)
	}
	return nil
}
