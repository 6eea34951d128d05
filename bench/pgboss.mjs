// One process of pg-boss. config.settings: boss is given to the constructor, queue to updateQueue, work to work.
import { PgBoss } from "pg-boss";
import { start } from "./agent.mjs";

start(async (config) => {
  const { boss: options, queue, work } = config.settings ?? {};
  const boss = new PgBoss({ connectionString: config.url, ...(config.pool ? { max: config.pool } : {}), ...options });
  boss.on("error", (error) => process.stderr.write(`pg-boss: ${error?.stack ?? error}\n`));
  await boss.start(); // creates its schema in an empty database
  if (config.role === "install") await boss.createQueue(config.task);
  if (queue) await boss.updateQueue(config.task, queue);
  if (config.writers) await Promise.all(Array.from({ length: config.writers }, () => boss.getQueue(config.task))); // opens the pool

  return {
    work: (handler) =>
      boss.work(config.task, work ?? {}, (jobs) => {
        // A batch ends as a whole, when the last of its tasks has ended.
        const waits = [];
        for (const job of jobs) {
          const wait = handler(job.id, job.data);
          if (wait) waits.push(wait);
        }
        return waits.length > 0 ? Promise.all(waits).then(() => {}) : Promise.resolve();
      }),
    add: (payload) => boss.send(config.task, payload),
    addMany: (payloads) => boss.insert(config.task, payloads.map((data) => ({ data }))),
    stop: () => boss.stop(),
  };
});
