package schema_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/offstage-dev/offstage/internal/pgtest"
)

// miscounted is where statistics and history differ, in minutes or hours, while everything is kept. Retries by hand end nothing.
const miscounted = `
with unit (unit) as (values ('minute'), ('hour')), h as (
  select unit, date_trunc(unit, settled_at at time zone 'UTC') as starts_at, task_id, coalesce(queue_id, 0) as queue_id, outcome, count(*) as n
  from offstage_private.history cross join unit where outcome <> 'retried' or claim is not null group by 1, 2, 3, 4, 5
), s as (
  select unit, date_trunc(unit, ended_at at time zone 'UTC') as starts_at, task_id, queue_id, outcome, sum(n) as n
  from (
    select unit, ended_at, task_id, queue_id, outcome, n from offstage_private.statistic_raw cross join unit
    union all select 'minute', starts_at, task_id, queue_id, outcome, n from offstage_private.statistic_minute
    union all select 'hour', starts_at, task_id, queue_id, outcome, n from offstage_private.statistic_hour
  ) x group by 1, 2, 3, 4, 5
)
select format('%s %s, task %s, queue %s, %s: %s in history, %s counted', unit, starts_at, task_id, queue_id, outcome, coalesce(h.n, 0), coalesce(s.n, 0))
from h full join s using (unit, starts_at, task_id, queue_id, outcome) where h.n is distinct from s.n`

func checkCounted(t testing.TB, db pgtest.Querier) {
	t.Helper()
	for _, wrong := range pgtest.List[string](t, db, miscounted) {
		t.Error(wrong)
	}
}

// Whatever way attempts and jobs end, each is counted once, as history has it: by workers that say what they measured and by
// those that do not, while roll-ups run and are killed, and while handlers' transactions stay open.
func TestStatisticsCountEachOnce(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	pgtest.Do(t, conn, "select offstage.configure_queue('q', 100)")
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
	defer cancel()
	var workers, others sync.WaitGroup
	for n := range 3 {
		c := db.Conn(t)
		workers.Go(func() { countedWork(t, ctx, c, rand.New(rand.NewPCG(uint64(n), 1))) })
	}
	// A handler whose transaction has taken its number early, and commits late.
	slow := db.Conn(t)
	id, tasks := worker(t, slow, "slow")
	pgtest.Do(t, slow, "select offstage.add_job('slow', queue_name := 'slow')")
	pgtest.Do(t, slow, "create temp table held as select claim, job_id from offstage.claim($1, 1, $2) where kind = 'job'", id, tasks)
	pgtest.Do(t, slow, "begin")
	if !pgtest.One[bool](t, slow, "select offstage.finish($1, claim, job_id) from held", id) {
		t.Error("the claim is gone")
	}

	done := make(chan struct{})
	others.Go(func() { // rolls up, and is killed in the middle now and then
		c := db.Conn(t)
		r := rand.New(rand.NewPCG(1, 2))
		for {
			select {
			case <-done:
				return
			default:
			}
			tx, err := c.Begin(t.Context())
			if err == nil {
				_, err = tx.Exec(t.Context(), "select offstage.roll_up($1)", 1+r.IntN(200))
			}
			if err == nil && r.IntN(3) > 0 {
				err = tx.Commit(t.Context())
			} else if err == nil {
				err = tx.Rollback(t.Context()) // what a death comes to
			}
			if err != nil {
				t.Errorf("roll up: %v", err)
				return
			}
		}
	})
	others.Go(func() { // what a reader sees never becomes less
		c := db.Conn(t)
		for last := int64(0); ; {
			select {
			case <-done:
				return
			default:
			}
			var n, hourly int64
			err := c.QueryRow(t.Context(), `select (select coalesce(sum(n), 0) from offstage.statistics(now() - interval '10 min', null, by => '{}')),
				(select coalesce(sum(n), 0) from offstage.statistics(now() - interval '10 min', '1 h'))`).Scan(&n, &hourly)
			if err != nil {
				t.Errorf("read: %v", err)
				return
			}
			if n < last || n != hourly {
				t.Errorf("a reader saw %d in minutes and %d in hours, and %d before", n, hourly, last)
			}
			last = n
		}
	})
	workers.Wait()
	pgtest.Do(t, slow, "commit")
	close(done)
	others.Wait()
	if n := pgtest.One[int](t, conn, "select count(*) from offstage_private.history where outcome <> 'succeeded'"); n < 20 {
		t.Errorf("only %d other outcomes: this tests too little", n)
	}
	checkCounted(t, conn)
	for range 3 {
		pgtest.Do(t, conn, "select offstage.roll_up()")
	}
	checkCounted(t, conn)
	if left := pgtest.One[int](t, conn, "select count(*) from offstage_private.statistic_raw"); left > 0 {
		t.Errorf("%d rows were not rolled up", left)
	}
	rolledUp(t, conn)
}

