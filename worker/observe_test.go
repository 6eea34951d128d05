package worker

import (
	"testing"
	"time"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/internal/store"
)

// What settle() in SQL makes of an ending, the observer is told.
func TestObserved(t *testing.T) {
	t.Parallel()
	s := &session{}
	now := time.Now()
	s.clock.Store(&clock{now, now})
	for _, c := range []struct {
		ending, verdict string
		attempt         int
		crashes         int16
		want            offstage.Outcome
	}{
		{"", "", 1, 0, offstage.OutcomeSucceeded},
		{"finished", "", 1, 0, offstage.OutcomeSucceeded},
		{"retry", "", 1, 0, offstage.OutcomeRetried},
		{"retry", "", 3, 0, offstage.OutcomeFailed},
		{"fail", "", 1, 0, offstage.OutcomeFailed},
		{"cancel", "", 1, 0, offstage.OutcomeCancelled},
		{"snooze", "", 3, 0, offstage.OutcomeSnoozed},
		{"release", "", 3, 0, offstage.OutcomeReleased},
		{"crash", "", 1, 1, offstage.OutcomeReleased},
		{"crash", "", 1, 2, offstage.OutcomeFailed},
		{"lost", "", 1, 0, offstage.OutcomeRescued},
		{"", "lost", 1, 0, offstage.OutcomeRefused},
	} {
		a := &attempt{s: s, job: &offstage.Job{Task: "t", Attempt: c.attempt, MaxAttempts: 3, RunAt: now.Add(-time.Minute)}, crashes: c.crashes, took: time.Second, endedAt: now}
		if c.ending != "" {
			a.ending = &store.Ending{Ending: c.ending}
		}
		if got := a.observed(c.verdict); got.Outcome != c.want || got.Task != "t" || !got.Started || got.Run != time.Second || got.Wait != 59*time.Second {
			t.Errorf("%+v: %+v", c, got)
		}
	}
	if got := (&attempt{s: s, job: &offstage.Job{}, ending: &store.Ending{Ending: "release"}}).observed(""); got.Started || got.Wait != 0 || got.Run != 0 {
		t.Errorf("%+v", got)
	}
}

type deaf struct{}

func (deaf) Settled([]Settled) {}
func (deaf) Turned(Turned)     {}
func (deaf) Failed(error)      {}

// What an observer costs a batch of a thousand attempts, and what it costs when there is none.
func BenchmarkObserver(b *testing.B) {
	for name, observer := range map[string]Observer{"none": nil, "deaf": deaf{}} {
		b.Run(name, func(b *testing.B) {
			s := &session{cfg: Config{Observer: observer}}
			now := time.Now()
			s.clock.Store(&clock{now, now})
			p := &plan{settle: &store.Settle{}, claim: &store.Claim{}, sent: now, landedAt: now}
			for i := range 1000 {
				p.batch = append(p.batch, &attempt{s: s, job: &offstage.Job{Task: "t"}, claim: int64(1024 + i), took: 1, endedAt: now})
			}
			b.ReportAllocs()
			for b.Loop() {
				s.observe(p, nil)
			}
		})
	}
}
