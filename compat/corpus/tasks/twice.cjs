Object.defineProperty(exports, "__esModule", { value: true });
const { record } = require("../lib/record.cjs");
exports.default = { __esModule: true, default: (payload, helpers) => record(helpers, "twice") };
