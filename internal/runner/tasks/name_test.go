package tasks

import (
	"regexp"
	"strings"
	"testing"
)

func TestParseName(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, base, ext string
		ok              bool
	}{
		{"hello", "hello", "", true},
		{"hello.js", "hello", ".js", true},
		{"report.test.js", "report", ".test.js", true},
		{"A-b_9.sh", "A-b_9", ".sh", true},
		{"-", "-", "", true},
		{"", "", "", false},
		{".hidden", "", "", false},
		{"bad name.js", "", "", false},
		{"two..dots", "", "", false},
		{"end.", "", "", false},
		{"grüße.js", "", "", false},
		{"new\nline", "", "", false},
		{"line\n", "", "", false},
	} {
		base, ext, ok := parseName(c.name)
		if base != c.base || ext != c.ext || ok != c.ok {
			t.Errorf("parseName(%q) = %q, %q, %v", c.name, base, ext, ok)
		}
	}
}

func FuzzParseName(f *testing.F) {
	for _, seed := range []string{"hello.js", "a.b.c", ".x", "x.", "a..b", "ü", "a\n", ""} {
		f.Add(seed)
	}
	// The rule as Graphile Worker's users know it.
	rule := regexp.MustCompile(`^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$`)
	f.Fuzz(func(t *testing.T, name string) {
		base, ext, ok := parseName(name)
		if ok != rule.MatchString(name) {
			t.Fatalf("%q: ok is %v", name, ok)
		}
		if !ok {
			return
		}
		if base+ext != name || base == "" || strings.Contains(base, ".") || (ext != "" && ext[0] != '.') {
			t.Fatalf("%q: %q and %q", name, base, ext)
		}
	})
}
