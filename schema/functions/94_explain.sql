-- Why a job is not running, or what it is doing, and what to do about it.

-- A command, in the text of a remedy: in backticks, as in Markdown, one more than there are in the command.
create or replace function offstage_private.code(command text) returns text
language sql immutable as $$
  select f.fence || command || f.fence
  from (select repeat('`', 1 + coalesce((select max(length(m.run[1])) from regexp_matches(command, '(`+)', 'g') m (run)), 0)) as fence) f
$$;

-- A command line of the program with this schema.
create or replace function offstage_private.cli(arguments text) returns text
language sql immutable as $$
  select offstage_private.code(lower('OFFSTAGE') || ' ' || arguments || case when 'offstage' <> lower('OFFSTAGE') then ' --schema offstage' else '' end)
$$;

-- An argument of a command line.
create or replace function offstage_private.shell(argument text) returns text
language sql immutable as $$
  select case when argument ~ '^[A-Za-z0-9_./:@%+,][A-Za-z0-9_./:@%+,-]*$' then argument else '''' || replace(argument, '''', '''\''''') || '''' end
$$;

-- Two ways to do the same.
create or replace function offstage_private.either(sql text, arguments text) returns text
language sql immutable as $$ select offstage_private.code(format('select %s;', sql)) || ' or: ' || offstage_private.cli(arguments) $$;

