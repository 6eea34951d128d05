const { record } = require("../lib/record.cjs");
module.exports = async (payload, helpers) => {
  const answer = await helpers.withPgClient(async (client) => {
    await client.query("begin");
    await client.query("insert into public.effect (task, what) values ('client', '\"rolled back\"')");
    await client.query("rollback");
    return "answer";
  });
  const again = await helpers.withPgClient.withRetries(async (client) => (await client.query("select 2 as n")).rows);
  await record(helpers, { answer, again });
};
