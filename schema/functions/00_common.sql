-- What several stages share: the clock, names, wakes, places.

-- The one clock. Read once per statement or function body; tests replace it to move time.
create or replace function offstage_private.clock() returns timestamptz
language sql volatile as $$ select pg_catalog.clock_timestamp() $$;

-- The id of a task, which is made when it is new. Waits only for another transaction that makes the same name.
-- Raises 23502 and 23514 as graphile_worker does.
create or replace function offstage_private.task_id(task_name text) returns integer
language plpgsql as $$
declare
  found_id integer;
begin
  if task_name is null then
    raise not_null_violation using message = 'the identifier of a job must not be null',
      hint = 'Name the task that the job is for.', schema = 'offstage', table = '_private_tasks', column = 'identifier';
  elsif length(task_name) > 128 then
    raise check_violation using message = format('the identifier %L… has %s characters, at most 128 are allowed', left(task_name, 32), length(task_name)),
      constraint = 'tasks_identifier_check';
  end if;
  loop
    if offstage_private.serializable() then
      found_id := (offstage_private.task_apart(task_name)).id;
    else
      select t.id into found_id from offstage_private.task t where t.name = task_name;
    end if;
    exit when found_id is not null;
    insert into offstage_private.task (name) values (task_name) on conflict do nothing returning id into found_id;
    exit when found;
    perform offstage_private.keep_missing('task', task_name);
  end loop;
  return found_id;
end $$;

-- The same for a queue.
create or replace function offstage_private.queue_id(queue_name text) returns integer
language plpgsql as $$
declare
  found_id integer;
begin
  if length(queue_name) > 128 then
    raise check_violation using message = format('the queue name %L… has %s characters, at most 128 are allowed', left(queue_name, 32), length(queue_name)),
      constraint = 'job_queues_queue_name_check';
  end if;
  loop
    if offstage_private.serializable() then
      found_id := offstage_private.name_apart('queue', queue_name);
    else
      select q.id into found_id from offstage_private.queue q where q.name = queue_name;
    end if;
    exit when found_id is not null;
    insert into offstage_private.queue (name) values (queue_name) on conflict do nothing returning id into found_id;
    if found then
      insert into offstage_private.queue_state (queue_id) values (found_id);
      exit;
    end if;
    perform offstage_private.keep_missing('queue', queue_name);
  end loop;
  return found_id;
end $$;

-- The same for the lane of a task and a set of flags; without flags the lane is the task's own.
create or replace function offstage_private.lane_id(of_task integer, of_flags jsonb) returns integer
language plpgsql as $$
declare
  found_id integer;
begin
  if of_flags is null then
    return of_task;
  end if;
  loop
    if offstage_private.serializable() then
      found_id := offstage_private.lane_apart(of_task, of_flags);
    else
      select l.id into found_id from offstage_private.lane l where l.task_id = of_task and md5(l.flags::text) = md5(of_flags::text);
    end if;
    exit when found_id is not null;
    insert into offstage_private.lane (task_id, flags) values (of_task, of_flags) on conflict do nothing returning id into found_id;
    exit when found;
  end loop;
  return found_id;
end $$;

-- {"flag": true, …} as graphile_worker stores flags; null and {} are the same. A null element raises 22023.
create or replace function offstage_private.flag_set(flags text[]) returns jsonb
language sql immutable as $$
  select case when cardinality(flags) > 0 then (select jsonb_object_agg(f, true) from unnest(flags) f) end
$$;

-- True while a session holds the advisory lock (schema, key) shared: then, and only then, an exclusive try fails.
create or replace function offstage_private.is_locked(key integer) returns boolean
language sql volatile as $$  -- one expression, so that it becomes part of the statement that calls it, as in wake()
  select case when pg_try_advisory_lock(hashtext('offstage'), key) then not pg_advisory_unlock(hashtext('offstage'), key) else true end
$$;

-- Tells sleeping workers that there is a ticket of this task. A worker that goes to sleep holds the advisory lock
-- (schema, task) shared, on its session; only while somebody sleeps is a NOTIFY worth its price (it serialises commits).
-- Called after the ticket was written: a worker that fell asleep later waits until transactions as old as ours have ended
-- (claim(), "awake_after").
create or replace function offstage_private.wake(of_task integer) returns void
language sql volatile as $$
  select case when offstage_private.is_locked(of_task) then pg_notify('offstage:wake', 'offstage') end
