-- Workers are drained and stopped from outside. Makes one new table; takes no lock that anybody else waits for, and is safe under load.

-- What somebody wants of a worker that lives; its heartbeats tell it. Not in the worker's own row: a caller's open transaction would
-- hold up its beats, and so end its attempts. What is left of workers that are gone, tidy() forgets.
create table offstage_private.wish (
  worker_id integer primary key,  -- heartbeat()
  wanted text not null            -- drain or stop
) with (fillfactor = 50);
drop function if exists offstage.heartbeat(integer, boolean);  -- answers "wanted"
drop function if exists offstage_private.paused_by(text);       -- is done_by()
