-- Statistics, and what the chores say of themselves. Makes tables and drops a function: takes no lock that anybody waits for.

-- settle() gets "stats".
drop function if exists offstage.settle(integer, bigint[], bigint[], json[], json[], json, bigint[], tid[]);

-- What has ended, as the settle batches counted it: append-only, a row for each (task, queue, outcome) of a batch. roll_up()
-- takes the rows away within seconds. queue_id: see statistic_queue(). waits and runs are histograms, see buckets().
create sequence offstage_private.statistic_id;
create table offstage_private.statistic_raw (
  id bigint primary key default nextval('offstage_private.statistic_id'),  -- roll_up(), statistics(): what is behind the mark
  ended_at timestamptz not null,
  task_id integer not null,
  queue_id integer not null,
  n integer not null,
  outcome text not null,
  waits integer[] not null,
  runs integer[] not null
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000, autovacuum_analyze_threshold = 100000);

-- Up to which id no row can be there, nor come any more: whoever reads begins behind it, and does not step over what was
-- deleted. next becomes low as soon as all transactions before horizon have ended: whoever took an id up to it is one of them.
create table offstage_private.statistic_mark (
  one boolean primary key default true check (one),
  low bigint not null default 0,
  next bigint not null default 0,
  horizon xid8 not null default '0'
) with (fillfactor = 50);
insert into offstage_private.statistic_mark default values;

-- The same, summed up; both are whole, an hour does not wait for its minutes. Written by roll_up() alone.
create table offstage_private.statistic_minute (
  starts_at timestamptz not null,
  task_id integer not null,
  queue_id integer not null,
  outcome text not null,
  n bigint not null,
  waits bigint[] not null,
  runs bigint[] not null,
  primary key (starts_at, task_id, queue_id, outcome)  -- statistics(): from some time on; roll_up(): the oldest
) with (fillfactor = 70);

create table offstage_private.statistic_hour (
  starts_at timestamptz not null,
  task_id integer not null,
  queue_id integer not null,
  outcome text not null,
  n bigint not null,
  waits bigint[] not null,
  runs bigint[] not null,
  primary key (starts_at, task_id, queue_id, outcome)  -- as above
) with (fillfactor = 70);

-- A row for each chore, written by whoever did it, at most every ten seconds: see chore_ran().
create table offstage_private.chore (
  name text primary key,
  period interval not null,                           -- how often it is meant to run
  ran_at timestamptz,                                 -- last success
  took interval,
  worker_id integer,
  failed_at timestamptz,                              -- last failure
  error text
) with (fillfactor = 50);
