//go:build unix

package e2e_test

import (
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/offstage-dev/offstage"
)

// recorded says how often each job ran, as handlers wrote it down in app.run.
func (s *stage) recorded() map[int64]int {
	s.t.Helper()
	rows, err := s.pool.Query(s.ctx(), `select job_id, count(*) from app.run group by 1`)
	if err != nil {
		s.t.Fatal(err)
	}
	runs := map[int64]int{}
	var id int64
	var n int
	if _, err := pgx.ForEachRow(rows, []any{&id, &n}, func() error { runs[id] = n; return nil }); err != nil {
		s.t.Fatal(err)
	}
	return runs
}

// Three workers that fetch ahead share a serial queue, and the one that runs the job in its middle is killed.
func TestSerialQueue(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	workers := map[int]*process{}
	for range 3 {
		w := s.goWorker(role{Jobs: 5})
		workers[w.pid] = w
	}
	s.reaches(20*time.Second, 3, `select count(*) from offstage_private.worker`)
	stop := s.watchQueue("line")
	line := offstage.Options{Queue: "line"}
	s.add(many(3000, offstage.Spec{Task: "log"})...)
	s.add(many(200, offstage.Spec{Task: "record", Options: line})...)
	middle := s.add(offstage.Spec{Task: "hold", Options: line})[0]
	s.add(many(200, offstage.Spec{Task: "record", Options: line})...)
	s.add(many(3000, offstage.Spec{Task: "log"})...)

	s.reaches(40*time.Second, 1, `select count(*) from app.run where job_id = $1`, middle)
	victim := workers[one[int](s, `select pid from app.run where job_id = $1`, middle)]
	victim.signal(syscall.SIGKILL)
	victim.exit(10 * time.Second)
	delete(workers, victim.pid)
	s.drained(40 * time.Second)
	for _, w := range workers {
		w.leave()
	}

	if n := s.overlaps("line"); n != 0 {
		t.Errorf("%d pairs of jobs of the serial queue ran at the same time", n)
	}
	if n := stop(); n != 1 {
		t.Errorf("up to %d jobs of the serial queue were claimed at the same time", n)
	}
	if n := one[int](s, `select count(distinct pid) from app.run where queue = 'line'`); n < 2 {
		t.Errorf("%d processes have worked on the queue, which says little", n)
	}
	if h := s.histories()[middle]; count(h, "rescued") != 1 {
		t.Errorf("history of the job in the middle is %v", h)
	}
	runs := s.ran()
	for id, n := range s.recorded() {
		runs[id] = n
	}
	s.ledger(runs)
}
