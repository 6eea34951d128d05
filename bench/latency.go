package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

const (
	latencyP50 = "p50 ms"
	latencyP99 = "p99 ms"
	latencyMax = "max ms"
	settledP50 = "settled p50 ms"
	settledP99 = "settled p99 ms"
	settledMax = "settled max ms"
)

// latency measures, on an otherwise idle system, the time from just before the call that adds a job to the moment
// its handler is entered. The harness adds for both, so that only the workers differ.
func latency(o options, f field) scenario {
	ours, peer := f.ours, f.graphile
	s := scenario{
		name: "latency",
		about: fmt.Sprintf("%d jobs one after another, %s to %s apart, idle system: from before select … from add_job(…) (pgx, for both) to the entry into the handler",
			o.samples, o.gap/2, o.gap*3/2),
		metrics: []metric{{name: latencyP50, lower: true, digits: 2}, {name: latencyP99, lower: true, digits: 2}, {name: latencyMax, lower: true, digits: 2}},
	}
	one := variant{title: ours.title() + ", defaults", system: ours}
	one.run = func(ctx context.Context, b *block) (sample, error) { return addedToStarted(ctx, b, graphileDefault) }
	var peers []variant
	var titles []string
	for _, p := range []struct {
		title    string
		settings map[string]any
	}{{"defaults", graphileDefault}, {"local queue of 10", graphileQueued}, {"as in work", graphileBest}} {
		v := variant{title: peer.title() + ", " + p.title, system: peer}
		v.run = func(ctx context.Context, b *block) (sample, error) { return addedToStarted(ctx, b, p.settings) }
		peers = append(peers, v)
		titles = append(titles, v.title)
	}
	s.variants = alternate([]variant{one}, peers)
	p50, p99 := 0.7, 0.7
	if o.javascript {
		p50, p99 = 1.2, 0
	}
	s.goals = []goal{
		{metric: latencyP50, ours: one.title, peers: titles, atBest: p50},
		{metric: latencyP99, ours: one.title, peers: titles, atBest: p99},
	}
	return s
}

// latencyPeers is latency for all systems, and how long it takes until the end of a job is on disk.
func latencyPeers(o options, f field) scenario {
	s := scenario{
		name: "latency",
		about: fmt.Sprintf("%d jobs one after another, %s to %s apart, idle system: from before the call that adds to the entry into the handler; then a quarter as many, each watched until its end is on disk, by asking for its id without a pause",
			o.samples, o.gap/2, o.gap*3/2),
		metrics: []metric{{name: latencyP50, lower: true, digits: 2}, {name: latencyP99, lower: true, digits: 2}, {name: latencyMax, lower: true, digits: 2},
			{name: settledP50, lower: true, digits: 2}, {name: settledP99, lower: true, digits: 2}, {name: settledMax, lower: true, digits: 2}},
	}
	ours := entry{title: "offstage, defaults", system: f.ours}
	none := entry{title: "offstage, nothing kept", system: f.ours, keepNone: true}
	graphile := []entry{
		{title: "graphile-worker, defaults", system: f.graphile, settings: graphileDefault},
		{title: "graphile-worker, local queue of 10", system: f.graphile, settings: graphileQueued},
		{title: "graphile-worker, best in work", system: f.graphile, settings: graphileBest},
	}
	river := []entry{
		{title: "river, best", system: f.river, settings: riverAt(100)},
		{title: "river, defaults", system: f.river, settings: riverDefault},
	}
	boss := entry{title: "pg-boss, notifying", system: f.pgboss, settings: pgbossQuick}
	// It looks every two seconds: jobs that are added right after the one before has started would wait for all of them.
	polls := entry{title: "pg-boss, defaults, seconds apart", system: f.pgboss, settings: pgbossDefault}
	s.enter(func(ctx context.Context, b *block, e entry) (sample, error) {
		if e.title == polls.title {
			b.options.samples, b.options.gap = min(b.options.samples, 10), 2*time.Second
		}
		return addedToSettled(ctx, b, e.settings)
	}, alternate([]entry{ours, none}, graphile, river, []entry{boss, polls}))
	s.compare(latencyP50, 0.6, ours, graphile...)
	s.compare(latencyP99, 0.5, ours, graphile...)
	s.compare(settledP50, 0.75, ours, graphile...)
	s.compare(settledP50, 0, none, graphile...)
	for _, others := range [][]entry{river, {boss}} {
		s.compare(latencyP50, 0, ours, others...)
		s.compare(latencyP99, 0, ours, others...)
		s.compare(settledP50, 0, ours, others...)
	}
	return s
}

