-- Schedules as rows. Makes one new table; takes no lock that anybody else waits for, and is safe under load.

-- A cron expression, and the job that each of its ticks adds. next_at is the tick that comes next: whoever moves it on, in the
-- transaction that adds the job, had the tick; so none is lost and none comes twice, whatever dies and however many are at it.
create table offstage_private.schedule (
  id integer generated always as identity primary key,
  name text not null unique,
  source text not null check (source in ('database', 'crontab', 'program')),
  task text not null,
  expression text not null,
  zone text not null,
  payload json,                                       -- null: {}
  queue_name text,
  max_attempts smallint check (max_attempts > 0),
  priority smallint,
  job_key text,
  job_key_mode text check (job_key_mode in ('replace', 'preserve_run_at')),
  jitter interval not null check (jitter >= interval '0' and jitter <= interval '36500 days'),
  from_at timestamptz,
  until_at timestamptz,
  overlap text not null check (overlap in ('allow', 'skip')),
  catchup text check (catchup in ('none', 'one', 'all') or catchup ~ '^[1-9][0-9]{0,2}$|^1000$'),  -- null: what a living worker missed
  fill interval check (fill >= interval '0' and fill <= interval '36500 days'),
  paused boolean not null default false,
  revision integer not null default 0,                -- counts changes of what stands above
  known_at timestamptz not null,                      -- ticks count from here, or from the last one
  next_at timestamptz,                                -- null: not computed yet; infinity: never
  due_at timestamptz not null,                        -- when a worker has to look at it: next_at, at once, or after an error
  last_tick timestamptz,
  last_job_id bigint,
  ticks bigint not null default 0,                    -- that added a job
  skipped bigint not null default 0,                  -- that did not, because the job before had not ended (overlap)
  failures integer not null default 0,                -- in a row
  error text,
  seen_at timestamptz,                                -- when a worker has last had it in its file or program; null: database
  updated_at timestamptz not null,
  check ((catchup is null) or (fill is null))
) with (fillfactor = 50);

create index schedule_due on offstage_private.schedule (due_at) where not paused;   -- due_schedules()
create index schedule_seen on offstage_private.schedule (seen_at) where seen_at is not null;  -- saw_schedules()
