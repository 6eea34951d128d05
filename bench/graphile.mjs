// One process of Graphile Worker.
import { connectAll, start } from "./agent.mjs";

start(async (config) => {
  process.env.NO_LOG_SUCCESS = "1"; // read when the module is loaded; a line per job would be the bottleneck
  const library = await import(config.module);
  const { default: pg } = await import("pg");
  const logger = new library.Logger(() => (level, message) => {
    if (level === "error" || level === "warning") process.stderr.write(`graphile-worker: ${message}\n`);
  });
  const pool = new pg.Pool({ connectionString: config.url, max: config.pool });
  // A lost connection shows in the query that needed it.
  pool.on("error", () => {});
  pool.on("connect", (client) => client.on("error", () => {}));
  const works = config.role === "worker";
  await connectAll(pool, works ? 1 : Math.max(1, config.writers));
  const utils = works ? null : await library.makeWorkerUtils({ pgPool: pool, logger, noHandleSignals: true });

  let runner;
  return {
    async work(handler) {
      runner = await library.run({
        preset: { worker: { ...config.settings, logger } },
        pgPool: pool,
        taskList: { [config.task]: (payload, helpers) => handler(helpers.job.id, payload) },
        parsedCronItems: [],
        noHandleSignals: true,
      });
    },
    add: async (payload) => (await utils.addJob(config.task, payload)).id,
    addMany: (payloads) => utils.addJobs(payloads.map((payload) => ({ identifier: config.task, payload }))),
    stop: async () => {
      await runner?.stop();
      await runner?.promise.catch(() => {}); // it has said what went wrong
      await utils?.release();
    },
  };
});
