package schema_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/offstage-dev/offstage/internal/pgtest"
)

// hot is a call whose cost must not depend on how much there is, nor on what the planner believes.
type hot struct {
	name   string
	before string // in the same transaction, not measured
	call   string
	rows   int // how many it may read
}

// hotCalls work as worker 1.
var hotCalls = []hot{
	{"claim, one lane", ``, `select * from offstage.claim(1, 10, t.task('a'))`, 100},
	{"claim, one lane with a mark", ``, `select * from offstage.claim(1, 10, t.task('a'), null, t.task('a'), '{0}', array['2000-01-01'::timestamptz], '{1}')`, 100},
	{"claim, two lanes", ``, `select * from offstage.claim(1, 10, t.task('a', 'b'))`, 500},
	{"claim, two lanes with marks", ``, `select * from offstage.claim(1, 10, t.task('a', 'b'), null, t.task('a', 'b'), '{0,0}', array['2000-01-01', '2000-01-01']::timestamptz[], '{1,1}')`, 500},
	{"claim, shared tickets", ``, `select * from offstage.claim(1, 100, t.task('shared'))`, 500},
	{"claim, what is left of a shared ticket", `select t.claim(1, 'shared')`, `select * from offstage.claim(1, 1, t.task('shared'))`, 300},
	{"claim, shared tickets and others", ``, `select * from offstage.claim(1, 10, t.task('a', 'shared'))`, 500},
	{"claim, a queue", `select t.busy()`, `select * from offstage.claim(1, 10, t.task('queued'))`, 200},
	{"settle, plain successes", `select t.claim(10, 'a')`, `select * from offstage.settle(1, t.claims(), t.ids(), job_ctids => t.ctids())`, 100},
	{"settle, plain successes that are counted", `select t.claim(10, 'a')`, `select * from offstage.settle(1, t.claims(), t.ids(), job_ctids => t.ctids(), stats => '[{"task_id": 1, "outcome": "succeeded", "n": 10, "waits": [10], "runs": [10]}]')`, 70},
	{"settle, plain successes without places", `select t.claim(10, 'a')`, `select * from offstage.settle(1, t.claims(), t.ids())`, 100},
	{"settle, endings", `select t.claim(9, 'a')`, `select * from offstage.settle(1, null, null, endings => t.endings('retry', 'release', 'snooze', 'fail', 'cancel', 'succeed'))`, 300},
	{"settle, the next job of a queue", `select t.claim(1, 'parked')`, `select * from offstage.settle(1, t.claims(), t.ids())`, 100},
	{"settle, a claim follows", `select t.claim(1, 'parked')`, `select * from offstage.settle(1, t.claims(), t.ids(), turn => true)`, 60},
	{"claim, the next job of a queue", `select t.claim(1, 'parked'), offstage.settle(1, t.claims(), t.ids(), turn => true)`, `select * from offstage.claim(1, 10, t.task('parked'))`, 100},
	{"settle, emptied", `select t.claim(1, 'a')`, `select * from offstage.settle(1, null, null, emptied => array(select c & -1024 from unnest(t.claims()) c))`, 50},
	{"finish", `select t.claim(1, 'a')`, `select offstage.finish(1, c, i) from unnest(t.claims(), t.ids()) x (c, i)`, 60},
	{"settle, plain successes with logs", `select t.claim(10, 'a')`, `select * from offstage.settle(1, t.claims(), t.ids(), logs => t.logs(), job_ctids => t.ctids())`, 200},
	{"report", `select t.claim(10, 'a')`, `select * from offstage.report(1, (select json_agg(json_build_object('claim', c, 'job_id', i, 'percent', 5, 'lines', l)) from unnest(t.claims(), t.ids(), t.logs()) x (c, i, l)))`, 200},
	{"job_log", ``, `select * from offstage.job_log(1, max_lines => 10)`, 50},
	{"promote", `select t.due(10)`, `select * from offstage.promote(10)`, 200},
	{"promote, what is recent", ``, `select * from offstage.promote(10, recent => '1 s')`, 20},
	{"heartbeat", `select t.claim(10, 'a')`, `select * from offstage.heartbeat(1)`, 100},
	{"force_unlock_workers", `select t.claim(10, 'a')`, `select offstage.force_unlock_workers('{worker-1}')`, 1300}, // looks at all queues, once
	{"recall", `select t.claim(10, 'a')`, `select offstage.recall(1, null)`, 300},
	{"add_job", ``, `select offstage.add_job('a')`, 20},
	{"add_job, an offer is taken", `do $$ begin
		perform offstage_private.sleep_lock(t.task('a'), true), offstage.offer_lock(1), offstage.offer(1, 'c', t.task('a'));
		set constraints all immediate;
	end $$`, `select offstage.add_job('a')`, 40},
	{"add_job, a key that is there", ``, `select offstage.add_job('a', job_key => 'k')`, 30},
	{"add_jobs", ``, `select offstage.add_jobs(array[row('a', null, 'q', null, null, null, null, null), row('b', null, null, null, null, 'k', null, null)]::offstage.job_spec[])`, 2300}, // may read all names: there are 1000 queues
	{"add_jobs, alike", ``, `select offstage.add_jobs(array[row('a', null, null, null, null, null, null, null), row('a', null, null, null, null, null, null, null)]::offstage.job_spec[])`, 40},
	{"remove_job", ``, `select offstage.remove_job('k')`, 100},
	{"complete_jobs", `select t.some()`, `select offstage.complete_jobs(t.ids())`, 200},
	{"complete_jobs, out of shared tickets", `select t.sharing()`, `select offstage.complete_jobs(t.ids())`, 250},
	{"job_status, of some that share a ticket", `select t.sharing()`, `select * from unnest(t.ids()) i, offstage.job_status(i)`, 200},
	{"reschedule_jobs", `select t.some()`, `select offstage.reschedule_jobs(t.ids(), priority => 3)`, 200},
	{"retry_jobs", `select t.some()`, `select offstage.retry_jobs(t.ids())`, 200},
	{"cancel_jobs", `select t.some()`, `select offstage.cancel_jobs(t.ids())`, 200},
	{"job_status", `select t.some()`, `select * from unnest(t.ids()) i, offstage.job_status(i)`, 200},
	{"explain", `select t.some()`, `select offstage.explain(i) from unnest(t.ids()) i`, 10300}, // counts a queue up to 10,000
	{"queue_depth", ``, `select offstage.queue_depth(), offstage.queue_depth('a'), offstage.queue_depth(queue => 'busy')`, 31000},
	{"problems", ``, `select * from offstage.problems()`, 45000}, // counts tickets up to 10,000, thrice
	{"errors", ``, `select * from offstage.errors()`, 3000},
	{"errors, one group", ``, `select * from offstage_private.error_group(offstage_private.fingerprint('a', 'it broke'), 10000)`, 1000},
	{"audit", ``, `select * from offstage.audit()`, 200},
	{"jobs, one of them", `select t.some()`, `select * from offstage.jobs where id = ((select t.ids()))[1]`, 200},
	{"roll_up", `select t.count(10)`, `select offstage.roll_up()`, 200},
	{"roll_up, at most so many", `select t.count(1000)`, `select offstage.roll_up(50)`, 200},
	{"statistics", `select t.count(10)`, `select * from offstage.statistics(now() - interval '5 min')`, 200},
	{"chore_ran", ``, `select offstage.chore_ran('promote', 1, '2 s')`, 20},
	{"chores", ``, `select * from offstage.chores`, 20},
	{"job_history", ``, `select * from offstage.job_history(3)`, 20},
	{"history", ``, `select * from offstage.history()`, 500},
	{"history, the next page", ``, `select * from offstage.history(before => now() - interval '2 s', before_job => 5)`, 500},
	{"history of what never was", ``, `select * from offstage.history('b', 'failed')`, 21000},
	{"await_jobs", ``, `select offstage.await_jobs(array[5, 6, 7])`, 40},
	{"job_outcomes", `select t.some()`, `select * from offstage.job_outcomes(t.ids())`, 50},
	{"job_outcomes, ended", ``, `select * from offstage.job_outcomes('{1,2,3,-5}')`, 50},
	{"settle, awaited", `select t.claim(10, 'a'), offstage.await_jobs((t.ids())[1:5])`, `select * from offstage.settle(1, t.claims(), t.ids(), job_ctids => t.ctids())`, 120},
	{"finish, awaited", `select t.claim(1, 'a'), offstage.await_jobs(t.ids())`, `select offstage.finish(1, c, i) from unnest(t.claims(), t.ids()) x (c, i)`, 60},
	{"due_schedules, none", ``, `select * from offstage.due_schedules('{s1,s2,nobody}')`, 20},
	{"due_schedules, some", `update offstage_private.schedule set due_at = now() - interval '1 s' where name in ('s1', 's2', 's3')`, `select * from offstage.due_schedules('{s1}')`, 30},
	{"tick_schedule", ``, `select offstage.tick_schedule(1, 0, null, now() + interval '1 h', array[now()])`, 30},
	{"saw_schedules", ``, `select offstage.saw_schedules('{s1,s2,nobody}')`, 20},
}

