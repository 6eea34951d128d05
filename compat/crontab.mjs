// Reads crontabs with Graphile Worker's own parser. Arguments: the package, and a file with a list of {text, start, probes}.
// Prints for each the error, or the items, with when they are due: the first minutes from start on, and which of the
// probes.
import { readFileSync } from "node:fs";

const [name, file] = process.argv.slice(2);
const { parseCrontab } = await import(name);
const minute = 60_000;
const window = 2 * 24 * 60;
const most = 10;

function due(match, time) {
  const d = new Date(time);
  return match({
    min: d.getUTCMinutes(), hour: d.getUTCHours(), date: d.getUTCDate(), month: d.getUTCMonth() + 1, dow: d.getUTCDay(),
  });
}

function item({ task, identifier, payload, options, match }, { start, probes }, i) {
  const ticks = [];
  for (let n = 0; n < window && ticks.length < most; n++) {
    const at = start + n * minute;
    if (due(match, at)) ticks.push(at);
  }
  return { task, identifier, payload: payload ?? null, ...options, ticks, probes: (probes?.[i] ?? []).map((at) => due(match, at)) };
}

const answers = JSON.parse(readFileSync(file, "utf8")).map((given) => {
  let items;
  try {
    items = parseCrontab(given.text);
  } catch (e) {
    return { error: e.message };
  }
  return { items: items.map((parsed, i) => item(parsed, given, i)) };
});
console.log(JSON.stringify(answers));
