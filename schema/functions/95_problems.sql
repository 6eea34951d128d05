-- What an operator should look at, found by looking at little: the heads of lanes, the small tables, the server's own views.

-- Sets from how many bytes on problems() says that history and logs take too much; null: never. Raises 22023.
create or replace function offstage.history_budget(bytes bigint) returns void
language plpgsql as $$
begin
  if bytes <= 0 then
    raise invalid_parameter_value using message = format('the budget is %s bytes', bytes), hint = 'Expected a positive number, or null for none.';
  end if;
  perform offstage_private.note('configure', 'history', null, (select json_build_object('budget', b.bytes) from offstage_private.budget b),
    json_build_object('budget', bytes), null);
  insert into offstage_private.budget as b (bytes) values (history_budget.bytes) on conflict (one) do update set bytes = excluded.bytes;
end $$;

-- What keeps vacuum from removing dead rows, as far as this role may see: whoever is not allowed to read all statistics sees
-- its own sessions alone. severity: critical after an hour.
create or replace function offstage_private.held_back(older_than interval)
returns table (subject text, severity text, message text, since timestamptz, remedy text)
language plpgsql stable as $$
declare
  at timestamptz := offstage_private.clock();
begin
  return query
    select 'pid ' || s.pid, case when s.xact_start < at - interval '1 hour' then 'critical' else 'warning' end,
      format('session %s of %s (%s%s) holds a snapshot since %s (%s)%s: dead rows cannot be removed, and jobs get slower', s.pid, coalesce(s.usename::text, '?'),
        coalesce(nullif(s.application_name, ''), 'no application name'), coalesce(', ' || host(s.client_addr), ''),
        coalesce(offstage_private.moment(s.xact_start), age(s.backend_xmin) || ' transactions'), coalesce(s.state, s.backend_type),
        case when s.state = 'active' then format(', for its query of %s', offstage_private.moment(s.query_start)) else '' end),
      s.xact_start,
      case when s.xact_start is null then 'look at that replica: hot_standby_feedback hands its old snapshots on'
        else format('end that transaction, or: %s against the next one: idle_in_transaction_session_timeout', offstage_private.code(format('select pg_terminate_backend(%s);', s.pid))) end
    from pg_catalog.pg_stat_activity s
    where s.backend_xmin is not null and s.pid <> pg_backend_pid() and (s.datname = current_database() or s.datname is null)
      and s.backend_type is distinct from 'autovacuum worker'
      and (s.xact_start < at - older_than or s.xact_start is null and age(s.backend_xmin) > 1000000)
    order by s.xact_start nulls last limit 5;
  return query
    select 'transaction ' || x.gid, case when x.prepared < at - interval '1 hour' then 'critical' else 'warning' end,
      format('the prepared transaction %L of %s is open since %s: dead rows cannot be removed, and what it has locked stays locked', x.gid, x.owner, offstage_private.moment(x.prepared)), x.prepared,
      format('as %s: %s or: %s', x.owner, offstage_private.code(format('commit prepared %L;', x.gid)), offstage_private.code(format('rollback prepared %L;', x.gid)))
    from pg_catalog.pg_prepared_xacts x
    where x.database = current_database() and x.prepared < at - older_than order by x.prepared limit 5;
  return query
    select 'slot ' || s.slot_name, case when s.wal_status in ('unreserved', 'lost') then 'critical' else 'warning' end,
      format('the replication slot %L%s %s', s.slot_name, case when s.active then '' else ', which nobody uses,' end,
        concat_ws(' and ', case when s.age > 1000000 then format('holds a snapshot that is %s transactions old', s.age) end,
          case when s.bytes > 1 << 30 then format('keeps %s of WAL', pg_size_pretty(s.bytes)) end,
          case when s.wal_status in ('unreserved', 'lost') then 'has lost WAL, or is about to' end)),
      null::timestamptz,
      case when s.active then 'see why its replica lags' else 'start its replica, or: ' || offstage_private.code(format('select pg_drop_replication_slot(%L);', s.slot_name)) end
    from (
      select o.slot_name, o.active, o.wal_status, greatest(age(o.xmin), case when o.database = current_database() then age(o.catalog_xmin) end) as age,
        case when not pg_is_in_recovery() then pg_wal_lsn_diff(pg_current_wal_lsn(), o.restart_lsn) end::bigint as bytes
      from pg_catalog.pg_replication_slots o
    ) s
    where s.age > 1000000 or s.wal_status in ('unreserved', 'lost') or not s.active and s.bytes > 1 << 30
    order by s.age desc nulls last limit 5;
