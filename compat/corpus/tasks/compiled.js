"use strict";
Object.defineProperty(exports, "__esModule", { value: true });
const { record } = require("../lib/record.cjs");
exports.default = async (payload, helpers) => record(helpers, "compiled");
