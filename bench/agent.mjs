// What every agent in JavaScript shares: the protocol of protocol.go, a line of JSON in, a line of JSON out, and the
// roles. The systems are in files of their own, which call run.
import { writeSync } from "node:fs";
import { createInterface } from "node:readline";

const wall = () => Math.round((performance.timeOrigin + performance.now()) * 1000); // microseconds

// Synchronous, so that a line is out before the next job starts, and nothing is buffered at the end.
const say = (event) => writeSync(1, JSON.stringify(event) + "\n");

const keptIDs = 2048; // as in protocol.go
const mostInFlight = 100; // as in child.go

function cpu() {
  const { user, system } = process.cpuUsage();
  return user + system;
}

const after = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// run is the life of an agent. connect gets the config and returns a connected client:
//
//   work(handler)   starts working; handler(id, payload) returns a promise if the task waits
//   add(payload)    adds one job and returns its id
//   addMany(list)   adds a job for each payload in one call
//   stop()          stops working in order and disconnects
export async function run(connect) {
  const input = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
  const next = async () => {
    const { value, done } = await input.next();
    return done ? null : JSON.parse(value);
  };
  const config = await next();
  if (config === null) return;

  const client = await connect(config);
  const payload = (id) => (config.wait ? { id, wait: config.wait } : { id });
  const role = { worker, single, bulk, steady, one, install: one }[config.role]({ config, client, payload });
  say({ event: "ready" });

  for (let command; (command = await next()) !== null; ) {
    if (command.do === "ping") say({ event: "pong", t: wall() });
    else if (command.do === "go") role.go();
    else if (command.do === "last") say({ event: "last", ids: role.last() });
    else if (command.do === "add") role.add(command.n);
    else if (command.do === "stop") {
      const n = await role.stop();
      say({ event: "stopped", n, cpu: cpu() });
      break;
    }
  }
  process.exit(0);
}

// connectAll opens n connections of a pool of pg.
export async function connectAll(pool, n) {
  const clients = await Promise.all(Array.from({ length: n }, () => pool.connect()));
  await Promise.all(clients.map((client) => client.query("select 1")));
  for (const client of clients) client.release();
}

// worker runs the task until it is told to stop.
function worker({ config, client }) {
  let n = 0;
  let first = 0;
  let said = 0;
  let working, ticker;
  const ids = [];
  const count = () => {
    if (n === said) return;
    said = n;
    say({ event: "count", n, first, t: wall() });
  };
  // In each, jobs that wait are the load beside those that are watched.
  const handler = config.each
    ? (id, { wait }) => {
        n++;
        if (wait) return after(wait);
        say({ event: "ran", id: String(id), t: wall() });
      }
    : (id, { wait }) => {
        if (n === 0) first = wall();
        ids[n++ % keptIDs] = id;
        if (n === config.total) count();
        if (wait) return after(wait);
      };
  return {
    go() {
      say({ event: "started", t: wall(), cpu: cpu() });
      if (!config.each) ticker = setInterval(count, 5);
      working = client.work(handler);
      working.catch(fatal);
    },
    last: () => ids.map(String),
    async stop() {
      clearInterval(ticker);
      await working;
      await client.stop();
      return n;
    },
  };
}

function adder({ client }, add) {
  let added = 0;
  return {
    async go() {
      const begun = wall();
      say({ event: "started", t: begun, cpu: cpu() });
      let busy;
      try {
        ({ n: added, busy } = await add(begun));
      } catch (error) {
        fatal(error);
      }
      say({ event: "added", n: added, t: wall(), busy: Math.round(busy ?? wall() - begun), cpu: cpu() });
    },
    last: () => [],
    stop: async () => {
      await client.stop();
      return added;
    },
  };
}

// single keeps config.writers calls of add in flight for config.millis; with config.burst, each writer stops after so
// many for config.pause ms, which do not count.
const single = ({ config, client, payload }) =>
  adder({ client }, async (begun) => {
    const until = begun + config.millis * 1000;
    let n = 0;
    let busy = 0;
    const writer = async () => {
      for (let i = 0; config.burst ? i < config.burst : wall() < until; i++) await client.add(payload(++n));
    };
    do {
      const from = wall();
      await Promise.all(Array.from({ length: config.writers }, writer));
      busy += wall() - from;
      if (config.burst) await after(config.pause);
    } while (wall() < until);
    return { n, busy };
  });

// bulk adds config.total jobs, config.chunk a call, one call after another.
const bulk = ({ config, client, payload }) =>
  adder({ client }, async () => {
    let n = 0;
    while (n < config.total) {
      const payloads = [];
      for (let end = Math.min(n + config.chunk, config.total); n < end; ) payloads.push(payload(++n));
      await client.addMany(payloads);
    }
    return { n };
  });

// steady adds config.rate jobs a second until it is told to stop.
function steady({ config, client, payload }) {
  const inFlight = new Set();
  let n = 0;
  let ticker;
  return {
    go() {
      const begun = wall();
      say({ event: "started", t: begun, cpu: cpu() });
      ticker = setInterval(() => {
        const due = ((wall() - begun) * config.rate) / 1e6;
        while (n < due && inFlight.size < mostInFlight) {
          const call = client.add(payload(++n)).catch(fatal);
          inFlight.add(call);
          call.then(() => inFlight.delete(call));
        }
      }, 2);
    },
    last: () => [],
    async stop() {
      clearInterval(ticker);
      await Promise.all(inFlight);
      await client.stop();
      return n;
    },
  };
}

// one adds a job whenever it is told to.
function one({ client, payload }) {
  let n = 0;
  return {
    go() {},
    last: () => [],
    add(id) {
      n++;
      const t = wall();
      client.add(payload(id)).then((id) => say({ event: "one", id: String(id), t }), fatal);
    },
    async stop() {
      await client.stop();
      return n;
    },
  };
}

function fatal(error) {
  process.stderr.write(`${error?.stack ?? error}\n`);
  process.exit(1);
}

// start is run for the end of a system's file.
export const start = (connect) => run(connect).catch(fatal);
