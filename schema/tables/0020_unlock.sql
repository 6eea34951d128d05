-- Functions that take or answer something else than before. Locks no table.

drop function if exists offstage_private.give_back(integer[], boolean);
drop function if exists offstage_private.uncancel(bigint);
drop function if exists offstage_private.job_apart(bigint);
drop function if exists offstage_private.keyed_apart(text);