// planStage has what the calls need: t.claim claims, and says in t.claims and t.ids what.
const planStage = `
create schema t;
create function t.task(variadic names text[]) returns integer[] language sql as $$
  select array_agg(offstage_private.task_id(x) order by o) from unnest(names) with ordinality u (x, o)
$$;
create table t.claimed (claim bigint, job_id bigint, job_ctid tid);
create function t.claim(n integer, task text) returns void language sql as $$
  insert into t.claimed select claim, job_id, job_ctid from offstage.claim(1, n, t.task(task)) where kind = 'job'
$$;
create function t.claims() returns bigint[] language sql as $$ select array_agg(claim order by job_id) from t.claimed $$;
create function t.ids() returns bigint[] language sql as $$ select array_agg(job_id order by job_id) from t.claimed $$;
create function t.ctids() returns tid[] language sql as $$ select array_agg(job_ctid order by job_id) from t.claimed $$;
create function t.logs() returns json[] language sql as $$ select array_agg('[{"n": 1, "after": 1, "level": "info", "message": "a line"}]'::json) from t.claimed $$;
create function t.endings(variadic list text[]) returns json language sql as $$
  select json_agg(json_build_object('claim', claim, 'job_id', job_id, 'ending', list[1 + claim % cardinality(list)])) from t.claimed
$$;
create function t.some() returns void language plpgsql as $$
begin
  insert into t.claimed (job_id) (select job_id from offstage_private.parked order by queue_id, lane_id, priority, run_at, job_id limit 1);
  insert into t.claimed (job_id) (select job_id from offstage_private.scheduled order by run_at, job_id limit 1);
  insert into t.claimed (job_id) (select job_id from offstage_private.ticket order by lane_id, priority, run_at, job_id limit 1);
  insert into t.claimed (job_id) (select id from offstage_private.job where failed order by id limit 1);
end $$;
create function t.sharing() returns void language sql as $$
  insert into t.claimed (job_id) select unnest(x.job_ids[3:7]) from (select * from offstage_private.ticket where jobs > 1 order by lane_id, priority, run_at, job_id limit 1) x
$$;
create function t.due(n integer) returns void language plpgsql as $$
begin
  insert into t.claimed (job_id) select job_id from offstage_private.scheduled order by run_at, job_id limit n;
  update offstage_private.scheduled set run_at = now() - interval '1 h' where job_id in (select job_id from t.claimed);
  update offstage_private.job set run_at = now() - interval '1 h' where id in (select job_id from t.claimed);
end $$;
create function t.count(n integer) returns void language sql as $$
  select offstage_private.count_ended(now(), array[1], '{}', array['succeeded'], array[1], array[1]) from generate_series(1, n)
$$;
-- the queue of the task "queued" is taken
create function t.busy() returns void language sql as $$
  update offstage_private.queue_state set claims = '{1}' where queue_id = offstage_private.queue_id('busy')
$$;`

