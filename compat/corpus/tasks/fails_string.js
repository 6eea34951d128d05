module.exports = async () => {
  throw "only a string";
};
