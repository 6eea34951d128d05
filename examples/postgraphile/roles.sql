-- Three roles, as most PostGraphile projects have them. Run as a superuser, once.

-- Owns the database and everything in it; migrations and workers connect as this one. Row-level security does not
-- hold for the owner of a table, so that a worker sees the rows of everybody.
create role app_owner login;

-- What PostGraphile connects as. It has no rights of its own (noinherit): it becomes app_person for each request.
create role app_server login noinherit;

-- The person who is signed in.
create role app_person;
grant app_person to app_server;
