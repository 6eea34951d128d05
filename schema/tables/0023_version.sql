-- What SERIALIZABLE callers look up, because others lock or change the rows of tasks and queues: see functions/00_apart.sql. Waits for whoever is just making or changing one, and
-- keeps others from it for a moment. Workers of the version before go on as they were.

-- Names of tasks and queues. Nobody changes these rows or keeps them locked.
create table offstage_private.name (
  kind text not null,                                 -- task or queue
  name text not null,
  id integer not null,
  primary key (kind, name)
);

-- What tasks have been, all revisions of each. Nobody changes these rows or keeps them locked.
create table offstage_private.task_version (
  like offstage_private.task,
  primary key (id, revision)
);

create function offstage_private.keep_version() returns trigger language plpgsql as $$ begin return null; end $$;  -- see functions/00_apart.sql
create function offstage_private.keep_name() returns trigger language plpgsql as $$ begin return null; end $$;

create trigger keep_version after insert or update on offstage_private.task for each row execute function offstage_private.keep_version();
create trigger keep_name after insert on offstage_private.task for each row when (new.id > 0) execute function offstage_private.keep_name('task');
create trigger keep_name after insert on offstage_private.queue for each row execute function offstage_private.keep_name('queue');

insert into offstage_private.name (kind, name, id)
select 'task', t.name, t.id from offstage_private.task t union all select 'queue', q.name, q.id from offstage_private.queue q;

insert into offstage_private.task_version
select (jsonb_populate_record(t, jsonb_build_object('revision', n))).* from offstage_private.task t cross join lateral generate_series(0, t.revision) n;

drop function if exists offstage_private.queue_apart(text);
