module.exports = () => {
  null.x;
};