// grow adds n jobs of each kind.
const grow = `
select offstage.add_jobs(array(select row(x.task, '{}', x.queue, x.run_at, null, x.key, null, null)::offstage.job_spec
  from generate_series(1, $1::integer) n cross join lateral (values
    ('a', null, now() - interval '1 day' + n * interval '1 ms', null),
    ('b', null, now() - interval '1 day' + n * interval '1 ms', null),
    ('a', null, now() - interval '1 s' * (n % 2) + n * interval '1 h' * (n % 2), null),
    ('c', 'many' || n % 1000, now(), null)) x (task, queue, run_at, key)))`

// TestPlans: whatever the plans were made for, no call reads a table as a whole, or more rows than a few for each job
// that it handles. Autovacuum is off, so that what the planner knows is what the test says.
func TestPlans(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	for _, table := range pgtest.List[string](t, conn, `select c.oid::regclass::text from pg_class c join pg_namespace n on n.oid = c.relnamespace
		where n.nspname = 'offstage_private' and c.relkind = 'r'`) {
		pgtest.Do(t, conn, "alter table "+table+" set (autovacuum_enabled = off)")
	}
	pgtest.Do(t, conn, planStage)
	worker(t, conn, "a", "b", "queued", "parked")
	first := func() {
		pgtest.Do(t, conn, `select offstage.add_job('a', job_key => 'k'), offstage.add_job('queued', queue_name => 'busy'), offstage.add_job('parked', queue_name => 'p')`)
	}
	first()
	pgtest.Do(t, conn, `select offstage.permanently_fail_jobs(array[(select id from offstage.add_job('c'))])`)
	some := `with q as (select offstage_private.queue_id('p') as id, offstage_private.task_id('parked') as task), j as (
			insert into offstage_private.job (id, run_at, added_at, updated_at, task_id, lane_id, queue_id, priority, payload)
			select nextval('offstage_private.job_id'), now(), now(), now(), task, task, id, 0, '{}' from q, generate_series(1, $1::integer) returning *), p as (
			insert into offstage_private.parked select run_at, id, lane_id, queue_id, priority from j)
		insert into offstage_private.queue_front (run_at, job_id, queue_id, lane_id, priority)
		select '-infinity', 0, id, task, -32768 from q on conflict do nothing`
	failed := `insert into offstage_private.job (id, run_at, added_at, updated_at, task_id, lane_id, priority, payload, failed)
		select nextval('offstage_private.job_id'), now(), now(), now(), 1, 1, 0, '{}', true from generate_series(1, $1::integer)`
	history := `insert into offstage_private.history (settled_at, job_id, added_at, run_at, task_id, attempt, priority, outcome)
		select now() - n * interval '1 ms', n, now(), now(), 1, 1, 0, 'succeeded' from generate_series(1, $1::integer) n`
	log := `insert into offstage_private.log (at, job_id, claim, n, attempt, level, message)
		select now(), n / 100, n, 1, 1, 'info', 'a line' from generate_series(1, $1::integer) n`
	leases := `insert into offstage_private.lease (claim, worker_id, claimed_at, job_ids)
		select nextval('offstage_private.claim'), 1000000 + n, now(), '{1}' from generate_series(1, $1::integer / 1000) n`
	// Half of them have expired. Nobody awaits a job that is there, so that a settle finds none of them.
	waiters := `insert into offstage_private.waiter (job_id, expires_at)
		select -n - (select count(*) from offstage_private.waiter), now() + interval '1 h' * (n % 2 * 2 - 1) from generate_series(1, $1::integer) n`
	shared := `select count(offstage.add_many('shared', (select json_agg(n) from generate_series(1, least($1::integer, 1000)) n))) from generate_series(1, ($1::integer + 999) / 1000)`
	statistics := `with x as (select now() - interval '1 h' - n * interval '1 min' as at from generate_series(1, $1::integer / 20) n),
		m as (insert into offstage_private.statistic_minute select at, 1, 0, 'succeeded', 1, '{1}', '{1}' from x on conflict do nothing)
		insert into offstage_private.statistic_hour select at, 1, 0, 'succeeded', 1, '{1}', '{1}' from x on conflict do nothing`
	schedules := `insert into offstage_private.schedule (name, source, task, expression, zone, jitter, overlap, known_at, due_at, updated_at, seen_at)
		select 's' || (select count(*) from offstage_private.schedule) + n, case when n % 2 = 0 then 'crontab' else 'database' end, 'a', '@daily', 'UTC', '0', 'allow',
			now(), now() + interval '1 day' + n * interval '1 s', now(), case when n % 2 = 0 then now() - interval '1 h' end
		from generate_series(1, $1::integer) n`
	add := func(n int) {
		for _, sql := range []string{grow, shared, some, failed, history, log, leases, waiters, statistics, schedules} {
			pgtest.Do(t, conn, sql, n)
		}
	}
	add(3)
	old := db.Conn(t) // makes its plans now, generic ones from the sixth time on, and keeps them
	for range 7 {
		measure(t, "small, never analyzed", old)
	}
	add(20_000) // 100,000 jobs, and as much history
	measure(t, "grown, never analyzed, old plans", old)
	measure(t, "grown, never analyzed", db.Conn(t))
	pgtest.Do(t, conn, "analyze offstage_private.job, offstage_private.ticket, offstage_private.scheduled, offstage_private.parked, offstage_private.queue, offstage_private.queue_state, offstage_private.queue_front, offstage_private.task, offstage_private.lease, offstage_private.history, offstage_private.worker, offstage_private.statistic_raw, offstage_private.statistic_minute, offstage_private.statistic_hour, offstage_private.schedule")
	measure(t, "analyzed, old plans", old)
	measure(t, "analyzed", db.Conn(t))
	pgtest.Do(t, conn, `delete from offstage_private.job j where not failed and key is null and id % 4000 > 1`)
	pgtest.Do(t, conn, "delete from offstage_private.ticket where jobs > 1")
	for _, place := range []string{"ticket", "scheduled", "parked"} {
		pgtest.Do(t, conn, fmt.Sprintf(`delete from offstage_private.%s p where not exists (select from offstage_private.job j where j.id = p.job_id)`, place))
	}
	pgtest.Do(t, conn, "vacuum offstage_private.ticket, offstage_private.parked, offstage_private.scheduled")
	measure(t, "shrunk, statistics of before", old)
	measure(t, "shrunk, statistics of before, new plans", db.Conn(t))
	// What autovacuum finds under a steady load: large files in which nothing lives. Then there is a backlog.
	for _, table := range []string{"ticket", "scheduled", "parked", "queue_front", "lease"} {
		pgtest.Do(t, conn, "delete from offstage_private."+table)
	}
	pgtest.Do(t, conn, "delete from offstage_private.job where not failed")
	pgtest.Do(t, conn, "vacuum (analyze, truncate off) offstage_private.job, offstage_private.ticket, offstage_private.scheduled, offstage_private.parked, offstage_private.queue, offstage_private.queue_state, offstage_private.queue_front, offstage_private.lease")
	first()
	add(20_000)
	measure(t, "grown since nothing was found", db.Conn(t))
}

