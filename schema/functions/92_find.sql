-- Finding jobs: what the list shows is what an action on "all that match" acts upon, because both ask find(). Nothing here reads more
-- because there are more jobs: a list is driven from where its jobs are, and a filter that no index serves looks at so many and no more.

-- The lanes that a task and a flag leave; null: all of them.
create or replace function offstage_private.lanes_of(task text, flag text) returns integer[]
language sql stable as $$
  select case when task is not null or flag is not null then array(
    select t.id from offstage_private.task t where t.name = task and flag is null
    union all
    select l.id from offstage_private.lane l join offstage_private.task t on t.id = l.task_id
    where (task is null or t.name = task) and (flag is null or l.flags ? flag) limit 20000) end
$$;

-- Where the jobs of a state are: waiting, parked or paused. A stretch is a part of an index in which they lie in the order of their turns:
-- place 'ticket' is a lane of ticket, 'queued' a lane of a queue there, 'parked' one in parked. Goes from one to the next by
-- the index, never over what lies between: some microseconds each; from the back, because claims leave dead entries in front. At most 100,000 of each kind, which is more queues than can be looked at.
create or replace function offstage_private.stretches(state text, lanes integer[], queue integer)
returns table (place text, queue_id integer, lane_id integer)
language plpgsql stable
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off
as $$
#variable_conflict use_column
declare
  stopped integer[] := array(
    select t.id from offstage_private.task t where t.paused
    union all
    select l.id from offstage_private.lane l join offstage_private.task t on t.id = l.task_id where t.paused);
  closed integer[] := array(select s.queue_id from offstage_private.queue_setting s where s.paused);
  queues integer[] := case when queue is not null then array[queue] when state = 'paused' then closed end;
begin
  -- Tickets, lane by lane.
  if queue is null and state <> 'parked' then
    if lanes is not null or state = 'paused' then
      return query select 'ticket', null::integer, l from unnest(case when state = 'paused' then stopped else lanes end) l
        where (lanes is null or l = any (lanes)) and (l = any (stopped)) = (state = 'paused');
    else
      return query
        with recursive s as (
          (select t.lane_id from offstage_private.ticket t order by t.lane_id desc limit 1)
          union all
          select n.lane_id from s cross join lateral (
            select t.lane_id from offstage_private.ticket t where t.lane_id < s.lane_id order by t.lane_id desc limit 1) n
        )
        select 'ticket', null::integer, s.lane_id from (select * from s limit 100000) s where s.lane_id <> all (stopped);
    end if;
  end if;
  -- Tickets of some queues, and what is parked in them.
  if queues is not null and state <> 'parked' then
    return query
      select 'queued', q.id, x.lane_id from unnest(queues) q (id) cross join lateral (
        with recursive s as (
          (select t.lane_id from offstage_private.ticket t where t.queue_id = q.id order by t.queue_id, t.lane_id limit 1)
          union all
          select n.lane_id from s cross join lateral (
            select t.lane_id from offstage_private.ticket t where t.queue_id = q.id and t.lane_id > s.lane_id order by t.queue_id, t.lane_id limit 1) n
        ) select * from s) x
      where (lanes is null or x.lane_id = any (lanes)) and (q.id = any (closed) or x.lane_id = any (stopped)) = (state = 'paused')
        and (queue is not null or x.lane_id <> all (stopped))
      limit 100000;
  end if;
  if queues is not null and state <> 'waiting' then
    return query
      select 'parked', q.id, x.lane_id from unnest(queues) q (id) cross join lateral (
        with recursive s as (
          (select p.lane_id from offstage_private.parked p where p.queue_id = q.id order by p.queue_id, p.lane_id limit 1)
          union all
          select n.lane_id from s cross join lateral (
            select p.lane_id from offstage_private.parked p where p.queue_id = q.id and p.lane_id > s.lane_id order by p.queue_id, p.lane_id limit 1) n
        ) select * from s) x
      where (lanes is null or x.lane_id = any (lanes)) and (q.id = any (closed) or x.lane_id = any (stopped)) = (state = 'paused')
      limit 100000;
  end if;
  -- What is parked in any queue.
  if queue is null and (state = 'parked' or state = 'paused' and cardinality(stopped) > 0) then
    return query
      with recursive s as (
        (select p.queue_id, p.lane_id from offstage_private.parked p order by p.queue_id, p.lane_id limit 1)
        union all
        select n.queue_id, n.lane_id from s cross join lateral (
          select p.queue_id, p.lane_id from offstage_private.parked p
          where (p.queue_id, p.lane_id) > (s.queue_id, s.lane_id) order by p.queue_id, p.lane_id limit 1) n
      )
      select 'parked', s.queue_id, s.lane_id from (select * from s limit 100000) s
      where (lanes is null or s.lane_id = any (lanes)) and s.queue_id <> all (closed) and (s.lane_id = any (stopped)) = (state = 'paused');
  end if;
