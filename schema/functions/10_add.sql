-- Stage 1: add. A job and its ticket are written in the caller's transaction; nothing here waits for another
-- transaction, except one that is adding under the same job_key or making the same new name.
-- Lock order of a keyed add: its job, then its place.

-- Checks the timeout of an attempt; the message of the 22023 begins with where it stands.
create or replace function offstage_private.check_timeout(timeout text, place text default '') returns void
language plpgsql as $$
begin
  if timeout::interval > interval '0' and timeout::interval <= interval '100 years' or timeout is null then
    return;
  end if;
  raise invalid_datetime_format;
exception when invalid_datetime_format or datetime_field_overflow or interval_field_overflow then
  raise invalid_parameter_value using message = format('%stimeout is %L', place, timeout), hint = 'Expected a positive interval, such as "30 s", of at most 100 years.';
end $$;

-- Checks the options of a job. Unknown keys are errors, so that a typo cannot lose a setting. What passes here must
-- not fail when the job is claimed or settled: it would hold up the whole batch.
create or replace function offstage_private.check_options(options json) returns void
language plpgsql as $$
declare
  wrong text;
begin
  if json_typeof(options) <> 'object' then
    raise invalid_parameter_value using message = format('options must be a JSON object, not %s', json_typeof(options));
  end if;
  select k into wrong from json_object_keys(options) k
  where k not in ('notify_node', 'timeout', 'expires_at', 'keep', 'traceparent') limit 1;
  if found then
    raise invalid_parameter_value using message = format('options has the unknown key %L', wrong),
      hint = 'Known keys: notify_node, timeout, expires_at, keep, traceparent.';
  end if;
  if options ->> 'keep' not in ('all', 'failures', 'none') then
    raise invalid_parameter_value using message = format('options: keep is %L', options ->> 'keep'),
      hint = 'Expected all, failures or none.';
  end if;
  perform offstage_private.check_timeout(options ->> 'timeout', 'options: ');
  if json_typeof(options -> 'notify_node') not in ('array', 'null') then
    raise invalid_parameter_value using message = 'options: notify_node must be an array',
      hint = 'Such as ["JobRequest", 17]: the node alias and the primary key of the row.';
  end if;
  if octet_length((options -> 'notify_node')::text) > 4000 then
    raise invalid_parameter_value using message = 'options: notify_node has more than 4000 bytes';
  end if;
  -- Read again by claim(), in a session with other settings: so it must mean the same everywhere and always.
  if options ->> 'expires_at' !~ '^\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d(:?\d\d)?)$' then
    raise invalid_parameter_value using message = format('options: expires_at is %L', options ->> 'expires_at'),
      hint = 'Expected a time with its offset, such as "2030-01-31T08:00:00Z"; to_json(now()) gives one.';
  end if;
  perform (options ->> 'expires_at')::timestamptz;
exception when invalid_datetime_format or datetime_field_overflow then
  raise invalid_parameter_value using message = 'options: ' || sqlerrm;
end $$;

-- A NOTIFY channel is at most 63 bytes; PostgreSQL would say so only when the job is settled.
create or replace function offstage_private.check_channel(channel text) returns void
language plpgsql as $$
begin
  if octet_length(channel) not between 1 and 63 then
    raise invalid_parameter_value using message = format('notify_channel has %s bytes', octet_length(channel)),
      hint = 'PostgreSQL allows 1 to 63.';
  end if;
end $$;

-- Checks what a caller may leave out, and mostly does: called only when there is something to check.
create or replace function offstage_private.check_job(job_key text, max_attempts integer, notify_channel text, options json) returns void
language plpgsql as $$
begin
  if max_attempts::smallint <= 0 then
    raise check_violation using message = format('max_attempts is %s, at least 1 is needed', max_attempts),
      constraint = 'jobs_max_attempts_check';
  end if;
  if length(job_key) not between 1 and 512 then
    raise check_violation using message = format('the job_key has %s characters, 1 to 512 are allowed', length(job_key)),
      constraint = 'jobs_key_check';
  end if;
  if notify_channel is not null then
    perform offstage_private.check_channel(notify_channel);
  end if;
  if options is not null then
    perform offstage_private.check_options(options);
  end if;
