// Writes down what a task has seen, where the test compares it.
exports.record = async ({ job, query }, what) => {
  await query("insert into public.effect (task, what) values ($1, $2)", [job.task_identifier, JSON.stringify(what ?? null)]);
};
