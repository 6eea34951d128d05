package schema_test

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/offstage-dev/offstage/internal/pgtest"
)

// many is how many jobs stand in the way.
const many = 100_000

// buffers runs a call and answers how many pages it has touched, what is nested in it included. What it did is undone.
func buffers(t testing.TB, conn *pgx.Conn, call string, args ...any) int {
	t.Helper()
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.WithoutCancel(t.Context()))
	var plan []byte
	if err := tx.QueryRow(t.Context(), "explain (analyze, buffers, format json) "+call, args...).Scan(&plan); err != nil {
		t.Fatalf("%s: %v", call, err)
	}
	var parsed []struct {
		Plan struct {
			Hit  int `json:"Shared Hit Blocks"`
			Read int `json:"Shared Read Blocks"`
		}
	}
	if err := json.Unmarshal(plan, &parsed); err != nil {
		t.Fatal(err)
	}
	return parsed[0].Plan.Hit + parsed[0].Plan.Read
}

// least is the smallest of three measurements of the same: the first one makes the plans, and one may come just when the session has to
// read the catalog again, because others have changed more of it at once than the server remembers (4096 messages).
func least(measure func() int) int { return min(measure(), measure(), measure()) }

// marks are those that claims answered, and that a worker would make from its jobs: the last of each lane and priority.
type marks struct {
	lanes      []int32
	priorities []int16
	runAts     []any
	ids        []int64
}

func (m marks) args(worker int32, want int, tasks []int32) []any {
	if m.lanes == nil {
		return []any{worker, want, tasks, []string{"no"}, nil, nil, nil, nil}
	}
	return []any{worker, want, tasks, []string{"no"}, m.lanes, m.priorities, m.runAts, m.ids}
}

const claimCall = `select * from offstage.claim($1, $2, $3, $4, $5, $6, $7, $8)`

// fill adds n jobs of a task with tickets, or with rows in scheduled when they are due later, faster than add_jobs.
const fill = `
with added as (
  insert into offstage_private.job (id, run_at, added_at, updated_at, task_id, lane_id, queue_id, priority, payload, failed)
  select nextval('offstage_private.job_id'), now() + $2::interval, now(), now(), t, coalesce($3, t), $4, $5, '{}', $6
  from generate_series(1, $7), offstage_private.task_id($1) t
  returning id, run_at, lane_id, queue_id, priority, failed
), tickets as (
  insert into offstage_private.ticket (run_at, job_id, lane_id, queue_id, priority)
  select run_at, id, lane_id, queue_id, priority from added where run_at <= now() and not failed
)
insert into offstage_private.scheduled (run_at, job_id, lane_id, queue_id, priority)
select run_at, id, lane_id, queue_id, priority from added where run_at > now() and not failed`

type filling struct {
	task     string
	in       string // interval
	lane     *int32
	queue    *int32
	priority int16
	failed   bool
}

func (f filling) add(t testing.TB, db pgtest.Querier, n int) {
	t.Helper()
	if f.in == "" {
		f.in = "0"
	}
	pgtest.Do(t, db, fill, f.task, f.in, f.lane, f.queue, f.priority, f.failed, n)
}

