-- Stage 5: settle. Ends attempts, in batches, under the fence (job, claim, worker).

-- Refuses a retry policy that retry_delay() would not understand.
create or replace function offstage_private.check_retry(policy jsonb) returns void
language plpgsql as $$
declare
  wrong text;
  d text;
begin
  if policy is null or policy = 'null' then
    return;
  end if;
  if jsonb_typeof(policy) <> 'object' or coalesce(policy ->> 'policy', '') not in ('exponential', 'fixed', 'list') then
    raise invalid_parameter_value using message = format('the retry policy %s is not known', policy),
      hint = 'Expected {"policy": "exponential", "base": "1 s", "factor": 2.7, "max": "6 h"}, {"policy": "fixed", "delay": "10 s"} or {"policy": "list", "delays": ["1 s", "1 min"]}, each with "jitter": 0 to 1 if wanted.';
  end if;
  select k into wrong from jsonb_object_keys(policy) k
  where k <> all (case policy ->> 'policy' when 'exponential' then array['policy', 'jitter', 'base', 'factor', 'max']
    when 'fixed' then array['policy', 'jitter', 'delay'] else array['policy', 'jitter', 'delays'] end) limit 1;
  if found then
    raise invalid_parameter_value using message = format('the retry policy %s has the unknown key %L', policy ->> 'policy', wrong);
  end if;
  if (policy ->> 'jitter')::double precision not between 0 and 1 then
    raise invalid_parameter_value using message = format('jitter is %s', policy ->> 'jitter'), hint = 'Expected 0 to 1: the part of the delay that is left to chance.';
  end if;
  if (policy ->> 'factor')::double precision not between 1 and 1000 then
    raise invalid_parameter_value using message = format('factor is %s', policy ->> 'factor'), hint = 'Expected 1 to 1000.';
  end if;
  if policy ->> 'policy' = 'fixed' and policy ->> 'delay' is null or policy ->> 'policy' = 'list' and coalesce(jsonb_typeof(policy -> 'delays') <> 'array' or jsonb_array_length(policy -> 'delays') = 0, true) then
    raise invalid_parameter_value using message = format('the retry policy %s lacks its delay', policy);
  end if;
  if policy -> 'delays' @> '[null]' then
    raise invalid_parameter_value using message = format('the retry policy %s lacks a delay', policy);
  end if;
  foreach d in array array[policy ->> 'base', policy ->> 'max', policy ->> 'delay']
    || case when policy ? 'delays' then array(select jsonb_array_elements_text(policy -> 'delays')) end loop
    if d::interval < interval '0' or d::interval > interval '100 years' then
      raise invalid_parameter_value using message = format('the delay %L is not between 0 and 100 years', d);
    end if;
  end loop;
exception when invalid_text_representation or numeric_value_out_of_range or invalid_datetime_format or datetime_field_overflow or interval_field_overflow then
  raise invalid_parameter_value using message = format('the retry policy %s is not understood: %s', policy, sqlerrm);
end $$;

-- How long to wait after this failed attempt (from 1). Without a policy e^attempt seconds up to e^10 (6 h 7 min),
-- as in graphile_worker. Exponential: base * factor^(attempt-1), base 1 s, factor e, max e^10 s unless given. List:
-- its last delay for all later attempts. Jitter j takes up to that part of the delay away, by chance.
create or replace function offstage_private.retry_delay(policy jsonb, attempt integer) returns interval
language sql volatile as $$
  select case when policy is null then exp(least(attempt, 10)) * interval '1 s'
  else (1 - random() * coalesce((policy ->> 'jitter')::double precision, 0)) *
    case policy ->> 'policy'
      when 'fixed' then (policy ->> 'delay')::interval
      when 'list' then (policy -> 'delays' ->> greatest(least(attempt, jsonb_array_length(policy -> 'delays')) - 1, 0))::interval
      else least(extract(epoch from coalesce((policy ->> 'max')::interval, exp(10) * interval '1 s'))::double precision,
        extract(epoch from coalesce((policy ->> 'base')::interval, interval '1 s'))::double precision
          * power(coalesce((policy ->> 'factor')::double precision, exp(1)::double precision), least(attempt - 1, 60))) * interval '1 s'
    end
  end
$$;

-- Gives the free slots of these queues, locked by the caller, to parked jobs: one ticket a slot to the first of
-- each lane, because nobody may be there to run the task of the very first. A ticket too many is parked again by the
-- claim that finds it. A serial queue gives a lane none behind it before it is gone. Of more than eight lanes, each hand-over serves the eight where the last one stopped, so that
-- all get their turn; promote() comes back for the others, and for what could not be given.
-- Says to the claim of the same transaction where the new tickets are.
create or replace function offstage_private.hand_over(queue_ids integer[]) returns void
language plpgsql as $$
declare
  at timestamptz := offstage_private.clock();
  advance boolean := random() < 0.06;  -- fronts: seldom enough to cost little, often enough to leave little behind
  handed json;
  lanes integer[];
