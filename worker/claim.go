package worker

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/internal/store"
	"github.com/offstage-dev/offstage/internal/wake"
)

// A turn is one round trip: it settles what has ended and claims what fits. One turner, the lead, does them all while
// the load is light; the other joins while jobs are so short that the database is the bottleneck.
//
// When the lead turns:
//
//	settling   at once while nothing waits to be started; else when a batch is full, or its oldest is 2 ms old
//	hot        while work flows: looks every millisecond, and nobody has to wake it; ends 25 ms after the last job
//	falling    takes the sleep locks and looks once more at everything; goes on looking, ever more rarely, until
//	asleep     all transactions older than its locks have ended: then every add wakes it. Polls now and then
//
// There is nothing to tune: it fetches ahead as much as its slots run in 50 ms, as measured, not at all while jobs are long, and
// no more than 16 MiB of payloads.
const (
	maxBatch     = 1000                  // jobs in one turn: what a lease holds
	maxAhead     = 3 * maxBatch          // jobs fetched ahead: a batch for each turner, and one to be settled
	turners      = 2                     // one waits for the server's disk while the other keeps the server busy
	fetchAhead   = 50 * time.Millisecond // worth of jobs,
	aheadBytes   = 16 << 20              // and of payloads
	settleWithin = 2 * time.Millisecond
	hotLook      = time.Millisecond
	hotFor       = 25 * time.Millisecond
	hotAfter     = 6                     // jobs that came
	hotWithin    = 20 * time.Millisecond // within this time
	againAfter   = 2 * time.Millisecond
	manyAgains   = 50                    // in a row, without anything taken or parked: somebody holds it for long
	fullLook     = 20 * time.Millisecond // how often everything is looked at while hot,
	fullShare    = 20                    // and at most one part in so many of the time
	busyAfter    = 50 * time.Millisecond
	turnTimeout  = 30 * time.Second
	joinAt       = 100 // jobs in a batch for another turner to join
)

// turns is what the turners share. Everything is under session.mu, but for the atomics.
type turns struct {
	s        *session
	kicks    [turners]chan struct{} // the first is the lead
	stopping atomic.Bool
	drained  atomic.Bool   // claims nothing more until it is taken back; under session.mu for those who decide
	over     chan struct{} // closed when nothing more will be settled
	halt     chan struct{} // closed to stop gracefully
	isOver   bool
	halted   bool  // halt is closed
	fatal    error // why
	errands  chan errand

	queue      []*attempt // ended, to be settled
	busy       []*attempt // held by somebody's transaction; settled later
	busyAt     time.Time  // when to try those
	claimed    int        // attempts that are not settled yet
	running    atomic.Int32
	lastStart  atomic.Int64
	wantFlying int
	flying     int           // turns under way
	leases     map[int64]int // attempts of each that are not settled
	emptied    []int64       // leases that are to be deleted
	uncertain  bool          // the answer of a claim was lost, or what became of an offer
	recalling  bool          // what is not known is being given back
	gone       []int64       // leases that were, the last ones
	unsure     []*arrival    // claims that may not be committed
	strange    []int64       // leases that a heartbeat has found and nobody knows
	strangeAt  time.Time
	single     bool // a batch was refused: settle one by one, to find out which
	held       bool // heartbeats do not land

	average  time.Duration // of an attempt; 0 is unknown
	weight   int           // bytes of a payload, as the last claims brought them
	marks    marks
	suspects suspects
	more     bool // there may be tickets
	wakes    int
	full     bool // everything is to be looked at
	fullAt   time.Time
	fullCost [2]time.Duration // how much longer than others the last two took
	lookCost time.Duration    // what those others take, on average
	againAt  time.Time
	agains   int                 // looks in a row that brought and parked nothing, because something was busy
	works    [hotAfter]time.Time // when the last jobs came
	hotTill  time.Time
	locked   bool      // the lead's connection holds the sleep locks
	horizon  int64     // asleep once all transactions before this one have ended; 0: asleep
	offered  bool      // there is an offer, as far as is known
	offerAt  time.Time // not sooner in a turn of its own
	lookAt   time.Time
	looks    int
	pollAt   time.Time
	idle     bool // the last full look brought nothing
}

