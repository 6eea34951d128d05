"use strict";
// Loads the files of tasks, by the rules of Graphile Worker.
const { pathToFileURL } = require("node:url");
const { describe } = require("./errors.cjs");

const patience = 20_000; // milliseconds

// handlerOf is what a module exports as its task. CommonJS that was compiled from an ES module has its default export one
// or two levels deeper; a plain object is looked into as well.
function handlerOf(module) {
  const outer = module.default;
  let inner = module;
  if (outer?.default?.__esModule === true) inner = outer.default;
  else if (outer?.__esModule === true) inner = outer;
  else if (typeof outer === "object" && outer !== null && Object.keys(module).every((key) => key === "default" || key === "module.exports")) inner = outer;
  return inner.default || inner;
}

// load answers the function of a task's file, and throws what is wrong with the file.
async function load(file) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(reject, patience, new Error(`it has not finished loading after ${patience / 1000} s: is there an await at its top level that never ends?`));
  });
  try {
    const handler = handlerOf(await Promise.race([import(pathToFileURL(file).href), late]));
    if (typeof handler !== "function") throw new Error(`it exports ${handler === null ? "null" : `a value of type ${typeof handler}`}, not a function; write module.exports = async (payload, helpers) => { … } or export default`);
    return handler;
  } finally {
    clearTimeout(timer);
  }
}

// loadAll answers the functions by task, and the reasons of those that do not load. within runs each load under a name.
async function loadAll(tasks, within) {
  const handlers = [];
  const failed = {};
  await Promise.all(
    tasks.map(({ name, file }, i) =>
      within({ name, file }, async () => {
        try {
          handlers[i] = await load(file);
        } catch (thrown) {
          failed[name] = describe(thrown);
        }
      }),
    ),
  );
  return { handlers, failed };
}

module.exports = { loadAll, handlerOf };
