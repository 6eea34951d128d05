-- What people do to jobs, queues and tasks, and what they look at.

-- Takes jobs that are not running into the caller's hands, and answers them, their tasks, and where their rows are: out of their places, or locked where they have failed.
-- Running and unknown ones are left out. One by one, those without a key first, in the order of the ids, then in the order of the keys, which is
-- add_jobs' as well: so two callers cannot deadlock.
-- Lock order: a keyed job, then its place; a job without a key is only reached through its place, so that settle
-- never waits for a caller's transaction.
create or replace function offstage_private.seize(job_ids bigint[])
returns table (at tid, job offstage_private.job, task offstage_private.task)
language plpgsql as $$
declare
  i bigint;
  found_job record;
  again offstage_private.job;
begin
  if offstage_private.serializable() then
    return query select * from offstage_private.seize_apart(job_ids);
    return;
  end if;
  for i in
    select x.id from (
      select distinct o.id, o.key
      from unnest(job_ids) u cross join lateral (select k.id, k.key from offstage_private.job k where k.id = u limit 1) o  -- one look-up each
    ) x order by x.key nulls first, x.id
  loop
    loop
      select o.ctid, o as job into found_job from offstage_private.job o where o.id = i;
      exit when not found;
      if (found_job.job).key is not null or (found_job.job).failed then
        select o.ctid, o as job into found_job from offstage_private.job o where o.id = i for update;
        exit when not found;
      end if;
      job := found_job.job;
      if job.failed or offstage_private.unplace(job) then
        select o.ctid, o as job into found_job from offstage_private.job o where o.id = i;  -- as whoever had it until now has left it
        at := found_job.ctid;
        job := found_job.job;
        if task.id is distinct from job.task_id then
          task := offstage_private.task_of(job.task_id);
        end if;
        return next;
        exit;
      end if;
      -- No place under the key we saw: it is running, unless it has moved since.
      select o.* into again from offstage_private.job o where o.id = i;
      exit when not found or (again.lane_id, again.priority, again.run_at, again.failed, again.released_claim)
        = (job.lane_id, job.priority, job.run_at, job.failed, job.released_claim);
    end loop;
  end loop;
end $$;

-- seize() for SERIALIZABLE callers: see 00_apart.sql. In the same order; nobody waits for who only names a running job. What a look remembers of a job is forgotten when its row is changed,
-- so each that has no key is taken before the next one is looked at.
create or replace function offstage_private.seize_apart(job_ids bigint[])
returns table (at tid, job offstage_private.job, task offstage_private.task)
language plpgsql as $$
declare
  i bigint;
  looked offstage_private.job;
  keyed offstage_private.job[] := '{}';
  seized record;
begin
  for i in select distinct u from unnest(job_ids) u where u is not null order by u loop
    looked := offstage_private.look_apart(i);
    continue when looked.id is null or exists (select from offstage_private.lease_of(looked));
    if looked.key is not null then
      keyed := keyed || looked;
      continue;
    end if;
    select * into seized from offstage_private.seize_looked(looked, task);
    at := seized.at;
    job := seized.job;
    task := seized.task;
    if at is not null then
      return next;
    end if;
  end loop;
  for looked in select k.* from unnest(keyed) k order by k.key loop
    select * into seized from offstage_private.seize_looked(looked, task);
    at := seized.at;
    job := seized.job;
    task := seized.task;
    if at is not null then
      return next;
    end if;
  end loop;
end $$;

-- The same for a job that has been looked at and was not running, beside the task of the one before; "at" is null if it is by now.
create or replace function offstage_private.seize_looked(looked offstage_private.job, known offstage_private.task, out at tid, out job offstage_private.job, out task offstage_private.task)
language plpgsql as $$
declare
  found_job record;
