-- Stage 9: rescue. The jobs of a dead worker run again.

-- Gives back what a dead worker holds: every job of its leases gets a ticket again, one attempt poorer, or fails when
-- that was its last one or it has crashed three workers in a row. A worker that has signed off costs no attempt. A job whose row a caller's transaction holds stays
-- with its lease for the next call. Locks: leases, jobs (both skip locked), then queues by id.
create or replace function offstage_private.give_back(dead integer[], crashed boolean) returns integer
language plpgsql
set jit = off set enable_seqscan = off set enable_bitmapscan = off
as $$
declare
  at timestamptz := offstage_private.clock();
  l record;
  batch record;
  n integer := 0;
  slot_claims bigint[] := '{}';
  slot_queues integer[] := '{}';
  emptied bigint[] := '{}';
  waited bigint[] := '{}';
begin
  for l in
    select e.claim, e.worker_id, e.claimed_at, e.job_ids, w.host, w.pid, w.suspect, not w.signed_off as spent
    from offstage_private.lease e join offstage_private.worker w on w.id = e.worker_id
    where e.worker_id = any (dead) order by e.claim for update of e skip locked
  loop
    with locked as materialized (
      select j as job, l.claim + x.position as claim, t.max_attempts, t.name as task, c.reason
      from unnest(l.job_ids) with ordinality x (id, position)
      join offstage_private.job j on j.id = x.id and j.released_claim < l.claim
      join offstage_private.task t on t.id = j.task_id
      left join offstage_private.cancellation c on c.job_id = j.id
      for update of j skip locked
    ), decided as materialized (
      select k.*, (k.job).id, x.crashes,
        case when k.reason is not null then 'cancelled'
          when not l.spent then 'released'
          when x.crashes >= 3 or (k.job).attempts + 1 >= coalesce((k.job).max_attempts, k.max_attempts, 25) then 'failed' else 'rescued' end as outcome,
        format('worker %s (pid %s on %s) %s during attempt %s%s', l.worker_id, l.pid, l.host, case when l.spent then 'died' else 'signed off' end,
          (k.job).attempts + 1,
          case when x.crashes >= 3 then ', the third in a row: set aside' else '' end) as why
      from locked k
      -- A job that never crashed a worker is charged on suspicion; one that has, only if it was seen to start.
      cross join lateral (select (k.job).crashes + (crashed and l.spent and ((k.job).crashes = 0 or k.claim is not distinct from l.suspect))::integer as crashes) x
    ), gone as (
      delete from offstage_private.job j using decided d where j.id = d.id and d.outcome = 'cancelled'
    ), changed as (
      update offstage_private.job j set released_claim = d.claim, attempts = j.attempts + l.spent::integer, crashes = d.crashes,
        failed = d.outcome = 'failed', last_error = case when crashed and l.spent then d.why else j.last_error end,
        fingerprint = case when d.outcome = 'failed' then offstage_private.fingerprint(d.task, case when crashed and l.spent then d.why else j.last_error end) else j.fingerprint end
      from decided d where j.id = d.id and d.outcome <> 'cancelled'
    ), again as (
      insert into offstage_private.ticket (run_at, job_id, lane_id, queue_id, priority)
      select (d.job).run_at, d.id, (d.job).lane_id, (d.job).queue_id, (d.job).priority from decided d where d.outcome in ('rescued', 'released')
    ), kept as (
      insert into offstage_private.history
        (settled_at, job_id, claim, added_at, run_at, claimed_at, task_id, queue_id, worker_id, attempt, priority, outcome, key, error, payload, fingerprint)
      select at, d.id, d.claim, (d.job).added_at, (d.job).run_at, l.claimed_at, (d.job).task_id, (d.job).queue_id, l.worker_id,
        (d.job).attempts + 1, (d.job).priority, o.outcome, (d.job).key, case o.outcome when 'cancelled' then d.reason else d.why end,
        case when o.outcome not in ('rescued', 'released') then (d.job).payload end,
        case when o.outcome = d.outcome and d.outcome in ('rescued', 'failed') then offstage_private.fingerprint(d.task, d.why) end  -- once an attempt
      from decided d cross join lateral (select case when l.spent then 'rescued' else 'released' end union select d.outcome) o (outcome)
      returning task_id, queue_id, outcome
    ), counted as (
      insert into offstage_private.statistic_raw (ended_at, task_id, queue_id, outcome, n, waits, runs)
      select at, k.task_id, q.id, k.outcome, count(*), '{}', '{}'
      from kept k cross join lateral (select offstage_private.statistic_queue(k.queue_id)) q (id)
      group by 2, 3, 4
    ), forgotten as (
      delete from offstage_private.cancellation c using decided d where c.job_id = d.id
    ), aside as (
      insert into offstage_private.set_aside (at, job_id) select at, d.id from decided d where d.outcome = 'failed' and d.crashes >= 3
    )
    select count(*) as n,
      array_agg(d.claim) filter (where (d.job).queue_id is not null) as slot_claims,
      array_agg((d.job).queue_id) filter (where (d.job).queue_id is not null) as slot_queues,
      array_agg(d.id) filter (where d.outcome not in ('rescued', 'released')) as ended,
      count(offstage_private.notify_event((d.job).notify_channel, d.id, d.outcome, (d.job).options))
        filter (where (d.job).notify_channel is not null and d.outcome not in ('rescued', 'released')) as told
    into batch from decided d;
    n := n + batch.n;
    slot_claims := slot_claims || batch.slot_claims;
    slot_queues := slot_queues || batch.slot_queues;
    waited := waited || batch.ended;
    if not exists (select from offstage_private.job j where j.id = any (l.job_ids) and j.released_claim < l.claim) then
      delete from offstage_private.lease e where e.claim = l.claim;
      emptied := emptied || l.claim;
    end if;
  end loop;
  if emptied <> '{}' then
    -- Slots of jobs that are gone without having been settled: their handlers ended them (finish()).
    select array_agg(c) as slot_claims, array_agg(s.queue_id) as slot_queues into batch
    from offstage_private.queue_state s cross join lateral unnest(s.claims) c
    where s.claims <> '{}' and c & -1024 = any (emptied) and c <> all (slot_claims);
    slot_claims := slot_claims || batch.slot_claims;
    slot_queues := slot_queues || batch.slot_queues;
  end if;
  if cardinality(slot_claims) > 0 then
    perform offstage_private.free_slots(slot_queues, slot_claims);
  end if;
  perform offstage_private.notify_waiters(waited);
  if n > 0 then
    perform pg_notify('offstage:wake', 'offstage');
  end if;
  return n;
