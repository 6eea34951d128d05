-- Stage 8: schedule, promote. Chores: every worker calls them; the one that gets the advisory lock works.

-- Gives tickets to the jobs whose time has come (at most max_jobs), and passes on the turn of queues whose ticket was
-- taken away. n counts them, next_at is when to come again at the latest: call again at once when n = max_jobs.
-- No row: another worker is at it. Locks scheduled rows (skip locked), then queues by id.
--
-- recent: only jobs whose time has come within so long, or comes: a look at all of them steps over the index entries of those that are gone, as long as no vacuum
-- may remove them. Give it the time since the last look and some more. What a transaction held for longer, or committed later, is left to a look at all of them.
create or replace function offstage.promote(max_jobs integer default 1000, recent interval default null) returns table (n integer, next_at timestamptz)
language plpgsql
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off
as $$
declare
  at timestamptz := offstage_private.clock();
  since timestamptz := coalesce(at - recent, '-infinity');
  due integer[];
begin
  if not pg_try_advisory_xact_lock(hashtext('offstage'), -1) then
    return;
  end if;
  with gone as (
    delete from offstage_private.scheduled s
    where s.ctid = any (array(
      select d.ctid from offstage_private.scheduled d where d.run_at between since and at order by d.run_at, d.job_id limit max_jobs for update skip locked))
    returning s.*
  ), given as (
    insert into offstage_private.ticket (run_at, job_id, lane_id, queue_id, priority)
    select g.run_at, g.job_id, g.lane_id, g.queue_id, g.priority from gone g returning 1
  )
  select count(*) into n from given;

  with gone as (
    delete from offstage_private.handover h
    where h.ctid = any (array(
      select d.ctid from offstage_private.handover d where d.due_at <= at order by d.id limit max_jobs for update skip locked))
    returning h.queue_id
  )
  select array_agg(distinct g.queue_id) into due from gone g;
  if due is not null then
    perform 1 from offstage_private.queue q where q.id = any (due) order by q.id for update;
    perform offstage_private.hand_over(due);
  end if;
  if n > 0 or due is not null then  -- what stands behind a ticket that was taken away has tickets, too
    perform pg_notify('offstage:wake', 'offstage');
  end if;
  -- (min() of a table that was empty when the plan was made reads all of it.)
  select least((select s.run_at from offstage_private.scheduled s where s.run_at >= since order by s.run_at, s.job_id limit 1), (select min(h.due_at) from offstage_private.handover h)) into next_at;
  return next;
end $$;

-- Checks a cron expression as internal/cron reads it, so that whoever writes SQL hears of a mistake at once, and answers it with
-- single spaces. Raises 22023.
create or replace function offstage_private.check_expression(expression text) returns text
language plpgsql immutable as $$
declare
  kinds constant text[] := '{seconds,minutes,hours,dates,months,days of week}';
  lowest constant integer[] := '{0,0,0,1,1,0}';
  highest constant integer[] := '{59,59,23,31,12,7}';
  fields text[] := array_remove(regexp_split_to_array(expression,  -- at what JavaScript takes for white space
    '[\t-\r \u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff]+'), '');
  first_kind integer := 7 - cardinality(fields);
  part text;
begin
  if octet_length(array_to_string(fields, ' ')) > 768 then
    raise invalid_parameter_value using message = 'the expression has more than 768 bytes', hint = 'Write lists as ranges.';
  elsif fields[1] like '@%' and cardinality(fields) = 1 then
    if lower(fields[1] collate "C") not in ('@hourly', '@daily', '@midnight', '@weekly', '@monthly', '@yearly', '@annually') then
      raise invalid_parameter_value using message = format('the expression %L is not known', expression),
        hint = 'Use @hourly, @daily, @midnight, @weekly, @monthly, @yearly, @annually, or five fields.';
    end if;
  elsif cardinality(fields) not in (5, 6) then
    raise invalid_parameter_value using message = format('the expression %L has %s field(s), 5 or 6 are needed', expression, cardinality(fields)),
      hint = 'Expected minute, hour, day of month, month, day of week, such as "30 4 * * MON-FRI"; six fields begin with seconds.';
  else
    for i in 1 .. cardinality(fields) loop
      foreach part in array string_to_array(fields[i], ',') loop
        perform offstage_private.check_part(part, kinds[first_kind + i - 1], lowest[first_kind + i - 1], highest[first_kind + i - 1]);
      end loop;
    end loop;
  end if;
  return array_to_string(fields, ' ');
