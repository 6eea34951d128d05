-- Statistics. How many attempts ended, how long their jobs had waited and how long they ran: counted by the settle batch, so that
-- nobody ever counts over tables, and rolled up to minutes and hours by a chore.

-- The bounds of a histogram's buckets, in seconds: powers of two from 1 ms to 37 hours. Bucket 1 is below 1 ms, bucket 2
-- from 1 ms to below 2 ms, …, bucket 29 from 37 hours on. A histogram leaves out the empty buckets at its end.
create or replace function offstage.buckets() returns double precision[]
language sql immutable as $$
  select array[0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192, 16.384, 32.768, 65.536,
    131.072, 262.144, 524.288, 1048.576, 2097.152, 4194.304, 8388.608, 16777.216, 33554.432, 67108.864, 134217.728]::double precision[]
$$;

-- A quantile (0.5 is the median) of a histogram, in seconds; null when it is empty. Within its bucket it is guessed, as if the
-- values were evenly spread, so it is wrong by less than a factor of two, and below 1 ms by less than 1 ms.
create or replace function offstage.quantile(histogram bigint[], q double precision) returns double precision
language sql immutable as $$
  select case when x.bucket > cardinality(b.bounds) then b.bounds[x.bucket - 1]
    else coalesce(b.bounds[x.bucket - 1], 0) + (b.bounds[x.bucket] - coalesce(b.bounds[x.bucket - 1], 0)) * greatest(q * x.total - x.below, 0) / x.n end
  from (select offstage.buckets() as bounds) b
  cross join lateral (
    select h.bucket, h.n, sum(h.n) over (order by h.bucket) - h.n as below, sum(h.n) over () as total
    from unnest(histogram) with ordinality h (n, bucket)
  ) x
  where x.n > 0 and x.below + x.n >= q * x.total
  order by x.bucket limit 1
$$;

-- From one time to another, in seconds.
create or replace function offstage_private.seconds(since timestamptz, until timestamptz) returns double precision
language sql immutable as $$ select extract(epoch from until - since)::double precision $$;

-- The histogram of some durations in seconds; nulls are left out, what is negative (clocks) counts as nothing.
create or replace function offstage_private.histogram(seconds double precision[]) returns integer[]
language plpgsql immutable as $$
declare
  h integer[] := array_fill(0, array[29]);
  last integer := 0;
  bucket integer;
  s double precision;
begin
  if seconds is null then
    return '{}';
  end if;
  foreach s in array seconds loop
    continue when s is null;
    bucket := width_bucket(greatest(s, 0), offstage.buckets()) + 1;
    h[bucket] := h[bucket] + 1;
    last := greatest(last, bucket);
  end loop;
  return h[1:last];
end $$;

-- The queue under which something is counted: 0 is none. The first 256 queues of an installation are told apart, all others
-- are counted together, as -1: where every customer has a queue, nobody wants a statistic of each, nor to pay for it.
create or replace function offstage_private.statistic_queue(queue_id integer) returns integer
language sql immutable as $$ select case when queue_id > 256 then -1 else coalesce(queue_id, 0) end $$;

-- Counts what has ended, by task, queue and outcome; one outcome stands for all. waits and runs are in seconds, null where
-- nothing is known. Statistics count each entry that history has or, with "keep", leaves out, but a retry by hand: nothing ends with
-- it. Locks nothing.
create or replace function offstage_private.count_ended(
  at timestamptz, task_ids integer[], queue_ids integer[], outcomes text[],
  waits double precision[] default null, runs double precision[] default null
) returns void
language plpgsql as $$
begin
  perform pg_current_xact_id();  -- before an id is taken: see statistic_mark
  insert into offstage_private.statistic_raw (ended_at, task_id, queue_id, outcome, n, waits, runs)
  select at, x.task_id, q.id, coalesce(x.outcome, outcomes[1]), count(*), offstage_private.histogram(array_agg(x.wait)), offstage_private.histogram(array_agg(x.run))
  from unnest(task_ids, queue_ids, outcomes, waits, runs) x (task_id, queue_id, outcome, wait, run)
  cross join lateral (select offstage_private.statistic_queue(x.queue_id)) q (id)
  where x.task_id is not null
  group by x.task_id, q.id, coalesce(x.outcome, outcomes[1]);
end $$;

-- The same of what a worker has counted itself: see "stats" of settle().
create or replace function offstage_private.count_stats(at timestamptz, stats json) returns void
language plpgsql as $$
begin
  insert into offstage_private.statistic_raw (ended_at, task_id, queue_id, outcome, n, waits, runs)
  select at, s.task_id, offstage_private.statistic_queue(s.queue_id), s.outcome, s.n, coalesce(s.waits, '{}'), coalesce(s.runs, '{}')
  from json_to_recordset(stats) s (task_id integer, queue_id integer, outcome text, n integer, waits integer[], runs integer[]);
end $$;