end $$;

-- The next n jobs behind (priority, at, id) in the order of a list, or in front of it with back: then the nearest one comes first.
--
--   waiting parked paused   by turn: priority, run_at, id     running   by claim number, the newest first
--   scheduled               by run_at, id                     failed, '', key   by id, the newest first
--   else an outcome         by settled_at, id, the newest first
--
-- fits is false where the place itself says that the filter does not want the job. Called by find().
create or replace function offstage_private.look(
  state text, lanes integer[], queue integer, task integer, worker integer, key text, print text,
  after_priority smallint, after_at timestamptz, after_id bigint, back boolean, n integer
) returns table (job_id bigint, priority smallint, at timestamptz, id bigint, fits boolean)
language plpgsql stable
set jit = off set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set enable_sort = off
as $$
declare
  rising boolean := (state in ('waiting', 'parked', 'paused', 'scheduled')) <> back;
  beyond text := case when rising then '>' else '<' end;
  dir text := case when rising then 'asc' else 'desc' end;
  stretch text;
begin
  -- The end that a list without a cursor begins at.
  after_priority := coalesce(after_priority, case when rising then -32768 else 32767 end);
  after_at := coalesce(after_at, case when rising then '-infinity' else 'infinity' end::timestamptz);
  after_id := coalesce(after_id, case when rising then -1 else 9223372036854775807 end);

  if state in ('waiting', 'parked', 'paused') then
    stretch := $q$
      select t.priority, t.run_at, t.job_id from (
        select t.priority, t.run_at, t.job_id, t.jobs from offstage_private.ticket t
        where s.place = 'ticket' and t.lane_id = s.lane_id and (t.priority, t.run_at, t.job_id) {>} ($4, $5, $6)
          and (t.jobs = 1 or t.jobs > (select count(*) from offstage_private.stub k where k.lane_id = t.lane_id and k.ticket = t.job_id))
        order by t.lane_id {asc}, t.priority {asc}, t.run_at {asc}, t.job_id {asc} limit {n} + 1) t where t.jobs = 1
      union all
      select * from (select t.priority, t.run_at, i.job_id from (
          select t.*, k.stubs from offstage_private.ticket t
          cross join lateral (select count(*) as stubs from offstage_private.stub k where k.lane_id = t.lane_id and k.ticket = t.job_id) k
          where s.place = 'ticket' and t.lane_id = s.lane_id and t.jobs > 1 and (t.priority, t.run_at, t.job_id) {>=} ($4, $5, {begin}) and t.jobs > k.stubs
          order by t.lane_id {asc}, t.priority {asc}, t.run_at {asc}, t.job_id {asc} limit {n} + 1) t
        cross join lateral unnest(t.job_ids) i (job_id)
        where (t.priority, t.run_at, i.job_id) {>} ($4, $5, $6) and (t.stubs = 0 or not exists (
          select from offstage_private.stub k where k.lane_id = t.lane_id and k.ticket = t.job_id and k.job_id = i.job_id))
        order by t.priority {asc}, t.run_at {asc}, i.job_id {asc} limit {n}) t
      union all
      select * from (select t.priority, t.run_at, t.job_id from offstage_private.ticket t
        where s.place = 'queued' and t.queue_id = s.queue_id and t.lane_id = s.lane_id and (t.priority, t.run_at, t.job_id) {>} ($4, $5, $6)
        order by t.queue_id {asc}, t.lane_id {asc}, t.priority {asc}, t.run_at {asc}, t.job_id {asc} limit {n}) t
      union all
      select * from (select p.priority, p.run_at, p.job_id from offstage_private.parked p
        where s.place = 'parked' and p.queue_id = s.queue_id and p.lane_id = s.lane_id and (p.priority, p.run_at, p.job_id) {>} ($4, $5, $6)
        order by p.queue_id {asc}, p.lane_id {asc}, p.priority {asc}, p.run_at {asc}, p.job_id {asc} limit {n}) p $q$;
    -- Shared tickets never overlap, but may be around others. Upwards, the one that holds the job to begin behind begins in front of it.
    stretch := replace(replace(replace(replace(stretch, '{>}', beyond), '{>=}', beyond || '='), '{asc}', dir),
      '{begin}', case when rising then 'coalesce((select o.job_id from offstage_private.ticket o
        where o.lane_id = s.lane_id and o.priority = $4 and o.run_at = $5 and o.job_id <= $6 and o.job_id > $6 - 1024 and o.jobs > 1
        order by o.lane_id desc, o.priority desc, o.run_at desc, o.job_id desc limit 1), $6)' else '$6' end);
    -- Of any number of stretches, the next n jobs are in the n that begin first.
    return query execute format($q$
      with head as materialized (
        select s.* from offstage_private.stretches($1, $2, $3) s
        cross join lateral (select * from (%1$s) x order by x.priority %3$s, x.run_at %3$s, x.job_id %3$s limit 1) h
        order by h.priority %3$s, h.run_at %3$s, h.job_id %3$s limit $7)
      select x.job_id, x.priority, x.run_at, x.job_id, true from head s cross join lateral (%2$s) x
      order by x.priority %3$s, x.run_at %3$s, x.job_id %3$s limit $7 $q$,
      replace(stretch, '{n}', '1'), replace(stretch, '{n}', '$7'), dir) using state, lanes, queue, after_priority, after_at, after_id, n;
  elsif key is not null then
    return query execute format('select j.id, 0::smallint, j.run_at, j.id, true from offstage_private.job j where j.key = $1 and j.id %s $2', beyond)
      using key, after_id;
  elsif state = 'scheduled' then
    return query execute format($q$
      select p.job_id, 0::smallint, p.run_at, p.job_id, ($3 is null or p.lane_id = any ($3)) and ($4 is null or coalesce(p.queue_id = $4, false))
      from offstage_private.scheduled p where (p.run_at, p.job_id) %s ($1, $2) order by p.run_at %2$s, p.job_id %2$s limit $5 $q$, beyond, dir)
      using after_at, after_id, lanes, queue, n;
  elsif state = 'running' then
    -- A claim number less its last ten bits is the lease; each lease has one job at least, and the first may have none beyond.
    return query execute format($q$
      select x.job_id, 0::smallint, l.claimed_at, l.claim + x.position, true
      from (select * from offstage_private.lease l where l.claim %1$s (case when $3 then $1 - 1024 else $1 end) and ($2 is null or l.worker_id = $2)
            order by l.claim %2$s limit $4 + 1) l
      cross join lateral unnest(l.job_ids) with ordinality x (job_id, position)
      where l.claim + x.position %1$s $1 order by 4 %2$s limit $4 $q$, beyond, dir) using after_id, worker, rising, n;
  elsif state in ('', 'failed') then
    return query execute format($q$
      select j.id, 0::smallint, j.run_at, j.id, ($2 is null or j.task_id = $2) and ($3 is null or coalesce(j.queue_id = $3, false))
      from offstage_private.job j where %1$s j.id %2$s $1 order by %4$s j.id %3$s limit $4 $q$,
      case when state = 'failed' and print is not null then 'j.failed and j.fingerprint = $5 and' when state = 'failed' then 'j.failed and' end, beyond, dir,
      case when state = 'failed' and print is not null then 'j.fingerprint ' || dir || ',' end) using after_id, task, queue, n, print;
  else
    return query execute format($q$
      select h.job_id, 0::smallint, h.settled_at, h.job_id,
        h.outcome = $3 and ($4 is null or h.task_id = $4) and ($5 is null or coalesce(h.queue_id = $5, false)) and ($6 is null or coalesce(h.worker_id = $6, false))
      from offstage_private.history h where h.settled_at %1$s= $1 and (h.settled_at, h.job_id) %1$s ($1, $2)
      order by h.settled_at %2$s, h.job_id %2$s limit $7 $q$, beyond, dir) using after_at, after_id, state, task, queue, worker, n;
  end if;