func (t *turns) init(s *session) {
	t.s = s
	for i := range t.kicks {
		t.kicks[i] = make(chan struct{}, 1)
	}
	t.over, t.halt = make(chan struct{}), make(chan struct{})
	t.leases = map[int64]int{}
	t.errands = make(chan errand, 1)
	t.marks = newMarks()
	t.more, t.full = true, true
}

// plan is what a turn is to do.
type plan struct {
	batch  []*attempt
	settle *store.Settle
	claim  *store.Claim
	offer  *store.Offer
	want   int
	full   bool
	wakes  int
	recall bool // settle the doubts first
	began  time.Time
	sent   time.Time // to the server

	landed   bool      // the claim's answer is there,
	landedAt time.Time // since then,
	arrival  *arrival  // and brought this
}

// turner is the loop of one of them.
func (s *session) turner(which int) error {
	t := &s.turns
	lead := which == 0
	var conn *pgx.Conn
	begun := sync.OnceFunc(func() { close(s.begun) })
	defer func() {
		if lead {
			s.roundsEnd(turning)
			begun()
			s.conn = conn
		} else if conn != nil {
			wake.Close(conn)
		}
	}()
	var look store.Look // used again and again: its rows are copied into attempts
	timer := time.NewTimer(0)
	defer timer.Stop()
	for failures := 0; ; {
		if lead {
			t.run(conn)
		}
		p, wait, done := t.next(lead)
		if lead {
			s.round(turning, time.Now())
		}
		if done {
			return t.fatal
		}
		if p == nil {
			if lead && conn != nil && t.unlock() {
				wake.Close(conn)
				conn = nil
			}
			timer.Reset(wait)
			select {
			case <-t.kicks[which]:
			case <-timer.C:
			case <-t.over:
			}
			continue
		}
		var err error
		if conn == nil {
			conn, err = s.connectTurner(lead)
		}
		if err == nil {
			conn, err = s.turn(conn, p, &look)
		}
		if lead {
			begun()
		}
		if err == nil {
			failures = 0
			continue
		}
		failures++
		t.failed(p, err, lead)
		s.failed(err)
		if failures > 1 || !isData(err) {
			s.log.Warn("claim and settle failed, will try again", "error", err, "failures", failures)
			select {
			case <-time.After(wake.Backoff(failures)):
			case <-t.over:
			}
		}
	}
}

// connectTurner makes a turner's connection. That of the lead, for which it takes what there is, holds its locks.
func (s *session) connectTurner(lead bool) (conn *pgx.Conn, err error) {
	ctx, cancel := context.WithTimeout(s.base, turnTimeout)
	defer cancel()
	if !lead {
		return s.w.connect(ctx)
	}
	err = s.overLead(ctx, func(conn *pgx.Conn) error { return s.store.LockOffer(ctx, conn, s.id) })
	if err == nil {
		conn, s.conn = s.conn, nil
	}
	return conn, err
}

// turn does what p says, over conn, which it gives up when it fails.
func (s *session) turn(conn *pgx.Conn, p *plan, look *store.Look) (*pgx.Conn, error) {
	ctx, cancel := context.WithTimeout(s.base, turnTimeout)
	defer cancel()
	if p.recall {
		if err := s.recall(ctx, conn); err != nil {
			wake.Close(conn)
			return nil, err
		}
		s.turns.recalled()
		return conn, nil
	}
	p.sent = time.Now()
	unsettled, err := s.store.Turn(ctx, conn, p.settle, p.claim, p.offer, look, func() { s.turns.arrived(p, look) })
	if err != nil {
		if !isData(err) {
			wake.Close(conn)
			return nil, err
		}
		return conn, err
	}
	s.turns.done(p, unsettled, look)
	return conn, nil
}

// recall finds out which claims there are, and gives back the jobs of those whose answer was lost.
func (s *session) recall(ctx context.Context, conn *pgx.Conn) error {
	beat, err := s.store.Heartbeat(ctx, conn, s.id, s.turns.leaves(), s.ear.deaf())
	if err != nil {
		return err
	}
	if !beat.Alive {
		return offstage.ErrLost
	}
	n, err := s.store.Recall(ctx, conn, s.id, s.turns.resolve(beat.Leases))
	if n > 0 {
		s.log.Info("gave back jobs of a claim whose answer was lost", "jobs", n)
	}
	return err
}

// isData says that the server refused what a statement contained, not that it could not be reached.
func isData(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && (pg.Code[:2] == "22" || pg.Code[:2] == "23" || pg.Code[:2] == "54")
}

