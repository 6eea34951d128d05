const { record } = require("../lib/record.cjs");
module.exports = (payload, helpers) => record(helpers, "js");