end $$;

-- Declares workers dead that have missed five beats, and gives their jobs back; says how many. Only a worker whose
-- own last five beats have landed may: when heartbeats fail everywhere at once, nobody rescues. A chore: does nothing
-- while another worker is at it. Locks workers (skip locked: one that is settling lives).
create or replace function offstage.rescue(worker_id integer) returns integer
language plpgsql as $$
declare
  at timestamptz := offstage_private.clock();
  dead integer[];
begin
  if not pg_try_advisory_xact_lock(hashtext('offstage'), -2) then
    return 0;
  end if;
  if not exists (select from offstage_private.worker w
                 where w.id = rescue.worker_id and w.dead_at is null and w.beats >= 5 and w.beat_at > at - 2 * w.period) then
    return 0;
  end if;
  with stale as (
    select w.id from offstage_private.worker w
    where w.dead_at is null and w.beat_at < at - 5 * w.period order by w.id for update skip locked
  )
  update offstage_private.worker w set dead_at = at from stale s where w.id = s.id;
  dead := array(
    select w.id from offstage_private.worker w
    where w.dead_at is not null and exists (select from offstage_private.lease l where l.worker_id = w.id) order by w.id);
  if cardinality(dead) = 0 then
    return 0;
  end if;
  return offstage_private.give_back(dead, true);
end $$;

create or replace function offstage_private.unlock_workers(worker_ids text[]) returns void
language plpgsql as $$
declare
  dead integer[];
begin
  dead := array(select w.id from offstage_private.worker w where 'worker-' || w.id = any (worker_ids) order by w.id for update);
  update offstage_private.worker w set dead_at = coalesce(w.dead_at, offstage_private.clock()) where w.id = any (dead);
  perform offstage_private.give_back(dead, false);
  if dead <> '{}' then
    perform offstage_private.note('unlock', (select string_agg('worker-' || w, ', ') from unnest(dead) w), null, null, null, null);
  end if;
end $$;

-- Takes their jobs away from these workers ("worker-17", as in jobs.locked_by), which are treated as dead from now on:
-- what they still send is refused. The attempts stay spent. Unknown ids are ignored.
create or replace function offstage.force_unlock_workers(worker_ids text[]) returns void
language sql as $$
  select offstage_private.unlock_workers(worker_ids);
  select 1 where false;  -- so that a call answers null, as graphile_worker's does
$$;

-- Throws away what is older than keep_days of a table that has a partition a day, in UTC, by this column: whole partitions,
-- and what the rest has taken. Does not wait long for readers: it comes again. Called by tidy().
create or replace function offstage_private.drop_days(of_table text, of_column text, at timestamptz, keep_days integer) returns void
language plpgsql as $$
declare
  part text;
