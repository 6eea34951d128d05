package worker

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/internal/store"
)

// An arrival is what one claim brought. Its jobs arrive while the server still writes the claim to its disk, and start at
// once. Until the server says that the claim is committed, nobody else can see it: so nothing of it is settled, and
// Progress and Complete wait.
//
//	open    its jobs run; those that end are kept here
//	over    the claim is committed, or the database will say so when the attempts are settled
//	unsure  the connection broke before the answer came. Any turner that is connected to the same server makes it over:
//	        the next heartbeat, or a settle, finds the claim or does not. A server that has started since may give the
//	        claim's number away again:
//	lost    the attempts are cancelled, their results dropped
//
// An attempt whose claim turns out not to be there runs again somewhere: history says that it was rescued.
type arrival struct {
	over         chan struct{} // closed when it is not open any more
	unsure, lost atomic.Bool   // set before over is closed

	// Under session.mu, while it is open.
	attempts []*attempt
	ended    []*attempt
	server   string // to which the claim was sent
}

// errNotCommitted is why attempts ended whose claim never came to be.
var errNotCommitted = errors.New("the connection to the database broke before the claim of this attempt was committed")

// arrived starts what a claim brought, before it is committed.
func (t *turns) arrived(p *plan, look *store.Look) {
	slices.SortFunc(look.Jobs, func(a, b store.Claimed) int {
		return cmp.Or(cmp.Compare(a.Priority, b.Priority), a.RunAt.Compare(b.RunAt), cmp.Compare(a.JobID, b.JobID))
	})
	if len(look.Jobs) > 0 {
		p.arrival = &arrival{over: make(chan struct{}), server: p.server}
		p.arrival.attempts = t.s.newAttempts(look.Jobs, p.arrival)
	}
	t.s.mu.Lock()
	defer t.s.mu.Unlock()
	t.wantFlying -= p.want
	p.landed = true
	if p.arrival == nil {
		return
	}
	t.count(p.arrival.attempts, 1)
	t.claimed += len(look.Jobs)
	for _, a := range p.arrival.attempts {
		if t.stopping.Load() { // the claim was under way when the slots went
			a.ending, a.endedAt = a.end("release", nil), time.Now()
			t.put(a)
			continue
		}
		t.s.ready <- a // never blocks: there is room for all that want() asks for
	}
}

// count adds the attempts to, or takes them from, what their leases still hold. They stand in runs of equal leases.
func (t *turns) count(attempts []*attempt, sign int) {
	for from := 0; from < len(attempts); {
		to, lease := from, attempts[from].lease()
		for to < len(attempts) && attempts[to].lease() == lease {
			to++
		}
		if t.leases[lease] += sign * (to - from); t.leases[lease] == 0 {
			delete(t.leases, lease)
		}
		from = to
	}
}

// put keeps an attempt that has ended to be settled: at once (true), or when its arrival is over. mu is held.
func (t *turns) put(a *attempt) bool {
	select {
	case <-a.arrival.over:
	default:
		a.arrival.ended = append(a.arrival.ended, a)
		return false
	}
	if a.arrival.lost.Load() {
		a.lose()
	}
	t.queue = append(t.queue, a)
	return true
}

// close makes an arrival over. mu is held.
func (t *turns) close(a *arrival) {
	if a == nil {
		return
	}
	t.queue = append(t.queue, a.ended...)
	a.attempts, a.ended = nil, nil
	close(a.over)
}

// resolve is called when a turner is connected to a server, with the time at which that started: it ends doubts.
func (t *turns) resolve(server string) {
	t.s.mu.Lock()
	defer t.s.mu.Unlock()
	for _, a := range t.unsure {
		a.unsure.Store(true)
		if a.server != server {
			t.lose(a)
		}
		t.close(a)
	}
	t.unsure = nil
}

// lose gives an arrival up. mu is held.
func (t *turns) lose(lost *arrival) {
	t.s.log.Warn("the database server crashed before a claim was on its disk: its attempts are cancelled", "jobs", len(lost.attempts))
	lost.lost.Store(true)
	t.count(lost.attempts, -1)
	for _, a := range lost.ended {
		a.lose()
	}
	t.s.each(func(a *attempt) {
		if a.arrival == lost {
			a.cancel(offstage.ErrLost)
		}
	})
}

// lose ends an attempt whose claim is not there: nothing is settled, history says that it was rescued.
func (a *attempt) lose() {
	a.ending = &store.Ending{Claim: a.claim, JobID: a.job.ID, Ending: "lost", Error: errNotCommitted.Error()}
}

// cancelUnclaimed cancels attempts whose claim may not have been committed, and is not among those that the worker holds.
func (s *session) cancelUnclaimed(leases []int64) {
	s.each(func(a *attempt) {
		if a.arrival.unsure.Load() && !slices.Contains(leases, a.lease()) {
			a.cancel(offstage.ErrLost)
		}
	})
}

// confirmed waits until the claim is committed. ErrLost: it never was.
func (a *attempt) confirmed(ctx context.Context) error {
	select {
	case <-a.arrival.over:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if a.arrival.lost.Load() {
		return offstage.ErrLost
	}
	return nil
}
