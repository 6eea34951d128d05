package worker

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/offstage-dev/offstage"
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

// Whose turn it is may be given back before it has found a slot: then the next one has it, when that is settled. As many as there are slots wait without one, more take them.
func TestTurnOfSuspects(t *testing.T) {
	t.Parallel()
	const slots = 3
	s := &session{cfg: Config{Jobs: slots}, ready: make(chan *attempt, slots)}
	w := &s.turns
	w.init(s)
	suspects := make([]*attempt, 7)
	for i := range suspects {
		suspects[i] = &attempt{s: s, job: &offstage.Job{ID: int64(i)}, crashes: 2, arrival: &arrival{over: closed}, took: time.Minute}
	}
	settle := func() {
		t.Helper()
		batch := w.queue
		w.queue = nil
		w.claimed += len(batch)
		w.settled(&plan{batch: batch}, nil)
	}
	free := func(want int) {
		t.Helper()
		if got := w.want(); got != want {
			t.Errorf("there is room for %d jobs, expected %d", got, want)
		}
	}
	for range 2 {
		if !s.admits(suspects[0]) {
			t.Fatal("the first one may not run")
		}
	}
	w.running.Add(1)
	for i, a := range suspects[1:6] {
		if s.admits(a) {
			t.Fatalf("suspect %d may run beside the first", a.job.ID)
		}
		free(max(slots-1-max(i+1-slots, 0), 0))
	}
	if !s.admits(&attempt{s: s, crashes: 1}) {
		t.Error("a job that was there when one worker died may not run")
	}

	w.ended(suspects[0])
	if s.admits(suspects[6]) {
		t.Error("one runs before the first is settled")
	}
	settle()
	if len(s.ready) != 1 {
		t.Fatal("it is nobody's turn")
	}
	if a := <-s.ready; a != suspects[1] || !s.admits(a) {
		t.Fatalf("it is the turn of %d", a.job.ID)
	}
	w.running.Add(1)
	w.ended(suspects[1])
	settle() // and suspect 2 is ready
	w.release()
	if n := len(w.queue); n != 5 {
		t.Errorf("%d are given back, expected 5", n)
	}
	if again := (&attempt{s: s, crashes: 2}); s.admits(again) {
		t.Error("another one may run before they are settled")
	}
	settle()
	if len(s.ready) != 1 || w.suspects.waiting.Load() != 0 {
		t.Errorf("%d are ready and %d wait, expected 1 and none", len(s.ready), w.suspects.waiting.Load())
	}
	free(slots - 1)
}
