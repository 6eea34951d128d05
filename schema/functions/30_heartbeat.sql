-- Stage 4: run. A worker's life: it registers, beats, reports progress, and signs off.

-- A task with what the given settings state, and the rest as it is. Settings: {"max_attempts": 5, "retry": {...},
-- "timeout": "30 s", "keep": "failures"}; null takes the default again. Raises 22023 for what it does not understand.
create or replace function offstage_private.with_settings(t offstage_private.task, settings jsonb) returns offstage_private.task
language plpgsql stable as $$
declare
  new offstage_private.task := t;
  wrong text;
begin
  if settings is null or settings = '{}' then
    return t;
  end if;
  if jsonb_typeof(settings) <> 'object' then
    raise invalid_parameter_value using message = format('task settings must be a JSON object, not %s', jsonb_typeof(settings));
  end if;
  select k into wrong from jsonb_object_keys(settings) k where k not in ('max_attempts', 'retry', 'timeout', 'keep') limit 1;
  if found then
    raise invalid_parameter_value using message = format('unknown task setting %L', wrong),
      hint = 'Known settings: max_attempts, retry, timeout, keep. A task is paused with pause_task.';
  end if;
  if settings ->> 'keep' not in ('all', 'failures', 'none') then
    raise invalid_parameter_value using message = format('keep is %L', settings ->> 'keep'), hint = 'Expected all, failures or none.';
  end if;
  perform offstage_private.check_retry(settings -> 'retry');
  if settings ? 'max_attempts' then
    if settings ->> 'max_attempts' !~ '^-?[0-9]{1,9}$' or abs((settings ->> 'max_attempts')::integer) > 32767 then
      raise invalid_parameter_value using message = format('max_attempts is %s', settings ->> 'max_attempts'), hint = 'Expected a whole number, 1 to 32767.';
    end if;
    perform offstage_private.check_job(null, (settings ->> 'max_attempts')::integer, null, null);
    new.max_attempts := (settings ->> 'max_attempts')::smallint;
  end if;
  if settings ? 'retry' then
    new.retry := nullif(settings -> 'retry', 'null');
  end if;
  if settings ? 'timeout' then
    perform offstage_private.check_timeout(settings ->> 'timeout');
    new.timeout := (settings ->> 'timeout')::interval;
  end if;
  if settings ? 'keep' then
    new.keep := settings ->> 'keep';
  end if;
  if new is distinct from t then
    new.revision := t.revision + 1;
  end if;
  return new;
end $$;

-- The settings of tasks, as workers need them.
create or replace function offstage.task_settings(task_ids integer[])
returns table (task_id integer, task text, max_attempts smallint, timeout interval, revision integer)
language sql stable as $$
  select t.id, t.name, coalesce(t.max_attempts, 25::smallint), t.timeout, t.revision
  from offstage_private.task t where t.id = any (task_ids)
$$;

-- Makes a worker. tasks: [{"name": "send_email", "settings": {…}}, …]; settings as in configure_task; those with "unable":
-- "reason" it has but cannot perform, and forbidden the flags of jobs that it leaves to others: explain() tells. With many
-- workers the beats get rarer, n/100 seconds for n, so that a fleet costs no more than a hundred updates a second.
create or replace function offstage.register(
  host text, pid integer, version text, slots integer, tasks json, forbidden text[] default null,
  out worker_id integer, out task_ids integer[], out period interval)
language plpgsql as $$
declare
  at timestamptz := offstage_private.clock();
  t record;