begin
  task := known;
  if looked.key is null and not looked.failed then
    if not offstage_private.unplace(looked) then
      return;
    end if;
    select * into found_job from offstage_private.job_apart(looked.id);
  else
    select * into found_job from offstage_private.job_apart(looked.id);
    if found_job.at is null or not (found_job.job).failed and not offstage_private.unplace(found_job.job) then
      return;
    end if;
  end if;
  at := found_job.at;
  job := found_job.job;
  if task.id is distinct from job.task_id then
    task := offstage_private.task_of(job.task_id);
  end if;
end $$;

-- Ends jobs that are not running as completed, without running them. Running and unknown ones are left out.
create or replace function offstage.complete_jobs(job_ids bigint[]) returns setof offstage._private_jobs
language plpgsql as $$
declare
  seized record;
  j offstage_private.job;
  changed bigint[] := '{}';
begin
  for seized in select * from offstage_private.seize(job_ids) loop
    j := seized.job;
    delete from offstage_private.job o where o.ctid = seized.at;
    perform offstage_private.ended(j, seized.task, 'completed', null);
    changed := changed || j.id;
    return next offstage_private.job_row(j, seized.task);
  end loop;
  perform offstage_private.note('complete', null, changed, null, null, null);
end $$;

-- Sets jobs that are not running aside as failed, as if their last attempt had failed with this message. One that has failed already gets
-- the message, and nothing else.
create or replace function offstage.permanently_fail_jobs(job_ids bigint[], error_message text default null)
returns setof offstage._private_jobs
language plpgsql as $$
declare
  seized record;
  j offstage_private.job;
  changed bigint[] := '{}';
  failed_before boolean;
begin
  for seized in select * from offstage_private.seize(job_ids) loop
    j := seized.job;
    failed_before := j.failed;
    update offstage_private.job o
    set failed = true, attempts = offstage_private.attempts_of(j, seized.task), updated_at = now(), last_error = coalesce(error_message, 'Manually marked as failed'),
      fingerprint = offstage_private.fingerprint((seized.task).name, coalesce(error_message, 'Manually marked as failed'))
    where o.ctid = seized.at returning o.* into j;
    if not failed_before then
      perform offstage_private.ended(j, seized.task, 'failed', j.last_error);
    end if;
    changed := changed || j.id;
    return next offstage_private.job_row(j, seized.task);
  end loop;
  perform offstage_private.note('fail', null, changed, null, null, error_message);
end $$;

-- Records that a job that had failed is tried again by hand: what it was, and how.
create or replace function offstage_private.revived(j offstage_private.job, how text) returns void
language sql as $$
  insert into offstage_private.history (settled_at, job_id, added_at, run_at, task_id, queue_id, attempt, priority, outcome, key, error)
  values (offstage_private.clock(), j.id, j.added_at, j.run_at, j.task_id, j.queue_id, j.attempts, j.priority, 'retried', j.key, how)
$$;

-- Changes when and how often jobs that are not running are tried; null leaves a value. A failed job with attempts
-- left again is tried again. Raises 23514 for max_attempts below 1, 22003 beyond smallint.
create or replace function offstage.reschedule_jobs(
  job_ids bigint[],
  run_at timestamptz default null,
  priority integer default null,
  attempts integer default null,
  max_attempts integer default null
) returns setof offstage._private_jobs
language plpgsql as $$
declare
  seized record;
  j offstage_private.job;
  changed bigint[] := '{}';
  failed_before boolean;
