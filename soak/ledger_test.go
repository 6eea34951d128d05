//go:build soak && unix

package soak_test

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// checks are queries that must have no rows. Their one column says what is wrong. "entry" is history in short: outcomes
// that end an attempt, those that end the job, refused results. An entry without claimed_at is of a claim that never came
// to be: it is written when its worker is connected again, perhaps after the job has ended elsewhere.
var checks = []struct{ what, sql string }{
	{"jobs that nobody has committed", `
		select format('job %s (%s)', j.id, j.source) from (
			select id, 'job' as source from offstage_private.job union all select distinct job_id, 'history' from offstage_private.history) j
		where not exists (select from app.added a where a.job_id = j.id)`},
	{"committed jobs that are lost", `
		select format('job %s (%s, key %s)', a.job_id, a.how, a.key) from app.added a
		where not exists (select from offstage_private.job j where j.id = a.job_id)
			and not exists (select from offstage_private.history h where h.job_id = a.job_id and h.outcome = any ('{succeeded,cancelled,removed,completed}'))`},
	{"jobs that have ended more than once", `
		select format('job %s: %s', h.job_id, array_agg(h.outcome order by h.settled_at)) from offstage_private.history h
		where h.outcome = any ('{succeeded,cancelled,removed,completed}') group by h.job_id having count(*) > 1`},
	{"jobs that have ended and are still there", `
		select format('job %s: %s', h.job_id, h.outcome) from offstage_private.history h join offstage_private.job j on j.id = h.job_id
		where h.outcome = any ('{succeeded,cancelled,removed,completed}')`},
	{"jobs of which history goes on after their end", `
		select format('job %s: %s after %s', h.job_id, o.outcome, h.outcome)
		from offstage_private.history h join offstage_private.history o on o.job_id = h.job_id and o.settled_at > h.settled_at
		where h.outcome = any ('{succeeded,cancelled,removed,completed}') and o.outcome <> 'refused' and o.claimed_at is not null`},
	{"failed jobs of which history does not say so", `
		select format('job %s: attempts %s of %s, %s; history %s', j.id, j.attempts, offstage_private.attempts_of(j, offstage_private.task_of(j.task_id)), j.last_error,
			array(select h.outcome from offstage_private.history h where h.job_id = j.id order by h.settled_at))
		from offstage_private.job j
		where j.failed and not exists (select from offstage_private.history h where h.job_id = j.id and h.outcome = 'failed')`},
	{"claims that have ended more than once", `
		select format('job %s, claim %s: %s', h.job_id, h.claim, array_agg(h.outcome order by h.settled_at)) from offstage_private.history h
		where h.claim is not null and h.claimed_at is not null group by h.job_id, h.claim
		having count(*) filter (where h.outcome not in ('rescued', 'refused')) > 1 or count(*) filter (where h.outcome = 'rescued') > 1
			or count(*) filter (where h.outcome = 'refused') > 1
			or bool_or(h.outcome = 'rescued') and bool_or(h.outcome not in ('rescued', 'refused', 'failed', 'cancelled'))
			or bool_or(h.outcome = 'refused') and not bool_or(h.outcome = 'rescued')`},
	{"runs under a claim of which history says nothing", `
		select format('job %s, claim %s, pid %s, ended %s', r.job_id, r.claim, r.pid, r.ending) from app.run r
		where r.claim is not null and not exists (select from offstage_private.history h where h.job_id = r.job_id and h.claim = r.claim)`},
	{"claims under which a job ran twice", `
		select format('job %s, claim %s, pids %s', r.job_id, r.claim, array_agg(r.pid)) from app.run r
		where r.claim is not null group by r.job_id, r.claim having count(*) > 1`},
	{"runs under no claim, without a trace of why", `
		select format('job %s, pid %s at %s, ended %s; history %s', r.job_id, r.pid, r.started_at, r.ending,
			array(select h.outcome || ' ' || h.settled_at::time from offstage_private.history h where h.job_id = r.job_id order by h.settled_at)) from app.run r
		where r.claim is null and not exists (select from offstage_private.history h where h.job_id = r.job_id and h.outcome in ('rescued', 'released'))`},
	{"runs that never ended, and were not rescued", `
		select format('job %s, claim %s, pid %s: %s', r.job_id, r.claim, r.pid, h.outcome) from app.run r
		join offstage_private.history h on h.job_id = r.job_id and h.claim = r.claim
		where r.ended_at is null and h.outcome not in ('rescued', 'refused')
			and not (h.outcome in ('failed', 'cancelled') and exists (select from offstage_private.history o where o.job_id = r.job_id and o.claim = r.claim and o.outcome = 'rescued'))
			and not (h.outcome = 'succeeded' and exists (select from app.effect e where e.job_id = r.job_id))`},
	{"successes that no handler knows of", `
		-- A handler whose own transaction has ended its job (app.effect) may never have learned that it was committed.
		select format('job %s, claim %s of worker %s; its runs ended %s', h.job_id, h.claim, h.worker_id,
			array(select r.ending from app.run r where r.job_id = h.job_id order by r.id))
		from offstage_private.history h
		where h.outcome = 'succeeded' and not exists (select from app.run r where r.job_id = h.job_id and r.claim = h.claim
			and (r.ending = 'ok' or exists (select from app.effect e where e.job_id = r.job_id)))`},
	{"runs after the job had ended", `
		select format('job %s ended at %s, runs again at %s under claim %s', h.job_id, h.settled_at, r.started_at, r.claim)
		from offstage_private.history h join app.run r on r.job_id = h.job_id and r.started_at > h.settled_at and r.claim is distinct from h.claim
		where h.outcome = any ('{succeeded,cancelled,removed,completed}') and r.claim is not null`},
	{"effects of handlers that are not there exactly once", `
		select format('job %s: %s effects', e.job_id, count(*)) from app.effect e group by e.job_id
		having count(*) <> 1 or not exists (select from offstage_private.history h where h.job_id = e.job_id and h.outcome = 'succeeded')`},
	{"jobs that were rescued from a worker that lives", `
		select format('job %s, worker %s', h.job_id, h.worker_id) from offstage_private.history h
		join offstage_private.worker w on w.id = h.worker_id where h.outcome = 'rescued' and h.claimed_at is not null and w.dead_at is null`},
	{"queues in which more jobs ran at a time, under valid claims, than may", `
		with valid as (
			-- A claim ends to be valid when it is settled or rescued, whatever its handler does.
			select r.queue, r.started_at, least(r.ended_at, (select min(h.settled_at) from offstage_private.history h
				where h.job_id = r.job_id and h.claim = r.claim and h.outcome <> 'refused')) as ended_at
			from app.run r where r.queue is not null and r.claim is not null
		), event as (
			select queue, started_at as at, 1 as d from valid union all select queue, ended_at, -1 from valid where ended_at is not null
		), sum as (
			select queue, at, sum(d) over (partition by queue order by at, d) as n from event
		)
		select format('queue %s: %s at a time, first at %s, %s times', s.queue, max(s.n), min(s.at), count(*))
		from sum s join offstage.queues q on q.queue_name = s.queue where s.n > q.concurrency group by s.queue`},
	{"what is left over", `
		select format('%s: %s', what, n) from (values
			('jobs that have not failed', (select count(*) from offstage_private.job where not failed)),
			('tickets', (select count(*) from offstage_private.ticket)), ('stubs', (select count(*) from offstage_private.stub)), ('scheduled', (select count(*) from offstage_private.scheduled)),
			('parked', (select count(*) from offstage_private.parked)), ('leases', (select count(*) from offstage_private.lease)),
			('handovers', (select count(*) from offstage_private.handover)), ('workers to be unlocked', (select count(*) from offstage_private.unlock)),
			('slots', (select coalesce(sum(cardinality(claims)), 0) from offstage_private.queue_state)),
			('workers', (select count(*) from offstage_private.worker where dead_at is null)),
			-- A job that has failed keeps its progress, and a cancellation that came too late for its last attempt.
			('progress of jobs that have not failed', (select count(*) from offstage_private.progress p join offstage_private.job j on j.id = p.job_id where not j.failed)),
			('cancellations of jobs that have not failed', (select count(*) from offstage_private.cancellation c join offstage_private.job j on j.id = c.job_id where not j.failed)),
			('sleepers', (select count(*) from pg_catalog.pg_locks l join pg_catalog.pg_database d on d.oid = l.database
				where l.locktype = 'advisory' and d.datname = current_database()))
		) x (what, n) where n > 0`},
}