begin
  task_ids := '{}';
  for t in
    select x.name, x.settings, min(x.name) over () from json_to_recordset(tasks) x (name text, settings jsonb, unable text)
    where x.unable is null order by x.name
  loop
    task_ids := task_ids || offstage_private.task_id(t.name);
    update offstage_private.task o
    set (max_attempts, retry, timeout, keep, revision) =
      (select n.max_attempts, n.retry, n.timeout, n.keep, n.revision from offstage_private.with_settings(o, t.settings) n)
    where o.id = task_ids[cardinality(task_ids)] and o is distinct from offstage_private.with_settings(o, t.settings);
  end loop;
  select greatest(1, count(*) / 100.0) * interval '1 s' into period from offstage_private.worker w where w.dead_at is null;
  insert into offstage_private.worker (host, pid, version, slots, tasks, unable, forbidden, started_at, beat_at, period)
  select register.host, register.pid, register.version, register.slots, register.task_ids, jsonb_object_agg(x.name, x.unable),
    nullif(register.forbidden, '{}'), at, at, register.period
  from json_to_recordset(tasks) x (name text, unable text) where x.unable is not null
  returning id into worker_id;
end $$;

-- Says that the worker lives, and asks what it must know: which of its claims (leases) are still its own, which of
-- its running jobs somebody wants cancelled, whether task settings have changed (settings: any other number),
-- the newest breaking migration, and what somebody wants of it: drain, to claim nothing more until that is null again;
-- stop, to end as if its process were told to. draining is what it does; deaf, for how long it has heard nothing of the
-- notifications that it sends to itself, null: it hears them. No row: it has been declared dead; all its claims are gone.
-- Locks the worker's row.
create or replace function offstage.heartbeat(worker_id integer, draining boolean default false, deaf interval default null)
returns table (period interval, claims bigint[], cancelled bigint[], reasons text[], settings bigint, breaking integer, wanted text)
language plpgsql
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off
as $$
declare
  at timestamptz := offstage_private.clock();
  alive integer;
begin
  select count(*) into alive from offstage_private.worker w where w.dead_at is null;
  update offstage_private.worker w set
    beats = case when at < w.beat_at + 2 * w.period then w.beats + 1 else 1 end,
    beat_at = at,
    period = greatest(1, alive / 100.0) * interval '1 s',
    draining = heartbeat.draining,
    deaf_since = case when deaf is not null then coalesce(w.deaf_since, at - deaf) end
  where w.id = heartbeat.worker_id and w.dead_at is null
  returning w.period into heartbeat.period;
  if not found then
    return;
  end if;
  claims := array(select l.claim from offstage_private.lease l where l.worker_id = heartbeat.worker_id);
  select array_agg(c.job_id), array_agg(c.reason) into cancelled, reasons
  from offstage_private.cancellation c
  where exists (select from offstage_private.lease l where l.worker_id = heartbeat.worker_id and c.job_id = any (l.job_ids));
  select sum(t.revision), (select max(m.version) from offstage_private.migration m where m.breaking) into settings, breaking
  from offstage_private.worker w join offstage_private.task t on t.id = any (w.tasks) where w.id = heartbeat.worker_id;
  select o.wanted into heartbeat.wanted from offstage_private.wish o where o.worker_id = heartbeat.worker_id;
  return next;
end $$;

-- A worker tests whether notifications reach it, from another session than the one that listens: it sends one on a channel to which
-- it alone listens. Waits for others that notify, at its commit.
create or replace function offstage.test_ear(worker_id integer) returns void
language sql as $$ select pg_notify('offstage:ear:' || worker_id, 'offstage') $$;

-- For a worker that was drained, was declared dead, and begins anew under this id: it stays drained.
create or replace function offstage_private.stay_drained(of_worker integer) returns void
language sql as $$
  insert into offstage_private.wish (worker_id, wanted) values (of_worker, 'drain') on conflict do nothing
$$;

-- True if this worker still holds this claim of this job: the fence.
create or replace function offstage_private.holds(of_worker integer, of_claim bigint, of_job bigint) returns boolean
language sql stable as $$
  select exists (
    select from offstage_private.lease l join offstage_private.job j on j.id = of_job
    where l.claim = of_claim & -1024 and l.worker_id + 0 = of_worker  -- + 0: not by worker, see settle()
      and l.job_ids[(of_claim & 1023)::integer] = of_job and j.released_claim < of_claim)
$$;

