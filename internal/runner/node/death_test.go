package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/worker"
)

// hasty is a Config that loses patience soon.
func hasty(c *Config) { c.AbortGrace, c.DrainGrace = 300*time.Millisecond, 300*time.Millisecond }

func verb(err error) string {
	var control *offstage.Control
	if errors.As(err, &control) {
		return control.Verb
	}
	return ""
}

// beside runs a task while another one waits in the same process, and gives the errors of both.
func (b *bench) beside(ctx context.Context, task string) (err, other error) {
	b.t.Helper()
	before := len(b.log.all())
	waiting, stop := context.WithCancelCause(b.t.Context())
	defer stop(nil)
	done := make(chan error, 1)
	go func() {
		_, _, err := b.runIn(waiting, "waits", "{}")
		done <- err
	}()
	b.eventually(func() bool {
		return slices.ContainsFunc(b.log.all()[before:], func(line string) bool { return strings.Contains(line, "waiting") })
	})
	_, _, err = b.runIn(ctx, task, "{}")
	stop(offstage.ErrCancelled)
	return err, <-done
}

const waits = `module.exports = (payload, { abortSignal }) => new Promise((done) => {
	process.nextTick(() => process._rawDebug("waiting"));
	abortSignal.addEventListener("abort", () => done("stopped")) })`

func TestExit(t *testing.T) {
	t.Parallel()
	b := open(t, map[string]string{
		"waits.js": waits,
		"exit.js":  `module.exports = async () => { await null; process.exit(3) }`,
		"catch.js": `module.exports = async () => { try { process.exit() } catch {} return "went on" }`,
		"late.js":  `module.exports = async () => { setTimeout(() => process.exit(1), 10) }`,
		"pid.js":   `module.exports = () => process.pid`,
	})
	before, _, _ := b.run("pid", "{}")
	err, other := b.beside(t.Context(), "exit")
	if first(err) != "called process.exit(3)" || other != nil {
		t.Errorf("%v; the other: %v", err, other)
	}
	// The process gets nothing more, and is replaced.
	b.eventually(func() bool { after, _, _ := b.run("pid", "{}"); return after != before })
	if result, _, err := b.run("catch", "{}"); first(err) != "called process.exit(0)" || result != "" {
		t.Errorf("%s %v", result, err)
	}
	if _, _, err := b.run("late", "{}"); err != nil {
		t.Error(err)
	}
	b.eventually(func() bool { return b.log.has("called process.exit(1) after its attempt had ended task=late") })
}

// A process that cannot read what it is sent has lost attempts: it ends, so that all it has begin again elsewhere.
func TestBrokenFrame(t *testing.T) {
	t.Parallel()
	b := open(t, map[string]string{"waits.js": waits, "pid.js": `module.exports = () => process.pid`})
	before, _, _ := b.run("pid", "{}")
	ended := make(chan error, 1)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	go func() {
		_, _, err := b.runIn(ctx, "waits", "{}")
		ended <- err
	}()
	b.eventually(func() bool { return b.log.has("waiting") })
	b.mu.Lock()
	p := b.ready[0]
	b.mu.Unlock()
	p.mu.Lock()
	p.append(func(out []byte) []byte { return append(out, `,["no JSON"`...) })
	p.mu.Unlock()
	if err := <-ended; verb(err) != "crash" {
		t.Errorf("the attempt ended with %v", err)
	}
	b.eventually(func() bool { return b.log.has("the worker sent what cannot be understood") })
	b.eventually(func() bool { after, _, _ := b.run("pid", "{}"); return after != before })
}

func TestUnhandled(t *testing.T) {
	t.Parallel()
	b := open(t, map[string]string{
		"waits.js":  waits,
		"reject.js": `module.exports = async () => { (async () => { await null; throw new Error("nobody looked") })(); await new Promise(() => {}) }`,
		"throw.js":  `module.exports = async () => { setTimeout(() => { throw new Error("from a timer") }, 5); await new Promise(() => {}) }`,
		"late.js":   `module.exports = async () => { setTimeout(() => Promise.reject(new Error("afterwards")), 20) }`,
		"pid.js":    `module.exports = () => process.pid`,
	})
	before, _, _ := b.run("pid", "{}")
	err, other := b.beside(t.Context(), "reject")
	if first(err) != "nobody looked (a promise was rejected and nobody handled it)" || other != nil || !strings.Contains(err.Error(), "reject.js:1:") {
		t.Errorf("%v; the other: %v", err, other)
	}
	if _, _, err := b.run("late", "{}"); err != nil {
		t.Error(err)
	}
	b.eventually(func() bool { return b.log.has("WARN a promise was rejected and nobody handled it: afterwards") })
	if after, _, _ := b.run("pid", "{}"); after != before {
		t.Error("a rejected promise ends the process")
	}
	_, _, err = b.run("throw", "{}")
	if first(err) != "from a timer (an exception was thrown where nobody could catch it)" {
		t.Error(err)
	}
	b.eventually(func() bool { after, _, _ := b.run("pid", "{}"); return after != before })
}

