// The task that the trigger in app.sql adds, written as for Graphile Worker. What it returns is stored as the job's result.
module.exports = async ({ report_id }, helpers) => {
  const {
    rows: [sales],
  } = await helpers.query(
    `select count(*)::int as count, (coalesce(sum(cents), 0) / 100.0)::float8 as total, mode() within group (order by product) as best
     from app_private.sale where city = (select city from app_public.report where id = $1)`,
    [report_id],
  );
  helpers.logger.info(`counted ${sales.count} sales`);

  // A job runs at least once: when a worker dies between this statement and the end of its job, another one comes here
  // again. Writing the same row twice does no harm; where it would, ask for what has not happened yet, as here.
  await helpers.query(
    "update app_public.report set result = $2, finished_at = now() where id = $1 and finished_at is null",
    [report_id, sales],
  );
  return sales;
};
