-- The log of attempts, a row a line, written while they run. Takes access exclusive locks on progress() and settle(), and
-- on history for as long as it takes to forget a column: milliseconds, but it waits for whoever reads history. What the
-- column held is gone. Workers that are older settle with a signature that is no more:
-- breaking

-- Append-only, a partition a day as history has them; log_rest takes what comes on a day nobody prepared for. A line's
-- time is computed from its claim's, so that a line which is sent again, because the answer was lost, is the same row.
create table offstage_private.log (
  at timestamptz not null,
  job_id bigint not null,
  claim bigint not null,
  n integer not null,                                 -- of the line, in its attempt, from 1
  attempt smallint not null,
  level text not null,                                -- debug, info, warn, error; or between them, as info+2
  message text not null,
  attrs json,                                         -- an object; null: none
  primary key (job_id, claim, n, at)                  -- job_log(): the lines of a job, in order; a line is there once
) partition by range (at);
create table offstage_private.log_rest partition of offstage_private.log default;
create index log_rest_at on offstage_private.log_rest using brin (at);      -- tidy(): what is of a day, or old

alter table offstage_private.history drop column log;
drop function if exists offstage.progress(integer, bigint, bigint, real, text);
drop function if exists offstage.settle(integer, bigint[], bigint[], json[], text[], json, bigint[], tid[]);
