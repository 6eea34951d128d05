"use strict";
// A Node process of a worker: loads the tasks, performs the attempts it is sent, and ends when the worker does.
const { AsyncLocalStorage } = require("node:async_hooks");
const { performance } = require("node:perf_hooks");
const { Attempt, revive, SEQ, TASK } = require("./attempt.cjs");
const { makeDatabase } = require("./database.cjs");
const { describe, messageOf } = require("./errors.cjs");
const { loadAll } = require("./load.cjs");
const { Wire } = require("./wire.cjs");

const exit = process.exit.bind(process);
const loop = performance.eventLoopUtilization.bind(performance);
const { round } = Math; // tasks may replace what is global

// The attempt, or the file being loaded, that the code which runs belongs to, across everything asynchronous.
const current = new AsyncLocalStorage();

const wire = new Wire(frame, (broken) => {
  wire.flush();
  if (broken instanceof SyntaxError) { // its attempts are lost, and begin again in another process
    process.stderr.write(`the worker sent what cannot be understood: ${broken.message}\n`);
    exit(1);
  }
  exit(0);
});
const running = new Map(); // attempts by number
const waiting = new Map(); // calls to the worker by number
let calls = 0;
let busy = 0; // the event loop, as told last
let tasks = []; // {name, handler}, or a hole where a file did not load

const host = { wire, running, database: undefined, log, call };

// log writes a line that belongs to no attempt to the worker's log.
function log(level, text, task) {
  wire.say(`o0 ${JSON.stringify([level, text.slice(0, 16 << 10), task ?? ""])}\n`);
}

function call(seq, method, args) {
  return new Promise((resolve, reject) => {
    const id = ++calls;
    // The stack of whoever asked, which the answer has not.
    waiting.set(id, { resolve, reject, from: new Error() });
    wire.say(`q${seq} ${JSON.stringify([id, method, ...args])}\n`);
  });
}

// --- what the worker sends

function frame(items) {
  if (!Array.isArray(items)) {
    begin(items);
    return;
  }
  for (let i = 0; i < items.length; i++) {
    const item = items[i];
    if (typeof item[SEQ] === "number") perform(item);
    else if (item[0] === "r") answer(item);
    else if (item[0] === "a") running.get(item[1])?.abort(item[2]);
  }
  const { active } = loop(); // ms, all that attempts do when they go on included
  wire.say(`k0 ${round(1000 * (active - busy))}\n`); // it was read: the event loop turns
  busy = active;
}

async function begin(config) {
  host.database = makeDatabase(config, (text) => log("warn", text));
  const { handlers, failed } = await loadAll(config.tasks, (file, work) => current.run(file, work));
  tasks = config.tasks.map(({ name }, i) => ({ name, handler: handlers[i] }));
  busy = loop().active;
  wire.say(`h0 ${JSON.stringify({ failed })}\n`);
}

function answer([, id, fault, value]) {
  const call = waiting.get(id);
  waiting.delete(id);
  if (!fault) {
    call.resolve(value);
    return;
  }
  const error = revive(fault);
  error.stack = `${error.name}: ${error.message}\n${call.from.stack.split("\n").slice(1).join("\n")}`;
  call.reject(error);
}

// invoke calls a task as a plain function: without a this.
const invoke = (handler, attempt) => handler(attempt.payload, attempt.helpers);

function perform(item) {
  const task = tasks[item[TASK]];
  const attempt = new Attempt(host, item, task);
  running.set(attempt.seq, attempt);
  let result;
  try {
    result = current.run(attempt, invoke, task.handler, attempt);
  } catch (thrown) {
    attempt.fail(thrown);
    return;
  }
  if (result === undefined) attempt.succeed(undefined);
  else if (result !== null && (typeof result === "object" || typeof result === "function")) {
    Promise.resolve(result).then(
      (value) => attempt.succeed(value),
      (thrown) => attempt.fail(thrown),
    );
  } else attempt.succeed(result);
}

// --- what tasks do to the process

// A process that a task wanted to end, or left in an unknown state, gets no more work, and is replaced when its other
// attempts have ended. It is said before the attempt's end, which makes room for another one.
const retire = (why) => wire.say(`x0 ${JSON.stringify(why)}\n`);

class Exit extends Error {}

process.exit = (code = process.exitCode ?? 0) => {
  const store = current.getStore();
  const error = new Exit(`called process.exit(${code})`);
  if (store instanceof Attempt) {
    retire(`task ${store.task.name} ${error.message}`);
    if (store.ended) log("warn", `the task ${error.message} after its attempt had ended`, store.task.name);
    else store.fail(error);
  } else if (!store) {
    log("warn", `something outside of any attempt ${error.message}`);
    retire(error.message);
  }
  throw error; // nobody who calls it expects it to return
};

process.on("unhandledRejection", (reason) => {
  if (reason instanceof Exit) return;
  const store = current.getStore();
  const text = `a promise was rejected and nobody handled it: ${describe(reason)}`;
  if (store instanceof Attempt && !store.ended) store.fail(unhandled("a promise was rejected and nobody handled it", reason));
  else log("warn", text, store instanceof Attempt ? store.task.name : store?.name);
});

process.on("uncaughtException", (thrown) => {
  if (thrown instanceof Exit) return;
  const store = current.getStore();
  const name = store instanceof Attempt ? store.task.name : store?.name;
  retire(`an exception was thrown where nobody could catch it${name ? `, by task ${name}` : ""}`);
  if (store instanceof Attempt && !store.ended) store.fail(unhandled("an exception was thrown where nobody could catch it", thrown));
  else log("error", `an exception was thrown where nobody could catch it: ${describe(thrown)}`, name);
});

// unhandled keeps the message in front, where people look for it.
function unhandled(how, thrown) {
  const error = new Error(`${messageOf(thrown)} (${how})`, { cause: thrown });
  error.stack = "";
  return error;
}

for (const [stream, level] of [[process.stdout, "info"], [process.stderr, "error"]]) {
  const write = stream.write.bind(stream);
  stream.write = (chunk, encoding, callback) => {
    const store = current.getStore();
    if (!(store instanceof Attempt)) return write(chunk, encoding, callback);
    store.output.write(level, chunk);
    const done = typeof encoding === "function" ? encoding : callback;
    if (done) process.nextTick(done);
    return true;
  };
}

// Who stops a whole group of processes means the worker; that lets running jobs finish, and ends this process then.
for (const signal of ["SIGTERM", "SIGINT", "SIGHUP", "SIGUSR2"]) process.on(signal, () => {});
