const { record } = require("../lib/record.cjs");
module.exports = async (payload, helpers) => {
  const { rows, rowCount, fields } = await helpers.query("select $1::int as n, now() > 'epoch' as later, '{1,2}'::int[] as list", [7]);
  await record(helpers, { rows, rowCount, fields: fields.map((f) => f.name) });
};
