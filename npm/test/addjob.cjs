// Adds jobs with the package as require and import give it, and prints what came of it. Argument: the database's URL.
const assert = require("node:assert/strict");
const { Client } = require("pg");
const { addJob, addJobs } = require("offstage");

async function main() {
  const { addJob: imported } = await import("offstage");
  assert.equal(imported, addJob);
  const client = new Client({ connectionString: process.argv[2] });
  const other = new Client({ connectionString: process.argv[2] });
  await Promise.all([client.connect(), other.connect()]);
  const seen = async () => Number((await other.query("select count(*) as n from offstage.jobs")).rows[0].n);

  await client.query("begin");
  const job = await addJob(client, "hello", { name: "Bobby Tables" }, {
    queueName: "q", runAt: new Date("2040-01-01T00:00:00Z"), maxAttempts: 3, jobKey: "k", jobKeyMode: "preserve_run_at", priority: -2, flags: ["f"],
    notifyChannel: "done", options: { timeout: "5 s" },
  });
  assert.equal(job.task_identifier, "hello");
  assert.equal(typeof job.id, "string");
  assert.deepEqual([job.priority, job.max_attempts, job.key, job.run_at.getUTCFullYear(), job.payload.name], [-2, 3, "k", 2040, "Bobby Tables"]);
  assert.equal(await seen(), 0);
  await client.query("rollback");
  assert.equal(await seen(), 0);

  await client.query("begin");
  const jobs = await addJobs(client, [
    { identifier: "b", payload: "text with \"quotes\" and \u00fc" }, { identifier: "a", payload: [1], jobKey: "x", options: { keep: "none" } }, { identifier: "c" },
  ]);
  assert.deepEqual(jobs.map((j) => [j.task_identifier, j.payload]), [["b", "text with \"quotes\" and \u00fc"], ["a", [1]], ["c", {}]]);
  await addJob(client, "none");
  await client.query("commit");
  assert.equal(await seen(), 4);
  assert.deepEqual(await addJobs(client, []), []);
  await assert.rejects(addJob(client, "a", {}, { jobKey: "k", jobKeyMode: "wrong" }), { code: "GWBKM" });
  await assert.rejects(addJob(client, "a", {}, {}, { schema: "x; drop table" }), /is not allowed/);
  await Promise.all([client.end(), other.end()]);
  console.log("ok");
}

main();
