-- Chores: what workers do besides jobs. Each says here when it ran; indexes are looked after.

-- Notes that a chore ran, in this statement unless "took" says otherwise, or, with an error, that it failed: at most every ten
-- seconds, and at once when that changes. Called along with the chore, in its transaction, by the worker that did it. period: how
-- often it is meant to run. False: there was nothing to note, or somebody else is just doing it: locks the chore's row, skip locked.
create or replace function offstage.chore_ran(
  chore text, worker_id integer, period interval, took interval default null, error text default null) returns boolean
language plpgsql as $$
declare
  at timestamptz := offstage_private.clock();
  c offstage_private.chore;
begin
  select o.* into c from offstage_private.chore o where o.name = chore;
  if not found then
    insert into offstage_private.chore (name, period) values (chore, chore_ran.period) on conflict do nothing;
  elsif chore_ran.error is null and c.ran_at > at - interval '10 s' and coalesce(c.failed_at < c.ran_at, true)
    or chore_ran.error is not null and c.failed_at > at - interval '10 s' and coalesce(c.failed_at > c.ran_at, true) then
    return false;
  end if;
  perform 1 from offstage_private.chore o where o.name = chore for update skip locked;
  if not found then
    return false;
  elsif chore_ran.error is null then
    update offstage_private.chore o set ran_at = at, took = coalesce(chore_ran.took, clock_timestamp() - statement_timestamp()), worker_id = chore_ran.worker_id, period = chore_ran.period
    where o.name = chore;
  else
    update offstage_private.chore o set failed_at = at, error = left(chore_ran.error, 1000), worker_id = chore_ran.worker_id, period = chore_ran.period
    where o.name = chore;
  end if;
  return true;
end $$;

-- What the chores of all workers came to: when each last ran (noted at most every ten seconds), how long it took, by which
-- worker, and how it last failed. state is ok, failing (since it last ran), or late (for three periods and 30 seconds).
create or replace view offstage.chores as
  select c.name, c.period, c.ran_at, c.took, c.worker_id, c.failed_at, c.error,
    case when c.failed_at >= coalesce(c.ran_at, '-infinity') then 'failing'
      when coalesce(c.ran_at, '-infinity') < offstage_private.clock() - 3 * c.period - interval '30 s' then 'late' else 'ok' end as state
  from offstage_private.chore c;

-- Indexes of at least min_bytes that take more than "times" what the rows of their table need, as far as the server's statistics
-- know, and broken ones that a rebuild has left behind. Dead rows that vacuum has not removed yet need room, too. Partitions of
-- history are left out: they are dropped whole.
create or replace function offstage_private.bloated_indexes(min_bytes bigint, times double precision)
returns table (index_name text, table_name text, bytes bigint, needed bigint, broken boolean)
language sql stable as $$
  select x.index_name, x.table_name, x.bytes, x.needed, x.broken
  from (
    select i.relname::text as index_name, t.relname::text as table_name, pg_relation_size(i.oid) as bytes, not d.indisvalid as broken,
      (greatest(t.reltuples, s.n_live_tup + s.n_dead_tup, 0) * (20 + k.width) / 0.9)::bigint + 16384 as needed
    from pg_catalog.pg_index d
    join pg_catalog.pg_class i on i.oid = d.indexrelid and i.relkind = 'i' and not i.relispartition
    join pg_catalog.pg_class t on t.oid = d.indrelid and not t.relispartition
    left join pg_catalog.pg_stat_user_tables s on s.relid = t.oid
    cross join lateral (
      -- What a row takes: 8 bytes of header, 4 of pointer, up to 8 of padding, and the columns.
      select sum(case when a.attlen > 0 then a.attlen else coalesce(p.avg_width, 32) end) as width
      from pg_catalog.pg_attribute a
      left join pg_catalog.pg_stats p on p.schemaname = 'offstage_private' and p.tablename = t.relname and p.attname = a.attname
      where a.attrelid = i.oid and a.attnum > 0
    ) k
    where i.relnamespace = 'offstage_private'::regnamespace
  ) x
  where x.broken and x.index_name ~ '_cc(new|old)[0-9]*$' or not x.broken and x.bytes >= min_bytes and x.bytes > times * x.needed
  order by x.broken desc, x.bytes desc
$$;