// rolledUp rolls up until readers begin behind all that was counted. That takes until all transactions of the server that were
// writing have ended, and there are other tests.
func rolledUp(t *testing.T, conn *pgx.Conn) {
	t.Helper()
	pgtest.Eventually(t, 30*time.Second, func() bool {
		pgtest.Do(t, conn, "select offstage.roll_up()")
		return pgtest.One[bool](t, conn, "select m.low = s.last_value from offstage_private.statistic_mark m, offstage_private.statistic_id s")
	})
}

// countedWork adds, claims and settles at random, until ctx ends.
func countedWork(t *testing.T, ctx context.Context, c *pgx.Conn, r *rand.Rand) {
	id, tasks := worker(t, c, "a", "b")
	pgtest.Do(t, c, "create temp table held (claim bigint, job_id bigint, task_id integer, queue_id integer, key text, job_ctid tid)")
	for i := 0; ctx.Err() == nil; i++ {
		pgtest.Do(t, c, `select offstage.add_jobs(array(select row((array['a', 'b'])[1 + n % 2], null, case when n % 3 = 0 then 'q' end, null, 2,
			case when n % 5 = 0 then $1 || '.' || n end, null, null)::offstage.job_spec from generate_series(1, 20) n))`, fmt.Sprintf("%d.%d", id, i))
		pgtest.Do(t, c, "delete from held")
		pgtest.Do(t, c, "insert into held select claim, job_id, task_id, queue_id, key, job_ctid from offstage.claim($1, 15, $2) where kind = 'job'", id, tasks)
		lost := r.IntN(4) == 0
		if lost { // somebody else takes what is running
			pgtest.Do(t, c, "select offstage.force_unlock_workers(array['worker-' || $1::integer])", id)
		}
		// Some end in another way, a few are not ours.
		pgtest.Do(t, c, `with x as (select *, (claim * 7 + $2::int) % 10 as kind from held), good as (select * from x where kind > 2 order by job_id)
			select count(*) from offstage.settle($1, (select array_agg(claim + case when kind = 9 and $3 then 1024000 else 0 end order by job_id) from good),
			  (select array_agg(job_id order by job_id) from good),
			  job_ctids => (select array_agg(case when key is null then job_ctid end order by job_id) from good),
			  endings => (select json_agg(json_build_object('claim', claim, 'job_id', job_id, 'wait', 1.5,
			    'ending', (array['retry', 'fail', 'snooze', 'release', 'cancel'])[1 + (job_id % 5)::int])) from x where kind <= 2),
			  stats => case when $4 then (select json_agg(json_build_object('task_id', task_id, 'queue_id', queue_id, 'outcome', 'succeeded', 'n', n,
			    'waits', array[0, n], 'runs', array[n])) from (select task_id, queue_id, count(*) as n from good where key is null group by 1, 2) s) end)`,
			id, i, r.IntN(3) == 0, r.IntN(4) > 0)
		switch r.IntN(5) {
		case 2:
			pgtest.Do(t, c, `select offstage.settle($1, null, null, endings => (select json_agg(json_build_object('claim', 1025, 'job_id', id, 'ending', 'lost'))
				from (select id from offstage_private.job where queue_id is not null limit 2) x))`, id)
		case 0:
			pgtest.Do(t, c, "select offstage.complete_jobs(array(select id from offstage_private.job where not failed and key is null order by id limit 2))")
		case 1:
			pgtest.Do(t, c, "select offstage.remove_job((select key from held where key is not null limit 1))")
		}
		if lost {
			id, tasks = worker(t, c, "a", "b")
		}
	}
}