func TestAbort(t *testing.T) {
	t.Parallel()
	b := open(t, map[string]string{
		"signal.js":  waits,
		"promise.js": `module.exports = async (payload, { abortPromise }) => { process._rawDebug("waiting"); await abortPromise }`,
		"reason.js":  `module.exports = async (payload, helpers) => { process._rawDebug("waiting"); await helpers.abortPromise.catch((e) => { throw new Error(e.name + ", " + helpers.abortSignal.aborted) }) }`,
		"never.js":   `module.exports = () => { process._rawDebug("waiting"); return new Promise(() => {}) }`,
		"pid.js":     `module.exports = () => process.pid`,
		"waits.js":   waits,
	}, hasty)
	cause := fmt.Errorf("%w: not needed", offstage.ErrCancelled)
	stopped := func(task string, cause error) (string, error) {
		ctx, cancel := context.WithCancelCause(t.Context())
		defer cancel(nil)
		log := len(b.log.all())
		var result string
		var err error
		done := make(chan struct{})
		go func() {
			defer close(done)
			result, _, err = b.runIn(ctx, task, "{}")
		}()
		b.eventually(func() bool { return len(b.log.all()) > log })
		cancel(cause)
		<-done
		return result, err
	}
	if result, err := stopped("signal", cause); result != `"stopped"` || err != nil {
		t.Errorf("%s %v", result, err)
	}
	if _, err := stopped("promise", cause); err != cause {
		t.Error(err)
	}
	if _, err := stopped("reason", cause); first(err) != "AbortError, true" {
		t.Error(err)
	}
	before, _, _ := b.run("pid", "{}")
	if _, err := stopped("never", cause); first(err) != "it went on when its abortSignal had fired; its Node process was killed" {
		t.Error(err)
	}
	if after, _, err := b.run("pid", "{}"); err != nil || after == before {
		t.Errorf("%s %v", after, err)
	}
	// Another attempt is given back.
	ctx, cancel := context.WithTimeoutCause(t.Context(), 200*time.Millisecond, offstage.ErrTimeout)
	defer cancel()
	if err, other := b.beside(ctx, "never"); verb(err) != "" || verb(other) != "release" {
		t.Errorf("%v; the other: %v", err, other)
	}
}

func TestBlocked(t *testing.T) {
	t.Parallel()
	b := open(t, map[string]string{
		"waits.js":  waits,
		"blocks.js": `module.exports = async () => { await null; for (;;) {} }`,
		"pid.js":    `module.exports = () => process.pid`,
	}, hasty)
	// It is alone: it was it.
	ctx, cancel := context.WithTimeoutCause(t.Context(), 100*time.Millisecond, offstage.ErrTimeout)
	defer cancel()
	if _, _, err := b.runIn(ctx, "blocks", "{}"); !strings.HasPrefix(first(err), "it blocked the event loop for ") {
		t.Error(err)
	}
	// With others in the process, nobody knows; the second time in a row, they run alone next.
	ctx, cancel = context.WithTimeoutCause(t.Context(), 300*time.Millisecond, offstage.ErrTimeout)
	defer cancel()
	err, other := b.beside(ctx, "blocks")
	if verb(err) != "crash" || verb(other) != "crash" || !strings.Contains(err.Error(), "one of the 2 jobs in it blocked the event loop") {
		t.Errorf("%v; the other: %v", err, other)
	}
	// When the worker stops, it was nobody: all of them are released.
	ctx, cancel = context.WithTimeoutCause(t.Context(), 300*time.Millisecond, offstage.ErrStopping)
	defer cancel()
	if err, other := b.beside(ctx, "blocks"); verb(err) != "" || first(err) != "it went on when its abortSignal had fired; its Node process was killed" || verb(other) != "release" {
		t.Errorf("%v; the other: %v", err, other)
	}
	if _, _, err := b.run("pid", "{}"); err != nil {
		t.Error(err)
	}
}

