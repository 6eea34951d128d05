-- Functions that take or answer something else than before. Locks no table.

drop function if exists offstage_private.put_schedule(offstage_private.schedule);
drop function if exists offstage_private.schedule_named(text);
drop function if exists offstage_private.schedule_json(text);
drop function if exists offstage_private.seize(bigint[]);
drop function if exists offstage_private.seize_apart(bigint[]);
drop function if exists offstage_private.attempts_of(offstage_private.job);
drop function if exists offstage_private.job_row(offstage_private.job);
drop function if exists offstage_private.ended(offstage_private.job, text, text);
