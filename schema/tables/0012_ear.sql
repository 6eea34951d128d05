-- Workers say since when they hear no notifications. Adds a column, which rewrites nothing: locks the table of workers for a
-- moment, so that their heartbeats wait for it, and is safe under load. Workers of the version before say nothing, and go on.

-- Since when notifications that the worker sends to itself have not come back; null: they do, or it does not say. heartbeat()
alter table offstage_private.worker add column deaf_since timestamptz;
drop function if exists offstage.heartbeat(integer, boolean);  -- gets "deaf"
