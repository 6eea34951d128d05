package main

import (
	"context"
	"fmt"
	"time"
)

const (
	startCold = "start ms"
	stopIdle  = "stop idle ms"
	stopBusy  = "stop busy ms"
)

// startStop measures how long a worker's process takes from its birth to its first job, and from the word "stop" to its end.
func startStop(o options, f field) scenario {
	s := scenario{
		name: "start-stop",
		about: fmt.Sprintf("from the start of the worker's process, with a job there, to the entry into its handler; then, after a pause, from the word to stop to the end of the process; the same with %d jobs there that wait %d ms each",
			backlog/10, backlogWaits),
		metrics: []metric{{name: startCold, lower: true}, {name: stopIdle, lower: true}, {name: stopBusy, lower: true}},
	}
	script := entry{title: "offstage, JavaScript", system: &ours{javascript: true}}
	plain := entry{title: "offstage, defaults", system: f.ours}
	graphile := []entry{
		{title: "graphile-worker, defaults", system: f.graphile, settings: graphileDefault},
		{title: "graphile-worker, best", system: f.graphile, settings: graphileBest},
	}
	river := []entry{
		{title: "river, defaults", system: f.river, settings: riverDefault},
		{title: "river, best", system: f.river, settings: riverAt(100)},
	}
	boss := []entry{
		{title: "pg-boss, defaults", system: f.pgboss, settings: pgbossDefault},
		{title: "pg-boss, best", system: f.pgboss, settings: pgbossAt(100, 2)},
	}
	s.enter(startAndStop, alternate([]entry{plain, script}, graphile, river, boss))
	for _, m := range []string{startCold, stopIdle, stopBusy} {
		for _, others := range [][]entry{graphile, river, boss} {
			s.compare(m, 0, plain, others...)
		}
	}
	return s
}

func startAndStop(ctx context.Context, b *block, e entry) (sample, error) {
	if err := b.fill(ctx, 1); err != nil {
		return nil, err
	}
	if err := b.settle(ctx); err != nil {
		return nil, err
	}
	s := sample{}
	started, a, err := b.startCold(ctx, e.settings)
	if err != nil {
		return nil, err
	}
	s[startCold] = started
	// Until its end is on disk and the worker sleeps.
	select {
	case <-time.After(time.Second):
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if _, s[stopIdle], err = timedStop(ctx, a); err != nil {
		return nil, err
	}
	if left, err := b.live(ctx); err != nil || left != 0 {
		return nil, fmt.Errorf("%s has %d jobs left: %w", b.system.title(), left, err)
	}

	jobs := backlog / 10
	if err := b.system.fill(ctx, b, jobs, backlogWaits); err != nil {
		return nil, err
	}
	if _, a, err = b.startCold(ctx, e.settings); err != nil {
		return nil, err
	}
	select {
	case <-time.After(300 * time.Millisecond):
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	ran, took, err := timedStop(ctx, a)
	if err != nil {
		return nil, err
	}
	s[stopBusy] = took
	left, err := b.live(ctx)
	if err == nil && ran+left != jobs {
		progress("%s: of %d jobs %d have run and %d are left after it stopped", b.system.title(), jobs, ran, left)
	}
	return s, err
}

// startCold starts a worker that begins at once, and returns how many milliseconds it took until the first job started.
func (b *block) startCold(ctx context.Context, settings map[string]any) (float64, *agent, error) {
	born := wall()
	a, err := b.launch(ctx, agentConfig{Role: "worker", Settings: settings})
	if err != nil {
		return 0, nil, err
	}
	if err := a.tell("go"); err != nil {
		return 0, nil, err
	}
	e, err := a.wait(ctx, "count")
	return float64(e.First-born) / 1000, a, err
}

// timedStop stops a worker and returns how many jobs it has run and how many milliseconds it took.
func timedStop(ctx context.Context, a *agent) (int, float64, error) {
	told := wall()
	e, err := a.stop(ctx)
	return e.N, float64(wall()-told) / 1000, err
}