end $$;

-- What is wrong, the worst first; no rows: nothing is. severity is critical (jobs do not run, or are lost soon) or warning; subject
-- a task, queue, schedule, worker or session, '' for the whole; remedy says what to do, with commands in backticks as in Markdown; page is where to
-- look: jobs, tasks, queues, schedules, workers, errors, or '' for the server. kind is one of
--   no_worker            jobs wait, and no worker is running
--   task_without_worker  jobs wait for a task that no running worker knows, or all that know it forbid their flags
--   oldest_waiting       a job that could run waits for more than a minute; critical after ten
--   queue_paused, task_paused  jobs wait in it
--   worker_silent, worker_dead  a worker misses its beats, or its jobs were not given back yet
--   schedule_missed      its time has passed, or its ticks fail
--   failure_rate         in the last ten minutes a task fails much more than in the day before: at least 20 attempts, a tenth, and
--                        three times as many
--   horizon              an old transaction, prepared transaction or replication slot keeps dead rows
--   worker_deaf          notifications do not reach workers, as behind some poolers: jobs start only when those poll
--   notify               the server's queue of notifications is filling up: a listening session has a transaction open
--   history_budget       history and logs take more than history_budget() allows
--   history_rest         nobody makes the daily partitions of history and logs
--   chore_failing        what workers do besides jobs fails, or does not happen
--   set_aside            jobs that crashed three workers in a row, in the last 24 hours
--   version              workers of different versions run, or some that are older than the schema, for ten minutes
-- New kinds may come. Locks nothing; counts up to 10,000, and looks at no more than a thousand lanes.
create or replace function offstage.problems()
returns table (kind text, severity text, subject text, message text, since timestamptz, remedy text, page text)
language plpgsql stable
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off  -- to plan takes longer than to look
as $$
begin
  return query
    select p.kind, p.severity, p.subject, p.message, p.since, p.remedy, p.page from offstage_private.problems_found() p
    order by p.severity <> 'critical', p.since nulls last, p.kind, p.subject limit 200;
end $$;

-- problems(), as they are found.
create or replace function offstage_private.problems_found()
returns table (kind text, severity text, subject text, message text, since timestamptz, remedy text, page text)
language plpgsql stable
as $$
#variable_conflict use_column
declare
  clock constant timestamptz := offstage_private.clock();
  heads offstage_private.ticket[];   -- the first ticket of each lane and priority
  living integer;
  known integer[];                   -- tasks that a living worker takes
  r record;
  n bigint;
  seen integer := 0;
