"use strict";
// What a task gets beside its payload. Tasks spread and destructure their helpers, so they must be own properties; but to
// make so many takes as long as all the rest of a short attempt. So they are made when a task asks for more than its job
// and its logger.
const { format, inspect } = require("node:util");

// The prototype until then: console.log looks at an object without asking it.
const shape = Object.create(Object.prototype, {
  [inspect.custom]: {
    value() {
      return { ...this };
    },
  },
});

class Lazy {
  constructor(attempt) {
    this.attempt = attempt;
    this.made = false;
  }

  make(helpers) {
    if (this.made) return helpers;
    this.made = true;
    Object.setPrototypeOf(helpers, Object.prototype);
    const { attempt } = this;
    const { withPgClient, query } = attempt.host.database;
    Object.assign(helpers, {
      job: attempt.job,
      logger: attempt.logger,
      withPgClient,
      query,
      addJob: (identifier, payload, spec) => attempt.addJob(identifier, payload, spec),
      addJobs: (specs, preserveRunAt) => attempt.addJobs(specs, preserveRunAt),
      getQueueName: (id) => attempt.getQueueName(id),
      progress: (percent, message) => attempt.progress(percent, message),
      debug: (text, ...args) => attempt.logger.debug(format(text, ...args)),
    });
    const own = { configurable: true, enumerable: true };
    Object.defineProperty(helpers, "abortSignal", { ...own, get: () => attempt.signal });
    Object.defineProperty(helpers, "abortPromise", { ...own, get: () => attempt.abortPromise });
    Object.defineProperty(helpers, "traceparent", { configurable: true, get: () => attempt.traceparent }); // Graphile's have none
    return helpers;
  }

  get(helpers, key) {
    if (!this.made) {
      if (key === "logger") return this.attempt.logger;
      if (key === "job") return this.attempt.job;
    }
    return this.make(helpers)[key];
  }

  getPrototypeOf() {
    return Object.prototype;
  }
}

// Everything else is done to the helpers as they are when they have been made.
for (const trap of ["set", "has", "deleteProperty", "defineProperty", "getOwnPropertyDescriptor", "ownKeys", "preventExtensions"]) {
  Lazy.prototype[trap] = function (helpers, ...rest) {
    return Reflect[trap](this.make(helpers), ...rest);
  };
}

module.exports = { helpersOf: (attempt) => new Proxy(Object.create(shape), new Lazy(attempt)) };
