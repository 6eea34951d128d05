-- Who changed what. Functions that people use to change something by hand note it, in the transaction of the change; what workers
-- do by themselves is not noted.

-- What is done by hand, as the audit calls it.
create or replace function offstage_private.audit_actions() returns text[]
language sql immutable as $$
  select '{add,bulk cancel,bulk delete,bulk reschedule,bulk retry,cancel,change,complete,configure,create token,delete,drain,duplicate,edit,fail,pause,remove,reschedule,'
    'resume,retry,revoke token,run,stop,unlock}'::text[]
$$;

-- JSON of at most "room" bytes, at least 200, which says what was cut. It stays JSON, with the keys that lead to what is left: what is hidden by its key
-- stays hidden. depth is how deep this one is in another.
create or replace function offstage_private.cut_json(value json, room integer, depth integer default 0) returns json
language plpgsql immutable as $$
#variable_conflict use_variable
declare
  size integer := octet_length(value::text);
  kind text := json_typeof(value);
  kept text := '';
  name text;
  item record;
begin
  if value is null or size <= room then
    return value;
  end if;
  if kind = 'string' then
    kept := left(value #>> '{}', room);
    while octet_length(to_json(kept)::text) > room - 50 loop
      kept := left(kept, length(kept) * 3 / 4);
    end loop;
    return to_json(kept || offstage_private.cut_mark(size - octet_length(kept)));
  elsif kind in ('object', 'array') and depth < 16 then
    for item in
      select o.key, o.value from json_each(case kind when 'object' then value else '{}' end) o
      union all select null, a.value from json_array_elements(case kind when 'array' then value else '[]' end) a
    loop
      name := coalesce(to_json(item.key)::text || ':', '');
      if octet_length(kept) + octet_length(name) > room - 200 then
        name := case kind when 'object' then '"…":' else '' end || to_json(trim(offstage_private.cut_mark(size - octet_length(kept))))::text;
        kept := kept || case when kept = '' then '' else ',' end || name;
        exit;
      end if;
      kept := kept || case when kept = '' then '' else ',' end || name || offstage_private.cut_json(item.value, room - octet_length(kept) - octet_length(name) - greatest(100, least(1000, room / 8)), depth + 1);
    end loop;
    return case kind when 'object' then '{' || kept || '}' else '[' || kept || ']' end;
  end if;
  return to_json(trim(offstage_private.cut_mark(size)));
exception when untranslatable_character then  -- U+0000 in a text
  return to_json(trim(offstage_private.cut_mark(size)));
end $$;

create or replace function offstage_private.cut_mark(bytes integer) returns text
language sql immutable as $$ select ' … ' || trim(to_char(bytes, '999,999,999,999')) || ' bytes were cut' $$;

-- Notes one change; of jobs, as one entry however many they are: without ids there was nothing to change, and nothing is noted.
-- Who did it, and from where, says the setting offstage.actor of the session or transaction, {"who": …, "source": ui, api or
-- cli, "from": …}; without it, the session's user and address. It is a note, no proof: whoever may call may set it. With "noted":
-- true, the change is a part of one that is noted already. Of before and after, 16 KiB each are kept.
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
    ids[1:1000], coalesce(cardinality(ids), 1), offstage_private.cut_json(before, 16384), offstage_private.cut_json(after, 16384), reason);
end $$;

-- When and by whom this was last done to something, as words to go behind "is paused"; '' if nobody knows.
create or replace function offstage_private.done_by(target text, action text) returns table (since timestamptz, words text)
language sql stable as $$
  select a.at, format(' since %s by %s (%s%s)', offstage_private.moment(a.at), a.who, a.source, coalesce(', ' || nullif(a.from_where, ''), ''))
  from offstage_private.audit a
  where a.target = done_by.target and a.action = done_by.action order by a.id desc limit 1
$$;

-- What people have changed, the latest first: of one target ("queue x", "task y", "schedule z", "worker 3", "job 7"), by one, or of one action,
-- if wanted. For the next page give the id of the last row as before_id. ids are the first 1000 jobs of n. before and after are cut after
-- 16 KiB, and say so. A filter looks at 20,000 entries and not further. Entries are kept for 90 days. Raises 22023 for an action that there is
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