begin
  for seized in select * from offstage_private.seize(job_ids) loop
    j := seized.job;
    failed_before := j.failed;
    j.run_at := coalesce(reschedule_jobs.run_at, j.run_at);
    j.priority := coalesce(reschedule_jobs.priority, j.priority);
    j.attempts := coalesce(reschedule_jobs.attempts, j.attempts);
    j.max_attempts := coalesce(reschedule_jobs.max_attempts, j.max_attempts);
    j.updated_at := now();
    if reschedule_jobs.attempts is not null or reschedule_jobs.max_attempts is not null then
      perform offstage_private.check_job(null, max_attempts, null, null);
      j.failed := false;
    end if;
    j.failed := j.failed or j.attempts >= offstage_private.attempts_of(j, seized.task);
    if not j.failed then
      j.crashes := 0;
    end if;
    update offstage_private.job o set run_at = j.run_at, priority = j.priority, attempts = j.attempts, max_attempts = j.max_attempts,
      updated_at = j.updated_at, failed = j.failed, crashes = j.crashes,
      fingerprint = case when j.failed and not failed_before
        then offstage_private.fingerprint((seized.task).name, coalesce(j.last_error, 'no attempts are left')) else o.fingerprint end
    where o.ctid = seized.at;
    if failed_before and not j.failed then
      perform offstage_private.revived(seized.job, 'rescheduled by hand');
      perform offstage_private.uncancel(j.id);  -- what came too late for the last attempt
    end if;
    if not j.failed then
      perform offstage_private.place(j, offstage_private.clock());
    elsif not failed_before then
      perform offstage_private.ended(j, seized.task, 'failed', coalesce(j.last_error, 'no attempts are left'));
    end if;
    changed := changed || j.id;
    return next offstage_private.job_row(j, seized.task);
  end loop;
  perform offstage_private.note('reschedule', null, changed, null, json_strip_nulls(json_build_object('run_at', reschedule_jobs.run_at,
    'priority', reschedule_jobs.priority, 'attempts', reschedule_jobs.attempts, 'max_attempts', reschedule_jobs.max_attempts)), null);
end $$;

-- Cancels jobs: waiting ones end at once, running ones are told and end as cancelled when their attempt stops (or
-- succeed, if they come first). Answers what happened to each that was found: cancelled or requested.
create or replace function offstage.cancel_jobs(job_ids bigint[], reason text default null) returns table (job_id bigint, answer text)
language plpgsql as $$
declare
  seized record;
  j offstage_private.job;
  waiting bigint[] := '{}';
  changed bigint[] := '{}';
begin
  for seized in select * from offstage_private.seize(job_ids) loop
    j := seized.job;
    waiting := waiting || j.id;
    if j.failed then  -- final already; keep it as it is
      continue;
    end if;
    delete from offstage_private.job o where o.ctid = seized.at;
    perform offstage_private.ended(j, seized.task, 'cancelled', coalesce(reason, 'cancelled by hand'));
    changed := changed || j.id;
    job_id := j.id; answer := 'cancelled';
    return next;
  end loop;
  for job_id in
    insert into offstage_private.cancellation as c (job_id, reason, requested_at)
    select u, coalesce(cancel_jobs.reason, 'cancelled by hand'), offstage_private.clock()
    from unnest(job_ids) u
    where u <> all (waiting) and case when offstage_private.serializable() then (offstage_private.look_apart(u)).id is not null
      else exists (select from offstage_private.job k where k.id = u) end
    on conflict on constraint cancellation_pkey do nothing returning c.job_id
  loop
    changed := changed || job_id;
    answer := 'requested';
    return next;
  end loop;
  if answer = 'requested' then
    perform pg_notify('offstage:cancel', 'offstage');
  end if;
  perform offstage_private.note('cancel', null, changed, null, null, reason);
end $$;

-- Forgets that a job was to be cancelled, and says why it was; null: it was not.
create or replace function offstage_private.uncancel(of_job bigint) returns text
language plpgsql as $$
declare
  forgotten record;
begin
  if offstage_private.serializable() then
    insert into offstage_private.cancellation as c (job_id, reason, requested_at) values (of_job, '', '-infinity')
    on conflict (job_id) do update set reason = c.reason returning c.ctid as at, c.reason, c.requested_at into forgotten;
    delete from offstage_private.cancellation c where c.ctid = forgotten.at;
    return case when forgotten.requested_at > '-infinity' then forgotten.reason end;
  end if;
  delete from offstage_private.cancellation c where c.job_id = of_job returning c.reason into forgotten;
  return forgotten.reason;
end $$;

