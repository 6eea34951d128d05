const { record } = require("../lib/record.cjs");
module.exports = async (payload, helpers) => {
  const jobs = await helpers.addJobs([
    { identifier: "later", payload: { n: 1 } },
    { identifier: "later", queueName: "q2", priority: 7, maxAttempts: 2, flags: ["x"] },
    { identifier: "other", payload: null, jobKey: "adds", runAt: new Date("2041-01-01T00:00:00Z") },
  ]);
  // Without the order and task_identifier, which Graphile Worker may mix up.
  await record(helpers, jobs.map((j) => JSON.stringify([j.payload, j.priority, j.max_attempts, j.flags, typeof j.id, j.key])).sort());
};
