package node

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/worker"
)

func TestResults(t *testing.T) {
	t.Parallel()
	b := open(t, map[string]string{"t.js": `
		const circle = {}; circle.self = circle;
		const all = { object: {a: [1, null, "ü\n\u2028"]}, zero: 0, nothing: undefined, no: null, date: new Date(0), fn: () => 1,
			big: 10n, circle, later: new Promise((r) => setTimeout(r, 5, "later")), thenable: { then: (ok) => ok("then") },
			largest: "x".repeat((1 << 20) - 2), wide: "ü".repeat((1 << 19) - 1), huge: "x".repeat(1 << 20), large: "ü".repeat(1 << 19), nan: NaN };
		module.exports = ({ give }) => all[give];`})
	for give, want := range map[string]string{
		"object": `{"a":[1,null,"ü\n` + "\u2028" + `"]}`, "zero": "0", "nothing": "", "no": "null", "date": `"1970-01-01T00:00:00.000Z"`, "fn": "",
		"later": `"later"`, "thenable": `"then"`, "nan": "null",
	} {
		if result, log, err := b.run("t", `{"give": "`+give+`"}`); err != nil || result != want || len(log) > 0 {
			t.Errorf("%s: %q %v %q", give, result, err, log)
		}
	}
	// What is done is done, also where the value that came of it cannot be kept.
	for give, want := range map[string]string{
		"big":    "WARN the task's return value is not stored, because it is not JSON: Do not know how to serialize a BigInt",
		"circle": "WARN the task's return value is not stored, because it is not JSON: Converting circular structure to JSON",
	} {
		if result, log, err := b.run("t", `{"give": "`+give+`"}`); err != nil || result != "" || !slices.Equal(log, []string{want}) {
			t.Errorf("%s: %q %v %q", give, result, err, log)
		}
	}
	// How much can be kept is said in bytes. What is more fails the job at once: it would be as much the next time.
	for _, give := range []string{"largest", "wide"} {
		if result, log, err := b.run("t", `{"give": "`+give+`"}`); err != nil || len(result) != 1<<20 || len(log) > 0 {
			t.Errorf("%s: %d bytes, %v %q", give, len(result), err, log)
		}
	}
	for _, give := range []string{"huge", "large"} {
		result, log, err := b.run("t", `{"give": "`+give+`"}`)
		if verb(err) != "fail" || result != "" || len(log) > 0 || first(err) != "the task's result has 1048578 bytes, and 1048576 are the most: store it elsewhere, and return where" {
			t.Errorf("%s: %.100s %v %q", give, result, err, log)
		}
	}
}

func TestErrors(t *testing.T) {
	t.Parallel()
	b := open(t, map[string]string{"t.js": `
		const circle = {}; circle.self = circle;
		const evil = { get message() { throw 1 }, toString() { throw 2 }, get [Symbol.toStringTag]() { throw 3 } };
		const proxy = new Proxy({}, { get() { throw 4 }, has() { throw 5 }, getPrototypeOf() { throw 6 }, ownKeys() { throw 7 } });
		const bad = new Error("x"); Object.defineProperty(bad, "stack", { get() { throw 8 } }); Object.defineProperty(bad, "cause", { get() { throw 9 } });
		function deep() { return new Error("outer\nsecond line", { cause: new TypeError("middle", { cause: "a string" }) }) }
		class Mine extends Error { name = "Mine"; code = 23505; detail = "Key (a)=(1) exists." }
		const all = { error: () => deep(), string: () => "boom", nothing: () => undefined, no: () => null, number: () => 42, circle: () => circle,
			evil: () => evil, proxy: () => proxy, bad: () => bad, empty: () => new Error(""), mine: () => new Mine("mine"), object: () => ({ message: "like an error" }),
			symbol: () => Symbol("s"), many: () => new AggregateError([new Error("one"), 2], "several"), self: () => { const e = new Error("self"); e.cause = e; return e } };
		module.exports = async ({ throw: what, sync }) => { throw all[what]() };`, "sync.js": `module.exports = () => { throw new RangeError("at once") }`})
	for what, want := range map[string]string{
		"error": "outer", "string": "threw a string: boom", "nothing": "threw undefined", "no": "threw null", "number": "threw a number that is no Error: 42",
		"circle": "threw an object that is no Error: <ref *1> { self: [Circular *1] }", "bad": "x", "empty": "Error", "mine": "mine", "object": "like an error",
		"symbol": "threw a symbol that is no Error: Symbol(s)", "many": "several", "self": "self", "evil": "threw ", "proxy": "threw ",
	} {
		result, log, err := b.run("t", `{"throw": "`+what+`"}`)
		if err == nil || result != "" || !strings.HasPrefix(first(err), want) || len(log) > 0 {
			t.Errorf("%s: %q %v %q", what, result, err, log)
		}
	}
	_, _, err := b.run("t", `{"throw": "error"}`)
	for _, want := range []string{"\n    at deep (", "t.js:6:", "\ncaused by: middle\n    (TypeError)\n    at deep", "\ncaused by: threw a string: a string"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in\n%v", want, err)
		}
	}
	if strings.Contains(err.Error(), "node:internal") || strings.Contains(err.Error(), "main.cjs") {
		t.Errorf("frames of ours:\n%v", err)
	}
	if _, _, err := b.run("t", `{"throw": "mine"}`); !strings.Contains(err.Error(), "mine\n    (Mine, code 23505, detail: Key (a)=(1) exists.)\n") {
		t.Error(err)
	}
	if _, _, err := b.run("t", `{"throw": "many"}`); !strings.Contains(err.Error(), "among them: one") || !strings.Contains(err.Error(), "among them: threw a number") {
		t.Error(err)
	}
	if _, _, err := b.run("sync", `{}`); first(err) != "at once" {
		t.Error(err)
	}
}

