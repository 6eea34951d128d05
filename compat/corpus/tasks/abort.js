const { record } = require("../lib/record.cjs");
module.exports = async (payload, helpers) => {
  const { abortSignal, abortPromise } = helpers;
  const first = await Promise.race([abortPromise, new Promise((done) => setTimeout(done, 5, "work"))]);
  await record(helpers, { first, aborted: abortSignal.aborted, signal: abortSignal instanceof AbortSignal, promise: abortPromise instanceof Promise });
};
