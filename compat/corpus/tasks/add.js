module.exports = async (payload, { addJob }) => {
  await addJob("later", { n: 1 });
  await addJob("later");
  const job = await addJob("later", { n: [2, "ü"] }, {
    queueName: "q", runAt: new Date("2040-01-02T03:04:05.678Z"), maxAttempts: 3, jobKey: "k", priority: -2, flags: ["a", "b"],
  });
  const again = await addJob("later", { n: 3 }, { jobKey: "k", jobKeyMode: "preserve_run_at" });
  if (job.id !== again.id || again.revision !== 1 || !(again.run_at instanceof Date)) throw new Error(JSON.stringify([job, again]));
};