-- Tries failed jobs again, from attempt 1, now; waiting ones run now instead of later. Running ones are left out.
create or replace function offstage.retry_jobs(job_ids bigint[]) returns setof offstage._private_jobs
language plpgsql as $$
declare
  seized record;
  j offstage_private.job;
  changed bigint[] := '{}';
begin
  for seized in select * from offstage_private.seize(job_ids) loop
    j := seized.job;
    if j.failed then
      perform offstage_private.revived(j, 'by hand');
    end if;
    update offstage_private.job o set failed = false, attempts = case when o.failed then 0 else o.attempts end, crashes = 0,
      run_at = least(o.run_at, now()), updated_at = now()
    where o.ctid = seized.at returning o.* into j;
    perform offstage_private.uncancel(j.id);  -- what came too late for the last attempt
    perform offstage_private.place(j, greatest(offstage_private.clock(), j.run_at));
    changed := changed || j.id;
    return next offstage_private.job_row(j, seized.task);
  end loop;
  perform offstage_private.note('retry', null, changed, null, null, null);
end $$;

-- Deletes jobs that are not running, failed ones too; history says removed. Answers the ids.
create or replace function offstage.delete_jobs(job_ids bigint[]) returns setof bigint
language plpgsql as $$
declare
  seized record;
  j offstage_private.job;
  changed bigint[] := '{}';
begin
  for seized in select * from offstage_private.seize(job_ids) loop
    j := seized.job;
    delete from offstage_private.job o where o.ctid = seized.at;
    perform offstage_private.ended(j, seized.task, 'removed', null);
    changed := changed || j.id;
    return next j.id;
  end loop;
  perform offstage_private.note('delete', null, changed, null, null, null);
end $$;

-- The settings of a queue, locked, and where they are; it is made, with its settings, when it is new.
create or replace function offstage_private.locked_queue(queue_name text, out at tid, out was offstage_private.queue_setting)
language sql as $$
  insert into offstage_private.queue_setting as o (queue_id) values (offstage_private.queue_id(queue_name))
  on conflict (queue_id) do update set paused = o.paused returning o.ctid, o
$$;

-- Has the jobs of a queue looked at again, within milliseconds.
create or replace function offstage_private.look_again(queue_id integer) returns void
language sql as $$
  insert into offstage_private.handover (queue_id, due_at) values (look_again.queue_id, offstage_private.clock());
  select pg_notify('offstage:due', 'offstage');
$$;

-- Stops a queue: its waiting jobs stay, running ones finish. The queue is made when it is new.
create or replace function offstage.pause_queue(queue_name text) returns void
language plpgsql as $$
declare
  q record := offstage_private.locked_queue(queue_name);
begin
  if not (q.was).paused then
    update offstage_private.queue_setting o set paused = true where o.ctid = q.at;
    perform offstage_private.note('pause', 'queue ' || queue_name, null, null, null, null);
  end if;
end $$;

-- Lets a paused queue go on: its jobs get their turns again within milliseconds.
create or replace function offstage.resume_queue(queue_name text) returns void
language plpgsql as $$
declare
  q record := offstage_private.locked_queue(queue_name);
begin
  if (q.was).paused then
    update offstage_private.queue_setting o set paused = false where o.ctid = q.at;
    perform offstage_private.note('resume', 'queue ' || queue_name, null, null, null, null);
  end if;
  perform offstage_private.look_again((q.was).queue_id);
end $$;

-- Sets how many jobs of a queue may run at a time, over all workers; 1 by default. Raises 23514 below 1.
create or replace function offstage.configure_queue(queue_name text, concurrency integer) returns void
language plpgsql as $$
declare
  q record := offstage_private.locked_queue(queue_name);
begin
  if coalesce(configure_queue.concurrency < 1, true) then
    raise check_violation using message = format('the concurrency is %s, at least 1 is needed', coalesce(configure_queue.concurrency::text, 'null')), constraint = 'queue_setting_concurrency_check';
  end if;
  update offstage_private.queue_setting o set concurrency = configure_queue.concurrency where o.ctid = q.at;
  perform offstage_private.note('configure', 'queue ' || queue_name, null, json_build_object('concurrency', (q.was).concurrency),
    json_build_object('concurrency', configure_queue.concurrency), null);
  perform offstage_private.look_again((q.was).queue_id);
