-- What people do to jobs from the pages and over HTTP, besides 90_admin.sql: actions on many jobs, edits, and adding by hand.

-- Who changes something: as the setting offstage.actor says, or the role of the session.
create or replace function offstage_private.actor() returns json
language sql stable as $$
  select json_build_object('who', coalesce(a ->> 'who', session_user), 'source', coalesce(a ->> 'source', 'sql'),
    'from', coalesce(a ->> 'from', host(inet_client_addr()), 'local'))
  from (select nullif(current_setting('offstage.actor', true), '')::json) x (a)
$$;

-- How many jobs an action would find, up to 10,000; more: there are more. Ends within a second or so: where a filter has to look at too many
-- jobs, it says what it has found until then, and that there is more. Locks nothing. Raises 22023.
create or replace function offstage_private.bulk_count(filter json, ids bigint[]) returns table (n bigint, more boolean)
language plpgsql stable as $$
begin
  if filter is not null then
    perform offstage_private.check_bulk(filter);
    return query
      select count(f.job_id), count(*) > count(f.job_id)
      from offstage_private.find(filter, max_rows => 10000, looks => 40000, patience => '700 ms') f;
  else
    return query
      select count(*), false from (select distinct u from unnest(ids) u) u (id)
      cross join lateral (select from offstage_private.job j where j.id = u.id limit 1) j;
  end if;
end $$;

-- Refuses filters that no action can be made for, and what is there and says nothing: a list takes that for no filter, and an action would
-- be on more jobs than was meant. Raises 22023.
create or replace function offstage_private.check_bulk(filter json) returns void
language plpgsql immutable as $$
declare
  wrong text;
begin
  perform offstage_private.check_filter(filter);
  select e.key into wrong from json_each_text(filter) e where e.value is null or btrim(e.value) = '' and e.key <> 'payload_value' limit 1;
  if found then
    raise invalid_parameter_value using message = format('the filter says nothing of %L', wrong), hint = 'Leave it out, or say which: {} is all jobs.';
  end if;
  if filter ->> 'state' in ('succeeded', 'cancelled', 'removed', 'completed') then
    raise invalid_parameter_value using message = format('jobs that are %s have ended: there is nothing left to act upon', filter ->> 'state'),
      hint = 'Filter by scheduled, waiting, parked, paused, running or failed.';
  end if;
end $$;

-- Starts an action (retry, cancel, delete, reschedule) on these jobs, or on all that match a filter now; see find() for filters. run_at is for
-- reschedule (null: now), reason for cancel. Answers its id; the work is done by whoever calls bulk_step(): the program that serves the pages
-- does. Progress is in bulks. Locks nothing. Raises 22023.
create or replace function offstage.bulk_start(
  action text, filter json default null, ids bigint[] default null, run_at timestamptz default null, reason text default null) returns bigint
language plpgsql as $$
declare
  new_id bigint;
  c record;
begin
  if action is null or action not in ('retry', 'cancel', 'delete', 'reschedule') then
    raise invalid_parameter_value using message = format('there is no action %L', action), hint = 'Expected retry, cancel, delete or reschedule.';
  end if;
  if (filter is null) = (ids is null) then
    raise invalid_parameter_value using message = 'an action needs either ids or a filter', hint = 'The filter {} is all jobs.';
  end if;
  if cardinality(ids) > 100000 then
    raise invalid_parameter_value using message = format('an action has %s ids, at most 100000 are allowed', cardinality(ids)), hint = 'Give a filter instead.';
  end if;
  select * into c from offstage_private.bulk_count(filter, ids);
  delete from offstage_private.bulk b where b.id in (
    select o.id from offstage_private.bulk o where o.ended_at < now() - interval '30 days' order by o.id limit 100 for update skip locked);
  insert into offstage_private.bulk (action, filter, ids, run_at, reason, actor, started_at, max_id, claim_before, matched, more, beat_at)
  select bulk_start.action, bulk_start.filter, bulk_start.ids, bulk_start.run_at, bulk_start.reason, offstage_private.actor(), now(),
    (select last_value from offstage_private.job_id), (select last_value + 1024 from offstage_private.claim), c.n, c.more, now()
  returning id into new_id;
  perform offstage_private.note('bulk ' || action, case when filter is not null then case when c.more then c.n || '+ jobs' else offstage_private.plural(c.n, 'job') end end,
    ids, null, json_strip_nulls(json_build_object('bulk', new_id::text, 'filter', filter, 'run_at', run_at)), reason);
  return new_id;