// measure makes every call and looks at what it has read.
func measure(t *testing.T, when string, conn *pgx.Conn) {
	t.Helper()
	read := func() (whole map[string]int, rows int) {
		t.Helper()
		got, err := conn.Query(t.Context(), `select relname, seq_scan, seq_tup_read + coalesce(idx_tup_fetch, 0)
			from pg_stat_xact_user_tables where schemaname = 'offstage_private'`)
		if err != nil {
			t.Fatal(err)
		}
		whole = map[string]int{}
		for got.Next() {
			var name string
			var scans, n int
			if err := got.Scan(&name, &scans, &n); err != nil {
				t.Fatal(err)
			}
			whole[name] = scans
			rows += n
		}
		if got.Err() != nil {
			t.Fatal(got.Err())
		}
		return whole, rows
	}
	for _, h := range hotCalls {
		func() {
			pgtest.Do(t, conn, "begin")
			defer func() {
				if _, err := conn.Exec(context.WithoutCancel(t.Context()), "rollback"); err != nil {
					t.Fatal(err)
				}
			}()
			if h.before != "" {
				pgtest.Do(t, conn, h.before)
			}
			scansBefore, before := read()
			pgtest.Do(t, conn, h.call)
			scans, after := read()
			for _, table := range []string{"job", "ticket", "scheduled", "parked", "history_rest", "log_rest", "schedule", "waiter", "statistic_raw", "statistic_minute", "statistic_hour"} {
				if scans[table] > scansBefore[table] && h.rows < 10_000 && !strings.HasPrefix(when, "s") {
					t.Errorf("%s: %s reads all of %s", when, h.name, table)
				}
			}
			if n := after - before; n > h.rows {
				t.Errorf("%s: %s reads %d rows, at most %d are allowed", when, h.name, n, h.rows)
			}
		}()
	}
}
