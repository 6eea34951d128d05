module.exports = class Task {
  constructor() {
    this.made = true;
  }
};