begin
  with recursive open as materialized (
    select q as id, coalesce(c.concurrency, 1) = 1 as serial, coalesce(c.concurrency, 1) - cardinality(s.claims) as slots, s.next_lane, s.place
    from unnest(queue_ids) q
    cross join lateral (
      select o.ctid as place, o.claims, o.next_lane from offstage_private.queue_state o where o.queue_id = q order by o.queue_id, o.turn limit 1) s
    left join offstage_private.queue_setting c on c.queue_id = q
    where c.paused is not true and coalesce(c.concurrency, 1) > cardinality(s.claims)
  ), lane as (
    -- The lanes from next_lane on, then (lap 1) those in front of it; n counts the ones with something parked.
    select o.id as queue_id, o.serial, o.slots, o.next_lane, o.next_lane - 1 as lane_id, 0 as lap, 0 as n, null::tid as place, null::offstage_private.queue_front as front, null::offstage_private.parked as first
    from open o
    union all
    select l.queue_id, l.serial, l.slots, l.next_lane, (f.front).lane_id, f.lap, l.n + ((p.first).job_id is not null)::integer, f.place, f.front, p.first
    from lane l
    cross join lateral (
      (select o.ctid as place, o as front, l.lap as lap from offstage_private.queue_front o
       where o.queue_id = l.queue_id and o.lane_id > l.lane_id and (l.lap = 0 or o.lane_id < l.next_lane)
       order by o.queue_id, o.lane_id, o.turn limit 1)
      union all
      (select o.ctid, o, 1 from offstage_private.queue_front o
       where o.queue_id = l.queue_id and l.lap = 0 and o.lane_id < l.next_lane
       order by o.queue_id, o.lane_id, o.turn limit 1)
      limit 1) f
    left join lateral (
      select k as first from offstage_private.parked k
      where k.queue_id = l.queue_id and k.lane_id = (f.front).lane_id
        and (k.priority, k.run_at, k.job_id) >= ((f.front).priority, (f.front).run_at, (f.front).job_id)
      order by k.queue_id, k.lane_id, k.priority, k.run_at, k.job_id limit 1) p on true
    where l.n < 9
  ), next as materialized (
    -- As far as callers hold none: a claim parks again what stands behind one that is parked.
    select n.*, case when n.locked = n.wanted[row_number() over lane] then n.locked end as place, count(n.locked) over lane < cardinality(n.wanted) as held
    from (
      select l.queue_id as of_queue, l.lane_id as of_lane, l.n, l.place as front, l.serial, h.there, h.stands, w.wanted, p.*
      from lane l
      cross join lateral (
        select l.serial and coalesce((  -- no exists, which would be worked out for the whole table
          select t.queue_id = l.queue_id from offstage_private.ticket t
          where t.lane_id = l.lane_id and t.priority = (l.front).handed_priority and t.run_at = (l.front).handed_run_at and t.job_id = (l.front).handed_job_id limit 1), false) as there) t
      cross join lateral (
        select t.there, t.there and ((l.front).handed_priority, (l.front).handed_run_at, (l.front).handed_job_id) < ((l.first).priority, (l.first).run_at, (l.first).job_id) as stands offset 0) h
      cross join lateral (
        select array(
          select k.ctid from offstage_private.parked k
          where k.queue_id = l.queue_id and k.lane_id = l.lane_id and l.n < 9 and not h.stands
            and (k.priority, k.run_at, k.job_id) >= ((l.first).priority, (l.first).run_at, (l.first).job_id)
          order by k.queue_id, k.lane_id, k.priority, k.run_at, k.job_id limit l.slots) as wanted offset 0) w
      left join lateral (
        select k.ctid as locked, k.* from offstage_private.parked k where k.ctid = any (w.wanted) for update skip locked) p on true
      where (l.first).job_id is not null) n
    window lane as (partition by n.of_queue, n.of_lane order by n.priority, n.run_at, n.job_id rows between unbounded preceding and unbounded following)
  ), gone as (
    delete from offstage_private.parked where ctid = any (array(select place from next where place is not null))
  ), given as (
    insert into offstage_private.ticket (run_at, job_id, lane_id, queue_id, priority, job_ctid)
    select n.run_at, n.job_id, n.lane_id, n.queue_id, n.priority, n.job_ctid from next n where n.place is not null returning lane_id, priority, run_at, job_id
  ), later as (
    -- More lanes than we gave to, or one that callers hold jobs of.
    insert into offstage_private.handover (queue_id, due_at) select distinct n.of_queue, at + interval '1 s' from next n where n.n = 9 or n.held
  ), ninth as materialized (
    select n.of_queue, n.of_lane from next n where n.n = 9
  ), stopped as (
    update offstage_private.queue_state s set next_lane = coalesce(n.of_lane, 0)
    from open o left join ninth n on n.of_queue = o.id
    where s.ctid = o.place and coalesce(n.of_lane, 0) <> o.next_lane
  ), advanced as (
    -- To the first that is there, whoever has locked it: it is given next time, or steps aside.
    update offstage_private.queue_front f set
      turn = f.turn - x.on::integer,
      priority = case when x.on then x.priority else f.priority end, run_at = case when x.on then x.run_at else f.run_at end, job_id = case when x.on then x.job_id else f.job_id end,
      handed_priority = coalesce(x.handed_priority, f.handed_priority), handed_run_at = coalesce(x.handed_run_at, f.handed_run_at), handed_job_id = coalesce(x.handed_job_id, f.handed_job_id)
    from (  -- max: of one
      select u.place, bool_or(u.on) as on, max(u.priority) as priority, max(u.run_at) as run_at, max(u.job_id) as job_id,
        max(u.handed_priority) as handed_priority, max(u.handed_run_at) as handed_run_at, max(u.handed_job_id) as handed_job_id
      from (
        select l.place, k.*, advance and ((l.front).priority, (l.front).run_at, (l.front).job_id) < (k.priority, k.run_at, k.job_id) as on,
          null::smallint as handed_priority, null::timestamptz as handed_run_at, null::bigint as handed_job_id
        from lane l cross join lateral (
          select coalesce((l.first).priority, 32767) as priority, coalesce((l.first).run_at, 'infinity') as run_at, coalesce((l.first).job_id, 9223372036854775807) as job_id) k
        union all
        select n.front, null, null, null, false, n.priority, n.run_at, n.job_id from next n where n.place is not null and n.serial and not n.there) u
      group by u.place) x
    where f.ctid = x.place and (x.on or x.handed_job_id is not null)
  )
  select (select json_agg(g) from given g), array_agg(n.of_lane) filter (where n.place is not null or n.stands) into handed, lanes from next n;
  if handed is not null then
    perform set_config('offstage.handed', handed::text, true);
  end if;
  perform offstage_private.wake_lanes(lanes);
end $$;

-- Frees the slots that these claims hold in these queues, and hands the queues on. Locks the queues by id; once a
-- transaction only.
create or replace function offstage_private.free_slots(queue_ids integer[], claims bigint[]) returns void
language plpgsql as $$
declare
  freed integer[];
begin
  perform 1 from offstage_private.queue q where q.id = any (queue_ids) order by q.id for update;
  with held as materialized (
    select s.* from (select distinct u from unnest(queue_ids) u) q (id)
    cross join lateral (
      select o.ctid as place, o.claims from offstage_private.queue_state o where o.queue_id = q.id order by o.queue_id, o.turn limit 1) s
    where s.claims && free_slots.claims
  ), gone as (
    update offstage_private.queue_state s
    set claims = case when cardinality(s.claims) = 1 then '{}' else array(select unnest(s.claims) except select unnest(free_slots.claims)) end,
      turn = s.turn - (random() < 0.06)::integer
    from held h where s.ctid = h.place returning s.queue_id
  )
  select array_agg(queue_id) into freed from gone;
  if freed is not null then
    perform offstage_private.hand_over(freed);
  end if;
end $$;

-- What free_slots() does, for the claim of the same transaction, which looks through these lanes. Where a queue has one slot, and
-- parked jobs of one lane only, as most have, the first of them is answered instead of getting a ticket: it is parked no more, and
-- the slot is still the old claim's. The caller gives it to the new one (states: the row of each in queue_state), or gives the
-- job a ticket, by put_back().
create or replace function offstage_private.take_turns(
  queue_ids integer[], claims bigint[], lanes integer[], out jobs offstage_private.parked[], out states tid[])
