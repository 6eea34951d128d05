//go:build unix

package e2e_test

import (
	"strings"
	"testing"
	"time"
)

const migrationNeeded = 6 // the exit code

// A worker migrates nothing: where the schema is missing or old, it ends and names the command.
func TestWrongSchema(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.script("idle", "exit 0\n")
	old := func() { s.exec(`delete from offstage_private.migration`) }
	for _, c := range []struct {
		name, schema, says string
		prepare            func()
	}{
		{"missing", "elsewhere", "offstage migrate --schema elsewhere", func() {}},
		{"old", "offstage", "offstage migrate", old},
	} {
		c.prepare()
		p := s.start("offstage worker", nil, offstageBinary(t),
			"worker", "--database-url", s.db.URL, "--schema", c.schema, "--tasks", s.tasks(), "--jobs", "1")
		if code := p.exit(20 * time.Second); code != migrationNeeded {
			t.Errorf("%s: the worker ended with code %d, expected %d", c.name, code, migrationNeeded)
		}
		if out := p.output(); !strings.Contains(out, c.says) {
			t.Errorf("%s: the worker does not name %q, it says:\n%s", c.name, c.says, out)
		}
		if n := one[int](s, `select count(*) from pg_catalog.pg_namespace where nspname = 'elsewhere'`); n != 0 {
			t.Error("the worker has made a schema")
		}
	}

	// What it names, helps.
	m := s.start("offstage migrate", nil, offstageBinary(t), "migrate", "--database-url", s.db.URL, "--schema", "elsewhere")
	if code := m.exit(20 * time.Second); code != 0 {
		t.Fatalf("migrate ended with code %d", code)
	}
	w := s.start("offstage worker", nil, offstageBinary(t),
		"worker", "--database-url", s.db.URL, "--schema", "elsewhere", "--tasks", s.tasks(), "--once")
	if code := w.exit(20 * time.Second); code != 0 {
		t.Errorf("the worker ended with code %d after the migration, expected 0", code)
	}
}
