package worker

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/offstage-dev/offstage/internal/store"
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

// Where the next look begins. Until those who add have committed, jobs come in front of those that became due later.
func TestMarks(t *testing.T) {
	t.Parallel()
	const ms = time.Millisecond
	s := &session{cfg: Config{Jobs: 10, PollInterval: time.Hour}, ready: make(chan *attempt, 10)}
	w := &s.turns
	w.init(s)
	start := time.Now()
	s.clock.Store(&clock{start, start.Add(time.Hour)}) // the database's is fast
	due := func(after time.Duration) time.Time { return start.Add(time.Hour + after) }
	look := func(at time.Duration, full bool, look store.Look) {
		t.Helper()
		now := start.Add(at)
		w.looked(&plan{claim: &store.Claim{}, want: 10, full: full, began: now, landedAt: now}, &look, now)
	}
	starts := func(at time.Duration, want ...int64) { // for jobs of the priorities 0, 1, ...
		t.Helper()
		w.full, w.fullAt = false, start.Add(at)
		p := w.plan(start.Add(at), false, true, 0, nil)
		got := map[int16]int64{}
		for _, m := range p.claim.Marks {
			got[m.Priority] = m.JobID
		}
		for i, id := range want {
			if got[int16(i)] != id {
				t.Errorf("after %v it begins behind job %d of priority %d, not %d", at, got[int16(i)], i, id)
			}
		}
	}
	job := func(priority int16, id int64, after time.Duration) store.Claimed {
		return store.Claimed{Lane: 1, Priority: priority, JobID: id, RunAt: due(after)}
	}
	look(0, true, store.Look{Jobs: []store.Claimed{job(0, 1, -100*ms), job(0, 2, -50*ms), job(1, 3, -ms)}})
	starts(0, 2, 0)
	look(10*ms, false, store.Look{Jobs: []store.Claimed{job(1, 5, 9*ms)}})
	look(18*ms, false, store.Look{})
	starts(18*ms, 2, 0)
	look(20*ms, false, store.Look{Jobs: []store.Claimed{job(1, 6, 15*ms)}})
	starts(20*ms, 2, 3)
	look(40*ms, false, store.Look{})
	starts(40*ms, 2, 6)
	look(41*ms, false, store.Look{Jobs: []store.Claimed{job(0, 8, 0), job(1, 9, 40*ms)}, Rests: []store.Mark{{Lane: 1, RunAt: due(0), JobID: 8}, {Lane: 1, Priority: 1, RunAt: due(39 * ms), JobID: 7}}})
	starts(41*ms, 7, 6)
	look(70*ms, false, store.Look{})
	starts(70*ms, 7, 6) // there is more of what begins with job 7
	if p := w.plan(start.Add(70*ms), false, true, 1, nil); !p.full || p.claim.Marks != nil {
		t.Errorf("who falls asleep begins behind %v", p.claim.Marks)
	}
	look(71*ms, true, store.Look{Jobs: make([]store.Claimed, 10)})
	starts(71*ms, 0, 0) // there may be more between those
}