$$;

-- The same for tickets of these lanes.
create or replace function offstage_private.wake_lanes(lanes integer[]) returns void
language plpgsql as $$
declare
  t integer;
begin
  for t in
    select distinct coalesce((select l.task_id from offstage_private.lane l where l.id = u), u) from unnest(lanes) u
  loop
    perform offstage_private.wake(t);
  end loop;
end $$;

-- Gives a job that may run a place, and answers where it is: a ticket, or a row in scheduled while its time has not come.
-- promote() looks again within two seconds, so that only what is due sooner must be told: on a channel of its own, because a
-- look at scheduled after each wake would be in the way of the next job.
create or replace function offstage_private.place(j offstage_private.job, at timestamptz) returns tid
language plpgsql as $$
declare
  place tid;
begin
  if j.run_at <= at then
    insert into offstage_private.ticket (run_at, job_id, lane_id, queue_id, priority)
    values (j.run_at, j.id, j.lane_id, j.queue_id, j.priority) returning ctid into place;
    perform offstage_private.wake(j.task_id);
  else
    insert into offstage_private.scheduled (run_at, job_id, lane_id, queue_id, priority)
    values (j.run_at, j.id, j.lane_id, j.queue_id, j.priority) returning ctid into place;
    if j.run_at < at + interval '3 s' then
      perform pg_notify('offstage:due', 'offstage');
    end if;
  end if;
  return place;
end $$;

-- Whether this transaction has added the job and taken an offer for it, which is in the place of a ticket until the commit: see 25_offer.sql. As it says; anybody can.
create or replace function offstage_private.is_offered(of_job bigint) returns boolean
language sql stable as $$ select coalesce(current_setting('offstage.offered', true) like '%,' || of_job || ',%', false) $$;

-- Takes it out of that place; false if it is not there.
create or replace function offstage_private.withdraw(of_job bigint) returns boolean
language plpgsql as $$
declare
  others text;
begin
  if not offstage_private.is_offered(of_job) then
    return false;
  end if;
  others := set_config('offstage.offered', replace(current_setting('offstage.offered'), ',' || of_job || ',', ','), true);
  return true;
end $$;

-- Whether the job has a ticket, or shares one: see unshare().
create or replace function offstage_private.has_ticket(j offstage_private.job) returns boolean
language plpgsql stable set enable_seqscan = off as $$
begin
  return exists (
    select from offstage_private.ticket p
    where p.lane_id = j.lane_id and p.priority = j.priority and p.run_at = j.run_at and p.job_id = j.id and p.jobs = 1)
  or coalesce((
    select j.id = any (p.job_ids) and not exists (
      select from offstage_private.stub s where s.lane_id = p.lane_id and s.ticket = p.job_id and s.job_id = j.id)
    from offstage_private.ticket p
    where p.lane_id = j.lane_id and p.priority = j.priority and p.run_at = j.run_at and p.job_id <= j.id and p.job_id > j.id - 1024 and p.jobs > 1
    order by p.lane_id desc, p.priority desc, p.run_at desc, p.job_id desc limit 1), false);
end $$;

-- Takes a job out of the ticket that it shares with others; false when it shares none. That is the last shared one that does not begin behind it: two shared tickets
-- of a lane, priority and run_at never overlap, and the ids of none are further apart than 1023. The ticket stays as it is, and the job leaves a stub: so callers do not wait for
-- each other, and may have an old snapshot. Claims leave the ticket alone until then, and are told.
create or replace function offstage_private.unshare(j offstage_private.job) returns boolean
language plpgsql set enable_seqscan = off as $$
declare
  t record;
  left_it boolean;