end $$;

-- A task, locked, and where it is; it is made when it is new. Raises what task_id() raises.
create or replace function offstage_private.locked_task(task text, out at tid, out was offstage_private.task)
language plpgsql as $$
declare
  found_task record;
begin
  if task is null or length(task) > 128 then
    perform offstage_private.task_id(task);  -- raises
  end if;
  insert into offstage_private.task as o (name) values (task)
  on conflict (name) do update set revision = o.revision returning o.ctid, o as task into found_task;
  at := found_task.ctid;
  was := found_task.task;
end $$;

-- Stops a task: its jobs are not claimed any more; running ones finish.
create or replace function offstage.pause_task(task text) returns void
language plpgsql as $$
declare
  t record := offstage_private.locked_task(task);
begin
  if not (t.was).paused then
    update offstage_private.task o set paused = true, revision = o.revision + 1 where o.ctid = t.at;
    perform offstage_private.note('pause', 'task ' || task, null, null, null, null);
  end if;
end $$;

-- Lets a paused task go on.
create or replace function offstage.resume_task(task text) returns void
language plpgsql as $$
declare
  t record := offstage_private.locked_task(task);
begin
  if (t.was).paused then
    update offstage_private.task o set paused = false, revision = o.revision + 1 where o.ctid = t.at;
    perform offstage_private.note('resume', 'task ' || task, null, null, null, null);
  end if;
  perform pg_notify('offstage:wake', 'offstage');
end $$;

-- What is set on a task, as configure_task() takes it.
create or replace function offstage_private.settings_of(t offstage_private.task) returns json
language sql stable as $$
  select json_build_object('max_attempts', t.max_attempts, 'retry', t.retry, 'timeout', t.timeout, 'keep', t.keep)
$$;

-- Changes the settings of a task: {"max_attempts": 5, "retry": {"policy": "fixed", "delay": "10 s"}, "timeout": "30 s",
-- "keep": "failures"}. What is not named stays; null takes the default again. Raises 22023, 23514.
create or replace function offstage.configure_task(task text, settings json) returns void
language plpgsql as $$
declare
  t record := offstage_private.locked_task(task);
  new offstage_private.task := offstage_private.with_settings(t.was, settings::jsonb);
begin
  if new is distinct from t.was then
    update offstage_private.task o
    set max_attempts = new.max_attempts, retry = new.retry, timeout = new.timeout, keep = new.keep, revision = new.revision where o.ctid = t.at;
  end if;
  perform offstage_private.note('configure', 'task ' || task, null, offstage_private.settings_of(t.was), offstage_private.settings_of(new), null);
end $$;

-- Drains a worker: it claims nothing more, gives back what it has claimed and not started, finishes what runs, and stays, until
-- undrain_worker(). With stop it ends then, as if its process had been told to with SIGTERM: when what runs has finished, or its grace
-- period is over. Answers at once; the worker heeds it within milliseconds of the commit, the view workers says when. Who starts
-- programs anew that have ended (systemd, Kubernetes) may do so here, too. False: no worker of this id lives. Locks no row of the worker.
create or replace function offstage.drain_worker(worker_id integer, stop boolean default false) returns boolean
language plpgsql as $$
begin
  if not exists (select from offstage_private.worker w where w.id = drain_worker.worker_id and w.dead_at is null) then
    return false;
  end if;
  insert into offstage_private.wish as o (worker_id, wanted) values (drain_worker.worker_id, case when stop then 'stop' else 'drain' end)
  on conflict on constraint wish_pkey do update set wanted = 'stop' where excluded.wanted = 'stop' and o.wanted <> 'stop';
  if found then
    perform offstage_private.note(case when stop then 'stop' else 'drain' end, 'worker ' || drain_worker.worker_id, null, null, null, null);
    perform pg_notify('offstage:cancel', 'offstage');
  end if;
  return true;