language plpgsql as $$
declare
  places tid[];
  locked tid[];
  idle tid[];
  idle_queues integer[];
  others integer[];  -- all that is not as simple
begin
  perform 1 from offstage_private.queue q where q.id = any (queue_ids) order by q.id for update;
  with held as materialized (
    select s.*, q.n > 1 or coalesce(c.paused or c.concurrency <> 1, false) or cardinality(s.claims) > 1 as other
    from (select u.id, min(u.claim) as claim, count(*) as n from unnest(queue_ids, claims) u (id, claim) group by 1) q
    cross join lateral (
      select o.ctid as state, o.queue_id, o.claims from offstage_private.queue_state o where o.queue_id = q.id order by o.queue_id, o.turn limit 1) s
    left join offstage_private.queue_setting c on c.queue_id = q.id
    where q.n > 1 or q.claim = any (s.claims)
  ), first as materialized (
    select h.queue_id, h.state, p.job, p.place, h.other or f.n > 1 or coalesce((p.job).lane_id <> all (lanes), false) or f.handed_job_id is not null and coalesce((
        select t.queue_id = h.queue_id from offstage_private.ticket t
        where t.lane_id = f.lane_id and t.priority = f.handed_priority and t.run_at = f.handed_run_at and t.job_id = f.handed_job_id limit 1), false) as other
    from held h
    cross join lateral (
      select count(*) as n, min(o.lane_id) as lane_id, min(o.priority) as priority, min(o.run_at) as run_at, min(o.job_id) as job_id,
        min(o.handed_priority) as handed_priority, min(o.handed_run_at) as handed_run_at, min(o.handed_job_id) as handed_job_id
      from (select * from offstage_private.queue_front o where o.queue_id = h.queue_id order by o.queue_id, o.lane_id, o.turn limit 2) o) f
    left join lateral (
      select k as job, k.ctid as place from offstage_private.parked k
      where k.queue_id = h.queue_id and k.lane_id = f.lane_id and (k.priority, k.run_at, k.job_id) >= (f.priority, f.run_at, f.job_id)
      order by k.queue_id, k.lane_id, k.priority, k.run_at, k.job_id limit 1) p on f.n = 1
  )
  select array_agg(f.queue_id) filter (where f.other),
    array_agg(f.queue_id) filter (where not f.other and f.place is null), array_agg(f.state) filter (where not f.other and f.place is null),
    array_agg(f.job) filter (where not f.other and f.place is not null), array_agg(f.state) filter (where not f.other and f.place is not null),
    array_agg(f.place) filter (where not f.other and f.place is not null)
  into others, idle_queues, idle, jobs, states, places from first f;

  if places is not null then
    locked := array(select k.ctid from offstage_private.parked k where k.ctid = any (places) for update skip locked);
    if cardinality(locked) < cardinality(places) then  -- callers are changing some
      others := others || array(
        select u.queue_id from unnest(jobs, places) u (run_at, job_id, lane_id, queue_id, priority, job_ctid, place) where u.place <> all (locked));
      select array_agg(row (u.run_at, u.job_id, u.lane_id, u.queue_id, u.priority, u.job_ctid)::offstage_private.parked), array_agg(u.state)
      into jobs, states
      from unnest(jobs, states, places) u (run_at, job_id, lane_id, queue_id, priority, job_ctid, state, place) where u.place = any (locked);
    end if;
    delete from offstage_private.parked k where k.ctid = any (locked);
  end if;
  if idle is not null then
    update offstage_private.queue_state s set claims = '{}', turn = s.turn - (random() < 0.06)::integer where s.ctid = any (idle);
  end if;
  if random() < 0.3 then  -- more often than in hand_over(): the whole batch steps over what is left behind
    update offstage_private.queue_front f set turn = f.turn - 1, priority = j.priority, run_at = j.run_at, job_id = j.job_id
    from (
      select o.place, u.priority, u.run_at, u.job_id
      from unnest(jobs) u cross join lateral (
        select o.ctid as place from offstage_private.queue_front o where o.queue_id = u.queue_id and o.lane_id = u.lane_id order by o.queue_id, o.lane_id, o.turn limit 1) o
      union all
      select o.place, 32767, 'infinity', 9223372036854775807
      from unnest(idle_queues) u cross join lateral (  -- has one at most
        select o.ctid as place from offstage_private.queue_front o where o.queue_id = u order by o.queue_id, o.lane_id, o.turn limit 1) o
    ) j
    where f.ctid = j.place and (f.priority, f.run_at, f.job_id) < (j.priority, j.run_at, j.job_id);
  end if;
  if others is not null then
    perform offstage_private.free_slots(others, claims);
  end if;
end $$;

-- Frees the slots that take_turns() has left to its caller, and gives these jobs tickets.
create or replace function offstage_private.put_back(jobs offstage_private.parked[], states tid[]) returns void
language plpgsql as $$
begin
  update offstage_private.queue_state s set claims = '{}', turn = s.turn - (random() < 0.06)::integer where s.ctid = any (states);
  insert into offstage_private.ticket (run_at, job_id, lane_id, queue_id, priority, job_ctid)
  select j.run_at, j.job_id, j.lane_id, j.queue_id, j.priority, j.job_ctid from unnest(jobs) j;
  update offstage_private.queue_front f
  set handed_priority = j.priority, handed_run_at = j.run_at, handed_job_id = j.job_id, turn = f.turn - (random() < 0.06)::integer
  from unnest(jobs) j
  cross join lateral (
    select o.ctid as place from offstage_private.queue_front o where o.queue_id = j.queue_id and o.lane_id = j.lane_id order by o.queue_id, o.lane_id, o.turn limit 1) o
  where f.ctid = o.place;
  perform offstage_private.wake_lanes(array(select j.lane_id from unnest(jobs) j));
end $$;

-- History says of attempts that began before their claim was committed, which it never was, that they were rescued. The job may have run again, and ended, since.
create or replace function offstage_private.note_lost(of_worker integer, endings json, at timestamptz) returns void
language plpgsql set enable_seqscan = off as $$
begin
  with lost as (
    insert into offstage_private.history
      (settled_at, job_id, claim, added_at, run_at, task_id, queue_id, worker_id, attempt, priority, outcome, key, error, fingerprint)
    select at, e.job_id, e.claim, j.added_at, j.run_at, j.task_id, j.queue_id, of_worker, j.attempt, j.priority, 'rescued', j.key, e.error,
      offstage_private.fingerprint((select t.name from offstage_private.task t where t.id = j.task_id), e.error)
    from json_to_recordset(coalesce(endings, '[]')) e (claim bigint, job_id bigint, ending text, error text)
    cross join lateral (
      select k.added_at, k.run_at, k.task_id, k.queue_id, k.attempts + 1 as attempt, k.priority, k.key
      from offstage_private.job k where k.id = e.job_id
      union all
      select h.added_at, h.run_at, h.task_id, h.queue_id, h.attempt, h.priority, h.key
      from offstage_private.history h where h.job_id = e.job_id
      limit 1
    ) j
    where e.ending = 'lost'
    returning task_id, queue_id, outcome
  )
  insert into offstage_private.statistic_raw (ended_at, task_id, queue_id, outcome, n, waits, runs)
  select at, l.task_id, offstage_private.statistic_queue(l.queue_id), l.outcome, 1, '{}', '{}' from lost l;
