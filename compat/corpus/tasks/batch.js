const { record } = require("../lib/record.cjs");
module.exports = (payload, helpers) =>
  payload.map(async ({ id, bad }) => {
    if (bad) throw new Error(`no ${id}`);
    await record(helpers, id);
  });
