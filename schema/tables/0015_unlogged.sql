-- Offers need no log: they end with the session that made them, and a server that starts again after a crash finds none. So a transaction that only
-- makes an offer does not wait for the disk. Rewrites a table of one row a worker: locks it for a moment, and is safe under load. Workers of the version
-- before go on as they were.

alter table offstage_private.offer set unlogged;
