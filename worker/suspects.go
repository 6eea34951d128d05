package worker

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/internal/wake"
)

// maxCrashes in a row fail a job: deaths of workers that had it, or of processes of their runners. See give_back() and settle() in SQL.
const maxCrashes = 3

// suspect says that one more crash fails the job.
func (a *attempt) suspect() bool { return a.crashes >= maxCrashes-1 }

// suspects are the attempts of such jobs. A worker runs one of them at a time, and marks it before: if the worker dies before that
// one is settled, it was this one, and none of the others has begun. Those wait without a slot, as many as there are slots.
type suspects struct {
	turn    *attempt     // whose turn it is; nil: nobody's. Under session.mu
	queue   []*attempt   // those that wait, in order. Under session.mu
	waiting atomic.Int32 // how many those are, for who does not hold it
}

// admits says whether a is to be run now. Otherwise it comes again when it is its turn, or is given back.
func (s *session) admits(a *attempt) bool {
	if !a.suspect() {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	t := &s.turns
	switch t.suspects.turn {
	case nil:
		t.suspects.turn = a
		return true
	case a:
		return true
	}
	if t.leaves() {
		t.giveBack(a)
	} else {
		t.suspects.queue = append(t.suspects.queue, a)
		t.suspects.waiting.Add(1)
	}
	kick(t.kicks[0]) // to settle that, or because there is room for another one
	return false
}

// pass takes its turn from a, which has been settled, if it has it, and gives it to the next. mu is held.
func (t *turns) pass(a *attempt) {
	q := &t.suspects
	if q.turn != a {
		return
	}
	q.turn = nil
	if len(q.queue) > 0 {
		q.turn = q.queue[0]
		q.queue = q.queue[1:]
		q.waiting.Add(-1)
		t.s.ready <- q.turn // never blocks, for there is room, and is open: nobody waits when stop() closes it
	}
}

// takeSuspects takes those out that wait, and are to be. mu is held.
func (t *turns) takeSuspects(take func(*attempt) bool) (taken []*attempt) {
	var stay []*attempt
	for _, a := range t.suspects.queue {
		if take(a) {
			taken = append(taken, a)
		} else {
			stay = append(stay, a)
		}
	}
	t.suspects.queue = stay
	t.suspects.waiting.Store(int32(len(stay)))
	return taken
}

// mark tells the database that the suspect a is about to run. ErrLost: its claim is gone.
func (a *attempt) mark(ctx context.Context) error {
	if err := a.confirmed(ctx); err != nil {
		return err
	}
	for failures := 1; ; failures++ {
		held, err := a.tryMark(ctx)
		switch {
		case err == nil && held:
			return nil
		case err == nil:
			return offstage.ErrLost
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case failures == markTries, a.s.turns.leaves():
			return err
		}
		a.s.log.Warn("cannot mark a job that was there when two workers died, and does not start it: will try again", "job_id", a.job.ID, "error", err, "failures", failures)
		select {
		case <-time.After(min(wake.Backoff(failures), time.Second)):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// markTries is how often a worker tries before it leaves the job to others.
const markTries = 10

func (a *attempt) tryMark(ctx context.Context) (held bool, err error) {
	conn, err := a.s.w.connect(ctx)
	if err != nil {
		return false, err
	}
	defer wake.Close(conn)
	ctx, cancel := context.WithTimeout(ctx, turnTimeout)
	defer cancel()
	return a.s.store.StartSuspect(ctx, conn, a.s.id, a.claim, a.job.ID)
}
