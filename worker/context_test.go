package worker

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/offstage-dev/offstage"
)

// An attempt's context is made late, and behaves as one that was there from the beginning.
func TestAttemptContext(t *testing.T) {
	t.Parallel()
	type name struct{}
	base := context.WithoutCancel(context.WithValue(t.Context(), name{}, "of the base"))
	attempts := func() (*attempt, context.Context) {
		a := &attempt{s: &session{base: base}}
		return a, attemptContext{a}
	}
	stopping := offstage.ErrStopping

	a, ctx := attempts()
	if ctx.Value(name{}) != "of the base" || ctx.Value(attemptKey{}) != a || ctx.Err() != nil || context.Cause(ctx) != nil {
		t.Errorf("a new one: %v, %v", ctx.Err(), context.Cause(ctx))
	}

	a, ctx = attempts() // cancelled before anybody asks
	a.cancel(stopping)
	a.cancel(errors.New("later"))
	<-ctx.Done()
	if ctx.Err() != context.Canceled || context.Cause(ctx) != stopping {
		t.Errorf("cancelled: %v, %v", ctx.Err(), context.Cause(ctx))
	}
	late, stop := context.WithTimeout(ctx, time.Hour)
	defer stop()
	if late.Err() != context.Canceled || context.Cause(late) != stopping {
		t.Errorf("a child of a cancelled one: %v, %v", late.Err(), context.Cause(late))
	}

	a, ctx = attempts() // children that were there before
	child, stop := context.WithTimeoutCause(ctx, time.Hour, offstage.ErrTimeout)
	defer stop()
	after, never := make(chan error, 1), make(chan struct{})
	context.AfterFunc(child, func() { after <- context.Cause(child) })
	undone := context.AfterFunc(ctx, func() { close(never) })
	if !undone() {
		t.Error("AfterFunc could not be undone")
	}
	a.cancel(stopping)
	if err := <-after; err != stopping {
		t.Errorf("the child ended because of %v", err)
	}
	select {
	case <-never:
		t.Error("an AfterFunc that was undone was called")
	default:
	}

	a, ctx = attempts() // a deadline of the child's own leaves the parent as it is
	child, stop = context.WithTimeoutCause(ctx, time.Nanosecond, offstage.ErrTimeout)
	defer stop()
	<-child.Done()
	if context.Cause(child) != offstage.ErrTimeout || ctx.Err() != nil {
		t.Errorf("timeout: %v, of the parent %v", context.Cause(child), ctx.Err())
	}
	a.cancel(nil) // the attempt has ended
	if ctx.Err() != context.Canceled || context.Cause(ctx) != context.Canceled {
		t.Errorf("ended: %v, %v", ctx.Err(), context.Cause(ctx))
	}
}

// Who polls Err instead of waiting for Done finds the cause at once: it decides whether an attempt is spent.
func TestAttemptContextPolled(t *testing.T) {
	t.Parallel()
	for range 2000 {
		a := &attempt{s: &session{base: context.Background()}}
		ctx := attemptContext{a}
		done := ctx.Done()
		var g sync.WaitGroup
		g.Go(func() { a.cancel(offstage.ErrLost) })
		g.Go(func() { a.cancel(offstage.ErrLost) })
		for ctx.Err() == nil {
		}
		select {
		case <-done:
		default:
			t.Fatal("Err comes before Done")
		}
		if err := context.Cause(ctx); err != offstage.ErrLost {
			t.Fatalf("cause is %v", err)
		}
		g.Wait()
	}
}
