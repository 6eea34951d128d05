package schema_test

import (
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/offstage-dev/offstage/internal/pgtest"
)

// pastDays are those of which there are entries: as many as are kept unless somebody asks otherwise.
const pastDays = 7

// pastRows says how many entries there are: OFFSTAGE_TEST_HISTORY, 400,000 if not set.
func pastRows(t *testing.T) int {
	text := os.Getenv("OFFSTAGE_TEST_HISTORY")
	if text == "" {
		return 400_000
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < pastDays {
		t.Fatalf("OFFSTAGE_TEST_HISTORY is %q, expected a number of rows", text)
	}
	return n
}

// remember fills history with the entries of jobs that ended over the last days, with negative ids, evenly. One in a
// thousand had failed before.
func remember(t *testing.T, conn *pgx.Conn, rows int) {
	t.Helper()
	// The partitions of the past, as tidy would have made them in time.
	pgtest.Do(t, conn, `create table offstage.at (at timestamptz)`)
	pgtest.Do(t, conn, `insert into offstage.at select now()`)
	pgtest.Do(t, conn, `create or replace function offstage_private.clock() returns timestamptz language sql volatile as 'select at from offstage.at'`)
	for ago := pastDays; ago >= 0; ago-- {
		pgtest.Do(t, conn, `update offstage.at set at = now() - $1::integer * interval '1 day'`, ago)
		pgtest.Do(t, conn, `select offstage.tidy()`)
	}
	pgtest.Do(t, conn, `update offstage.at set at = now()`)
	const chunk = 500_000
	for from := 1; from <= rows; from += chunk {
		pgtest.Do(t, conn, `insert into offstage_private.history
		(settled_at, job_id, claim, added_at, run_at, claimed_at, task_id, worker_id, attempt, priority, outcome, error, payload, result)
		select e.at, -n, 1025, e.at - interval '1 min', e.at - interval '1 min', e.at - interval '1 s', 1, 1, 1, 0,
			case when n % 1000 = 0 then 'retried' else 'succeeded' end, case when n % 1000 = 0 then 'it broke' end, '{"id": 17}', '{"done": true}'
		from generate_series($3::integer, $4::integer) n
		cross join lateral (select now() - n * interval '1 day' * $2 / $1::integer) e (at)`, rows, pastDays, from, min(from+chunk-1, rows))
	}
}

// TestHistoryIsNotInTheWay: with much history, over days that are partitions, a call touches as many pages as with none,
// whatever the planner knows; looking at history touches few for what it answers; and dropping a day takes no time.
func TestHistoryIsNotInTheWay(t *testing.T) {
	t.Parallel()
	conn := pgtest.New(t).Conn(t)
	for _, table := range []string{"job", "ticket", "lease", "history_rest"} {
		pgtest.Do(t, conn, "alter table offstage_private."+table+" set (autovacuum_enabled = off)")
	}
	pgtest.Do(t, conn, planStage)
	worker(t, conn, "a", "b", "queued", "parked")
	rows := pastRows(t)
	remember(t, conn, 0)
	pgtest.Do(t, conn, grow, 1000)

	work := []hot{
		{"add", ``, `select offstage.add_job('a')`, 20},
		{"claim", ``, `select * from offstage.claim(1, 10, t.task('a'))`, 20},
		{"settle", `select t.claim(10, 'a')`, `select * from offstage.settle(1, t.claims(), t.ids(), job_ctids => t.ctids())`, 40},
		{"settle, other ends", `select t.claim(9, 'a')`, `select * from offstage.settle(1, null, null, endings => t.endings('retry', 'fail', 'cancel'))`, 60},
		{"finish", `select t.claim(1, 'a')`, `select offstage.finish(1, c, i) from unnest(t.claims(), t.ids()) x (c, i)`, 40},
		{"refuse", `select t.claim(9, 'a'), offstage.force_unlock_workers('{worker-1}')`, `select * from offstage.settle(1, t.claims(), t.ids())`, 500}, // 9 jobs, three looks, over all partitions; seldom
	}
	without := map[string]int{}
	for _, h := range work {
		without[h.name] = pages(t, conn, h)
	}
	pgtest.Do(t, conn, "drop table offstage.at") // and again
	began := time.Now()
	remember(t, conn, rows)
	t.Logf("%d entries made in %v", rows, time.Since(began).Round(time.Millisecond))

	oldest, some := -rows, -rows/2
	look := []hot{
		{"job_history", ``, fmt.Sprintf(`select * from offstage.job_history(%d)`, some), 100},
		{"job_history, none", ``, `select * from offstage.job_history(-2000000000)`, 100},
		{"job_status", ``, fmt.Sprintf(`select * from offstage.job_status(%d)`, oldest), 100},
		{"explain", ``, fmt.Sprintf(`select offstage.explain(%d)`, oldest), 100},
		{"job_outcomes", ``, fmt.Sprintf(`select * from offstage.job_outcomes(array(select -n * %d from generate_series(1, 100) n))`, rows/100), 4000},
		{"history", ``, `select * from offstage.history()`, 300},
		{"history, a later page", ``, fmt.Sprintf(`select * from offstage.history(before => now() - interval '5 days', before_job => %d)`, some), 300},
		{"history, since", ``, `select * from offstage.history(since => now() - interval '1 hour')`, 300},
		{"history, failures of a task", ``, `select * from offstage.history('a', 'retried')`, 1500},
		{"history, of no task", ``, `select * from offstage.history('nothing')`, 1500},
	}
	for _, when := range []string{"never analyzed", "analyzed"} {
		for _, h := range work { // rows is how many pages more: indexes have grown by a level
			if n := pages(t, conn, h); n > without[h.name]+h.rows {
				t.Errorf("%s: %s touches %d pages, %d without history", when, h.name, n, without[h.name])
			}
		}
		for _, h := range look {
			took := time.Now()
			n := pages(t, conn, h)
			t.Logf("%s: %s touches %d pages, %v", when, h.name, n, time.Since(took).Round(100*time.Microsecond))
			if n > h.rows {
				t.Errorf("%s: %s touches %d pages, at most %d are allowed", when, h.name, n, h.rows)
			}
		}
		pgtest.Do(t, conn, "analyze offstage_private.history")
		pgtest.Do(t, conn, "discard plans")
	}

	partitions := func() int {
		return pgtest.One[int](t, conn, `select count(*) from pg_inherits where inhparent = 'offstage_private.history'::regclass`)
	}
	before := partitions()
	pgtest.Do(t, conn, "update offstage.at set at = now()")
	began = time.Now()
	pgtest.Do(t, conn, "select offstage.tidy(3)")
	t.Logf("tidy took %v and left %d of %d partitions", time.Since(began), partitions(), before)
	if partitions() > before-4 || time.Since(began) > 5*time.Second { // it reads nothing of what it drops
		t.Errorf("tidy took %v and left %d of %d partitions", time.Since(began), partitions(), before)
	}
	if n := pgtest.One[int](t, conn, "select count(*) from offstage.history(before => now() - interval '4 days 1 second', max_rows => 1)"); n != 0 {
		t.Errorf("%d entries are left of days that are not kept", n)
	}
}

// pages is how many a call touches.
func pages(t *testing.T, conn *pgx.Conn, h hot) int {
	t.Helper()
	return least(func() int {
		pgtest.Do(t, conn, "begin")
		defer pgtest.Do(t, conn, "rollback")
		if h.before != "" {
			pgtest.Do(t, conn, h.before)
		}
		return buffers(t, conn, h.call)
	})
}
