const { record } = require("../lib/record.cjs");
module.exports = (payload, helpers) => record(helpers, { payload, type: typeof payload, same: payload === helpers.job.payload });
