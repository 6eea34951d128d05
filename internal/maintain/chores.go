// Package maintain runs the chores that every worker shares. Whoever gets a chore's advisory lock does it, the others pass;
// there is no leader. Losing a worker loses no chore.
package maintain

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/offstage-dev/offstage/internal/store"
	"github.com/offstage-dev/offstage/internal/wake"
)

const (
	promoteAtLeast = 2 * time.Second // add_job wakes workers for what is due within three
	promoteBatch   = 1000
	promoteHeld    = 20 * time.Millisecond // what is due is held by a caller's transaction
	promoteMany    = 2                     // jobs that came due at once: there are more, as those that failed together. Then
	promoteShare   = 20                    // it takes at most one part in so many of the time,
	promoteRest    = 50 * time.Millisecond // and comes back after this at the latest. Looks at all that is scheduled take that share, too,
	promoteAll     = 10 * time.Second      // and come back after this at the latest; in between it looks at what came due since the last look,
	promoteLate    = time.Second           // or this much before it
	rollUpEvery    = 5 * time.Second
	rollUpBatch    = 10000
	tidyEvery      = time.Minute
	indexesEvery   = 10 * time.Minute
	settleDown     = 5 * time.Millisecond // kicks come one a job where many are added that are due soon
)

// Chores are one worker's.
type Chores struct {
	Store   *store.Store
	Connect func(context.Context) (*pgx.Conn, error)
	Worker  int32
	// Period is the heartbeat's: rescue is tried as often.
	Period func() time.Duration
	// Kick makes promote and ticks look now: something may have been scheduled that is due sooner than what was known.
	Kick <-chan struct{}
	// Ticker ticks schedules; nil: none are.
	Ticker *Ticker
	// Promoted is called when there are new tickets. It must not block.
	Promoted func()
	// Failed is called with what the database did not do. It must not block. nil: nobody is told.
	Failed func(error)
	Log    *slog.Logger

	rested  time.Time        // when promote is due again after it has promoted many
	looked  time.Time        // when it last looked at what is scheduled,
	allAt   time.Time        // and at all of it,
	allCost [2]time.Duration // how long the last two such looks took, of which one may have been held up,
	held    bool             // and whether something is left that is due
}

func (c *Chores) failed(err error) {
	if c.Failed != nil {
		c.Failed(err)
	}
}

// chore is one of them: what is done, how often, and what for. do may say when it wants to come again, zero: after the period.
type chore struct {
	name   string
	period func() time.Duration
	do     func(ctx context.Context, conn *pgx.Conn, as store.Chore) (again time.Duration, err error)

	kicked   bool      // due at once after a kick
	at       time.Time // when it is due
	failures int       // in a row
}

// quick are the chores that take milliseconds.
func (c *Chores) quick() []*chore {
	quick := []*chore{
		{name: "promote", period: every(promoteAtLeast), do: c.promote, kicked: true},
		{name: "rescue", period: c.Period, do: c.rescue, at: time.Now().Add(jitter(c.Period()))},
		{name: "statistics", period: every(rollUpEvery), do: c.rollUp, at: time.Now().Add(rand.N(rollUpEvery))},
		{name: "tidy", period: every(tidyEvery), do: c.tidy, at: time.Now().Add(rand.N(5 * time.Second))},
	}
	if c.Ticker != nil {
		quick = append(quick, &chore{name: "ticks", period: every(lookAtLeast), do: c.ticks, kicked: true})
	}
	return quick
}

// slow are those that may take minutes, and so have a connection of their own while they are at it.
func (c *Chores) slow() []*chore {
	return []*chore{
		{name: "indexes", period: every(indexesEvery), do: c.indexes, at: time.Now().Add(rand.N(indexesEvery))},
	}
}

func every(d time.Duration) func() time.Duration { return func() time.Duration { return d } }

// Run does chores until ctx ends. Errors are logged, and noted for doctor; a chore that fails does not keep the others from
// being done. A lost connection is made again.
func (c *Chores) Run(ctx context.Context) error {
	var both errgroup.Group
	both.Go(func() error { c.loop(ctx, c.quick(), c.Kick, true); return nil })
	both.Go(func() error { c.loop(ctx, c.slow(), nil, false); return nil })
	return both.Wait()
}

// loop does these chores as they become due; a kick makes some of them so. The connection is kept in between, or not.
func (c *Chores) loop(ctx context.Context, chores []*chore, kick <-chan struct{}, keep bool) {
	var conn *pgx.Conn
	drop := func() {
		if conn != nil {
			wake.Close(conn)
			conn = nil
		}
	}
	defer drop()
	for lost := 0; ctx.Err() == nil; {
		for _, x := range chores {
			if time.Now().Before(x.at) {
				continue
			}
			var err error
			if conn == nil {
				conn, err = c.Connect(ctx)
			}
			if err == nil {
				err = c.do(ctx, conn, x)
			}
			if conn == nil || conn.IsClosed() {
				if ctx.Err() != nil {
					return
				}
				drop()
				lost++
				c.Log.Warn("chores: the connection was lost, will try again", "error", err, "failures", lost)
				c.failed(err)
				select {
				case <-ctx.Done():
				case <-time.After(wake.Backoff(lost)):
				}
				break
			}
			lost = 0
		}
		if !keep {
			drop()
		}
		wait(ctx, chores, kick)
	}
}