const (
	loadRate  = 500 // jobs a second
	loadWaits = 10  // milliseconds
	loadSlots = 10  // at a time, which is our default: half of them are taken
)

// loadPeers is latency on a system of which half is taken.
func loadPeers(o options, f field) scenario {
	s := scenario{
		name: "half-load",
		about: fmt.Sprintf("as latency, %d jobs, but beside %d jobs a second that wait %d ms each, added one by one by another process of the same system; %d run at a time, so half of that is taken",
			o.samples, loadRate, loadWaits, loadSlots),
		metrics: []metric{{name: latencyP50, lower: true, digits: 2}, {name: latencyP99, lower: true, digits: 2}, {name: latencyMax, lower: true, digits: 2},
			{name: addRate}, {name: addBacklog, lower: true}},
	}
	ours := entry{title: "offstage, defaults", system: f.ours}
	graphile := []entry{
		{title: "graphile-worker, no local queue", system: f.graphile, settings: map[string]any{"concurrentJobs": loadSlots, "maxPoolSize": loadSlots + 2}},
		{title: "graphile-worker, best", system: f.graphile, settings: graphileAt(loadSlots)},
	}
	river := entry{title: "river, best", system: f.river, settings: riverAt(loadSlots)}
	// A notification makes all of its loops fetch: two loops of five jobs waited less than ten of one, five of two, or one of ten.
	boss := entry{title: "pg-boss, notifying, 2 batches of 5", system: f.pgboss, settings: map[string]any{
		"boss": pgbossQuick["boss"], "queue": pgbossQuick["queue"], "work": map[string]any{"batchSize": loadSlots / 2, "localConcurrency": 2, "burstWhenBatchFull": true},
	}}
	s.enter(func(ctx context.Context, b *block, e entry) (sample, error) {
		return addedToStartedUnderLoad(ctx, b, e.settings)
	},
		alternate([]entry{ours}, graphile, []entry{river, boss}))
	for _, others := range [][]entry{graphile, {river}, {boss}} {
		s.compare(latencyP50, 0, ours, others...)
		s.compare(latencyP99, 0, ours, others...)
	}
	return s
}

// latencyWarmUp is how many jobs are not counted: plans are made, code is compiled.
const latencyWarmUp = 50

// watching is a worker that tells of every job, and what adds jobs for it one by one.
type watching struct {
	block  *block
	worker *agent
	add    addOne
	count  int // of the jobs that were added
}

func watch(ctx context.Context, b *block, settings map[string]any) (*watching, error) {
	w := &watching{block: b}
	var err error
	if w.worker, err = b.start(ctx, agentConfig{Role: "worker", Each: true, Settings: settings}); err != nil {
		return nil, err
	}
	if err := b.checkClock(ctx, w.worker); err != nil {
		return nil, err
	}
	if w.add, err = b.system.adder(ctx, b, settings); err != nil {
		return nil, err
	}
	if err := b.settle(ctx); err != nil {
		return nil, err
	}
	return w, w.worker.tell("go")
}

// one adds a job after a pause and returns its id, when the call began and when its handler was entered.
func (w *watching) one(ctx context.Context) (id string, before, started int64, err error) {
	// At random, so that it does not fall into step with anybody's timer.
	gap := w.block.options.gap
	select {
	case <-time.After(gap/2 + rand.N(gap)):
	case <-ctx.Done():
		return "", 0, 0, context.Cause(ctx)
	}
	w.count++
	if id, before, err = w.add(ctx, w.count); err != nil {
		return "", 0, 0, fmt.Errorf("add: %w", err)
	}
	e, err := w.worker.wait(ctx, "ran")
	if err != nil {
		return "", 0, 0, err
	}
	if e.ID != id {
		return "", 0, 0, fmt.Errorf("%s ran job %s instead of %s", w.block.system.title(), e.ID, id)
	}
	return id, before, e.T, nil
}

