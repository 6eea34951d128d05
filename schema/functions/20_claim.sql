-- Stage 3: claim. A worker takes jobs that have tickets.
--
-- THE LOCK ORDER of the engine. Everything takes locks in this order, and only so; schema/lockorder_test.go holds it.
--
--   0. bulk        bulk_step: skip locked, its own row
--      schedule    tick: skip locked; callers who change one: blocking, one at a time, and before anything else
--      offer       add: skip locked, until its commit; worker: skip locked; give: has it already
--      names       SERIALIZABLE callers lock the row of a task, name, version or lane for a moment, to find it; for whoever changes a task they wait for a millisecond, whatever they hold
--   1. worker      settle: key share; heartbeat: no key update; force_unlock_workers: update, by id; rescue: the same for a tenth of a second,
--                  or update, skip locked; claim and give: key share, skip locked, at their end
--   2. lease       rescue: update, skip locked; a worker's own settle deletes it
--   3. job         settle: plain jobs by delete (nobody else locks them while they run), keyed ones skip locked;
--                  rescue skip locked; keyed add, remove_job and admin: blocking, in the order of the keys. SERIALIZABLE
--                  callers look at a job by locking it for a moment, while they hold no place: see 00_apart.sql
--   4. queue       settle, promote, rescue: blocking, by id, once a transaction; claim: skip locked. Its state and fronts
--                  are read and written under this lock
--   5. places      claim, promote, handing over: skip locked; unplace(): blocking, holds nothing that those wait for; of a shared ticket key share, until its
--                  transaction ends, and a stub under it
--
-- A claim waits for nothing at all, because it shares a transaction with the settle before it.
--
-- PLANS must not depend on statistics: autovacuum analyzes these tables when they happen to be empty, and then the planner takes
-- whatever there may be for one row, which costs nothing to collect and sort. So the engine's functions turn off all but index scans
-- and nested loops, and order rows as an index has them. schema/plan_test.go counts what each call reads; docs/adr/0015-plans-without-statistics.md.

-- Goes to sleep or wakes up: see offstage_private.wake(). Session locks, so a worker that dies lets go of them.
create or replace function offstage_private.sleep_lock(task_ids integer[], asleep boolean) returns void
language plpgsql as $$
declare
  t integer;
begin
  foreach t in array task_ids loop
    if asleep then
      perform pg_advisory_lock_shared(hashtext('offstage'), t);
    else
      perform pg_advisory_unlock_shared(hashtext('offstage'), t);
    end if;
  end loop;
end $$;

-- Those of these queues that can run no more jobs now. While a queue's row is locked that stays so.
create or replace function offstage_private.full_queues(queue_ids integer[]) returns integer[]
language plpgsql volatile as $$
begin
  return array(
    select q.id from (select distinct u as id from unnest(queue_ids) u) q
    cross join lateral (select o.claims from offstage_private.queue_state o where o.queue_id = q.id order by o.queue_id, o.turn limit 1) s
    left join offstage_private.queue_setting c on c.queue_id = q.id
    where c.paused or cardinality(s.claims) >= coalesce(c.concurrency, 1));
end $$;

-- Claims up to "want" jobs (at most 1000) of these tasks, the most urgent first: by priority, run_at, id. The
-- worker must settle each under its claim number. Waits for nothing; locks tickets and queues, both skip locked.
--
-- Marks remember where the last look ended, per lane and priority, so that the dead index entries of tickets that
-- are gone are not scanned again; without marks everything is looked at. A worker forgets its marks when it is
-- woken, and now and then, because a ticket may be committed behind them.
--
-- sleep_state: 1 takes the sleep locks before looking, -1 drops them, 0 and 2 leave them. With 1 and 2 a row of kind
-- 'asleep' gives the oldest transaction in progress (in job_id) and the next one to come (in claim). Callers that
-- added before the locks were taken did not wake anybody: until a later look's oldest has reached the next one of
-- the look that took the locks, the worker keeps looking; from then on it may rely on being woken.
--
-- Rows: kind 'job' is a claimed job (crashes null: none; expired null: no; lane_id, priority and run_at are its mark); 'mark' is a mark to remember (lane_id, priority, run_at, job_id); 'rest' is a ticket that stays, or of which there is more: no mark may be at or behind it; 'again' says
-- that something was busy or too long, look again soon; 'asleep' see above. No rows: nothing to do.
-- Raises OS001 when there are jobs for it but the worker has been declared dead, or is unknown.
create or replace function offstage.claim(
  worker_id integer,
  want integer,
  task_ids integer[],
  forbidden_flags text[] default null,
  mark_lanes integer[] default null,
  mark_priorities smallint[] default null,
  mark_run_ats timestamptz[] default null,
  mark_job_ids bigint[] default null,
  sleep_state integer default 0
) returns table (
  kind text, claim bigint, job_id bigint, lane_id integer, priority smallint, run_at timestamptz, task_id integer,
  attempt smallint, max_attempts smallint, crashes smallint, added_at timestamptz, queue_id integer, queue_name text,
  key text, flags jsonb, last_error text, timeout interval, traceparent text, expired boolean, payload json, job_ctid tid
)
language plpgsql
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off
as $$
#variable_conflict use_column
declare
  at timestamptz;        -- when the jobs were claimed
  begun pg_snapshot;
  lanes integer[];
  lane integer;
  room integer := least(want, 1000);
  look_at integer := 1;  -- how many tickets this round looks at, and how many there were
  looked integer;
  shared boolean;        -- there are tickets that jobs share,
  cut boolean;           -- and this round may have got more jobs than there is room for
  worn tid[];            -- those of them that jobs have left,
  parted tid;            -- the one that this round takes a part of,
  part bigint[];         -- these jobs,
  left_lanes integer[];  -- and the lanes of what it leaves
  got_n integer;         -- tickets that this round got, before they were cut
  skipped boolean;       -- and may have locked others, without taking them
  rounds integer := 0;
  seen integer;          -- tickets that this round got
  again boolean := false;
  range_lanes integer[];  -- what it looks through, see there
  range_priorities smallint[];
  range_run_ats timestamptz[];
  range_job_ids bigint[];
  range_untils integer[];
  depths integer[];       -- how many it reads of each; null: as many as it looks at
  horizon_priority smallint;  -- behind this it does not look, if it is there
  horizon_run_at timestamptz;
  horizon_id bigint;
  short boolean;          -- there may be more behind that
  further boolean;       -- look at more tickets
  lease bigint;
  taken bigint[] := '{}';  -- jobs that this round took, by id
  n integer;               -- how many
  ctids tid[];             -- of their rows in job, as far as the tickets know
  found_jobs integer;
  by_id bigint[];          -- those of them that are not found there
  places tid[];            -- of the tickets that this round got; then of those without a queue,
  queued tid[];            -- and of those with one
  in_queues integer;       -- how many
  stays offstage_private.ticket[];  -- tickets that stay, in front of some of those: of each lane and priority the first
  stuck boolean := false;  -- there were some,
  moved boolean := false;  -- and something that was taken or parked
  freed json;              -- queues whose slots a settle of this transaction has freed: the first jobs of most of them, with their
  turns offstage_private.parked[];  -- queues' rows in queue_state, and which of them this round got
  turn_states tid[];
  turn_ids bigint[];
  turn_ctids tid[];
  turn_queues integer[];   -- their queues, whose one slot is taken, even if they have just got more
  back offstage_private.parked[];   -- the others get tickets
  back_states tid[];
  handed json;             -- tickets of the other queues
  queue_ids integer[];
  got bigint[];
  got_ctids tid[];
  got_states tid[];      -- of their queues
  marks offstage_private.ticket[];
  m record;
  parked offstage_private.ticket;  -- the last one that a round has parked, when it got nothing else: its lane is left aside while
  aside boolean := false;          -- the others are looked at, in turns with parking more of it
  full_queues integer[];
  standing integer;                -- tickets that are to be parked as well; null: this round was not for that
