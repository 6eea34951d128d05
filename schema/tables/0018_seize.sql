-- Answers where each job is, too. Locks no table.

drop function if exists offstage_private.seize(bigint[]);
