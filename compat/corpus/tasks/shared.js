// Modules are loaded once for all jobs.
const { record } = require("../lib/record.cjs");
let times = 0;
module.exports = async (payload, helpers) => record(helpers, ++times);
