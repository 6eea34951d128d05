-- SERIALIZABLE callers. PostgreSQL remembers what they have read, of an index by the page, and turns two away that each write where the other has read. Of what an
-- INSERT ... ON CONFLICT finds it remembers no more than the row (since 15.20), and forgets that when the caller changes it, outside of any subtransaction. So this is how they look for
-- a row: what has been inserted because there was none is undone, and rows are found by their ctid from then on. Of rows that others change, none stays remembered.

create or replace function offstage_private.serializable() returns boolean
language sql stable as $$ select current_setting('transaction_isolation') = 'serializable' $$;

-- What is known of the row that is in the way of an INSERT ... ON CONFLICT, for whoever only wants to know that: undoes the INSERT, and that the row is locked.
-- Null: there was none.
create or replace function offstage_private.found_apart(what text) returns boolean
language plpgsql as $$
begin
  raise exception using errcode = 'OS000', message = coalesce(what, '');
end $$;

-- The id of a task or queue by its name; null if there is none. Waits only for who is making it.
create or replace function offstage_private.name_apart(of_kind text, of_name text) returns integer
language plpgsql as $$
begin
  insert into offstage_private.name as n (kind, name, id) values (of_kind, of_name, 0)
  on conflict (kind, name) do update set id = n.id where offstage_private.found_apart(n.id::text);
  perform offstage_private.found_apart(null);
exception when sqlstate 'OS000' then
  return nullif(sqlerrm, '')::integer;
end $$;

-- The lane of a task and a set of flags; null if there is none. Waits only for who is making it.
create or replace function offstage_private.lane_apart(of_task integer, of_flags jsonb) returns integer
language plpgsql as $$
begin
  insert into offstage_private.lane as l (id, task_id, flags) values (- pg_backend_pid(), of_task, of_flags)
  on conflict (task_id, md5(flags::text)) do update set flags = l.flags where offstage_private.found_apart(l.id::text);
  perform offstage_private.found_apart(null);
exception when sqlstate 'OS000' then
  return nullif(sqlerrm, '')::integer;
end $$;

-- What a task is for the caller's snapshot, and of what the caller has made of it: the last version that they know. They know all up to that one, because there is no gap.
create or replace function offstage_private.version_apart(of_id integer) returns offstage_private.task
language plpgsql strict as $$
declare
  known integer := 0;
  unknown integer := 1;
  middle integer;
begin
  while offstage_private.knows_version(of_id, unknown) loop
    known := unknown;
    unknown := 2 * unknown;
  end loop;
  while unknown > known + 1 loop
    middle := (known + unknown) / 2;
    if offstage_private.knows_version(of_id, middle) then
      known := middle;
    else
      unknown := middle;
    end if;
  end loop;
  insert into offstage_private.task_version as v (id, name, paused, revision) values (of_id, '', false, known)
  on conflict (id, revision) do update set name = v.name where offstage_private.found_apart(v::text);
  perform offstage_private.found_apart(null);
exception when sqlstate 'OS000' then
  return coalesce(nullif(sqlerrm, '')::offstage_private.task, (select t from offstage_private.task t where t.id = of_id));  -- made where triggers do not fire
end $$;

-- Whether the caller's snapshot has this version of a task. One that somebody is just making it has not.
create or replace function offstage_private.knows_version(of_id integer, of_revision integer) returns boolean
language plpgsql as $$
begin
  perform set_config('lock_timeout', '1ms', true);
  insert into offstage_private.task_version (id, name, paused, revision) values (of_id, '', false, of_revision) on conflict (id, revision) do nothing;
  perform offstage_private.found_apart(case when not found then 'known' end);
exception
  when sqlstate 'OS000' then
    return sqlerrm = 'known';
  when serialization_failure or lock_not_available or deadlock_detected then
    return false;
end $$;

-- A task by its name or its id; null if there is none. What it is for the caller's snapshot, whoever is changing it or has since: see version_apart().
create or replace function offstage_private.task_apart(of_name text, of_id integer default null) returns offstage_private.task
language sql volatile as $$
  select offstage_private.version_apart(coalesce(of_id, offstage_private.name_apart('task', of_name)))
$$;

-- What they look up. Not what a look-up of a task inserts and undoes.
create or replace function offstage_private.keep_version() returns trigger
language plpgsql as $$
begin
  if new.id > 0 and (tg_op = 'INSERT' or new is distinct from old) then
    insert into offstage_private.task_version select new.* on conflict (id, revision) do nothing;
  end if;
  return null;
end $$;

create or replace function offstage_private.keep_name() returns trigger
language plpgsql as $$
begin
  insert into offstage_private.name (kind, name, id) values (tg_argv[0], new.name, new.id) on conflict (kind, name) do nothing;
  return null;
end $$;

-- The same for a name that was made where triggers do not fire (session_replication_role).
create or replace function offstage_private.keep_missing(of_kind text, of_name text) returns void
language sql as $$
  insert into offstage_private.name (kind, name, id)
  select of_kind, t.name, t.id from offstage_private.task t where of_kind = 'task' and t.name = of_name
  union all
  select of_kind, q.name, q.id from offstage_private.queue q where of_kind = 'queue' and q.name = of_name
  on conflict (kind, name) do nothing
$$;

-- Until when somebody awaits a job; whoever has said so since the caller's snapshot, for ever.
create or replace function offstage_private.waiter_apart(of_job bigint) returns timestamptz
language plpgsql strict set lock_timeout = '100ms' as $$
begin
  insert into offstage_private.waiter as w (job_id, expires_at) values (of_job, '-infinity')
  on conflict (job_id) do update set job_id = w.job_id where offstage_private.found_apart(w.expires_at::text);
  perform offstage_private.found_apart(null);
