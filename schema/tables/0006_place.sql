-- Where the place of a job with a key was written: a hint for add_keyed(). Takes an exclusive lock on job for a moment,
-- rewrites nothing; old programs do not mind.

alter table offstage_private.job add column place tid;  -- of its row in ticket or scheduled; whether it is still there, its reader checks
drop function if exists offstage_private.place(offstage_private.job, timestamptz, tid);  -- answers where the place is, now
