//go:build unix

package e2e_test

import (
	"testing"
	"time"

	"github.com/offstage-dev/offstage/internal/pgtest"
)

// PostgreSQL crashes and comes back, three times, while two worker processes and somebody who adds are at it.
func TestServerCrashes(t *testing.T) {
	t.Parallel()
	server := pgtest.Server(t, map[string]string{"fsync": "on"})
	s := newStage(t, pgtest.On(server))
	workers := []*process{s.goWorker(role{Poll: 200 * time.Millisecond}), s.goWorker(role{Poll: 200 * time.Millisecond})}
	s.reaches(30*time.Second, 2, `select count(*) from offstage.workers where state = 'alive'`) // one that cannot start says so and ends
	stop := s.load()
	for range 3 {
		s.ranMore(500)
		if err := server.StopImmediate(); err != nil {
			t.Fatal(err)
		}
		if err := server.StartAgain(s.ctx()); err != nil {
			t.Fatal(err)
		}
	}
	s.ranMore(500)
	stop()
	s.drained(40 * time.Second)
	for _, w := range workers {
		w.leave()
	}
	s.ledger(s.ran())
}

// Every session of the workers, and of those who add, is terminated, again and again.
func TestSessionsTerminated(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	super := s.db.SuperPool(t)
	workers := []*process{s.goWorker(role{Poll: 200 * time.Millisecond}), s.goWorker(role{Poll: 200 * time.Millisecond})}
	s.reaches(30*time.Second, 2, `select count(*) from offstage.workers where state = 'alive'`) // one that cannot start says so and ends
	stop := s.load()
	for range 10 {
		s.ranMore(200)
		if _, err := super.Exec(s.ctx(), `select pg_terminate_backend(pid) from pg_stat_activity
			where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend'`); err != nil {
			t.Fatal(err)
		}
	}
	s.ranMore(200)
	stop()
	s.pool.Reset()
	s.drained(40 * time.Second)
	for _, w := range workers {
		w.leave()
	}
	s.ledger(s.ran())
}
