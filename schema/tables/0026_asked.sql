-- force_unlock_workers of workers that live, by REPEATABLE READ callers. Makes one new table; takes no lock that anybody else waits for, and is safe under load.

-- Workers whose jobs somebody wants taken away who could not do it: unlock_workers(). Only added to and, by rescue(), taken from: nothing here can be changed by two.
create table offstage_private.unlock (
  worker_id integer not null
);