end $$;

-- Whether a filter of jobs can be read; raises 22023. A key that is not known is an error, so that a typo cannot mean more jobs.
create or replace function offstage_private.check_filter(filter json) returns void
language plpgsql immutable as $$
declare
  wrong text;
begin
  if json_typeof(filter) is distinct from 'object' then
    raise invalid_parameter_value using message = 'a filter must be a JSON object', hint = 'Such as {"state": "failed", "task": "send_email"}; {} is all jobs.';
  end if;
  select k into wrong from json_object_keys(filter) k
  where k not in ('state', 'task', 'queue', 'key', 'flag', 'worker', 'error', 'fingerprint', 'added_after', 'added_before', 'payload_path', 'payload_value') limit 1;
  if found then
    raise invalid_parameter_value using message = format('the filter has the unknown key %L', wrong),
      hint = 'Known keys: state, task, queue, key, flag, worker, error, fingerprint, added_after, added_before, payload_path, payload_value.';
  end if;
  if filter ->> 'state' not in ('', 'scheduled', 'waiting', 'parked', 'paused', 'running', 'failed', 'succeeded', 'cancelled', 'removed', 'completed') then
    raise invalid_parameter_value using message = format('there is no state %L', filter ->> 'state'),
      hint = 'scheduled, waiting, parked, paused, running or failed; of jobs that have ended, succeeded, cancelled, removed or completed.';
  end if;
  if filter ->> 'worker' !~ '^(worker-)?[0-9]{1,9}$' then
    raise invalid_parameter_value using message = format('there is no worker %L', filter ->> 'worker'), hint = 'Such as worker-7.';
  end if;
  if filter ->> 'payload_value' is not null and filter ->> 'payload_path' is null then
    raise invalid_parameter_value using message = 'payload_value needs payload_path', hint = 'Such as {"payload_path": "user.id", "payload_value": "7"}.';
  end if;
