"use strict";
// One attempt of one job: what its task sees of it, and how it ends. Nothing is made before the task asks for it, because
// most tasks use little of their helpers and some run a hundred thousand times a minute.
const { types } = require("node:util");
const { describe, messageOf, revive, show } = require("./errors.cjs");
const { helpersOf } = require("./helpers.cjs");
const { Output } = require("./output.cjs");

const maxResult = 1 << 20; // bytes
const { parse, stringify } = JSON;

// The items of a job's frame, in order; see protocol.go.
const [SEQ, TASK, PAYLOAD, ID, ATTEMPT, MAX_ATTEMPTS, PRIORITY, RUN_AT, ADDED_AT, LOCKED_AT, TASK_ID, WORKER, MORE] = Array(13).keys();

const time = (at) => (typeof at === "number" ? new Date(at) : at === "infinity" ? Infinity : -Infinity);

// host is what all attempts of this process share: wire, database, running (attempts by number), calls, log.
class Attempt {
  constructor(host, item, task) {
    this.host = host;
    this.item = item;
    this.task = task;
    this.seq = item[SEQ];
    this.payload = item[PAYLOAD];
    this.ended = false;
    this.aborted = undefined; // the reason, once it is to stop
    this.made = {}; // what the task has asked for
  }

  // --- how it ends

  say(kind, value) {
    if (this.made.output) this.made.output.finish();
    this.ended = true;
    this.host.running.delete(this.seq);
    this.host.wire.say(value === undefined ? `${kind}${this.seq}\n` : `${kind}${this.seq} ${value}\n`);
  }

  fail(thrown) {
    if (this.ended) return;
    // What a task threw because it was told to stop is no news.
    this.say("e", stringify({ text: describe(thrown), aborted: this.aborted !== undefined && thrown === this.aborted }));
  }

  succeed(result) {
    if (this.ended) return;
    if (Array.isArray(result) && Array.isArray(this.payload)) {
      this.settleBatch(result);
      return;
    }
    this.store(result);
  }

  // store ends the attempt with its result. A value that is not JSON is none: in Graphile Worker it is ignored, and what is
  // done must not be done again because of it. One that is too large would be just as large the next time.
  store(result) {
    let text;
    try {
      text = stringify(result);
    } catch (error) {
      this.output.line("warn", `the task's return value is not stored, because it is not JSON: ${messageOf(error).split("\n", 1)[0]}`);
    }
    if (text !== undefined && text.length * 3 > maxResult) {
      const size = Buffer.byteLength(text);
      if (size > maxResult) {
        const error = `the task's result has ${size} bytes, and ${maxResult} are the most: store it elsewhere, and return where`;
        this.say("e", stringify({ text: error, final: true }));
        return;
      }
    }
    this.say("d", text);
  }

  // settleBatch: the payload and what the task returned are arrays. Each element stands for one of the payload's.
  settleBatch(results) {
    if (results.length !== this.payload.length) {
      this.output.line("warn", `the task returned an array of ${results.length} for a payload of ${this.payload.length}: it should return nothing, or an element for each; taken as a success of all`);
      this.store(undefined);
      return;
    }
    Promise.allSettled(results).then((settled) => {
      if (this.ended) return;
      const failed = [];
      const errors = [];
      settled.forEach(({ status, reason }, i) => {
        if (status !== "rejected") return;
        failed.push(i);
        errors.push(reason === null || reason === undefined || typeof reason !== "object" ? String(reason) : messageOf(reason));
      });
      if (failed.length > 0) this.say("b", stringify({ failed, errors }));
      else this.store(settled.map(({ value }) => value));
    });
  }

  // abort tells the task to stop.
  abort(message) {
    this.aborted = Object.assign(new Error(message), { name: "AbortError", code: "ABORT_ERR" });
    this.aborted.stack = `AbortError: ${message}`;
    if (this.made.controller) this.made.controller.abort(this.aborted);
  }

  // --- what the task sees

  get output() {
    return (this.made.output ??= new Output((level, text, attributes) => {
      if (this.ended) this.host.log(level, text, this.task.name);
      else this.host.wire.say(`l${this.seq} ${stringify(attributes ? [level, text, attributes] : [level, text])}\n`);
    }));
  }

  get job() {
    return (this.made.job ??= this.makeJob());
  }

  // makeJob: the columns of Graphile Worker's row, in its order.
  makeJob() {
    const { item } = this;
    const more = item[MORE] || {};
    const added = time(item[ADDED_AT]);
    return {
      id: String(item[ID]),
      job_queue_id: more.queue_id ?? null,
      task_id: item[TASK_ID],
      payload: this.payload,
      priority: item[PRIORITY],
      run_at: time(item[RUN_AT]),
      attempts: item[ATTEMPT],
      max_attempts: item[MAX_ATTEMPTS],
      last_error: more.last_error ?? null,
      created_at: added,
      updated_at: added,
      key: more.key ?? null,
      locked_at: time(item[LOCKED_AT]),
      locked_by: `worker-${item[WORKER]}`,
      revision: 0,
      flags: more.flags ? Object.fromEntries(more.flags.map((flag) => [flag, true])) : null,
      is_available: false,
      task_identifier: this.task.name,
    };
  }

  // traceparent: the trace that the attempt belongs to, and so do the jobs that it adds.
  get traceparent() {
    return (this.item[MORE] || {}).trace;
  }

  get logger() {
    return (this.made.logger ??= new Logger(this, {}));
  }

