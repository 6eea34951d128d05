module.exports = async (payload, { logger, debug }) => {
  const scoped = logger.scope({ label: "corpus" });
  for (const level of ["error", "warn", "info", "debug"]) scoped[level](`a line at ${level}`, { meta: true });
  debug("a %s line", "debug");
  console.log("to stdout");
  console.error("to stderr");
};
