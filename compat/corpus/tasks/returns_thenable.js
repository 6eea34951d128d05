const { record } = require("../lib/record.cjs");
module.exports = (payload, helpers) => ({
  then(done, failed) {
    record(helpers, "then was called").then(done, failed);
  },
});