begin
  select o.ctid as place, o.job_id, o.job_ids into t from offstage_private.ticket o
  where o.lane_id = j.lane_id and o.priority = j.priority and o.run_at = j.run_at and o.job_id <= j.id and o.job_id > j.id - 1024 and o.jobs > 1
  order by o.lane_id desc, o.priority desc, o.run_at desc, o.job_id desc limit 1;
  if not found or j.id <> all (t.job_ids) then
    return false;
  end if;
  perform from offstage_private.ticket p where p.ctid = t.place and p.job_id = t.job_id and p.job_ids = t.job_ids for key share;  -- waits for a claim
  if not found then
    return false;
  end if;
  insert into offstage_private.stub (lane_id, ticket, job_id) values (j.lane_id, t.job_id, j.id) on conflict do nothing;
  left_it := found;
  if left_it and not offstage_private.serializable() then
    -- The last one removes the ticket, if nobody else has it in hand; otherwise the next claim does.
    delete from offstage_private.ticket p where p.ctid = any (array(
      select o.ctid from offstage_private.ticket o
      where o.ctid = t.place and o.jobs = (select count(*) from offstage_private.stub s where s.lane_id = j.lane_id and s.ticket = t.job_id) for update skip locked));
    if found then
      delete from offstage_private.stub s where s.lane_id = j.lane_id and s.ticket = t.job_id;
    end if;
  end if;
  perform offstage_private.wake(j.task_id);
  return left_it;
end $$;

-- Takes a job out of its place; false when it has none, because it is running or has failed. Waits for a claim or
-- promotion that is moving it (they wait for nobody). The queue's turn may have rested on this ticket: promote()
-- passes it on. Looks first where the place was written, if that is known: in SERIALIZABLE this touches nothing of other
-- jobs, while a look into an index does.
create or replace function offstage_private.unplace(j offstage_private.job) returns boolean
language plpgsql as $$
declare
  taken integer := 0;
begin
  loop
    if j.place is not null then
      if j.run_at <= offstage_private.clock() then
        delete from offstage_private.ticket p
        where p.ctid = j.place and (p.job_id, p.lane_id, p.priority, p.run_at, p.jobs) = (j.id, j.lane_id, j.priority, j.run_at, 1);
        get diagnostics taken = row_count;
      end if;
      if taken = 0 then
        delete from offstage_private.scheduled p where p.ctid = j.place and (p.job_id, p.run_at) = (j.id, j.run_at);
        get diagnostics taken = row_count;
      end if;
      j.place := null;
    end if;
    if taken = 0 and offstage_private.serializable() then
      if not offstage_private.unplace_apart(j) then
        return false;
      end if;
      taken := 1;
    end if;
    if taken = 0 then
      with t as (
        delete from offstage_private.ticket p
        where p.lane_id = j.lane_id and p.priority = j.priority and p.run_at = j.run_at and p.job_id = j.id and p.jobs = 1 returning 1
      ), s as (
        delete from offstage_private.scheduled p where p.run_at = j.run_at and p.job_id = j.id returning 1
      ), k as (
        delete from offstage_private.parked p
        where p.queue_id = j.queue_id and p.lane_id = j.lane_id and p.priority = j.priority and p.run_at = j.run_at
          and p.job_id = j.id returning 1
      )
      select (select count(*) from t) + (select count(*) from s) + (select count(*) from k) into taken;
    end if;
    if taken = 0 then
      taken := offstage_private.unshare(j)::integer;
    end if;
    if taken = 0 and offstage_private.is_offered(j.id) and not exists (select from offstage_private.lease_of(j)) then
      taken := offstage_private.withdraw(j.id)::integer;
    end if;
    if taken > 0 then
      if j.queue_id is not null then
        insert into offstage_private.handover (queue_id, due_at) values (j.queue_id, offstage_private.clock());
      end if;
      return true;
    end if;
    -- Moved from one place to another under our eyes, or none at all?
    if not offstage_private.has_ticket(j)
       and not exists (select from offstage_private.scheduled p where p.run_at = j.run_at and p.job_id = j.id)
       and not exists (select from offstage_private.parked p
                       where p.queue_id = j.queue_id and p.lane_id = j.lane_id and p.priority = j.priority
                         and p.run_at = j.run_at and p.job_id = j.id) then
      return false;
    end if;
  end loop;
end $$;

-- A task by its id, for whoever changes its jobs.
create or replace function offstage_private.task_of(of_id integer) returns offstage_private.task
language sql volatile as $$
  select case when offstage_private.serializable() then offstage_private.task_apart(null, of_id) else (select t from offstage_private.task t where t.id = of_id) end
