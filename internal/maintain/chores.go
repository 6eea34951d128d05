// Package maintain runs the chores that every worker shares: promote, ticks, rescue, tidy. Whoever gets a chore's advisory lock
// does it, the others pass; there is no leader. Losing a worker loses no chore.
package maintain

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/offstage-dev/offstage/internal/store"
	"github.com/offstage-dev/offstage/internal/wake"
)

const (
	promoteAtLeast = 2 * time.Second // add_job wakes workers for what is due within three
	promoteBatch   = 1000
	tidyEvery      = time.Minute
	settleDown     = 5 * time.Millisecond // kicks come one a job where many are added that are due soon
)

// Chores are one worker's.
type Chores struct {
	Store   *store.Store
	Connect func(context.Context) (*pgx.Conn, error)
	Worker  int32
	// Period is the heartbeat's: rescue is tried as often.
	Period func() time.Duration
	// Kick makes promote look now: something may have been scheduled that is due sooner than what was known.
	Kick <-chan struct{}
	// Ticker ticks schedules; nil: none are.
	Ticker *Ticker
	// Promoted is called when there are new tickets. It must not block.
	Promoted func()
	Log      *slog.Logger
}

// Run does chores until ctx ends. Errors are logged, and the connection is made again.
func (c *Chores) Run(ctx context.Context) error {
	failures := 0
	for ctx.Err() == nil {
		err := c.session(ctx, &failures)
		if ctx.Err() != nil {
			break
		}
		failures++
		c.Log.Warn("chores: will try again", "error", err, "failures", failures)
		select {
		case <-ctx.Done():
		case <-time.After(wake.Backoff(failures)):
		}
	}
	return nil
}

func (c *Chores) session(ctx context.Context, failures *int) error {
	conn, err := c.Connect(ctx)
	if err != nil {
		return err
	}
	defer wake.Close(conn)
	rescueAt := time.Now().Add(jitter(c.Period()))
	tidyAt := time.Now().Add(rand.N(5 * time.Second))
	for {
		wait, err := c.promote(ctx, conn)
		if err != nil {
			return err
		}
		tick := wait
		if c.Ticker != nil {
			if tick, err = c.Ticker.turn(ctx, conn, c.Store); err != nil {
				return err
			}
		}
		*failures = 0
		if time.Now().After(rescueAt) {
			n, err := c.Store.Rescue(ctx, conn, c.Worker)
			if err != nil {
				return err
			}
			if n > 0 {
				c.Log.Warn("rescued jobs of dead workers", "jobs", n)
				c.Promoted()
			}
			rescueAt = time.Now().Add(jitter(c.Period()))
		}
		if time.Now().After(tidyAt) {
			if err := c.Store.Tidy(ctx, conn); err != nil {
				return err
			}
			tidyAt = time.Now().Add(jitter(tidyEvery))
		}
		timer := time.NewTimer(max(min(wait, tick, time.Until(rescueAt), time.Until(tidyAt)), 0))
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-c.Kick:
			timer.Reset(settleDown)
			select {
			case <-ctx.Done():
				timer.Stop()
				return nil
			case <-timer.C:
			}
		case <-timer.C:
		}
	}
}

// promote promotes all that is due and answers how long to wait.
func (c *Chores) promote(ctx context.Context, conn *pgx.Conn) (time.Duration, error) {
	for {
		n, next, busy, err := c.Store.Promote(ctx, conn, promoteBatch)
		if err != nil {
			return 0, err
		}
		if n > 0 {
			c.Promoted()
		}
		switch {
		case busy:
			return 5 * time.Millisecond, nil // the other one may be stopped before it comes to what we were kicked for
		case n == promoteBatch:
			continue
		case next == 0:
			return jitter(promoteAtLeast), nil
		}
		return min(next, jitter(promoteAtLeast)), nil
	}
}

// jitter is 80 to 100 % of d.
func jitter(d time.Duration) time.Duration { return d - rand.N(d/5+1) }