end $$;

-- The row of a new job, in the order of the columns. One expression, because each assignment costs as much as all of it.
create or replace function offstage_private.new_job(
  id bigint, task_id integer, lane_id integer, queue_id integer, payload json, run_at timestamptz, max_attempts integer, job_key text,
  priority integer, flags jsonb, notify_channel text, options json) returns offstage_private.job
language sql volatile as $$
  select row (id, coalesce(run_at, now()), now(), now(), 0, task_id, lane_id, queue_id, 0, coalesce(priority, 0), 0, max_attempts, 0, false,
    coalesce(payload, '{}'), job_key, flags, null, notify_channel, options, null, null)::offstage_private.job
$$;

-- Adds a job under a job_key, or changes the one that has it. See job_key_mode in docs/sql-api.md.
create or replace function offstage_private.add_keyed(
  new offstage_private.job, job_key_mode text, with_payload boolean) returns offstage_private.job
language plpgsql as $$
declare
  dedupe boolean := coalesce(job_key_mode = 'unsafe_dedupe', false);  -- null is allowed
  serializable boolean := offstage_private.serializable();
  fresh boolean;
  found_job record;  -- the row and where it is; locked, so that it stays there
  old offstage_private.job;
  at timestamptz := offstage_private.clock();
begin
  loop
    if dedupe or serializable then
      -- For SERIALIZABLE callers: see 00_apart.sql.
      insert into offstage_private.job as j select new.* on conflict (key) where key is not null
        do update set revision = j.revision + dedupe::integer, updated_at = case when dedupe then now() else j.updated_at end
        returning j.ctid, j as job into found_job;
      fresh := (found_job.job).id = new.id;
    else
      insert into offstage_private.job as j select new.* on conflict (key) where key is not null do nothing
        returning j.ctid, j as job into found_job;
      fresh := found;
      if not fresh then
        select j.ctid, j as job into found_job from offstage_private.job j where j.key = new.key for update;
        continue when not found;
      end if;
    end if;
    if fresh then
      update offstage_private.job j set place = offstage_private.place(new, at) where j.ctid = found_job.ctid;
      return new;
    end if;

    old := found_job.job;
    exit when dedupe;
    if old.failed or not offstage_private.unplace(old) then
      -- Running or failed: it keeps what it is but not its key, and will not be tried again.
      update offstage_private.job j
      set key = null, attempts = offstage_private.attempts_of(old, offstage_private.task_of(old.task_id)) - (not old.failed)::integer, updated_at = now()
      where j.ctid = found_job.ctid;
      continue;
    end if;

    if job_key_mode = 'preserve_run_at' and old.attempts = 0 then
      new.run_at := old.run_at;
    end if;
    if with_payload and json_typeof(old.payload) = 'array' and json_typeof(new.payload) = 'array' then
      new.payload := (old.payload::jsonb || new.payload::jsonb)::json;
    end if;
    new.id := old.id;
    new.added_at := old.added_at;
    new.released_claim := old.released_claim;
    new.revision := old.revision + 1;
    new.crashes := old.crashes;
    update offstage_private.job j set
      run_at = new.run_at, updated_at = now(), task_id = new.task_id, lane_id = new.lane_id, queue_id = new.queue_id,
      revision = new.revision, priority = new.priority, attempts = 0, max_attempts = new.max_attempts,
      payload = new.payload, flags = new.flags, last_error = null, notify_channel = new.notify_channel, options = new.options,
      place = offstage_private.place(new, at)
    where j.ctid = found_job.ctid;
    return new;
  end loop;
  return old;
end $$;

