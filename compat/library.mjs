// Calls a schema through Graphile Worker's own library, as its users' programs do, and prints what it answers.
// Arguments: the package, the connection string, the schema.
const [name, connectionString, schema] = process.argv.slice(2);
const { makeWorkerUtils, quickAddJob, runOnce, Logger } = await import(name);

const said = [];
const logger = new Logger(() => (level, message) => {
  if (level === "warning" || level === "error") said.push([level, message]);
});
const options = { connectionString, schema, logger };
const steps = [];

async function step(what, call) {
  try {
    steps.push({ what, answer: (await call()) ?? null });
  } catch (e) {
    steps.push({ what, error: { code: e.code ?? null, constraint: e.constraint ?? null } });
  }
}

const utils = await makeWorkerUtils(options);
const later = new Date("2030-01-01T00:00:00Z");
await step("addJob", () => utils.addJob("a"));
await step("addJob with all", () =>
  utils.addJob("a", { x: [1, null, "ü"] }, {
    queueName: "q", runAt: later, maxAttempts: 3, jobKey: "k", jobKeyMode: "replace", priority: -2, flags: ["f", "g"],
  }));
await step("addJob preserving run_at", () => utils.addJob("b", [1], { jobKey: "k", jobKeyMode: "preserve_run_at" }));
await step("addJob with an array", () => utils.addJob("b", [2], { jobKey: "k" }));
await step("addJob deduped", () => utils.addJob("c", {}, { jobKey: "k", jobKeyMode: "unsafe_dedupe" }));
await step("addJob with a wrong mode", () => utils.addJob("c", {}, { jobKey: "k", jobKeyMode: "wrong" }));
await step("addJob with too many attempts", () => utils.addJob("c", {}, { maxAttempts: 99999 }));
await step("addJob with less than none", () => utils.addJob("c", {}, { maxAttempts: -1 }));
await step("addJobs", () =>
  utils.addJobs([
    { identifier: "a", payload: { n: 1 } },
    { identifier: "a", payload: [3], jobKey: "k", runAt: later, queueName: "q2", priority: 7, maxAttempts: 2, flags: ["h"] },
    { identifier: "a", payload: "text", jobKey: "k3" },
  ], true));
await step("addJobs with nothing", () => utils.addJobs([]));
await step("addJobs with a key twice", () =>
  utils.addJobs([{ identifier: "a", jobKey: "x" }, { identifier: "a", jobKey: "x" }]));
await step("quickAddJob", () => quickAddJob(options, "quick", { from: "here" }, { jobKey: "quick" }));
await step("in one transaction", () =>
  utils.withPgClient(async (client) => {
    await client.query("begin");
    const { rows } = await client.query(
      `select * from ${schema}.add_job($1, payload => $2::json, queue_name => $3::text, run_at => $4::timestamptz,
         max_attempts => $5::int, job_key => $6::text, priority => $7::int, flags => $8::text[], job_key_mode => $9::text)`,
      ["tx", "{}", null, null, null, "tx", null, null, null]);
    await client.query("commit");
    return rows;
  }));

const ids = steps.map((s) => s.answer?.id).filter(Boolean);
await step("rescheduleJobs", () => utils.rescheduleJobs(ids, { runAt: later, priority: 3, attempts: 1, maxAttempts: 5 }));
await step("rescheduleJobs with nothing", () => utils.rescheduleJobs([ids[0]], {}));
await step("permanentlyFailJobs", () => utils.permanentlyFailJobs([ids[0], "999999999"], "enough"));
await step("permanentlyFailJobs without a reason", () => utils.permanentlyFailJobs([ids[0]]));
await step("completeJobs", () => utils.completeJobs([ids[0], "999999999"]));
await step("forceUnlockWorkers", () => utils.forceUnlockWorkers(["nobody"]));
await step("jobs", () => utils.withPgClient(async (client) => (await client.query(
  `select id, queue_name, task_identifier, priority, run_at, attempts, max_attempts, last_error, created_at, updated_at,
     key, locked_at, locked_by, revision, flags from ${schema}.jobs order by id`)).rows));
await utils.release();

// A worker of its own must not run here.
let ran = 0;
try {
  await runOnce({ ...options, noHandleSignals: true }, { a: async () => { ran += 1; } });
} catch (e) {
  said.push(["error", e.message]);
}
process.stdout.write(JSON.stringify({ steps, said, ran }, null, 1));
process.exit(0);