end $$;

-- Checks one part of a list: *, */n, a, a-b or a-b/n. Raises 22023.
create or replace function offstage_private.check_part(part text, kind text, lowest integer, highest integer) returns void
language plpgsql immutable as $$
declare
  names constant text[] := case kind when 'months' then '{jan,feb,mar,apr,may,jun,jul,aug,sep,oct,nov,dec}'::text[]
    when 'days of week' then '{sun,mon,tue,wed,thu,fri,sat}' end;
  m text[] := regexp_match(part, '^(?:\*|([0-9]+|[A-Za-z]{3})(?:-([0-9]+|[A-Za-z]{3}))?)(?:/([0-9]+))?$');
  v float8[] := array(  -- first, last, step, as JavaScript reads them
    select case when x ~ '^[0-9]' then case when x::numeric < 1.7976931348623158e308 then x::float8 else 'Infinity' end
      else array_position(names, lower(x collate "C")) + lowest - 1 end
    from unnest(m) with ordinality u (x, n) order by n);
begin
  if m is null or m[3] is not null and m[1] is not null and m[2] is null or m[1] is not null and v[1] is null or m[2] is not null and v[2] is null then
    raise invalid_parameter_value using message = format('the part %L of the %s is not understood', part, kind),
      hint = 'Expected a number, a range a-b, *, */n or a-b/n; months may be called JAN to DEC, days of the week SUN to SAT.';
  end if;
  if lower(m[2] collate "C") = 'sun' and v[1] > 0 then
    v[2] := 7;
  end if;
  if v[2] <= v[1] then
    raise invalid_parameter_value using message = format('the range %L of the %s does not go up', part, kind), hint = 'Write two parts, such as 22-23,0-5.';
  elsif v[3] < 1 then
    raise invalid_parameter_value using message = format('the step of %L, of the %s, is zero', part, kind);
  end if;
  if v[1] not between lowest and highest or v[3] < 100 and v[1] + floor((v[2] - v[1]) / v[3]) * v[3] > highest or v[3] >= 100 and v[1] + v[3] <= v[2]
    or v[3] is null and v[2] > highest then  -- the last one that the steps hit counts
    raise invalid_parameter_value using message = format('%L goes beyond the range of %s, %s to %s', part, kind, lowest, highest);
  end if;
end $$;

-- A time zone by its name, such as Europe/Berlin. Raises 22023.
create or replace function offstage_private.check_zone(zone text) returns void
language plpgsql stable as $$
begin
  -- The view reads a file for each zone there is: not for one that is in use already.
  if zone = 'UTC' or exists (select from offstage_private.schedule s where s.zone = check_zone.zone) then
    return;
  end if;
  if zone ~ '^(posix|right)/|^(localtime|posixrules|Factory)$' or not exists (select from pg_timezone_names z where z.name = check_zone.zone) then
    raise invalid_parameter_value using message = format('the time zone %L is not known', zone),
      hint = 'Expected a name such as Europe/Berlin; select name from pg_timezone_names.';
  end if;
end $$;

-- A time with its offset, or one of the zone's clocks; of a date its first moment, or, as the last one, its last second.
create or replace function offstage_private.moment(text text, zone text, is_last boolean) returns timestamptz
language sql stable as $$
  select case
    when text ~ ':.*(Z|[+-]\d\d(:?\d\d)?)$' then text::timestamptz
    when is_last and text !~ ':' then (text::timestamp + interval '1 day') at time zone zone - interval '1 s'
    else text::timestamp at time zone zone
  end
$$;

-- A schedule as a row, of what people give. Raises 22023, 23502, 23514, 22003, 22007 for what cannot be a schedule.
create or replace function offstage_private.new_schedule(source text, name text, task text, expression text, payload json, options json)
returns offstage_private.schedule
language plpgsql as $$
declare
  s offstage_private.schedule;
  at timestamptz := offstage_private.clock();
  wrong text;
