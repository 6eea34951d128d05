package worker

import (
	"context"
	"sync"
	"time"

	"github.com/offstage-dev/offstage/internal/wake"
)

// Notifications are hints, and so nothing fails where they do not arrive, behind a pooler that lends a session for each transaction or
// a proxy that keeps them back: jobs are found by polling, and are late without anybody knowing why. So a worker sends itself one now
// and then, over another connection than the one that listens, and its heartbeats say when none comes back.
const (
	earEvery = 60               // beats from one test to the next
	earAgain = 3 * time.Second  // until the next one while one is not back
	earLost  = 2                // with so many not back it is deaf
	earDeaf  = 15 * time.Second // and then tests so often
)

// ear is what the tests came to.
type ear struct {
	test chan struct{} // kicks the next one

	mu    sync.Mutex // guards the rest
	out   int        // sent since the last one that came back
	lost  int        // so many of them have had their time
	since time.Time  // when the first of them was sent
	hear  bool       // one has come back over this connection
}

// connected is called when the listener has a new connection: it is tested at once.
func (e *ear) connected() {
	e.mu.Lock()
	e.hear = false
	e.mu.Unlock()
	kick(e.test)
}

// hears is true when notifications arrive, as far as is known.
func (e *ear) hears() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.hear && e.lost < earLost
}

// deaf is for how long the worker has heard nothing; 0: it hears, as far as it knows. It counts tests instead of looking at the clock,
// so that a process that was stopped is not deaf when it goes on.
func (e *ear) deaf() time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.lost < earLost {
		return 0
	}
	return max(time.Since(e.since), time.Millisecond)
}

// add counts a test that is sent now, or takes it back.
func (e *ear) add(n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.out == 0 {
		e.since = time.Now()
	}
	e.out = max(e.out+n, 0)
}

// heard answers how many tests were lost before, and whether this is the first over its connection.
func (e *ear) heard() (lost int, first bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	lost, first = e.lost, !e.hear
	e.out, e.lost, e.hear = 0, 0, true
	return lost, first
}

// judge is called when what was sent has had its time. It answers how many tests are lost, and were before.
func (e *ear) judge() (lost, before int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	before, e.lost = e.lost, e.out
	return e.lost, before
}

// testEar tests whenever the listener has connected, and now and then; soon again while a test is not back.
func (s *session) testEar(ctx context.Context) error {
	wait, asked := earAgain, false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.ear.test:
		case <-time.After(wait):
			if asked {
				asked = false
				lost, before := s.ear.judge()
				if lost >= earLost && before < earLost {
					s.log.Warn("notifications do not arrive: jobs start only when the worker polls; is a pooler in between that lends a session for each transaction?", "poll_interval", s.cfg.PollInterval)
				}
				switch {
				case lost >= earLost:
					wait = earDeaf
					continue
				case lost == 0:
					wait = earEvery * time.Duration(s.period.Load())
					continue
				}
			}
		}
		err := s.sendTest(ctx)
		wait, asked = earAgain, err == nil
		if err != nil && ctx.Err() == nil { // then heartbeats and claims have more to say
			wait = earDeaf
			s.log.Debug("could not test whether notifications arrive", "error", err)
		}
	}
}

// sendTest has a connection of its own, for the moment: a notification waits for others at its commit, and no beat must.
func (s *session) sendTest(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, turnTimeout)
	defer cancel()
	conn, err := s.w.connect(ctx)
	if err != nil {
		return err
	}
	defer wake.Close(conn)
	s.ear.add(1) // it may be back before the answer is
	if err := s.store.TestEar(ctx, conn, s.id); err != nil {
		s.ear.add(-1)
		return err
	}
	return nil
}

// heardTest is called by the listener.
func (s *session) heardTest() {
	lost, first := s.ear.heard()
	if lost >= earLost {
		s.log.Info("notifications arrive again")
		kick(s.beatNow)
	}
	if first || lost >= earLost {
		kick(s.turns.kicks[0]) // it may make an offer now
	}
}
