package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// pgboss is pg-boss, from npm.
type pgboss struct {
	version string
	node    string // path of the executable
	nodeVer string
}

// The settings of its worker that are measured; pgboss.mjs says which part goes where.
var (
	// pgbossDefault is how it comes: one job, and then a pause of two seconds.
	pgbossDefault = map[string]any{}
	// pgbossBest is what its best throughput was found with: a fetch and a completion for each thousand jobs, and the next
	// fetch at once while they come full. Two of them at a time in each of two processes keep the server busy.
	pgbossBest = pgbossAt(1000, 2)
	// pgbossQuick has the least delay: notifications, which it does not send by default.
	pgbossQuick = map[string]any{
		"boss": map[string]any{"useListenNotify": true}, "queue": map[string]any{"notify": true},
	}
)

// pgbossAt works in batches of so many jobs, so many batches at a time.
func pgbossAt(batch, concurrency int) map[string]any {
	return map[string]any{"work": map[string]any{
		"batchSize": batch, "localConcurrency": concurrency, "burstWhenBatchFull": true, "pollingIntervalSeconds": 0.5,
	}}
}

// findPgboss takes the node that graphile has found.
func findPgboss(g *graphile) (*pgboss, error) {
	if !atLeast(g.nodeVer, 22, 12) {
		return nil, fmt.Errorf("pg-boss needs Node.js 22.12 or newer, this is %s", g.nodeVer)
	}
	p := &pgboss{node: g.node, nodeVer: g.nodeVer}
	var err error
	p.version, err = packageVersion("pg-boss")
	return p, err
}

func (*pgboss) name() string   { return "pgboss" }
func (*pgboss) title() string  { return "pg-boss" }
func (*pgboss) schema() string { return "" }
func (*pgboss) idType() string { return "uuid" }

// The name belongs to the primary key.
func (*pgboss) unsettled() string {
	return "(select id from pgboss.job where name = '" + task + "' and state < 'completed') as job"
}

func (p *pgboss) about() string {
	return fmt.Sprintf("%s, Node.js %s; a finished job's row stays, as it does by default", p.version, p.nodeVer)
}

func (p *pgboss) install(ctx context.Context, url string) error { return installByAgent(ctx, p, url) }

func (p *pgboss) command(config *agentConfig) *exec.Cmd {
	config.System = p.name()
	return exec.Command(p.node, "pgboss.mjs")
}

func (*pgboss) fill(ctx context.Context, b *block, n, wait int) error {
	return fillByAgent(ctx, b, n, wait)
}

// adder adds in a process of its own: there is no client but the one in JavaScript, and no SQL function.
func (*pgboss) adder(ctx context.Context, b *block, _ map[string]any) (addOne, error) {
	a, err := b.start(ctx, agentConfig{Role: "one", Writers: 1})
	if err != nil {
		return nil, err
	}
	if err := b.checkClock(ctx, a); err != nil {
		return nil, err
	}
	return func(ctx context.Context, i int) (string, int64, error) {
		if err := a.write(command{Do: "add", N: i}); err != nil {
			return "", 0, err
		}
		e, err := a.wait(ctx, "one")
		return e.ID, e.T, err
	}, nil
}

// packageVersion is that of an installed npm package.
func packageVersion(name string) (string, error) {
	data, err := os.ReadFile(filepath.Join("node_modules", name, "package.json"))
	if err != nil {
		return "", err
	}
	var manifest struct{ Version string }
	err = json.Unmarshal(data, &manifest)
	return manifest.Version, err
}
