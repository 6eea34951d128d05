-- What the public schema has besides functions and views, made anew where it is missing: "drop schema offstage cascade" takes no jobs along, and the next migration
-- brings everything back. The migrations make the same.

do $$
begin
  if to_regclass('offstage.migrations') is null then
    create table offstage.migrations (
      id integer primary key,
      ts timestamptz not null default now(),
      breaking boolean not null default false
    );
    insert into offstage.migrations (id) values (1000000);
  end if;
  if to_regtype('offstage._private_jobs') is null then
    create type offstage._private_jobs as (
      id bigint, job_queue_id integer, task_id integer, payload json, priority smallint, run_at timestamptz,
      attempts smallint, max_attempts smallint, last_error text, created_at timestamptz, updated_at timestamptz,
      key text, locked_at timestamptz, locked_by text, revision integer, flags jsonb, is_available boolean
    );
  end if;
  if to_regtype('offstage.job_spec') is null then
    create type offstage.job_spec as (
      identifier text, payload json, queue_name text, run_at timestamptz, max_attempts smallint, job_key text,
      priority smallint, flags text[]
    );
  end if;
end $$;