end $$;

-- Answers a worker that is dead: what was taken from it, or will be by the next rescue, is lost, and history says what
-- it would have written.
-- What it had settled while it lived stays settled.
create or replace function offstage_private.refuse(of_worker integer, claims bigint[], job_ids bigint[], endings json)
returns table (claim bigint, job_id bigint, verdict text)
language plpgsql as $$
#variable_conflict use_column
begin
  return query
    with x as (
      select u.claim, u.job_id, 'succeed' as ending from unnest(claims, job_ids) u (claim, job_id)
      union all
      select e.claim, e.job_id, e.ending from json_to_recordset(coalesce(endings, '[]')) e (claim bigint, job_id bigint, ending text)
    ), refused as materialized (
      select x.*, h.added_at, h.run_at, h.claimed_at, h.task_id, h.queue_id, h.attempt, h.priority
      from x join offstage_private.history h on h.job_id = x.job_id and h.claim = x.claim
        and (h.outcome = 'rescued' or h.outcome = 'released' and x.ending <> 'release')
      union all
      select x.*, j.added_at, j.run_at, l.claimed_at, j.task_id, j.queue_id, (j.attempts + 1)::smallint, j.priority
      from x
      join offstage_private.job j on j.id = x.job_id and j.released_claim < x.claim
      join offstage_private.lease l on l.claim = (x.claim & -1024) and l.worker_id = of_worker and l.job_ids[(x.claim & 1023)::integer] = x.job_id
    ), recorded as (
      insert into offstage_private.history
        (settled_at, job_id, claim, added_at, run_at, claimed_at, task_id, queue_id, worker_id, attempt, priority, outcome, error)
      select offstage_private.clock(), r.job_id, r.claim, r.added_at, r.run_at, r.claimed_at, r.task_id, r.queue_id, of_worker, r.attempt,
        r.priority, 'refused', format('worker %s came too late: it wanted to settle with %L', of_worker, r.ending)
      from refused r
      where not exists (select from offstage_private.history h where h.job_id = r.job_id and h.claim = r.claim and h.outcome = 'refused')
      returning settled_at, task_id, queue_id, outcome
    ), counted as (
      insert into offstage_private.statistic_raw (ended_at, task_id, queue_id, outcome, n, waits, runs)
      select r.settled_at, r.task_id, offstage_private.statistic_queue(r.queue_id), r.outcome, 1, '{}', '{}' from recorded r
    ), never as (  -- those of claims that were never committed, which no rescue knows of
      select offstage_private.note_lost(of_worker, (
        select json_agg(e) from json_array_elements(coalesce(endings, '[]')) e
        where e ->> 'ending' = 'lost' and not exists (
          select from refused r where r.job_id = (e ->> 'job_id')::bigint and r.claim = (e ->> 'claim')::bigint)), offstage_private.clock())
    )
    select x.claim, x.job_id, 'lost' from x cross join never
    where exists (select from refused r where r.job_id = x.job_id and r.claim = x.claim)
      or exists (select from offstage_private.job j where j.id = x.job_id and j.released_claim < x.claim);
end $$;

-- Whether a job has no key, queue, channel or wish of its own of what is kept.
create or replace function offstage_private.is_plain(j offstage_private.job) returns boolean
language sql immutable as $$  -- one expression, so that it becomes part of the statement that asks
  select j.key is null and j.queue_id is null and j.notify_channel is null and (j.options is null or j.options ->> 'keep' is null)
$$;

-- Ends successes of plain jobs without logs: all of these, or none. Says which. Each is looked at once
-- to be deleted, and once more if history keeps it. Nobody else locks such jobs while they run, nor moves their rows.
create or replace function offstage_private.settle_plain(
  worker_id integer, claims bigint[], job_ids bigint[], results json[], job_ctids tid[], stats json, quiet integer[], at timestamptz) returns boolean
language plpgsql
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off
as $$
#variable_conflict use_column
declare
  n integer := cardinality(job_ids);
  lowest bigint := (select min(c) from unnest(claims) c);
  keeps boolean;
  taken integer;
begin
  -- The fence: they are this worker's. Whether one has been released since says its row.
  if n <> (
    with mine as materialized (
      select l.claim, l.job_ids from offstage_private.lease l
      where l.claim = any (array(select distinct c & -1024 from unnest(claims) c)) and l.worker_id + 0 = settle_plain.worker_id  -- + 0: see settle()
    )
    select count(*) from unnest(claims, job_ids) u (claim, job_id), mine m
    where m.claim = u.claim & -1024 and m.job_ids[(u.claim & 1023)::integer] = u.job_id)
    or n is distinct from (select sum(s.n) from json_to_recordset(stats) s (n integer))
    or not exists (select from offstage_private.job j where j.ctid = job_ctids[1] and offstage_private.is_plain(j)) then
    return false;
  end if;
  keeps := exists (select from json_to_recordset(stats) s (task_id integer) where s.task_id <> all (quiet));
  begin
    if keeps then
      with mine as materialized (
        select l.claim, l.claimed_at from offstage_private.lease l where l.claim = any (array(select distinct c & -1024 from unnest(claims) c))
      )
      insert into offstage_private.history
        (settled_at, job_id, claim, added_at, run_at, claimed_at, task_id, queue_id, worker_id, attempt, priority, outcome, payload, result)
      select at, j.id, claims[j.position], j.added_at, j.run_at, l.claimed_at, j.task_id, null, settle_plain.worker_id, j.attempts + 1, j.priority,
        'succeeded', j.payload, results[j.position]
      from (
        select j.*, width_bucket(j.id, (select job_ids || '{}'::bigint[])) as position  -- (select …): once, and as a plain array, which a variable of this language is not
        from offstage_private.job j where j.ctid = any (job_ctids)
        offset 0
      ) j
      join mine l on l.claim = claims[j.position] & -1024
      where j.task_id <> all (quiet);
    end if;
    delete from offstage_private.job j
    where j.ctid = any (job_ctids) and offstage_private.is_plain(j)
      and (keeps or j.task_id = any (quiet)) and j.released_claim < lowest and (select job_ids || '{}'::bigint[])[width_bucket(j.id, (select job_ids || '{}'::bigint[]))] = j.id;
    get diagnostics taken = row_count;
    if taken <> n then
      raise exception using errcode = 'OS000';
    end if;
  exception when sqlstate 'OS000' then
    return false;
  end;
  perform offstage_private.count_stats(at, stats);
  return true;