-- A time in a sentence: to the second, in UTC wherever it is read.
create or replace function offstage_private.moment(at timestamptz) returns text
language sql stable as $$
  select case when isfinite(at) then to_char(at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS') || ' UTC' else at::text end
$$;

-- "1 job", "7 jobs", "10,000 or more jobs".
create or replace function offstage_private.some_jobs(n bigint, most bigint default 10000) returns text
language sql immutable as $$
  select case when n = 1 then '1 job' when n >= most then trim(to_char(most, '999,999')) || ' or more jobs' else n || ' jobs' end
$$;

-- "1 slot", "7 slots".
create or replace function offstage_private.plural(n bigint, noun text) returns text
language sql immutable as $$ select n || ' ' || noun || case when n = 1 then '' else 's' end $$;

-- How long something takes, as people say it: "2 s", "1.5 min", "12 h".
create or replace function offstage_private.span(length interval) returns text
language sql immutable as $$
  select trim_scale(round(case when s.n < 100 then s.n when s.n < 6000 then s.n / 60 when s.n < 172800 then s.n / 3600 else s.n / 86400 end, 1))
    || case when s.n < 100 then ' s' when s.n < 6000 then ' min' when s.n < 172800 then ' h' else ' days' end
  from (select extract(epoch from length)::numeric as n) s
$$;

-- How many slots the first hundred living workers that know a task have, and how many of them are taken.
create or replace function offstage_private.slots_for(of_task integer, out workers integer, out slots integer, out taken integer)
language sql stable as $$
  select count(*), coalesce(sum(w.slots), 0), coalesce(sum(least(w.slots, (
    select count(*) from (
      select from offstage_private.lease l cross join lateral unnest(l.job_ids) x (id)
      cross join lateral (select from offstage_private.job j where j.id = x.id and j.released_claim < l.claim limit 1) j
      where l.worker_id = w.id limit w.slots) held))), 0)
  from (
    select o.* from (select offstage_private.clock() as at) c cross join offstage_private.worker o
    where offstage_private.lives(o, c.at) and not o.draining and of_task = any (o.tasks) order by o.id limit 100) w
$$;

-- Why a job is not running, or what it is doing: always one row. kind is one of
--   ended         it has ended, see because            unknown       there is no such job, or none any more
--   scheduled     its time comes at until              retry         its last attempt failed, the next one is at until
--   waiting       for a free slot of a worker          queue_busy    as many jobs of its queue run as may
--   queue_paused  somebody has paused its queue        task_paused   or its task
--   no_worker     no worker is there                   task_unknown  none of those that are there can perform its task
--   flags_forbidden  all of those leave its flags to others
--   running       since then                           cancelling    somebody wants it stopped, and it still runs
--   alone         a worker has it, and runs one of those at a time that two workers in a row died with
--   rescue        its worker is gone, it will be given back
--   failed        it is out of attempts, or has failed for good
--   set_aside     it has crashed three workers in a row
-- because is a sentence; since and until are null where there is nothing to say; remedy says what to do, with commands in backticks
-- as in Markdown, '' for nothing. New kinds may come. Locks nothing, counts up to 10,000.
create or replace function offstage.explain_job(job_id bigint)
returns table (kind text, because text, since timestamptz, until timestamptz, remedy text)
language plpgsql stable
set jit = off set enable_seqscan = off
as $$
declare
  at timestamptz := offstage_private.clock();
  j offstage_private.job;
  t offstage_private.task;
  q offstage_private.queue;
  w offstage_private.worker;
  l record;
  h record;
  r record;
  place text;
  again text;  -- how to try it again
  sooner text; -- how to run it now
  limit_of integer;
  before text;  -- what is in front of it
  n bigint;
begin
  select o.* into j from offstage_private.job o where o.id = explain_job.job_id;
  if not found then
    select o.settled_at, o.outcome, o.error into h from offstage_private.history o
    where o.job_id = explain_job.job_id and o.outcome in ('succeeded', 'failed', 'cancelled', 'removed', 'completed')
    order by o.settled_at + interval '0' desc limit 1;  -- + 0: by job_id, not by way of the index on settled_at
    if not found then
      return query select 'unknown', 'unknown: there is no such job, or it has ended and its history is not kept', null::timestamptz, null::timestamptz, '';
      return;
    end if;
    return query select 'ended', format('ended at %s as %s%s', offstage_private.moment(h.settled_at), h.outcome, coalesce(': ' || nullif(offstage_private.error_line(h.error), ''), '')), h.settled_at, null::timestamptz, '';
    return;
  end if;
  select o.* into t from offstage_private.task o where o.id = j.task_id;
  select o.* into q from offstage_private.queue o where o.id = j.queue_id;
  place := offstage_private.state_of(j);
  again := offstage_private.either(format('offstage.retry_jobs(''{%s}'')', j.id), 'jobs retry ' || j.id);
  sooner := 'to run it now: ' || again;

  if place = 'failed' then
    select o.settled_at into h from offstage_private.history o where o.job_id = j.id and o.outcome = 'failed' order by o.settled_at + interval '0' desc limit 1;
    if j.crashes >= 3 or j.last_error ~ ', the third( time)? in a row: set aside$' then
      return query select 'set_aside', format('set aside after three crashes in a row: %s', offstage_private.error_line(j.last_error)), h.settled_at, null::timestamptz,
        'find out what it does to its process (memory, a native library, an endless loop) before you try it again: ' || again;
    else
      return query select 'failed', format('failed after %s: %s', offstage_private.plural(j.attempts, 'attempt'), coalesce(nullif(offstage_private.error_line(j.last_error), ''), 'no error is known')),
        h.settled_at, null::timestamptz, 'mend the cause, then try it again: ' || again;
    end if;
    return;
  end if;

  if place = 'scheduled' then
    if j.run_at <= at and not exists (select from offstage_private.worker o where offstage_private.lives(o, at)) then
      return query select 'no_worker', format('scheduled for %s, which has come, but no worker is running', offstage_private.moment(j.run_at)), j.run_at, null::timestamptz,
        'start a worker: ' || offstage_private.cli('worker');
      return;
    end if;
    select o.settled_at, o.outcome into h from offstage_private.history o where o.job_id = j.id order by o.settled_at + interval '0' desc limit 1;
    if j.attempts > 0 and coalesce(h.outcome, 'retried') in ('retried', 'rescued') then
      return query select 'retry', format('attempt %s of %s failed: %s; the next one is due at %s', j.attempts, coalesce(j.max_attempts, t.max_attempts, 25),
        coalesce(nullif(offstage_private.error_line(j.last_error), ''), 'no error is known'), offstage_private.moment(j.run_at)), h.settled_at, j.run_at, sooner;
    else
      return query select 'scheduled', format('scheduled for %s%s', offstage_private.moment(j.run_at), case when h.outcome in ('snoozed', 'released') then ': its last attempt has put it off'
        when j.run_at <= at then ', which has come: a worker will have it wait for a slot within two seconds' else '' end), j.added_at, j.run_at, sooner;
    end if;
    return;
  end if;

  if place = 'paused' then
    if t.paused then
      return query select 'task_paused', format('its task %L is paused%s', t.name, p.words), p.since, null::timestamptz,
        'let it go on: ' || offstage_private.either(format('offstage.resume_task(%L)', t.name), 'tasks resume ' || offstage_private.shell(t.name))
      from (select) x left join offstage_private.done_by('task ' || t.name, 'pause') p on true;
    else
      return query select 'queue_paused', format('its queue %L is paused%s', q.name, p.words), p.since, null::timestamptz,
        'let it go on: ' || offstage_private.either(format('offstage.resume_queue(%L)', q.name), 'queues resume ' || offstage_private.shell(q.name))
      from (select) x left join offstage_private.done_by('queue ' || q.name, 'pause') p on true;
    end if;
    return;
  end if;

  if place = 'running' then
    select o.* into l from offstage_private.lease_of(j) o;
    if not found then
      return query select 'running', 'between two places; look again', null::timestamptz, null::timestamptz, '';
      return;
    end if;
    select o.* into w from offstage_private.worker o where o.id = l.worker_id;
    select o.requested_at, o.reason into h from offstage_private.cancellation o where o.job_id = j.id;
    if w.dead_at is not null or w.beat_at < at - 3 * w.period then
      return query select 'rescue', format('attempt %s was running on worker %s (pid %s on %s) since %s; that worker is %s', j.attempts + 1, w.id, w.pid, w.host, offstage_private.moment(l.claimed_at),
          case when w.dead_at is not null then 'dead' else 'silent since ' || offstage_private.moment(w.beat_at) end)
          || case when x.rescuer then ', it will be rescued in a moment' else ', and no other one is there to rescue it' end,
        coalesce(w.dead_at, w.beat_at), case when x.rescuer then greatest(at, w.beat_at + 6 * w.period) end,
        case when x.rescuer then '' else 'start a worker: ' || offstage_private.cli('worker') end
      from (select exists (select from offstage_private.worker o where o.id <> w.id and offstage_private.lives(o, at)) as rescuer) x;
    elsif h.requested_at is not null then
      return query select 'cancelling', format('attempt %s is running on worker %s (pid %s on %s) since %s, and was told at %s to stop: %s', j.attempts + 1, w.id, w.pid, w.host,
          offstage_private.moment(l.claimed_at), offstage_private.moment(h.requested_at), h.reason), h.requested_at, null::timestamptz,
        format('if it does not stop by itself, its handler does not look at its context or signal: end process %s on %s, others then take over what it runs', w.pid, w.host);
    elsif j.crashes >= 2 and w.suspect is distinct from l.claim then
      return query select 'alone', format('two workers in a row died while they had it: worker %s (pid %s on %s) runs such jobs one at a time, and has this one since %s', w.id, w.pid, w.host, offstage_private.moment(l.claimed_at)),
        l.claimed_at, null::timestamptz, '';
    else
      return query select 'running', format('attempt %s is running on worker %s (pid %s on %s) since %s', j.attempts + 1, w.id, w.pid, w.host, offstage_private.moment(l.claimed_at))
          || coalesce((select format(', at %s %%%s', round(p.percent), coalesce(': ' || nullif(p.message, ''), '')) from offstage_private.progress p
                       where p.job_id = j.id and p.claim = l.claim), ''),
        l.claimed_at, l.claimed_at + coalesce((j.options ->> 'timeout')::interval, t.timeout), '';
    end if;
    return;
  end if;

  -- Its time has come: is it its queue's turn?
  if j.queue_id is not null then
    limit_of := coalesce((select o.concurrency from offstage_private.queue_setting o where o.queue_id = j.queue_id), 1);
    select count(*) as n, min(x.claimed_at) as since, string_agg(x.words, ', ' order by x.claim) filter (where x.n <= 3) as words into r
    from (
      select c as claim, row_number() over (order by c) as n, o.claimed_at,
        format('job %s since %s on worker %s (pid %s on %s)', o.job_ids[(c & 1023)::integer], offstage_private.moment(o.claimed_at), o.worker_id, k.pid, k.host) as words
      from (select s.claims from offstage_private.queue_state s where s.queue_id = j.queue_id order by s.queue_id, s.turn limit 1) s
      cross join lateral unnest(s.claims) c
      join offstage_private.lease o on o.claim = (c & -1024)
      join offstage_private.worker k on k.id = o.worker_id
    ) x;
    select count(*) into n from (
      select from offstage_private.queue_front f
      cross join lateral (
        select from offstage_private.parked p
        where p.queue_id = f.queue_id and p.lane_id = f.lane_id and (p.priority, p.run_at, p.job_id) < (j.priority, j.run_at, j.id) limit 10000) p
      where f.queue_id = j.queue_id limit 10000) x;
    before := case when n > 0 then format('; %s in front of it', offstage_private.some_jobs(n)) else '; it comes next' end;
    if r.n >= limit_of then
      return query select 'queue_busy', format('its queue %L runs %s at a time and is busy with %s%s%s', q.name, offstage_private.plural(limit_of, 'job'), r.words,
          case when r.n > 3 then format(' and %s more', r.n - 3) else '' end, before), r.since, null::timestamptz,
        'if they may run side by side, let more of them: ' || offstage_private.either(format('offstage.configure_queue(%L, %s)', q.name, limit_of + 1),
          format('queues configure %s --concurrency %s', offstage_private.shell(q.name), limit_of + 1))
        || case when r.n = 1 then format('; if that job hangs: %s', offstage_private.cli('jobs cancel ' || substring(r.words from 'job (\d+)'))) else '' end;
      return;
    elsif place = 'parked' then
      select p.job_id into l from offstage_private.ticket p
      where p.queue_id = j.queue_id and p.lane_id = j.lane_id order by p.queue_id, p.lane_id, p.priority, p.run_at, p.job_id limit 1;
      if found then
        return query select 'queue_busy', format('its queue %L runs %s at a time, and it is the turn of job %s%s; job %s: %s', q.name, offstage_private.plural(limit_of, 'job'), l.job_id,
            before, l.job_id, e.because), e.since, null::timestamptz, e.remedy
        from offstage.explain_job(l.job_id) e;  -- which has a ticket, and so does not come here
      else
        return query select 'queue_busy', format('its queue %L has a free slot and will pass it on within two seconds%s', q.name, before),
          null::timestamptz, null::timestamptz, '';
      end if;
      return;
    end if;
  end if;

  -- It has a ticket: who would take it?
  if not exists (select from offstage_private.worker o where offstage_private.lives(o, at)) then
    return query select 'no_worker', 'waiting: no worker is running', greatest(j.run_at, j.added_at), null::timestamptz, 'start a worker: ' || offstage_private.cli('worker');
    return;
  end if;
  select count(*) as n, count(*) filter (where not o.draining) as taking, count(*) filter (where not o.draining and (j.flags ?| o.forbidden) is not true) as willing into r
  from offstage_private.worker o where offstage_private.lives(o, at) and j.task_id = any (o.tasks);
  if r.n = 0 then
    select o.id, o.pid, o.host, o.unable ->> t.name as reason into h from offstage_private.worker o
    where offstage_private.lives(o, at) and o.unable ? t.name order by o.id desc limit 1;
    return query select 'task_unknown', format('waiting: no running worker knows the task %L', t.name)
        || case when h.reason is not null then format('; worker %s (pid %s on %s) has it, but: %s', h.id, h.pid, h.host, h.reason) else '' end,
      greatest(j.run_at, j.added_at), null::timestamptz,
      case when h.reason is not null then 'mend that, and start the worker again'
        else 'start a worker that has the task; if its name is wrong: ' || offstage_private.either(format('offstage.delete_jobs(''{%s}'')', j.id), 'jobs delete ' || j.id) end;
  elsif r.taking = 0 then
    -- One that was drained may go on; one that is stopping may not.
    select o.id, o.pid, o.host into h from offstage_private.worker o join offstage_private.wish x on x.worker_id = o.id and x.wanted = 'drain'
    where offstage_private.lives(o, at) and j.task_id = any (o.tasks) order by o.id desc limit 1;
    return query select 'no_worker', format('waiting: all workers that know the task %L are draining or stopping', t.name)
        || case when h.id is not null then format('; worker %s (pid %s on %s) was drained%s', h.id, h.pid, h.host, p.words) else '' end,
      greatest(j.run_at, j.added_at), null::timestamptz,
      case when h.id is not null then format('let it go on: %s; or ', offstage_private.either(format('offstage.undrain_worker(%s)', h.id), 'workers resume ' || h.id)) else '' end
        || 'start a worker: ' || offstage_private.cli('worker')
    from (select) x left join offstage_private.done_by('worker ' || h.id, 'drain') p on true;
  elsif r.willing = 0 then
    return query select 'flags_forbidden', format('waiting: all running workers that know the task %L leave jobs with the flag %s to others', t.name,
        (select string_agg(distinct quote_literal(f), ', ' order by quote_literal(f)) from offstage_private.worker o cross join lateral unnest(o.forbidden) f
         where offstage_private.lives(o, at) and not o.draining and j.task_id = any (o.tasks) and j.flags ? f)),
      greatest(j.run_at, j.added_at), null::timestamptz, 'start a worker that does not forbid it: ' || offstage_private.cli('worker') || ', without --forbid-flag';
  else
    select * into h from offstage_private.slots_for(j.task_id);
    select least(coalesce(sum(case when j.id = any (x.job_ids) then array_position(x.job_ids, j.id) - 1 else x.jobs end - (
      select count(*) from offstage_private.stub s where x.jobs > 1 and s.lane_id = x.lane_id and s.ticket = x.job_id and (s.job_id < j.id or j.id <> all (x.job_ids)))), 0), 10000) into n from (
      select p.* from offstage_private.ticket p where p.lane_id = j.lane_id and (p.priority, p.run_at, p.job_id) < (j.priority, j.run_at, j.id) limit 10000) x;
    return query select 'waiting', format('waiting for a free slot of a worker: %s of %s of %s for the task %L %s busy', h.taken, offstage_private.plural(h.slots, 'slot'),
          offstage_private.plural(h.workers, 'worker'), t.name, case when h.taken = 1 then 'is' else 'are' end)
        || case when n > 0 then format('; %s of this task in front of it', offstage_private.some_jobs(n)) else '' end,
      greatest(j.run_at, j.added_at), null::timestamptz,
      case when h.taken >= h.slots then 'to have more done at a time, start more workers, or give them more slots (--jobs)' else '' end;
  end if;
end $$;

-- The same in a sentence.
create or replace function offstage.explain(job_id bigint) returns text
language sql stable as $$
  select e.because || case when e.remedy <> '' then '. ' || upper(left(e.remedy, 1)) || substr(e.remedy, 2) else '' end from offstage.explain_job(job_id) e
$$;

-- How many jobs wait for a worker, up to 10,000: for whoever starts and stops workers by that number. Those that wait for their
-- time, or their queue's turn, and those of paused tasks and queues are not counted: no worker could take them. Of one task or
-- queue if wanted; 0 for unknown ones. Locks nothing.
create or replace function offstage.queue_depth(task text default null, queue text default null) returns integer
language plpgsql stable
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set enable_hashjoin = off set enable_mergejoin = off
as $$
declare
  closed integer[] := array(select s.queue_id from offstage_private.queue_setting s where s.paused);
  n integer;
begin
  if queue is not null then
    select count(*) into n from (
      select from offstage_private.queue q
      cross join lateral (
        select p.lane_id from offstage_private.ticket p where p.queue_id = q.id limit 10000) p
      cross join lateral (
        select o.name, o.paused from offstage_private.task o
        where o.id = coalesce((select l.task_id from offstage_private.lane l where l.id = p.lane_id), p.lane_id)) t
      where q.name = queue_depth.queue and not t.paused and (queue_depth.task is null or t.name = queue_depth.task)
        and not exists (select from offstage_private.queue_setting s where s.queue_id = q.id and s.paused)
      limit 10000) x;
  else
    select count(*) into n from (
      select from (
        select o.id from offstage_private.task o where not o.paused and (queue_depth.task is null or o.name = queue_depth.task)
        union all
        select l.id from offstage_private.lane l join offstage_private.task o on o.id = l.task_id
        where not o.paused and (queue_depth.task is null or o.name = queue_depth.task)
      ) l
      cross join lateral (
        -- Most often no queue is paused, and the indexes alone suffice.
        select from generate_series(1, case when closed = '{}' then offstage_private.count_tickets(l.id, 10000) end)
        union all
        select from (select p.* from offstage_private.ticket p where closed <> '{}' and p.lane_id = l.id
          order by p.priority desc, p.run_at desc, p.job_id desc limit 10000) p
        cross join lateral generate_series(1, p.jobs - (select count(*) from offstage_private.stub s where p.jobs > 1 and s.lane_id = p.lane_id and s.ticket = p.job_id))
        where p.queue_id is null or p.queue_id <> all (closed)) p
      limit 10000) x;
  end if;
  return n;
end $$;
