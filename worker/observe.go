package worker

import (
	"time"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/internal/store"
)

// Observer is told what a worker does, for metrics. It is called from several goroutines, on the way of every job: it must be
// quick, and must not block.
type Observer interface {
	// Settled tells of attempts that the database has settled. The slice is the observer's.
	Settled([]Settled)

	// Turned tells of a round trip that claimed or settled.
	Turned(Turned)

	// Failed tells of a call of the database that failed, and will be tried again.
	Failed(error)
}

// Settled is an attempt that has been settled.
type Settled struct {
	Task    string
	Outcome offstage.Outcome
	Started bool          // it was started at all; without that it neither waited nor ran
	Wait    time.Duration // from when its job was due to when it was started
	Run     time.Duration
}

// Turned is how long a round trip took, from sending it to its answer. One that settles and claims does both at once.
type Turned struct {
	Claim  time.Duration // until its jobs were there; 0: it claimed nothing
	Settle time.Duration // until it was committed; 0: it settled nothing
}

// outcomes are what settle() in SQL makes of an ending, but for those that depend on more.
var outcomes = map[string]offstage.Outcome{
	"finished": offstage.OutcomeSucceeded, "cancel": offstage.OutcomeCancelled, "fail": offstage.OutcomeFailed, "snooze": offstage.OutcomeSnoozed,
	"release": offstage.OutcomeReleased, "crash": offstage.OutcomeReleased, "lost": offstage.OutcomeRescued,
}

// observed is what an observer is told of an attempt, once it is settled with this verdict.
func (a *attempt) observed(verdict string) Settled {
	o := Settled{Task: a.job.Task, Outcome: offstage.OutcomeSucceeded, Run: a.took, Started: a.took > 0}
	if o.Started {
		o.Wait = a.s.waited(a)
	}
	switch {
	case verdict == "lost":
		o.Outcome = offstage.OutcomeRefused
	case a.ending == nil:
	case a.ending.Ending == "retry":
		o.Outcome = offstage.OutcomeRetried
		if a.job.Attempt >= a.job.MaxAttempts {
			o.Outcome = offstage.OutcomeFailed
		}
	case a.ending.Ending == "crash" && a.suspect():
		o.Outcome = offstage.OutcomeFailed
	default:
		o.Outcome = outcomes[a.ending.Ending]
	}
	return o
}

// observe tells the observer, if there is one, of a turn that was committed. Nobody else touches any more what was settled.
func (s *session) observe(p *plan, unsettled []store.Verdict) {
	if s.cfg.Observer == nil {
		return
	}
	var turned Turned
	if p.claim != nil {
		turned.Claim = p.landedAt.Sub(p.sent)
	}
	if p.settle != nil {
		turned.Settle = time.Since(p.sent)
	}
	s.cfg.Observer.Turned(turned)
	if len(p.batch) == 0 {
		return
	}
	verdicts := make(map[int64]string, len(unsettled))
	for _, v := range unsettled {
		verdicts[v.Claim] = v.Verdict
	}
	told := make([]Settled, 0, len(p.batch))
	for _, a := range p.batch {
		if verdict := verdicts[a.claim]; verdict != "busy" { // those come again
			told = append(told, a.observed(verdict))
		}
	}
	if len(told) > 0 {
		s.cfg.Observer.Settled(told)
	}
}

// failed tells the observer of an error.
func (s *session) failed(err error) {
	if s.cfg.Observer != nil {
		s.cfg.Observer.Failed(err)
	}
}

// The states of a worker.
const (
	Starting = "starting" // it has no session in the database: before the first one, or after it was declared dead
	Working  = "working"
	Draining = "draining" // it claims nothing more, and lets what runs finish, until drain_worker is taken back
	Stopping = "stopping" // it claims nothing more, and lets what runs finish
	Stopped  = "stopped"
)

// Status is how a worker is doing, for health checks and metrics.
type Status struct {
	State    string
	Worker   int32 // its id in the database; 0 while there is none
	Slots    int
	Busy     int           // slots in which an attempt runs
	Ready    int           // jobs that it has claimed and not started
	LastBeat time.Time     // when the last heartbeat that landed was sent; zero: none yet
	Period   time.Duration // how often a heartbeat is due: without one for three of them it claims nothing, for five it is dead
	Round    time.Time     // when its loops last came round: each of them does, within a second or what the database takes to answer
}

// Status may be asked at any time, by anybody. It takes no lock that the worker holds.
func (w *Worker) Status() Status {
	st := Status{State: Starting, Slots: w.cfg.Jobs, Round: time.Now()}
	s := w.session.Load()
	switch {
	case w.stopped.Load():
		st.State = Stopped
		return st
	case s == nil:
		return st
	}
	st.State, st.Worker, st.Busy, st.Ready = Working, s.id, s.runningNow(), len(s.ready)+int(s.turns.suspects.waiting.Load())
	st.LastBeat, st.Period = *s.lastBeat.Load(), time.Duration(s.period.Load())
	switch {
	case s.turns.stopping.Load():
		st.State = Stopping
	case s.turns.drained.Load():
		st.State = Draining
	}
	for i := range s.rounds {
		if at := s.rounds[i].Load(); at != 0 && epoch.Add(time.Duration(at)).Before(st.Round) {
			st.Round = epoch.Add(time.Duration(at))
		}
	}
	return st
}

// Loops whose rounds are noted. One that has ended is not looked at any more.
const (
	beating = iota
	turning
	loops
)

// round notes that a loop comes round; ended, that it does no more.
func (s *session) round(loop int, at time.Time) { s.rounds[loop].Store(int64(at.Sub(epoch))) }
func (s *session) roundsEnd(loop int)           { s.rounds[loop].Store(0) }

// epoch is what rounds are counted from, in nanoseconds of the monotonic clock.
var epoch = time.Now()
