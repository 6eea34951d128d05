-- Actions on many jobs, and what was asked to be added once. Makes two new tables; takes no lock that anybody else waits for, and is safe
-- under load.

-- An action under way, or one that has ended: kept for 30 days. bulk_step() goes on from where the row says; who has locked it works it.
create table offstage_private.bulk (
  id bigint generated always as identity primary key,
  action text not null check (action in ('retry', 'cancel', 'delete', 'reschedule')),
  filter json,                                        -- all jobs that match,
  ids bigint[],                                       -- or these; one of the two
  run_at timestamptz,                                 -- reschedule: null is now
  reason text,                                        -- cancel
  actor json not null,                                -- {"who", "source", "from"}
  started_at timestamptz not null,                    -- jobs changed by hand since then are not acted upon
  max_id bigint not null,                             -- nor those added,
  claim_before bigint not null,                       -- nor those tried since then
  matched bigint not null,                            -- when it began, counted up to 10,000,
  more boolean not null,                              -- and there were more
  priority smallint, at timestamptz, id_at bigint,    -- how far it is: see find(); with ids, id_at is how many of them
  done bigint not null default 0,
  left_out bigint not null default 0,                 -- running, or gone meanwhile
  state text not null default 'running' check (state in ('running', 'done', 'failed')),
  error text,
  beat_at timestamptz not null,                       -- of the last step
  ended_at timestamptz,
  check ((filter is null) <> (ids is null))
) with (fillfactor = 50);
create index bulk_running on offstage_private.bulk (id) where state = 'running';    -- what is to be done

-- What was added under an idempotency key, for 24 hours.
create table offstage_private.idempotency (
  who text not null,
  key text not null check (length(key) between 1 and 255),
  job_id bigint,                                      -- null only inside the transaction that adds
  at timestamptz not null,
  primary key (who, key)
);
create index idempotency_at on offstage_private.idempotency (at);           -- once(): what is old