begin
  begin
    for part in
      select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid
      where i.inhparent = to_regclass('offstage_private.' || of_table) and c.relname ~ ('^' || of_table || '_[0-9]{8}$')
        and to_date(right(c.relname, 8), 'YYYYMMDD') < (at at time zone 'UTC')::date - keep_days
    loop
      execute format('drop table offstage_private.%I', part);
    end loop;
  exception when lock_not_available then
    null;  -- somebody reads it; the next call is in a minute
  end;
  execute format('delete from offstage_private.%1$I h where h.ctid = any (array(select r.ctid from offstage_private.%1$I r where r.%2$I < $1 limit 10000))',
    of_table || '_rest', of_column) using at - keep_days * interval '1 day';
end $$;

-- Makes the partitions of such a table, two days ahead; the first worker makes the first day's, while the rest has nothing of it:
-- attaching one reads all of the rest. Does not wait long, as above. Called by tidy(), at its end: nobody writes meanwhile.
create or replace function offstage_private.make_days(of_table text, of_column text, at timestamptz) returns void
language plpgsql as $$
declare
  today date := (at at time zone 'UTC')::date;
  d date;
  part text;
  begins timestamptz;
  ends timestamptz;
  taken boolean;
begin
  for d in select today + n from generate_series(0, 2) n loop
    part := of_table || to_char(d, '_YYYYMMDD');
    continue when to_regclass('offstage_private.' || part) is not null;
    begins := d::timestamp at time zone 'UTC';
    ends := (d + 1)::timestamp at time zone 'UTC';
    execute format('select exists (select from offstage_private.%1$I r where r.%2$I >= $1 and r.%2$I < $2)', of_table || '_rest', of_column)
    into taken using begins, ends;
    continue when taken;
    begin
      -- A writer who knows the partitions that there were would be refused by the rest (23514).
      execute format('lock table offstage_private.%I in share row exclusive mode', of_table);
      execute format('create table offstage_private.%I (like offstage_private.%I including defaults including indexes)', part, of_table);
      execute format('alter table offstage_private.%I attach partition offstage_private.%I for values from (%L) to (%L)',
        of_table, part, begins, ends);
    exception when lock_not_available or check_violation then
      null;  -- somebody reads it, or an entry of that day has just come into the rest: it stays there
    end;
  end loop;
end $$;

-- Throws away what nobody needs any more, in small steps, and history older than keep_days (null: as keep_history() says). A
-- chore, once a minute.
create or replace function offstage.tidy(keep_days integer default null) returns void
language plpgsql as $$
declare
  at timestamptz := offstage_private.clock();
  yesterday timestamptz := at - interval '1 day';
  long_ago timestamptz := at - interval '90 days';
begin
  if not pg_try_advisory_xact_lock(hashtext('offstage'), -3) then
    return;
  end if;
  keep_days := coalesce(keep_days, (select r.history_days from offstage_private.retention r), 7);
  delete from offstage_private.waiter w
  where w.ctid = any (array(select o.ctid from offstage_private.waiter o where o.expires_at < at order by o.expires_at limit 100000));
  delete from offstage_private.cancellation c
  where c.requested_at < at - interval '1 min' and not exists (select from offstage_private.job j where j.id = c.job_id);
  delete from offstage_private.progress p
  where p.reported_at < at - interval '1 min' and not exists (select from offstage_private.job j where j.id = p.job_id);
  delete from offstage_private.set_aside a where a.at < yesterday;
  delete from offstage_private.audit a
  where a.id = any (array(select o.id from offstage_private.audit o where o.at < long_ago order by o.at limit 10000));
  -- Jobs that failed before there were fingerprints, or were put here by hand.
  update offstage_private.job j set fingerprint = offstage_private.fingerprint((select t.name from offstage_private.task t where t.id = j.task_id), j.last_error)
  where j.id = any (array(select o.id from offstage_private.job o where o.failed and o.fingerprint is null order by o.id limit 1000 for update skip locked));
  delete from offstage_private.worker w
  where w.dead_at < at - interval '1 day' and not exists (select from offstage_private.lease l where l.worker_id = w.id);
  delete from offstage_private.wish o
  where o.worker_id = any (array(select x.worker_id from offstage_private.wish x
    where not exists (select from offstage_private.worker w where w.id = x.worker_id and w.dead_at is null) for update of x skip locked));

  delete from offstage_private.offer o
  where o.ctid = any (array(
    select p.ctid from offstage_private.offer p
    where not exists (select from offstage_private.worker w where w.id = p.worker_id and w.dead_at is null) for update of p skip locked));

  perform set_config('lock_timeout', '200ms', true);
  perform offstage_private.drop_days('history', 'settled_at', at, keep_days);
  perform offstage_private.drop_days('log', 'at', at, keep_days);
  perform offstage_private.make_days('history', 'settled_at', at);
  perform offstage_private.make_days('log', 'at', at);
end $$;
