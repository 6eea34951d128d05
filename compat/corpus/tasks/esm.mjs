import lib from "../lib/record.cjs";
export default async (payload, helpers) => lib.record(helpers, { url: import.meta.url.split("/").pop() });
