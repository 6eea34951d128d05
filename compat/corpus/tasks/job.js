const { record } = require("../lib/record.cjs");
module.exports = async (payload, helpers) => {
  const { job } = helpers;
  const types = Object.entries(job).map(([key, value]) => [key, value === null ? "null" : value instanceof Date ? "Date" : typeof value]);
  const { id, task_id, job_queue_id, run_at, created_at, updated_at, locked_at, locked_by, ...rest } = job;
  await record(helpers, { types: types.sort(), rest, run: run_at.toISOString(), locked: Math.abs(locked_at - Date.now()) < 60_000 });
};
