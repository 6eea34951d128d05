-- Functions that take or answer something else than before. Locks no table.

drop function if exists offstage_private.seize(bigint[]);
drop function if exists offstage_private.set_task(integer, jsonb);  -- is with_settings()
drop function if exists offstage_private.settings_of(integer);
