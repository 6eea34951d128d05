// PostGraphile 4 with @graphile/pg-pubsub, as a library.
const http = require("node:http");
const { default: pubsub } = require("@graphile/pg-pubsub");
const { enhanceHttpServerWithWebSockets, makePluginHook, postgraphile } = require("postgraphile");

const app = postgraphile(process.env.DATABASE_URL, "app_public", {
  pluginHook: makePluginHook([pubsub]),
  subscriptions: true,
  simpleSubscriptions: true, // Subscription.listen(topic:, initialEvent:), from pg-pubsub
  websockets: ["v1"], // the protocol of the package graphql-ws
  jwtSecret: process.env.JWT_SECRET, // checks the token of a request, or of a websocket's connectionParams
  pgDefaultRole: "app_person", // without a token: nobody, who sees no row
  ignoreRBAC: false, // only what app_person may do
  dynamicJson: true, // results as JSON, not as text
  graphiql: true,
  enhanceGraphiql: true,
});
const server = http.createServer(app);
enhanceHttpServerWithWebSockets(server, app); // now, and not with the first request: a subscription may come before it
server.listen(Number(process.env.PORT ?? 5678), "127.0.0.1", () => {
  console.log(`Server listening at http://127.0.0.1:${server.address().port}/graphql`);
});