-- Adds a job. Arguments, defaults, result and errors are graphile_worker's; the last two are ours:
-- notify_channel gets an event when the job has ended; options are described in docs/sql-api.md.
-- Raises: GWBKM (job_key_mode), 23502, 23514 (names, max_attempts, job_key), 22003 (numbers beyond smallint),
-- 22023 (options, flags, notify_channel).
create or replace function offstage.add_job(
  identifier text,
  payload json default null,
  queue_name text default null,
  run_at timestamptz default null,
  max_attempts integer default null,
  job_key text default null,
  priority integer default null,
  flags text[] default null,
  job_key_mode text default 'replace',
  notify_channel text default null,
  options json default null
) returns offstage._private_jobs
language plpgsql as $$
declare
  new offstage_private.job;
  task integer;
  task_attempts smallint;
  queue integer;
  lane integer;
  flag_set jsonb;
  place tid;
begin
  if job_key is not null or max_attempts is not null or notify_channel is not null or options is not null then
    if job_key is not null and job_key_mode not in ('replace', 'preserve_run_at', 'unsafe_dedupe') then
      raise exception using errcode = 'GWBKM',
        message = 'Invalid job_key_mode value, expected ''replace'', ''preserve_run_at'' or ''unsafe_dedupe''.';
    end if;
    perform offstage_private.check_job(job_key, max_attempts, notify_channel, options);
  end if;

  if offstage_private.serializable() then
    select t.id, t.id, t.max_attempts into task, lane, task_attempts from offstage_private.task_apart(identifier) t where length(identifier) <= 128;
    if task is null then
      task := offstage_private.task_id(identifier);
      lane := task;
    end if;
    queue := case when queue_name is not null then offstage_private.queue_id(queue_name) end;
  else
    select t.id, t.id, t.max_attempts into task, lane, task_attempts from offstage_private.task t where t.name = identifier;
    if not found then
      task := offstage_private.task_id(identifier);
      lane := task;
    end if;
    if queue_name is not null then
      select q.id into queue from offstage_private.queue q where q.name = queue_name;
      if not found then
        queue := offstage_private.queue_id(queue_name);
      end if;
    end if;
  end if;
  if flags is not null then
    flag_set := offstage_private.flag_set(flags);
    lane := offstage_private.lane_id(task, flag_set);
  end if;
  new := offstage_private.new_job(nextval('offstage_private.job_id'), task, lane, queue, payload, run_at, max_attempts, job_key, priority,
    flag_set, notify_channel, options);

  if job_key is not null then
    new := offstage_private.add_keyed(new, job_key_mode, payload is not null);
    if job_key_mode = 'unsafe_dedupe' and new.revision > 0 then
      return offstage_private.job_row(new, offstage_private.task_of(new.task_id));  -- an old one, perhaps running
    end if;
  elsif new.run_at > offstage_private.clock() then
    insert into offstage_private.job select new.*;
    perform offstage_private.place(new, offstage_private.clock());
  elsif offstage_private.is_locked(task) then  -- somebody sleeps, perhaps with an offer
    insert into offstage_private.job select new.* returning ctid into place;
    if not offstage_private.take_offer(new) then
      insert into offstage_private.ticket (run_at, job_id, lane_id, queue_id, priority, job_ctid) values (new.run_at, new.id, new.lane_id, new.queue_id, new.priority, place);
      perform offstage_private.wake(task);
    end if;
  else  -- place(), in one statement with the insert: most jobs come this way
    with added as (insert into offstage_private.job select new.* returning ctid)
    insert into offstage_private.ticket (run_at, job_id, lane_id, queue_id, priority, job_ctid)
    select new.run_at, new.id, new.lane_id, new.queue_id, new.priority, a.ctid from added a;
    if offstage_private.is_locked(task) then  -- somebody has fallen asleep meanwhile: see wake()
      perform pg_notify('offstage:wake', 'offstage');
    end if;
  end if;
  return (new.id, new.queue_id, new.task_id, new.payload, new.priority, new.run_at, new.attempts,
          coalesce(new.max_attempts, task_attempts, 25), new.last_error, new.added_at, new.updated_at, new.key, null, null, new.revision,
          new.flags, true)::offstage._private_jobs;
end $$;

