-- Finding waiters that are still there, and what has ended lately. Builds an index on history, and blocks settling while it
-- does: about a second for each million entries.
create index waiter_expires on offstage_private.waiter (expires_at);        -- settle(): does anybody wait at all? tidy()
create index history_settled on offstage_private.history (settled_at);      -- history()
