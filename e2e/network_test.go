//go:build unix

package e2e_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/internal/pgtest"
)

// Every notification is lost on the way: jobs run all the same, at poll latency.
func TestNotificationsLost(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	p, through := newProxy(t, s.db.URL)
	p.deaf.Store(true)
	const poll = 500 * time.Millisecond
	w := s.goWorker(role{Database: through, Poll: poll})
	s.reaches(20*time.Second, 1, `select count(*) from offstage_private.worker`)
	for range 5 {
		id := s.add(offstage.Spec{Task: "log"})[0]
		s.reaches(20*time.Second, 1, `select count(*) from offstage_private.history where job_id = $1`, id)
	}
	// Twice a poll and a second for a busy machine.
	if ms := one[float64](s, `select extract(epoch from max(claimed_at - added_at)) * 1000 from offstage_private.history`); ms > 2*500+1000 {
		t.Errorf("a job was claimed %.0f ms after it was added, although the worker polls every %v", ms, poll)
	}
	if p.lost.Load() == 0 {
		t.Error("no notification was sent, so that none could be lost")
	}
	s.drained(20 * time.Second)
	w.leave()
	s.ledger(s.ran())
}

// A worker that notifications do not reach finds that out by itself, and tells; and that it hears again.
func TestDeafWorker(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	p, through := newProxy(t, s.db.URL)
	p.deaf.Store(true)
	deaf, hearing := s.goWorker(role{Database: through}), s.goWorker(role{})
	const found = `exists (select from offstage.problems() where kind = 'worker_deaf')`
	s.reaches(30*time.Second, 1, `select `+found+`::int`)
	got := pgtest.List[string](t, s.pool, `select concat_ws(' ', subject, message, remedy) from offstage.problems() where kind = 'worker_deaf'`)
	id := one[int](s, `select id from offstage_private.worker where pid = $1`, deaf.pid)
	if want := fmt.Sprintf("worker-%d worker %d (pid %d on ", id, id, deaf.pid); len(got) != 1 || !strings.HasPrefix(got[0], want) ||
		!strings.Contains(got[0], "jobs start only when it polls") || !strings.Contains(got[0], "--database-url") {
		t.Errorf("the problems are %q", got)
	}
	if n := one[int](s, `select count(*) from offstage.workers where pid = $1 and deaf_since is not null`, hearing.pid); n != 0 {
		t.Error("the worker that hears is deaf")
	}
	p.deaf.Store(false)
	s.reaches(40*time.Second, 1, `select (not `+found+`)::int`)
	deaf.leave()
	hearing.leave()
}

// The network of a worker freezes, with everything under way: it cancels its attempts by itself, before others run the
// jobs, and no two valid claims of a serial queue overlap. When the network is back, it is told.
func TestFrozenNetwork(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	p, through := newProxy(t, s.db.URL)
	const held = 3
	frozen := s.goWorker(role{Database: through, Jobs: 6, Poll: 200 * time.Millisecond})
	ids := s.add(many(held, offstage.Spec{Task: "hold", Options: offstage.Options{Priority: -1}})...)
	s.reaches(20*time.Second, held, `select count(*) from app.run where pid = $1`, frozen.pid)
	const line = 400
	s.add(many(line, offstage.Spec{Task: "record", Options: offstage.Options{Queue: "line"}})...)
	s.add(many(2000, offstage.Spec{Task: "log"})...) // makes the worker fetch ahead, and the turns long
	s.reaches(20*time.Second, 20, `select count(*) from app.run where queue = 'line'`)

	stop := s.watchQueue("line")
	p.freeze()
	at := one[time.Time](s, `select clock_timestamp()`)
	other := s.goWorker(role{Jobs: 6})
	s.reaches(20*time.Second, held, `select count(*) from app.run where attempt = 2 and ending = 'done' and job_id = any ($1)`, ids)
	t.Logf("all run elsewhere after %v", one[time.Time](s, `select max(started_at) from app.run where job_id = any ($1)`, ids).Sub(at))
	if late := one[int](s, `
		select count(*) from app.run a join app.run b on b.job_id = a.job_id and b.attempt = 2
		where a.attempt = 1 and a.job_id = any ($1) and (a.ended_at is null or a.ended_at > b.started_at or a.ending not like '%claim lost%')`, ids); late != 0 {
		t.Errorf("%d attempts of the frozen worker were still under way when others took their jobs", late)
	}
	p.thaw()
	s.reaches(20*time.Second, 1, `select count(*) from offstage_private.worker where pid = $1 and dead_at is null`, frozen.pid)
	p.cut()
	s.drained(30 * time.Second)
	if n := s.overlaps("line"); n != 0 {
		t.Errorf("%d pairs of jobs of the serial queue ran at the same time", n)
	}
	if n := stop(); n != 1 {
		t.Errorf("up to %d jobs of the serial queue were claimed at the same time", n)
	}
	if n := one[int](s, `select count(distinct job_id) from app.run where queue = 'line' and ending = 'done'`); n != line {
		t.Errorf("%d of %d jobs of the queue have run", n, line)
	}
	runs := s.ran()
	for id, n := range s.recorded() {
		runs[id] = n
	}
	s.ledger(runs)
	other.leave()
	frozen.leave()
}