// starts measures n jobs, after some that it does not count, from added to started, in milliseconds.
func (w *watching) starts(ctx context.Context, n int) ([]float64, error) {
	waits := make([]float64, 0, n)
	warmUp := min(latencyWarmUp, n/2)
	for i := range warmUp + n {
		_, before, started, err := w.one(ctx)
		if err != nil {
			return nil, err
		}
		if i >= warmUp {
			waits = append(waits, float64(started-before)/1000)
		}
	}
	slices.Sort(waits)
	return waits, nil
}

// settles measures n jobs from added until their end is on disk, in milliseconds. It asks for nothing before the job has
// started, so that it does not slow that down.
func (w *watching) settles(ctx context.Context, n int) ([]float64, error) {
	waits := make([]float64, 0, n)
	sql := "select exists (select from " + w.block.system.unsettled() + " where id = $1::text::" + w.block.system.idType() + ")"
	for range n {
		id, before, _, err := w.one(ctx)
		if err != nil {
			return nil, err
		}
		for there := true; there; {
			if err := w.block.conn.QueryRow(ctx, sql, id).Scan(&there); err != nil {
				return nil, err
			}
		}
		waits = append(waits, float64(wall()-before)/1000)
	}
	slices.Sort(waits)
	return waits, nil
}

func startedSample(waits []float64) sample {
	return sample{latencyP50: percentile(waits, 50), latencyP99: percentile(waits, 99), latencyMax: waits[len(waits)-1]}
}

func addedToStarted(ctx context.Context, b *block, settings map[string]any) (sample, error) {
	w, err := watch(ctx, b, settings)
	if err != nil {
		return nil, err
	}
	waits, err := w.starts(ctx, b.options.samples)
	if err != nil {
		return nil, err
	}
	_, err = w.worker.stop(ctx)
	return startedSample(waits), err
}

func addedToSettled(ctx context.Context, b *block, settings map[string]any) (sample, error) {
	w, err := watch(ctx, b, settings)
	if err != nil {
		return nil, err
	}
	started, err := w.starts(ctx, b.options.samples)
	if err != nil {
		return nil, err
	}
	settled, err := w.settles(ctx, max(1, b.options.samples/4))
	if err != nil {
		return nil, err
	}
	s := startedSample(started)
	s[settledP50], s[settledP99], s[settledMax] = percentile(settled, 50), percentile(settled, 99), settled[len(settled)-1]
	_, err = w.worker.stop(ctx)
	return s, err
}

// addedToStartedUnderLoad measures while another process adds jobs that wait.
func addedToStartedUnderLoad(ctx context.Context, b *block, settings map[string]any) (sample, error) {
	w, err := watch(ctx, b, settings)
	if err != nil {
		return nil, err
	}
	adder, err := b.start(ctx, agentConfig{Role: "steady", Settings: settings, Rate: loadRate, Wait: loadWaits, Pool: loadSlots, Writers: loadSlots})
	if err != nil {
		return nil, err
	}
	begun := time.Now()
	if err := adder.tell("go"); err != nil {
		return nil, err
	}
	waits, err := w.starts(ctx, b.options.samples)
	if err != nil {
		return nil, err
	}
	left, err := b.live(ctx)
	if err != nil {
		return nil, err
	}
	seconds := time.Since(begun).Seconds()
	e, err := adder.stop(ctx)
	if err != nil {
		return nil, err
	}
	s := startedSample(waits)
	s[addRate], s[addBacklog] = float64(e.N)/seconds, float64(left)
	ran, err := w.worker.stop(ctx)
	if err != nil {
		return nil, err
	}
	left, err = b.live(ctx)
	if all := e.N + w.count; err == nil && ran.N+left != all {
		progress("%s: %d jobs were added, %d have run and %d are left", b.system.title(), all, ran.N, left)
	}
	return s, err
}
