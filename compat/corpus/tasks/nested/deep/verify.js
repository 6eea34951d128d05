const { record } = require("../../../lib/record.cjs");
exports.default = async function verify(payload, helpers) {
  await record(helpers, { from: __filename.split("/").slice(-3), payload });
};
