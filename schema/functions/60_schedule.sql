-- Stage 8: schedule, promote. Chores: every worker calls them; the one that gets the advisory lock works.

-- Gives tickets to the jobs whose time has come (at most max_jobs), and passes on the turn of queues whose ticket was
-- taken away. n counts them, next_at is when to come again at the latest: call again at once when n = max_jobs.
-- No row: another worker is at it. Locks scheduled rows (skip locked), then queues by id.
create or replace function offstage.promote(max_jobs integer default 1000) returns table (n integer, next_at timestamptz)
language plpgsql
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
declare
  at timestamptz := offstage_private.clock();
  given integer;
  due integer[];
begin
  if not pg_try_advisory_xact_lock(hashtext('offstage'), -1) then
    return;
  end if;
  with gone as (
    delete from offstage_private.scheduled s
    where s.ctid = any (array(
      select d.ctid from offstage_private.scheduled d where d.run_at <= at order by d.run_at, d.job_id limit max_jobs for update skip locked))
    returning s.*
  ), given as (
    insert into offstage_private.ticket (run_at, job_id, lane_id, queue_id, priority)
    select g.run_at, g.job_id, g.lane_id, g.queue_id, g.priority from gone g returning 1
  )
  select count(*) into n from given;

  with gone as (
    delete from offstage_private.handover h
    where h.ctid = any (array(
      select d.ctid from offstage_private.handover d where d.due_at <= at order by d.id limit max_jobs for update skip locked))
    returning h.queue_id
  )
  select array_agg(distinct g.queue_id) into due from gone g;
  if due is not null then
    perform 1 from offstage_private.queue q where q.id = any (due) order by q.id for update;
    perform offstage_private.hand_over(due);
  end if;
  if n > 0 then
    perform pg_notify('offstage:wake', 'offstage');
  end if;
  select least((select min(s.run_at) from offstage_private.scheduled s), (select min(h.due_at) from offstage_private.handover h)) into next_at;
  return next;
end $$;
