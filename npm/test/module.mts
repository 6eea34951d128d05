import { addJob, type Task } from "offstage";

export default (async (payload, helpers) => {
  await helpers.withPgClient((client) => addJob(client, "next", payload));
}) satisfies Task;
