const { record } = require("../lib/record.cjs");
module.exports = async (payload, helpers) => {
  const copy = { ...helpers };
  const names = ["abortPromise", "abortSignal", "addJob", "addJobs", "debug", "getQueueName", "job", "logger", "query", "withPgClient"];
  await record(helpers, names.map((name) => [name, name in copy, typeof copy[name]]));
};