end $$;

-- Does the next step of an action: a short transaction, of at most "most" jobs. Answers how many jobs it has found; null: it is not under way,
-- or somebody else is just at it. Locks the row of the action (skip locked), so that
-- each step is done once, whoever calls, and one whose caller dies is done anew by the next; then jobs, as cancel_jobs and its likes do.
create or replace function offstage_private.bulk_step(id bigint, most integer default 500) returns integer
language plpgsql as $$
#variable_conflict use_variable
declare
  b offstage_private.bulk;
  found_ids bigint[];
  f record;
  over boolean;
  n integer;
  acted integer;
begin
  select o.* into b from offstage_private.bulk o where o.id = id and o.state = 'running' for update skip locked;
  if not found then
    return null;
  end if;
  perform set_config('offstage.actor', (b.actor::jsonb || '{"noted": true}')::text, true);  -- when it began, as a whole
  most := least(greatest(most, 1), 500);
  if b.ids is not null then
    b.id_at := coalesce(b.id_at, 0);
    found_ids := b.ids[b.id_at + 1 : b.id_at + most];
    n := cardinality(found_ids);
    b.id_at := b.id_at + n;
    over := b.id_at >= cardinality(b.ids);
  else
    found_ids := '{}';
    over := true;
    for f in
      select * from offstage_private.find(b.filter, b.priority, b.at, b.id_at, max_rows => most,
        max_id => b.max_id, unchanged_since => b.started_at, claim_before => b.claim_before)
    loop
      if f.job_id is not null then
        found_ids := found_ids || f.job_id;
      else
        over := false;
        b.priority := f.priority;
        b.at := f.at;
        b.id_at := f.id;
      end if;
    end loop;
    n := cardinality(found_ids);
  end if;
  acted := case
    when n = 0 then 0
    when b.action = 'retry' then (select count(*) from offstage.retry_jobs(found_ids))
    when b.action = 'cancel' then (select count(*) from offstage.cancel_jobs(found_ids, b.reason))
    when b.action = 'delete' then (select count(*) from offstage.delete_jobs(found_ids))
    else (  -- those that have failed begin anew
      select sum((select count(*) from offstage.reschedule_jobs(x.ids, coalesce(b.run_at, now()), attempts => case when x.failed then 0 end)))
      from (select j.failed, array_agg(j.id) as ids from unnest(found_ids) u
            cross join lateral (select k.id, k.failed from offstage_private.job k where k.id = u limit 1) j group by j.failed) x)
  end;
  acted := coalesce(acted, 0);
  update offstage_private.bulk o set priority = b.priority, at = b.at, id_at = b.id_at, done = o.done + acted, left_out = o.left_out + n - acted, beat_at = now(),
    state = case when over then 'done' else 'running' end, ended_at = case when over then now() end
  where o.id = b.id;
  return n;
end $$;

-- Gives an action up whose step cannot be done. What was done before stays done. Nothing happens where it is not under way any more.
create or replace function offstage_private.bulk_fail(id bigint, error text) returns void
language sql volatile as $$
  update offstage_private.bulk b set state = 'failed', error = left(bulk_fail.error, 1000), ended_at = now(), beat_at = now()
  where b.id = bulk_fail.id and b.state = 'running'
$$;

-- Actions on many jobs: those under way, and those that have ended in the last 30 days. matched was counted up to 10,000.
create or replace view offstage.bulks as
  select b.id, b.action, b.state, b.matched, b.more, b.done, b.left_out, b.filter, b.actor ->> 'who' as who, b.reason, b.run_at, b.started_at, b.ended_at, b.error
  from offstage_private.bulk b;