end $$;

-- Whether a payload has this value there, as text; any, if value is null. One that cannot be read as text, because of the character
-- U+0000 or half a surrogate pair in it, has none; neither have objects and arrays, in which there may be what nobody is shown.
create or replace function offstage_private.has_value(payload json, path text[], value text) returns boolean
language plpgsql immutable as $$
begin
  return coalesce(payload #>> path = value and json_typeof(payload #> path) not in ('object', 'array'), value is null and payload #>> path is not null);
exception when untranslatable_character or invalid_text_representation then
  return false;
end $$;

-- Finds jobs, in the order of look(), beyond (priority, at, id) of a row that it has answered before. filter is a JSON object:
-- state, task, queue, key, flag, worker ("worker-7"), error (a part of the last one, in any case), fingerprint (of it), added_after,
-- added_before, payload_path ("user.id") and payload_value (without it: the path is there). Looks at "looks" jobs at most, and for no longer
-- than patience. A last row without job_id says that there may be more: with looked = 0 max_rows were found, otherwise it stopped after so
-- many, and (priority, at, id) is where to go on. max_id and unchanged_since leave out jobs that were added or changed by hand later, and
-- claim_before those that were tried later: for a bulk. Locks nothing. Raises 22023.
create or replace function offstage_private.find(
  filter json, after_priority smallint default null, after_at timestamptz default null, after_id bigint default null, back boolean default false, max_rows integer default 50,
  looks integer default 20000, patience interval default '1 s', max_id bigint default null, unchanged_since timestamptz default null, claim_before bigint default null
) returns table (job_id bigint, priority smallint, at timestamptz, id bigint, looked integer)
language plpgsql stable
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off
as $$
#variable_conflict use_variable
declare
  started timestamptz := clock_timestamp();
  round_began timestamptz;
  of_state text := coalesce(filter ->> 'state', '');
  of_task text := nullif(filter ->> 'task', '');
  of_flag text := nullif(filter ->> 'flag', '');
  of_key text := nullif(filter ->> 'key', '');
  of_error text := lower(nullif(filter ->> 'error', ''));
  of_print text := nullif(filter ->> 'fingerprint', '');
  added_after timestamptz := (filter ->> 'added_after')::timestamptz;
  added_before timestamptz := (filter ->> 'added_before')::timestamptz;
  path text[] := string_to_array(nullif(filter ->> 'payload_path', ''), '.');
  value text := filter ->> 'payload_value';
  task integer;
  queue integer;
  worker integer;
  lanes integer[];
  ended boolean;
  plain boolean;         -- nothing is left to be looked at but where the jobs are
  batch integer;
  most integer;
  left_over integer := least(greatest(max_rows, 1), 10000);
  seen integer := 0;
  c record;              -- a batch: arrays of the same length
  fit integer[];         -- which of it
begin
  perform offstage_private.check_filter(filter);
  if of_task is not null then
    select t.id into task from offstage_private.task t where t.name = of_task;
    if not found then
      return;
    end if;
  end if;
  if nullif(filter ->> 'queue', '') is not null then
    select q.id into queue from offstage_private.queue q where q.name = filter ->> 'queue';
    if not found then
      return;
    end if;
  end if;
  worker := replace(filter ->> 'worker', 'worker-', '')::integer;
  if worker is not null and of_state = '' then
    of_state := 'running';
  end if;
  ended := of_state in ('succeeded', 'cancelled', 'removed', 'completed');
  if worker is not null and not ended and of_state <> 'running' or ended and of_flag is not null then
    return;  -- who is not running has no worker, and history does not know flags
  end if;
  if of_task is not null or of_flag is not null then
    lanes := offstage_private.lanes_of(of_task, of_flag);
  end if;
  if of_key is not null and not ended and worker is null then
    of_state := 'key';
  end if;
  if max_id is not null and of_state in ('', 'failed') then
    after_id := least(after_id, max_id + 1);
  end if;
  plain := of_key is null and of_error is null and (of_print is null or of_state = 'failed') and added_after is null and added_before is null and path is null;
  most := case when path is not null or of_state in ('waiting', 'parked', 'paused') then 1000 else 2000 end;
  batch := case when plain and (of_task is null and queue is null and not ended or of_state in ('waiting', 'parked', 'paused', 'running')) then left_over + 1
    when path is not null then 50 else 4 * left_over end;
  loop
    round_began := clock_timestamp();
    batch := least(batch, most, looks - seen);
    select array_agg(l.job_id) as job_ids, array_agg(l.priority) as priorities, array_agg(l.at) as ats, array_agg(l.id) as ids, array_agg(l.fits) as fits, count(*) as n
    into c from offstage_private.look(of_state, lanes, queue, task, worker, of_key, of_print, after_priority, after_at, after_id, back, batch) l;
    exit when c.n = 0;
    if ended then
      select array_agg(u.n order by u.n) into fit
      from unnest(c.job_ids, c.ats, c.fits) with ordinality u (job_id, at, fits, n)
      -- One walk along settled_at, hashed; its limit is above any batch and tells the planner that it is small.
      where u.fits and (plain or (u.job_id, u.at) in (
        select h.job_id, h.settled_at from offstage_private.history h
        where h.settled_at >= least(c.ats[1], c.ats[c.n]) and h.settled_at <= greatest(c.ats[1], c.ats[c.n]) and h.outcome = of_state
          and (of_key is null or h.key = of_key)
          and (added_after is null or h.added_at >= added_after) and (added_before is null or h.added_at < added_before)
          and (of_error is null or strpos(lower(h.error), of_error) > 0)
          and (of_print is null or h.error is not null and of_print = (
            select offstage_private.fingerprint(t.name, h.error) from offstage_private.task t where t.id = h.task_id))
          and (path is null or offstage_private.has_value(h.payload, path, value))
        limit 30000));
    else
      select array_agg(u.n order by u.n) into fit
      from unnest(c.job_ids, c.ids, c.fits) with ordinality u (job_id, id, fits, n)
      cross join lateral (select o as job, o.* from offstage_private.job o where u.fits and o.id = u.job_id limit 1) j
      where (task is null or j.task_id = task) and (queue is null or j.queue_id = queue) and (lanes is null or j.lane_id = any (lanes))
        and (of_key is null or j.key = of_key)
        and (of_state <> 'running' or j.released_claim < (u.id & -1024))
        and (of_state <> 'waiting' or j.queue_id is null or not exists (
          select from offstage_private.queue_setting s where s.queue_id = j.queue_id and s.paused))
        and (of_state <> 'key' or coalesce(nullif(filter ->> 'state', '') = offstage_private.state_of(j.job), true))
        and (max_id is null or j.id <= max_id) and (unchanged_since is null or j.updated_at < unchanged_since)
        and (claim_before is null or j.released_claim < claim_before)
        and (added_after is null or j.added_at >= added_after) and (added_before is null or j.added_at < added_before)
        and (of_error is null or strpos(lower(j.last_error), of_error) > 0)
        and (of_print is null or of_state = 'failed' and j.fingerprint = of_print or j.last_error is not null and of_print = coalesce(
          case when j.failed then j.fingerprint end,
          (select offstage_private.fingerprint(t.name, j.last_error) from offstage_private.task t where t.id = j.task_id)))
        and (path is null or offstage_private.has_value(j.payload, path, value));
    end if;
    return query select c.job_ids[f], c.priorities[f], c.ats[f], c.ids[f], null::integer from unnest(fit[1:left_over]) f;
    if cardinality(fit) > left_over then
      if left_over > 0 then
        after_priority := c.priorities[fit[left_over]];
        after_at := c.ats[fit[left_over]];
        after_id := c.ids[fit[left_over]];
      end if;
      return query select null::bigint, after_priority, after_at, after_id, 0;
      return;
    end if;
    left_over := left_over - coalesce(cardinality(fit), 0);
    after_priority := c.priorities[c.n];
    after_at := c.ats[c.n];
    after_id := c.ids[c.n];
    seen := seen + c.n;
    exit when c.n < batch;
    if seen >= looks or clock_timestamp() > started + patience then
      return query select null::bigint, after_priority, after_at, after_id, seen;
      return;
    end if;
    batch := case when clock_timestamp() < round_began + patience * 0.05 then batch * 2 when clock_timestamp() > round_began + patience * 0.15 then batch / 2 + 1 else batch end;
  end loop;
end $$;

-- When a job failed for good, by the index on the job. A function of its own, which keeps its plan: history has many partitions, and most lists have
-- no failed job in them.
create or replace function offstage_private.failed_at(job_id bigint) returns timestamptz
language plpgsql stable
set plan_cache_mode = force_generic_plan
as $$
begin
  return (select max(h.settled_at + interval '0') from offstage_private.history h where h.job_id = failed_at.job_id and h.outcome = 'failed');
end $$;

-- What a list says of jobs that have not ended, in the order of their ids in the argument; those that are gone are left out.
create or replace function offstage_private.job_rows(job_ids bigint[])
returns table (
  id bigint, state text, task text, queue text, key text, priority smallint, attempt smallint, max_attempts smallint, run_at timestamptz, added_at timestamptz,
  started_at timestamptz, ended_at timestamptz, worker text, progress real, error text
)
language plpgsql stable
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off
as $$
#variable_conflict use_column
begin
  return query
    with j as materialized (
      select u.n, o.*, offstage_private.state_of(o.job) as state
      from unnest(job_ids) with ordinality u (id, n)
      cross join lateral (
        select k as job, k.id, k.task_id, k.queue_id, k.key, k.priority, k.attempts, k.max_attempts, k.run_at, k.added_at, k.released_claim, k.last_error
        from offstage_private.job k where k.id = u.id limit 1) o
    ), l as materialized (  -- once for all of them: leases are few, but not read for each; by the index, because most of the table is dead
      select x.id, l.claim, l.worker_id, l.claimed_at
      from (select * from offstage_private.lease l order by l.claim) l cross join lateral unnest(l.job_ids) x (id)
      where exists (select from j where j.state = 'running') and x.id in (select j.id from j where j.state = 'running')
    )
    select j.id, j.state, t.name, q.name, j.key, j.priority, (j.attempts + (l.claim is not null)::integer)::smallint,
      coalesce(j.max_attempts, t.max_attempts, 25::smallint), j.run_at, j.added_at, l.claimed_at,
      case when j.state = 'failed' then offstage_private.failed_at(j.id) end,
      'worker-' || l.worker_id, p.percent, case when j.last_error is not null then offstage_private.error_sample(j.last_error) end
    from j
    join offstage_private.task t on t.id = j.task_id
    left join offstage_private.queue q on q.id = j.queue_id
    left join l on l.id = j.id and l.claim > j.released_claim
    left join offstage_private.progress p on p.job_id = j.id and p.claim > j.released_claim
    order by j.n;
end $$;

-- The same of jobs that have ended; ats says when each did, so that it is found at once.
create or replace function offstage_private.ended_rows(job_ids bigint[], ats timestamptz[])
returns table (
  id bigint, state text, task text, queue text, key text, priority smallint, attempt smallint, max_attempts smallint, run_at timestamptz, added_at timestamptz,
  started_at timestamptz, ended_at timestamptz, worker text, progress real, error text
)
language plpgsql stable
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off
as $$
#variable_conflict use_column
begin
  return query
    select h.job_id, h.outcome, t.name, q.name, h.key, h.priority, h.attempt, coalesce(t.max_attempts, 25::smallint), h.run_at, h.added_at,
      h.claimed_at, h.settled_at, 'worker-' || h.worker_id, null::real, offstage_private.error_sample(h.error)
    from unnest(job_ids, ats) with ordinality u (id, at, n)
    cross join lateral (
      select * from offstage_private.history h
      where h.job_id = u.id and h.settled_at + interval '0' = u.at and h.outcome in ('succeeded', 'cancelled', 'removed', 'completed') limit 1) h
    join offstage_private.task t on t.id = h.task_id
    left join offstage_private.queue q on q.id = h.queue_id
    order by u.n;
end $$;

-- How many jobs run, of each worker that has some or, without by_worker, of all. Where leases hold twice the sample or more, one of every k is looked
-- up, about a sample at least, and n is estimated from how many of those run still: about says so. With 500 it is off by less than a
-- twentieth of what is held, nearly always. No row: none runs. Locks nothing.
create or replace function offstage_private.count_running(by_worker boolean, sample integer) returns table (worker_id integer, n bigint, about boolean)
language sql stable as $$
  select c.worker_id, case when c.step = 1 then c.found else round(c.held * c.found / greatest(c.looked, 1)) end::bigint, c.step > 1
  from (
    select h.worker_id, h.held, k.step, sum(cardinality(s.ids)) as looked, sum(f.n) as found
    from (
      select l.*, sum(cardinality(l.job_ids)) over (partition by l.worker_id) as held
      from (select l.claim, l.job_ids, case when by_worker then l.worker_id end as worker_id from offstage_private.lease l order by l.claim) l
    ) h
    cross join lateral (select greatest(h.held / sample, 1) as step) k
    cross join lateral (  -- of each k any one: jobs, and leases of a worker, may come in a rhythm
      select array(
        select h.job_ids[x.p] from generate_series(1, cardinality(h.job_ids), k.step) b
        cross join lateral (select b + (hashint8(h.claim + b) & 2147483647) % k.step as p) x where x.p <= cardinality(h.job_ids)) as ids) s
    cross join lateral (select count(*) as n from offstage_private.job j where j.id = any (s.ids) and j.released_claim < h.claim) f
    group by h.worker_id, h.held, k.step
  ) c
$$;

-- How many jobs a filter finds in each state, up to "most" and one more. Running ones of no task, queue or flag are left out: see
-- count_running(). With filters other than task, queue and flag it looks where
-- there are few jobs or an index serves it, and leaves out the other states; so it does where a task or queue would have to be looked for
-- among more than 20,000 jobs, or for longer than 80 ms in all.
create or replace function offstage_private.count_jobs(filter json, most integer default 10000) returns table (state text, n bigint)
language plpgsql stable
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off
as $$
#variable_conflict use_column
declare
  of_task text := nullif(filter ->> 'task', '');
  of_queue text := nullif(filter ->> 'queue', '');
  task integer := (select t.id from offstage_private.task t where t.name = of_task);
  queue integer := (select q.id from offstage_private.queue q where q.name = of_queue);
  of_flag text := nullif(filter ->> 'flag', '');
  lanes integer[] := case when of_task is not null or of_flag is not null then offstage_private.lanes_of(of_task, of_flag) end;
  closed integer[] := array(select s.queue_id from offstage_private.queue_setting s where s.paused);
  narrow boolean := lanes is not null or queue is not null;
  other boolean := exists (select from json_each_text(filter) f where f.key not in ('state', 'task', 'queue', 'flag') and f.value <> '');
  indexed boolean := coalesce(filter ->> 'key', filter ->> 'worker', '') <> '';
  looked bigint;
  over timestamptz := clock_timestamp() + interval '80 ms';  -- until when it looks for what a filter finds
begin
  perform offstage_private.check_filter(filter);
  foreach state in array array['scheduled', 'waiting', 'parked', 'paused', 'running', 'failed'] loop
    looked := 0;
    if of_task is not null and task is null or of_queue is not null and queue is null then
      n := 0;
    elsif state in ('waiting', 'parked', 'paused') then
      select count(*) into n from (
        select from offstage_private.stretches(state, lanes, queue) s cross join lateral (
          -- From the back: see stretches(). Most often no queue is paused, and the index alone suffices.
          select from generate_series(1, case when s.place = 'ticket' and (state = 'paused' or closed = '{}') then offstage_private.count_tickets(s.lane_id, most + 1) end)
          union all
          select from (select t.* from offstage_private.ticket t where s.place = 'ticket' and state <> 'paused' and closed <> '{}' and t.lane_id = s.lane_id
            order by t.priority desc, t.run_at desc, t.job_id desc limit 20000) t
          cross join lateral generate_series(1, t.jobs - (select count(*) from offstage_private.stub k where t.jobs > 1 and k.lane_id = t.lane_id and k.ticket = t.job_id))
          where t.queue_id is null or t.queue_id <> all (closed)
          union all
          select from offstage_private.ticket t where s.place = 'queued' and t.queue_id = s.queue_id and t.lane_id = s.lane_id
          union all
          select from offstage_private.parked p where s.place = 'parked' and p.queue_id = s.queue_id and p.lane_id = s.lane_id) x
        limit most + 1) x;
    elsif state = 'scheduled' then
      select count(*) filter (where (lanes is null or x.lane_id = any (lanes)) and (queue is null or x.queue_id = queue)), count(*) into n, looked from (
        select p.lane_id, p.queue_id from offstage_private.scheduled p order by p.run_at desc, p.job_id desc limit case when narrow then 20001 else most + 1 end) x;
    elsif state = 'failed' then
      select count(*) filter (where (lanes is null or x.lane_id = any (lanes)) and (queue is null or x.queue_id = queue)), count(*) into n, looked from (
        select j.lane_id, j.queue_id from offstage_private.job j where j.failed order by j.id desc limit case when narrow then 20001 else most + 1 end) x;
    else
      continue when not narrow and not other;
      select count(*) into n from (
        select from (select * from offstage_private.lease l order by l.claim) l cross join lateral unnest(l.job_ids) x (id)
        cross join lateral (select k.* from offstage_private.job k where k.id = x.id and k.released_claim < l.claim limit 1) j
        where (lanes is null or j.lane_id = any (lanes)) and (queue is null or j.queue_id = queue)
        limit most + 1) x;
    end if;
    if other and n > 0 then
      continue when not indexed and not (state = 'failed' and coalesce(filter ->> 'fingerprint', '') <> '') and n > case when filter ->> 'payload_path' is null then 2000 else 200 end;
      select count(*), max(f.looked) into n, looked
      from offstage_private.find((filter::jsonb || jsonb_build_object('state', state))::json, max_rows => least(most, 10000),
        patience => greatest(over - clock_timestamp(), interval '1 ms')) f;
      continue when looked > 0;
    elsif narrow and looked > 20000 and n <= most then
      continue;
    end if;
    return next;
  end loop;
end $$;