-- Gives new jobs, which are alike and have no key, their places. Those without a queue share tickets, up to 32 that follow one another without a gap: so nobody else's
-- are between them, the order of all jobs stays what it is, and unshare() finds them.
create or replace function offstage_private.place_alike(
  ids bigint[], ctids tid[], task_id integer, lane_id integer, queue_id integer, priority smallint, run_at timestamptz, at timestamptz) returns void
language plpgsql as $$
declare
  most integer := case when queue_id is null and not offstage_private.serializable() then 32 else 1 end;  -- who leaves a shared ticket reads an index
begin
  if run_at <= at then
    insert into offstage_private.ticket (run_at, job_id, lane_id, queue_id, priority, job_ctid, jobs, job_ids, job_ctids)
    select place_alike.run_at, m.ids[1], place_alike.lane_id, place_alike.queue_id, place_alike.priority, case when m.jobs = 1 then m.ctids[1] end, m.jobs,
      case when m.jobs > 1 then m.ids end, case when m.jobs > 1 then m.ctids end
    from (
      select count(*) as jobs, array_agg(u.id order by u.n) as ids, array_agg(u.job_ctid order by u.n) as ctids
      from unnest(ids, ctids) with ordinality u (id, job_ctid, n)
      group by u.id - u.n, (u.n - 1) / most) m;
    perform offstage_private.wake(task_id);
  else
    insert into offstage_private.scheduled (run_at, job_id, lane_id, queue_id, priority)
    select place_alike.run_at, u.id, place_alike.lane_id, place_alike.queue_id, place_alike.priority from unnest(ids) u (id);
    if run_at < at + interval '3 s' then
      perform pg_notify('offstage:due', 'offstage');
    end if;
  end if;
end $$;

-- Adds many jobs, all or none; ids and rows come in the order of the specs. options has one element a spec, or is
-- null. Specs without job_key go in at once, those with one key by key, in the order of the keys, so that two
-- callers with the same keys cannot deadlock. Raises what add_job raises, 23502 for a null spec and 21000 for a
-- job_key that occurs twice.
create or replace function offstage.add_jobs(
  specs offstage.job_spec[],
  job_key_preserve_run_at boolean default false,
  options json[] default null
) returns setof offstage._private_jobs
language plpgsql as $$
declare
  n integer := coalesce(cardinality(specs), 0);
  at timestamptz := offstage_private.clock();
  ids bigint[];
  task integer;
  task_attempts smallint;
  flag_set jsonb;
  new offstage_private.job;
  one_by_one boolean := offstage_private.serializable();
  most integer := case when one_by_one then 1 else 32 end;  -- as in place_alike()
  tasks jsonb;      -- ids by names
  queues jsonb;
  lanes jsonb;      -- by the task's name and the flags
  defaults jsonb;   -- max_attempts by the task's id
  keyed offstage_private.job[];
  ctids tid[];
  r record;
