package worker_test

import (
	"context"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/worker"
)

// hold has w perform jobs of the task "suspect": each says that it has started, and waits.
func (s *stage) hold(w *worker.Worker, started chan<- int64, finish <-chan none) {
	worker.Handle(w, "suspect", func(_ context.Context, job *worker.Job[none]) (none, error) {
		started <- job.ID
		<-finish
		return none{}, nil
	})
}

// Jobs that were there when two workers died run one at a time, each marked. Those that wait take no slot, can be cancelled, and go back at once when the worker stops.
func TestSuspects(t *testing.T) {
	s := newStage(t)
	started, finish := make(chan int64, 10), make(chan none)
	w := s.worker(worker.Config{Jobs: 3})
	s.hold(w, started, finish)
	worker.Handle(w, "plain", func(context.Context, *worker.Job[none]) (none, error) { return none{}, nil })
	var ids []int64
	for range 4 {
		ids = append(ids, s.add("suspect", nil))
	}
	s.exec("update offstage_private.job set crashes = 2")
	stop := s.run(w)
	next := func() int64 { // two slots may ask for the first turn in any order
		t.Helper()
		id := <-started
		ids = slices.DeleteFunc(ids, func(other int64) bool { return other == id })
		marked := one[int64](s, `select l.job_ids[(w.suspect & 1023)::integer] from offstage_private.worker w join offstage_private.lease l on l.claim = w.suspect & -1024`)
		if marked != id {
			t.Errorf("job %d is marked while job %d runs", marked, id)
		}
		return id
	}

	first := next()
	for _, id := range ids {
		s.claimed(id)
	}
	s.eventually(func() bool { st := w.Status(); return st.Busy == 1 && st.Ready == 3 }, "not one runs and three wait")
	if st := s.outcome(s.add("plain", nil)); st.Outcome != offstage.OutcomeSucceeded {
		t.Errorf("the job beside them ended as %+v", st)
	}
	cancelled := ids[0]
	ids = ids[1:]
	if _, _, err := s.client.Cancel(s.ctx(), "not needed", cancelled); err != nil {
		t.Fatal(err)
	}
	if st := s.outcome(cancelled); st.Outcome != offstage.OutcomeCancelled || st.Error != "not needed" {
		t.Errorf("the cancelled one ended as %+v", st)
	}

	finish <- none{}
	second := next()
	ended := make(chan error)
	go func() { ended <- stop() }()
	s.eventually(func() bool {
		return one[bool](s, "select state = 'waiting' and attempts = 0 from offstage.jobs where id = $1", ids[0])
	}, "what waits for its turn does not go back")
	select {
	case err := <-ended:
		t.Errorf("the worker did not wait for what runs: %v", err)
	default:
	}
	finish <- none{}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	for id, want := range map[int64][]string{first: {"succeeded"}, second: {"succeeded"}, cancelled: {"cancelled"}, ids[0]: {"released"}} {
		if got := s.history(id); !slices.Equal(got, want) {
			t.Errorf("history of job %d is %v, expected %v", id, got, want)
		}
	}
	if len(started) > 0 {
		t.Errorf("job %d has started, too", <-started)
	}
}

// A drained worker gives back those that wait, and comes to them again.
func TestSuspectsDrained(t *testing.T) {
	s := newStage(t)
	started, finish := make(chan int64, 10), make(chan none)
	w := s.worker(worker.Config{Jobs: 2})
	s.hold(w, started, finish)
	both := s.add("suspect", nil) + s.add("suspect", nil)
	s.exec("update offstage_private.job set crashes = 2")
	s.run(w)
	first := <-started
	second := both - first
	s.claimed(second)
	s.exec("select offstage.drain_worker(id) from offstage_private.worker")
	s.eventually(func() bool { return one[bool](s, "select state = 'waiting' from offstage.jobs where id = $1", second) }, "a drained worker keeps what waits for its turn")
	finish <- none{}
	s.outcome(first)
	s.exec("select offstage.undrain_worker(id) from offstage_private.worker")
	if id := <-started; id != second {
		t.Errorf("job %d has started", id)
	}
	finish <- none{}
	if st := s.outcome(second); st.Outcome != offstage.OutcomeSucceeded {
		t.Errorf("it ended as %+v", st)
	}
}

// A worker that works until nothing is left works off the suspects, too. One whose handler ends its goroutine leaves the turn to the next.
func TestSuspectsOnce(t *testing.T) {
	s := newStage(t)
	var inside, ran atomic.Int32
	w := s.worker(worker.Config{Jobs: 3})
	worker.Handle(w, "suspect", func(_ context.Context, job *worker.Job[string]) (none, error) {
		if inside.Add(1) > 1 {
			t.Error("two of them run at the same time")
		}
		defer inside.Add(-1)
		ran.Add(1)
		if job.Payload == "leaves" {
			runtime.Goexit()
		}
		return none{}, nil
	})
	for i := range 20 {
		payload := "returns"
		if i%5 == 0 {
			payload = "leaves"
		}
		s.add("suspect", payload, offstage.Options{MaxAttempts: 1})
	}
	s.exec("update offstage_private.job set crashes = 2")
	if err := w.RunOnce(s.ctx()); err != nil {
		t.Fatal(err)
	}
	if n := ran.Load(); n != 20 {
		t.Errorf("%d of 20 have run", n)
	}
	if n := one[int](s, "select count(*) from offstage_private.history where outcome = 'succeeded'"); n != 16 {
		t.Errorf("%d have succeeded, expected 16", n)
	}
}
