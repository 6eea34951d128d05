// Must compile; what must not is marked.
import { addJob, addJobs, type Job, type JobHelpers, type PgClient, type Task } from "offstage";

export const hello: Task<{ name: string }, string> = async ({ name }, { logger, job, progress, addJob }) => {
  logger.scope({ label: "x" }).info(`Hello, ${name}`, { job: job.id });
  await progress(50, "half");
  const next: Job = await addJob("next", { n: 1 }, { runAt: new Date(), jobKeyMode: "replace", flags: ["a"] });
  return next.id;
};
export const sync: Task = () => 1;
export const batch: Task<{ id: number }[]> = (all, helpers) => all.map(async ({ id }) => helpers.query<{ n: number }>("select $1 as n", [id]));
export const stops: Task = async (_payload, { abortSignal, abortPromise, withPgClient, getQueueName }: JobHelpers) => {
  abortSignal.addEventListener("abort", () => {});
  const n: number = await withPgClient.withRetries(async (client) => (await client.query("select 1 as n")).rows[0].n);
  const name: string | null = await getQueueName();
  await Promise.race([abortPromise, n, name]);
};
export async function add(client: PgClient) {
  const job = await addJob(client, "hello", { name: "x" }, { priority: 1 }, { schema: "graphile_worker" });
  // @ts-expect-error ids are text
  const id: number = job.id;
  // @ts-expect-error there is no such option
  await addJob(client, "hello", {}, { queue: "q" });
  // @ts-expect-error the mode is one for all
  await addJobs(client, [{ identifier: "a", jobKeyMode: "replace" }]);
  // @ts-expect-error the payload's type is the task's
  await hello({ nam: "x" }, undefined as never);
  return id;
}