begin
  if n = 0 then
    return;
  end if;
  if options is not null then
    if cardinality(options) <> n then
      raise invalid_parameter_value using message = format('options has %s elements for %s specs', cardinality(options), n),
        hint = 'Give one element a spec (null for none), or leave options out.';
    end if;
    perform offstage_private.check_options(o) from unnest(options) o where o is not null;
  end if;

  -- Most calls bring jobs of one task that differ in their payloads only, which takes two thirds of the time.
  select count(s.identifier) = n and min(s.identifier) = max(s.identifier) and bool_and(s.queue_name is null and s.job_key is null and coalesce(s.flags, '{}') = '{}')
      and min(coalesce(s.priority, 0)) = max(coalesce(s.priority, 0)) and min(coalesce(s.run_at, now())) = max(coalesce(s.run_at, now())) as alike,
    min(s.identifier) as identifier, min(coalesce(s.priority, 0))::smallint as priority, min(coalesce(s.run_at, now())) as run_at, min(s.max_attempts) as max_attempts
  into r from unnest(specs) s;
  if r.alike then
    task := offstage_private.task_id(r.identifier);
    task_attempts := (offstage_private.task_of(task)).max_attempts;
    perform offstage_private.check_job(null, r.max_attempts, null, null);
    with added as (
      insert into offstage_private.job (id, run_at, added_at, updated_at, task_id, lane_id, priority, max_attempts, payload, options)
      select nextval('offstage_private.job_id'), r.run_at, now(), now(), task, task, r.priority, s.max_attempts, coalesce(s.payload, '{}'), options[s.ord]
      from unnest(specs) with ordinality s (identifier, payload, queue_name, run_at, max_attempts, job_key, priority, flags, ord)
      returning id, ctid
    )
    select array_agg(a.id), array_agg(a.ctid) into ids, ctids from added a;
    perform offstage_private.place_alike(ids, ctids, task, task, null, r.priority, r.run_at, at);
    return query
      select ids[s.ord], null::integer, task, coalesce(s.payload, '{}'), r.priority, r.run_at, 0::smallint, coalesce(s.max_attempts, task_attempts, 25::smallint),
        null::text, now(), now(), null::text, null::timestamptz, null::text, 0, null::jsonb, true
      from unnest(specs) with ordinality s (identifier, payload, queue_name, run_at, max_attempts, job_key, priority, flags, ord)
      order by s.ord;
    return;
  end if;

  for r in
    select s.identifier, s.max_attempts, s.job_key, count(*) over (partition by s.job_key) twice
    from unnest(specs) s
    where s.identifier is null or length(s.identifier) > 128 or s.max_attempts <= 0 or s.job_key is not null
  loop
    if r.identifier is null or length(r.identifier) > 128 then
      perform offstage_private.task_id(r.identifier);  -- raises
    end if;
    perform offstage_private.check_job(r.job_key, r.max_attempts, null, null);
    if r.job_key is not null and r.twice > 1 then
      raise cardinality_violation using message = 'ON CONFLICT DO UPDATE command cannot affect row a second time',
        detail = format('The job_key %L occurs twice.', r.job_key),
        hint = 'Ensure that no two specs of one call have the same job_key.';
    end if;
  end loop;

  -- Names and lanes in their order: two callers that bring the same new ones cannot deadlock. SERIALIZABLE callers look for them one by one.
  select jsonb_object_agg(x.name, coalesce((select t.id from offstage_private.task t where t.name = x.name and not one_by_one), offstage_private.task_id(x.name)))
  into tasks from (select distinct s.identifier from unnest(specs) s order by 1) x (name);
  select jsonb_object_agg(x.name, coalesce((select q.id from offstage_private.queue q where q.name = x.name and not one_by_one), offstage_private.queue_id(x.name)))
  into queues from (select distinct s.queue_name from unnest(specs) s where s.queue_name is not null order by 1) x (name);
  select jsonb_object_agg(x.task || x.flags::text, offstage_private.lane_id((tasks ->> x.task)::integer, x.flags))
  into lanes from (
    select distinct s.identifier, offstage_private.flag_set(s.flags) from unnest(specs) s where cardinality(s.flags) > 0 order by 1, 2
  ) x (task, flags);
  select jsonb_object_agg(x.id, (offstage_private.task_of(x.id::integer)).max_attempts) into defaults from jsonb_each_text(tasks) x (name, id);

  ids := array(select nextval('offstage_private.job_id') from generate_series(1, n));
  for r in
    select s.*, o.ord
    from unnest(specs) with ordinality s (identifier, payload, queue_name, run_at, max_attempts, job_key, priority, flags, ord)
    cross join lateral (select s.ord) o
    where s.job_key is not null order by s.job_key
  loop
    task := tasks ->> r.identifier;
    flag_set := offstage_private.flag_set(r.flags);
    new := offstage_private.new_job(ids[r.ord], task, coalesce((lanes ->> (r.identifier || flag_set::text))::integer, task), (queues ->> r.queue_name)::integer,
      r.payload, r.run_at, r.max_attempts, r.job_key, r.priority, flag_set, null, options[r.ord]);
    new := offstage_private.add_keyed(new, case when job_key_preserve_run_at then 'preserve_run_at' else 'replace' end, r.payload is not null);
    ids[r.ord] := new.id;
    keyed := array_append(keyed, new);
  end loop;

  with added as (
    insert into offstage_private.job (id, run_at, added_at, updated_at, task_id, lane_id, queue_id, priority, max_attempts, payload, flags, options)
    select ids[s.ord], coalesce(s.run_at, now()), now(), now(), (tasks ->> s.identifier)::integer,
      (case when cardinality(s.flags) > 0 then lanes ->> (s.identifier || offstage_private.flag_set(s.flags)::text) else tasks ->> s.identifier end)::integer,
      (queues ->> s.queue_name)::integer, coalesce(s.priority, 0::smallint), s.max_attempts, coalesce(s.payload, '{}'),
      case when cardinality(s.flags) > 0 then offstage_private.flag_set(s.flags) end, options[s.ord]
    from unnest(specs) with ordinality s (identifier, payload, queue_name, run_at, max_attempts, job_key, priority, flags, ord)
    where s.job_key is null
    returning id, run_at, task_id, lane_id, queue_id, priority, ctid
  ), tickets as (
    -- As in place_alike(). Between those that share a ticket there may be others of this call that are not of the same priority and run_at, and none of other calls. Ids
    -- that are the same but for the last ten bits, so that unshare() need not look far.
    insert into offstage_private.ticket (run_at, job_id, lane_id, queue_id, priority, job_ctid, jobs, job_ids, job_ctids)
    select m.run_at, m.ids[1], m.lane_id, m.queue_id, m.priority, case when m.jobs = 1 then m.ctids[1] end, m.jobs,
      case when m.jobs > 1 then m.ids end, case when m.jobs > 1 then m.ctids end
    from (
      select a.run_at, a.lane_id, a.queue_id, a.priority, count(*) as jobs, array_agg(a.id order by a.id) as ids, array_agg(a.ctid order by a.id) as ctids
      from (
        select a.*, row_number() over (order by a.id) as n, row_number() over (partition by a.priority, a.run_at order by a.id) as turn,
          row_number() over (partition by a.priority, a.run_at, a.lane_id, a.queue_id order by a.id) as position
        from added a where a.run_at <= at
      ) a
      group by a.priority, a.run_at, a.lane_id, a.queue_id, a.id - a.n, a.id >> 10, a.turn - a.position, (a.position - 1) / case when a.queue_id is null then most else 1 end) m
  ), later as (
    insert into offstage_private.scheduled (run_at, job_id, lane_id, queue_id, priority)
    select a.run_at, a.id, a.lane_id, a.queue_id, a.priority from added a where a.run_at > at
  )
  select bool_or(a.run_at > at and a.run_at < at + interval '3 s'), array_agg(distinct a.task_id) filter (where a.run_at <= at)
  into r from added a;
  if r.bool_or then
    perform pg_notify('offstage:due', 'offstage');
  end if;
  perform offstage_private.wake(t) from unnest(r.array_agg) t;  -- equal notifications of a transaction are sent once

  -- Reads no job again: two SERIALIZABLE callers do not disturb each other.
  return query
    select x.id, x.queue_id, x.task_id, x.payload, x.priority, x.run_at, x.attempts, x.max_attempts, x.last_error, x.added_at, x.updated_at, x.key,
      null::timestamptz, null::text, x.revision, x.flags, true
    from (
      select s.ord, ids[s.ord] as id, (queues ->> s.queue_name)::integer as queue_id, (tasks ->> s.identifier)::integer as task_id, coalesce(s.payload, '{}') as payload,
        coalesce(s.priority, 0::smallint) as priority, coalesce(s.run_at, now()) as run_at, 0::smallint as attempts,
        coalesce(s.max_attempts, (defaults ->> (tasks ->> s.identifier))::smallint, 25::smallint) as max_attempts, null::text as last_error, now() as added_at, now() as updated_at,
        null::text as key, 0 as revision, case when s.flags is not null then offstage_private.flag_set(s.flags) end as flags
      from unnest(specs) with ordinality s (identifier, payload, queue_name, run_at, max_attempts, job_key, priority, flags, ord)
      where s.job_key is null
      union all
      select i.ord, k.id, k.queue_id, k.task_id, k.payload, k.priority, k.run_at, k.attempts,
        coalesce(k.max_attempts, (defaults ->> k.task_id::text)::smallint, 25::smallint), k.last_error, k.added_at, k.updated_at, k.key, k.revision, k.flags
      from unnest(keyed) k
      join unnest(ids) with ordinality i (id, ord) on i.id = k.id
    ) x order by x.ord;
