"use strict";
// Adds jobs through a client of the package pg, so in the transaction that the client is in.

const schemaName = /^[a-z_][a-z0-9_]{0,54}$/;

function inSchema({ schema = "offstage" } = {}) {
  if (!schemaName.test(schema)) throw new TypeError(`offstage: the schema ${JSON.stringify(schema)} is not allowed: use 1 to 55 of a-z, 0-9 and _, not starting with a digit`);
  return schema;
}

// json is a value as JSON text; PostgreSQL's null for what is not given.
const json = (value) => (value === undefined ? null : JSON.stringify(value));
const time = (at) => (at === undefined || at === null ? null : new Date(at).toISOString());

async function addJob(client, identifier, payload, spec = {}, options) {
  const schema = inSchema(options);
  const { rows } = await client.query(
    `select * from ${schema}.add_job($1::text, $2::json, $3::text, $4::timestamptz, $5::int, $6::text, $7::int, $8::text[], $9::text, $10::text, $11::json)`,
    [
      identifier, json(payload), spec.queueName ?? null, time(spec.runAt), spec.maxAttempts ?? null, spec.jobKey ?? null, spec.priority ?? null,
      spec.flags ?? null, spec.jobKeyMode ?? null, spec.notifyChannel ?? null, json(spec.options),
    ],
  );
  return { ...rows[0], task_identifier: identifier };
}

async function addJobs(client, specs, options) {
  const schema = inSchema(options);
  if (specs.length === 0) return [];
  const list = specs.map((spec) => ({
    identifier: spec.identifier, payload: json(spec.payload), queue_name: spec.queueName, run_at: time(spec.runAt), max_attempts: spec.maxAttempts,
    job_key: spec.jobKey, priority: spec.priority, flags: spec.flags, options: json(spec.options),
  }));
  // Payloads go as text within the JSON, so that each arrives as it was written.
  const { rows } = await client.query(
    `with x as materialized (
       select row_number() over () as n, x.* from json_to_recordset($1::json) x (identifier text, payload text, queue_name text, run_at timestamptz,
         max_attempts smallint, job_key text, priority smallint, flags text[], options text))
     select * from ${schema}.add_jobs(
       array(select row(identifier, payload::json, queue_name, run_at, max_attempts, job_key, priority, flags)::${schema}.job_spec from x order by n),
       $2::boolean, array(select x.options::json from x order by n))`,
    [JSON.stringify(list), options?.jobKeyPreserveRunAt ?? false],
  );
  return rows.map((row, i) => ({ ...row, task_identifier: specs[i].identifier }));
}

module.exports = { addJob, addJobs };