begin
  if length(name) between 1 and 128 is not true then
    raise invalid_parameter_value using message = format('the name of a schedule has 1 to 128 characters, not %s', coalesce(length(name), 0));
  elsif length(task) between 1 and 128 is not true then
    raise invalid_parameter_value using message = format('schedule %L: the task has 1 to 128 characters, not %s', name, coalesce(length(task), 0));
  elsif json_typeof(payload) not in ('object', 'null') then
    raise invalid_parameter_value using message = format('schedule %L: the payload must be a JSON object, not %s', name, json_typeof(payload)),
      hint = 'Each job gets it with "_cron" in it, which names the tick.';
  elsif expression is null then
    raise invalid_parameter_value using message = format('schedule %L: the expression is missing', name);
  end if;
  if options is null or json_typeof(options) = 'null' then
    options := '{}';
  elsif json_typeof(options) <> 'object' then
    raise invalid_parameter_value using message = format('schedule %L: options must be a JSON object, not %s', name, json_typeof(options));
  end if;
  select k into wrong from json_object_keys(options) k
  where k not in ('tz', 'queue_name', 'max_attempts', 'priority', 'job_key', 'job_key_mode', 'jitter', 'from', 'until', 'overlap', 'catchup', 'fill') limit 1;
  if found then
    raise invalid_parameter_value using message = format('schedule %L: options has the unknown key %L', name, wrong),
      hint = 'Known keys: tz, queue_name, max_attempts, priority, job_key, job_key_mode, jitter, from, until, overlap, catchup, fill.';
  end if;
  s.source := source; s.name := name; s.task := task; s.expression := offstage_private.check_expression(expression);
  s.payload := case json_typeof(payload) when 'object' then payload end;
  s.zone := coalesce(options ->> 'tz', 'UTC');
  s.queue_name := options ->> 'queue_name';
  s.max_attempts := options ->> 'max_attempts';
  s.priority := options ->> 'priority';
  s.job_key := options ->> 'job_key';
  s.job_key_mode := options ->> 'job_key_mode';
  s.jitter := coalesce(options ->> 'jitter', '0');
  if source = 'database' then
    perform offstage_private.check_zone(s.zone);
  end if;
  s.from_at := offstage_private.moment(options ->> 'from', s.zone, false);
  s.until_at := offstage_private.moment(options ->> 'until', s.zone, true);
  s.overlap := coalesce(options ->> 'overlap', 'allow');
  s.catchup := options ->> 'catchup';
  s.fill := options ->> 'fill';
  perform offstage_private.check_job(s.job_key, s.max_attempts, null, null);
  wrong := case
    when length(s.queue_name) > 128 then 'queue_name has more than 128 characters'
    when s.job_key_mode not in ('replace', 'preserve_run_at') then format('job_key_mode is %L; expected replace or preserve_run_at', s.job_key_mode)
    when s.job_key_mode is not null and s.job_key is null then 'job_key_mode goes with job_key'
    when s.jitter < interval '0' or s.jitter > interval '36500 days' then format('jitter is %s; expected nothing to 36500 days', s.jitter)
    when s.fill < interval '0' or s.fill > interval '36500 days' then format('fill is %s; expected nothing to 36500 days', s.fill)
    when s.overlap not in ('allow', 'skip') then format('overlap is %L; expected allow or skip', s.overlap)
    when s.catchup !~ '^(none|one|all|[1-9][0-9]{0,2}|1000)$' then format('catchup is %L; expected none, one, all, or a number up to 1000', s.catchup)
    when s.catchup is not null and s.fill is not null then 'fill and catchup exclude each other'
    when s.until_at < s.from_at then 'until is before from'
  end;
  if wrong is not null then
    raise invalid_parameter_value using message = format('schedule %L: %s', name, wrong);
  end if;
  s.paused := false; s.revision := 0; s.known_at := at; s.due_at := at; s.ticks := 0; s.skipped := 0; s.failures := 0; s.updated_at := at;
  s.seen_at := case when source <> 'database' then at end;
  return s;
end $$;

-- The schedule of this name, locked, and where it is; of nulls if there is none.
create or replace function offstage_private.locked_schedule(of_name text, out at tid, out was offstage_private.schedule)
language plpgsql as $$
declare
  found_schedule record;
begin
  if offstage_private.serializable() and of_name is not null then
    insert into offstage_private.schedule as s (id, name, source, task, expression, zone, jitter, overlap, known_at, due_at, updated_at) overriding system value
    values (- pg_backend_pid(), of_name, 'database', '', '', '', '0', 'allow', now(), now(), now())
    on conflict (name) do update set revision = s.revision returning s.ctid, s as schedule into found_schedule;
    if (found_schedule.schedule).id < 0 then
      delete from offstage_private.schedule s where s.ctid = found_schedule.ctid;
      return;
    end if;
  else
    select s.ctid, s as schedule into found_schedule from offstage_private.schedule s where s.name = of_name for update;
    if not found then
      return;
    end if;
  end if;
  at := found_schedule.ctid;
  was := found_schedule.schedule;
