import { record } from "../lib/record.cjs";
const loaded = await Promise.resolve("loaded");
export default (payload, helpers) => record(helpers, loaded);
