package offstage_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/offstage-dev/offstage"

// layers says what each package may import of this module; "" is the root. Lower layers know nothing of higher ones.
// Test files may import test helpers besides (testing below).
var layers = map[string][]string{
	"schema":                {},
	"internal/wake":         {},
	"internal/cron":         {},
	"internal/devpg":        {},
	"internal/pgtest":       {"schema", "internal/devpg"},
	"":                      {"internal/wake"},
	"internal/store":        {""},
	"internal/maintain":     {"internal/cron", "internal/store", "internal/wake"},
	"worker":                {"", "schema", "internal/store", "internal/wake", "internal/maintain", "internal/cron"},
	"internal/runner/tasks": {},
	"internal/runner/lines": {},
	"internal/runner/exec":  {"", "worker", "internal/runner/tasks", "internal/runner/lines"},
	"internal/runner/node":  {"", "worker", "internal/runner/tasks", "internal/runner/lines", "internal/store"},
	"internal/view":         {"", "internal/wake"},
	"internal/web/guard":    {},
	"internal/web/chart":    {},
	"internal/web":          {"", "internal/view", "internal/web/guard", "internal/web/chart", "internal/cron", "internal/health", "internal/metrics"},
	"internal/metrics":      {"", "worker"},
	"internal/health":       {"schema"},
	"offstageotel":          {"", "worker"},
	"ui":                    {"", "internal/view", "internal/web", "internal/web/guard"},
	"internal/cli": {
		"", "schema", "worker", "internal/cron", "internal/devpg", "internal/store", "internal/wake", "internal/runner/exec", "internal/runner/node",
		"internal/runner/tasks", "internal/view", "internal/web", "internal/web/guard", "internal/health", "internal/metrics", "offstageotel",
	},
	"internal/demo": {
		"", "schema", "worker", "internal/cli", "internal/devpg", "internal/web", "internal/runner/exec", "internal/runner/node", "internal/runner/tasks",
	},
	"cmd/offstage": {"internal/cli"},

	"examples/postgraphile":          {"internal/devpg"},
	"examples/postgraphile/goworker": {"worker"},

	// Tests alone.
	"browser": {}, "compat": {}, "e2e": {}, "soak": {},
}

// testing packages may be imported by every test.
var testing_ = []string{
	"", "schema", "worker", "internal/pgtest", "internal/devpg", "internal/store", "internal/wake", "internal/cron", "internal/cli", "internal/runner/exec", "internal/runner/node", "internal/runner/tasks", "internal/web", "internal/web/guard",
}

// library packages are imported by users' programs: of other modules they may use these only.
var (
	library = []string{"", "schema", "worker", "internal/store", "internal/wake", "internal/maintain", "internal/cron"}
	allowed = []string{"github.com/jackc/pgx/v5", "golang.org/x/sync"}
)

// The files are parsed here and not listed by the go command, whose test cache would not see what a child process reads.
func TestLayers(t *testing.T) {
	found := map[string]bool{}
	lines := map[string]int{}
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && path != "." || d.Name() == "node_modules" || path == "bench" || path == "bin") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, ".go") {
			return nil
		}
		pkg := filepath.ToSlash(filepath.Dir(path))
		if pkg == "." {
			pkg = ""
		}
		test := strings.HasSuffix(path, "_test.go")
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, path, nil, parser.ImportsOnly|parser.ParseComments)
		if err != nil {
			return err
		}
		lines[path] = fset.File(file.Pos()).LineCount()
		may, known := layers[pkg]
		if !known && !test {
			t.Errorf("%s: package %q is not in the table of layers; give it a place", path, pkg)
		}
		if !test && file.Doc != nil {
			if found[pkg] {
				t.Errorf("%s: package %q has a second package comment", path, pkg)
			}
			found[pkg] = true
		}
		for _, spec := range file.Imports {
			name, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			if name == module || strings.HasPrefix(name, module+"/") {
				of := strings.TrimPrefix(strings.TrimPrefix(name, module), "/")
				if !slices.Contains(may, of) && !(test && (slices.Contains(testing_, of) || of == pkg)) {
					t.Errorf("%s: %q must not import %q", path, pkg, of)
				}
				continue
			}
			if first, _, _ := strings.Cut(name, "/"); strings.Contains(first, ".") && !test && slices.Contains(library, pkg) &&
				!slices.ContainsFunc(allowed, func(a string) bool { return name == a || strings.HasPrefix(name, a+"/") }) {
				t.Errorf("%s: the importable library must not depend on %s", path, name)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for pkg := range layers {
		if !found[pkg] {
			t.Errorf("package %q has no package comment, or is gone", pkg)
		}
	}
	for path, n := range lines {
		if n > 700 {
			t.Errorf("%s has %d lines: it is about two things", path, n)
		}
	}
}
