module.exports = async () => {
  throw new Error("it failed\nin two lines");
};
