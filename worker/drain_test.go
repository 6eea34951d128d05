package worker_test

import (
	"context"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/worker"
)

// hands is a worker whose task "held" runs until it is let go, and whose task "burst" is over at once.
type hands struct {
	*stage
	w       *worker.Worker
	done    chan error
	started chan int64
	letGo   chan none
	ran     atomic.Int32
}

func newHands(t *testing.T, cfg worker.Config) *hands {
	h := &hands{stage: newStage(t), done: make(chan error, 1), started: make(chan int64, 10), letGo: make(chan none)}
	h.w = h.worker(cfg)
	worker.Handle(h.w, "held", func(ctx context.Context, job *worker.Job[none]) (none, error) {
		h.started <- job.ID
		select {
		case <-h.letGo:
			return none{}, nil
		case <-ctx.Done():
			return none{}, ctx.Err()
		}
	})
	worker.Handle(h.w, "burst", func(context.Context, *worker.Job[none]) (none, error) {
		h.ran.Add(1)
		return none{}, nil
	})
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan none)
	go func() {
		defer close(over)
		h.done <- h.w.Run(ctx)
	}()
	t.Cleanup(func() { cancel(); <-over })
	return h
}

func (h *hands) id() int32 {
	h.t.Helper()
	h.eventually(func() bool { return h.w.Status().Worker != 0 }, "the worker has not started")
	return h.w.Status().Worker
}

func (h *hands) tell(sql string) {
	h.t.Helper()
	if !one[bool](h.stage, sql, h.id()) {
		h.t.Fatalf("%s: no such worker", sql)
	}
}

func (h *hands) state(want string) {
	h.t.Helper()
	h.eventually(func() bool {
		return one[string](h.stage, "select state from offstage.workers where worker_id = $1", h.id()) == want
	}, "the worker is not %s", want)
}

func (h *hands) ends() {
	h.t.Helper()
	select {
	case err := <-h.done:
		h.done <- err
		if err != nil {
			h.t.Errorf("run: %v", err)
		}
	case <-time.After(30 * time.Second):
		h.t.Fatal("the worker does not end")
	}
}

// Drained while one job runs and thousands are fetched ahead: that one finishes, those go back unspent, and none starts; resumed, all run.
func TestDrain(t *testing.T) {
	h := newHands(t, worker.Config{Jobs: 2, PollInterval: time.Hour})
	held := h.add("held", nil)
	<-h.started
	const n = 20000
	h.burst(n)
	h.eventually(func() bool { return h.ran.Load() > 1000 }, "nothing runs")
	h.tell("select offstage.drain_worker($1)")
	h.state("draining")
	// Whoever reads "draining" knows that what is not running has been given back, or will be in the next turn.
	h.eventually(func() bool { return one[int](h.stage, "select running from offstage.workers") == 1 }, "jobs that do not run are not given back")
	ran := int(h.ran.Load())
	succeeded := one[int](h.stage, "select count(distinct job_id) from offstage_private.history where outcome = 'succeeded'")
	waiting := one[int](h.stage, "select count(*) from offstage.jobs where state = 'waiting' and attempts = 0")
	if ran == n || succeeded != ran || waiting != n-ran {
		t.Errorf("%d jobs ran, %d are recorded, %d of %d wait", ran, succeeded, waiting, n-ran)
	}
	if st := h.w.Status(); st.State != worker.Draining || st.Busy != 1 || st.Ready != 0 {
		t.Errorf("the worker says %+v", st)
	}
	late := h.add("burst", nil)
	close(h.letGo)
	if st := h.outcome(held); st.Outcome != offstage.OutcomeSucceeded {
		t.Errorf("the job that ran %s", st.Outcome)
	}
	// Nobody sleeps any more, so that adders need not notify.
	h.eventually(func() bool {
		return one[int](h.stage, "select count(*) from pg_locks where locktype = 'advisory' and mode = 'ShareLock' and objid::bigint < 2147483648 and database = (select oid from pg_database where datname = current_database())") == 0
	}, "the sleep locks are still taken")
	// Two heartbeats later it is still there, and has taken nothing.
	beat := h.w.Status().LastBeat
	h.eventually(func() bool { return h.w.Status().LastBeat.Sub(beat) > 1500*time.Millisecond }, "it does not beat")
	if now := int(h.ran.Load()); now != ran {
		t.Errorf("%d jobs were started while it was drained", now-ran)
	}
	if st, err := h.client.Status(h.ctx(), late); err != nil || st.State != offstage.Waiting {
		t.Errorf("the job that came later is %+v, %v", st, err)
	}
	h.tell("select offstage.undrain_worker($1)")
	h.eventually(func() bool { return int(h.ran.Load()) == n+1 }, "it does not go on")
	h.state("alive")
	h.eventually(func() bool { return one[int](h.stage, "select count(*) from offstage.jobs") == 0 }, "jobs are left")
	if twice := one[int](h.stage, "select count(*) from (select from offstage_private.history where outcome = 'succeeded' group by job_id having count(*) > 1) x"); twice != 0 {
		t.Errorf("%d jobs ran twice", twice)
	}
	h.empty()
	// Idle again, it is woken by an add.
	h.add("burst", nil)
	h.eventually(func() bool { return int(h.ran.Load()) == n+2 }, "it is not woken")
}

