package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/offstage-dev/offstage/internal/runner/tasks"
)

// oldest is the first version of Node that runs tasks.
const oldest = 18

// program is the Node that was found.
type program struct {
	path         string
	version      string // "v20.20.2"
	major, minor int
}

// ErrNoNode says that there is no Node, or none that can be used.
var ErrNoNode = errors.New("no usable Node")

// find finds Node and asks for its version. name is a file, or a program on the PATH; "" is node, in a directory of path.
func find(ctx context.Context, name, path string) (program, error) {
	path, err := look(name, path)
	if err != nil {
		what := "there is no node on the PATH"
		if name != "" {
			what = fmt.Sprintf("%s cannot be started (%v)", name, errors.Unwrap(err))
		}
		return program{}, fmt.Errorf("%w: %s: install Node %d or newer, or name one with --node", ErrNoNode, what, oldest)
	}
	if path, err = filepath.Abs(path); err != nil {
		return program{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%w: %.300s", err, bytes.TrimSpace(exit.Stderr))
		}
		return program{}, fmt.Errorf("%w: %s --version: %w", ErrNoNode, path, err)
	}
	p := program{path: path, version: string(bytes.TrimSpace(out))}
	if _, err := fmt.Sscanf(p.version, "v%d.%d.", &p.major, &p.minor); err != nil {
		return program{}, fmt.Errorf("%w: %s says that its version is %.60q", ErrNoNode, path, p.version)
	}
	if p.major < oldest {
		return program{}, fmt.Errorf("%w: %s is %s: install Node %d or newer, or name one with --node", ErrNoNode, path, p.version, oldest)
	}
	return p, nil
}

func look(name, path string) (string, error) {
	if name == "" && path != "" {
		for _, dir := range filepath.SplitList(path) {
			if found, err := exec.LookPath(filepath.Join(dir, "node")); err == nil {
				return found, nil
			}
		}
		return "", exec.ErrNotFound
	}
	found, err := exec.LookPath(orDefault(name, "node"))
	if errors.Is(err, exec.ErrDot) { // the caller's own directory is fine, for a program that the caller names
		err = nil
	}
	return found, err
}

func (p program) atLeast(major, minor int) bool {
	return p.major > major || p.major == major && p.minor >= minor
}

// strips says whether it runs TypeScript without being told to.
func (p program) strips() bool { return p.atLeast(23, 6) || p.major == 22 && p.minor >= 18 }

// arguments come before the script.
func (p program) arguments() []string {
	if p.strips() || !p.atLeast(22, 6) {
		return nil
	}
	return []string{"--experimental-strip-types", "--disable-warning=ExperimentalWarning"}
}

// cannot says why it does not run a file; "" if it does.
func (p program) cannot(file tasks.File) string {
	if !strings.HasSuffix(file.Ext, "ts") || p.atLeast(22, 6) {
		return ""
	}
	return fmt.Sprintf("%s is TypeScript, which needs Node 22.18 or newer, and %s is %s: install a newer one, name it with --node, or compile the file to JavaScript",
		file.Path, p.path, p.version)
}