end $$;

-- Adds one job for each element of a JSON array of payloads, all alike otherwise, and answers their ids in that order: the
-- fast way to add in bulk. Arguments as in add_job; no keys. Raises what add_job raises, and 22023 when payloads is no array.
create or replace function offstage.add_many(
  identifier text,
  payloads json,
  queue_name text default null,
  run_at timestamptz default null,
  max_attempts integer default null,
  priority integer default null,
  flags text[] default null,
  options json default null
) returns bigint[]
language plpgsql as $$
declare
  task integer := offstage_private.task_id(identifier);
  queue integer;
  flag_set jsonb := offstage_private.flag_set(flags);
  lane integer;
  due timestamptz := coalesce(run_at, now());
  at timestamptz := offstage_private.clock();
  ids bigint[];
  ctids tid[];
begin
  if json_typeof(payloads) is distinct from 'array' then
    raise invalid_parameter_value using message = format('payloads must be a JSON array, not %s', coalesce(json_typeof(payloads), 'null')),
      hint = 'One element a job, such as [{"to": "a@example.com"}, {"to": "b@example.com"}].';
  end if;
  perform offstage_private.check_job(null, max_attempts, null, options);
  if queue_name is not null then
    queue := offstage_private.queue_id(queue_name);
  end if;
  lane := offstage_private.lane_id(task, flag_set);
  with added as (
    insert into offstage_private.job (id, run_at, added_at, updated_at, task_id, lane_id, queue_id, priority, max_attempts, payload, flags, options)
    select nextval('offstage_private.job_id'), due, now(), now(), task, lane, queue, coalesce(add_many.priority, 0), add_many.max_attempts, p.payload,
      flag_set, add_many.options
    from json_array_elements(payloads) p (payload)
    returning id, ctid
  )
  select array_agg(a.id), array_agg(a.ctid) into ids, ctids from added a;
  if ids is null then
    return '{}';
  end if;
  perform offstage_private.place_alike(ids, ctids, task, lane, queue, coalesce(add_many.priority, 0)::smallint, due, at);
  return ids;
