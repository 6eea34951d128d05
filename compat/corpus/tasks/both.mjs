import { record } from "../lib/record.cjs";
export default (payload, helpers) => record(helpers, "mjs");
