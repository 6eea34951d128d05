-- The tables of the engine. Runs once, in an empty database or beside other schemas: takes no lock that anybody
-- else waits for. Never edited once released; what comes later is a file with a higher number.
--
-- Where a job is, is one row in one of four narrow tables, its *place*, so that the wide row in job is not
-- written when the job starts, waits or moves:
--
--   ticket     it may be claimed now             scheduled  its time has not come
--   parked     its queue is busy or paused       (none)     running: in job_ids of a lease; or failed: job.failed
--
-- The key of a place always equals (lane_id, priority, run_at) of its job.

create table offstage_private.migration (
  version integer primary key,
  name text not null,
  breaking boolean not null,
  migrated_at timestamptz not null default now()
);

-- Graphile Worker's ledger, for Graphile's own library: it finds a revision above all of its own, none of them
-- breaking, and so installs nothing and lets its add_job calls through. Nothing of ours reads it.
create table offstage.migrations (
  id integer primary key,
  ts timestamptz not null default now(),
  breaking boolean not null default false
);
insert into offstage.migrations (id) values (1000000);

-- Tasks and lanes share one sequence: a job without flags is in the lane that has the number of its task.
create sequence offstage_private.lane_id as integer;

create table offstage_private.task (
  id integer primary key default nextval('offstage_private.lane_id'),
  name text not null unique constraint tasks_identifier_check check (length(name) <= 128),
  max_attempts smallint check (max_attempts > 0),     -- null: 25
  retry jsonb,                                        -- null: Graphile Worker's delays; see retry_delay()
  timeout interval check (timeout > interval '0' and timeout <= interval '100 years'),  -- of one attempt; null: none
  keep text check (keep in ('all', 'failures', 'none')),  -- what history holds; null: all
  paused boolean not null default false,
  revision integer not null default 0                 -- bumped by every change, so that workers notice
);

create index task_quiet on offstage_private.task (id) where keep <> 'all';   -- settle(): tasks that do not keep successes

-- A set of flags that jobs of a task carry. Tickets name their lane, so that a claim leaves forbidden flags and
-- paused tasks out without looking at their tickets.
create table offstage_private.lane (
  id integer primary key default nextval('offstage_private.lane_id'),
  task_id integer not null,
  flags jsonb not null
);
create unique index lane_flags on offstage_private.lane (task_id, md5(flags::text));  -- finds the lane of an add

create table offstage_private.queue (
  id integer generated always as identity primary key,
  name text not null unique constraint job_queues_queue_name_check check (length(name) <= 128)
);

-- What changes with every job of a queue. Read and written only by who has locked the row in queue, which is never
-- written itself. An old snapshot keeps all versions of a row: so now and then an update gives it a lower turn, and
-- the newest version is the first in the index, found at once however many there have been.
create table offstage_private.queue_state (
  queue_id integer not null,
  turn bigint not null default 0,
  claims bigint[] not null default '{}',              -- its slots: the claims that hold one
  next_lane integer not null default 0,               -- where the next hand-over begins; 0: at the first lane
  primary key (queue_id, turn)
) with (fillfactor = 50);

-- Where the parked jobs of a queue begin, per lane that has ever had some: none is in front of it. What was parked
-- before and is gone is not stepped over. Read and written as queue_state, turn as there.
create table offstage_private.queue_front (
  run_at timestamptz not null,
  job_id bigint not null,
  turn bigint not null default 0,
  queue_id integer not null,
  lane_id integer not null,
  priority smallint not null,
  primary key (queue_id, lane_id, turn)
);

-- What people set on a queue; no row: one at a time, not paused. A table of its own, because settle and promote wait for the
-- row in queue: a caller who pauses a queue and leaves the transaction open must not hold them up.
create table offstage_private.queue_setting (
  queue_id integer primary key,
  concurrency integer not null default 1 check (concurrency > 0),
  paused boolean not null default false
);

create table offstage_private.worker (
  id integer generated always as identity primary key,
  host text not null,
  pid integer not null,
  version text not null,                              -- of the program
  slots integer not null,
  tasks integer[] not null,
  unable jsonb,                                       -- tasks it has but cannot perform: {"name": "reason"}
  started_at timestamptz not null,
  beat_at timestamptz not null,
  period interval not null,                           -- a beat is due after it; dead after five
  beats integer not null default 1,                   -- landed in a row
  suspect bigint,                                     -- claim of the job that runs although it has crashed a worker before
  draining boolean not null default false,
  signed_off boolean not null default false,          -- it left by itself: what it holds was not lost in a crash
  dead_at timestamptz
) with (fillfactor = 20);

