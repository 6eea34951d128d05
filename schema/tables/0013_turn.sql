-- A settle leaves the queues that it frees to the claim of the same transaction, if it is told that one follows. Adds a column, which
-- rewrites nothing: locks the table for a moment, and is safe under load. Workers of the version before go on as they were.

drop function if exists offstage.settle(integer, bigint[], bigint[], json[], json[], json, bigint[], tid[], json);  -- gets "turn"
alter table offstage_private.parked add column job_ctid tid;  -- as in ticket
drop function if exists offstage_private.add_once(text, json, text, timestamptz, integer, text, integer, text[], text);  -- is add_by_hand(), and once()
