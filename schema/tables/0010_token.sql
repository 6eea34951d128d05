-- Bearer tokens of the HTTP API. Makes one new table; takes no lock that anybody else waits for, and is safe under load.

-- Of a secret only its SHA-256 is kept: it is random and long, so that nobody finds it by trying. A token that was revoked or has
-- expired stays, to be seen, until another one takes its name.
create table offstage_private.token (
  id integer generated always as identity primary key,
  name text not null unique check (name ~ '^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$'),
  role text not null check (role in ('viewer', 'operator', 'admin')),
  hash bytea not null unique check (octet_length(hash) = 32),  -- token_role()
  created_at timestamptz not null,
  created_by text not null,
  last_used_at timestamptz,                                    -- to the minute
  expires_at timestamptz,                                      -- null: never
  revoked_at timestamptz
) with (fillfactor = 50);