end $$;

-- Adds a schedule, or changes the one of that name, which keeps its last tick. A name belongs to the database, to crontab files
-- or to programs; from the latter two it is free again when no worker has had it for two minutes. Waits for whoever changes
-- the same one. Locks its row. Answers what was there (nulls: nothing), and what is. Raises 55006 where the name is another's.
create or replace function offstage_private.put_schedule(new offstage_private.schedule, out old offstage_private.schedule, out now offstage_private.schedule)
language plpgsql as $$
declare
  found_schedule record;
  same_times boolean;
begin
  loop
    found_schedule := offstage_private.locked_schedule(new.name);
    exit when found_schedule.at is not null;
    insert into offstage_private.schedule (name, source, task, expression, zone, payload, queue_name, max_attempts, priority, job_key, job_key_mode,
      jitter, from_at, until_at, overlap, catchup, fill, known_at, due_at, seen_at, updated_at)
    values (new.name, new.source, new.task, new.expression, new.zone, new.payload, new.queue_name, new.max_attempts, new.priority, new.job_key,
      new.job_key_mode, new.jitter, new.from_at, new.until_at, new.overlap, new.catchup, new.fill, new.known_at, new.due_at, new.seen_at, new.updated_at)
    on conflict on constraint schedule_name_key do nothing returning * into now;
    if found then
      perform pg_notify('offstage:schedule', 'offstage');
      return;
    end if;
  end loop;
  old := found_schedule.was;
  if old.source <> new.source and (old.source = 'database' or old.seen_at > new.updated_at - interval '2 min') then
    raise object_in_use using message = format('there is a schedule %L already, and it comes from %s', new.name, offstage_private.source_name(old.source)),
      hint = case old.source when 'database' then 'Choose another name, or remove that one: select offstage.remove_schedule(…).'
        else 'Choose another name, or take it out there; two minutes after the last worker has let go of it, the name is free.' end;
  end if;
  same_times := (old.expression, old.zone, old.from_at, old.until_at) is not distinct from (new.expression, new.zone, new.from_at, new.until_at);
  if same_times and (old.source, old.task, old.payload::text, old.queue_name, old.max_attempts, old.priority, old.job_key, old.job_key_mode,
      old.jitter, old.overlap, old.catchup, old.fill)
    is not distinct from (new.source, new.task, new.payload::text, new.queue_name, new.max_attempts, new.priority, new.job_key, new.job_key_mode,
      new.jitter, new.overlap, new.catchup, new.fill) then
    update offstage_private.schedule s set seen_at = new.seen_at where s.ctid = found_schedule.at returning * into now;
    return;
  end if;
  update offstage_private.schedule s set
    source = new.source, task = new.task, expression = new.expression, zone = new.zone, payload = new.payload, queue_name = new.queue_name,
    max_attempts = new.max_attempts, priority = new.priority, job_key = new.job_key, job_key_mode = new.job_key_mode, jitter = new.jitter,
    from_at = new.from_at, until_at = new.until_at, overlap = new.overlap, catchup = new.catchup, fill = new.fill,
    revision = s.revision + 1, failures = 0, error = null, seen_at = new.seen_at, updated_at = new.updated_at,
    known_at = case when same_times then s.known_at else new.known_at end,
    next_at = case when same_times then s.next_at end,
    due_at = case when same_times then coalesce(s.next_at, new.due_at) else new.due_at end
  where s.ctid = found_schedule.at returning * into now;
  perform pg_notify('offstage:schedule', 'offstage');
end $$;

create or replace function offstage_private.source_name(source text) returns text
language sql immutable as $$ select case source when 'crontab' then 'a crontab file' when 'program' then 'a program' else 'the database' end $$;

-- What is set on a schedule, for the audit.
create or replace function offstage_private.schedule_json(s offstage_private.schedule) returns json
language sql stable as $$
  select json_strip_nulls(json_build_object('task', s.task, 'expression', s.expression, 'tz', s.zone, 'payload', s.payload, 'queue_name', s.queue_name,
    'max_attempts', s.max_attempts, 'priority', s.priority, 'job_key', s.job_key, 'job_key_mode', s.job_key_mode, 'jitter', s.jitter, 'from', s.from_at,
    'until', s.until_at, 'overlap', s.overlap, 'catchup', s.catchup, 'fill', s.fill))