begin
  if sleep_state in (1, -1) then
    perform offstage_private.sleep_lock(task_ids, sleep_state > 0);
  end if;
  begun := pg_current_snapshot();  -- what was in progress then may not have been seen

  -- What to look through: the lanes of these tasks, without paused tasks and forbidden flags. (A "language sql" helper
  -- would be planned again at every call.)
  lanes := array(
    select t.id from offstage_private.task t where t.id = any (task_ids) and not t.paused
    union all
    select l.id from offstage_private.lane l join offstage_private.task t on t.id = l.task_id
    where l.task_id = any (task_ids) and not t.paused and (l.flags ?| forbidden_flags) is not true);

  -- A settle of this transaction has freed queues, for us to hand on.
  freed := nullif(current_setting('offstage.freed', true), '')::json;
  if freed is not null then
    perform set_config('offstage.freed', '', true);
    select t.jobs, t.states into turns, turn_states from offstage_private.take_turns(
      array(select json_array_elements_text(freed -> 'queues')::integer), array(select json_array_elements_text(freed -> 'claims')::bigint),
      case when room > 0 then lanes else '{}' end) t;
  end if;
  -- It has made tickets, too, which may stand in front of the marks.
  if mark_lanes is not null then
    handed := nullif(current_setting('offstage.handed', true), '')::json;
  end if;

  while room > 0 and cardinality(lanes) > 0 loop
    if rounds = 10 then
      again := true;
      exit;
    end if;
    rounds := rounds + 1;

    -- The ranges to look through: each lane as far as its first mark, and from each mark as far as the next one, which has another priority.
    n := cardinality(lanes);
    if mark_lanes is null then
      range_lanes := lanes; range_priorities := array_fill((-32768)::smallint, array[n]); range_run_ats := array_fill(timestamptz '-infinity', array[n]);
      range_job_ids := array_fill(-1::bigint, array[n]); range_untils := array_fill(32768, array[n]);
    else
      select array_agg(r.lane_id), array_agg(r.priority), array_agg(r.run_at), array_agg(r.job_id), array_agg(r.until)
      into range_lanes, range_priorities, range_run_ats, range_job_ids, range_untils
      from (
        select s.*, coalesce(lead(s.priority) over (partition by s.lane_id order by s.priority, s.run_at, s.job_id), 32768) as until
        from (
          select l as lane_id, (-32768)::smallint as priority, timestamptz '-infinity' as run_at, -1::bigint as job_id from unnest(lanes) l
          union all
          select k.* from unnest(mark_lanes, mark_priorities, mark_run_ats, mark_job_ids) k (lane_id, priority, run_at, job_id) where k.lane_id = any (lanes)) s
      ) r;
    end if;
    if rounds = 1 then
      -- Tickets that jobs share are looked through a few at a time: nobody knows before how many there are to be.
      shared := exists (
        select from unnest(range_lanes, range_priorities, range_run_ats, range_job_ids, range_untils) r (lane_id, priority, run_at, job_id, until) cross join lateral (
          select from offstage_private.ticket t
          where t.lane_id = r.lane_id and (t.priority, t.run_at, t.job_id) > (r.priority, r.run_at, r.job_id) and t.priority < r.until and t.jobs > 1
          order by t.lane_id, t.priority, t.run_at, t.job_id limit 1) t);
    end if;

    cut := false;
    skipped := false;
    short := false;
    if parked.lane_id is not null and not aside then
      -- Of a long queue, up to a thousand are parked at a time, however few jobs are wanted, or it would hold up for long what stands
      -- behind it. As far as one ticket follows the other whose queue is full: which stays so while the queue is locked.
      select array_agg(t.place), array_agg(t.queue_id) into places, queue_ids from (
        select t.ctid as place, t.queue_id from offstage_private.ticket t
        where t.lane_id = parked.lane_id and (t.priority, t.run_at, t.job_id) > (parked.priority, parked.run_at, parked.job_id)
        order by t.lane_id, t.priority, t.run_at, t.job_id limit 1000
      ) t;
      full_queues := offstage_private.full_queues(queue_ids);
      full_queues := array(select q.id from offstage_private.queue q where q.id = any (full_queues) for update skip locked);
      full_queues := offstage_private.full_queues(full_queues);
      standing := coalesce((select min(u.n) - 1 from unnest(queue_ids) with ordinality u (id, n) where (u.id = any (full_queues)) is not true), cardinality(places), 0);
      places := array(
        select t.ctid from offstage_private.ticket t
        where t.ctid = any (places[1:standing]) and coalesce(t.queue_id, 0) = any (full_queues) for update skip locked);  -- coalesce: not by the index of queues
      in_queues := cardinality(places); seen := greatest(in_queues, room); looked := 0;
      if in_queues = 0 then
        parked := null; standing := null;
        continue;
      end if;
    elsif cardinality(lanes) = 1 and mark_lanes is null and handed is null and turns is null and not shared then
      -- One lane, everything: what a worker does that has been woken. The index gives the order, and rows are locked as they
      -- are found.
      lane := lanes[1];
      select array_agg(t.job_id order by t.job_id), array_agg(t.job_ctid), array_agg(t.place), count(t.queue_id), count(*), 0
      into taken, ctids, places, in_queues, seen, looked
      from (
        select t.ctid as place, t.job_id, t.job_ctid, t.queue_id from offstage_private.ticket t where t.lane_id = lane and t.jobs = 1
        order by t.lane_id, t.priority, t.run_at, t.job_id limit room for update skip locked
      ) t;
    elsif cardinality(lanes) = 1 and handed is null and turns is null and not shared then
      -- One lane with marks: the same, between them, one after the other.
      lane := lanes[1];
      select array_agg(t.job_id order by t.job_id), array_agg(t.job_ctid), array_agg(t.place), count(t.queue_id), count(*), 0
      into taken, ctids, places, in_queues, seen, looked
      from (
        select t.* from (
          select r.* from unnest(range_priorities, range_run_ats, range_job_ids, range_untils) r (priority, run_at, job_id, until) order by r.priority, r.run_at, r.job_id) r
        cross join lateral (
          select t.ctid as place, t.job_id, t.job_ctid, t.queue_id from offstage_private.ticket t
          where t.lane_id = lane and (t.priority, t.run_at, t.job_id) > (r.priority, r.run_at, r.job_id) and t.priority < r.until and t.jobs = 1
          order by t.lane_id, t.priority, t.run_at, t.job_id limit room for update skip locked) t
        limit room
      ) t;
    elsif mark_lanes is null and turns is null and not shared then
      -- Several, everything, of which there is mostly little when a worker has been woken: the tickets of all lanes, merged, then locked.
      with look as materialized (
        select t.* from unnest(lanes) l (lane_id) cross join lateral (
          select t.ctid as place, t.priority, t.run_at, t.job_id, t.job_ctid, t.queue_id from offstage_private.ticket t
          where t.lane_id = l.lane_id and t.jobs = 1 order by t.lane_id, t.priority, t.run_at, t.job_id limit 20) t
        order by t.priority, t.run_at, t.job_id limit 20
      ), got as materialized (
        select l.* from look l join offstage_private.ticket t on t.ctid = l.place
        order by l.priority, l.run_at, l.job_id limit case when (select count(*) from look) < 20 then room else 0 end for update of t skip locked
      )
      select array_agg(t.job_id order by t.job_id), array_agg(t.job_ctid), array_agg(t.place), count(t.queue_id), count(*), (select count(*) from look)
      into taken, ctids, places, in_queues, seen, looked from got t;
      look_at := 20;
      if looked = 20 then  -- there is more: as with marks, of which there are none
        mark_lanes := '{}';
        rounds := 0;
        continue;
      end if;
    else
      -- Several: the tickets of each range between marks, those handed on, and the jobs that need none, merged; then locked.
      cut := shared;
      look_at := case when shared then least((16 + room / 16) << (rounds - 1), room * 2 + 50) else room * 2 + 50 end;
      -- How many to read of each range. As many as are looked at would be two thousand of each of many tasks; where that is much, so many as if all had the same number of them, and of the first
      -- range all. It is looked at as far as the first range goes of which there may be more, the horizon. If that does not suffice, another round reads more, which does not look at what settle has
      -- handed to this one. docs/adr/0020-many-tasks.md
      depths := null; horizon_priority := null; horizon_run_at := null; horizon_id := null;
      if look_at * cardinality(range_lanes) > 2000 and cardinality(range_lanes) > 2 and handed is null and turns is null then
        with deep as materialized (
          select r.*, least(look_at, (look_at / case when row_number() over (order by t.priority, t.run_at, t.job_id) = 1 then 1 else greatest(count(t.job_id) over (), 1) end + 16)
            << least(2 * (rounds - 1), 12)) as depth
          from unnest(range_lanes, range_priorities, range_run_ats, range_job_ids, range_untils) with ordinality r (lane_id, priority, run_at, job_id, until, i)
          left join lateral (
            select t.priority, t.run_at, t.job_id from offstage_private.ticket t
            where t.lane_id = r.lane_id and (t.priority, t.run_at, t.job_id) > (r.priority, r.run_at, r.job_id) and t.priority < r.until and (shared or t.jobs = 1)
            order by t.lane_id, t.priority, t.run_at, t.job_id limit 1) t on true
        )
        select array_agg(d.depth order by d.i),
          (array_agg(t.priority order by t.priority, t.run_at, t.job_id))[1], (array_agg(t.run_at order by t.priority, t.run_at, t.job_id))[1],
          (array_agg(t.job_id order by t.priority, t.run_at, t.job_id))[1]
        into depths, horizon_priority, horizon_run_at, horizon_id
        from deep d left join lateral (
          select t.priority, t.run_at, t.job_id from offstage_private.ticket t
          where t.lane_id = d.lane_id and (t.priority, t.run_at, t.job_id) > (d.priority, d.run_at, d.job_id) and t.priority < d.until and (shared or t.jobs = 1)
          order by t.lane_id, t.priority, t.run_at, t.job_id offset d.depth - 1 limit 1) t on true;
      end if;
      with look as materialized (
        select t.place, t.run_at, coalesce(t.left_ids[1], t.job_id) as job_id, t.job_id as first_id, t.lane_id, t.queue_id, t.priority, t.job_ctid,
          coalesce(cardinality(t.left_ids), t.jobs) as jobs
        from (
          -- Of a ticket that jobs have left, those that it has: the first is where it stands, and a job that comes back goes before it. Asked of few: each time it is a look in an index.
          select t.*, case when t.jobs > 1 and exists (select from offstage_private.stub s where s.lane_id = t.lane_id and s.ticket = t.job_id) then array(
            select i from unnest((select k.job_ids from offstage_private.ticket k where k.ctid = t.place)) i
            where not exists (select from offstage_private.stub s where s.lane_id = t.lane_id and s.ticket = t.job_id and s.job_id = i) order by 1) end as left_ids
          from (
            select * from (
              select t.place, t.run_at, t.job_id, t.lane_id, t.queue_id, t.priority, t.job_ctid, t.jobs
              from unnest(range_lanes, range_priorities, range_run_ats, range_job_ids, range_untils, depths) r (lane_id, priority, run_at, job_id, until, depth) cross join lateral (
                select t.ctid as place, t.* from offstage_private.ticket t
                where t.lane_id = r.lane_id and (t.priority, t.run_at, t.job_id) > (r.priority, r.run_at, r.job_id)
                  and t.priority < r.until  -- of one column only: at a pair of them, index scans do not stop
                  and (shared or t.jobs = 1)
                order by t.lane_id, t.priority, t.run_at, t.job_id limit coalesce(r.depth, look_at)) t
              where ((t.priority, t.run_at, t.job_id) <= (horizon_priority, horizon_run_at, horizon_id)) is not false
              union all
              select t.place, t.run_at, t.job_id, t.lane_id, t.queue_id, t.priority, t.job_ctid, t.jobs
              from json_to_recordset(handed) h (lane_id integer, priority smallint, run_at timestamptz, job_id bigint)
              cross join lateral (  -- with a limit, or a plan made while there were no tickets reads the whole index
                select t.ctid as place, t.* from offstage_private.ticket t
                where t.lane_id = h.lane_id and t.priority = h.priority and t.run_at = h.run_at and t.job_id = h.job_id limit 1) t
              where h.lane_id = any (lanes) and not exists (
                select from unnest(range_lanes, range_priorities, range_run_ats, range_job_ids, range_untils) r (lane_id, priority, run_at, job_id, until)
                where r.lane_id = h.lane_id and h.priority < r.until
                  and (h.priority, h.run_at, h.job_id) > (r.priority, r.run_at, r.job_id))
              union all
              select null, j.*, 1 from unnest(turns) j
            ) t (place, run_at, job_id, lane_id, queue_id, priority, job_ctid, jobs)
            order by t.priority, t.run_at, t.job_id limit look_at) t
          offset 0) t  -- offset: or each use of left_ids would work it out
      ), enough (n) as materialized (
        -- Not beyond where the look ends: there may be some that stand before one that jobs have left.
        select case when shared then (
          select greatest(count(*), 1)
          from (select l.*, sum(l.jobs) over (order by l.priority, l.run_at, l.job_id) - l.jobs as before from look l) l
          where l.before < room and ((l.priority, l.run_at, l.job_id) <= (
            select e.priority, e.run_at, e.first_id from look e order by 1 desc, 2 desc, 3 desc limit 1)
            or (select count(*) from look) < look_at and horizon_id is null)) else room end
      ), got as materialized (
        select l.* from (select * from look order by priority, run_at, job_id offset 0) l join offstage_private.ticket t on t.ctid = l.place
        limit (select n from enough) for update of t skip locked
      ), first as (
        select * from got
        union all
        select * from look l where l.place is null
        order by priority, run_at, job_id limit (select n from enough)
      )
      select array_agg(t.job_id order by t.job_id), array_agg(t.job_ctid), array_agg(t.place), count(t.queue_id) filter (where t.place is not null), count(*),
        (select count(*) from look), array_agg(t.job_id) filter (where t.place is null),
        -- One that somebody was just making smaller may be locked by now, though it is not what was looked at any more.
        (select count(*) from got) > count(t.place) or exists (
          select from look l where shared and l.jobs > 1 and l.place <> all (array(select g.place from got g))
            and ((l.priority, l.run_at, l.job_id) < (select g.priority, g.run_at, g.job_id from got g order by 1 desc, 2 desc, 3 desc limit 1)) is not false),
        horizon_id is not null and (select count(*) from look) < look_at
      into taken, ctids, places, in_queues, seen, looked, turn_ids, skipped, short from first t;
      handed := null;
    end if;
    got_n := seen;
    if skipped then  -- it is for others, who do not see it until we have committed
      perform offstage_private.wake_lanes(lanes);
    end if;
    queued := null;
    if cut and places is not null then
      -- As many jobs as there is room for: of the last ticket perhaps a part. Its rest, and tickets beyond it, which were locked because
      -- some in front of them could not be, are for others, who do not see them until we have committed. Who had left a ticket before it was locked has a stub.
      worn := array(
        select t.ctid from offstage_private.ticket t
        where t.ctid = any (places) and t.job_ids is not null  -- not by the index of shared ones, and no join
          and (select true from offstage_private.stub s where s.lane_id = t.lane_id and s.ticket = t.job_id limit 1));
      with part as materialized (
        select p.*, least(p.jobs, greatest(room - coalesce(cardinality(turn_ids), 0) - p.before, 0)) as n from (
          select t.ctid as place, t.lane_id, t.priority, t.run_at, t.job_id, t.queue_id, l.*,
            sum(l.jobs) over (order by t.priority, t.run_at, coalesce(l.job_ids[1], t.job_id)) - l.jobs as before
          from offstage_private.ticket t
          cross join lateral (
            select t.jobs, coalesce(t.job_ids, array[t.job_id]) as job_ids, coalesce(t.job_ctids, array[t.job_ctid]) as job_ctids where t.ctid <> all (worn)
            union all
            select count(*)::smallint, array_agg(u.id order by u.n), array_agg(u.job_ctid order by u.n) from unnest(t.job_ids, t.job_ctids) with ordinality u (id, job_ctid, n)
            where not exists (select from offstage_private.stub s where s.lane_id = t.lane_id and s.ticket = t.job_id and s.job_id = u.id)
            having t.ctid = any (worn)) l
          where t.ctid = any (places)) p
      )
      select array(select i from part p cross join lateral unnest(p.job_ids[1:p.n]) i where p.queue_id is null order by 1),
        array(select c from part p cross join lateral unnest(p.job_ctids[1:p.n]) c where p.queue_id is null),
        array_agg(p.place) filter (where p.queue_id is null and p.n = p.jobs),
        array_agg(p.place) filter (where p.queue_id is not null and p.n > 0), array_agg(p.queue_id) filter (where p.queue_id is not null and p.n > 0),
        coalesce(sum(p.n), 0) + coalesce(cardinality(turn_ids), 0),
        (array_agg(p.place) filter (where p.n between 1 and p.jobs - 1))[1], (select p.job_ids[1:p.n] from part p where p.n between 1 and p.jobs - 1),
        array_agg(distinct p.lane_id) filter (where p.n < p.jobs)
      into taken, ctids, places, queued, queue_ids, seen, parted, part, left_lanes
      from part p;
      if parted is not null then
        select 'rest', t.lane_id, t.priority, t.run_at, t.job_id into kind, lane_id, priority, run_at, job_id from offstage_private.ticket t where t.ctid = parted;
        insert into offstage_private.stub (lane_id, ticket, job_id) select claim.lane_id, claim.job_id, i from unnest(part) i;
        return next;
      end if;
      if worn <> '{}' then
        delete from offstage_private.stub s using offstage_private.ticket t
        where t.ctid = any (worn) and t.ctid = any (places) and s.lane_id = t.lane_id and s.ticket = t.job_id;
      end if;
      perform offstage_private.wake_lanes(left_lanes);
      if turns is not null then
        queued := coalesce(queued, '{}'); queue_ids := coalesce(queue_ids, '{}');
      end if;
    elsif in_queues > 0 then
      select array_agg(t.job_id order by t.job_id) filter (where t.queue_id is null), array_agg(t.job_ctid) filter (where t.queue_id is null),
        array_agg(t.ctid) filter (where t.queue_id is null), array_agg(t.ctid) filter (where t.queue_id is not null),
        array_agg(t.queue_id) filter (where t.queue_id is not null)
      into taken, ctids, places, queued, queue_ids from offstage_private.ticket t where t.ctid = any (places);
    end if;
    if turns is not null and (queued is not null or cardinality(turns) is distinct from cardinality(turn_ids)) then
      -- Some do not get their turn: there was no room, or a ticket of the queue is more urgent. (Less urgent ones find the slot taken.)
      select array_agg(row (u.run_at, u.job_id, u.lane_id, u.queue_id, u.priority, u.job_ctid)::offstage_private.parked) filter (where not u.goes),
        array_agg(u.state) filter (where not u.goes),
        array_agg(row (u.run_at, u.job_id, u.lane_id, u.queue_id, u.priority, u.job_ctid)::offstage_private.parked) filter (where u.goes),
        array_agg(u.state) filter (where u.goes), array_agg(u.job_id) filter (where u.goes), array_agg(u.job_ctid) filter (where u.goes)
      into back, back_states, turns, turn_states, turn_ids, turn_ctids
      from (
        with head as materialized (
          select distinct on (t.queue_id) t.queue_id, t.priority, t.run_at, t.job_id from offstage_private.ticket t where t.ctid = any (queued)
          order by t.queue_id, t.priority, t.run_at, t.job_id
        )
        select u.*, u.job_id in (select unnest(turn_ids)) and case when u.queue_id in (select h.queue_id from head h) then
          (select (h.priority, h.run_at, h.job_id) > (u.priority, u.run_at, u.job_id) from head h where h.queue_id = u.queue_id) else true end as goes
        from unnest(turns, turn_states) u (run_at, job_id, lane_id, queue_id, priority, job_ctid, state)
      ) u;
      if back is not null then
        perform offstage_private.put_back(back, back_states);
      end if;
      if queued is not null then
        taken := array(select unnest(taken || turn_ids) order by 1);
        ctids := ctids || turn_ctids;
      end if;
    end if;
    delete from offstage_private.ticket t where t.ctid = any (places);  -- a statement of its own: with returning it takes twice as long
    again := looked >= look_at and seen < room;  -- the rest is locked; behind it there may be more
    further := seen < room and (short or cut and (got_n > 0 and looked > got_n or again and look_at < room * 2 + 50));
    again := again and not further;
    if seen = 0 then
      continue when further;
      exit when not aside;
      aside := false; lanes := lanes || parked.lane_id;
      continue;
    end if;
    -- A number of its own for each round, taken after its tickets were locked: a job that somebody has released since
    -- the last round has a released_claim above that round's number.
    lease := nextval('offstage_private.claim');
    if queued is not null then
      -- Queues that somebody is busy with are left with their tickets; the others give their free slots to the
      -- first of these jobs and park the rest. Locked by a statement of its own: the next one then sees what those
      -- have done who had the lock before.
      queue_ids := array(select q.id from offstage_private.queue q where q.id = any (queue_ids) order by q.id for update skip locked);
      queued := array(select unnest(queued) order by 1);
      turn_queues := array(select u.queue_id from unnest(turns) u);
      with many as materialized (
        select t.queue_id, t.lane_id, t.priority, count(*) as n, array_agg(t.place order by t.run_at, t.job_id) as places,
          array_agg(row (t.run_at, t.job_id, t.lane_id, t.queue_id, t.priority, t.job_ctid)::offstage_private.parked order by t.run_at, t.job_id) as jobs
        from (select t.ctid as place, t.* from offstage_private.ticket t where t.ctid = any (queued) offset 0) t  -- offset: not by the index of queues
        where (select queue_ids)[width_bucket(t.queue_id, (select queue_ids))] = t.queue_id  -- (select …): as a plain array, see settle()
        group by 1, 2, 3
      ), met as materialized (
        -- Nothing of a serial queue is parked, or run, behind a ticket that another claim or a caller has in hand, or that was committed where this claim does not look (first): it
        -- keeps its ticket, and no mark may be behind that one. Looked for from where the last one was that had none in front of it, or each look would step over all that were ever
        -- there.
        select m.*, s.place as state, f.front, f.place as front_place, n.serial, n.slots, t.run_at as first_run_at, t.job_id as first_id,
          -- A queue is served in order: not before jobs of the same lane that are parked, or have just got a ticket again.
          case when n.slots > 0 then (
            select k from offstage_private.parked k
            where k.queue_id = m.queue_id and k.lane_id = m.lane_id and (k.priority, k.run_at, k.job_id) >= ((f.front).priority, (f.front).run_at, (f.front).job_id)
            order by k.queue_id, k.lane_id, k.priority, k.run_at, k.job_id limit 1) end as parked,
          n.slots > 0 and n.serial and coalesce((
            select t.queue_id = m.queue_id from offstage_private.ticket t
            where t.lane_id = m.lane_id and t.priority = (f.front).handed_priority and t.run_at = (f.front).handed_run_at and t.job_id = (f.front).handed_job_id limit 1), false) as handed
        from many m
        cross join lateral (
          select o.ctid as place, o.claims from offstage_private.queue_state o where o.queue_id = m.queue_id order by o.queue_id, o.turn limit 1) s
        left join offstage_private.queue_setting c on c.queue_id = m.queue_id
        cross join lateral (
          select coalesce(c.concurrency, 1) = 1 as serial,
            case when c.paused or m.queue_id = any (turn_queues) then 0 else coalesce(c.concurrency, 1) - cardinality(s.claims) end as slots offset 0) n
        left join lateral (
          select o as front, o.ctid as place from offstage_private.queue_front o where o.queue_id = m.queue_id and o.lane_id = m.lane_id order by o.queue_id, o.lane_id, o.turn limit 1) f on true
        left join lateral (
          select t.* from (  -- as many as are ours: one of another in front of the last of them is among them
            select t.ctid as place, t.queue_id, t.lane_id, t.priority, t.run_at, t.job_id from offstage_private.ticket t
            where t.queue_id is not null and (t.queue_id, t.lane_id, t.priority, t.run_at, t.job_id) > (m.queue_id, m.lane_id, m.priority, coalesce(
                case when (f.front).taken_priority = m.priority then (f.front).taken_run_at
                  when (f.front).taken_priority is not null then (
                    select max(u.run_at) from unnest(mark_lanes, mark_priorities, mark_run_ats) u (lane_id, priority, run_at) where u.lane_id = m.lane_id and u.priority = m.priority) end, '-infinity'),
                case when (f.front).taken_priority = m.priority then (f.front).taken_job_id else -1 end)
            order by t.queue_id, t.lane_id, t.priority, t.run_at, t.job_id limit m.n) t
          where coalesce((select queued)[width_bucket(t.place, (select queued))] <> t.place, true)
          limit 1) t on n.serial and (t.queue_id, t.lane_id, t.priority) = (m.queue_id, m.lane_id, m.priority)
            and (t.run_at, t.job_id) < ((m.jobs[m.n]).run_at, (m.jobs[m.n]).job_id)
      ), turn as materialized (
        select r.*, not r.behind and r.rank <= r.slots as goes
        from (
          select u.*, m.state, m.front, m.front_place, m.serial, m.slots, b.behind, row_number() over (partition by m.queue_id, b.behind order by u.priority, u.run_at, u.job_id) as rank
          from met m cross join lateral unnest(m.jobs, m.places) u (run_at, job_id, lane_id, queue_id, priority, job_ctid, place)
          cross join lateral (
            select coalesce(((m.parked).priority, (m.parked).run_at, (m.parked).job_id) < (u.priority, u.run_at, u.job_id), false)
              or m.handed and ((m.front).handed_priority, (m.front).handed_run_at, (m.front).handed_job_id) < (u.priority, u.run_at, u.job_id) as behind) b
          where m.first_id is null or (u.run_at, u.job_id) < (m.first_run_at, m.first_id)) r
      ), gone as (
        delete from offstage_private.ticket t where t.ctid = any (array(select r.place from turn r))
      ), park as (
        insert into offstage_private.parked (run_at, job_id, lane_id, queue_id, priority, job_ctid)
        select t.run_at, t.job_id, t.lane_id, t.queue_id, t.priority, t.job_ctid from turn t where not t.goes
      ), front as materialized (
        select l.*, (l.taken).job_id is not null and ((l.front).taken_priority is distinct from (l.taken).priority or ((l.front).taken_run_at, (l.front).taken_job_id) < ((l.taken).run_at, (l.taken).job_id)) as further
        from (
          select t.queue_id, t.lane_id, (array_agg(t.front))[1] as front, (array_agg(t.front_place))[1] as place,
            (array_agg(row (t.run_at, t.job_id, t.lane_id, t.queue_id, t.priority, null)::offstage_private.parked order by t.priority, t.run_at, t.job_id) filter (where t.first))[1] as first,
            (array_agg(row (t.run_at, t.job_id, t.lane_id, t.queue_id, t.priority, null)::offstage_private.parked order by t.priority, t.run_at desc, t.job_id desc) filter (where t.noted))[1] as taken
          from (
            select t.*, not t.goes and ((t.priority, t.run_at, t.job_id) < ((t.front).priority, (t.front).run_at, (t.front).job_id)) is not false as first,
              t.serial and (t.rank % 16 = 0 or random() < 0.06) as noted  -- seldom, as in hand_over()
            from turn t offset 0) t
          where t.first or t.noted group by 1, 2) l
      ), first as (
        insert into offstage_private.queue_front (run_at, job_id, queue_id, lane_id, priority, taken_run_at, taken_job_id, taken_priority)
        select coalesce((f.first).run_at, 'infinity'), coalesce((f.first).job_id, 9223372036854775807), f.queue_id, f.lane_id, coalesce((f.first).priority, 32767),
          (f.taken).run_at, (f.taken).job_id, (f.taken).priority
        from front f where f.place is null
      ), moved as (
        update offstage_private.queue_front o set turn = o.turn - 1,
          run_at = coalesce((f.first).run_at, o.run_at), job_id = coalesce((f.first).job_id, o.job_id), priority = coalesce((f.first).priority, o.priority),
          taken_run_at = case when f.further then (f.taken).run_at else o.taken_run_at end, taken_job_id = case when f.further then (f.taken).job_id else o.taken_job_id end,
          taken_priority = case when f.further then (f.taken).priority else o.taken_priority end
        from front f where o.ctid = f.place
      )
      select (select array_agg(t.job_id) from turn t where t.goes), (select array_agg(t.job_ctid) from turn t where t.goes),
        (select array_agg(t.state) from turn t where t.goes),
        (select array_agg(row (k.run_at, k.job_id, k.lane_id, k.queue_id, k.priority, null, 1, null, null)::offstage_private.ticket) from
          (select distinct on (t.lane_id, t.priority) t.* from turn t where not t.goes order by t.lane_id, t.priority, t.run_at desc, t.job_id desc) k),
        array(
          select row (x.first_run_at, x.first_id, x.lane_id, x.queue_id, x.priority, null, 1, null, null)::offstage_private.ticket
          from (select distinct on (m.lane_id, m.priority) m.* from met m where m.first_id is not null order by m.lane_id, m.priority, m.first_run_at, m.first_id) x),
        (select count(*) from turn), again or (select coalesce(sum(m.n), 0) from met m) < cardinality(queued)
      into got, got_ctids, got_states, marks, stays, in_queues, again;
      stuck := stuck or stays <> '{}';
      if got is not null then
        taken := array(select unnest(taken || got) order by 1);
        ctids := ctids || got_ctids;
        update offstage_private.queue_state s set claims = s.claims || c.claims, turn = s.turn - (random() < 0.06)::integer
        from (
          select g.place, array_agg(lease + width_bucket(g.job_id, (select taken || '{}'::bigint[]))) as claims
          from unnest(got, got_states) g (job_id, place) group by g.place
        ) c
        where s.ctid = c.place;
      end if;
      for m in select 'mark' as kind, u.* from unnest(marks) u union all select 'rest', u.* from unnest(stays) u loop
        kind := m.kind;
        lane_id := m.lane_id; priority := m.priority; run_at := m.run_at; job_id := m.job_id;
        return next;
      end loop;
      if cardinality(lanes) = 1 and cardinality(marks) = 1 then  -- the next round need not step over what this one parked
        mark_lanes := lanes; mark_priorities := array[m.priority]; mark_run_ats := array[m.run_at]; mark_job_ids := array[m.job_id];
      end if;
    end if;
    if turns is not null then
      update offstage_private.queue_state s
      set claims = array[lease + width_bucket(u.job_id, (select taken || '{}'::bigint[]))], turn = s.turn - (random() < 0.06)::integer
      from unnest(turns, turn_states) u (run_at, job_id, lane_id, queue_id, priority, job_ctid, state) where s.ctid = u.state;
      turns := null;
    end if;
    n := coalesce(cardinality(taken), 0);
    if n > 0 then
      at := coalesce(at, offstage_private.clock());
      -- Only now, so that a look that finds nothing writes nothing and commits without a flush. Whoever holds the row
      -- against us (rescue) is declaring us dead.
      insert into offstage_private.lease (claim, worker_id, claimed_at, job_ids)
      select lease, w.id, at, taken from offstage_private.worker w
      where w.id = claim.worker_id and w.dead_at is null for key share skip locked;
      if not found then
        raise exception using errcode = 'OS001', message = format('worker %s is not alive', worker_id),
          hint = 'It missed its heartbeats, and others may have its jobs. Register again.';
      end if;
      -- First by their ctids, which takes half as long as by id: rows without a key, which nobody moves while we hold the
      -- tickets. (unsafe_dedupe writes keyed ones at any time.)
      return query
        select 'job', lease + p.position, j.id, j.lane_id, j.priority, j.run_at, j.task_id, (j.attempts + 1)::smallint,
          j.max_attempts, nullif(j.crashes, 0::smallint), j.added_at, j.queue_id,
          case when j.queue_id is not null then (select q.name from offstage_private.queue q where q.id = j.queue_id) end,
          j.key, j.flags, j.last_error,
          case when j.options is not null then (j.options ->> 'timeout')::interval end,
          case when j.options is not null then j.options ->> 'traceparent' end,
          case when j.options is not null then (j.options ->> 'expires_at')::timestamptz <= at end,
          j.payload, j.ctid
        from offstage_private.job j cross join lateral (select width_bucket(j.id, (select taken || '{}'::bigint[]))) p (position)  -- as a plain array: see settle()
        where j.ctid = any (ctids) and j.key is null and taken[p.position] = j.id;
      get diagnostics found_jobs = row_count;
      if found_jobs < n then
        -- Then, by id, all that this has not found, in one statement, which sees one version of each.
        by_id := array(select unnest(taken) except
          -- an array, because PostgreSQL 18 reads all of the table's index for what except would like to have in order
          select unnest(array(select k.id from offstage_private.job k where k.ctid = any (ctids) and k.key is null)));
        return query
          select 'job', lease + p.position, j.id, j.lane_id, j.priority, j.run_at, j.task_id, (j.attempts + 1)::smallint,
            j.max_attempts, nullif(j.crashes, 0::smallint), j.added_at, j.queue_id,
            case when j.queue_id is not null then (select q.name from offstage_private.queue q where q.id = j.queue_id) end,
            j.key, j.flags, j.last_error,
            case when j.options is not null then (j.options ->> 'timeout')::interval end,
            case when j.options is not null then j.options ->> 'traceparent' end,
            case when j.options is not null then (j.options ->> 'expires_at')::timestamptz <= at end,
            j.payload, j.ctid
          from offstage_private.job j cross join lateral (select width_bucket(j.id, (select taken || '{}'::bigint[]))) p (position)
          where j.id = any (by_id);
      end if;
    end if;
    exit when again or stuck and n = 0 and in_queues = 0;
    moved := true;
    if further then
      room := room - n;
    elsif not aside then
      exit when queued is null or seen < room;
      parked := case when at is null and cardinality(marks) = 1 and coalesce(standing, 1000) = 1000 then marks[1] end;
      aside := parked.lane_id is not null and standing is not null and cardinality(lanes) > 1;  -- not sooner, because it is out of order
      lanes := case when aside then array_remove(lanes, parked.lane_id) else lanes end;
      standing := null;
      room := room - n;
    elsif at is not null then
      again := n < room;  -- of the lane that was left aside nobody knows
      exit;
    else
      aside := false; lanes := lanes || parked.lane_id;
    end if;
  end loop;

  if again or stuck and not moved then
    return query select 'again', null::bigint, null::bigint, null::integer, null::smallint, null::timestamptz, null::integer,
      null::smallint, null::smallint, null::smallint, null::timestamptz, null::integer, null::text, null::text, null::jsonb,
      null::text, null::interval, null::text, null::boolean, null::json, null::tid;
  end if;
  if sleep_state > 0 then
    -- The next transaction is above all that are in progress. A snapshot's xmax is only above all that have ended.
    return query select 'asleep', case when sleep_state > 1 then pg_snapshot_xmax(s)::text::bigint else
      greatest(pg_snapshot_xmax(s)::text::bigint, (
        select pg_snapshot_xmax(s)::text::bigint + age(pg_snapshot_xmax(s)::xid) - min(age(l.transactionid)) + 1
        from pg_locks l where l.locktype = 'transactionid' and l.granted)) end, pg_snapshot_xmin(begun)::text::bigint, null::integer, null::smallint,
      null::timestamptz, null::integer, null::smallint, null::smallint, null::smallint, null::timestamptz, null::integer, null::text,
      null::text, null::jsonb, null::text, null::interval, null::text, null::boolean, null::json, null::tid
    from pg_current_snapshot() s;
  end if;
end $$;
