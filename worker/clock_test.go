package worker

import (
	"testing"
	"time"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/internal/store"
)

// How long a job waited is told by the database's clock alone: this process's may be hours off.
func TestWaited(t *testing.T) {
	t.Parallel()
	asked := time.Now()
	there := time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC) // what the database says now
	s := &session{}
	s.clock.Store(newClock(asked, there))
	for name, c := range map[string]struct{ runAt, addedAt, wait time.Duration }{
		"due two seconds ago":            {-2 * time.Second, -time.Hour, 3 * time.Second},
		"added when it was long due":     {-time.Hour, -time.Second, 2 * time.Second},
		"started early, by the clocks":   {5 * time.Second, -time.Hour, 0},
		"due since before anybody lived": {-100 * 365 * 24 * time.Hour, -time.Second, 2 * time.Second},
	} {
		a := &attempt{job: &offstage.Job{RunAt: there.Add(c.runAt), AddedAt: there.Add(c.addedAt)}, took: 3 * time.Second}
		a.endedAt = asked.Add(4 * time.Second) // so it started a second after now
		if got := s.waited(a); (got - c.wait).Abs() > 100*time.Millisecond {
			t.Errorf("%s: waited %v, expected %v", name, got, c.wait)
		}
		var e store.Ending
		s.measured(a, &e)
		if e.Run == nil || *e.Run != 3 || e.Wait == nil {
			t.Errorf("%s: the ending says %v, %v", name, e.Wait, e.Run)
		}
	}
	var e store.Ending
	if s.measured(&attempt{}, &e); e.Run != nil || e.Wait != nil {
		t.Error("an attempt that has not run has taken time")
	}
}
