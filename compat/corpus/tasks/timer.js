const { promisify } = require("node:util");
const { record } = require("../lib/record.cjs");
module.exports = async (payload, helpers) => {
  await promisify(setTimeout)(10);
  await record(helpers, "after a timer");
};