$$;

-- Adds a schedule, or changes the one of that name: at each time that the cron expression names, a job of the task is added.
-- The payload is an object; each job's has "_cron": {"ts": …, "backfilled": …} in it besides. options are described in
-- docs/schedules.md: tz, queue_name, max_attempts, priority, job_key, job_key_mode, jitter, from, until, overlap, catchup, fill;
-- what is left out takes its default, also in a change. Raises 22023 for what is wrong, 55006 for a name that comes from a file
-- or program.
create or replace function offstage.add_schedule(name text, task text, expression text, payload json default null, options json default null)
returns void
language plpgsql as $$
declare
  s record := offstage_private.put_schedule(offstage_private.new_schedule('database', name, task, expression, payload, options));
  old json := case when (s.old).id is not null then offstage_private.schedule_json(s.old) end;
  new json := offstage_private.schedule_json(s.now);
begin
  if old::text is distinct from new::text then
    perform offstage_private.note(case when old is null then 'add' else 'change' end, 'schedule ' || name, null, old, new, null);
  end if;
end $$;

-- The same for who needs one. Raises OS002 when there is none.
create or replace function offstage_private.schedule_named(name text, out at tid, out was offstage_private.schedule)
language plpgsql as $$
declare
  s record := offstage_private.locked_schedule(name);
begin
  if s.at is null then
    raise exception using errcode = 'OS002', message = format('there is no schedule %L', name), hint = 'select name from offstage.schedules';
  end if;
  at := s.at;
  was := s.was;
end $$;

-- Removes a schedule; jobs that it has added stay. One that a worker still has in its file or program is to be taken out there:
-- raises 55006. Raises OS002 for an unknown name.
create or replace function offstage.remove_schedule(name text) returns void
language plpgsql as $$
declare
  s record := offstage_private.schedule_named(name);
begin
  if (s.was).source <> 'database' and (s.was).seen_at > offstage_private.clock() - interval '2 min' then
    raise object_in_use using message = format('schedule %L comes from %s, and would come back', name, offstage_private.source_name((s.was).source)),
      hint = 'Take it out there, or pause it: select offstage.pause_schedule(…).';
  end if;
  perform offstage_private.note('remove', 'schedule ' || name, null, offstage_private.schedule_json(s.was), null, null);
  delete from offstage_private.schedule o where o.ctid = s.at;
end $$;

-- Stops a schedule, wherever it comes from, until it is resumed. Raises OS002 for an unknown name.
create or replace function offstage.pause_schedule(name text) returns void
language plpgsql as $$
declare
  s record := offstage_private.schedule_named(name);
begin
  if not (s.was).paused then
    update offstage_private.schedule o set paused = true, revision = o.revision + 1 where o.ctid = s.at;
    perform offstage_private.note('pause', 'schedule ' || name, null, null, null, null);
  end if;
end $$;

-- Lets a paused schedule go on from now: what would have come meanwhile is not made up for. Raises OS002 for an unknown name.
create or replace function offstage.resume_schedule(name text) returns void
language plpgsql as $$
declare
  s record := offstage_private.schedule_named(name);
  moment timestamptz := offstage_private.clock();
begin
  if (s.was).paused then
    update offstage_private.schedule o set paused = false, revision = o.revision + 1, known_at = moment, next_at = null, due_at = moment, failures = 0, error = null
    where o.ctid = s.at;
    perform pg_notify('offstage:schedule', 'offstage');
    perform offstage_private.note('resume', 'schedule ' || name, null, null, null, null);
  end if;
end $$;

-- Adds the job of a schedule now, beside its ticks, whether it is paused or not; answers the job's id. With overlap skip, the
-- next tick waits for this one, too. Raises OS002 for an unknown name.
create or replace function offstage.run_schedule(name text) returns bigint
language plpgsql as $$
declare
  s record := offstage_private.schedule_named(name);
  added bigint := offstage_private.add_tick(s.was, date_trunc('milliseconds', offstage_private.clock()), interval '0', false);
begin
  update offstage_private.schedule o set last_job_id = added where o.ctid = s.at;
  perform offstage_private.note('run', 'schedule ' || name, array[added], null, null, null);
  return added;
end $$;

