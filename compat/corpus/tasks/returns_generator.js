module.exports = function* () {
  throw new Error("nobody asks for the first value");
};
