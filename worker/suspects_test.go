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

// addSuspect adds one.
func (s *stage) addSuspect() (id int64) {
	s.t.Helper()
	tx, err := s.pool.Begin(s.ctx())
	if err != nil {
		s.t.Fatal(err)
	}
	defer tx.Rollback(s.ctx())
	if id, err = s.client.With(tx).Add(s.ctx(), "suspect", nil); err == nil {
		if _, err = tx.Exec(s.ctx(), "update offstage_private.job set crashes = 2 where id = $1", id); err == nil {
			err = tx.Commit(s.ctx())
		}
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return id
}

// What cannot be marked does not start, can be cancelled, and starts when it can be marked.
func TestSuspectNotMarked(t *testing.T) {
	s := newStage(t)
	mark := one[string](s, "select pg_get_functiondef('offstage.start_suspect'::regproc)")
	s.exec("create sequence public.tries")
	s.exec(`create or replace function offstage.start_suspect(worker_id integer, claim bigint, job_id bigint) returns boolean language plpgsql
		as $$ begin perform nextval('public.tries'); raise 'not now'; end $$`)
	tried := func(more int64) {
		t.Helper()
		before := one[int64](s, "select last_value from public.tries")
		s.eventually(func() bool { return one[int64](s, "select last_value from public.tries") >= before+more }, "nobody tries to mark it")
	}
	started, finish := make(chan int64, 10), make(chan none)
	close(finish)
	w := s.worker(worker.Config{Jobs: 1})
	s.hold(w, started, finish)
	s.run(w)
	id := s.addSuspect()
	tried(2)
	if _, _, err := s.client.Cancel(s.ctx(), "not needed", id); err != nil {
		t.Fatal(err)
	}
	if st := s.outcome(id); st.Outcome != offstage.OutcomeCancelled || st.Error != "not needed" {
		t.Errorf("it ended as %+v", st)
	}
	if got := s.history(id); !slices.Equal(got, []string{"cancelled"}) {
		t.Errorf("its history is %v", got)
	}
	other := s.addSuspect()
	tried(2)
	if len(started) > 0 {
		t.Errorf("job %d has started", <-started)
	}
	s.exec(mark)
	if st := s.outcome(other); st.Outcome != offstage.OutcomeSucceeded || <-started != other {
		t.Errorf("the other one ended as %+v", st)
	}
}

// A worker that is declared dead while they wait lets go of them; they run again when their turn comes.
func TestSuspectsOfTheDead(t *testing.T) {
	s := newStage(t)
	started, finish := make(chan int64, 10), make(chan none)
	w := s.worker(worker.Config{Jobs: 2})
	s.hold(w, started, finish)
	s.run(w)
	both := []int64{s.addSuspect(), s.addSuspect()}
	first := <-started
	for _, id := range both {
		s.claimed(id)
	}
	s.exec("select offstage.force_unlock_workers(array(select distinct locked_by from offstage.jobs))")
	close(finish)
	for _, id := range both {
		if st := s.outcome(id); st.Outcome != offstage.OutcomeSucceeded {
			t.Errorf("job %d ended as %+v", id, st)
		}
		if got := s.history(id); count(got, "succeeded") != 1 || count(got, "rescued") != 1 {
			t.Errorf("history of job %d is %v", id, got)
		}
	}
	ran := map[int64]int{first: 1}
	for len(started) > 0 {
		ran[<-started]++
	}
	if ran[first] != 2 || ran[both[0]+both[1]-first] != 1 {
		t.Errorf("they have run %v times", ran)
	}
}

func count(all []string, one string) (n int) {
	for _, text := range all {
		if text == one {
			n++
		}
	}
	return n
}
