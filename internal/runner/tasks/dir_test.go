package tasks

import (
	"bytes"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// tree makes files of the given modes in a new directory; the names are slash-separated.
func tree(t *testing.T, files map[string]fs.FileMode) string {
	t.Helper()
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for name, mode := range files {
		path := filepath.Join(root, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil { // whatever the umask
			t.Fatal(err)
		}
	}
	return root
}

func read(t *testing.T, root string) *Dir {
	t.Helper()
	d, err := Read(root)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// text puts the tasks into lines "name kind file: extensions", with paths relative to root.
func text(t *testing.T, d *Dir) string {
	t.Helper()
	var b strings.Builder
	for _, task := range d.Tasks {
		rel, err := filepath.Rel(d.Path, task.File.Path)
		if err != nil {
			t.Fatal(err)
		}
		b.WriteString(task.Name + " " + string(task.Kind) + " " + rel + ":")
		for _, f := range task.Files {
			b.WriteString(" " + f.Ext)
		}
		b.WriteString("\n")
	}
	return b.String()
}

// warned checks that there are exactly these warnings: a path relative to root, and a part of the reason.
func warned(t *testing.T, d *Dir, want map[string]string) {
	t.Helper()
	got := map[string]string{}
	for _, w := range d.Warnings {
		rel, err := filepath.Rel(d.Path, w.Path)
		if err != nil {
			t.Fatal(err)
		}
		got[rel] = w.Reason
		if part, ok := want[rel]; !ok || !strings.Contains(w.Reason, part) {
			t.Errorf("warning %s", w)
		}
	}
	for path := range want {
		if got[path] == "" {
			t.Errorf("no warning for %s", path)
		}
	}
}

func TestReadFindsTasks(t *testing.T) {
	t.Parallel()
	root := tree(t, map[string]fs.FileMode{
		"hello.sh":              0o755,
		"bare":                  0o700,
		"nested/deep/verify.py": 0o755,
		"users/emails.mts":      0o644,
		"group-only":            0o070,
		"order.ts":              0o644,
		"order.mts":             0o644,
		"order.mjs":             0o644,
		"order.cjs":             0o644,
		"both.js":               0o644,
		"both.sh":               0o755,
		"script.js":             0o755,
		"two.a":                 0o755,
		"two.b":                 0o755,
		"foo.test.js":           0o644,
		"bar.test.js":           0o755,
		"README.md":             0o644,
		".hidden":               0o755,
		"bad name.js":           0o644,
		"a.b/inside":            0o755,
		".git/inside":           0o755,

		strings.Repeat("d", 120) + "/" + strings.Repeat("f", 7):        0o755,
		strings.Repeat("d", 120) + "/" + strings.Repeat("f", 8) + ".x": 0o755,
	})
	d := read(t, root)
	long := strings.Repeat("d", 120)
	want := `bar exec bar.test.js: .test.js
bare exec bare: 
both node both.js: .js .sh
` + long + "/fffffff exec " + long + `/fffffff: 
hello exec hello.sh: .sh
nested/deep/verify exec nested/deep/verify.py: .py
order node order.cjs: .cjs .mjs .mts .ts
script node script.js: .js
two exec two.a: .a .b
users/emails node users/emails.mts: .mts
`
	if got := text(t, d); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	warned(t, d, map[string]string{
		"group-only":         "neither executable",
		"both.sh":            "both.js",
		"two.b":              "two.a",
		"foo.test.js":        ".test.js as a whole",
		"README.md":          "neither executable",
		".hidden":            "the file's name",
		"bad name.js":        "the file's name",
		"a.b":                "the directory's name",
		".git":               "the directory's name",
		long + "/ffffffff.x": "128 characters",
	})

	var names []string
	for _, task := range d.Of(Node) {
		names = append(names, task.Name)
	}
	if got := strings.Join(names, " "); got != "both order script users/emails" {
		t.Errorf("needs node: %s", got)
	}

	var log bytes.Buffer
	d.LogWarnings(slog.New(slog.NewTextHandler(&log, nil)))
	if got := strings.Count(log.String(), "\n"); got != len(d.Warnings) {
		t.Errorf("%d lines for %d warnings:\n%s", got, len(d.Warnings), log.String())
	}
}

func TestReadSymbolicLinks(t *testing.T) {
	t.Parallel()
	elsewhere := tree(t, map[string]fs.FileMode{"real.py": 0o755, "sub/inner": 0o755})
	root := tree(t, map[string]fs.FileMode{"own": 0o755})
	for name, target := range map[string]string{
		"linked.sh": filepath.Join(elsewhere, "real.py"),
		"chain":     filepath.Join(root, "linked.sh"),
		"dir":       filepath.Join(elsewhere, "sub"),
		"dangling":  filepath.Join(elsewhere, "missing"),
		"loop":      filepath.Join(root, "loop"),
		"bad name":  filepath.Join(elsewhere, "real.py"),
		"null":      os.DevNull,
	} {
		if err := os.Symlink(target, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	d := read(t, root)
	real, err := filepath.Rel(root, filepath.Join(elsewhere, "real.py"))
	if err != nil {
		t.Fatal(err)
	}
	want := "chain exec " + real + ": \nlinked exec " + real + ": .sh\nown exec own: \n"
	if got := text(t, d); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	warned(t, d, map[string]string{
		"dir":      "directories are not followed",
		"dangling": "leads nowhere",
		"loop":     "leads nowhere",
		"bad name": "the file's name",
		"null":     "neither a file nor a directory",
	})
}

func TestReadPassesOverSockets(t *testing.T) {
	t.Parallel()
	// Not t.TempDir(): a socket's path is short.
	root, err := os.MkdirTemp("", "offstage")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(root) })
	socket, err := net.Listen("unix", filepath.Join(root, "socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	d := read(t, root)
	if len(d.Tasks) != 0 {
		t.Errorf("tasks: %v", d.Tasks)
	}
	warned(t, d, map[string]string{"socket": "neither a file nor a directory"})
}

func TestReadThroughALink(t *testing.T) {
	t.Parallel()
	root := tree(t, map[string]fs.FileMode{"releases/1/hello": 0o755})
	link := filepath.Join(root, "current")
	if err := os.Symlink(filepath.Join(root, "releases", "1"), link); err != nil {
		t.Fatal(err)
	}
	d := read(t, link)
	if len(d.Tasks) != 1 || d.Tasks[0].Name != "hello" {
		t.Errorf("tasks: %v", d.Tasks)
	}
}

func TestReadErrors(t *testing.T) {
	t.Parallel()
	root := tree(t, map[string]fs.FileMode{"file": 0o644})
	_, err := Read(filepath.Join(root, "missing"))
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "--tasks") {
		t.Errorf("missing: %v", err)
	}
	for _, path := range []string{"", filepath.Join(root, "file")} {
		if _, err := Read(path); err == nil || !strings.Contains(err.Error(), "--tasks") {
			t.Errorf("%q: %v", path, err)
		}
	}
}

func TestReadNothing(t *testing.T) {
	t.Parallel()
	if d := read(t, t.TempDir()); len(d.Tasks) != 0 || len(d.Warnings) != 0 {
		t.Errorf("%+v", d)
	}
}