begin
  select count(*), array_agg(distinct u.id) into living, known
  from offstage_private.worker w left join lateral unnest(case when w.draining then '{}' else w.tasks end) u (id) on true
  where offstage_private.lives(w, clock);

  select array_agg(h) into heads from offstage_private.heads() h;

  -- Who is there for what waits?
  if living = 0 then
    if heads is not null then
      n := offstage_private.count_tickets(null, 10000);
      return query select 'no_worker', 'critical', '', format('%s due, and no worker is running', offstage_private.some_jobs(n) || case when n = 1 then ' is' else ' are' end),
        (select min(h.run_at) from unnest(heads) h), 'start a worker: ' || offstage_private.cli('worker'), 'workers';
    end if;
  else
    for r in
      select t.id, t.name, min(h.run_at) as since, array_agg(distinct h.lane_id) as lanes
      from unnest(heads) h
      left join offstage_private.lane l on l.id = h.lane_id
      join offstage_private.task t on t.id = coalesce(l.task_id, h.lane_id)
      where not t.paused and (t.id = any (known)) is not true
      group by t.id, t.name order by 3 limit 10
    loop
      n := (select least(sum(offstage_private.count_tickets(u, 10000)), 10000) from unnest(r.lanes) u);
      return query
        select 'task_without_worker', 'critical', r.name, format('%s for the task %L, which no running worker %s', offstage_private.some_jobs(n) || case when n = 1 then ' waits' else ' wait' end,
            r.name, case when u.reason is not null then format('can perform: worker %s has it, but: %s', u.id, u.reason)
              when d.id is not null then 'takes: those that know it are draining or stopping' else 'knows' end),
          r.since, case when u.reason is not null then 'mend that, and start the worker again'
            when d.id is not null then format('let worker %s go on: %s; or start another one', d.id, offstage_private.cli('workers resume ' || d.id)) else 'start a worker that has the task; if the name is wrong, delete the jobs: '
            || offstage_private.cli('jobs delete --task ' || offstage_private.shell(r.name)) end, 'tasks'
        from (select) x left join lateral (
          select w.id, w.unable ->> r.name as reason from offstage_private.worker w
          where offstage_private.lives(w, clock) and w.unable ? r.name order by w.id desc limit 1) u on true
        left join lateral (
          select w.id from offstage_private.worker w
          where offstage_private.lives(w, clock) and r.id = any (w.tasks) order by w.id desc limit 1) d on true;
    end loop;
    for r in
      select t.name, l.id as lane_id, l.flags, min(h.run_at) as since
      from unnest(heads) h
      join offstage_private.lane l on l.id = h.lane_id
      join offstage_private.task t on t.id = l.task_id
      where not t.paused and t.id = any (known)
        and not exists (select from offstage_private.worker w where offstage_private.lives(w, clock) and not w.draining
                        and t.id = any (w.tasks) and (l.flags ?| w.forbidden) is not true)
      group by t.name, l.id, l.flags order by 4 limit 5
    loop
      n := offstage_private.count_tickets(r.lane_id, 10000);
      return query select 'task_without_worker', 'critical', r.name,
        format('%s for the task %L with the flags %s, which all running workers that know it leave to others', offstage_private.some_jobs(n) || case when n = 1 then ' waits' else ' wait' end,
          r.name, (select string_agg(k, ', ' order by k) from jsonb_object_keys(r.flags) k)),
        r.since, 'start a worker that does not forbid them: ' || offstage_private.cli('worker') || ', without --forbid-flag', 'tasks';
    end loop;
    -- The oldest that could run: the first of each priority, as explain_job() sees it.
    for r in
      select x.id, x.name, x.since from (
        select distinct on (t.id) h.job_id as id, t.name, greatest(h.run_at, j.added_at) as since
        from unnest(heads) h
        left join offstage_private.lane l on l.id = h.lane_id
        join offstage_private.task t on t.id = coalesce(l.task_id, h.lane_id)
        cross join lateral (select o.added_at from offstage_private.job o where o.id = h.job_id limit 1) j
        where not t.paused and t.id = any (known) and greatest(h.run_at, j.added_at) < clock - interval '1 min'
        order by t.id, greatest(h.run_at, j.added_at)) x
      order by x.since limit 20
    loop
      return query select 'oldest_waiting', case when r.since < clock - interval '10 min' then 'critical' else 'warning' end, r.name,
        format('job %s of the task %L waits since %s: %s', r.id, r.name, offstage_private.moment(r.since), e.because), r.since,
        coalesce(nullif(e.remedy, ''), 'see what the log of its workers says; see also: ' || offstage_private.cli('doctor')), 'tasks'
      from offstage.explain_job(r.id) e where e.kind = 'waiting';
      seen := seen + found::integer;
      exit when seen = 3;
    end loop;
  end if;

  -- What somebody has stopped.
  return query
    select 'queue_paused', 'warning', q.name, format('the queue %L is paused%s, and %s in it', q.name, b.words, offstage_private.some_jobs(c.n) || case when c.n = 1 then ' waits' else ' wait' end),
      b.since, 'let it go on: ' || offstage_private.either(format('offstage.resume_queue(%L)', q.name), 'queues resume ' || offstage_private.shell(q.name)), 'queues'
    from (
      select s.queue_id from offstage_private.queue_setting s
      where s.paused and (exists (select from offstage_private.parked p where p.queue_id = s.queue_id) or exists (select from offstage_private.ticket p where p.queue_id = s.queue_id))
      limit 10
    ) s
    join offstage_private.queue q on q.id = s.queue_id
    cross join lateral (
      select count(*) as n from (
        select from offstage_private.parked p where p.queue_id = s.queue_id union all select from offstage_private.ticket p where p.queue_id = s.queue_id limit 10000) x) c
    left join lateral offstage_private.done_by('queue ' || q.name, 'pause') b on true;
  return query
    select 'task_paused', 'warning', t.name, format('the task %L is paused%s, and %s for it', t.name, b.words, offstage_private.some_jobs(c.n) || case when c.n = 1 then ' waits' else ' wait' end),
      b.since, 'let it go on: ' || offstage_private.either(format('offstage.resume_task(%L)', t.name), 'tasks resume ' || offstage_private.shell(t.name)), 'tasks'
    from (
      select o.id, o.name, array_agg(distinct h.lane_id) as lanes
      from unnest(heads) h left join offstage_private.lane l on l.id = h.lane_id
      join offstage_private.task o on o.id = coalesce(l.task_id, h.lane_id)
      where o.paused group by o.id, o.name order by o.id limit 10
    ) t
    cross join lateral (select least(sum(offstage_private.count_tickets(u, 10000)), 10000)::bigint as n from unnest(t.lanes) u) c
    left join lateral offstage_private.done_by('task ' || t.name, 'pause') b on true;

  -- Workers.
  return query
    select case when w.dead_at is null then 'worker_silent' else 'worker_dead' end, case when c.n > 0 then 'critical' else 'warning' end, 'worker-' || w.id,
      format('worker %s (pid %s on %s) %s, and holds %s', w.id, w.pid, w.host,
        case when w.dead_at is null then 'is silent since ' || offstage_private.moment(w.beat_at) else 'is dead since ' || offstage_private.moment(w.dead_at) end, offstage_private.some_jobs(c.n, 1000)),
      coalesce(w.dead_at, w.beat_at),
      case when living = 0 then 'start a worker, which gives them back: ' || offstage_private.cli('worker')
        when w.dead_at is null then 'it has lost the database, or hangs: look at its process and its log; if it stays silent, the others take its jobs over'
        else 'a transaction may hold the rows of its jobs (pg_stat_activity); look also at the chore rescue: ' || offstage_private.cli('doctor') end, 'workers'
    from (
      select o.* from offstage_private.worker o
      where o.dead_at is null and o.beat_at < clock - 3 * o.period
        or o.dead_at < clock - interval '3 s' and exists (select from offstage_private.lease l where l.worker_id = o.id)
      order by o.id limit 20
    ) w
    cross join lateral (
      select count(*) as n from (
        select from offstage_private.lease l cross join lateral unnest(l.job_ids) x (id)
        cross join lateral (select from offstage_private.job j where j.id = x.id and j.released_claim < l.claim limit 1) j
        where l.worker_id = w.id limit 1000) x) c
    where c.n > 0 or w.dead_at is null;
  return query
    select 'worker_deaf', 'warning', case when count(*) = 1 then 'worker-' || min(w.id) else '' end,
      format('%s heard no notifications since %s: jobs start only when %s, up to the poll interval late',
        case when count(*) = 1 then format('worker %s (pid %s on %s) has', min(w.id), min(w.pid), min(w.host))
          else format('%s workers (%s%s) have', count(*), array_to_string((array_agg('worker ' || w.id order by w.id))[1:5], ', '), case when count(*) > 5 then ', …' else '' end) end,
        offstage_private.moment(min(w.deaf_since)), case when count(*) = 1 then 'it polls' else 'they poll' end),
      min(w.deaf_since),
      format('a pooler that lends a session for each transaction, or a proxy, keeps them back: connect workers directly, with the address and port of PostgreSQL itself in --database-url or DATABASE_URL, '
        'or set the pooler to whole sessions (PgBouncer: pool_mode = session); what is in between says: %s; until then, poll more often: %s',
        offstage_private.cli('doctor'), offstage_private.cli('worker --poll-interval 250ms')), 'workers'
    from offstage_private.worker w
    where w.deaf_since is not null and offstage_private.lives(w, clock)
    having count(*) > 0;
  return query
    select 'version', 'warning', '', format('workers of different versions are running: %s', string_agg(format('%s of %s', v.n, v.version), ', ' order by v.version)),
      max(v.since), 'after an upgrade, start all workers again', 'workers'
    from (
      select w.version, count(*) as n, min(w.started_at) as since from offstage_private.worker w
      where offstage_private.lives(w, clock) group by w.version) v
    having count(*) > 1 and max(v.since) < clock - interval '10 min';
  return query
    select 'version', 'warning', '', format('%s older than the schema: they were started before it came to version %s, at %s',
        case when count(*) = 1 then format('worker %s is', min(w.id)) else format('%s workers are', count(*)) end, m.version, offstage_private.moment(m.migrated_at)),
      m.migrated_at, 'start them again, with the program that the schema was migrated with', 'workers'
    from (select o.version, o.migrated_at from offstage_private.migration o order by o.version desc limit 1) m
    join offstage_private.worker w on w.started_at < m.migrated_at and offstage_private.lives(w, clock)
    where m.migrated_at < clock - interval '10 min'
    group by m.version, m.migrated_at;

  -- Schedules.
  return query
    select 'schedule_missed', 'warning', s.name,
      case when s.failures > 0 then format('the schedule %L cannot be ticked, %s in a row: %s', s.name, offstage_private.plural(s.failures, 'time'), left(s.error, 300))
        else format('the schedule %L was due at %s, and nobody has ticked it', s.name, offstage_private.moment(s.due_at)) end,
      case when s.failures > 0 then coalesce(s.next_at, s.due_at) else s.due_at end,
      case when s.failures > 0 then format('see it whole, and mend it: %s', offstage_private.cli('schedules get ' || offstage_private.shell(s.name)))
        when s.source = 'database' then 'start a worker; any will do: ' || offstage_private.cli('worker')
        else format('start a worker with %s that it is in; if it was taken out there on purpose: %s', case s.source when 'crontab' then 'the crontab file' else 'the program' end,
          offstage_private.either(format('offstage.remove_schedule(%L)', s.name), 'schedules remove ' || offstage_private.shell(s.name))) end, 'schedules'
    from (
      select o.* from (  -- those that fail are due again within a minute
        select k.* from offstage_private.schedule k where not k.paused and k.due_at < clock + interval '2 min' order by k.due_at limit 1000) o
      where o.failures > 0 or o.due_at < clock - interval '1 min' limit 20
    ) s;

  -- Failures.
  return query
    with day as materialized (
      select h.task_id, sum(h.n) as n, sum(h.n) filter (where h.outcome in ('retried', 'failed', 'rescued')) as failed
      from offstage_private.statistic_hour h
      where h.starts_at >= clock - interval '25 h' and h.outcome in ('succeeded', 'retried', 'failed', 'rescued')
      group by 1
    )
    select 'failure_rate', case when l.failed > l.n / 2.0 then 'critical' else 'warning' end, t.name,
      format('%s of the last %s attempts of the task %L have failed (%s %%, in ten minutes); in the day before, %s %%', l.failed, l.n, t.name,
        round(100.0 * l.failed / l.n), round(100.0 * d.failed / greatest(d.n, 1), 1)),
      clock - interval '10 min', 'see what they fail with: the latest errors of this task, and what was deployed or changed since; to stop it meanwhile: '
        || offstage_private.either(format('offstage.pause_task(%L)', t.name), 'tasks pause ' || offstage_private.shell(t.name)), 'errors'
    from (
      select c.task_id, sum(c.n) as n, sum(c.n) filter (where c.outcome in ('retried', 'failed', 'rescued')) as failed,
        coalesce(sum(c.n) filter (where c.summed), 0) as hour_n,  -- what the hours below have, too
        coalesce(sum(c.n) filter (where c.summed and c.outcome in ('retried', 'failed', 'rescued')), 0) as hour_failed
      from (
        select m.task_id, m.outcome, m.n, true as summed from offstage_private.statistic_minute m where m.starts_at >= clock - interval '10 min'
        union all
        (select o.task_id, o.outcome, o.n, false from offstage_private.statistic_raw o
         where o.id > (select k.low from offstage_private.statistic_mark k) and o.ended_at >= clock - interval '10 min' limit 20000)
      ) c
      where c.outcome in ('succeeded', 'retried', 'failed', 'rescued')
      group by 1
    ) l
    join offstage_private.task t on t.id = l.task_id
    cross join lateral (
      select coalesce(sum(h.n), 0) - l.hour_n as n, coalesce(sum(h.failed), 0) - l.hour_failed as failed from day h where h.task_id = l.task_id
    ) d
    where l.failed >= 20 and l.failed >= l.n * 0.1 and l.failed * d.n >= 3 * l.n * d.failed
    order by l.failed desc limit 10;
  return query
    select 'set_aside', 'warning', '', format('%s set aside in the last 24 hours, after three crashes in a row: %s',
        case when count(*) = 1 then '1 job was' else offstage_private.some_jobs(count(*), 1000) || ' were' end, (array_to_string((array_agg(format('job %s', x.job_id) order by x.at desc))[1:5], ', '))),
      min(x.at), 'find out what such a job does to its process (memory, a native library, an endless loop) before you try it again', 'jobs'
    from (
      select a.job_id, max(a.at) as at
      from (select o.* from offstage_private.set_aside o where o.at > clock - interval '24 h' limit 1000) a
      cross join lateral (select from offstage_private.job j where j.id = a.job_id and j.failed limit 1) j
      group by 1
    ) x
    having count(*) > 0;

  -- The server.
  return query select 'horizon', h.severity, h.subject, h.message, h.since, h.remedy, '' from offstage_private.held_back(interval '5 min') h;
  return query
    select 'notify', case when u.used > 0.8 then 'critical' else 'warning' end, '', format('the queue of notifications is %s %% full: a session that listens does not take its own', round((100 * u.used)::numeric)),
      null::timestamptz, 'find the session that has a transaction open and listens (the server''s log names it), and end it: when the queue is full, no transaction that notifies can commit', ''
    from (select pg_notification_queue_usage() as used) u where u.used > 0.5;

  -- What workers do besides jobs, and what history takes.
  return query
    select 'chore_failing', case when c.name in ('rescue', 'promote') then 'critical' else 'warning' end, c.name,
      case c.state when 'failing' then format('the chore %L fails: %s', c.name, left(c.error, 300)) else format('the chore %L is to run every %s, and last ran at %s', c.name, offstage_private.span(c.period), coalesce(offstage_private.moment(c.ran_at), 'no time')) end,
      case c.state when 'failing' then c.failed_at else c.ran_at end,
      case c.state when 'failing' then 'see what the error says; all workers try it again' else 'look what the workers'' log says of it, and whether they wait for a lock (pg_stat_activity)' end, 'workers'
    from offstage.chores c
    where c.state = 'failing' or c.state = 'late'
      and exists (select from offstage_private.worker w where offstage_private.lives(w, clock) and w.started_at < clock - 3 * c.period - interval '30 s');
  return query
    select 'history_budget', 'warning', '', format('history and logs take %s; their budget is %s', pg_size_pretty(s.bytes), pg_size_pretty(b.bytes)), null::timestamptz,
      format('keep it for fewer days than %s: %s or keep failures alone, for tasks with many jobs: %s', d.days, offstage_private.code(format('select offstage.keep_history(%s);', greatest(d.days - 1, 1))),
        offstage_private.cli('tasks configure TASK --keep failures')), ''
    from offstage_private.budget b
    cross join lateral (
      select sum(pg_total_relation_size(i.inhrelid))::bigint as bytes from pg_catalog.pg_inherits i
      where b.bytes is not null and i.inhparent in ('offstage_private.history'::regclass, 'offstage_private.log'::regclass)) s
    cross join (select coalesce((select r.history_days from offstage_private.retention r), 7) as days) d
    where s.bytes > b.bytes;
  return query
    select 'history_rest', 'warning', x.name, format('there is no partition of %s for tomorrow: its entries come into %s_rest, from where they go row by row instead of with their day', x.name, x.name),
      null::timestamptz, 'the chore tidy makes them; the workers'' role must own the tables, and nobody may hold them locked for long: ' || offstage_private.cli('doctor'), ''
    from unnest(array['history', 'log']) x (name)
    where to_regclass('offstage_private.' || x.name || to_char((clock at time zone 'UTC')::date + 1, '_YYYYMMDD')) is null
      and case x.name when 'history' then exists (select from offstage_private.history_rest) else exists (select from offstage_private.log_rest) end
      and exists (select from offstage_private.worker w where offstage_private.lives(w, clock) and w.started_at < clock - interval '5 min');
end $$;
