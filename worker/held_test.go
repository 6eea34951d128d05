package worker_test

import (
	"context"
	"flag"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/worker"
)

var heldFor = flag.Int("held", 5, "seconds, and so heartbeats, for which TestCompleteHeldOpen holds its transaction open, and one more; rescue waits for five")

// A handler's transaction that has called Complete stays open over heartbeats, settles and rescues of its process and of
// another one: it is in nobody's way, and nobody takes its job.
func TestCompleteHeldOpen(t *testing.T) {
	s := newStage(t)
	apart := s.db.Pool(t)
	held, commit := make(chan struct{}), make(chan struct{})
	var committed, early atomic.Bool
	for range 2 {
		w := s.worker(worker.Config{})
		worker.Handle(w, "hold", func(ctx context.Context, job *worker.Job[none]) (none, error) {
			tx, err := apart.Begin(ctx)
			if err != nil {
				return none{}, err
			}
			defer tx.Rollback(context.WithoutCancel(ctx))
			if err := worker.Complete(ctx, tx, nil); err != nil {
				return none{}, err
			}
			close(held)
			select {
			case <-commit:
			case <-ctx.Done():
				return none{}, context.Cause(ctx)
			}
			committed.Store(true)
			return none{}, tx.Commit(ctx)
		})
		worker.Handle(w, "beside", func(context.Context, *worker.Job[none]) (none, error) { return none{}, nil })
		worker.Handle(w, "next", func(context.Context, *worker.Job[none]) (none, error) {
			early.CompareAndSwap(false, !committed.Load())
			return none{}, nil
		})
		s.run(w)
	}
	holding := s.add("hold", nil, offstage.Options{Queue: "bank"})
	select {
	case <-held:
	case <-s.ctx().Done():
		t.Fatal("the handler has not called Complete")
	}
	next := s.add("next", nil, offstage.Options{Queue: "bank"}) // not sooner: the other worker might begin with it, for jobs of two tasks have no order in a queue
	const beaten = `select count(*) filter (where beat_at < started_at + $1 * interval '1 s') = 0 from offstage_private.worker`
	for beside := 0; !one[bool](s, beaten, *heldFor+1); beside++ {
		if st := s.outcome(s.add("beside", nil)); st.Outcome != offstage.OutcomeSucceeded {
			t.Fatalf("job %d beside it ended as %s: %s", beside, st.Outcome, st.Error)
		}
	}
	close(commit)
	if st := s.outcome(holding); st.Outcome != offstage.OutcomeSucceeded {
		t.Errorf("ended as %s: %s", st.Outcome, st.Error)
	}
	if st := s.outcome(next); st.Outcome != offstage.OutcomeSucceeded {
		t.Errorf("the next job of its queue ended as %s: %s", st.Outcome, st.Error)
	}
	if early.Load() {
		t.Error("the next job of its queue ran before the transaction was committed")
	}
	if h := s.history(holding); !slices.Equal(h, []string{"succeeded"}) {
		t.Errorf("its history is %v", h)
	}
	s.eventually(func() bool {
		return one[int](s, "select coalesce(sum(cardinality(claims)), 0) from offstage_private.queue_state") == 0
	}, "the queue's slot was not freed")
	s.empty()
}