-- Changes a job that is not running; null leaves a value. One that has failed is tried again, from attempt 1 and at once unless run_at says
-- otherwise. revision refuses the edit when the job has been edited, or replaced under its key, since it was read. Locks as retry_jobs does.
-- With run_at alone the audit calls it a reschedule. Raises P0002 for an unknown job, OS003 "has changed", 55006 "is running", 23514 where no attempts would be left, 22003 beyond smallint.
create or replace function offstage.edit_job(
  job_id bigint, payload json default null, run_at timestamptz default null, priority integer default null, max_attempts integer default null,
  revision integer default null
) returns offstage._private_jobs
language plpgsql as $$
#variable_conflict use_column
declare
  seized record;
  old offstage_private.job;
  j offstage_private.job;
  before json;
  after json;
  action text := case when edit_job.run_at is not null and edit_job.payload is null and edit_job.priority is null and edit_job.max_attempts is null then 'reschedule' else 'edit' end;
begin
  perform offstage_private.check_job(null, edit_job.max_attempts, null, null);
  select s.* into seized from offstage_private.seize(array[edit_job.job_id]) s;
  if not found then
    if (case when offstage_private.serializable() then (offstage_private.look_apart(edit_job.job_id)).id is not null
      else exists (select from offstage_private.job o where o.id = edit_job.job_id) end) then
      raise object_in_use using message = format('job %s is running', edit_job.job_id),
        hint = 'Wait for its attempt to end, or cancel the job; a duplicate can be added now.';
    end if;
    raise no_data_found using message = format('there is no job %s', edit_job.job_id), hint = 'It may have ended: a duplicate can be added.';
  end if;
  j := seized.job;
  if edit_job.revision <> j.revision then
    raise exception using errcode = 'OS003', message = format('job %s has changed', edit_job.job_id), hint = 'Look at it again, and repeat the edit.';
  end if;
  old := j;
  j.payload := coalesce(edit_job.payload, j.payload);
  j.priority := coalesce(edit_job.priority, j.priority);
  j.max_attempts := coalesce(edit_job.max_attempts, j.max_attempts);
  j.run_at := coalesce(edit_job.run_at, case when j.failed then least(j.run_at, now()) else j.run_at end);
  if old.failed then
    perform offstage_private.revived(old, case action when 'edit' then 'edited by hand' else 'rescheduled by hand' end);
    j.failed := false;
    j.attempts := 0;
  elsif j.attempts >= offstage_private.attempts_of(j, seized.task) then
    raise check_violation using message = format('job %s has spent %s attempts, max_attempts must be above', j.id, j.attempts), constraint = 'jobs_max_attempts_check';
  end if;
  update offstage_private.job o set payload = j.payload, priority = j.priority, max_attempts = j.max_attempts, run_at = j.run_at, failed = j.failed,
    attempts = j.attempts, crashes = 0, revision = o.revision + 1, updated_at = now()
  where o.ctid = seized.at returning o.* into j;
  perform offstage_private.uncancel(j.id);
  perform offstage_private.place(j, greatest(offstage_private.clock(), case when j.run_at <= now() then j.run_at end));
  select json_object_agg(c.name, c.before), json_object_agg(c.name, c.after) into before, after
  from (values ('payload', old.payload, j.payload), ('run_at', to_json(old.run_at), to_json(j.run_at)), ('priority', to_json(old.priority), to_json(j.priority)),
    ('max_attempts', to_json(old.max_attempts), to_json(j.max_attempts)), ('failed', to_json(old.failed), to_json(j.failed))) c (name, before, after)
  where c.before::text is distinct from c.after::text;
  perform offstage_private.note(action, 'job ' || j.id, array[j.id], before, after, null);
  return offstage_private.job_row(j, seized.task);
end $$;

-- Adds a job that is like another one, live or ended: same task, queue, flags, payload and options, unless given here. It runs now unless run_at
-- says otherwise. The key comes along only where no live job has it; flags and options only of a live job, because history does not keep
-- them. Answers its id. Locks as add_job does. Raises P0002 for an unknown job, and what add_job raises.
create or replace function offstage_private.duplicate_job(
  job_id bigint, payload json default null, run_at timestamptz default null, priority integer default null, max_attempts integer default null) returns bigint
language plpgsql as $$
#variable_conflict use_column
declare
  o record;
  new_id bigint;
