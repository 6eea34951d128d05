"use strict";
// What was thrown, as text for people: the message first, then where it comes from. Whatever a task throws, nothing here
// throws: getters, proxies and toString are not trusted.
const { inspect, types } = require("node:util");

const maxCauses = 5;
const maxText = 16 << 10;

// ours are stack frames that tell nobody anything.
const ours = (frame) => frame.includes("node:internal/") || frame.includes(__dirname) || frame.includes("node:async_hooks");

function attempt(read, otherwise) {
  try {
    return read();
  } catch {
    return otherwise;
  }
}

const show = (value) =>
  attempt(() => inspect(value, { depth: 2, customInspect: false, maxStringLength: 1000, maxArrayLength: 20, breakLength: Infinity }), "(a value that cannot be shown)");

const isError = (value) => attempt(() => types.isNativeError(value) || value instanceof Error, false);

// messageOf is the first line that matters; Graphile Worker's last_error is the same where that has any.
function messageOf(thrown) {
  if (isError(thrown)) {
    const message = attempt(() => thrown.message, undefined);
    if (typeof message === "string" && message !== "") return message;
    const name = attempt(() => thrown.name, undefined);
    return typeof name === "string" && name !== "" ? name : "Error";
  }
  if (typeof thrown === "string") return `threw a string: ${thrown}`;
  if (thrown !== null && typeof thrown === "object") {
    const message = attempt(() => thrown.message, undefined);
    if (typeof message === "string" && message !== "") return message;
    return `threw an object that is no Error: ${show(thrown)}`;
  }
  return thrown === null || thrown === undefined ? `threw ${thrown}` : `threw a ${typeof thrown} that is no Error: ${show(thrown)}`;
}

function facts(error) {
  const found = [];
  const name = attempt(() => error.name, undefined);
  if (typeof name === "string" && name !== "" && name.toLowerCase() !== "error") found.push(name);
  const code = attempt(() => error.code, undefined);
  if (typeof code === "string" || typeof code === "number") found.push(`code ${code}`);
  for (const key of ["detail", "hint"]) {
    const text = attempt(() => error[key], undefined);
    if (typeof text === "string" && text !== "") found.push(`${key}: ${text}`);
  }
  return found;
}

function framesOf(error) {
  const stack = attempt(() => error.stack, undefined);
  if (typeof stack !== "string") return [];
  const lines = stack.split("\n");
  const frames = lines.filter((line) => /^\s+at /.test(line) && !ours(line)).map((line) => "    " + line.trim());
  // The place of a syntax error is in no frame, but in the first line.
  if (/^(file:\/\/)?\/.*:\d+$/.test(lines[0])) frames.unshift("    at " + lines[0]);
  return frames;
}

// describe is the whole text.
function describe(thrown) {
  const text = [];
  const seen = new Set();
  const add = (value, prefix, depth) => {
    text.push(prefix + messageOf(value));
    if (value === null || (typeof value !== "object" && typeof value !== "function") || seen.has(value)) return;
    seen.add(value);
    const about = facts(value);
    if (about.length > 0) text.push(`    (${about.join(", ")})`);
    text.push(...framesOf(value));
    if (depth >= maxCauses) return;
    const errors = attempt(() => value.errors, undefined);
    if (Array.isArray(errors)) {
      for (const each of attempt(() => errors.slice(0, 10), [])) add(each, "among them: ", depth + 1);
    }
    if (attempt(() => "cause" in value && value.cause !== undefined, false)) add(attempt(() => value.cause), "caused by: ", depth + 1);
  };
  attempt(() => add(thrown, "", 0), undefined);
  const all = text.join("\n") || "threw something that cannot be shown";
  return all.length > maxText ? all.slice(0, maxText) : all;
}

// revive makes an Error of what the worker answered.
function revive({ message, ...facts }) {
  const error = new Error(message);
  for (const [key, value] of Object.entries(facts)) if (value) error[key] = value;
  return error;
}

module.exports = { describe, messageOf, revive, show };
