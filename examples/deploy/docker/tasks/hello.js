// A task to begin with: docker compose … exec web /usr/local/bin/offstage add hello '{"name": "Ada"}' --wait
module.exports = async (payload, helpers) => {
  helpers.logger.info(`Hello, ${payload.name}`);
};