$$;

-- The attempts a job may have.
create or replace function offstage_private.attempts_of(j offstage_private.job, t offstage_private.task) returns smallint
language sql immutable as $$ select coalesce(j.max_attempts, t.max_attempts, 25::smallint) $$;

-- The lease under which a job runs; no row: it is not running. Leases are few (one a batch).
create or replace function offstage_private.lease_of(j offstage_private.job)
returns table (claim bigint, worker_id integer, claimed_at timestamptz)
language sql stable as $$
  select l.claim + array_position(l.job_ids, j.id), l.worker_id, l.claimed_at
  from offstage_private.lease l
  where l.claim > j.released_claim and j.id = any (l.job_ids)
  order by l.claim desc limit 1
$$;

-- A job as graphile_worker's functions return it.
create or replace function offstage_private.job_row(j offstage_private.job, t offstage_private.task) returns offstage._private_jobs
language sql stable as $$
  select (j.id, j.queue_id, j.task_id, j.payload, j.priority, j.run_at,
          j.attempts + (l.claim is not null)::integer, m.attempts, j.last_error, j.added_at, j.updated_at,
          j.key, l.claimed_at, 'worker-' || l.worker_id, j.revision, j.flags,
          l.claim is null and not j.failed and j.attempts < m.attempts)::offstage._private_jobs
  from (select offstage_private.attempts_of(j, t)) m (attempts)
  left join offstage_private.lease_of(j) l on true
$$;

-- Whether a worker lives, as far as its beats say: as in the view workers.
create or replace function offstage_private.lives(w offstage_private.worker, at timestamptz) returns boolean
language sql stable as $$ select w.dead_at is null and w.beat_at >= at - 5 * w.period $$;

-- How many jobs of this lane, or of all, have tickets, up to "most". By the indexes alone, and from the back, because claims leave dead entries in front.
create or replace function offstage_private.count_tickets(of_lane integer, most integer) returns bigint
language plpgsql stable
set jit = off set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off
as $$
declare
  n bigint;
  more bigint;  -- jobs that share them
  less bigint;  -- and have left them
begin
  if of_lane is null then
    select count(*) into n from (select from offstage_private.ticket t order by t.lane_id desc, t.priority desc, t.run_at desc, t.job_id desc limit most) x;
    if n < most then
      select sum(t.jobs - 1) into more from offstage_private.ticket t where t.jobs > 1;
      select count(*) into less from (select from offstage_private.stub s order by s.lane_id desc, s.ticket desc, s.job_id desc) x;
    end if;
  else
    select count(*) into n from (
      select from offstage_private.ticket t where t.lane_id = of_lane order by t.priority desc, t.run_at desc, t.job_id desc limit most) x;
    if n < most then
      select sum(t.jobs - 1) into more from offstage_private.ticket t where t.lane_id = of_lane and t.jobs > 1;
      select count(*) into less from offstage_private.stub s where s.lane_id = of_lane;
    end if;
  end if;
  return least(n + coalesce(more, 0) - coalesce(less, 0), most);
end $$;

-- The first ticket of each lane and priority that anybody is left to use, by the index: what waits longest in each. 1000 at most.
create or replace function offstage_private.heads() returns setof offstage_private.ticket
language sql stable as $$
  with recursive head (ticket, n) as (
    (select k, 1 from offstage_private.ticket k
     where k.jobs = 1 or k.jobs > (select count(*) from offstage_private.stub s where s.lane_id = k.lane_id and s.ticket = k.job_id)
     order by k.lane_id, k.priority, k.run_at, k.job_id limit 1)
    union all
    select f.ticket, h.n + 1 from head h cross join lateral (
      select k as ticket from offstage_private.ticket k
      where (k.lane_id, k.priority) > ((h.ticket).lane_id, (h.ticket).priority)
        and (k.jobs = 1 or k.jobs > (select count(*) from offstage_private.stub s where s.lane_id = k.lane_id and s.ticket = k.job_id))
      order by k.lane_id, k.priority, k.run_at, k.job_id limit 1) f
    where h.n < 1000
  )
  select (h.ticket).* from head h
$$;
