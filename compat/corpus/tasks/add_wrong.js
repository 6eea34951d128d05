const { record } = require("../lib/record.cjs");
module.exports = async (payload, helpers) => {
  try {
    await helpers.addJob("later", {}, { jobKey: "k", jobKeyMode: "wrong" });
  } catch (error) {
    await record(helpers, { code: error.code, error: error instanceof Error });
  }
};
