-- Whoever unlocks workers in SERIALIZABLE waits longer for a job, which may be in nobody's hands. Rewrites nothing.

drop function if exists offstage_private.leased_apart(bigint, bigint);