end $$;

-- Takes the job with this key away. A running one keeps running, loses its key and will not be tried again.
-- A row of nulls: no such job. Waits for a caller that is changing the job with this key; of one that is adding the first job under it, it sees nothing
-- until that one commits (in SERIALIZABLE it waits, and raises 40001).
create or replace function offstage.remove_job(job_key text) returns offstage._private_jobs
language plpgsql strict as $$
declare
  found_job record;
  j offstage_private.job;
  t offstage_private.task;
begin
  if offstage_private.serializable() then
    select * into found_job from offstage_private.job_apart(null, job_key);
  else
    select o.ctid as at, o as job into found_job from offstage_private.job o where o.key = job_key for update;
  end if;
  if found_job.at is null then
    return row (null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null)::offstage._private_jobs;
  end if;
  j := found_job.job;
  t := offstage_private.task_of(j.task_id);
  if j.failed or offstage_private.unplace(j) then
    delete from offstage_private.job o where o.ctid = found_job.at;
    perform offstage_private.ended(j, t, 'removed', null);
    return offstage_private.job_row(j, t);
  end if;
  update offstage_private.job o
  set key = null, attempts = offstage_private.attempts_of(j, t) - 1, updated_at = now() where o.ctid = found_job.at returning o.* into j;
  return offstage_private.job_row(j, t);
end $$;
