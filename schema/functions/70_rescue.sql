-- Stage 9: rescue. The jobs of a dead worker run again.

-- Gives back what dead workers hold: every job of their leases gets a ticket again, one attempt poorer, or fails when
-- that was its last one or it has crashed three workers in a row. A worker that has signed off costs no attempt, and a job that cannot have begun none. A job whose row a caller's transaction holds stays
-- with its lease for the next call; so do all, done with, if the caller has a snapshot of its own, which may be older than its locks, and the slots of queues. Locks: leases, jobs (both skip locked), then queues by id.
create or replace function offstage_private.give_back(dead offstage_private.worker[], crashed boolean) returns integer
language plpgsql
set jit = off set enable_seqscan = off set enable_bitmapscan = off
as $$
declare
  at timestamptz := offstage_private.clock();
  apart boolean := current_setting('transaction_isolation') in ('repeatable read', 'serializable');
  l record;
  begun boolean;
  spent boolean;
  i bigint;
  of_claim bigint;
  found_job record;
  j offstage_private.job;
  t offstage_private.task;
  reason text;
  why text;
  outcomes text[];  -- what history says: of the attempt, and of the job
  ending text;
  n integer := 0;
  ended_tasks integer[] := '{}';
  ended_queues integer[] := '{}';
  ended_outcomes text[] := '{}';
  slot_claims bigint[] := '{}';
  slot_queues integer[] := '{}';
  emptied bigint[] := '{}';
  left_over record;
