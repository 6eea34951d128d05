package schema_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"github.com/offstage-dev/offstage/internal/pgtest"
)

// TestAuditActions: whatever is noted can be looked for, and nothing else.
func TestAuditActions(t *testing.T) {
	t.Parallel()
	known := pgtest.One[[]string](t, pgtest.New(t).Conn(t), `select offstage_private.audit_actions()`)
	if !slices.IsSorted(known) {
		t.Errorf("not in order: %q", known)
	}
	paths, err := filepath.Glob("functions/*.sql")
	if err != nil {
		t.Fatal(err)
	}
	noted := []string{"bulk retry", "bulk cancel", "bulk delete", "bulk reschedule", "edit", "reschedule", "stop", "drain", "add", "change"} // those that are chosen
	call := regexp.MustCompile(`note\('([a-z ]+)',`)
	for _, path := range paths {
		src, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range call.FindAllStringSubmatch(string(src), -1) {
			noted = append(noted, m[1])
		}
	}
	slices.Sort(noted)
	if noted = slices.Compact(noted); !slices.Equal(noted, known) {
		t.Errorf("noted are %q, known %q", noted, known)
	}
}