end $$;

-- Lets a drained worker go on. False: no worker of this id lives. Raises 55006 for one that was told to stop: it cannot be called back.
create or replace function offstage.undrain_worker(worker_id integer) returns boolean
language plpgsql as $$
begin
  if not exists (select from offstage_private.worker w where w.id = undrain_worker.worker_id and w.dead_at is null) then
    return false;
  end if;
  delete from offstage_private.wish o where o.worker_id = undrain_worker.worker_id and o.wanted = 'drain';
  if found then
    perform offstage_private.note('resume', 'worker ' || undrain_worker.worker_id, null, null, null, null);
    perform pg_notify('offstage:cancel', 'offstage');
  elsif exists (select from offstage_private.wish o where o.worker_id = undrain_worker.worker_id) then
    raise object_in_use using message = format('worker %s was told to stop', undrain_worker.worker_id),
      hint = 'It cannot be called back: start another one.';
  end if;
  return true;
end $$;

-- All jobs that have not ended. The first fifteen columns are graphile_worker's.
create or replace view offstage.jobs as
  select j.id, q.name as queue_name, t.name as task_identifier, j.priority, j.run_at,
    (j.attempts + (l.claim is not null)::integer)::smallint as attempts,
    coalesce(j.max_attempts, t.max_attempts, 25::smallint) as max_attempts,
    j.last_error, j.added_at as created_at, j.updated_at, j.key, l.claimed_at as locked_at, 'worker-' || l.worker_id as locked_by,
    j.revision, j.flags,
    offstage_private.state_of(j) as state, j.crashes
  from offstage_private.job j
  join offstage_private.task t on t.id = j.task_id
  left join offstage_private.queue q on q.id = j.queue_id
  left join (
    select e.claim, e.worker_id, e.claimed_at, x.job_id from offstage_private.lease e cross join lateral unnest(e.job_ids) x (job_id)
  ) l on l.job_id = j.id and l.claim > j.released_claim;

-- Queues with what is in them. Counts stop at 10,000.
create or replace view offstage.queues as
  select q.name as queue_name, coalesce(s.concurrency, 1) as concurrency, coalesce(s.paused, false) as paused, cardinality(u.claims) as running,
    (select count(*) from (select from offstage_private.parked p where p.queue_id = q.id limit 10000) x) as parked
  from offstage_private.queue q
  join offstage_private.queue_state u on u.queue_id = q.id
  left join offstage_private.queue_setting s on s.queue_id = q.id;

-- Workers that live, or died lately. A draining one claims nothing more; wanted is what somebody wants of it: drain, stop or null.
-- deaf_since: since when notifications do not reach it, so that it starts jobs only when it polls; null: they do.
create or replace view offstage.workers as
  select w.id as worker_id, 'worker-' || w.id as name, w.host, w.pid, w.version, w.slots, w.started_at, w.beat_at, w.dead_at,
    case when w.dead_at is not null then 'dead' when w.beat_at < offstage_private.clock() - 5 * w.period then 'silent'
      when w.draining then 'draining' else 'alive' end as state,
    array(select t.name from offstage_private.task t where t.id = any (w.tasks) order by t.name) as tasks,
    (select count(*) from offstage_private.lease l cross join lateral unnest(l.job_ids) x (id)
     join offstage_private.job j on j.id = x.id and j.released_claim < l.claim where l.worker_id = w.id) as running,
    (select o.wanted from offstage_private.wish o where o.worker_id = w.id and w.dead_at is null) as wanted,
    case when w.dead_at is null then w.deaf_since end as deaf_since
  from offstage_private.worker w;

-- The payload of a job that has not ended. The view jobs leaves it out, because payloads are wide and may be secret.
create or replace function offstage.job_payload(job_id bigint) returns json
language sql stable as $$ select j.payload from offstage_private.job j where j.id = job_payload.job_id $$;
