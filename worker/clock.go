package worker

import (
	"time"

	"github.com/offstage-dev/offstage/internal/store"
)

// clock knows what the database's clock says, as it was read once: from then on this process counts by its own monotonic
// clock. So what a process's clock shows does not matter, nor that it is set meanwhile.
type clock struct {
	here, there time.Time
}

// newClock takes what the database said to a question asked then. It read its clock about in the middle.
func newClock(asked, there time.Time) *clock {
	return &clock{asked.Add(time.Since(asked) / 2), there}
}

// at is what the database's clock showed at a time of this process.
func (c *clock) at(here time.Time) time.Time { return c.there.Add(here.Sub(c.here)) }

// waited is how long the job of an attempt that has run was due before it was started.
func (s *session) waited(a *attempt) time.Duration {
	due := a.job.RunAt
	if a.job.AddedAt.After(due) {
		due = a.job.AddedAt
	}
	return max(s.clock.Load().at(a.endedAt.Add(-a.took)).Sub(due), 0)
}

// measured says in an ending how long the job waited and the attempt took, for statistics, if it has run.
func (s *session) measured(a *attempt, e *store.Ending) {
	if a.took == 0 {
		return
	}
	wait, run := s.waited(a).Seconds(), a.took.Seconds()
	e.Wait, e.Run = &wait, &run
}