-- Called before a job is run that was there when two workers in a row died: if this one dies too, the job is known to be at
-- fault. A worker runs such jobs one at a time. False: the claim is gone. Locks the worker's row.
create or replace function offstage.start_suspect(worker_id integer, claim bigint, job_id bigint) returns boolean
language plpgsql as $$
begin
  update offstage_private.worker w set suspect = start_suspect.claim where w.id = worker_id and w.dead_at is null;
  return found and offstage_private.holds(worker_id, claim, job_id);
end $$;

-- Lines as report() and settle() take them, as rows.
create or replace function offstage_private.log_lines(lines json)
returns table (n integer, after interval, level text, message text, attrs json)
language sql stable as $$
  select l.n, l.after * interval '1 s', l.level, l.message, l.attrs
  from json_to_recordset(lines) l (n integer, after double precision, level text, message text, attrs json)
$$;

-- Stores what running attempts have to tell: lines of their logs, and how far they are. entries: one for each attempt,
-- [{"claim": 1025, "job_id": 7, "lines": [{"n": 1, "after": 0.25, "level": "info", "message": "…", "attrs": {…}}, …],
-- "percent": 50, "message": "half"}, …]. n counts the lines of the attempt, from 1; after is when, in seconds since its
-- claim. Without percent the progress stays as it is. May be repeated when its answer was lost: a line is stored once.
-- Rows: the claims that are gone; nothing of them was written. No rows: all is stored. Locks no rows but those it writes.
create or replace function offstage.report(worker_id integer, entries json) returns table (claim bigint, job_id bigint)
language plpgsql
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off
as $$
#variable_conflict use_column
declare
  at timestamptz := offstage_private.clock();
begin
  return query
    with e as materialized (
      select e.* from json_to_recordset(entries) e (claim bigint, job_id bigint, lines json, percent real, message text)
    ), held as materialized (  -- as holds() has it
      select e.*, l.claimed_at, j.attempts + 1 as attempt
      from e
      join offstage_private.lease l on l.claim = any (array[e.claim & -1024])
      join offstage_private.job j on j.id = any (array[e.job_id])
      where l.worker_id + 0 = report.worker_id and l.job_ids[(e.claim & 1023)::integer] = e.job_id and j.released_claim < e.claim
    ), logged as (
      insert into offstage_private.log (at, job_id, claim, n, attempt, level, message, attrs)
      select h.claimed_at + x.after, h.job_id, h.claim, x.n, h.attempt, x.level, x.message, x.attrs
      from held h cross join lateral offstage_private.log_lines(h.lines) x
      on conflict do nothing
    ), shown as (
      insert into offstage_private.progress as p (job_id, claim, percent, message, reported_at)
      select h.job_id, h.claim, h.percent, h.message, at from held h where h.percent is not null order by h.job_id
      on conflict on constraint progress_pkey do update
        set claim = excluded.claim, percent = excluded.percent, message = excluded.message, reported_at = excluded.reported_at
        where p.claim <= excluded.claim
    )
    select e.claim, e.job_id from e where not exists (select from held h where h.claim = e.claim and h.job_id = e.job_id);
end $$;

-- A worker leaves. What it still holds is released, without spending the attempt; what a caller's open transaction
-- holds goes back the same way with the next rescue. Locks the worker's row, then as settle does.
create or replace function offstage.sign_off(worker_id integer) returns void
language plpgsql as $$
begin
  -- Waits for a claim that is under way; the next statement then sees its lease.
  perform 1 from offstage_private.worker w where w.id = sign_off.worker_id and w.dead_at is null for update;
  if found then
    perform offstage.recall(worker_id, null);
  end if;
  delete from offstage_private.offer o
  where o.ctid = any (array(select p.ctid from offstage_private.offer p where p.worker_id = sign_off.worker_id for update skip locked));
  delete from offstage_private.worker w
  where w.id = sign_off.worker_id and not exists (select from offstage_private.lease l where l.worker_id = w.id);
  if not found then
    update offstage_private.worker w set dead_at = offstage_private.clock(), signed_off = true where w.id = sign_off.worker_id and w.dead_at is null;
  end if;
end $$;
