"use strict";
// The project's own package pg, for helpers.query and helpers.withPgClient.
const { createRequire } = require("node:module");
const path = require("node:path");

// As Graphile Worker retries: what two transactions did to each other soon, a server that starts or cannot be reached later.
const retries = { 40001: [50, 5000], "40P01": [50, 5000], "57P03": [3000, 120_000], EHOSTUNREACH: [3000, 120_000], ETIMEDOUT: [3000, 120_000] };
const maxTries = 100;

// makeDatabase connects when it is first used.
function makeDatabase({ url, directory, connections }, warn) {
  let pool;

  function connect() {
    if (pool) return pool;
    let found;
    for (const from of [path.join(directory, "task.js"), path.join(process.cwd(), "task.js")]) {
      try {
        found = createRequire(from)("pg");
        break;
      } catch (error) {
        if (error.code !== "MODULE_NOT_FOUND") throw error;
      }
    }
    if (!found) {
      throw new Error(`helpers.query and helpers.withPgClient need the package pg, which is not installed for ${directory}: type npm install pg in your project (helpers.addJob works without it)`);
    }
    pool = new found.Pool({ connectionString: url || undefined, max: connections, application_name: "offstage task" });
    // A connection that is lost while nobody uses it concerns nobody.
    pool.on("error", (error) => warn(`lost a connection to the database: ${error.message}`));
    pool.on("connect", (client) => client.on("error", () => {}));
    return pool;
  }

  async function withPgClient(callback) {
    const client = await connect().connect();
    try {
      return await callback(client);
    } finally {
      client.release(); // the pool throws away one that has lost its server
    }
  }

  withPgClient.withRetries = async (callback) => {
    for (let tries = 0; ; tries++) {
      try {
        return await withPgClient(callback);
      } catch (error) {
        const delay = retries[error?.code];
        if (!delay || tries >= maxTries) throw error;
        await new Promise((resolve) => setTimeout(resolve, Math.min(delay[0] * 1.5 ** tries, delay[1]) * (0.5 + Math.random())));
      }
    }
  };

  const query = async (text, values) => connect().query(text, values);
  return { withPgClient, query };
}

module.exports = { makeDatabase };
