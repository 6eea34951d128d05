module.exports = async () => Promise.reject(null);
