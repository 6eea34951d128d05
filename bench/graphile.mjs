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
  let running = 0; // tasks that wait
  // Its stop resolves while a task is still running; that one's end has to be written, too, which may begin a millisecond later.
  const written = async () => {
    for (let quiet = 0; quiet < 3; ) {
      await new Promise((resolve) => setTimeout(resolve, 1));
      quiet = running === 0 && pool.waitingCount === 0 && pool.idleCount === pool.totalCount ? quiet + 1 : 0;
    }
  };
  return {
    async work(handler) {
      runner = await library.run({
        preset: { worker: { ...config.settings, logger } },
        pgPool: pool,
        taskList: {
          [config.task]: (payload, helpers) => {
            const wait = handler(helpers.job.id, payload);
            if (!wait) return;
            running++;
            return wait.finally(() => running--);
          },
        },
        parsedCronItems: [],
        noHandleSignals: true,
      });
    },
    add: async (payload) => (await utils.addJob(config.task, payload)).id,
    addMany: (payloads) => utils.addJobs(payloads.map((payload) => ({ identifier: config.task, payload }))),
    stop: async () => {
      await runner?.stop();
      if (runner) await written();
      await utils?.release();
    },
  };
});
