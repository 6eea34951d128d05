-- Large payloads and results are compressed by lz4, in a third of the time that pglz takes, where the server has it. Locks the tables for a moment; what is stored stays as it is.
-- Workers of the version before go on as they were. With it come functions that claim jobs of many tasks: docs/adr/0020-many-tasks.md.

do $$
begin
  alter table offstage_private.job alter column payload set compression lz4;
  alter table offstage_private.history alter column payload set compression lz4, alter column result set compression lz4;
exception when feature_not_supported then
  null;  -- a server that was built without it
end $$;