// TestBacklogsOfManyTasks: a claim does not read of each task as many tickets as it wants of all.
func TestBacklogsOfManyTasks(t *testing.T) {
	t.Parallel()
	const want, each = 200, 500
	conn := pgtest.New(t).Conn(t)
	names := make([]string, 40)
	for i := range names {
		names[i] = fmt.Sprint("task ", i)
	}
	id, tasks := worker(t, conn, names...)
	for _, name := range names {
		filling{task: name}.add(t, conn, each)
	}
	for _, one := range []struct {
		what string
		add  func()
	}{
		{"as many of each", func() {}},
		{"most of one", func() { filling{task: names[7], in: "-1 s"}.add(t, conn, each) }},
	} {
		one.add()
		tx, err := conn.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer tx.Rollback(context.WithoutCancel(t.Context()))
		const read = "select idx_tup_fetch from pg_stat_xact_user_tables where schemaname = 'offstage_private' and relname = 'ticket'"
		before := one64(t, tx, read)
		if n := one64(t, tx, "select count(*) from ("+claimCall+") c where kind = 'job'", marks{}.args(id, want, tasks)...); n != want {
			t.Errorf("%s: a claim got %d jobs, want %d", one.what, n, want)
		}
		n := one64(t, tx, read) - before
		t.Logf("%s: read %d tickets", one.what, n)
		if n > 20*want {
			t.Errorf("%s: a claim of %d jobs of %d tasks read %d tickets, more than %d", one.what, want, len(tasks), n, 20*want)
		}
		if err := tx.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// TestBacklog: what cannot run costs a claim nothing (invariant 5). Before each kind there are the others.
func TestBacklog(t *testing.T) {
	t.Parallel()
	conn := pgtest.New(t).Conn(t)
	id, tasks := worker(t, conn, "runs", "also", "paused")
	one, several := tasks[:1], tasks
	pgtest.Do(t, conn, "select offstage.pause_task('paused')")
	busy := one32(t, conn, "select offstage_private.queue_id('busy')")
	forbidden := one32(t, conn, "select offstage_private.lane_id($1, '{\"no\": true}')", tasks[0])
	filling{task: "runs"}.add(t, conn, 10)

	var m marks
	look := func(kind string) {
		t.Helper()
		for _, tasks := range [][]int32{one, several} {
			for _, want := range []int{10, 1000} {
				got := one64(t, conn, "select count(*) from ("+claimCall+") c where kind = 'job'", m.args(id, want, tasks)...)
				if got != 10 {
					t.Errorf("%s: a claim of %d tasks got %d jobs, want 10", kind, len(tasks), got)
				}
				pgtest.Do(t, conn, "select offstage.recall($1, null)", id)
				// Twice: the first look after many rows have gone cleans up behind them.
				if n := least(func() int { return buffers(t, conn, claimCall, m.args(id, want, tasks)...) }); n > 300 {
					t.Errorf("%s: a claim of %d tasks touches %d pages", kind, len(tasks), n)
				} else {
					t.Logf("%s: %d tasks, want %d: %d pages", kind, len(tasks), want, n)
				}
			}
		}
	}
	look("nothing in the way")
	filling{task: "runs", in: "1 day", priority: -1}.add(t, conn, many)
	look("in the future")
	filling{task: "runs", in: "-1 day", priority: -1, failed: true}.add(t, conn, many)
	look("failed")
	filling{task: "paused", in: "-1 day", priority: -1}.add(t, conn, many)
	look("of a paused task")
	filling{task: "unknown", in: "-1 day", priority: -1}.add(t, conn, many)
	look("of an unknown task")
	filling{task: "runs", in: "-1 day", priority: -1, lane: &forbidden}.add(t, conn, many)
	look("with forbidden flags")

	filling{task: "runs", in: "-1 day", priority: -1, queue: &busy}.add(t, conn, many)
	pgtest.Do(t, conn, "select offstage.pause_queue('busy')")
	for range 200 { // the first pass parks them, as many as it is allowed to at a time
		rows, err := conn.Query(t.Context(), "select kind, lane_id, priority, run_at, job_id from ("+claimCall+") c", m.args(id, 1000, one)...)
		if err != nil {
			t.Fatal(err)
		}
		again := false
		for rows.Next() {
			var kind string
			var lane *int32
			var priority *int16
			var runAt any
			var job *int64
			if err := rows.Scan(&kind, &lane, &priority, &runAt, &job); err != nil {
				t.Fatal(err)
			}
			switch kind {
			case "mark":
				m = marks{[]int32{*lane}, []int16{*priority}, []any{runAt}, []int64{*job}}
			case "again":
				again = true
			}
		}
		if rows.Err() != nil {
			t.Fatal(rows.Err())
		}
		pgtest.Do(t, conn, "select offstage.recall($1, null)", id)
		if !again {
			break
		}
	}
	if n := one64(t, conn, "select count(*) from offstage_private.parked"); n != many {
		t.Fatalf("%d are parked, want %d", n, many)
	}
	look("parked behind a busy queue")
}

// TestDeadSharedTickets: nor do those that jobs have shared, whatever is asked about one of the jobs.
func TestDeadSharedTickets(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn, old := db.Conn(t), db.Conn(t)
	id, tasks := worker(t, conn, "runs", "also")
	for task, n := range map[string]int{"runs": many, "also": many / 20} {
		pgtest.Do(t, conn, "select offstage.add_many($1, (select json_agg(n) from generate_series(1, $2) n), run_at => '2020-01-01 UTC')", task, n)
	}
	pgtest.Do(t, old, "begin isolation level repeatable read")
	pgtest.Do(t, old, "select 1 from offstage_private.ticket limit 1")
	var m marks
	for _, task := range tasks {
		m.lanes, m.priorities, m.runAts = append(m.lanes, task), append(m.priorities, 0), append(m.runAts, time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC))
		m.ids = append(m.ids, one64(t, conn, "select max(job_ids[jobs]) from offstage_private.ticket where lane_id = $1", task))
	}
	pgtest.Do(t, conn, "delete from offstage_private.ticket") // as claims do
	analyze(t, conn)
	for n, names := range [][]string{{"runs"}, {"runs", "also"}} {
		for _, name := range names {
			pgtest.Do(t, conn, "select offstage.add_many($1, (select json_agg(n) from generate_series(1, 40) n))", name)
		}
		some := marks{m.lanes[:n+1], m.priorities[:n+1], m.runAts[:n+1], m.ids[:n+1]}
		if n := least(func() int { return buffers(t, conn, claimCall, some.args(id, 50, tasks[:n+1])...) }); n > 200 {
			t.Errorf("a claim of %v touches %d pages", names, n)
		} else {
			t.Logf("a claim of %v touches %d pages", names, n)
		}
		if got := one64(t, conn, "select count(*) from ("+claimCall+") c where kind = 'job'", some.args(id, 40, tasks[:n+1])...); got != 40 {
			t.Errorf("claimed %d of 40 of %v", got, names)
		}
	}
	for _, call := range []string{ // of one whose ticket is gone
		"select offstage_private.state_of(j) from offstage_private.job j where id = $1", "select offstage.complete_jobs(array[$1::bigint])", "select offstage.explain($1)",
	} {
		if n := least(func() int { return buffers(t, conn, call, m.ids[0]) }); n > 250 {
			t.Errorf("%s: touches %d pages", call, n)
		} else {
			t.Logf("%s: touches %d pages", call, n)
		}
	}
}

// TestDeadTickets: tickets that are gone, but that an old snapshot still sees, cost nothing to whoever gives marks
// (invariant 6).
func TestDeadTickets(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn, old := db.Conn(t), db.Conn(t)
	id, tasks := worker(t, conn, "runs", "also")
	filling{task: "runs", in: "-1 day"}.add(t, conn, many)
	filling{task: "also", in: "-1 day", priority: 1}.add(t, conn, many)
	pgtest.Do(t, old, "begin isolation level repeatable read")
	pgtest.Do(t, old, "select 1 from offstage_private.ticket limit 1")
	var m marks
	for i, task := range tasks { // also has priority 1
		var runAt any
		var last int64
		err := conn.QueryRow(t.Context(), "select run_at, job_id from offstage_private.ticket where lane_id = $1 order by priority desc, run_at desc, job_id desc limit 1", task).Scan(&runAt, &last)
		if err != nil {
			t.Fatal(err)
		}
		m.lanes, m.priorities = append(m.lanes, task), append(m.priorities, int16(i))
		m.runAts, m.ids = append(m.runAts, runAt), append(m.ids, last)
	}
	pgtest.Do(t, conn, "delete from offstage_private.ticket") // as claims do
	pgtest.Do(t, conn, "delete from offstage_private.job")
	analyze(t, conn)
	for _, queued := range []bool{false, true} {
		var queue *int32
		for range 10 {
			if queued {
				q := one32(t, conn, "select offstage_private.queue_id('q' || nextval('offstage_private.job_id'))")
				queue = &q
			}
			filling{task: "runs", queue: queue}.add(t, conn, 1)
		}
		first := marks{m.lanes[:1], m.priorities[:1], m.runAts[:1], m.ids[:1]}
		for _, c := range []struct {
			m     marks
			tasks []int32
		}{{first, tasks[:1]}, {m, tasks}, {m, tasks[:1]}} {
			if n := least(func() int { return buffers(t, conn, claimCall, c.m.args(id, 10, c.tasks)...) }); n > 400 {
				t.Errorf("a claim of %d tasks with %d marks, queues: %t: touches %d pages", len(c.tasks), len(c.m.lanes), queued, n)
			} else {
				t.Logf("a claim of %d tasks with %d marks, queues: %t: touches %d pages", len(c.tasks), len(c.m.lanes), queued, n)
			}
		}
		got := one64(t, conn, "select count(*) from ("+claimCall+") c where kind = 'job'", m.args(id, 10, tasks)...)
		if got != 10 {
			t.Errorf("claimed %d of 10", got)
		}
	}
	filling{task: "runs"}.add(t, conn, 10)

	// Settling finds rows of jobs and leases among the dead ones.
	pgtest.Do(t, conn, `insert into offstage_private.lease (claim, worker_id, claimed_at, job_ids)
		select nextval('offstage_private.claim'), $1, now(), '{1}' from generate_series(1, $2::integer)`, id, many)
	pgtest.Do(t, conn, "delete from offstage_private.lease")
	analyze(t, conn)
	pgtest.Do(t, conn, "create table offstage.held (claim bigint, job_id bigint, job_ctid tid)")
	pgtest.Do(t, conn, "insert into offstage.held select claim, job_id, job_ctid from ("+claimCall+") c where kind = 'job'", m.args(id, 10, tasks)...)
	for name, call := range map[string]string{
		"successes":                "select offstage.settle($1, array_agg(claim order by job_id), array_agg(job_id order by job_id), job_ctids => array_agg(job_ctid order by job_id)) from offstage.held",
		"successes without places": "select offstage.settle($1, array_agg(claim order by job_id), array_agg(job_id order by job_id)) from offstage.held",
		"retries":                  "select offstage.settle($1, null, null, endings => json_agg(json_build_object('claim', claim, 'job_id', job_id, 'ending', 'retry'))) from offstage.held",
		"cancellations":            "select offstage.settle($1, null, null, endings => json_agg(json_build_object('claim', claim, 'job_id', job_id, 'ending', 'cancel'))) from offstage.held",
		"endings of its own":       "select offstage.settle($1, null, null, endings => json_agg(json_build_object('claim', claim, 'job_id', job_id, 'ending', 'finished', 'queue_id', 1))) from offstage.held",
		"not ours":                 "select offstage.settle($1, array_agg(claim + 1024000 order by job_id), array_agg(job_id order by job_id)) from offstage.held",
		"finish":                   "select offstage.finish($1, claim, job_id) from (select * from offstage.held limit 1) h",
	} {
		if n := least(func() int { return buffers(t, conn, call, id) }); n > 400 {
			t.Errorf("settle, %s: touches %d pages", name, n)
		} else {
			t.Logf("settle, %s: touches %d pages", name, n)
		}
	}
	pgtest.Do(t, old, "rollback")
}

// turnStage has what a worker of one serial queue does: it settles its job and claims the next one in the same transaction.
const turnStage = `
create table offstage.at as select 0::bigint as claim, 0::bigint as job_id, timestamptz '-infinity' as run_at,
  timestamptz '-infinity' as mark_run_at, 0::bigint as mark_job_id;
create function offstage.turn(w integer, tasks integer[]) returns void language plpgsql as $$
declare
  o record;
begin
  select * into o from offstage.at;
  if o.claim > 0 then
    perform offstage.settle(w, array[o.claim], array[o.job_id], emptied => array(select claim from offstage_private.lease where claim < (o.claim & -1024) and worker_id = w));
  end if;
  update offstage.at set (claim, job_id, run_at) = (
    select c.claim, c.job_id, c.run_at
    from offstage.claim(w, 1000, tasks, null, tasks, '{0}', array[o.mark_run_at], array[o.mark_job_id]) c where kind = 'job');
  update offstage.at set (mark_run_at, mark_job_id) = (run_at, job_id) where (run_at, job_id) > (mark_run_at, mark_job_id);
  if not exists (select from offstage.at where claim is not null) then
    raise exception 'nothing to claim behind job %', o.job_id;
  end if;
end $$;
create procedure offstage.turns(w integer, tasks integer[], n integer) language plpgsql as $$
begin
  for i in 1..n loop
    perform offstage.turn(w, tasks);
    commit;
  end loop;
end $$;`

// TestDeadQueue: what has been parked in a queue and is gone, and the queue's own past, cost its next turn nothing, also
// while an old snapshot sees all of it (invariant 6).
func TestDeadQueue(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn, old := db.Conn(t), db.Conn(t)
	id, tasks := worker(t, conn, "runs")
	queue := one32(t, conn, "select offstage_private.queue_id('q')")
	pgtest.Do(t, conn, turnStage)
	filling{task: "runs", queue: &queue}.add(t, conn, 1000)
	pgtest.Do(t, old, "begin isolation level repeatable read")
	pgtest.Do(t, old, "select 1 from offstage_private.ticket limit 1")
	pgtest.Do(t, conn, "call offstage.turns($1, $2, 1)", id, tasks) // parks the other 999
	pgtest.Do(t, conn, "update offstage.at set (mark_run_at, mark_job_id) = (select run_at, job_id from offstage_private.parked order by run_at desc, job_id desc limit 1)")
	pgtest.Do(t, conn, `with j as (
		insert into offstage_private.job (id, run_at, added_at, updated_at, task_id, lane_id, queue_id, priority, payload)
		select nextval('offstage_private.job_id'), now(), now(), now(), $1, $1, $2, 0, '{}' from generate_series(1, $3::integer) returning *)
		insert into offstage_private.parked select run_at, id, lane_id, queue_id, priority from j`, tasks[0], queue, many)

	look := func(when string) {
		t.Helper()
		const call = "select offstage.turn($1, $2)"
		if n := least(func() int { return buffers(t, conn, call, id, tasks) }); n > 400 {
			t.Errorf("%s: a turn touches %d pages", when, n)
		} else {
			t.Logf("%s: a turn touches %d pages", when, n)
		}
	}
	look("at first")
	pgtest.Do(t, conn, "call offstage.turns($1, $2, 900)", id, tasks)
	look("after 900 turns")
	analyze(t, conn) // as autovacuum does at any time: there is hardly a ticket, so that to read them all seems to cost nothing
	look("after 900 turns, analyzed")
	pgtest.Do(t, conn, `delete from offstage_private.parked p where p.ctid = any (array(
		select ctid from offstage_private.parked order by priority, run_at, job_id limit $1))`, many/2) // as remove_job does
	pgtest.Do(t, conn, "call offstage.turns($1, $2, 300)", id, tasks) // one of about 17 steps over them for the last time
	look("after half of the line was removed")
	pgtest.Do(t, conn, "select offstage.add_job('runs', queue_name => 'q', run_at => '2020-01-01')")
	pgtest.Do(t, conn, "update offstage.at set mark_run_at = '-infinity', mark_job_id = 0") // as the wake makes the worker do
	pgtest.Do(t, conn, "call offstage.turns($1, $2, 1)", id, tasks)
	if got := pgtest.One[string](t, conn, "select to_char(run_at, 'YYYY') from offstage.at"); got != "2020" {
		t.Errorf("a job that is more urgent than all that are parked did not come first: %s", got)
	}
	pgtest.Do(t, old, "rollback")
}

// TestDeadScheduled: what was scheduled and is gone, but that an old snapshot still sees, costs a look at what is recent nothing.
func TestDeadScheduled(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn, old := db.Conn(t), db.Conn(t)
	pgtest.Do(t, conn, "select offstage.add_job('a', run_at => clock_timestamp() + interval '1 h')")
	pgtest.Do(t, old, "begin isolation level repeatable read")
	pgtest.Do(t, old, "select 1 from offstage_private.scheduled limit 1")
	pgtest.Do(t, conn, `insert into offstage_private.scheduled (run_at, job_id, lane_id, priority)
		select clock_timestamp() - interval '1 min' - n * interval '1 ms', -n, 1, 0 from generate_series(1, $1::integer) n`, many)
	pgtest.Do(t, conn, "delete from offstage_private.scheduled where job_id < 0")
	all := least(func() int { return buffers(t, conn, "select * from offstage.promote()") })
	recent := least(func() int { return buffers(t, conn, "select * from offstage.promote(recent => '1 s')") })
	if all < 500 || recent > 50 {
		t.Errorf("a look at all that is scheduled touches %d pages, one at what is recent %d", all, recent)
	}
	t.Logf("a look at all that is scheduled touches %d pages, one at what is recent %d", all, recent)
	pgtest.Do(t, old, "rollback")
}

func analyze(t testing.TB, conn *pgx.Conn) {
	t.Helper()
	pgtest.Do(t, conn, `do $$ declare r regclass; begin
		for r in select oid from pg_class where relnamespace = 'offstage_private'::regnamespace and relkind = 'r' loop
			execute 'analyze ' || r;
		end loop;
	end $$`)
}

func one32(t testing.TB, db pgtest.Querier, sql string, args ...any) int32 {
	return pgtest.One[int32](t, db, sql, args...)
}
func one64(t testing.TB, db pgtest.Querier, sql string, args ...any) int64 {
	return pgtest.One[int64](t, db, sql, args...)
}