begin
  for l in
    select e.claim, e.claimed_at, e.job_ids, w.id as worker_id, w.host, w.pid, w.suspect, w.signed_off
    from unnest(dead) w join offstage_private.lease e on e.worker_id = w.id order by e.claim for update of e skip locked
  loop
    of_claim := l.claim;
    foreach i in array l.job_ids loop
      of_claim := of_claim + 1;
      if apart then
        select * into found_job from offstage_private.leased_apart(i, l.claim);
      else
        select o.ctid as at, o as job into found_job from offstage_private.job o where o.id = i and o.released_claim < l.claim for update skip locked;
      end if;
      continue when found_job.at is null;
      j := found_job.job;
      if t.id is distinct from j.task_id then
        t := offstage_private.task_of(j.task_id);
      end if;
      reason := offstage_private.uncancel(j.id);
      -- A job that has crashed two workers starts alone, and is seen to (start_suspect): one that was not seen has not begun.
      begun := not crashed or j.crashes < 2 or of_claim is not distinct from l.suspect;
      spent := begun and not l.signed_off;
      j.crashes := j.crashes + (crashed and spent)::integer;
      why := format('worker %s (pid %s on %s) %s %s attempt %s%s', l.worker_id, l.pid, l.host, case when l.signed_off then 'signed off' else 'died' end,
        case when begun then 'during' else 'before' end, j.attempts + 1, case when j.crashes >= 3 then ', the third in a row: set aside' else '' end);
      outcomes := array[case when spent then 'rescued' else 'released' end];
      if reason is not null then
        outcomes := outcomes || 'cancelled'::text;
      elsif spent and (j.crashes >= 3 or j.attempts + 1 >= offstage_private.attempts_of(j, t)) then
        outcomes := outcomes || 'failed'::text;
      end if;
      foreach ending in array outcomes loop
        insert into offstage_private.history
          (settled_at, job_id, claim, added_at, run_at, claimed_at, task_id, queue_id, worker_id, attempt, priority, outcome, key, error, payload, fingerprint)
        values (at, j.id, of_claim, j.added_at, j.run_at, l.claimed_at, j.task_id, j.queue_id, l.worker_id, j.attempts + 1, j.priority, ending, j.key,
          case ending when 'cancelled' then reason else why end,
          case when ending not in ('rescued', 'released') then j.payload end,
          case when ending = 'failed' or ending = 'rescued' and outcomes = '{rescued}' then offstage_private.fingerprint(t.name, why) end);  -- once an attempt
      end loop;

      if ending = 'cancelled' then
        delete from offstage_private.job o where o.ctid = found_job.at;
      else
        j.last_error := case when crashed and spent then why else j.last_error end;
        update offstage_private.job o set released_claim = of_claim, attempts = o.attempts + spent::integer, crashes = j.crashes,
          failed = ending = 'failed', last_error = j.last_error,
          fingerprint = case when ending = 'failed' then offstage_private.fingerprint(t.name, j.last_error) else o.fingerprint end
        where o.ctid = found_job.at;
      end if;
      if ending in ('rescued', 'released') then
        insert into offstage_private.ticket (run_at, job_id, lane_id, queue_id, priority) values (j.run_at, j.id, j.lane_id, j.queue_id, j.priority);
      else
        if j.notify_channel is not null then
          perform offstage_private.notify_event(j.notify_channel, j.id, ending, j.options);
        end if;
        if offstage_private.is_awaited(j.id) then
          perform offstage_private.notify_waiter(j.id);
        end if;
        if j.crashes >= 3 and ending = 'failed' then
          insert into offstage_private.set_aside (at, job_id) values (at, j.id);
        end if;
      end if;

      n := n + 1;
      ended_tasks := ended_tasks || array_fill(j.task_id, array[cardinality(outcomes)]);
      ended_queues := ended_queues || array_fill(j.queue_id, array[cardinality(outcomes)]);
      ended_outcomes := ended_outcomes || outcomes;
      if j.queue_id is not null then
        slot_claims := slot_claims || of_claim;
        slot_queues := slot_queues || j.queue_id;
      end if;
    end loop;
    if not apart and not exists (select from offstage_private.job o where o.id = any (l.job_ids) and o.released_claim < l.claim) then
      delete from offstage_private.lease e where e.claim = l.claim;
      emptied := emptied || l.claim;
    end if;
  end loop;

  if n > 0 then
    perform offstage_private.count_ended(at, ended_tasks, ended_queues, ended_outcomes);
    perform pg_notify('offstage:wake', 'offstage');
  end if;
  if emptied <> '{}' then
    -- Slots of jobs that are gone without having been settled, because their handlers ended them (finish()), or were given back apart.
    select array_agg(c) as claims, array_agg(s.queue_id) as queues into left_over
    from offstage_private.queue_state s cross join lateral unnest(s.claims) c
    where s.claims <> '{}' and c & -1024 = any (emptied) and c <> all (slot_claims);
    slot_claims := slot_claims || left_over.claims;
    slot_queues := slot_queues || left_over.queues;
  end if;
  if not apart and slot_claims <> '{}' then
    perform offstage_private.free_slots(slot_queues, slot_claims);
  end if;
  return n;
end $$;

-- Declares a worker dead, and answers its row, locked as soon as what it is settling is settled; null if there is no such worker.
create or replace function offstage_private.kill_worker(of_id integer) returns offstage_private.worker
language plpgsql strict as $$
declare
  w offstage_private.worker;
begin
  -- It is not read: see 00_apart.sql. To name the id locks the row against key share, too: claims could lock the row that there was, and would wait for the new one, in
  -- spite of skip locked.
  insert into offstage_private.worker as o (id, host, pid, version, slots, tasks, started_at, beat_at, period)
  values (of_id, '', 0, '', 0, '{}', '-infinity', now(), '0')
  on conflict (id) do update set id = o.id, dead_at = coalesce(o.dead_at, offstage_private.clock()) returning o.* into w;
  if w.started_at = '-infinity' then
    raise exception using errcode = 'OS000';  -- undoes it
  end if;
  return w;
exception when sqlstate 'OS000' then
  return null;
end $$;

