module.exports = async () => [1, 2, 3];
