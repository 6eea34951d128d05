-- A serial queue is served in order, whoever holds a ticket that stands in front. Adds columns, which rewrites nothing: waits for a claim or settle that is under way, and is safe
-- under load. Workers of the version before go on as they were.

-- Of the tickets of that lane, what is in front of this was taken before, or came later: see claim().
alter table offstage_private.queue_front add column taken_run_at timestamptz, add column taken_job_id bigint, add column taken_priority smallint;
-- The last of its parked jobs that has got a ticket, in a serial queue. While that is there, those behind it wait.
alter table offstage_private.queue_front add column handed_run_at timestamptz, add column handed_job_id bigint, add column handed_priority smallint;
