module.exports = async () => {
  throw { message: "like an error", status: 500 };
};