func TestDeath(t *testing.T) {
	t.Parallel()
	b := open(t, map[string]string{
		"waits.js":  waits,
		"kill.js":   `module.exports = () => { process.kill(process.pid, "SIGKILL"); return new Promise(() => {}) }`,
		"memory.js": `module.exports = () => { const all = []; for (;;) all.push(new Array(1e5).fill({})) }`,
		"abort.js":  `module.exports = () => process.abort()`,
		"pid.js":    `module.exports = () => process.pid`,
	}, func(c *Config) { c.Env = append(c.Env, "NODE_OPTIONS=--max-old-space-size=40", "PATH=/usr/bin:/bin") })
	err, other := b.beside(t.Context(), "kill")
	if verb(err) != "crash" || verb(other) != "crash" || !strings.Contains(err.Error(), "its Node process died (signal: killed") {
		t.Errorf("%v; the other: %v", err, other)
	}
	if _, _, err := b.run("memory", "{}"); verb(err) != "crash" || !strings.Contains(err.Error(), "JavaScript heap out of memory") {
		t.Error(err)
	}
	if _, _, err := b.run("abort", "{}"); verb(err) != "crash" {
		t.Error(err)
	}
	shared, _, err := b.run("pid", "{}")
	if err != nil {
		t.Error(err)
	}
	// One that was there twice has a process of its own, which is gone when it has ended.
	alone := worker.WithClaim(t.Context(), worker.Claim{Alone: true})
	own, log, err := b.runIn(alone, "pid", "{}")
	if err != nil || own == shared || len(log) != 1 || !strings.Contains(log[0], "in a Node process of its own") {
		t.Errorf("%s %s %v %q", own, shared, err, log)
	}
	if _, _, err := b.runIn(alone, "kill", "{}"); verb(err) != "crash" {
		t.Error(err)
	}
	if again, _, _ := b.run("pid", "{}"); again != shared {
		t.Error("the shared process was replaced")
	}
}

// Attempts that run when the runner is closed are given back.
func TestClose(t *testing.T) {
	t.Parallel()
	b := open(t, map[string]string{"waits.js": waits})
	done := make(chan error)
	go func() {
		_, _, err := b.run("waits", "{}")
		done <- err
	}()
	b.eventually(func() bool { return b.log.has("waiting") })
	b.Close()
	if err := <-done; verb(err) != "release" {
		t.Error(err)
	}
	b.closed = make(chan struct{}) // for the end of the test, which closes it once more
	if _, err := b.take(ended(t), "waits", 0); verb(err) != "release" {
		t.Error(err)
	}
}

func ended(t *testing.T) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}

// A file that has begun to work for ever when it is loaded does not hold up who has to run alone.
func TestAloneLoadsTooLong(t *testing.T) {
	t.Parallel()
	b := open(t, map[string]string{"a.js": `while (require("node:fs").existsSync(__dirname + "/hangs.txt")) {}; module.exports = () => process.pid`},
		func(c *Config) { c.LoadTimeout = 5 * time.Second })
	write(t, b.dir, map[string]string{"hangs.txt": ""})
	_, log, err := b.runIn(worker.WithClaim(t.Context(), worker.Claim{Alone: true}), "a", "{}")
	if verb(err) != "release" || len(log) != 1 || !strings.Contains(log[0], "the tasks have not loaded within 5s in a Node process of its own") {
		t.Errorf("%v %q", err, log)
	}
}

// A file that was broken since the worker has started spends no attempts of its jobs.
func TestBrokenSince(t *testing.T) {
	t.Parallel()
	b := open(t, map[string]string{"exit.js": `module.exports = () => process.exit(1)`, "good.js": `module.exports = () => process.pid`})
	before, _, err := b.run("good", "{}")
	if err != nil {
		t.Fatal(err)
	}
	write(t, b.dir, map[string]string{"good.js": `module.exports = (`})
	if _, _, err := b.run("exit", "{}"); err == nil {
		t.Error("no error")
	}
	b.eventually(func() bool {
		result, log, err := b.run("good", "{}")
		if err == nil && result == before { // the process was not given up yet
			return false
		}
		if verb(err) != "release" || len(log) != 1 || !strings.Contains(log[0], "the file of the task does not load any more") {
			t.Errorf("%q %v %q", result, err, log)
		}
		return true
	})
	b.eventually(func() bool { return b.log.has("a task does not load any more; its jobs are put off task=good") })
}
