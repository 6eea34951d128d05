// One process of Graphile Worker. It speaks the protocol of agent.go: a line of JSON in, a line of JSON out,
// and ends when its standard input does.
import { writeSync } from "node:fs";
import { createInterface } from "node:readline";

const wall = () => Math.round((performance.timeOrigin + performance.now()) * 1000); // microseconds

// Synchronous, so that a line is out before the next job starts, and nothing is buffered at the end.
const say = (event) => writeSync(1, JSON.stringify(event) + "\n");

const keptIDs = 2048; // as in protocol.go

function cpu() {
  const { user, system } = process.cpuUsage();
  return user + system;
}

async function main() {
  const input = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
  const next = async () => {
    const { value, done } = await input.next();
    return done ? null : JSON.parse(value);
  };
  const config = await next();
  if (config === null) return;

  process.env.NO_LOG_SUCCESS = "1"; // read when the module is loaded; a line per job would be the bottleneck
  const library = await import(config.peer_module);
  const { default: pg } = await import("pg");
  const logger = new library.Logger(() => (level, message) => {
    if (level === "error" || level === "warning") process.stderr.write(`graphile-worker: ${message}\n`);
  });
  const pool = new pg.Pool({ connectionString: config.url, max: config.pool });
  // A lost connection shows in the query that needed it.
  pool.on("error", () => {});
  pool.on("connect", (client) => client.on("error", () => {}));
  await connectAll(pool, config.role === "worker" ? 1 : config.writers);

  const role = { worker, single, bulk }[config.role];
  const { go, last, stop } = await role({ config, library, logger, pool });
  say({ event: "ready" });

  for (let command; (command = await next()) !== null; ) {
    if (command.do === "ping") say({ event: "pong", t: wall() });
    else if (command.do === "go") go();
    else if (command.do === "last") say({ event: "last", ids: last() });
    else if (command.do === "stop") {
      say({ event: "stopped", n: await stop(), cpu: cpu() });
      break;
    }
  }
  process.exit(0);
}

async function connectAll(pool, n) {
  const clients = await Promise.all(Array.from({ length: n }, () => pool.connect()));
  await Promise.all(clients.map((client) => client.query("select 1")));
  for (const client of clients) client.release();
}

// worker runs the task of config.task, which does nothing, until it is told to stop.
function worker({ config, library, logger, pool }) {
  let n = 0;
  let first = 0;
  let said = 0;
  let runner, ticker;
  const ids = [];
  const count = () => {
    if (n === said) return;
    said = n;
    say({ event: "count", n, first, t: wall() });
  };
  const task = config.each
    ? (payload, helpers) => {
        const t = wall();
        n++;
        say({ event: "ran", id: String(helpers.job.id), t });
      }
    : (payload, helpers) => {
        if (n === 0) first = wall();
        ids[n++ % keptIDs] = helpers.job.id;
        if (n === config.total) count();
      };
  return {
    go() {
      say({ event: "started", t: wall(), cpu: cpu() });
      if (!config.each) ticker = setInterval(count, 5);
      runner = library.run({
        preset: { worker: { ...config.settings, logger } },
        pgPool: pool,
        taskList: { [config.task]: task },
        parsedCronItems: [],
        noHandleSignals: true,
      });
      runner.catch(fatal);
    },
    last: () => ids.map(String),
    async stop() {
      clearInterval(ticker);
      if (runner) await (await runner).stop();
      return n;
    },
  };
}

async function adder({ config, library, logger, pool }, add) {
  const utils = await library.makeWorkerUtils({ pgPool: pool, logger, noHandleSignals: true });
  let added = 0;
  return {
    async go() {
      const begun = wall();
      say({ event: "started", t: begun, cpu: cpu() });
      try {
        added = await add(utils, config, begun);
      } catch (error) {
        fatal(error);
      }
      say({ event: "added", n: added, t: wall(), cpu: cpu() });
    },
    last: () => [],
    stop: async () => {
      await utils.release();
      return added;
    },
  };
}

// single keeps config.writers calls of addJob in flight for config.millis.
const single = (context) =>
  adder(context, async (utils, config, begun) => {
    const until = begun + config.millis * 1000;
    let n = 0;
    const writer = async () => {
      while (wall() < until) await utils.addJob(config.task, { id: ++n });
    };
    await Promise.all(Array.from({ length: config.writers }, writer));
    return n;
  });

// bulk adds config.total jobs by addJobs, config.chunk a call, one call after another.
const bulk = (context) =>
  adder(context, async (utils, config) => {
    let n = 0;
    while (n < config.total) {
      const specs = [];
      for (let end = Math.min(n + config.chunk, config.total); n < end; ) {
        specs.push({ identifier: config.task, payload: { id: ++n } });
      }
      await utils.addJobs(specs);
    }
    return n;
  });

function fatal(error) {
  process.stderr.write(`${error?.stack ?? error}\n`);
  process.exit(1);
}

main().catch(fatal);