-- Moves what was counted into the minutes and hours, at most max_rows rows, and forgets minutes after two days and hours after
-- 90. Says how many rows there were: call again at once when it is max_rows. A chore. Null: another worker is at it.
-- One transaction, and each row is deleted by the one that sums it up: whatever dies, it is counted once.
create or replace function offstage.roll_up(max_rows integer default 10000) returns integer
language plpgsql
set jit = off set enable_seqscan = off
as $$
declare
  at timestamptz := offstage_private.clock();
  mark offstage_private.statistic_mark;
  first boolean := pg_current_xact_id_if_assigned() is null;  -- the caller has written nothing yet
  ended boolean;
  taken bigint;
  n integer;
begin
  if not pg_try_advisory_xact_lock(hashtext('offstage'), -5) then
    return null;
  end if;
  select * into mark from offstage_private.statistic_mark;
  ended := pg_snapshot_xmin(pg_current_snapshot()) >= mark.horizon;  -- so what they have left behind is seen by what follows
  select case when s.is_called then s.last_value else 0 end into taken from offstage_private.statistic_id s;

  with gone as (
    delete from offstage_private.statistic_raw r
    where r.ctid = any (array(select o.ctid from offstage_private.statistic_raw o where o.id > mark.low order by o.id limit max_rows))
    returning r.*
  ), part as (
    select date_trunc('minute', g.ended_at at time zone 'UTC') as minute, g.task_id, g.queue_id, g.outcome, c.bucket, sum(c.w) as w, sum(c.r) as r
    from gone g
    cross join lateral (
      select 0 as bucket, g.n as w, null::integer as r
      union all
      select h.bucket, h.w, h.r from unnest(g.waits, g.runs) with ordinality h (w, r, bucket)
    ) c
    group by 1, 2, 3, 4, 5
  ), cell as (
    select u.unit, date_trunc(u.unit, p.minute) at time zone 'UTC' as starts_at, p.task_id, p.queue_id, p.outcome, p.bucket, sum(p.w) as w, sum(p.r) as r
    from part p cross join (values ('minute'), ('hour')) u (unit)
    group by 1, 2, 3, 4, 5, 6
  ), summed as materialized (
    select c.unit, c.starts_at, c.task_id, c.queue_id, c.outcome, sum(c.w) filter (where c.bucket = 0) as n,
      coalesce(array_agg(coalesce(c.w, 0) order by c.bucket) filter (where c.bucket > 0), '{}') as waits,
      coalesce(array_agg(coalesce(c.r, 0) order by c.bucket) filter (where c.bucket > 0), '{}') as runs
    from cell c group by 1, 2, 3, 4, 5
  ), minutes as (
    insert into offstage_private.statistic_minute as m (starts_at, task_id, queue_id, outcome, n, waits, runs)
    select s.starts_at, s.task_id, s.queue_id, s.outcome, s.n, s.waits, s.runs from summed s where s.unit = 'minute' order by 1, 2, 3, 4
    on conflict on constraint statistic_minute_pkey do update set n = m.n + excluded.n,
      waits = offstage_private.add_histograms(m.waits, excluded.waits), runs = offstage_private.add_histograms(m.runs, excluded.runs)
  ), hours as (
    insert into offstage_private.statistic_hour as m (starts_at, task_id, queue_id, outcome, n, waits, runs)
    select s.starts_at, s.task_id, s.queue_id, s.outcome, s.n, s.waits, s.runs from summed s where s.unit = 'hour' order by 1, 2, 3, 4
    on conflict on constraint statistic_hour_pkey do update set n = m.n + excluded.n,
      waits = offstage_private.add_histograms(m.waits, excluded.waits), runs = offstage_private.add_histograms(m.runs, excluded.runs)
  )
  select count(*) into n from gone;

  -- Whoever had taken one of the ids up to "taken" had a number before that, which is below ours, if we get it only now.
  if first and ended and taken > mark.low and current_setting('transaction_isolation') = 'read committed' then
    update offstage_private.statistic_mark m set low = m.next, next = taken, horizon = pg_current_xact_id()
    where not exists (select from offstage_private.statistic_raw r where r.id > mark.low and r.id <= mark.next);
  end if;
  delete from offstage_private.statistic_minute m
  where m.ctid = any (array(select o.ctid from offstage_private.statistic_minute o where o.starts_at < at - interval '2 days' order by o.starts_at limit 1000));
  delete from offstage_private.statistic_hour m
  where m.ctid = any (array(select o.ctid from offstage_private.statistic_hour o where o.starts_at < at - interval '90 days' order by o.starts_at limit 1000));
  return n;
end $$;

-- Two histograms as one.
create or replace function offstage_private.add_histograms(a bigint[], b bigint[]) returns bigint[]
language sql immutable as $$
  select array(select coalesce(x.a, 0) + coalesce(x.b, 0) from unnest(a, b) with ordinality x (a, b, bucket) order by x.bucket)
$$;