func TestBatch(t *testing.T) {
	t.Parallel()
	b := open(t, map[string]string{
		"batch.js": `module.exports = async (all) => all.map(async (n) => { if (n.no) throw n.no === 1 ? new Error("one") : "a string"; return n })`,
		"wrong.js": `module.exports = async (all) => [1]`,
		"plain.js": `module.exports = async (all) => [1, 2]`,
	})
	_, _, err := b.run("batch", "[{\"a\": 1.50},\n {\"no\": 1, \"x\": 1e2}, {\"no\": 2}]")
	var partial *worker.PartialError
	if !errors.As(err, &partial) || string(partial.Left) != `[{"no":1,"x":1e2},{"no":2}]` || err.Error() != "Batch failures:\none\na string" {
		t.Errorf("%+v %v", partial, err)
	}
	if result, _, err := b.run("batch", `[{"a": 1}]`); err != nil || result != `[{"a":1}]` {
		t.Errorf("%s %v", result, err)
	}
	if result, log, err := b.run("wrong", `[1, 2]`); err != nil || result != "" || len(log) != 1 || !strings.Contains(log[0], "array of 1 for a payload of 2") {
		t.Errorf("%s %v %q", result, err, log)
	}
	if result, _, err := b.run("plain", `{}`); err != nil || result != "[1,2]" {
		t.Errorf("%s %v", result, err)
	}
}

func TestLog(t *testing.T) {
	t.Parallel()
	b := open(t, map[string]string{
		"t.js": `module.exports = async (payload, { logger, debug }) => {
			console.log("out %d", 1); console.error("err"); process.stdout.write("begun "); process.stderr.write("e2\n");
			await new Promise((r) => setTimeout(r, 5));
			process.stdout.write("ended\r\nlast"); process.stdout.write(Buffer.from("ü\n").subarray(0, 1)); process.stdout.write(Buffer.from("ü\n").subarray(1));
			logger.error("e"); logger.warn("w"); logger.info("two\nlines"); logger.debug("hidden"); debug("hidden %s", 1); logger.info({ a: 1 });
			const s = logger.scope({ label: "mail" }).scope({ id: 7 }); s.info("scoped", { more: true });
			const circle = {}; circle.of = circle; const at = new Date(0); const e = new TypeError("no"); e.stack = "TypeError: no";
			logger.info("kinds", { e, m: new Map([[1, 2]]), n: 10n, x: NaN, at, list: [undefined, "<a>"] }); logger.info("circle", circle);
			const { info } = { info: (m) => logger.info(m) }; info("no newline"); process.stdout.write("no newline");
		}`,
		"much.js":    `module.exports = () => { for (let i = 0; i < 60000; i++) console.log("line " + i + " " + "x".repeat(90)); console.log("y".repeat(100000)) }`,
		"late.js":    `module.exports = () => { setTimeout(() => console.log("too late"), 20); return 1 }`,
		"outside.js": `console.log("while loading"); module.exports = () => require("child_process").execSync("echo from a child >&2", { stdio: "inherit" })`,
	})
	_, log, err := b.run("t", "{}")
	want := []string{"INFO out 1", "ERROR err", "ERROR e2", "INFO begun ended", "INFO lastü", "ERROR e", "WARN w", "INFO two", "INFO lines", "INFO { a: 1 }",
		"INFO scoped id=7 label=mail meta={\"more\":true}",
		`INFO kinds meta={"e":"[TypeError: no]","m":"Map(1) { 1 => 2 }","n":"10n","x":"NaN","at":"1970-01-01T00:00:00.000Z","list":[null,"<a>"]}`,
		"INFO circle meta=<ref *1> { of: [Circular *1] }", "INFO no newline", "INFO no newline"}
	if err != nil || !slices.Equal(log, want) {
		t.Errorf("%v\n%q\n%q", err, log, want)
	}
	_, log, err = b.run("much", "{}")
	size := 0
	for _, line := range log {
		size += len(line)
	}
	if n := len(log); err != nil || size > 2<<20 || n < 1000 || log[0] != "INFO line 0 "+strings.Repeat("x", 90) || !strings.Contains(log[n-1], "[cut: 100000 characters in all]") {
		t.Errorf("%v: %d lines, %d bytes, %.80q … %.80q", err, len(log), size, log[0], log[len(log)-1])
	}
	if !slices.ContainsFunc(log, func(l string) bool { return strings.Contains(l, "of the task's output were dropped here") }) {
		t.Error("nothing is said of what was dropped")
	}
	if _, log, err := b.run("late", "{}"); err != nil || len(log) > 0 {
		t.Errorf("%v %q", err, log)
	}
	b.eventually(func() bool { return b.log.has("INFO too late task=late") })
	b.run("outside", "{}")
	b.eventually(func() bool { return b.log.has("ERROR from a child") && b.log.has("INFO while loading") })
}