// next decides: do p, or wait so long (or for a kick), or be done.
func (t *turns) next(lead bool) (p *plan, wait time.Duration, done bool) {
	t.s.mu.Lock()
	defer t.s.mu.Unlock()
	now := time.Now()
	wait = time.Second
	if t.isOver {
		return nil, 0, true
	}
	if t.stopping.Load() && t.claimed == 0 && t.flying == 0 && len(t.emptied) == 0 && !t.uncertain && !t.offered {
		t.finish(t.fatal)
		return nil, 0, true
	}
	if t.uncertain {
		if t.flying > 0 {
			return nil, wait, false
		}
		return t.take(&plan{recall: true, began: now}), 0, false
	}
	if len(t.busy) > 0 && !now.Before(t.busyAt) {
		t.queue, t.busy = append(t.queue, t.busy...), nil
	}

	ready, want := len(t.s.ready), t.want()
	batch := t.batch()
	settle := false
	if n := len(t.queue); n > 0 {
		age := now.Sub(t.queue[0].endedAt)
		settle = ready == 0 || n >= batch || age >= settleWithin || t.stopping.Load()
		if !settle {
			wait = settleWithin - age
		}
	}
	claim := want > 0 && t.more && (want >= batch || ready == 0) && !now.Before(t.againAt)
	hot := now.Before(t.hotTill)

	if !lead {
		if !hot || batch < joinAt || t.flying == 0 || !(claim || settle && len(t.queue) >= joinAt) || t.locked {
			return nil, time.Second, false
		}
		return t.take(t.plan(now, true, claim, 0, nil)), 0, false
	}

	switch {
	case settle || claim:
		// A look along with a settle costs little. It is left out only where a wake is certain.
		sleep := 0
		if hot && t.locked {
			sleep = -1
		}
		with := claim || want > 0 && (!t.locked || t.horizon != 0 || hot || hasQueue(t.queue))
		if now.Before(t.againAt) {
			with = claim
		}
		var offer *store.Offer
		if with { // else in a turn of its own, so that the settle is on disk sooner
			offer = t.offer()
		}
		return t.take(t.plan(now, settle, with, sleep, offer)), 0, false
	case t.offered && !t.offers() && t.flying == 0:
		return t.take(t.plan(now, false, false, 0, t.offer())), 0, false
	case t.stopping.Load():
		if len(t.emptied) > 0 && t.claimed == 0 && t.flying == 0 {
			return t.take(t.plan(now, true, false, 0, nil)), 0, false
		}
		return nil, wait, false
	case want <= 0 || t.held:
		return nil, wait, false
	case t.more && now.Before(t.againAt):
		return nil, min(wait, t.againAt.Sub(now)), false
	case t.more: // waits for a larger batch
		return nil, min(wait, settleWithin), false
	case hot:
		if due := t.lookAt.Sub(now); due > 0 {
			return nil, min(wait, due), false
		}
		return t.take(t.plan(now, false, true, 0, nil)), 0, false
	case !t.locked: // falling asleep
		t.full = true
		return t.take(t.plan(now, len(t.emptied) > 0, true, 1, nil)), 0, false
	case t.full && !now.Before(t.fullDue()), !now.Before(t.pollAt):
		t.full = true
		return t.take(t.plan(now, false, true, 2, nil)), 0, false
	case t.s.once && t.claimed == 0 && t.flying == 0:
		if !t.idle { // something was settled since the last full look, and may have a ticket again
			t.full = true
			return t.take(t.plan(now, false, true, 2, nil)), 0, false
		}
		t.finish(nil)
		return nil, 0, true
	case t.horizon != 0:
		if due := t.lookAt.Sub(now); due > 0 {
			return nil, min(wait, due), false
		}
		t.full = true
		return t.take(t.plan(now, false, true, 2, nil)), 0, false
	}
	if o := t.offer(); o != nil && t.flying == 0 {
		if due := t.offerAt.Sub(now); due <= 0 {
			return t.take(t.plan(now, false, false, 0, o)), 0, false
		} else {
			wait = min(wait, due)
		}
	}
	if t.full {
		wait = min(wait, t.fullDue().Sub(now))
	}
	if len(t.busy) > 0 {
		wait = min(wait, t.busyAt.Sub(now))
	}
	return nil, min(wait, t.pollAt.Sub(now)), false
}