-- What has ended since then, in steps of whole minutes (UTC); with step null as one. Rows: how many (n) ended with an outcome,
-- and histograms of how long their jobs had waited, from being due to being started, and of how long they ran (see buckets,
-- quantile); those count attempts that were started, as far as known. by: what the rows tell apart, of task, queue and outcome; what
-- they do not is null. queue_name is null for jobs without one, and '*' for all queues but the first 256. of_task, of_queue: only those.
-- times: false leaves the histograms out, which is much faster. Steps of whole hours reach back 90 days, others two. The newest counts
-- are those of the last settle. Raises 22023 for a step that is none, or an unknown element of by.
create or replace function offstage.statistics(
  since timestamptz,
  step interval default '1 min',
  of_task text default null,
  of_queue text default null,
  by text[] default '{task,queue,outcome}',
  times boolean default true
) returns table (starts_at timestamptz, task text, queue_name text, outcome text, n bigint, waits bigint[], runs bigint[])
language plpgsql stable
set jit = off set enable_seqscan = off set enable_sort = off  -- hashing a day of minutes takes half as long
as $$
#variable_conflict use_column
declare
  origin constant timestamptz := '2000-01-01 00:00:00+00';
  whole boolean := step is null;
  bin interval := coalesce(step, interval '1 min');
  first timestamptz;
  hourly boolean;
  by_task boolean := 'task' = any (by);
  by_queue boolean := 'queue' = any (by);
  by_outcome boolean := 'outcome' = any (by);
  only_task integer := (select t.id from offstage_private.task t where t.name = of_task);
  only_queue integer := (select q.id from offstage_private.queue q where q.name = of_queue);
begin
  if bin < interval '1 min' or extract(epoch from bin) % 60 <> 0 or extract(month from bin) + extract(year from bin) > 0 then
    raise invalid_parameter_value using message = format('the step %L is not a number of whole minutes', step),
      hint = 'Expected an interval like 1 min, 5 min, 1 h or 1 day.';
  elsif by is null or not by <@ array['task', 'queue', 'outcome'] then
    raise invalid_parameter_value using message = format('by is %L', by), hint = 'Expected elements of {task,queue,outcome}.';
  end if;
  hourly := case when whole then since < offstage_private.clock() - interval '47 h' else extract(epoch from bin) % 3600 = 0 end;
  first := date_bin(case when hourly and whole then interval '1 h' else bin end, since, origin);
  return query
    with counted as materialized (  -- what is worked out here, is not again for each bucket
      select case when whole then first else date_bin(bin, c.starts_at, origin) end as starts_at,
        case when by_task then c.task_id end as task_id, case when by_queue then c.queue_id end as queue_id,
        case when by_outcome then c.outcome end as outcome, c.n, case when times then c.waits end as waits, case when times then c.runs end as runs
      from (
        select m.starts_at, m.task_id, m.queue_id, m.outcome, m.n, m.waits, m.runs from offstage_private.statistic_minute m
        where not hourly and m.starts_at >= first
        union all
        select h.starts_at, h.task_id, h.queue_id, h.outcome, h.n, h.waits, h.runs from offstage_private.statistic_hour h
        where hourly and h.starts_at >= first
        union all
        select r.ended_at, r.task_id, r.queue_id, r.outcome, r.n, r.waits, r.runs from offstage_private.statistic_raw r
        where r.id > (select k.low from offstage_private.statistic_mark k) and r.ended_at >= first
      ) c
      where (of_task is null or c.task_id = only_task) and (of_queue is null or c.queue_id = only_queue)
    ), total as (
      select c.starts_at, c.task_id, c.queue_id, c.outcome, sum(c.n)::bigint as n from counted c group by 1, 2, 3, 4
    ), cell as (
      select c.starts_at, c.task_id, c.queue_id, c.outcome, u.bucket, coalesce(sum(u.w), 0)::bigint as w, coalesce(sum(u.r), 0)::bigint as r
      from counted c cross join lateral unnest(c.waits, c.runs) with ordinality u (w, r, bucket) where times
      group by 1, 2, 3, 4, 5
    ), histogram as (
      select c.starts_at, c.task_id, c.queue_id, c.outcome, array_agg(c.w order by c.bucket) as waits, array_agg(c.r order by c.bucket) as runs
      from cell c group by 1, 2, 3, 4
    )
    select t.starts_at, (select o.name from offstage_private.task o where o.id = t.task_id),
      case when t.queue_id = -1 then '*' else (select o.name from offstage_private.queue o where o.id = t.queue_id) end, t.outcome, t.n,
      case when times then coalesce(h.waits, '{}') end, case when times then coalesce(h.runs, '{}') end
    from total t
    left join histogram h on h.starts_at = t.starts_at and coalesce(h.task_id, 0) = coalesce(t.task_id, 0)
      and coalesce(h.queue_id, -2) = coalesce(t.queue_id, -2) and coalesce(h.outcome, '') = coalesce(t.outcome, '')
    order by 1, 2, 3, 4;
end $$;