exception
  when sqlstate 'OS000' then
    return nullif(sqlerrm, '')::timestamptz;
  when serialization_failure or lock_not_available or deadlock_detected then
    return 'infinity';
end $$;

-- The row of a job, by its id or its key, locked, and where it is; of nulls if there is none.
create or replace function offstage_private.job_apart(of_id bigint, of_key text default null, out at tid, out job offstage_private.job)
language plpgsql as $$
declare
  found_job record;
begin
  if of_id is not null then
    insert into offstage_private.job as j (id, run_at, added_at, updated_at, task_id, lane_id, priority, payload)
    values (of_id, now(), now(), now(), 0, 0, 0, '{}')
    on conflict (id) do update set updated_at = j.updated_at returning j.ctid, j as job into found_job;
  elsif of_key is not null then
    insert into offstage_private.job as j (id, run_at, added_at, updated_at, task_id, lane_id, priority, payload, key)
    values (nextval('offstage_private.job_id'), now(), now(), now(), 0, 0, 0, '{}', of_key)
    on conflict (key) where key is not null do update set updated_at = j.updated_at returning j.ctid, j as job into found_job;
  else
    return;
  end if;
  if (found_job.job).task_id = 0 then
    delete from offstage_private.job j where j.ctid = found_job.ctid;
  else
    at := found_job.ctid;
    job := found_job.job;
  end if;
end $$;

-- The row of a job, not locked in the end; null if there is none.
create or replace function offstage_private.look_apart(of_id bigint) returns offstage_private.job
language plpgsql strict as $$
begin
  insert into offstage_private.job as j (id, run_at, added_at, updated_at, task_id, lane_id, priority, payload)
  values (of_id, now(), now(), now(), 0, 0, 0, '{}')
  on conflict (id) do update set updated_at = j.updated_at where offstage_private.found_apart(j::text);
  perform offstage_private.found_apart(null);
exception when sqlstate 'OS000' then
  return nullif(sqlerrm, '')::offstage_private.job;
end $$;

-- The row of a job under a lease, locked, and where it is; of nulls if it has been released, or somebody else holds it. Who waits holds others, so it is not for long; on a
-- busy machine a job may be left that nobody holds, because others are just making the table longer.
create or replace function offstage_private.leased_apart(of_id bigint, of_claim bigint, out at tid, out job offstage_private.job)
language plpgsql strict set lock_timeout = '5ms' as $$
declare
  found_job record;
begin
  if (offstage_private.look_apart(of_id)).released_claim < of_claim then
    select * into found_job from offstage_private.job_apart(of_id);
    at := found_job.at;
    job := found_job.job;
  end if;
exception when lock_not_available or deadlock_detected then
  return;
end $$;

-- unplace() for them: false if the job is running. Raises 40001 if it has begun to since their snapshot.
create or replace function offstage_private.unplace_apart(j offstage_private.job) returns boolean
language plpgsql as $$
declare
  place text;
  p record;  -- job_id is negative where there was one
begin
  if exists (select from offstage_private.lease_of(j)) then
    return false;
  end if;
  foreach place in array array['scheduled', 'ticket', 'parked'] loop
    continue when not offstage_private.is_placed_apart(j, place);
    if place = 'scheduled' then
      insert into offstage_private.scheduled as s (run_at, job_id, lane_id, queue_id, priority) values (j.run_at, j.id, j.lane_id, j.queue_id, j.priority)
      on conflict (run_at, job_id) do update set job_id = - s.job_id returning s.ctid, s.job_id into p;
      delete from offstage_private.scheduled s where s.ctid = p.ctid;
    elsif place = 'ticket' then
      insert into offstage_private.ticket as t (run_at, job_id, lane_id, queue_id, priority) values (j.run_at, j.id, j.lane_id, j.queue_id, j.priority)
      on conflict (lane_id, priority, run_at, job_id, jobs) do update set job_id = - t.job_id returning t.ctid, t.job_id into p;
      delete from offstage_private.ticket t where t.ctid = p.ctid;
    else
      insert into offstage_private.parked as k (run_at, job_id, lane_id, queue_id, priority) values (j.run_at, j.id, j.lane_id, j.queue_id, j.priority)
      on conflict (queue_id, lane_id, priority, run_at, job_id) do update set job_id = - k.job_id returning k.ctid, k.job_id into p;
      delete from offstage_private.parked k where k.ctid = p.ctid;
    end if;
    exit when p.job_id > 0;  -- it was taken in between
    return true;
  end loop;
  if p is null and offstage_private.unshare(j) then
    return true;
  end if;
  raise serialization_failure using message = 'could not serialize access due to concurrent update';
end $$;

-- Whether a job has a place in this table: an INSERT of the same that fails leaves nothing to remember. What has been inserted because it had none is undone at once: a worker may be
-- about to insert the same.
create or replace function offstage_private.is_placed_apart(j offstage_private.job, place text) returns boolean
language plpgsql as $$
begin
  if place = 'scheduled' then
    insert into offstage_private.scheduled (run_at, job_id, lane_id, queue_id, priority) values (j.run_at, j.id, j.lane_id, j.queue_id, j.priority);
  elsif place = 'ticket' then
    insert into offstage_private.ticket (run_at, job_id, lane_id, queue_id, priority) values (j.run_at, j.id, j.lane_id, j.queue_id, j.priority);
  elsif j.queue_id is not null then
    insert into offstage_private.parked (run_at, job_id, lane_id, queue_id, priority) values (j.run_at, j.id, j.lane_id, j.queue_id, j.priority);
  end if;
  raise exception using errcode = 'OS000';  -- undoes it
exception
  when unique_violation then
    return true;
  when sqlstate 'OS000' then
    return false;
end $$;