func hasQueue(batch []*attempt) bool {
	return slices.ContainsFunc(batch, func(a *attempt) bool { return a.queue != nil })
}

// ahead is how many jobs to claim beyond the slots.
func (t *turns) ahead() int {
	if t.average == 0 {
		return 0
	}
	return min(int(min(fetchAhead*time.Duration(t.s.cfg.Jobs)/t.average, maxAhead)), aheadBytes/max(t.weight, 1))
}

// batch is how many jobs are worth a turn while others wait to be started.
func (t *turns) batch() int { return min(max(t.ahead()/3, 1), maxBatch) }

// want is how many jobs may be claimed now.
func (t *turns) want() int {
	if t.leaves() || t.held {
		return 0
	}
	suspects := max(len(t.suspects.queue)-t.s.cfg.Jobs, 0) // more of them take slots
	return min(t.s.cfg.Jobs+t.ahead()-len(t.s.ready)-int(t.running.Load())-t.wantFlying-suspects, maxBatch)
}

// fullDue is when everything may be looked at again: at most a small share of the time is spent so, and polls do it anyway. One look that took long does not count, because anything may hold
// up a turn once, and what comes in front of the marks would wait for many times as long.
func (t *turns) fullDue() time.Time {
	return t.fullAt.Add(min(fullShare*min(t.fullCost[0], t.fullCost[1]), t.s.cfg.PollInterval))
}

// costs notes how long a look took, until its answer was there.
func (t *turns) costs(p *plan) {
	took := p.landedAt.Sub(p.began)
	if !p.full {
		t.lookCost += (took - t.lookCost) / 8
		return
	}
	t.fullCost = [2]time.Duration{t.fullCost[1], max(took-t.lookCost-5*time.Millisecond, 0)}
}

func (t *turns) plan(now time.Time, settle, claim bool, sleep int, offer *store.Offer) *plan {
	p := &plan{began: now, wakes: t.wakes, offer: offer}
	if settle {
		n := min(len(t.queue), maxBatch)
		if t.single {
			n = min(n, 1)
		}
		p.batch = slices.Clone(t.queue[:n])
		t.queue = slices.Delete(t.queue, 0, n)
		p.settle = t.settleOf(p.batch)
	}
	if want := t.want(); claim && want > 0 {
		p.want = want
		p.full = (t.full || now.Sub(t.fullAt) > fullLook) && !now.Before(t.fullDue()) || sleep == 1
		p.claim = &store.Claim{Worker: t.s.id, Want: want, Tasks: t.s.taskIDs, Forbidden: t.s.cfg.ForbiddenFlags, Sleep: sleep}
		if !p.full {
			p.claim.Marks = t.marks.list()
		}
	}
	return p
}

// take counts p as under way.
func (t *turns) take(p *plan) *plan {
	t.flying++
	t.wantFlying += p.want
	return p
}

func (t *turns) recalled() {
	t.s.mu.Lock()
	defer t.s.mu.Unlock()
	t.flying--
	t.uncertain, t.recalling = false, false
	t.offered = false // it may have been taken by what was given back; offering again costs little
	t.more, t.full = true, true
}

// done takes in what a turn has made true.
func (t *turns) done(p *plan, unsettled []store.Verdict, look *store.Look) {
	t.s.mu.Lock()
	t.flying--
	t.close(p.arrival)
	if p.settle != nil {
		t.settled(p, unsettled)
		t.idle = t.idle && len(p.batch) == 0
	}
	if p.claim != nil {
		t.looked(p, look, time.Now())
	}
	if p.offer != nil {
		t.offerDone(p.offer)
	}
	wakeLead := len(t.queue) > 0 || t.stopping.Load() || t.uncertain
	flood := t.batch() >= joinAt && t.more
	t.s.mu.Unlock()
	t.s.observe(p, unsettled)
	if wakeLead {
		kick(t.kicks[0])
	}
	if flood {
		t.kickOthers()
	}
}

