// What a page of the application does, in a terminal: it subscribes, asks for reports, and hears when they are there.
//
//   TOKEN=… node client.mjs [--v4] http://127.0.0.1:5678/graphql person:1
//
// Each line typed is the name of a city to ask a report for. Each line printed is JSON: {"asked": report} is the answer of
// the mutation, {"event": …} what the subscription brought. It ends with its input.
import { createInterface } from "node:readline";
import { createClient } from "graphql-ws";

const args = process.argv.slice(2);
const v4 = args[0] === "--v4" && args.shift();
const [url, topic] = args;
const authorization = `Bearer ${process.env.TOKEN}`;

// PostGraphile 4 calls the primary key id; PostGraphile 5 with the Amber preset calls it rowId, and the global id id.
const report = v4 ? "nodeId id city status result" : "nodeId: id id: rowId city status result";

const subscription = /* GraphQL */ `
  subscription ($topic: String!) {
    listen(topic: $topic, initialEvent: true) {
      relatedNodeId
      relatedNode { ... on Report { ${report} } }
    }
  }`;
const mine = /* GraphQL */ `{ allReports(orderBy: PRIMARY_KEY_ASC) { nodes { ${report} } } }`;
const ask = /* GraphQL */ `
  mutation ($city: String!) {
    createReport(input: { report: { city: $city } }) { report { ${report} } }
  }`;

async function fetchGraphQL(query, variables) {
  const response = await fetch(url, {
    method: "POST",
    headers: { "content-type": "application/json", authorization },
    body: JSON.stringify({ query, variables }),
  });
  const { data, errors } = await response.json();
  if (errors) throw new Error(errors.map((e) => e.message).join("; "));
  return data;
}

const print = (value) => console.log(JSON.stringify(value));

const client = createClient({
  url: url.replace(/^http/, "ws"),
  connectionParams: { authorization },
  retryAttempts: Infinity, // after a lost connection: subscribes again, and the initial event makes us look again
  shouldRetry: () => true, // also where it is lost, or refused, before the subscription stands
});

async function listen() {
  for await (const { data, errors } of client.iterate({ query: subscription, variables: { topic } })) {
    if (errors) throw new Error(errors.map((e) => e.message).join("; "));
    // The event says "look again", no more: what there is to see, the server answers under our own rights. That is also
    // why the first event, which comes with the subscription itself, needs no code of its own.
    const { allReports } = await fetchGraphQL(mine);
    print({ event: { ...data.listen, reports: allReports.nodes } });
  }
}

async function askFor(city) {
  const { createReport } = await fetchGraphQL(ask, { city });
  print({ asked: createReport.report });
}

function fail(error) {
  console.error(`client: ${error?.message ?? JSON.stringify(error)}`);
  process.exit(1);
}

listen().catch(fail);
createInterface({ input: process.stdin })
  .on("line", (city) => askFor(city).catch(fail))
  .on("close", () => process.exit());