begin
  select t.name as task, q.name as queue, j.payload, j.priority, j.max_attempts, null::text as key, array(select jsonb_object_keys(j.flags)) as flags,
    case when (j.options ->> 'expires_at')::timestamptz < offstage_private.clock() then (j.options::jsonb - 'expires_at')::json else j.options end as options
  into o
  from offstage_private.job j
  join offstage_private.task t on t.id = j.task_id
  left join offstage_private.queue q on q.id = j.queue_id
  where j.id = duplicate_job.job_id;
  if not found then
    select t.name as task, q.name as queue, h.payload, h.priority, null::smallint as max_attempts,
      case when not exists (select from offstage_private.job k where k.key = h.key) then h.key end as key, null::text[] as flags, null::json as options
    into o
    from offstage.job_history(duplicate_job.job_id) e
    cross join lateral (
      select * from offstage_private.history x
      where x.job_id = duplicate_job.job_id and x.settled_at + interval '0' = e.settled_at and x.outcome = e.outcome limit 1) h
    join offstage_private.task t on t.id = h.task_id
    left join offstage_private.queue q on q.id = h.queue_id
    where e.outcome in ('succeeded', 'failed', 'cancelled', 'removed', 'completed') order by e.settled_at desc limit 1;
    if not found then
      raise no_data_found using message = format('there is no job %s', duplicate_job.job_id), hint = 'It has ended, and its history is not kept any more.';
    end if;
  end if;
  select a.id into new_id from offstage.add_job(o.task, coalesce(duplicate_job.payload, o.payload), o.queue, duplicate_job.run_at,
    coalesce(duplicate_job.max_attempts, o.max_attempts), o.key, coalesce(duplicate_job.priority, o.priority), o.flags,
    case when o.key is null then 'replace' else 'unsafe_dedupe' end, null, o.options) a;
  perform offstage_private.note('duplicate', 'job ' || new_id, array[new_id], null, json_build_object('of', duplicate_job.job_id::text, 'task', o.task), null);
  return new_id;
end $$;

-- What the same caller has done under a key in the last 24 hours: the id that done_once() was told. Null: nothing; whoever asks is to do it now, in
-- the same transaction, and to say so with done_once(). A null key asks for nothing. Waits for a transaction that is at it under the same key.
-- Raises 23514 for a key that is empty or has more than 255 characters.
create or replace function offstage_private.once(idempotency_key text) returns bigint
language plpgsql as $$
declare
  moment timestamptz := offstage_private.clock();
  old_id bigint;
begin
  if idempotency_key is null then
    return null;
  end if;
  delete from offstage_private.idempotency i where i.ctid = any (array(
    select o.ctid from offstage_private.idempotency o where o.at < moment - interval '24 h' order by o.at limit 100 for update skip locked));
  insert into offstage_private.idempotency as i (who, key, at) values (offstage_private.actor() ->> 'who', idempotency_key, moment)
  on conflict (who, key) do update set
    job_id = case when i.at >= excluded.at - interval '24 h' then i.job_id end,
    at = case when i.at >= excluded.at - interval '24 h' then i.at else excluded.at end
  returning i.job_id into old_id;
  return old_id;
end $$;

-- What was done under a key: a job that was added, an action on many that was started; 0 where it has no id.
create or replace function offstage_private.done_once(idempotency_key text, id bigint) returns void
language sql as $$
  update offstage_private.idempotency i set job_id = done_once.id
  where i.who = offstage_private.actor() ->> 'who' and i.key = done_once.idempotency_key
$$;

-- Adds a job by hand: arguments as in add_job. Raises what that raises.
create or replace function offstage_private.add_by_hand(
  identifier text, payload json, queue_name text, run_at timestamptz, max_attempts integer, job_key text, priority integer, flags text[]) returns bigint
language plpgsql as $$
declare
  new_id bigint;
begin
  select a.id into new_id from offstage.add_job(identifier, payload, queue_name, run_at, max_attempts, job_key, priority, flags) a;
  perform offstage_private.note('add', 'job ' || new_id, array[new_id], null,
    json_strip_nulls(json_build_object('task', identifier, 'queue', queue_name, 'key', job_key, 'run_at', run_at, 'priority', priority, 'max_attempts', max_attempts, 'flags', flags)), null);
  return new_id;
end $$;