end $$;

-- Settles a batch of attempts of one worker. May be repeated when its answer was lost: what is settled already
-- counts as settled.
--
-- claims, job_ids, results, logs, job_ctids: attempts that succeeded, by ascending job_id; results and logs may be null,
-- or have one element each. job_ctids are what claim() said; without them, or out of order, settling takes longer.
-- logs: of each the lines that report() has not stored, as it takes them. They are stored if history keeps the attempt.
-- endings: the others, [{"claim": 1025, "job_id": 7, "ending": "retry", "error": "…", "delay": 1.5, "payload": …,
-- "log": […]}]. ending is one of
--   retry    the attempt failed; tried again after "delay" seconds (or as the task says) while attempts are left
--   fail     failed for good             cancel   ended as cancelled, with the error as its reason
--   snooze   put off by "delay" seconds, without spending the attempt
--   release  given back, at once or after "delay" seconds, without spending the attempt
--   lost     the attempt began before its claim was committed, which it never was; nothing is settled, history says that
--            it was rescued
--   crash    as release, by a runner whose process died without anybody knowing which of its jobs was at fault; the third
--            in a row fails the job (see crashes in give_back, which counts the same for workers that died)
--   finished the handler's own transaction has ended the job, see finish(); frees its slot of
--            "queue_id", which every ending of an attempt that called finish() must name
-- "payload" replaces the job's, for what is left of a batch job. "wait" and "run" are seconds, for the statistics: how long the
-- job waited and the attempt ran. Without them, and in stats, they are guessed from when it was claimed, and now.
-- emptied: leases of which every job was settled in calls that have been answered. (Not those of this call: if its
-- answer is lost, the lease is what tells a repetition from a lost claim.)
-- stats: what statistics are to count for the successes that have a job_ctid, all of them, [{"task_id": 1, "queue_id": 2,
-- "outcome": "succeeded", "n": 3, "waits": [3], "runs": [0, 2, 1]}], histograms as in buckets(). If it is null, or not all of
-- them were settled, it is worked out here.
-- turn: a claim follows in the same transaction, and hands the queues on whose slots this call frees: it must follow, or their
-- parked jobs stay parked.
--
-- Rows: the jobs that were not settled. verdict 'busy': a caller's open transaction holds the job, send it again;
-- 'lost': the claim is gone, the result was refused, and history says so. No rows: everything is settled.
-- Raises 22023 for an ending that there is not; nothing is settled then.
-- Lock order: see 20_claim.sql.
create or replace function offstage.settle(
  worker_id integer,
  claims bigint[],
  job_ids bigint[],
  results json[] default null,
  logs json[] default null,
  endings json default null,
  emptied bigint[] default null,
  job_ctids tid[] default null,
  stats json default null,
  turn boolean default false
) returns table (claim bigint, job_id bigint, verdict text)
language plpgsql
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off
as $$
#variable_conflict use_column
declare
  at timestamptz := offstage_private.clock();
  n integer := coalesce(cardinality(job_ids), 0);
  settled_one integer;
  waited boolean;
  quiet integer[];  -- tasks that do not keep successes
  slot_claims bigint[] := '{}';
  slot_queues integer[] := '{}';
  settled bigint[];
  complete boolean;      -- everything is settled
  rare boolean;          -- there are endings that are: lost, finished, or of an attempt that has called finish()
  batch record;
  t integer;
