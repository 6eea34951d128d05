package npm_test

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"slices"
	"testing"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func run(t *testing.T, name string, args ...string) []byte {
	t.Helper()
	if _, err := os.Stat("node_modules/pg"); err != nil {
		t.Fatal("npm/node_modules is missing: run ./dev test, which installs it")
	}
	var fault bytes.Buffer
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Stderr = &fault
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s%s", name, args, err, out, &fault)
	}
	return out
}

// The package adds jobs in its caller's transaction, with the real package pg.
func TestAddJob(t *testing.T) {
	t.Parallel()
	if out := run(t, "node", "test/addjob.cjs", pgtest.New(t).URL); string(out) != "ok\n" {
		t.Errorf("%q", out)
	}
}

func TestTypes(t *testing.T) {
	t.Parallel()
	run(t, "node", "node_modules/typescript/bin/tsc", "-p", "test")
}

// What would be published: these files, under the version of the module.
func TestPack(t *testing.T) {
	t.Parallel()
	var packs []struct {
		Version string
		Files   []struct{ Path string }
	}
	if err := json.Unmarshal(run(t, "npm", "pack", "--dry-run", "--json", "--offline"), &packs); err != nil || len(packs) != 1 {
		t.Fatal(err)
	}
	var files []string
	for _, f := range packs[0].Files {
		files = append(files, f.Path)
	}
	slices.Sort(files)
	if want := []string{"README.md", "index.cjs", "index.d.mts", "index.d.ts", "index.mjs", "package.json"}; !slices.Equal(files, want) {
		t.Errorf("%q", files)
	}
	if packs[0].Version != offstage.Version {
		t.Errorf("version %s, the module has %s", packs[0].Version, offstage.Version)
	}
}
