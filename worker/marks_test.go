package worker

import (
	"testing"
	"time"

	"github.com/offstage-dev/offstage/internal/store"
)

// Where the next look begins. Until those who add have committed, jobs come in front of those that became due later.
func TestMarks(t *testing.T) {
	t.Parallel()
	const ms = time.Millisecond
	s := &session{cfg: Config{Jobs: 10, PollInterval: time.Hour}, ready: make(chan *attempt, 10)}
	w := &s.turns
	w.init(s)
	start := time.Now()
	s.clock.Store(&clock{start, start.Add(time.Hour)}) // the database's is fast
	due := func(after time.Duration) time.Time { return start.Add(time.Hour + after) }
	look := func(at time.Duration, full bool, look store.Look) {
		t.Helper()
		now := start.Add(at)
		w.looked(&plan{claim: &store.Claim{}, want: 10, full: full, began: now, landedAt: now}, &look, now)
	}
	starts := func(at time.Duration, want ...int64) { // for jobs of the priorities 0, 1, ...
		t.Helper()
		w.full, w.fullAt = false, start.Add(at)
		p := w.plan(start.Add(at), false, true, 0, nil)
		got := map[int16]int64{}
		for _, m := range p.claim.Marks {
			got[m.Priority] = m.JobID
		}
		for i, id := range want {
			if got[int16(i)] != id {
				t.Errorf("after %v it begins behind job %d of priority %d, not %d", at, got[int16(i)], i, id)
			}
		}
	}
	job := func(priority int16, id int64, after time.Duration) store.Claimed {
		return store.Claimed{Lane: 1, Priority: priority, JobID: id, RunAt: due(after)}
	}
	look(0, true, store.Look{Jobs: []store.Claimed{job(0, 1, -100*ms), job(0, 2, -50*ms), job(1, 3, -ms)}})
	starts(0, 2, 0)
	look(10*ms, false, store.Look{Jobs: []store.Claimed{job(1, 5, 9*ms)}})
	look(18*ms, false, store.Look{})
	starts(18*ms, 2, 0)
	look(20*ms, false, store.Look{Jobs: []store.Claimed{job(1, 6, 15*ms)}})
	starts(20*ms, 2, 3)
	look(40*ms, false, store.Look{})
	starts(40*ms, 2, 6)
	look(41*ms, false, store.Look{Jobs: []store.Claimed{job(0, 8, 0), job(1, 9, 40*ms)}, Rests: []store.Mark{{Lane: 1, RunAt: due(0), JobID: 8}, {Lane: 1, Priority: 1, RunAt: due(39 * ms), JobID: 7}}})
	starts(41*ms, 7, 6)
	look(70*ms, false, store.Look{})
	starts(70*ms, 7, 6) // there is more of what begins with job 7
	if p := w.plan(start.Add(70*ms), false, true, 1, nil); !p.full || p.claim.Marks != nil {
		t.Errorf("who falls asleep begins behind %v", p.claim.Marks)
	}
	look(71*ms, true, store.Look{Jobs: make([]store.Claimed, 10)})
	starts(71*ms, 0, 0) // there may be more between those
}
