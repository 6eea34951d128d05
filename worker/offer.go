package worker

import (
	"slices"
	"time"

	"github.com/offstage-dev/offstage/internal/store"
)

// An offer is a slot that a sleeping worker puts at the disposal of who adds a job: the transaction that adds it claims it for the worker, which
// hears of it by a notification that carries the job, and starts it without asking the server. So a job on an idle system starts one
// round trip and one claim sooner.
//
// A worker makes one offer at a time, when it sleeps, is known to hear notifications, has a free slot, and more than one of them: with a single slot
// jobs start in their order, and an offer could let one pass by. What takes the offer ends it; the next one is made when
// that job is settled, or soon.
//
// A notification may be lost, as all may. Then the worker holds a lease that it does not know, as after a claim whose answer was lost, and
// gives the job back as it does there (arrive.go). What was given back is not started when its notification comes after all.
const (
	offerAgain = 5 * time.Millisecond // after one was taken, or the settle of that job, if it is sooner
	maxGone    = 1000                 // leases given back that are remembered
)

// offers says whether there should be an offer. mu is held.
func (t *turns) offers() bool {
	return t.locked && t.horizon == 0 && !t.leaves() && !t.held && !t.uncertain && !t.s.once && t.s.cfg.Jobs > 1 && t.free() > 0 && t.s.ear.hears()
}

// free is how many slots are neither taken nor spoken for. mu is held.
func (t *turns) free() int { return t.s.cfg.Jobs - len(t.s.ready) - int(t.running.Load()) }

// offer is the change that an offer needs, nil for none. mu is held.
func (t *turns) offer() *store.Offer {
	should := t.offers()
	if should == t.offered {
		return nil
	}
	o := &store.Offer{Worker: t.s.id}
	if should {
		o.Channel, o.Tasks = t.s.given, t.s.taskIDs
	}
	return o
}

// offerDone takes the answer in. mu is held.
func (t *turns) offerDone(o *store.Offer) {
	t.offered = o.Channel != ""
	if !t.offered && !o.Stood { // somebody has taken it: the job is here, on its way, or lost
		t.uncertain = true
	}
}

// missed says that notifications are lost, or may be: the offer may have been taken.
func (t *turns) missed() {
	t.s.mu.Lock()
	t.uncertain = t.uncertain || t.offered
	t.offered = false
	t.s.mu.Unlock()
}

// givenJob starts a job that was added and claimed for this worker.
func (s *session) givenJob(text string) {
	c, err := store.ReadGiven(text)
	if err != nil {
		s.log.Error("cannot read the job that a notification carries: it is given back", "error", err)
		s.turns.missed()
		kick(s.turns.kicks[0])
		return
	}
	from := &arrival{at: time.Now(), over: closed}
	a := s.newAttempts([]store.Claimed{c}, from)[0]
	t := &s.turns
	s.mu.Lock()
	defer s.mu.Unlock()
	t.offered, t.offerAt = false, from.at.Add(offerAgain)
	switch lease := a.lease(); {
	case t.isOver, slices.Contains(t.gone, lease):
		return
	case t.recalling: // it may be among what is just being given back, and if not, will be
		t.forget(lease)
		return
	}
	t.count([]*attempt{a}, 1)
	t.claimed++
	t.worked(1, from.at)
	if t.leaves() || t.held || t.free() <= 0 {
		t.giveBack(a)
		kick(t.kicks[0])
		return
	}
	s.ready <- a // never blocks: a slot is free
}

// forget remembers that these leases are given back without having been known. mu is held.
func (t *turns) forget(leases ...int64) {
	t.gone = append(t.gone, leases...)
	if n := len(t.gone) - maxGone; n > 0 {
		t.gone = slices.Delete(t.gone, 0, n)
	}
}

var closed = func() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()