-- Declares the workers dead that callers have asked for who could not do it themselves: see unlock_workers(). One that somebody holds for a tenth of a second waits for the next call.
create or replace function offstage_private.kill_asked() returns offstage_private.worker[]
language plpgsql set lock_timeout = '100ms' as $$
declare
  of_id integer;
  w offstage_private.worker;
  dead offstage_private.worker[] := '{}';
begin
  for of_id in select distinct u.worker_id from offstage_private.unlock u order by 1 loop
    begin
      w := offstage_private.kill_worker(of_id);
      delete from offstage_private.unlock u where u.worker_id = of_id;
      if w.id is not null then
        dead := dead || w;
      end if;
    exception when lock_not_available then
      null;
    end;
  end loop;
  return dead;
end $$;

-- Declares workers dead that have missed five beats, and gives their jobs back; says how many. Only a worker whose
-- own last five beats have landed may: when heartbeats fail everywhere at once, nobody rescues. A chore: does nothing
-- while another worker is at it. Locks workers (skip locked: one that is settling lives). If force_unlock_workers
-- has left workers to it, it takes their jobs away, and does nothing else this time.
create or replace function offstage.rescue(worker_id integer) returns integer
language plpgsql as $$
declare
  at timestamptz := offstage_private.clock();
  dead offstage_private.worker[];
begin
  if not pg_try_advisory_xact_lock(hashtext('offstage'), -2) then
    return 0;
  end if;
  if not exists (select from offstage_private.worker w
                 where w.id = rescue.worker_id and w.dead_at is null and w.beats >= 5 and w.beat_at > at - 2 * w.period) then
    return 0;
  end if;
  dead := offstage_private.kill_asked();
  if dead <> '{}' then
    return offstage_private.give_back(dead, false);
  end if;
  with stale as (
    select w.id from offstage_private.worker w
    where w.dead_at is null and w.beat_at < at - 5 * w.period order by w.id for update skip locked
  )
  update offstage_private.worker w set dead_at = at from stale s where w.id = s.id;
  dead := array(
    select w from offstage_private.worker w
    where w.dead_at is not null and exists (select from offstage_private.lease l where l.worker_id = w.id) order by w.id);
  if cardinality(dead) = 0 then
    return 0;
  end if;
  return offstage_private.give_back(dead, true);
end $$;

-- Does what force_unlock_workers says. What somebody has changed since the snapshot of a REPEATABLE READ or SERIALIZABLE caller, as a worker that lives changes its row with each beat, the caller cannot change: the
-- next rescue() does it all. Nothing is read then: see 00_apart.sql.
create or replace function offstage_private.unlock_workers(worker_ids text[]) returns void
language plpgsql as $$
declare
  ids integer[] := array(select distinct substring(u from '^worker-([1-9][0-9]{0,8})$')::integer as id from unnest(worker_ids) u order by id);
  dead offstage_private.worker[];
begin
  begin
    dead := array(select k from unnest(ids) o (id) cross join lateral offstage_private.kill_worker(o.id) k where k.id is not null);
    perform offstage_private.give_back(dead, false);
    ids := array(select w.id from unnest(dead) w);
  exception when serialization_failure then
    insert into offstage_private.unlock (worker_id) select id from unnest(ids) o (id) where id is not null;
  end;
  if ids <> '{}' then
    perform offstage_private.note('unlock', (select string_agg('worker-' || id, ', ') from unnest(ids) o (id)), null, null, null, null);
  end if;
end $$;

-- Takes their jobs away from these workers ("worker-17", as in jobs.locked_by), which are treated as dead from now on:
-- what they still send is refused. The attempts stay spent. Unknown ids are ignored. If the caller is REPEATABLE READ or
-- SERIALIZABLE, queues go on when a worker next looks for what the dead have left, within seconds; and if something of these
-- workers has changed since its snapshot, as it does every second while they live, their jobs are taken away then, too.
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
      execute format('create table offstage_private.%I (like offstage_private.%I including defaults including indexes including compression)', part, of_table);
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