// do does one chore, and says when it is due again. An error that leaves the connection open is the chore's own.
func (c *Chores) do(ctx context.Context, conn *pgx.Conn, x *chore) error {
	as := store.Chore{Name: x.name, Worker: c.Worker, Period: x.period()}
	again, err := x.do(ctx, conn, as)
	if again == 0 {
		again = jitter(as.Period)
	}
	switch {
	case err == nil:
		x.failures = 0
	case conn.IsClosed() || ctx.Err() != nil:
		return err
	default:
		x.failures++
		again = max(wake.Backoff(x.failures), again)
		c.Log.Warn("a chore failed, will try again", "chore", x.name, "error", err, "failures", x.failures)
		c.failed(err)
		if err := c.Store.Failed(ctx, conn, as, err); err != nil && ctx.Err() == nil {
			c.Log.Warn("could not note that a chore failed", "chore", x.name, "error", err)
		}
	}
	x.at = time.Now().Add(again)
	return err
}

// wait waits until a chore is due.
func wait(ctx context.Context, chores []*chore, kick <-chan struct{}) {
	due := chores[0].at
	for _, x := range chores {
		if x.at.Before(due) {
			due = x.at
		}
	}
	timer := time.NewTimer(max(time.Until(due), 0))
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	case <-kick:
		timer.Reset(settleDown)
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		for _, x := range chores {
			if x.kicked && x.failures == 0 {
				x.at = time.Time{}
			}
		}
	}
}

// promote promotes all that is due and answers how long to wait.
func (c *Chores) promote(ctx context.Context, conn *pgx.Conn, as store.Chore) (time.Duration, error) {
	began := time.Now()
	if rest := c.rested.Sub(began); rest > 0 {
		return rest, nil
	}
	for {
		asked := time.Now()
		all := c.allDue(asked)
		var recent time.Duration
		if all > 0 {
			recent = asked.Sub(c.looked) + promoteLate
		}
		n, next, busy, err := c.Store.Promote(ctx, conn, as, promoteBatch, recent)
		if err != nil {
			return 0, err
		}
		if n > 0 {
			c.Promoted()
		}
		if busy {
			return 5 * time.Millisecond, nil // the other one may be stopped before it comes to what we were kicked for
		}
		held := next > 0 && next <= time.Microsecond
		if all <= 0 {
			c.lookedAtAll(asked, n)
			c.held = held
		}
		if n == promoteBatch {
			continue
		}
		c.looked = asked
		c.held = c.held || held
		if n == 0 && held {
			return promoteHeld, nil
		}
		if n >= promoteMany && next > 0 {
			now := time.Now()
			c.rested = now.Add(min((promoteShare-1)*now.Sub(began), promoteRest))
		}
		wait := jitter(as.Period)
		if next > 0 {
			wait = min(next, wait)
		}
		if c.held && all > 0 {
			wait = min(all, wait)
		}
		return wait, nil
	}
}

// allDue is how long it is until all that is scheduled is to be looked at again.
func (c *Chores) allDue(now time.Time) time.Duration {
	return min((promoteShare-1)*min(c.allCost[0], c.allCost[1]), promoteAll) - now.Sub(c.allAt)
}

// lookedAtAll notes such a look, which has promoted n. Where there is more, the next one is due.
func (c *Chores) lookedAtAll(asked time.Time, n int) {
	c.allAt = time.Now()
	c.allCost = [2]time.Duration{c.allCost[1], c.allAt.Sub(asked)}
	if n == promoteBatch {
		c.allCost = [2]time.Duration{}
	}
}

func (c *Chores) ticks(ctx context.Context, conn *pgx.Conn, as store.Chore) (time.Duration, error) {
	return c.Ticker.turn(ctx, conn, c.Store, as)
}

func (c *Chores) rescue(ctx context.Context, conn *pgx.Conn, as store.Chore) (time.Duration, error) {
	n, err := c.Store.Rescue(ctx, conn, as)
	if n > 0 {
		c.Log.Warn("rescued jobs of dead workers", "jobs", n)
		c.Promoted()
	}
	return 0, err
}

func (c *Chores) rollUp(ctx context.Context, conn *pgx.Conn, as store.Chore) (time.Duration, error) {
	n, err := c.Store.RollUp(ctx, conn, as, rollUpBatch)
	if n == rollUpBatch {
		return time.Millisecond, err // the other chores come in between
	}
	return 0, err
}

func (c *Chores) tidy(ctx context.Context, conn *pgx.Conn, as store.Chore) (time.Duration, error) {
	return 0, c.Store.Tidy(ctx, conn, as)
}

// jitter is 80 to 100 % of d.
func jitter(d time.Duration) time.Duration { return d - rand.N(d/5+1) }
