-- Who changed what. Functions that people use to change something by hand note it, in the transaction of the change; what workers
-- do by themselves is not noted.

-- What is done by hand, as the audit calls it.
create or replace function offstage_private.audit_actions() returns text[]
language sql immutable as $$
  select '{add,bulk cancel,bulk delete,bulk reschedule,bulk retry,cancel,change,complete,configure,create token,delete,drain,duplicate,edit,fail,pause,remove,reschedule,'
    'resume,retry,revoke token,run,stop,unlock}'::text[]
$$;

-- Notes one change; of jobs, as one entry however many they are: without ids there was nothing to change, and nothing is noted.
-- Who did it, and from where, says the setting offstage.actor of the session or transaction, {"who": …, "source": ui, api or
-- cli, "from": …}; without it, the session's user and address. It is a note, no proof: whoever may call may set it. With "noted":
-- true, the change is a part of one that is noted already.
create or replace function offstage_private.note(action text, target text, ids bigint[], before json, after json, reason text) returns void
language plpgsql as $$
declare
  actor json := '{}';
begin
  if ids = '{}' then
    return;
  end if;
  begin
    actor := coalesce(nullif(current_setting('offstage.actor', true), ''), '{}')::json;
    if json_typeof(actor) <> 'object' then
      actor := '{}';
    end if;
  exception when invalid_text_representation then
    null;
  end;
  if actor ->> 'noted' = 'true' then
    return;
  end if;
  insert into offstage_private.audit (at, who, source, from_where, action, target, ids, n, before, after, reason)
  values (offstage_private.clock(), coalesce(actor ->> 'who', session_user), coalesce(actor ->> 'source', 'sql'),
    coalesce(actor ->> 'from', host(inet_client_addr()), 'local'), action,
    coalesce(target, case when cardinality(ids) = 1 then 'job ' || ids[1] else cardinality(ids) || ' jobs' end),
    ids[1:1000], coalesce(cardinality(ids), 1), before, after, reason);
end $$;

-- When and by whom this was last done to something, as words to go behind "is paused"; '' if nobody knows.
create or replace function offstage_private.done_by(target text, action text) returns table (since timestamptz, words text)
language sql stable as $$
  select a.at, format(' since %s by %s (%s%s)', offstage_private.moment(a.at), a.who, a.source, coalesce(', ' || nullif(a.from_where, ''), ''))
  from offstage_private.audit a
  where a.target = done_by.target and a.action = done_by.action order by a.id desc limit 1
$$;

-- What people have changed, the latest first: of one target ("queue x", "task y", "schedule z", "worker 3", "job 7"), by one, or of one action,
-- if wanted. For the next page give the id of the last row as before_id. ids are the first 1000 jobs of n. A filter looks at 20,000 entries and not further. Entries are kept for 90 days. Raises 22023 for an action that there is
-- not. Locks nothing.
create or replace function offstage.audit(
  of_target text default null,
  of_who text default null,
  of_action text default null,
  before_id bigint default null,
  max_rows integer default 100
) returns table (
  id bigint, at timestamptz, who text, source text, from_where text, action text, target text, ids bigint[], n bigint,
  before json, after json, reason text
)
language plpgsql stable
set jit = off set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off
as $$
#variable_conflict use_column
begin
  if not of_action = any (offstage_private.audit_actions()) then
    raise invalid_parameter_value using message = format('there is no action %L', of_action),
      hint = 'Actions: ' || array_to_string(offstage_private.audit_actions(), ', ') || '.';
  end if;
  return query
    select x.id, x.at, x.who, x.source, x.from_where, x.action, x.target, x.ids, x.n, x.before, x.after, x.reason
    from (
      (select a.* from offstage_private.audit a where a.id < coalesce(before_id, 9223372036854775807) and a.target = of_target order by a.id desc limit 20000)
      union all
      (select a.* from offstage_private.audit a where a.id < coalesce(before_id, 9223372036854775807) and of_target is null order by a.id desc limit 20000)
    ) x
    where (of_who is null or x.who = of_who) and (of_action is null or x.action = of_action)
    order by x.id desc limit least(greatest(max_rows, 1), 1000);
end $$;