-- What may be in a job is checked by check_job() and its callers: every statement reads a table's own constraints anew.
create sequence offstage_private.job_id;
create table offstage_private.job (
  id bigint primary key,
  run_at timestamptz not null,
  added_at timestamptz not null,
  updated_at timestamptz not null,
  released_claim bigint not null default 0,           -- the last claim that ended without ending the job
  task_id integer not null,
  lane_id integer not null,
  queue_id integer,
  revision integer not null default 0,
  priority smallint not null,
  attempts smallint not null default 0,               -- spent; the running one is not among them
  max_attempts smallint,                              -- null: the task's
  crashes smallint not null default 0,                -- workers that died while they ran it, in a row
  failed boolean not null default false,
  payload json not null,
  key text,
  flags jsonb,
  last_error text,
  notify_channel text,
  options json
);
create unique index job_key on offstage_private.job (key) where key is not null;    -- add with a job_key, remove_job
create index job_failed on offstage_private.job (id) where failed;                  -- lists of failed jobs

create table offstage_private.ticket (
  run_at timestamptz not null,
  job_id bigint not null,
  lane_id integer not null,
  queue_id integer,
  priority smallint not null,
  job_ctid tid,                                       -- where the row in job is, if known: a hint that claim() checks
  primary key (lane_id, priority, run_at, job_id)     -- the order in which claim() takes them
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0);

create index ticket_queue on offstage_private.ticket (queue_id, lane_id, priority, run_at, job_id)
  where queue_id is not null;                         -- claim(): is it this one's turn?

create table offstage_private.scheduled (
  run_at timestamptz not null,
  job_id bigint not null,
  lane_id integer not null,
  queue_id integer,
  priority smallint not null,
  primary key (run_at, job_id)                        -- the order in which promote() takes them
);

create table offstage_private.parked (
  run_at timestamptz not null,
  job_id bigint not null,
  lane_id integer not null,
  queue_id integer not null,
  priority smallint not null,
  primary key (queue_id, lane_id, priority, run_at, job_id)  -- finds the next job of a queue, per lane
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000);

-- One claim() is one lease. Its number is a multiple of 1024; the n-th of its jobs (from 1) is claimed under number
-- claim + n. So a claim number says which lease and which position, and settle() checks it without a search.
create sequence offstage_private.claim increment by 1024 minvalue 1024 start 1024;
create table offstage_private.lease (
  claim bigint primary key,
  worker_id integer not null,
  claimed_at timestamptz not null,
  job_ids bigint[] not null  -- 1 to 1000 of them: one page, and below 1024
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
alter table offstage_private.lease alter job_ids set storage plain;         -- compressing cost 0.6 us a job
create index lease_worker on offstage_private.lease (worker_id);            -- heartbeat(), rescue()

-- Queues whose free slot could not be given to a parked job at once; promote() tries again when due.
create table offstage_private.handover (
  id bigint generated always as identity primary key,
  queue_id integer not null,
  due_at timestamptz not null
);

create table offstage_private.cancellation (
  job_id bigint primary key,
  reason text not null,
  requested_at timestamptz not null
);

create table offstage_private.waiter (
  job_id bigint primary key,
  expires_at timestamptz not null
);

create table offstage_private.progress (
  job_id bigint primary key,
  claim bigint not null,
  percent real,
  message text,
  reported_at timestamptz not null
) with (fillfactor = 50);

-- One row for every attempt that ended and every outcome of a job: append-only, a partition a day. history_rest
-- takes what comes on a day nobody prepared for.
create table offstage_private.history (
  settled_at timestamptz not null,
  job_id bigint not null,
  claim bigint,
  added_at timestamptz not null,
  run_at timestamptz not null,
  claimed_at timestamptz,
  task_id integer not null,
  queue_id integer,
  worker_id integer,
  attempt smallint not null,
  priority smallint not null,
  outcome text not null,
  key text,
  error text,
  log text,
  payload json,                                       -- on the rows that end a job
  result json
) partition by range (settled_at);
create index history_job on offstage_private.history (job_id);              -- job_status(), await
create table offstage_private.history_rest partition of offstage_private.history default;

-- What graphile_worker's functions return: the row type of its private table, column for column.
create type offstage._private_jobs as (
  id bigint, job_queue_id integer, task_id integer, payload json, priority smallint, run_at timestamptz,
  attempts smallint, max_attempts smallint, last_error text, created_at timestamptz, updated_at timestamptz,
  key text, locked_at timestamptz, locked_by text, revision integer, flags jsonb, is_available boolean
);

create type offstage.job_spec as (
  identifier text, payload json, queue_name text, run_at timestamptz, max_attempts smallint, job_key text,
  priority smallint, flags text[]
);
