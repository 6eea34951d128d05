-- PostGraphile 4 names a row by its table, in the plural, and by its key as JSON has it: ["reports", 17].
create or replace function app_private.report_node(id bigint) returns json
language sql immutable as $$
  select json_build_array('reports', id)
$$;
