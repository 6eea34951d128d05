-- Stage 3, sooner: offer. A worker that sleeps offers a slot. Who adds a job takes the offer, and claims the job for that worker when
-- the transaction commits: the worker starts it as soon as it hears of it, without asking first. Where there is no offer, or nothing comes of it, the
-- worker is woken and claims.
--
-- An offer is a row that says what the worker performs, and a shared advisory lock of its session, (schema, -1000 - worker), which goes with
-- the process. Nobody waits for either: an offer that an open transaction has taken is left alone by all others, its worker included.

-- Makes the session one of which offers are made, as long as it lasts.
create or replace function offstage.offer_lock(worker_id integer) returns void
language sql as $$ select pg_advisory_lock_shared(hashtext('offstage'), -1000 - worker_id) $$;

-- Offers a slot of this worker for jobs of these tasks, to be heard of on this channel; channel null takes the offer back. False: there was no
-- offer, or somebody has taken it, of which the worker hears, or has heard. Offers rest while dead rows are kept, because each add would step over
-- all of them.
--
-- The notification is the job: {"claim": 1025, "job_id": 7, "task_id": 1, "priority": 0, "run_at": 1767225600.25, "added_at": 1767225600.25, "max_attempts": null,
-- "timeout": null, "traceparent": null, "expired": null, "place": "(0,1)", "payload": {}}, times and timeout in seconds, place what claim() calls job_ctid; it is the first attempt. The
-- channel's name must be a secret. A worker that is told of a claim that it has given back (recall) must not start it.
create or replace function offstage.offer(worker_id integer, channel text, task_ids integer[]) returns boolean
language plpgsql as $$
#variable_conflict use_column
declare
  was record;
  opens boolean := channel is not null and pg_relation_size('offstage_private.offer') < 262144;
begin
  select o.ctid as place, o.open into was from offstage_private.offer o where o.worker_id = offer.worker_id for update skip locked;
  if found then
    if was.open <> opens then
      update offstage_private.offer o
      set open = opens, job_id = null, channel = coalesce(offer.channel, o.channel), task_ids = coalesce(offer.task_ids, o.task_ids) where o.ctid = was.place;
    end if;
    return was.open;
  end if;
  if opens then  -- the first one, or somebody is just taking it
    insert into offstage_private.offer (worker_id, open, channel, task_ids)
    select offer.worker_id, true, offer.channel, offer.task_ids
    where not exists (select from offstage_private.offer o where o.worker_id = offer.worker_id);
  end if;
  return false;
end $$;

-- Takes an offer for a new job, if there is one, which takes the place of its ticket: so until the commit the job is in "offstage.offered", which knows only this transaction.
-- Not in REPEATABLE READ, where a row that others have changed is an error, nor where triggers do not fire. Of the payload, what fits into a notification.
create or replace function offstage_private.take_offer(new offstage_private.job) returns boolean
language plpgsql as $$
declare
  offered text;
begin
  if new.lane_id <> new.task_id or new.queue_id is not null or octet_length(new.payload::text) > 4000
    or current_setting('transaction_isolation') <> 'read committed' or current_setting('session_replication_role') <> 'origin' then
    return false;
  end if;
  -- First, because constraints may be immediate. Such as ",1,2,".
  offered := set_config('offstage.offered', coalesce(nullif(current_setting('offstage.offered', true), ''), ',') || new.id || ',', true);
  update offstage_private.offer o set open = false, job_id = new.id where o.ctid = any (array(
    select p.ctid from offstage_private.offer p
    where p.open and new.task_id = any (p.task_ids) and offstage_private.is_locked(-1000 - p.worker_id)
    limit 1 for update skip locked));
  return found or not offstage_private.withdraw(new.id);
end $$;

-- At the commit of a transaction that has taken an offer: what claim() would do, for the worker that made it. A job that has got another place, or is
-- gone, because the transaction has thought better of it, leaves the offer as it was. With the owner's rights, because at a commit nobody knows any more which function
-- has added. Nothing may fail here that a claim would not fail of: the transaction would.
create or replace function offstage_private.give() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp set jit = off set enable_seqscan = off set enable_bitmapscan = off  -- of tables that were empty when the plan was made
as $$
declare
  at timestamptz := offstage_private.clock();
  lease bigint := nextval('offstage_private.claim');
  j record;
  ours boolean := offstage_private.withdraw(new.job_id);
  given boolean := false;
  told text;
begin
  if not ours then  -- or the setting was reset
    ours := exists (select from offstage_private.job k where k.id = new.job_id and offstage_private.state_of(k) = 'running' and not exists (select from offstage_private.lease_of(k)));
  end if;
  if ours then
    select k as job, k.ctid as place, t.paused into j from offstage_private.job k join offstage_private.task t on t.id = k.task_id where k.id = new.job_id;
    if not j.paused then
      insert into offstage_private.lease (claim, worker_id, claimed_at, job_ids)
      select lease, w.id, at, array[new.job_id] from offstage_private.worker w where w.id = new.worker_id and w.dead_at is null for key share skip locked;
      given := found;
    end if;
    if given then
      told := json_build_object(
        'claim', lease + 1, 'job_id', (j.job).id, 'task_id', (j.job).task_id, 'priority', (j.job).priority,
        'run_at', case when isfinite((j.job).run_at) then extract(epoch from (j.job).run_at) end, 'added_at', extract(epoch from (j.job).added_at),
        'max_attempts', (j.job).max_attempts, 'timeout', extract(epoch from ((j.job).options ->> 'timeout')::interval), 'traceparent', (j.job).options ->> 'traceparent',
        'expired', ((j.job).options ->> 'expires_at')::timestamptz <= at, 'place', j.place, 'payload', (j.job).payload);
      if octet_length(told) < 7900 then
        perform pg_notify(new.channel, told);
        return null;
      end if;
      delete from offstage_private.lease l where l.claim = lease;
    end if;
    if j.place is not null then  -- as if there had been no offer: it is paused, the worker is dead or just being declared so, or what it is to be told is too long
      perform offstage_private.place(j.job, at);
    end if;
    if not j.paused then
      return null;
    end if;
  end if;
  update offstage_private.offer o set open = true, job_id = null where o.worker_id = new.worker_id and o.job_id = new.job_id;
  perform pg_notify('offstage:wake', 'offstage');  -- it may have a ticket by now
  return null;
end $$;
