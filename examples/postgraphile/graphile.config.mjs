// PostGraphile 5: npx postgraphile reads this file.
import jwt from "jsonwebtoken";
import { makePgService } from "postgraphile/adaptors/pg";
import { PostGraphileAmberPreset } from "postgraphile/presets/amber";
import { PgV4SimpleSubscriptionsPlugin } from "postgraphile/presets/v4";

const secret = process.env.JWT_SECRET;

/** The settings of the transaction in which a request is answered: the role, and who it is. */
function settings(authorization) {
  const [scheme, token] = (authorization ?? "").split(" ");
  if (scheme.toLowerCase() !== "bearer") return { role: "app_person" }; // nobody: sees no row
  const { person_id } = jwt.verify(token, secret, { algorithms: ["HS256"], audience: "postgraphile" });
  return { role: "app_person", "jwt.claims.person_id": String(person_id) };
}

export default {
  extends: [PostGraphileAmberPreset],

  // Subscription.listen(topic:, initialEvent:): PostGraphile 5 has it as a plugin of its V4 preset.
  plugins: [PgV4SimpleSubscriptionsPlugin],

  pgServices: [
    makePgService({
      connectionString: process.env.DATABASE_URL, // as app_server
      schemas: ["app_public"],
      pubsub: true, // one connection that listens, for all subscribers of this process
    }),
  ],

  grafserv: { websockets: true },

  grafast: {
    // A browser cannot send headers with a websocket, so that a graphql-ws client gives its token in connectionParams.
    // What this answers holds for every event of the subscription: each one reads rows as that person.
    context: ({ node, ws }) => ({
      pgSettings: settings(ws ? ws.normalizedConnectionParams?.authorization : node?.req.headers.authorization),
    }),
  },
};
