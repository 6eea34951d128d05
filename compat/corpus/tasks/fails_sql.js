module.exports = async (payload, { query }) => {
  await query("select 1 / $1::int", [0]);
};