begin
  if n = 1 and job_ctids is not null and stats -> 0 ->> 'n' = '1' and stats -> 0 ->> 'queue_id' is null and logs is null and endings is null then
    -- One plain success, which is what a quiet system has, in one statement: there each costs some 30 µs, because the processor has been doing something else. All of it or nothing.
    with alive as materialized (
      select from offstage_private.worker w where w.id = settle.worker_id and w.dead_at is null for key share
    ), gone as (
      delete from offstage_private.job j using offstage_private.lease l
      where j.ctid = any (job_ctids) and j.id = job_ids[1] and j.released_claim < claims[1] and offstage_private.is_plain(j)
        and l.claim = claims[1] & -1024 and l.worker_id + 0 = settle.worker_id and l.job_ids[(claims[1] & 1023)::integer] = job_ids[1]  -- + 0: as below
        and exists (select from alive)
        and (select true from offstage_private.waiter w where w.expires_at >= at order by w.expires_at desc limit 1) is null
      returning j.*, l.claimed_at
    ), kept as (
      insert into offstage_private.history
        (settled_at, job_id, claim, added_at, run_at, claimed_at, task_id, queue_id, worker_id, attempt, priority, outcome, payload, result)
      select at, g.id, claims[1], g.added_at, g.run_at, g.claimed_at, g.task_id, null, settle.worker_id, g.attempts + 1, g.priority, 'succeeded', g.payload, results[1]
      from gone g where coalesce((select t.keep from offstage_private.task t where t.id = g.task_id), 'all') = 'all'
    ), counted as (
      insert into offstage_private.statistic_raw (ended_at, task_id, queue_id, outcome, n, waits, runs)
      select at, g.task_id, offstage_private.statistic_queue(null), 'succeeded', 1, coalesce(translate(stats -> 0 ->> 'waits', '[]', '{}')::integer[], '{}'),
        coalesce(translate(stats -> 0 ->> 'runs', '[]', '{}')::integer[], '{}') from gone g
    ), empty as (
      delete from offstage_private.lease l where l.claim = any (emptied) and l.worker_id + 0 = settle.worker_id and exists (select from gone)
    )
    select count(*) into settled_one from gone;
    if settled_one > 0 then
      return;
    end if;
  end if;

  perform 1 from offstage_private.worker w where w.id = settle.worker_id and w.dead_at is null for key share;
  if not found then
    return query select * from offstage_private.refuse(worker_id, claims, job_ids, endings);
    return;
  end if;
  waited := (select true from offstage_private.waiter w where w.expires_at >= at order by w.expires_at desc limit 1);  -- awaited()
  quiet := array(select t.id from offstage_private.task t where t.keep <> 'all');

  if job_ctids is not null and stats is not null and logs is null and waited is null
    and offstage_private.settle_plain(worker_id, claims, job_ids, results, job_ctids, stats, quiet, at) then
    n := 0;
    job_ctids := null;
  end if;

  -- 1. Successes of jobs without a key, in one go: nobody else locks those while they run, nor moves their rows. So they are
  -- found and deleted by ctid, which takes half as long as by id; what is not there is left for part 2. Those that history
  -- keeps are read once more, because carrying them along costs the others more.
  if job_ctids is not null then
    with mine as materialized (  -- few
      select l.claim, l.job_ids from offstage_private.lease l
      where l.claim = any (array(select distinct c & -1024 from unnest(claims) c)) and l.worker_id + 0 = settle.worker_id  -- + 0: by worker it would step over all that it has deleted
    )
    select array_agg(j.ctid) as gone,
      array_agg(j.ctid) filter (where case when j.options is null or j.options ->> 'keep' is null then j.task_id <> all (quiet) else j.options ->> 'keep' = 'all' end
        or waited and exists (select from offstage_private.waiter w where w.job_id = j.id)) as kept,
      array_agg(l.claim) filter (where j.queue_id is not null) as slot_claims,
      array_agg(j.queue_id) filter (where j.queue_id is not null) as slot_queues,
      count(offstage_private.notify_event(j.notify_channel, j.id, 'succeeded', j.options)) filter (where j.notify_channel is not null) as told
    into batch
    from (
      -- (select …): once, and as a plain array, which a variable of this language is not
      select j.*, j.ctid, claims[width_bucket(j.id, (select job_ids || '{}'::bigint[]))] as claim
      from offstage_private.job j where j.ctid = any (job_ctids) and j.key is null
      offset 0
    ) j
    cross join lateral (
      select j.claim from mine m where m.claim = (j.claim & -1024) and m.job_ids[(j.claim & 1023)::integer] = j.id
    ) l
    where j.released_claim < j.claim;
    if batch.kept is not null then
      with mine as materialized (  -- few: to look each up in the index would take a fifth of the time
        select l.claim, l.claimed_at from offstage_private.lease l where l.claim = any (array(select distinct c & -1024 from unnest(claims) c))
      )
      insert into offstage_private.history
        (settled_at, job_id, claim, added_at, run_at, claimed_at, task_id, queue_id, worker_id, attempt, priority, outcome, payload, result)
      select at, j.id, claims[j.position], j.added_at, j.run_at, l.claimed_at, j.task_id, j.queue_id, settle.worker_id, j.attempts + 1, j.priority,
        'succeeded', j.payload, results[j.position]
      from (
        select j.*, width_bucket(j.id, (select job_ids || '{}'::bigint[])) as position
        from offstage_private.job j where j.ctid = any (batch.kept)
        offset 0
      ) j
      left join mine l on l.claim = claims[j.position] & -1024;
      if logs is not null then
        insert into offstage_private.log (at, job_id, claim, n, attempt, level, message, attrs)
        select l.claimed_at + x.after, j.id, claims[j.position], x.n, j.attempts + 1, x.level, x.message, x.attrs
        from (
          select j.id, j.attempts, width_bucket(j.id, (select job_ids || '{}'::bigint[])) as position
          from offstage_private.job j where j.ctid = any (batch.kept)
          offset 0
        ) j
        join offstage_private.lease l on l.claim = any (array[claims[j.position] & -1024])
        cross join lateral offstage_private.log_lines(logs[j.position]) x
        on conflict do nothing;
      end if;
    end if;
    if batch.gone is null then
      null;
    elsif cardinality(batch.gone) = (select sum(s.n) from json_to_recordset(stats) s (n integer)) then
      perform offstage_private.count_stats(at, stats);
    else
      perform offstage_private.count_ended(at, array_agg(j.task_id), array_agg(j.queue_id), array['succeeded'],
        array_agg(offstage_private.seconds(greatest(j.run_at, j.added_at), l.claimed_at)), array_agg(offstage_private.seconds(l.claimed_at, at)))
      from (
        select j.*, width_bucket(j.id, (select job_ids || '{}'::bigint[])) as position
        from offstage_private.job j where j.ctid = any (batch.gone)
        offset 0
      ) j
      left join offstage_private.lease l on l.claim = any (array[claims[j.position] & -1024]);
    end if;
    delete from offstage_private.job j where j.ctid = any (batch.gone);
    n := n - coalesce(cardinality(batch.gone), 0);  -- keyed, not ours, or not there
    slot_claims := slot_claims || batch.slot_claims;
    slot_queues := slot_queues || batch.slot_queues;
  end if;

  -- 2. Everything else, one row at a time where it matters: a caller may hold the row of a keyed job.
  if n > 0 or endings is not null then
    with x as materialized (
      select u.claim, u.job_id, 'succeed' as ending, null::text as error, null::double precision as delay, null::json as payload, u.log, u.result,
        null::double precision as wait, null::double precision as run, null::integer as queue_id
      from unnest(claims, job_ids, results, logs) u (claim, job_id, result, log) where n > 0
      union all
      select e.claim, e.job_id, e.ending, e.error, e.delay, e.payload, e.log, null, e.wait, e.run, e.queue_id
      from json_to_recordset(coalesce(endings, '[]'))
        e (claim bigint, job_id bigint, ending text, error text, delay double precision, payload json, log json, wait double precision, run double precision, queue_id integer)
    ), held as (
      -- = any (array[…]), here and below: no merge join comes into question, which reads the whole index where the planner
      -- believes that there is nothing. + 0: as above.
      select x.*, l.claimed_at from x join offstage_private.lease l on l.claim = any (array[x.claim & -1024])
      where l.worker_id + 0 = settle.worker_id and l.job_ids[(x.claim & 1023)::integer] = x.job_id and x.ending not in ('finished', 'lost')
    ), locked as materialized (
      select j as job, h.claim, h.claimed_at, h.ending, h.error, h.delay, h.payload, h.log, h.result, h.wait, h.run
      from held h join offstage_private.job j on j.id = any (array[h.job_id])
      where j.released_claim < h.claim for update of j skip locked
    ), decided as materialized (
      select k.*, (k.job).id, t.keep, d.outcome, d.outcome = any ('{retried,failed}') as spent,
        coalesce(case when d.outcome = 'cancelled' then c.reason end,
          k.error || case when k.ending = 'crash' and d.outcome = 'failed' then ', the third time in a row: set aside' else '' end) as why,
        case
          when d.outcome = 'snoozed' or d.outcome = 'released' and k.delay is not null then at + coalesce(k.delay, 0) * interval '1 s'
          when d.outcome = 'retried' or d.outcome = 'failed' and k.ending = 'retry'  -- the last one too, as in graphile_worker
            then greatest(at, (k.job).run_at) + coalesce(k.delay * interval '1 s', offstage_private.retry_delay(t.retry, (k.job).attempts + 1))
          else (k.job).run_at
        end as next_run_at,
        -- (as dear as all else: only where somebody will read it)
        case when d.outcome = 'failed' or (d.outcome = 'retried' or k.ending = 'crash' and d.outcome = 'released')
            and (waited or offstage_private.keeps(coalesce((k.job).options ->> 'keep', t.keep), d.outcome))
          then offstage_private.fingerprint(t.name, k.error) end as fingerprint
      from locked k
      join offstage_private.task t on t.id = (k.job).task_id
      left join offstage_private.cancellation c on c.job_id = (k.job).id
      cross join lateral (select case
        when k.ending = 'succeed' then 'succeeded'
        when k.ending = 'cancel' or c.job_id is not null then 'cancelled'
        when k.ending = 'snooze' then 'snoozed'
        when k.ending = 'release' or k.ending = 'crash' and (k.job).crashes < 2 then 'released'
        when k.ending in ('fail', 'crash') or (k.job).attempts + 1 >= coalesce((k.job).max_attempts, t.max_attempts, 25) then 'failed'
        else 'retried' end as outcome) d
    ), gone as (
      delete from offstage_private.job j using decided d where j.id = any (array[d.id]) and d.outcome in ('succeeded', 'cancelled')
    ), changed as (
      update offstage_private.job j set
        released_claim = d.claim, failed = d.outcome = 'failed', run_at = d.next_run_at,
        crashes = case when d.ending = 'crash' then j.crashes + 1 when d.outcome = 'released' then j.crashes else 0 end,
        attempts = j.attempts + d.spent::integer,
        last_error = case when d.spent or d.ending = 'crash' then d.why else j.last_error end,
        payload = coalesce(d.payload, j.payload),
        fingerprint = case when d.outcome = 'failed' then d.fingerprint else j.fingerprint end  -- else it is not looked at
      from decided d where j.id = any (array[d.id]) and d.outcome not in ('succeeded', 'cancelled')
    ), later as (
      insert into offstage_private.scheduled (run_at, job_id, lane_id, queue_id, priority)
      select d.next_run_at, d.id, (d.job).lane_id, (d.job).queue_id, (d.job).priority
      from decided d where d.outcome in ('retried', 'snoozed', 'released') and d.next_run_at > at
    ), again as (
      insert into offstage_private.ticket (run_at, job_id, lane_id, queue_id, priority)
      select d.next_run_at, d.id, (d.job).lane_id, (d.job).queue_id, (d.job).priority
      from decided d where d.outcome in ('retried', 'snoozed', 'released') and d.next_run_at <= at
    ), kept as (
      insert into offstage_private.history (settled_at, job_id, claim, added_at, run_at, claimed_at, task_id, queue_id, worker_id, attempt,
        priority, outcome, key, error, payload, result, fingerprint)
      select at, d.id, d.claim, (d.job).added_at, (d.job).run_at, d.claimed_at, (d.job).task_id, (d.job).queue_id, settle.worker_id,
        (d.job).attempts + 1, (d.job).priority, d.outcome, (d.job).key, d.why,
        case when d.outcome in ('succeeded', 'failed', 'cancelled') then (d.job).payload end, d.result, d.fingerprint
      from decided d
      where offstage_private.keeps(coalesce((d.job).options ->> 'keep', d.keep), d.outcome)
        or (waited and exists (select from offstage_private.waiter w where w.job_id = d.id))
      returning job_id
    ), logged as (
      insert into offstage_private.log (at, job_id, claim, n, attempt, level, message, attrs)
      select d.claimed_at + x.after, d.id, d.claim, x.n, (d.job).attempts + 1, x.level, x.message, x.attrs
      from decided d cross join lateral offstage_private.log_lines(d.log) x
      where d.log is not null and d.id in (select k.job_id from kept k)
      on conflict do nothing
    ), forgotten as (
      delete from offstage_private.cancellation c using decided d where c.job_id = d.id
    ), aside as (
      insert into offstage_private.set_aside (at, job_id) select at, d.id from decided d where d.ending = 'crash' and d.outcome = 'failed'
    )
    select array_agg(d.id) as settled,
      array_agg(d.claim) filter (where (d.job).queue_id is not null) as slot_claims,
      array_agg((d.job).queue_id) filter (where (d.job).queue_id is not null) as slot_queues,
      array_agg(distinct (d.job).task_id) filter (where d.outcome in ('retried', 'snoozed', 'released') and d.next_run_at <= at) as tasks,
      bool_or(d.outcome in ('retried', 'snoozed', 'released') and d.next_run_at > at and d.next_run_at < at + interval '3 s') as soon,
      count(offstage_private.notify_event((d.job).notify_channel, d.id, d.outcome, (d.job).options))
        filter (where (d.job).notify_channel is not null and d.outcome in ('succeeded', 'failed', 'cancelled')) as told,
      array_agg((d.job).task_id) as count_tasks, array_agg((d.job).queue_id) as count_queues, array_agg(d.outcome) as count_outcomes,
      array_agg(case when d.outcome <> 'released' then coalesce(d.wait, offstage_private.seconds(greatest((d.job).run_at, (d.job).added_at), d.claimed_at)) end) as waits,
      array_agg(case when d.outcome <> 'released' then coalesce(d.run, offstage_private.seconds(d.claimed_at, at)) end) as runs,
      (select count(*) from x) as n, (select bool_or(x.ending in ('finished', 'lost') or x.queue_id is not null) from x) as rare,
      (select min(coalesce(x.ending, '')) from x where (x.ending = any ('{succeed,retry,fail,cancel,snooze,release,crash,finished,lost}')) is not true) as unknown
    into batch from decided d;
    if batch.unknown is not null then
      raise invalid_parameter_value using message = format('there is no ending %L', batch.unknown),
        hint = 'Expected retry, fail, cancel, snooze, release, crash, finished or lost. Nothing was settled.';
    end if;
    settled := batch.settled;
    rare := batch.rare;
    complete := cardinality(settled) = batch.n;
    if settled is not null then
      perform offstage_private.count_ended(at, batch.count_tasks, batch.count_queues, batch.count_outcomes, batch.waits, batch.runs);
    end if;
    slot_claims := slot_claims || batch.slot_claims;
    slot_queues := slot_queues || batch.slot_queues;
    if batch.soon then
      perform pg_notify('offstage:due', 'offstage');
    end if;
    if batch.tasks is not null then
      foreach t in array batch.tasks loop
        perform offstage_private.wake(t);
      end loop;
    end if;

    if rare then
      perform offstage_private.note_lost(settle.worker_id, endings, at);

      -- Lines of attempts whose own handler's transaction has ended the job, if history has kept it.
      insert into offstage_private.log (at, job_id, claim, n, attempt, level, message, attrs)
      select h.claimed_at + x.after, h.job_id, h.claim, x.n, h.attempt, x.level, x.message, x.attrs
      from json_to_recordset(coalesce(endings, '[]')) e (claim bigint, job_id bigint, ending text, log json)
      cross join lateral (
        select h.* from offstage_private.history h
        where h.job_id = e.job_id and h.claim = e.claim and h.worker_id = settle.worker_id and h.outcome = 'succeeded' limit 1
      ) h
      cross join lateral offstage_private.log_lines(e.log) x
      where e.ending = 'finished'
      on conflict do nothing;

      -- Slots of jobs that their own handler's transaction has ended: such an ending names the queue.
      select array_agg(e.claim) as slot_claims, array_agg(e.queue_id) as slot_queues into batch
      from json_to_recordset(coalesce(endings, '[]')) e (claim bigint, job_id bigint, ending text, queue_id integer)
      join offstage_private.lease l on l.claim = any (array[e.claim & -1024])
      where e.queue_id is not null and l.worker_id + 0 = settle.worker_id and l.job_ids[(e.claim & 1023)::integer] = e.job_id
        and not exists (select from offstage_private.job j where j.id = e.job_id and j.released_claim < e.claim);
      slot_claims := slot_claims || batch.slot_claims;
      slot_queues := slot_queues || batch.slot_queues;
    end if;

    if complete is not true then
      return query
        select x.claim, x.job_id,
          case when l.claim is not null then 'busy' else 'lost' end
        from (
          select u.claim, u.job_id from unnest(claims, job_ids) u (claim, job_id) where n > 0
          union all
          select e.claim, e.job_id from json_to_recordset(coalesce(endings, '[]')) e (claim bigint, job_id bigint, ending text) where e.ending <> 'lost'
        ) x
        left join offstage_private.job j on j.id = any (array[x.job_id]) and j.released_claim < x.claim
        left join offstage_private.lease l on l.claim = any (array[x.claim & -1024]) and l.worker_id + 0 = settle.worker_id
          and l.job_ids[(x.claim & 1023)::integer] = x.job_id
        where (l.claim is not null and j.id is not null)   -- ours, and still there: somebody holds the row
          or (l.claim is null);                             -- not ours (any more)
    end if;
  end if;

  if waited then
    perform offstage_private.notify_waiters(coalesce(job_ids, '{}') || settled || array(
      select e.job_id from json_to_recordset(coalesce(endings, '[]')) e (job_id bigint, ending text) where e.ending = 'finished'));
  end if;
  if cardinality(emptied) > 0 then
    delete from offstage_private.lease l where l.claim = any (emptied) and l.worker_id + 0 = settle.worker_id;
  end if;
  if cardinality(slot_claims) > 0 then
    if turn then
      perform set_config('offstage.freed', json_build_object('queues', slot_queues, 'claims', slot_claims)::text, true);
    else
      perform offstage_private.free_slots(slot_queues, slot_claims);
    end if;
  end if;