// ledger does all checks.
func (s *soak) ledger() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Minute)
	defer cancel()
	s.exec(`create index on app.added (job_id)`)
	s.exec(`create index on app.run (job_id)`)
	s.exec(`create index on app.effect (job_id)`)
	s.exec(`analyze app.added, app.run, app.effect, offstage_private.history, offstage_private.job`)
	for _, c := range checks {
		rows, err := s.watch.Query(ctx, c.sql)
		var wrong []string
		if err == nil {
			wrong, err = pgx.CollectRows(rows, pgx.RowTo[string])
		}
		if err != nil {
			s.complain("%s: %v", c.what, err)
		}
		if n := len(wrong); n > 0 {
			text := fmt.Sprintf("%d %s", n, c.what)
			for _, w := range wrong[:min(n, 8)] {
				text += "\n            " + w
			}
			s.complain("%s", text)
		}
	}
}

// summary prints the figures.
func (s *soak) summary() {
	var jobs, late int64
	var outcomes, waits string
	s.look(`select count(distinct job_id) from app.added`, nil, &jobs)
	s.look(`select coalesce(string_agg(outcome || ' ' || n, ', ' order by n desc), '') from (select outcome, count(*) as n from offstage_private.history group by 1) x`, nil, &outcomes)
	s.look(`select count(*) from app.run where claim is null`, nil, &late)
	// From when a job exists for others and its time has come, until its handler runs.
	s.look(`
		with first as (
			select distinct on (r.job_id) r.job_id, r.started_at, h.run_at from app.run r
			join offstage_private.history h on h.job_id = r.job_id and h.claim = r.claim
			where r.queue is null
				and not exists (select from offstage_private.history f where f.job_id = r.job_id and f.outcome = 'failed')  -- perhaps retried by hand
			order by r.job_id, r.id
		), wait as (
			select extract(epoch from f.started_at - greatest(f.run_at, pg_catalog.pg_xact_commit_timestamp(a.xmin))) * 1000 as ms
			from first f join app.added a on a.job_id = f.job_id where a.key is null
		)
		select format('%s jobs: p50 %s ms, p90 %s ms, p99 %s ms, p99.9 %s ms, max %s ms', count(*), round(percentile_cont(0.5) within group (order by ms)::numeric, 1),
			round(percentile_cont(0.9) within group (order by ms)::numeric, 1), round(percentile_cont(0.99) within group (order by ms)::numeric),
			round(percentile_cont(0.999) within group (order by ms)::numeric), round(max(ms)::numeric)) from wait`, nil, &waits)
	seconds := time.Since(s.began).Seconds()
	s.say("seed %d: %d jobs in %.0f s (%.0f/s), %d transactions, %d rolled back, %d times 40001, %d deeds by hand", *seed, jobs, seconds,
		float64(jobs)/seconds, s.transactions.Load(), s.rolledBack.Load(), s.serialization.Load(), s.meddled.Load())
	s.say("%d kills, %d stops, %d restarts; %d attempts began after their claim was lost", s.kills.Load(), s.stops.Load(), s.restarts.Load(), late)
	s.say("history: %s", outcomes)
	s.say("wait from commit (or run_at) to start, without queue and key: %s", waits)
	if n := s.complaints.Load(); n > 0 {
		s.say("%d COMPLAINTS", n)
	} else {
		s.say("the ledger is exact")
	}
}
