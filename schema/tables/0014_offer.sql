-- A worker that sleeps offers a slot, which who adds a job takes. A new table and its trigger: locks nothing that is there, and is
-- safe under load. Workers of the version before go on as they were.

create table offstage_private.offer (
  worker_id integer primary key,
  open boolean not null,                              -- nobody has taken it
  job_id bigint,                                      -- the job that has
  channel text not null,                              -- where the worker hears of it; nobody else knows the name
  task_ids integer[] not null                         -- what the worker performs
) with (fillfactor = 10, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

create function offstage_private.give() returns trigger language plpgsql as $$ begin return null; end $$;  -- see functions/25_offer.sql

create constraint trigger give after update on offstage_private.offer deferrable initially deferred
  for each row when (old.open and not new.open and new.job_id is not null) execute function offstage_private.give();