// Stopped from outside, it ends as by a signal: what runs may finish, Run answers nil, and the worker has signed off.
func TestStopFromOutside(t *testing.T) {
	h := newHands(t, worker.Config{})
	held := h.add("held", nil)
	<-h.started
	h.tell("select offstage.drain_worker($1, stop => true)")
	h.state("draining")
	late := h.add("burst", nil)
	if st := h.w.Status(); st.State != worker.Stopping {
		t.Errorf("the worker says %+v", st)
	}
	close(h.letGo)
	h.ends()
	if st := h.outcome(held); st.Outcome != offstage.OutcomeSucceeded {
		t.Errorf("the job that ran %s", st.Outcome)
	}
	if st, err := h.client.Status(h.ctx(), late); err != nil || st.State != offstage.Waiting || st.Attempt != 0 {
		t.Errorf("the job that came later is %+v, %v", st, err)
	}
	if left := one[int](h.stage, "select count(*) from offstage_private.lease") + one[int](h.stage, "select count(*) from offstage_private.worker"); left != 0 {
		t.Errorf("%d leases and workers are left", left)
	}
}

// After the grace period what still runs is cancelled and released. It was drained before.
func TestStopFromOutsideReleases(t *testing.T) {
	h := newHands(t, worker.Config{StopGrace: 50 * time.Millisecond})
	held := h.add("held", nil)
	<-h.started
	h.tell("select offstage.drain_worker($1)")
	h.state("draining")
	h.tell("select offstage.drain_worker($1, true)")
	h.ends()
	if got := h.history(held); !slices.Equal(got, []string{"released"}) {
		t.Errorf("history of the job is %v", got)
	}
}

// A drained worker that was declared dead begins anew under another id, and stays drained. One that was told to stop ends.
func TestDrainSurvivesDeath(t *testing.T) {
	h := newHands(t, worker.Config{})
	first := h.id()
	h.tell("select offstage.drain_worker($1)")
	h.state("draining")
	h.exec("select offstage.force_unlock_workers(array['worker-' || $1::integer])", first)
	h.eventually(func() bool { id := h.w.Status().Worker; return id != 0 && id != first }, "it does not begin anew")
	h.state("draining")
	id := h.add("burst", nil)
	if st := h.w.Status(); st.State != worker.Draining || h.ran.Load() != 0 {
		t.Errorf("the worker says %+v", st)
	}
	h.tell("select offstage.undrain_worker($1)")
	if st := h.outcome(id); st.Outcome != offstage.OutcomeSucceeded {
		t.Errorf("the job %s", st.Outcome)
	}

	second := h.add("held", nil)
	<-h.started
	last := h.id()
	h.tell("select offstage.drain_worker($1, true)")
	h.state("draining")
	h.exec("select offstage.force_unlock_workers(array['worker-' || $1::integer])", last)
	h.ends()
	if got := h.history(second); len(got) == 0 || got[0] != "rescued" {
		t.Errorf("history of the job is %v", got)
	}
}
