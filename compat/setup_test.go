package compat_test

import (
	"context"
	"errors"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/offstage-dev/offstage/internal/pgtest"
	"github.com/offstage-dev/offstage/schema"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// schemaName is the schema of both installations, so that the same text runs on both.
const schemaName = "graphile_worker"

// versions are the releases of Graphile Worker that are compared, by the name they have in package.json.
var versions = []string{"graphile-worker", "graphile-worker-18"}

// node runs a program of this directory or of node_modules, and returns what it printed.
func node(t testing.TB, args ...string) []byte {
	t.Helper()
	for _, v := range versions {
		if found, _ := filepath.Glob("node_modules/" + v + "/package.json"); found == nil {
			t.Fatalf("compat/node_modules/%s is missing: run ./dev test, which installs it", v)
		}
	}
	path, err := exec.LookPath("node")
	if err != nil {
		t.Fatal("node is missing: run ./dev test, which installs it")
	}
	cmd := exec.CommandContext(t.Context(), path, args...)
	out, err := cmd.Output()
	if exit := new(exec.ExitError); err != nil {
		if errors.As(err, &exit) {
			t.Fatalf("node %q: %v\n%s%s", args, err, out, exit.Stderr)
		}
		t.Fatalf("node %q: %v", args, err)
	}
	return out
}

// connect opens a session with an empty search_path.
func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	config, err := pgx.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	config.RuntimeParams["search_path"] = ""
	config.RuntimeParams["timezone"] = "UTC"
	conn, err := pgx.ConnectConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
	return conn
}

// graphiles are databases with Graphile Worker's own schema, by version.
var graphiles = map[string]*pgtest.Template{}

func init() {
	for _, version := range versions {
		graphiles[version] = &pgtest.Template{Make: func(t testing.TB, db *pgtest.DB) {
			node(t, "node_modules/"+version+"/dist/cli.js", "--schema-only", "--schema", schemaName, "--connection", db.URL)
		}}
	}
}

// graphile makes a database with Graphile Worker's own schema.
func graphile(t *testing.T, version string) string {
	t.Helper()
	return graphiles[version].New(t).URL
}

func graphileSide(t *testing.T, version string) *side {
	t.Helper()
	url := graphile(t, version)
	return newSide(t, version, url, &oracle{conn: connect(t, url)})
}

var offstages = pgtest.Template{Make: func(t testing.TB, db *pgtest.DB) {
	conn := db.Conn(t)
	if _, err := schema.Migrate(t.Context(), conn, schema.Config{Schema: schemaName}); err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}}

// offstage makes a database with our schema under Graphile Worker's name.
func offstage(t *testing.T) string {
	t.Helper()
	return offstages.New(t).URL
}

func ours(t *testing.T) *side {
	t.Helper()
	url := offstage(t)
	return newSide(t, "offstage", url, &protocol{conn: connect(t, url), workers: map[string]int{}, claims: map[string]claim{}})
}