// An old snapshot keeps what is deleted. Nobody steps over it: roll-ups and readers begin behind.
func TestStatisticsBesideAnOldSnapshot(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn, old := db.Conn(t), db.Conn(t)
	pgtest.Do(t, old, "begin isolation level repeatable read")
	pgtest.One[int](t, old, "select count(*) from offstage_private.job")
	task := pgtest.One[int32](t, conn, "select offstage_private.task_id('a')")
	count := func(n int) {
		pgtest.Do(t, conn, `insert into offstage_private.statistic_raw (ended_at, task_id, queue_id, n, outcome, waits, runs)
			select now(), $1, 0, 1, 'succeeded', '{0,1}', '{1}' from generate_series(1, $2::integer)`, task, n)
	}
	const rows = 20_000
	count(rows)
	rolledUp(t, conn)
	count(10)
	for _, call := range []string{"select offstage.roll_up()", "select * from offstage.statistics(now() - interval '10 min')"} {
		if n := least(func() int { return buffers(t, conn, call) }); n > 150 {
			t.Errorf("%s touches %d pages", call, n)
		}
	}
	if n := pgtest.One[int](t, conn, "select sum(n) from offstage.statistics(now() - interval '10 min')"); n != rows+10 {
		t.Errorf("counted %d", n)
	}
	pgtest.Do(t, old, "commit")

	// A transaction that has counted and not committed is not passed over.
	pgtest.Do(t, old, "begin")
	pgtest.Do(t, old, "select offstage_private.count_ended(now(), array[$1::integer], array[null::integer], array['removed'])", task)
	for range 5 {
		count(1)
		pgtest.Do(t, conn, "select offstage.roll_up()")
	}
	pgtest.Do(t, old, "commit")
	if n := pgtest.One[int](t, conn, "select sum(n) from offstage.statistics(now() - interval '10 min', of_task => 'a')"); n != rows+16 {
		t.Errorf("counted %d", n)
	}
	pgtest.Do(t, conn, "select offstage.roll_up()")
	if n := pgtest.One[int](t, conn, "select count(*) from offstage_private.statistic_raw"); n != 0 {
		t.Errorf("%d rows are left", n)
	}
}

// Minutes are kept for two days and hours for 90, a step that is none is refused, and 1000 queues are not 1000 rows a minute.
func TestStatisticsRead(t *testing.T) {
	t.Parallel()
	conn := pgtest.New(t).Conn(t)
	pgtest.Do(t, conn, "select offstage_private.task_id('a'), offstage_private.queue_id('q')")
	pgtest.Do(t, conn, `select offstage_private.count_ended(now() - age * interval '1 h', '{1,1}', '{null,1}', array['succeeded', 'failed'], '{0.0005,1}', '{3,null}')
		from unnest(array[1, 30, 24 * 30, 24 * 100]) age`)
	pgtest.Do(t, conn, "select offstage_private.queue_id('q' || n) from generate_series(2, 300) n")
	pgtest.Do(t, conn, "select offstage_private.count_ended(now(), array(select 1 from generate_series(1, 300)), array(select id from offstage_private.queue order by id), '{removed}')")
	for range 2 { // the second one forgets
		pgtest.Do(t, conn, "select offstage.roll_up()")
	}
	sum := func(sql string) int { return pgtest.One[int](t, conn, "select coalesce(sum(n), 0) from "+sql) }
	for sql, want := range map[string]int{
		"offstage.statistics(now() - interval '200 days', '1 day')":                                                    306,
		"offstage.statistics(now() - interval '200 days', null)":                                                       306,
		"offstage.statistics(now() - interval '200 days', '1 min')":                                                    304,
		"offstage.statistics(now() - interval '2 h', '1 min')":                                                         302,
		"offstage.statistics(now() - interval '2 h', of_task => 'a') where outcome = 'succeeded'":                      1,
		"offstage.statistics(now() - interval '2 h', of_queue => 'q') where outcome = 'failed'":                        1,
		"offstage.statistics(now() - interval '2 h', of_queue => 'nobody')":                                            0,
		"offstage.statistics(now() - interval '1 min', null, by => '{queue}') where queue_name = '*'":                  44,
		"(select count(*) as n from offstage.statistics(now() - interval '1 min', null)) x":                            257,
		"(select count(*) as n from offstage.statistics(now() - interval '3 h', null, by => '{outcome}')) x":           3,
		"(select cardinality(waits) as n from offstage.statistics(now() - interval '2 h') where outcome = 'failed') x": 11,
	} {
		if got := sum(sql); got != want {
			t.Errorf("%s: %d, expected %d", sql, got, want)
		}
	}
	if n := pgtest.One[int](t, conn, "select count(*) from offstage.statistics(now() - interval '2 h', times => false) where waits is null and runs is null and task = 'a'"); n != 259 {
		t.Errorf("without times there are %d rows", n)
	}
	for _, sql := range []string{
		"select offstage.statistics(now(), '30 s')", "select offstage.statistics(now(), '90 s')", "select offstage.statistics(now(), '1 month')",
		"select offstage.statistics(now(), by => '{job}')",
	} {
		if _, err := conn.Exec(t.Context(), sql); code(err) != "22023" {
			t.Errorf("%s: %v", sql, err)
		}
	}
}

