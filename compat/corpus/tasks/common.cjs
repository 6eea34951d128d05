"use strict";
const { record } = require("../lib/record.cjs");
module.exports = function (payload, helpers) {
  return record(helpers, { self: this === undefined ? "undefined" : typeof this, arguments: arguments.length });
};
