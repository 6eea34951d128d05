module.exports = async () => Promise.reject(new Error(""));
