-- Stages 6 and 7: what is kept of an ended job, and who is told.

-- The event for the caller's own channel: names the job and its outcome, never its result, error or payload, so
-- that clients fetch those under their own rights.
create or replace function offstage_private.notify_event(channel text, job_id bigint, outcome text, options json) returns void
language sql volatile as $$
  select pg_notify(channel,
    json_strip_nulls(json_build_object('event', 'job:complete', 'subject', job_id::text, 'id', job_id::text, 'outcome', outcome,
      '__node__', case when json_typeof(options -> 'notify_node') = 'array' then options -> 'notify_node' end))::text)
$$;

-- Whether history takes an entry with this outcome; what somebody waits for is kept in any case.
create or replace function offstage_private.keeps(keep text, outcome text) returns boolean
language sql immutable as $$
  select case keep when 'none' then false when 'failures' then outcome not in ('succeeded', 'completed', 'removed', 'snoozed', 'released') else true end
$$;

-- Records that a job that was not running has ended, and tells whom it concerns. The caller has taken it from its
-- place and deletes it (or leaves it, as failed).
create or replace function offstage_private.ended(j offstage_private.job, t offstage_private.task, outcome text, error text) returns void
language plpgsql as $$
declare
  awaited boolean := offstage_private.is_awaited(j.id);
begin
  insert into offstage_private.history (settled_at, job_id, added_at, run_at, task_id, queue_id, attempt, priority, outcome, key, error, payload, fingerprint)
  select offstage_private.clock(), j.id, j.added_at, j.run_at, j.task_id, j.queue_id, j.attempts, j.priority, ended.outcome, j.key, ended.error, j.payload,
    case when ended.outcome = 'failed' then offstage_private.fingerprint(t.name, ended.error) end
  where awaited or offstage_private.keeps(coalesce(j.options ->> 'keep', t.keep), ended.outcome);
  perform offstage_private.count_ended(offstage_private.clock(), array[j.task_id], array[j.queue_id], array[ended.outcome]);
  if j.notify_channel is not null then
    perform offstage_private.notify_event(j.notify_channel, j.id, ended.outcome, j.options);
  end if;
  if awaited then
    perform offstage_private.notify_waiter(j.id);
  end if;
  delete from offstage_private.progress p where p.job_id = j.id;
end $$;

-- What somebody who awaits a job, or asks for it, is told. While the job lives, its state; then its outcome, with
-- the result, from history. No row: unknown, or ended and not kept.
create or replace function offstage.job_status(job_id bigint)
returns table (state text, outcome text, attempt smallint, progress real, message text, result json, error text, run_at timestamptz, settled_at timestamptz)
language plpgsql stable as $$
begin
  return query
    select offstage_private.state_of(j), case when j.failed then 'failed' end,
      (j.attempts + (not j.failed and l.claim is not null)::integer)::smallint, p.percent, p.message, null::json, j.last_error, j.run_at,
      case when j.failed then (select max(h.settled_at + interval '0') from offstage_private.history h where h.job_id = j.id and h.outcome = 'failed') end
    from offstage_private.job j
    left join offstage_private.lease_of(j) l on true
    left join offstage_private.progress p on p.job_id = j.id and p.claim > j.released_claim
    where j.id = job_status.job_id;
  if not found then
    return query
      select null::text, h.outcome, h.attempt, null::real, null::text, h.result, h.error, h.run_at, h.settled_at
      from offstage_private.history h
      where h.job_id = job_status.job_id and h.outcome in ('succeeded', 'failed', 'cancelled', 'removed', 'completed')
      order by h.settled_at + interval '0' desc limit 1;  -- + 0, here and above: by job_id, not by way of the index on settled_at
  end if;
end $$;

-- Where a job is: its state, from its place. (In this language, because one in SQL is made ready anew for each job, which takes eight times as long.) With the owner's
-- rights, because whoever may read the view jobs need have none on what it is made of.
create or replace function offstage_private.state_of(j offstage_private.job) returns text
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
declare
  place text;
begin
  if j.failed then
    return 'failed';
  elsif offstage_private.has_ticket(j) or offstage_private.is_offered(j.id) then
    place := 'waiting';
  elsif exists (select from offstage_private.scheduled p where p.run_at = j.run_at and p.job_id = j.id) then
    return 'scheduled';
  elsif j.queue_id is not null and exists (
      select from offstage_private.parked p
      where p.queue_id = j.queue_id and p.lane_id = j.lane_id and p.priority = j.priority and p.run_at = j.run_at and p.job_id = j.id) then
    place := 'parked';
  else
    return 'running';
  end if;
  return case when (select t.paused from offstage_private.task t where t.id = j.task_id)
    or j.queue_id is not null and (select q.paused from offstage_private.queue_setting q where q.queue_id = j.queue_id) then 'paused' else place end;
end $$;

-- The log of a job, of all its attempts, in the order in which it was written, while they run and afterwards, for as long as
-- history is kept. To go on where an answer ended, give the claim and n of its last line: nothing comes in front of that.
create or replace function offstage.job_log(job_id bigint, after_claim bigint default 0, after_n integer default 0, max_lines integer default 1000)
returns table (at timestamptz, attempt smallint, claim bigint, n integer, level text, message text, attrs json)
language sql stable as $$
  select l.at, l.attempt, l.claim, l.n, l.level, l.message, l.attrs
  from offstage_private.log l
  where l.job_id = job_log.job_id and (l.claim, l.n) > (after_claim, after_n)
  order by l.claim, l.n limit max_lines
$$;

-- Sets for how many days history and logs are kept: 7 unless set, at least 1, at most 3650. Days end at midnight UTC; what is
-- older is dropped within a minute. Raises 22023.
create or replace function offstage.keep_history(days integer) returns void
language plpgsql as $$
begin
  if days is null or days not between 1 and 3650 then
    raise invalid_parameter_value using message = format('history cannot be kept for %s days', coalesce(days::text, 'null')), hint = 'Expected 1 to 3650.';
  end if;
  perform offstage_private.note('configure', 'history', null, (select json_build_object('days', r.history_days) from offstage_private.retention r),
    json_build_object('days', days), null);
  insert into offstage_private.retention as r (history_days) values (days) on conflict (one) do update set history_days = excluded.history_days;
end $$;