end $$;

-- Gives back what a claim took whose answer was lost on the wire: jobs of leases of this worker that are not among
-- the known ones. No attempt is spent. Says how many. To be called while no claim of the worker is under way.
create or replace function offstage.recall(worker_id integer, known bigint[]) returns integer
language plpgsql as $$
declare
  lost bigint[] := array(select l.claim from offstage_private.lease l where l.worker_id = recall.worker_id and l.claim <> all (coalesce(known, '{}')));
  jobs json;
begin
  if cardinality(lost) = 0 then
    return 0;
  end if;
  select json_agg(json_build_object('claim', l.claim + x.position, 'job_id', x.id, 'ending', 'release')) into jobs
  from offstage_private.lease l cross join lateral unnest(l.job_ids) with ordinality x (id, position) where l.claim = any (lost);
  perform offstage.settle(worker_id, null, null, null, null, jobs);
  delete from offstage_private.lease l
  where l.claim = any (lost) and not exists (select from offstage_private.job j where j.id = any (l.job_ids) and j.released_claim < l.claim);
  return json_array_length(jobs);
end $$;

-- Ends a running job as succeeded inside the handler's own transaction. Locks the job's row and no worker, lease or
-- queue, so that it may stay open for long; the worker frees lease and slot when it has committed (settle,
-- "finished"). False: the claim is gone, nothing was written, roll back.
create or replace function offstage.finish(worker_id integer, claim bigint, job_id bigint, result json default null) returns boolean
language plpgsql
set jit = off set enable_seqscan = off set enable_bitmapscan = off
as $$
declare
  at timestamptz := offstage_private.clock();
  found_job record;
  j offstage_private.job;
  l offstage_private.lease;
  awaited boolean := offstage_private.is_awaited(finish.job_id);
