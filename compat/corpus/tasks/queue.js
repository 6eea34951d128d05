const { record } = require("../lib/record.cjs");
module.exports = async (payload, helpers) => {
  const { job, getQueueName } = helpers;
  await record(helpers, [await getQueueName(), await getQueueName(job.job_queue_id), await getQueueName(null), typeof job.job_queue_id]);
};
