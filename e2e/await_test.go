//go:build unix

package e2e_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/offstage-dev/offstage"
)

// Many await jobs that a worker process runs, over a network on which every notification is lost and connections break: all are
// answered, within the interval at which they look by themselves.
func TestAwaitOverABadNetwork(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	p, through := newProxy(t, s.db.URL)
	p.deaf.Store(true)
	pool, err := pgxpool.New(s.ctx(), through)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	client, err := offstage.New(pool, offstage.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()

	const n = 300
	due := time.Now().Add(2 * time.Second)
	ids := s.add(many(n, offstage.Spec{Task: "log", Options: offstage.Options{RunAt: due}})...)
	answers := make(chan error, n)
	var answered atomic.Int32
	for _, id := range ids {
		go func() {
			_, err := offstage.Await[any](s.ctx(), client, id)
			answered.Add(1)
			answers <- err
		}()
	}
	s.reaches(20*time.Second, n, `select count(*) from offstage_private.waiter`)
	if answered.Load() != 0 {
		t.Error("somebody was answered before a worker was there")
	}
	p.cut() // under all who wait
	w := s.goWorker(role{})
	s.reaches(30*time.Second, n, `select count(distinct job_id) from offstage_private.history`)
	ended := time.Now()
	for range n {
		if err := <-answers; err != nil {
			t.Error(err)
		}
	}
	if late := time.Since(ended); late > 5*time.Second { // two, and what a busy machine adds
		t.Errorf("the last one was answered %v after the last job had ended", late)
	}
	if p.lost.Load() == 0 {
		t.Error("no notification was sent, so that none could be lost")
	}
	s.drained(20 * time.Second)
	w.leave()
	s.ledger(s.ran())
}