begin
  if offstage_private.serializable() then
    select * into found_job from offstage_private.job_apart(finish.job_id);
  else
    select o.ctid as at, o as job into found_job from offstage_private.job o where o.id = finish.job_id for update;
  end if;
  j := found_job.job;
  select o.* into l from offstage_private.lease o  -- the fence, as in holds()
  where o.claim = (finish.claim & -1024) and o.worker_id + 0 = finish.worker_id
    and o.job_ids[(finish.claim & 1023)::integer] = j.id and j.released_claim < finish.claim;
  if not found then
    return false;
  end if;
  insert into offstage_private.history
    (settled_at, job_id, claim, added_at, run_at, claimed_at, task_id, queue_id, worker_id, attempt, priority, outcome, key, payload, result)
  select at, j.id, finish.claim, j.added_at, j.run_at, l.claimed_at, j.task_id, j.queue_id, l.worker_id, j.attempts + 1, j.priority,
    'succeeded', j.key, j.payload, finish.result
  where awaited or offstage_private.keeps(coalesce(j.options ->> 'keep', (offstage_private.task_of(j.task_id)).keep), 'succeeded');
  perform offstage_private.count_ended(at, array[j.task_id], array[j.queue_id], array['succeeded'],
    array[offstage_private.seconds(greatest(j.run_at, j.added_at), l.claimed_at)], array[offstage_private.seconds(l.claimed_at, at)]);
  delete from offstage_private.job o where o.ctid = found_job.at;
  if j.notify_channel is not null then
    perform offstage_private.notify_event(j.notify_channel, j.id, 'succeeded', j.options);
  end if;
  if awaited then
    perform offstage_private.notify_waiter(j.id);
  end if;
  return true;
end $$;
