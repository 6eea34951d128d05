-- Stage 7, told: who awaits a job, and what they are answered.

-- Says that somebody awaits these jobs until then, at most an hour from now; what awaited jobs leave in history is kept
-- whatever their tasks say, and settle() notifies "offstage:settled" with "schema:id,id,…". LISTEN first, call this in a
-- transaction of its own, then look at job_outcomes() or job_status(): a settle that did not see the rows is over in a
-- moment, so look again soon, and now and then, because notifications may be lost. Locks the rows in waiter by id.
create or replace function offstage.await_jobs(job_ids bigint[], patience interval default '1 min') returns void
language plpgsql as $$
declare
  until timestamptz := offstage_private.clock() + least(patience, interval '1 hour');
begin
  insert into offstage_private.waiter as w (job_id, expires_at)
  select distinct u, until from unnest(job_ids) u where u is not null order by u
  on conflict on constraint waiter_pkey do update set expires_at = excluded.expires_at where w.expires_at < excluded.expires_at;
end $$;

-- The same for one job.
create or replace function offstage.await_job(job_id bigint, patience interval default '1 min') returns void
language sql volatile as $$ select offstage.await_jobs(array[job_id], patience) $$;

-- What has become of these jobs, in one look, for those who await many: a row for every job that is known, with an outcome
-- if it has ended. No row: unknown, or ended and not kept. Locks nothing.
create or replace function offstage.job_outcomes(job_ids bigint[])
returns table (job_id bigint, outcome text, result json, error text)
language plpgsql stable
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
begin
  return query
    select u.id, case when j.id is null then h.outcome when j.failed then 'failed' end, h.result, case when j.id is null then h.error else j.last_error end
    from unnest(job_ids) u (id)
    left join lateral (select k.id, k.failed, k.last_error from offstage_private.job k where k.id = u.id limit 1) j on true
    left join lateral (
      select o.outcome, o.result, o.error from offstage_private.history o
      where j.id is null and o.job_id = u.id and o.outcome in ('succeeded', 'failed', 'cancelled', 'removed', 'completed')
      order by o.settled_at + interval '0' desc limit 1  -- + 0: not by way of the index on settled_at
    ) h on true
    where j.id is not null or h.outcome is not null;
end $$;

-- Whether anybody awaits any job. The row that expires last is alive unless it has expired, because nothing else deletes
-- rows in waiter: so one look is enough, however many there have been.
create or replace function offstage_private.awaited(at timestamptz) returns boolean
language sql stable as $$
  select coalesce((select true from offstage_private.waiter w where w.expires_at >= at order by w.expires_at desc limit 1), false)
$$;

-- Whether anybody awaits this job now.
create or replace function offstage_private.is_awaited(of_job bigint) returns boolean
language sql volatile as $$
  select coalesce(
    case when offstage_private.serializable() then offstage_private.waiter_apart(of_job) else (select w.expires_at from offstage_private.waiter w where w.job_id = of_job) end
      >= offstage_private.clock(), false)
$$;

-- Tells those who do.
create or replace function offstage_private.notify_waiter(job_id bigint) returns void
language sql volatile as $$ select pg_notify('offstage:settled', 'offstage' || ':' || job_id) $$;

-- Tells those who await one of these jobs: one notification for up to 350 of them, which fits whatever the ids are.
create or replace function offstage_private.notify_waiters(ids bigint[]) returns void
language plpgsql
set enable_seqscan = off
as $$
begin
  perform pg_notify('offstage:settled', 'offstage' || ':' || string_agg(x.job_id::text, ',' order by x.job_id))
  from (
    select w.job_id, (row_number() over (order by w.job_id) - 1) / 350 as part from offstage_private.waiter w where w.job_id = any (ids)
  ) x group by x.part order by x.part;
end $$;
