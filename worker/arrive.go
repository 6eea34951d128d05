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
// once. Until the server says that the claim is committed, nobody else can see it: so nothing of it is settled,
// Complete waits, and what an attempt tells is sent later.
//
//	open  its jobs run; those that end are kept here
//	over  the claim is committed
//	lost  over, but the claim is not there: the attempts are cancelled, their results dropped
//
// When the connection breaks before the answer has come, the arrival stays open until a turner is connected again and has
// asked which leases the worker holds. The worker claims nothing in between, so that a lease of that number is this claim,
// even of a server that has crashed and gives numbers away again. One that is committed later still (the server had not
// noticed that the connection was gone) is a stray: the second heartbeat to find it has its jobs given back.
//
// An attempt whose claim is not there runs again somewhere: history says that it was rescued.
type arrival struct {
	at   time.Time     // when it came: lines of logs count their time from here, and the database from the claim's
	over chan struct{} // closed when it is not open any more
	lost atomic.Bool   // set before over is closed

	// Under session.mu, while it is open.
	attempts []*attempt
	ended    []*attempt
}

// errNotCommitted is why attempts ended whose claim never came to be.
var errNotCommitted = errors.New("the connection to the database broke before the claim of this attempt was committed")

// arrived starts what a claim brought, before it is committed.
func (t *turns) arrived(p *plan, look *store.Look) {
	slices.SortFunc(look.Jobs, func(a, b store.Claimed) int {
		return cmp.Or(cmp.Compare(a.Priority, b.Priority), a.RunAt.Compare(b.RunAt), cmp.Compare(a.JobID, b.JobID))
	})
	if len(look.Jobs) > 0 {
		p.arrival = &arrival{at: time.Now(), over: make(chan struct{})}
		p.arrival.attempts = t.s.newAttempts(look.Jobs, p.arrival)
	}
	t.s.mu.Lock()
	defer t.s.mu.Unlock()
	t.wantFlying -= p.want
	p.landed, p.landedAt = true, time.Now()
	if p.arrival == nil {
		return
	}
	bytes := 0
	for _, c := range look.Jobs {
		bytes += len(c.Payload)
	}
	t.weight = max(bytes/len(look.Jobs), t.weight*7/8) // it rises at once, and falls slowly
	t.count(p.arrival.attempts, 1)
	t.claimed += len(look.Jobs)
	for _, a := range p.arrival.attempts {
		if t.leaves() { // the claim was under way when the slots went, or the worker was drained
			t.giveBack(a)
			continue
		}
		t.s.ready <- a // never blocks: there is room for all that want() asks for
	}
}

func (a *arrival) isOver() bool {
	select {
	case <-a.over:
		return true
	default:
		return false
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

// put keeps an attempt that has ended to be settled: at once (true), or when its arrival is over, or what it told has
// landed. mu is held.
func (t *turns) put(a *attempt) bool {
	if !a.arrival.isOver() {
		a.arrival.ended = append(a.arrival.ended, a)
		return false
	}
	if r := a.report.Load(); r != nil && r.flying {
		r.ended = a
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

// resolve ends the doubts, now that the leases of this worker are known, and says which of them it knows itself.
func (t *turns) resolve(leases []int64) (known []int64) {
	t.s.mu.Lock()
	defer t.s.mu.Unlock()
	for _, a := range t.unsure {
		if !slices.Contains(leases, a.attempts[0].lease()) { // all of a claim is committed, or nothing
			t.lose(a)
		}
		t.close(a)
	}
	t.unsure = nil
	known = slices.Clone(t.emptied)
	for l := range t.leases {
		known = append(known, l)
	}
	t.recalling = true
	t.forget(slices.DeleteFunc(slices.Clone(leases), func(l int64) bool { return slices.Contains(known, l) })...)
	return append(known, 0)
}

// closeUnsure is for a session that has ended: nobody will ask any more whether these claims were committed. What has begun is lost in any case, and settle knows which of them a rescue takes.
func (t *turns) closeUnsure() {
	t.s.mu.Lock()
	defer t.s.mu.Unlock()
	for _, a := range t.unsure {
		a.lose()
		t.close(a)
	}
	t.unsure = nil
}

// strays compares what a heartbeat has found with what is known. Leases come and go while it is under way, so that only
// one that is unknown twice is looked into, and then with no turn under way.
func (t *turns) strays(leases []int64) {
	now := time.Now()
	t.s.mu.Lock()
	defer t.s.mu.Unlock()
	if now.Sub(t.strangeAt) < strangeAfter {
		return
	}
	known := func(l int64) bool { return t.leases[l] > 0 || slices.Contains(t.emptied, l) }
	strange := slices.DeleteFunc(slices.Clone(leases), known)
	if slices.ContainsFunc(strange, func(l int64) bool { return slices.Contains(t.strange, l) }) {
		t.uncertain = true
		kick(t.kicks[0])
	}
	t.strange, t.strangeAt = strange, now
}

// strangeAfter is what lies between two heartbeats that look for strays, at least: those for cancelled jobs come at once.
const strangeAfter = 500 * time.Millisecond

// lose gives an arrival up. mu is held.
func (t *turns) lose(lost *arrival) {
	t.s.log.Warn("the connection broke before a claim was committed, and the database does not have it: its attempts are cancelled", "jobs", len(lost.attempts))
	t.giveBack(t.takeSuspects(func(a *attempt) bool { return a.arrival == lost })...)
	lost.lose()
	t.count(lost.attempts, -1)
	t.s.each(func(a *attempt) {
		if a.arrival == lost {
			a.cancel(offstage.ErrLost)
		}
	})
}

// lose is for a claim that is not there, or of which nobody will know: what has ended of it, and what is still to end, is lost. mu is held.
func (a *arrival) lose() {
	a.lost.Store(true)
	for _, e := range a.ended {
		e.lose()
	}
}

// lose ends an attempt whose claim is not there: nothing is settled, history says that it was rescued.
func (a *attempt) lose() {
	a.ending = &store.Ending{Claim: a.claim, JobID: a.job.ID, Ending: "lost", Error: errNotCommitted.Error()}
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
