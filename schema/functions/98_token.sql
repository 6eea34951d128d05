-- Tokens of the HTTP API. They are made and revoked here, and looked up with every request that carries one.

-- Makes a bearer token for the HTTP API and answers its secret, which is kept nowhere: only its SHA-256 is. role is viewer,
-- operator or admin; without expires it is good until it is revoked. The name of a token that was revoked or has expired may be
-- used again. Locks the row of that name. Raises 22023 (name, role, expires), 23505 for a name that is in use.
create or replace function offstage.create_token(name text, role text, expires interval default null) returns text
language plpgsql as $$
declare
  at timestamptz := offstage_private.clock();
  -- The server's random numbers, twice 122 bits of them. It is made here so that no statement, and no log of one, has it in it.
  secret text := 'ost_' || replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', '');
begin
  if name is null or name !~ '^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$' then
    raise invalid_parameter_value using message = format('the name of a token is %L', left(name, 100)),
      hint = 'Expected 1 to 64 letters, digits and ._@-, beginning with a letter or a digit.';
  elsif role is null or role not in ('viewer', 'operator', 'admin') then
    raise invalid_parameter_value using message = format('the role of a token is %L', left(role, 100)), hint = 'Expected viewer, operator or admin.';
  elsif expires <= interval '0' or expires > interval '36500 days' then
    raise invalid_parameter_value using message = format('a token cannot expire after %s', expires),
      hint = 'Expected a positive interval, such as "90 days", of at most 100 years; leave it out for a token that does not expire.';
  end if;
  insert into offstage_private.token as t (name, role, hash, created_at, created_by, expires_at)
  values (create_token.name, create_token.role, sha256(convert_to(secret, 'UTF8')), at, session_user, at + expires)
  on conflict on constraint token_name_key do update
  set role = excluded.role, hash = excluded.hash, created_at = excluded.created_at, created_by = excluded.created_by, expires_at = excluded.expires_at,
    last_used_at = null, revoked_at = null
  where t.revoked_at is not null or t.expires_at <= at;
  if not found then
    raise unique_violation using message = format('there is a token %L', name), constraint = 'token_name_key',
      hint = 'Choose another name, or revoke that one: select offstage.revoke_token(…).';
  end if;
  perform offstage_private.note('create token', 'token ' || name, null, null, json_build_object('role', role, 'expires_at', at + expires), null);
  return secret;
end $$;

-- Takes a token back: the next request with it is refused. Answers whether it was good until now. Locks its row. Raises OS004
-- when there is none of that name.
create or replace function offstage.revoke_token(name text) returns boolean
language plpgsql as $$
declare
  at timestamptz := offstage_private.clock();
  t offstage_private.token;
begin
  select o.* into t from offstage_private.token o where o.name = revoke_token.name for update;
  if not found then
    raise exception using errcode = 'OS004', message = format('there is no token %L', name), hint = 'select name from offstage.tokens';
  elsif t.revoked_at is not null then
    return false;
  end if;
  update offstage_private.token o set revoked_at = at where o.id = t.id;
  perform offstage_private.note('revoke token', 'token ' || name, null, json_build_object('role', t.role, 'expires_at', t.expires_at), null, null);
  return t.expires_at is null or t.expires_at > at;
end $$;

-- Whose token has this SHA-256, and their role; no row when there is none, or it is good no more. Notes that it was used, once a
-- minute, and only where that waits for nobody and the server may be written to.
create or replace function offstage_private.token_role(hash bytea) returns table (name text, role text)
language plpgsql as $$
declare
  at timestamptz := offstage_private.clock();
  t offstage_private.token;
begin
  select o.* into t from offstage_private.token o
  where o.hash = token_role.hash and o.revoked_at is null and (o.expires_at is null or o.expires_at > at);
  if not found then
    return;
  end if;
  if (t.last_used_at is null or t.last_used_at < at - interval '1 min') and current_setting('transaction_read_only') = 'off' then
    update offstage_private.token o set last_used_at = at
    where o.ctid = any (array(select u.ctid from offstage_private.token u where u.id = t.id for update skip locked));
  end if;
  name := t.name; role := t.role;
  return next;
end $$;

-- The tokens of the HTTP API, without what could be used to log in. state is active, expired or revoked; last_used_at is exact to
-- the minute.
create or replace view offstage.tokens as
select t.name, t.role,
  case when t.revoked_at is not null then 'revoked' when t.expires_at <= offstage_private.clock() then 'expired' else 'active' end as state,
  t.created_at, t.created_by, t.last_used_at, t.expires_at, t.revoked_at
from offstage_private.token t;