-- Adds the job of one tick, as graphile_worker does; the jitter is part of its time. The same tick has the same delay wherever and
-- whenever it is added.
create or replace function offstage_private.add_tick(s offstage_private.schedule, tick timestamptz, jitter interval, backfilled boolean) returns bigint
language sql volatile as $$
  select j.id from offstage.add_job(
    s.task,
    (select json_object_agg(p.key, p.value order by p.n) from (
       select e.key, e.value, e.n from json_each(coalesce(s.payload, '{}')) with ordinality e (key, value, n) where e.key <> '_cron'
       union all
       select '_cron', json_build_object('ts', to_char(tick at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'), 'backfilled', backfilled), null
     ) p),
    s.queue_name,
    tick + jitter * (('x' || left(md5(s.name || extract(epoch from tick)::bigint), 8))::bit(32)::bigint / 4294967296.0::float8),
    s.max_attempts, s.job_key, s.priority, null, coalesce(s.job_key_mode, 'replace')) j
$$;

-- Schedules that a worker has to look at, the longest due first: those of the database, and those in its own file or program, by
-- their names. Ticks count from since, exclusively; next_at is the first that was not added, null where it was not computed.
-- looks_at is when to come again at the latest; with no row for a schedule there is one row with name null, that says so.
-- No row: another worker is at it. Reads only; the advisory lock lasts as long as the caller's transaction, which is to tick.
create or replace function offstage.due_schedules(names text[] default null, max_schedules integer default 100)
returns table (
  at timestamptz, looks_at timestamptz, schedule_id integer, name text, revision integer, expression text, zone text, from_at timestamptz,
  until_at timestamptz, catchup text, fill interval, next_at timestamptz, since timestamptz
)
language plpgsql
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off
as $$
begin
  if not pg_try_advisory_xact_lock(hashtext('offstage'), -8) then
    return;
  end if;
  at := offstage_private.clock();
  select min(s.due_at) into looks_at from (
    select o.due_at from offstage_private.schedule o
    where not o.paused and o.due_at > at and o.due_at < 'infinity' and (o.source = 'database' or o.name = any (names)) order by o.due_at limit 1) s;
  return query
    select due_schedules.at, due_schedules.looks_at, d.id, d.name, d.revision, d.expression, d.zone, d.from_at, d.until_at, d.catchup, d.fill, d.next_at,
      greatest(d.known_at, d.last_tick)
    from (select) x left join (
      select s.* from offstage_private.schedule s
      where not s.paused and s.due_at <= due_schedules.at and (s.source = 'database' or s.name = any (names))
      order by s.due_at limit max_schedules
    ) d on true;
end $$;

-- Moves a schedule on from the tick was_next to next (null: there will be none), and adds the jobs of the ticks between, the first
-- of them backfilled. Fenced by revision and was_next: of all who try, one does it. Answers ticked; lost: somebody has done
-- it, or the schedule was changed; busy: somebody is changing it; failed: adding raised, which is in the schedule's error, and
-- the ticks are due again after a pause. Locks the schedule (skip locked), then what add_job locks, for which it waits half a
-- second at most.
create or replace function offstage.tick_schedule(
  schedule_id integer, revision integer, was_next timestamptz, next timestamptz, ticks timestamptz[], backfilled integer default 0
) returns text
language plpgsql
set jit = off set plan_cache_mode = force_generic_plan set lock_timeout = '500ms'
as $$
declare
  s offstage_private.schedule;
  tick timestamptz;
  n integer := 0;
begin
  select o.* into s from offstage_private.schedule o where o.id = schedule_id for update skip locked;
  if not found then
    return case when exists (select from offstage_private.schedule o where o.id = schedule_id) then 'busy' else 'lost' end;
  elsif s.paused or s.revision <> tick_schedule.revision or s.next_at is distinct from was_next then
    return 'lost';
  end if;
  begin
    foreach tick in array ticks loop
      n := n + 1;
      continue when tick <= s.last_tick;
      if s.overlap = 'skip' and exists (select from offstage_private.job j where j.id = s.last_job_id and not j.failed) then
        s.skipped := s.skipped + 1;
      else
        s.last_job_id := offstage_private.add_tick(s, tick, s.jitter, n <= backfilled);
        s.ticks := s.ticks + 1;
      end if;
      s.last_tick := tick;
    end loop;
  exception
    when lock_not_available then
      perform offstage_private.failed_tick(s.id, 'an open transaction holds the job_key of its job, or has just made its task or queue');
      return 'failed';
    when others then
      perform offstage_private.failed_tick(s.id, sqlerrm);
      return 'failed';
  end;
  update offstage_private.schedule o set
    next_at = coalesce(next, 'infinity'), due_at = coalesce(next, 'infinity'), last_tick = s.last_tick, last_job_id = s.last_job_id, ticks = s.ticks,
    skipped = s.skipped, failures = 0, error = null
  where o.id = s.id;
  return 'ticked';
end $$;

-- Notes why a schedule could not be ticked; it is due again after a second, two, four … up to a minute. The caller has locked it.
create or replace function offstage_private.failed_tick(schedule_id integer, why text) returns void
language sql as $$
  update offstage_private.schedule s
  set error = why, failures = s.failures + 1, due_at = offstage_private.clock() + least(60, 2 ^ least(s.failures, 6)) * interval '1 s'
  where s.id = schedule_id
$$;

-- Notes that a worker cannot make anything of a schedule. False: it was changed since, or somebody is changing it.
create or replace function offstage.schedule_failed(schedule_id integer, revision integer, error text) returns boolean
language plpgsql as $$
begin
  perform from offstage_private.schedule s where s.id = schedule_id and s.revision = schedule_failed.revision for update skip locked;
  if found then
    perform offstage_private.failed_tick(schedule_id, error);
    return true;
  end if;
  return false;
end $$;

-- Registers what a worker has in its crontab file, or what its program says: source is crontab or program, items is
-- [{"name", "task", "expression", "payload", "options"}], as the arguments of add_schedule. Answers those that were refused,
-- and why; the others hold. Locks schedules, by their names.
create or replace function offstage.sync_schedules(source text, items json) returns table (name text, error text)
language plpgsql
set lock_timeout = '1s'
as $$
declare
  item json;
begin
  if source not in ('crontab', 'program') then
    raise invalid_parameter_value using message = format('the source is %L', source), hint = 'Expected crontab or program.';
  end if;
  for item in select e from json_array_elements(items) e order by e ->> 'name' loop
    begin
      perform offstage_private.put_schedule(offstage_private.new_schedule(
        source, item ->> 'name', item ->> 'task', item ->> 'expression', item -> 'payload', item -> 'options'));
    exception when others then
      name := item ->> 'name';
      error := sqlerrm;
      return next;
    end;
  end loop;
end $$;

-- Says once a minute that a worker still has these schedules in its file or program, and forgets those that no worker has
-- had for 30 days. Locks them by id, skip locked.
create or replace function offstage.saw_schedules(names text[]) returns void
language plpgsql
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
declare
  at timestamptz := offstage_private.clock();
  old integer[] := array(
    select o.id from unnest(names) n cross join lateral (select k.id, k.seen_at from offstage_private.schedule k where k.name = n limit 1) o
    where o.seen_at < at - interval '50 s');
begin
  update offstage_private.schedule s set seen_at = at
  where s.id = any (array(select o.id from offstage_private.schedule o where o.id = any (old) order by o.id for update skip locked));
  delete from offstage_private.schedule s
  where s.id = any (array(select o.id from offstage_private.schedule o where o.seen_at < at - interval '30 days' limit 1000 for update skip locked));
end $$;

-- All schedules. next_at is null when there is no tick to come, or none is known because no worker has seen it yet; seen_at is when
-- a worker has last had it in its file or program. The state of the last job is its outcome where it has ended.
create or replace view offstage.schedules as
  select s.name, s.task, s.expression, s.zone as time_zone, s.source, s.paused,
    case when not s.paused and s.next_at < 'infinity' then s.next_at end as next_at, s.last_tick, s.last_job_id,
    coalesce(  -- job_status() of it, without a call for each
      (select offstage_private.state_of(j) from offstage_private.job j where j.id = s.last_job_id),
      (select h.outcome from offstage_private.history h
       where h.job_id = s.last_job_id and h.outcome in ('succeeded', 'failed', 'cancelled', 'removed', 'completed')
       order by h.settled_at + interval '0' desc limit 1)) as last_state,
    s.error, s.ticks, s.skipped, s.payload, s.queue_name, s.max_attempts, s.priority, s.job_key, s.job_key_mode, s.jitter, s.from_at, s.until_at,
    s.overlap, s.catchup, s.fill, s.seen_at, s.updated_at,
    s.due_at < offstage_private.clock() - interval '1 min' and not s.paused as overdue
  from offstage_private.schedule s;
