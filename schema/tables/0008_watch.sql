-- What explains, watches and remembers who did what. Adds columns, which rewrites nothing, and builds an index on history that
-- has nothing in it yet: reads history once for it and blocks settling meanwhile, a fraction of a second for each million entries.

-- Flags of jobs that the worker leaves to others: explain_job().
alter table offstage_private.worker add column forbidden text[];
drop function if exists offstage.register(text, integer, text, integer, json);  -- gets "forbidden"

-- Which errors are alike: see fingerprint(). On entries of attempts that failed, and on jobs that have failed; null on all others,
-- where it takes no room.
alter table offstage_private.history add column fingerprint text;
alter table offstage_private.job add column fingerprint text;
create index history_fingerprint on offstage_private.history (fingerprint, settled_at) where fingerprint is not null;  -- errors()
create index job_fingerprint on offstage_private.job (fingerprint, id) where failed;  -- errors(), lists of failed jobs, tidy()

-- Jobs that were set aside because they crashed one worker after the other, for a day: problems().
create table offstage_private.set_aside (
  at timestamptz not null,
  job_id bigint not null
);

-- What people have changed, and programs by the functions that people use. Append-only; written by note() alone, in the
-- transaction of the change; forgotten after 90 days.
create table offstage_private.audit (
  id bigint generated always as identity primary key,  -- audit(): the latest first
  at timestamptz not null,
  who text not null,
  source text not null,                               -- ui, api, cli, sql
  from_where text not null,
  action text not null,                               -- a verb: cancel, pause, configure, …
  target text not null,                               -- job 7, 5000 jobs, queue x, task y, schedule z, …
  ids bigint[],                                       -- of jobs, the first 1000
  n bigint not null,                                  -- how many
  before json,
  after json,
  reason text
);
create index audit_at on offstage_private.audit (at);               -- tidy()
create index audit_target on offstage_private.audit (target, id);   -- explain_job(): who paused it; audit() of one thing

-- How many bytes history and logs may take before problems() says so.
create table offstage_private.budget (
  one boolean primary key default true check (one),
  bytes bigint
);
insert into offstage_private.budget default values;
