-- The application: people ask for reports about sales, and see their own. Run as app_owner, after
-- "offstage migrate --schema graphile_worker".

create schema app_public;  -- what PostGraphile shows
create schema app_private; -- what it does not
grant usage on schema app_public to app_person;

-- Who it is: the claim "person_id" of the token, which the server puts into each transaction's settings.
create function app_public.current_person_id() returns bigint
language sql stable as $$
  select nullif(current_setting('jwt.claims.person_id', true), '')::bigint
$$;

create table app_public.person (
  id bigint generated always as identity primary key,
  name text not null unique
);
alter table app_public.person enable row level security;
create policy oneself on app_public.person for select using (id = app_public.current_person_id());
grant select on app_public.person to app_person;

-- A report is asked for by inserting its row; the job fills it in.
create table app_public.report (
  id bigint generated always as identity primary key,
  person_id bigint not null default app_public.current_person_id() references app_public.person on delete cascade,
  city text not null,
  requested_at timestamptz not null default now(),
  job_id bigint,
  result json,
  finished_at timestamptz
);
create index on app_public.report (person_id);
alter table app_public.report enable row level security;
create policy own on app_public.report for select using (person_id = app_public.current_person_id());
create policy ask on app_public.report for insert with check (person_id = app_public.current_person_id());
grant select, insert (city) on app_public.report to app_person; -- the rest of a row is not a client's business

create table app_private.sale (
  id bigint generated always as identity primary key,
  city text not null,
  product text not null,
  cents integer not null
);
create index on app_private.sale (city);

-- How PostGraphile names the row in its global node ids: ["Report", "17"] is PostGraphile 5 with the Amber preset, where
-- a bigint is a string. (v4/node.sql has the form of PostGraphile 4.)
create function app_private.report_node(id bigint) returns json
language sql immutable as $$
  select json_build_array('Report', id::text)
$$;

-- Adds the job in the transaction of the mutation: there is never a row without its job, nor a job without its row.
-- security definer: app_person may not call add_job, and does here with the rights of app_owner.
create function app_private.report_asked() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  new.job_id := (graphile_worker.add_job(
    'sales_report',
    json_build_object('report_id', new.id),
    notify_channel => 'postgraphile:person:' || new.person_id, -- the topic "person:17" of listen()
    options => json_build_object('notify_node', app_private.report_node(new.id))
  )).id;
  return new;
end $$;
create trigger report_asked before insert on app_public.report for each row execute function app_private.report_asked();

-- A computed column: where the job is (waiting, scheduled for its next attempt, running …), and how it ended (succeeded,
-- failed, cancelled). History forgets a job after a week; the finished row does not.
create function app_public.report_status(report app_public.report) returns text
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
  select coalesce(
    (select coalesce(s.outcome, s.state) from graphile_worker.job_status(report.job_id) s),
    case when report.finished_at is not null then 'succeeded' end)
$$;

-- Functions belong to everybody until somebody says otherwise.
revoke execute on all functions in schema app_public, app_private from public;
grant execute on all functions in schema app_public to app_person;

insert into app_public.person (name) values ('ada'), ('bob');
insert into app_private.sale (city, product, cents)
select (array['Oslo', 'Lima', 'Kyoto'])[1 + n % 3], (array['tea', 'cups', 'kettles', 'spoons'])[1 + n % 5 % 4], 100 + n % 7 * 50
from generate_series(0, 11999) n;