func TestJob(t *testing.T) {
	t.Parallel()
	b := open(t, map[string]string{"t.js": `module.exports = async (payload, helpers) => ({ ...helpers.job, same: payload === helpers.job.payload,
		dates: helpers.job.run_at instanceof Date, queue: await helpers.getQueueName(), keys: Object.keys({ ...helpers }).sort() })`})
	at := time.UnixMilli(1700000000123)
	result, _, err := b.run("t", "{\n\"a\": 1}", func(j *offstage.Job) {
		j.ID, j.RunAt, j.AddedAt = 9007199254740993, at, at
		j.Attempt, j.MaxAttempts, j.Priority, j.Flags, j.LastError, j.Key = 2, 3, -4, []string{"f"}, "oh \"no\"", "k"
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"id":"9007199254740993","job_queue_id":null`, `"payload":{"a":1},"priority":-4,"run_at":"2023-11-14T22:13:20.123Z"`,
		`"attempts":2,"max_attempts":3,"last_error":"oh \"no\""`, `"key":"k"`, `"flags":{"f":true}`, `"task_identifier":"t","same":true,"dates":true,"queue":null`,
		`"keys":["abortPromise","abortSignal","addJob","addJobs","debug","getQueueName","job","logger","progress","query","withPgClient"]`} {
		if !strings.Contains(result, want) {
			t.Errorf("no %s in %s", want, result)
		}
	}
	for _, payload := range []string{"null", "17", `"text"`, "[]", `{"__proto__": 1}`, "1e400"} {
		if _, _, err := b.run("t", payload); err != nil {
			t.Errorf("%s: %v", payload, err)
		}
	}
}

// Helpers are an ordinary object, whatever is done to them, although most of it is made when it is asked for.
func TestHelpersAreAnObject(t *testing.T) {
	t.Parallel()
	b := open(t, map[string]string{"t.js": `
		"use strict";
		const { inspect } = require("node:util");
		const does = {
			destructure: ({ job, logger, addJob, ...rest }) => [typeof job.id, typeof logger.info, typeof addJob, Object.keys(rest).length],
			names: (h) => Object.keys(h).join(" "),
			print: (h) => inspect(h, { depth: 0 }).includes("addJob: [Function"),
			printLater: (h) => [typeof h.query, inspect(h, { depth: 0 }).includes("job: [Object]")],
			plain: (h) => [Object.getPrototypeOf(h) === Object.prototype, typeof h.query, Object.getPrototypeOf(h) === Object.prototype, String(h)],
			same: (h) => [h.job === h.job, h.logger === h.logger, h.addJob === h.addJob, h.abortSignal === h.abortSignal, ({ ...h }).logger === h.logger],
			change: (h) => { const own = []; h.logger = own; h.job = own; h.mine = 1; return [h.logger === own, h.job === own, h.mine, "mine" in h, delete h.mine, "mine" in h] },
			has: (h) => ["job" in h, "abortPromise" in h, "nothing" in h, h.nothing === undefined, Object.hasOwn(h, "logger")],
			freeze: (h) => { Object.freeze(h); return [Object.isFrozen(h), typeof h.addJob, Object.getPrototypeOf(h) === Object.prototype] },
			inherit: (h) => { const more = Object.create(h); return [typeof more.job.id, typeof more.addJob] },
		};
		module.exports = ({ what }, helpers) => ({ is: does[what](helpers) });`})
	for what, want := range map[string]string{
		"destructure": `["string","function","function",8]`,
		"names":       `"job logger withPgClient query addJob addJobs getQueueName progress debug abortSignal abortPromise"`,
		"print":       `true`,
		"printLater":  `["function",true]`,
		"plain":       `[true,"function",true,"[object Object]"]`,
		"same":        `[true,true,true,true,true]`,
		"change":      `[true,true,1,true,true,false]`,
		"has":         `[true,true,false,true,true]`,
		"freeze":      `[true,"function",true]`,
		"inherit":     `["string","function"]`,
	} {
		if result, log, err := b.run("t", `{"what": "`+what+`"}`); err != nil || result != `{"is":`+want+`}` || len(log) > 0 {
			t.Errorf("%s: %s %v %q", what, result, err, log)
		}
	}
}
