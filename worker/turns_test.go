package worker

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// How soon a worker may look at everything again. What it waits, a job that comes in front of its marks waits, too.
func TestFullDue(t *testing.T) {
	t.Parallel()
	const ms = time.Millisecond
	for _, c := range []struct {
		name              string
		look, first, last time.Duration // what other looks take, and the last two at everything
		want              time.Duration
	}{
		{"quick", ms, 2 * ms, 2 * ms, 0},
		{"held up once", ms, 2 * ms, 1000 * ms, 0},
		{"held up before", ms, 1000 * ms, 2 * ms, 0},
		{"far from the server", 100 * ms, 101 * ms, 101 * ms, 0},
		{"much to look at", ms, 46 * ms, 26 * ms, 400 * ms},
		{"far more", ms, 1000 * ms, 1000 * ms, 2000 * ms},
	} {
		w := turns{s: &session{cfg: Config{PollInterval: 2000 * ms}}}
		now := time.Now()
		cost := func(took time.Duration, full bool) { w.costs(&plan{full: full, began: now, landedAt: now.Add(took)}) }
		for range 200 {
			cost(c.look, false)
		}
		cost(c.first, true)
		cost(c.last, true)
		if got := w.fullDue().Sub(w.fullAt); (got - c.want).Abs() > ms {
			t.Errorf("%s: after %v, not %v", c.name, got, c.want)
		}
	}
}

// While no heartbeat lands, a worker first stops claiming, and goes on when one has.
func TestQuietWorkerClaimsNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &session{cfg: Config{Jobs: 1}, ready: make(chan *attempt, 1)}
		s.turns.init(s)
		s.period.Store(int64(time.Second))
		beat := func() {
			now := time.Now()
			s.lastBeat.Store(&now)
		}
		beat()
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		go s.watchdog(ctx)
		want := func(n int) {
			t.Helper()
			synctest.Wait()
			s.mu.Lock()
			defer s.mu.Unlock()
			if got := s.turns.want(); got != n {
				t.Errorf("it wants %d jobs, expected %d", got, n)
			}
		}
		time.Sleep(2900 * time.Millisecond)
		want(1)
		time.Sleep(400 * time.Millisecond)
		want(0)
		beat()
		time.Sleep(200 * time.Millisecond)
		want(1)
	})
}