func TestQuantile(t *testing.T) {
	t.Parallel()
	conn := pgtest.New(t).Conn(t)
	r := rand.New(rand.NewPCG(5, 5))
	for range 20 {
		var values []float64
		for range 1 + r.IntN(300) {
			values = append(values, r.ExpFloat64()*r.ExpFloat64()*10)
		}
		for _, q := range []float64{0, 0.5, 0.95, 1} {
			var got, want float64
			if err := conn.QueryRow(t.Context(), `select offstage.quantile(offstage_private.histogram($1), $2), percentile_disc($2) within group (order by v) from unnest($1::float8[]) v`,
				values, q).Scan(&got, &want); err != nil {
				t.Fatal(err)
			}
			if got > max(2*want, 0.001) || got < want/2-0.001 {
				t.Errorf("quantile %v is %v, and guessed as %v", q, want, got)
			}
		}
	}
	for sql, want := range map[string]string{
		"offstage.quantile('{}', 0.5)":                                                                             "",
		"offstage.quantile('{0,0,0}', 0.5)":                                                                        "",
		"offstage.quantile('{0,0,2}', 0.5)":                                                                        "0.003",
		"offstage.quantile(offstage_private.histogram('{1e9}'), 0.5)":                                              "134217.728",
		"offstage_private.histogram('{null,-5,0.0009,0.001,0.0019,0.004}')":                                        "{2,2,0,1}",
		"offstage_private.histogram('{134217.728,infinity}')":                                                      "{0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,2}",
		"offstage_private.add_histograms('{1,2}', '{1,0,5}')":                                                      "{2,2,5}",
		"offstage_private.histogram('{}')":                                                                         "{}",
		"cardinality(offstage.buckets())":                                                                          "28",
		"(select count(*) from unnest(offstage.buckets()) with ordinality b (s, n) where s = 0.001 * 2 ^ (n - 1))": "28",
	} {
		if got := pgtest.One[string](t, conn, "select coalesce(("+sql+")::text, '')"); got != want {
			t.Errorf("%s is %q, expected %q", sql, got, want)
		}
	}
}

// What the pages show can be typed.
func TestStatisticsDocs(t *testing.T) {
	t.Parallel()
	conn := pgtest.New(t).Conn(t)
	n := 0
	for _, page := range []string{"statistics", "operations"} {
		text, err := os.ReadFile("../docs/" + page + ".md")
		if err != nil {
			t.Fatal(err)
		}
		for _, block := range strings.Split(string(text), "```sql\n")[1:] {
			sql, _, _ := strings.Cut(block, "```")
			for _, statement := range strings.SplitAfter(sql, ";\n") {
				if strings.TrimSpace(statement) != "" {
					pgtest.Do(t, conn, statement)
					n++
				}
			}
		}
	}
	if n < 7 {
		t.Errorf("found %d statements", n)
	}
}