// looked learns from what a look brought.
func (t *turns) looked(p *plan, look *store.Look, now time.Time) {
	got := len(look.Jobs)
	if look.Again && got == 0 && len(look.Marks) == 0 {
		t.agains++
	} else {
		t.agains = 0
	}
	again := look.Again && (t.agains < manyAgains || t.s.once)
	short := got < p.want && !again
	t.costs(p)
	if p.full {
		t.fullAt = now
		if p.wakes == t.wakes {
			t.full = false
		}
		if !short {
			t.marks.clear() // it did not come to the end, so that what lies between is unknown
		}
	}
	t.marks.learn(look, t.s.clock.Load().at(now))
	if p.wakes == t.wakes {
		t.more = !short
	}
	if again {
		t.againAt = now.Add(againAfter)
		t.full = true // what was busy may have been left behind the marks
	}
	if got > 0 {
		t.worked(got, now)
		t.looks = 0
	}
	t.idle = p.full && short && got == 0 && p.wakes == t.wakes
	t.lookAt = now.Add(hotLook)
	switch p.claim.Sleep {
	case -1:
		t.locked = false
	case 1:
		t.locked, t.horizon, t.looks = true, look.Next, 0
	}
	if p.claim.Sleep > 0 {
		if look.Oldest >= t.horizon {
			t.horizon = 0
		} else {
			t.looks++
			t.lookAt = now.Add(min(hotLook<<min(t.looks-1, 10), 100*time.Millisecond))
		}
	}
	t.pollAt = now.Add(t.s.cfg.PollInterval - time.Duration(now.UnixNano()%int64(t.s.cfg.PollInterval/5+1)))
}

// worked notes that so many jobs have come.
func (t *turns) worked(got int, now time.Time) {
	for range min(got, hotAfter) {
		copy(t.works[:], t.works[1:])
		t.works[hotAfter-1] = now
	}
	if now.Before(t.hotTill) || now.Sub(t.works[0]) < hotWithin {
		t.hotTill = now.Add(hotFor)
	}
}

// failed puts a turn's work back.
func (t *turns) failed(p *plan, err error, lead bool) {
	t.s.mu.Lock()
	defer t.s.mu.Unlock()
	t.flying--
	t.recalling = false
	if !p.landed {
		t.wantFlying -= p.want
	}
	if p.arrival != nil {
		t.unsure = append(t.unsure, p.arrival)
	}
	if p.arrival != nil || p.claim != nil && !isData(err) {
		t.uncertain = true
	}
	if lead && !isData(err) {
		t.locked, t.offered = false, false // gone with the connection
	}
	t.queue = append(slices.Clone(p.batch), t.queue...)
	if p.settle != nil {
		t.emptied = append(t.emptied, p.settle.Emptied...)
	}
	t.more, t.full = true, true
	switch {
	case errors.Is(err, offstage.ErrLost):
		t.finish(errDeclaredDead)
	case errors.Is(err, offstage.ErrNotInstalled):
		t.finish(err)
	case isData(err) && len(p.batch) == 1 && t.single:
		t.refused(p.batch[0], err)
	case isData(err):
		t.single = true
	}
}

// wakeUp says that there may be tickets anywhere.
func (s *session) wakeUp() {
	s.mu.Lock()
	s.turns.wakes++
	s.turns.more, s.turns.full = true, true
	s.mu.Unlock()
	kick(s.turns.kicks[0])
}

// hold stops claiming, or lets it go on.
func (t *turns) hold(on bool) {
	t.s.mu.Lock()
	changed := t.held != on
	t.held = on
	t.s.mu.Unlock()
	if changed {
		kick(t.kicks[0])
	}
}

// errand is what others do over the lead's connection, between two turns.
type errand struct {
	do   func(*pgx.Conn) error
	done chan error
}

var errNotLent = errors.New("the connection that claims is not there, or busy")

// lend does something over the lead's connection, if that is free within this time; for one caller at a time.
func (t *turns) lend(ctx context.Context, within time.Duration, do func(*pgx.Conn) error) error {
	e := errand{do, make(chan error, 1)}
	t.errands <- e
	kick(t.kicks[0])
	select {
	case err := <-e.done:
		return err
	case <-time.After(within):
	case <-ctx.Done():
	}
	select {
	case err := <-e.done:
		return err
	case <-t.errands:
		return errNotLent
	}
}

// run runs the errand that there may be.
func (t *turns) run(conn *pgx.Conn) {
	select {
	case e := <-t.errands:
		if conn == nil || conn.IsClosed() {
			e.done <- errNotLent
		} else {
			e.done <- e.do(conn)
		}
	default:
	}
}

// kickOthers wakes the turners that only help.
func (t *turns) kickOthers() {
	for _, k := range t.kicks[1:] {
		kick(k)
	}
}
