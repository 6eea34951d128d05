package worker

import (
	"cmp"
	"errors"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/offstage-dev/offstage/internal/store"
)

// finishTries is how often settling is tried while the transaction in which a handler called Complete has not
// committed; every 50 ms.
const finishTries = 100

func (t *turns) started(at time.Time) {
	t.running.Add(1)
	t.lastStart.Store(at.UnixNano())
}

// ended takes an attempt that has run.
func (t *turns) ended(a *attempt) {
	t.running.Add(-1)
	t.s.mu.Lock()
	if a.abandoned {
		t.s.mu.Unlock()
		return
	}
	n := 0
	if t.put(a) {
		n = len(t.queue)
	}
	if t.average == 0 {
		t.average = max(a.took, 1)
	} else {
		t.average = max((t.average*15+a.took)/16, 1)
	}
	batch := t.batch()
	t.s.mu.Unlock()
	if dry := len(t.s.ready) == 0; n > 0 && (dry || n == 1 || n == batch) {
		kick(t.kicks[0])
		if batch >= joinAt && (dry || n == batch) {
			t.kickOthers()
		}
	}
}

// settleOf is the call that settles these attempts.
func (t *turns) settleOf(batch []*attempt) *store.Settle {
	s := &store.Settle{Worker: t.s.id, Emptied: t.emptied, Claims: make([]int64, 0, len(batch)), JobIDs: make([]int64, 0, len(batch))}
	t.emptied = nil
	batch = slices.Clone(batch)
	slices.SortFunc(batch, func(a, b *attempt) int { return cmp.Compare(a.job.ID, b.job.ID) })
	for _, a := range batch {
		log := a.report.Load().rest()
		if a.ending != nil {
			e := *a.ending
			e.Log = log
			t.s.measured(a, &e)
			s.Endings = append(s.Endings, e)
			continue
		}
		if s.Places == nil {
			s.Places = make([]pgtype.TID, 0, len(batch))
		}
		s.Claims = append(s.Claims, a.claim)
		s.JobIDs = append(s.JobIDs, a.job.ID)
		s.Places = append(s.Places, a.place)
		if a.place.Valid {
			s.Counts.Add(a.task, a.queue, t.s.waited(a), a.took)
		}
		if a.result != nil {
			s.Results = fill(s.Results, len(s.JobIDs), string(a.result))
		}
		if log != nil {
			s.Logs = fill(s.Logs, len(s.JobIDs), store.LinesJSON(log))
		}
	}
	if s.Results != nil {
		s.Results = pad(s.Results, len(s.JobIDs))
	}
	if s.Logs != nil {
		s.Logs = pad(s.Logs, len(s.JobIDs))
	}
	return s
}

func pad(list []*string, n int) []*string {
	for len(list) < n {
		list = append(list, nil)
	}
	return list
}

func fill(list []*string, n int, text string) []*string {
	list = pad(list, n)
	list[n-1] = &text
	return list
}

// settled takes the answer: everything is settled but the named ones.
func (t *turns) settled(p *plan, unsettled []store.Verdict) {
	verdicts := make(map[int64]string, len(unsettled))
	for _, v := range unsettled {
		verdicts[v.Claim] = v.Verdict
	}
	for _, a := range p.batch {
		switch verdicts[a.claim] {
		case "busy":
			a.tries++
			if a.ending != nil && a.ending.Ending == "finished" && a.tries > finishTries {
				a.ending = a.end("retry", errors.New("the handler called Complete in a transaction that was not committed"))
			}
			if len(t.busy) == 0 {
				t.busyAt = time.Now().Add(busyAfter)
			}
			t.busy = append(t.busy, a)
			continue
		case "lost":
			t.s.log.Warn("the claim was lost, the result was refused; history says so", "job_id", a.job.ID, "task", a.job.Task, "attempt", a.job.Attempt)
		}
		t.claimed--
		t.pass(a)
		if a.arrival.lost.Load() {
			continue
		}
		if l := a.lease(); t.leases[l] > 1 {
			t.leases[l]--
		} else {
			delete(t.leases, l)
			t.emptied = append(t.emptied, l)
		}
	}
	if len(t.queue) == 0 {
		t.single = false
	}
	t.offerAt = time.Time{} // at once
}

