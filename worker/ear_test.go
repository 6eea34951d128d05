package worker

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/offstage-dev/offstage/internal/store"
)

func TestEar(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var e ear
		check := func(want time.Duration) {
			t.Helper()
			if got := e.deaf(); got != want {
				t.Errorf("deaf for %v, expected %v", got, want)
			}
		}
		check(0)
		e.add(1)
		time.Sleep(time.Hour) // the process was stopped
		check(0)
		if lost, _ := e.judge(); lost != 1 {
			t.Errorf("%d tests are lost, expected 1", lost)
		}
		check(0)
		e.add(1)
		e.add(-1) // could not be sent
		e.add(1)
		check(0)
		time.Sleep(time.Second)
		if lost, before := e.judge(); lost != 2 || before != 1 {
			t.Errorf("%d and %d tests are lost, expected 1 and 2", before, lost)
		}
		check(time.Hour + time.Second)
		if lost, _ := e.heard(); lost != 2 {
			t.Errorf("%d were lost, expected 2", lost)
		}
		check(0)
		e.add(1)
		e.heard()
		e.judge()
		e.add(1)
		e.judge()
		check(0)
	})
}

// Nobody looks for jobs because of a test, neither the worker itself nor others.
func TestEarWakesNobody(t *testing.T) {
	t.Parallel()
	s := &session{id: 7, cfg: Config{Schema: "offstage"}, ear: ear{test: make(chan struct{}, 1), hear: true}, chore: make(chan struct{}, 1), beatNow: make(chan struct{}, 1)}
	s.turns.init(s)
	s.ear.add(1)
	wakes := s.turns.wakes
	s.heard(store.EarChannel(7), "other")
	if lost, _ := s.ear.judge(); lost != 1 {
		t.Error("a test of another schema was taken for one's own")
	}
	s.heard(store.EarChannel(7), "offstage")
	if lost, _ := s.ear.judge(); lost != 0 {
		t.Error("a test was not heard")
	}
	if s.turns.wakes != wakes || len(s.turns.kicks[0])+len(s.chore)+len(s.beatNow) != 0 {
		t.Error("a test has woken the worker")
	}
}

// Notifications of another installation in this database wake nobody.
func TestOtherSchemaWakesNobody(t *testing.T) {
	t.Parallel()
	s := &session{id: 7, cfg: Config{Schema: "offstage"}, chore: make(chan struct{}, 1), beatNow: make(chan struct{}, 1)}
	s.turns.init(s)
	woken := func() int {
		return s.turns.wakes + len(s.turns.kicks[0]) + len(s.chore) + len(s.beatNow)
	}
	before := woken()
	for _, channel := range []string{"offstage:wake", "offstage:due", "offstage:cancel"} {
		s.heard(channel, "other")
		if woken() != before {
			t.Errorf("%s of another schema has woken the worker", channel)
		}
		s.heard(channel, "offstage")
		if woken() == before {
			t.Errorf("%s of its own schema has not woken the worker", channel)
		}
		before = woken()
	}
}