  get signal() {
    if (!this.made.controller) {
      this.made.controller = new AbortController();
      if (this.aborted) this.made.controller.abort(this.aborted);
    }
    return this.made.controller.signal;
  }

  get abortPromise() {
    if (!this.made.promise) {
      const { signal } = this;
      this.made.promise = new Promise((_, reject) => {
        if (signal.aborted) reject(signal.reason);
        else signal.addEventListener("abort", () => reject(signal.reason), { once: true });
      });
      this.made.promise.catch(() => {}); // nobody need look at it
    }
    return this.made.promise;
  }

  call(method, ...args) {
    return this.host.call(this.seq, method, args);
  }

  addJob(identifier, payload, spec = {}) {
    return this.call("addJob", addition({ ...spec, identifier, payload: payload ?? {} }, this.traceparent)).then((row) => jobOf(row, identifier));
  }

  addJobs(specs, preserveRunAt = false) {
    return this.call("addJobs", specs.map((spec) => addition({ ...spec, payload: spec.payload ?? {} }, this.traceparent)), preserveRunAt).then((rows) => rows.map((row, i) => jobOf(row, specs[i].identifier)));
  }

  getQueueName(id = this.job.job_queue_id) {
    if (id === null || id === undefined) return null;
    if (id === this.job.job_queue_id) return this.item[MORE].queue;
    return this.call("queueName", id);
  }

  // progress never rejects: nobody waits for it, and what it says is not worth an attempt. Of many calls at once the last
  // one counts.
  progress(percent, message = "") {
    const { made } = this;
    const ask = [Number(percent), String(message)];
    if (made.reporting) {
      made.report = ask;
      return made.reporting;
    }
    made.report = ask;
    made.reporting = (async () => {
      while (made.report) {
        const next = made.report;
        made.report = undefined;
        await this.call("progress", ...next).catch((error) => this.output.line("warn", `progress was not stored: ${messageOf(error)}`));
      }
      made.reporting = undefined;
    })();
    return made.reporting;
  }

  get helpers() {
    return helpersOf(this);
  }
}

// addition is what the worker needs to add a job. As in Graphile Worker, what is empty or zero counts as not given.
function addition(spec, traceparent) {
  const { identifier, payload, queueName, runAt, maxAttempts, jobKey, jobKeyMode, priority, flags, notifyChannel } = spec;
  const options = traceparent ? { traceparent, ...spec.options } : spec.options;
  return {
    identifier,
    payload: stringify(payload),
    queueName: queueName || undefined,
    runAt: runAt ? new Date(runAt).toISOString() : undefined,
    maxAttempts: maxAttempts || undefined,
    jobKey: jobKey || undefined,
    jobKeyMode: jobKeyMode || undefined,
    priority: priority || undefined,
    flags: flags || undefined,
    notifyChannel: notifyChannel || undefined,
    options: options ? stringify(options) : undefined,
  };
}

// jobOf gives a row the types that the package pg would.
function jobOf([id, row], identifier) {
  row.id = id; // as text: it may be beyond what a number holds
  for (const column of ["run_at", "created_at", "updated_at", "locked_at"]) {
    const at = row[column];
    if (at !== null) row[column] = at === "infinity" ? Infinity : at === "-infinity" ? -Infinity : new Date(at);
  }
  row.task_identifier = identifier;
  return row;
}

const showDebug = Boolean(process.env.GRAPHILE_LOGGER_DEBUG || process.env.GRAPHILE_WORKER_DEBUG);

// Logger has the methods of Graphile's. What a scope adds becomes attributes of the line.
class Logger {
  #attempt;
  #scope;

  constructor(attempt, scope) {
    this.#attempt = attempt;
    this.#scope = scope;
  }

  scope(more) {
    return new Logger(this.#attempt, { ...this.#scope, ...more });
  }

  error(message, meta) {
    this.log("error", message, meta);
  }

  warn(message, meta) {
    this.log("warn", message, meta);
  }

  info(message, meta) {
    this.log("info", message, meta);
  }

  debug(message, meta) {
    this.log("debug", message, meta);
  }

  log(level, message, meta) {
    if (level === "debug") {
      if (!showDebug) return;
      level = "info";
    }
    if (level === "warning") level = "warn";
    let attributes;
    for (const [key, value] of Object.entries(this.#scope)) (attributes ??= {})[key] = plain(value);
    if (meta !== undefined) (attributes ??= {}).meta = plain(meta);
    this.#attempt.output.log(level, typeof message === "string" ? message : show(message), attributes);
  }
}

const mostAttribute = 2000;

// plain is a value as JSON has it, as it is now. What JSON would not show, or only in part, is shown as text.
function plain(value) {
  if (typeof value === "string") return value;
  try {
    const text = stringify(value, (_, part) => (isOpaque(part) ? show(part) : part));
    if (text !== undefined && text.length <= mostAttribute) return parse(text);
  } catch {
    // a circle, or a toJSON that throws
  }
  return show(value).slice(0, mostAttribute);
}

// isOpaque: of such JSON makes {}, or nothing, or an error.
function isOpaque(value) {
  return types.isNativeError(value) || value instanceof Error || types.isMap(value) || types.isSet(value) || typeof value === "bigint" || typeof value === "function" ||
    typeof value === "symbol" || (typeof value === "number" && !Number.isFinite(value));
}

module.exports = { Attempt, revive, SEQ, TASK };