// refused is for an attempt that the database will not take as it is: its job fails, with the reason, instead of
// holding up all the others.
func (t *turns) refused(a *attempt, err error) {
	t.s.log.Error("the database refuses how an attempt ended", "job_id", a.job.ID, "task", a.job.Task, "error", err)
	a.result = nil
	a.report.Store(nil)
	a.ending = a.end("retry", err)
	a.ending.Payload = nil
}

// stop begins the end: no more claims, what is ready goes back.
func (t *turns) stop() {
	t.s.mu.Lock()
	if !t.stopping.Swap(true) {
		t.release()
		close(t.s.ready) // runners end; nobody sends any more who sees stopping under mu
	}
	t.s.mu.Unlock()
	kick(t.kicks[0])
	t.kickOthers()
}

// drain stops claiming and gives back what is ready, or lets claiming go on.
func (t *turns) drain(on bool) {
	t.s.mu.Lock()
	t.drained.Store(on)
	if on && !t.stopping.Load() {
		t.release()
	}
	t.more, t.full = true, true
	t.s.mu.Unlock()
	kick(t.kicks[0])
}

// leaves says that the jobs that come are left to others.
func (t *turns) leaves() bool { return t.stopping.Load() || t.drained.Load() }

// unlock says, once, that the lead's connection is to be closed, and the sleep locks with it: a drained worker must not
// make every add notify.
func (t *turns) unlock() bool {
	t.s.mu.Lock()
	defer t.s.mu.Unlock()
	if !t.drained.Load() || !t.locked {
		return false
	}
	t.locked = false
	return true
}

// release gives back what is ready, and the suspects that wait. mu is held.
func (t *turns) release() {
	t.giveBack(t.takeSuspects(func(*attempt) bool { return true })...)
	for {
		select {
		case a := <-t.s.ready:
			t.giveBack(a)
		default:
			return
		}
	}
}

// giveBack ends attempts that were not started: their jobs are released. mu is held.
func (t *turns) giveBack(all ...*attempt) {
	for _, a := range all {
		t.skip(a, a.end("release", nil))
	}
}

// skip ends an attempt that was not started. mu is held.
func (t *turns) skip(a *attempt, ending *store.Ending) {
	a.ending, a.endedAt = ending, time.Now()
	t.put(a)
}

// unstick gives back what was fetched ahead, and the suspects that wait, when all slots have been stuck for a second: jobs have become long.
func (t *turns) unstick() {
	if len(t.s.ready) == 0 || time.Now().UnixNano()-t.lastStart.Load() < int64(time.Second) {
		return
	}
	t.s.mu.Lock()
	if !t.stopping.Load() {
		t.average = time.Second
		t.release()
	}
	t.s.mu.Unlock()
	kick(t.kicks[0])
}

// abandon releases the jobs of attempts that do not return.
func (s *session) abandon() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.each(func(a *attempt) {
		if a.abandoned {
			return
		}
		a.abandoned = true
		left := &attempt{
			s: s, job: a.job, claim: a.claim, arrival: a.arrival, endedAt: time.Now(),
			ending: &store.Ending{Claim: a.claim, JobID: a.job.ID, Ending: "release"},
		}
		left.report.Store(a.report.Load())
		s.turns.put(left)
	})
	kick(s.turns.kicks[0])
}

// end ends the session at once: nothing can be settled any more.
func (t *turns) end(err error) {
	t.s.mu.Lock()
	defer t.s.mu.Unlock()
	t.finish(err)
}

// endGracefully stops as Run's context would, and ends with err.
func (t *turns) endGracefully(err error) {
	t.s.mu.Lock()
	first := t.fatal == nil
	t.fatal = err
	t.s.mu.Unlock()
	if first {
		t.s.log.Error("worker is stopping", "error", err)
		t.leave()
	}
}

// leave stops as Run's context would.
func (t *turns) leave() {
	t.s.mu.Lock()
	defer t.s.mu.Unlock()
	if !t.halted {
		t.halted = true
		close(t.halt)
	}
}

// finish is the end. mu is held.
func (t *turns) finish(err error) {
	if !t.isOver {
		t.isOver = true
		t.fatal = err
		close(t.over)
	}
}
