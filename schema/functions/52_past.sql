-- Stage 6, looked at: what history says. Nothing here reads more than a few pages for each row that it answers.

-- The attempts of a job that have ended, and its end, oldest first: when, how, by whom, with which error; payload and result where
-- the job ended. At most 1000. No rows: none has ended, none was kept, or the job is unknown.
create or replace function offstage.job_history(job_id bigint)
returns table (
  settled_at timestamptz, outcome text, attempt smallint, worker text, added_at timestamptz, run_at timestamptz, claimed_at timestamptz,
  error text, payload json, result json
)
language plpgsql stable
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
begin
  return query
    select h.settled_at, h.outcome, h.attempt, 'worker-' || h.worker_id, h.added_at, h.run_at, h.claimed_at, h.error, h.payload, h.result
    from offstage_private.history h where h.job_id = job_history.job_id
    order by h.settled_at + interval '0', h.claim nulls last, h.payload is not null limit 1000;  -- + 0: by job_id, not by settled_at
end $$;

-- What ended lately, newest first: attempts and jobs, of one task or with one outcome if wanted. For the next page give
-- settled_at and job_id of the last row as before and before_job. A filter looks at 20,000 entries and not further; where it
-- stops, a last row without an outcome says from where to go on. Of entries that ended in the same moment as the last one it
-- may answer some more than max_rows. Payloads and results are with job_history(). No rows: nothing older.
create or replace function offstage.history(
  task text default null,
  ended_as text default null,
  before timestamptz default null,
  before_job bigint default null,
  since timestamptz default null,
  max_rows integer default 100
) returns table (
  settled_at timestamptz, job_id bigint, task_identifier text, queue_name text, key text, priority smallint, outcome text,
  attempt smallint, worker text, added_at timestamptz, run_at timestamptz, claimed_at timestamptz, error text
)
language plpgsql stable
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off
as $$
declare
  wanted integer := least(greatest(max_rows, 1), 10000);
  looks integer := case when task is null and ended_as is null then wanted + 10 else 20000 end;
begin
  return query
    with near as materialized (
      select h.settled_at, h.job_id, h.task_id, h.queue_id, h.key, h.priority, h.outcome, h.attempt, h.worker_id, h.added_at, h.run_at, h.claimed_at, h.error
      from offstage_private.history h
      where h.settled_at >= coalesce(since, '-infinity') and h.settled_at <= coalesce(before, 'infinity')
        and (h.settled_at, h.job_id) < (coalesce(before, 'infinity'), coalesce(before_job, 9223372036854775807))
      order by h.settled_at desc, h.job_id desc limit looks
    ), fit as materialized (
      select n.* from near n
      where (ended_as is null or n.outcome = ended_as)
        and (task is null or n.task_id = (select t.id from offstage_private.task t where t.name = task))
      order by n.settled_at desc, n.job_id desc fetch first (wanted) rows with ties
    )
    select f.settled_at, f.job_id, t.name, q.name, f.key, f.priority, f.outcome, f.attempt, 'worker-' || f.worker_id, f.added_at, f.run_at, f.claimed_at, f.error
    from fit f
    join offstage_private.task t on t.id = f.task_id
    left join offstage_private.queue q on q.id = f.queue_id
    union all
    select n.settled_at, n.job_id, null, null, null, null, null, null, null, null, null, null, null
    from (select o.settled_at, o.job_id from near o order by o.settled_at, o.job_id limit 1) n
    where (select count(*) from near) = looks and (select count(*) from fit) < wanted
    order by 1 desc, 2 desc, 7 nulls last;
end $$;
