package main

import (
	"context"
	"fmt"
	"time"
)

const (
	addRate    = "jobs/s"
	addClient  = "client CPU µs/job"
	addWAL     = "WAL B/job"
	addCPU     = "database CPU µs/job"
	addBacklog = "not yet run at the end"
)

// beside is what a worker does while jobs are being added.
type beside int

const (
	noWorker   beside = iota
	keepsUp           // it runs the jobs that are added, without a pause between them
	idles             // the jobs come in bursts: it wakes, works and sleeps again
	hasBacklog        // it has more jobs than it can run, each of which waits, so that all its slots are taken
)

// adds is how addOneByOne adds.
type adds struct {
	writers  int
	worker   beside
	settings map[string]any // of the worker
}

const (
	burst        = 10 // jobs that each writer adds before all pause
	burstPause   = 100 * time.Millisecond
	backlog      = 30_000
	backlogWaits = 50 // milliseconds
)

// addSingle measures how many jobs a second writers add one by one, each in a transaction of its own.
func addSingle(o options, f field) scenario {
	ours, peer := f.ours, f.graphile
	s := scenario{
		name: "add-single",
		about: fmt.Sprintf("%d calls in flight in one process for %s, each adds one job and commits; without and with a worker that runs the jobs at the same time",
			o.writers, o.seconds),
		metrics: []metric{{name: addRate}, {name: addClient, lower: true, digits: 1}, {name: addBacklog, lower: true}},
	}
	for _, live := range []bool{false, true} {
		with := ", no worker"
		if live {
			with = ", live worker"
		}
		one := variant{title: ours.title() + with, system: ours}
		one.run = func(ctx context.Context, b *block) (sample, error) {
			how := adds{writers: o.writers}
			if live {
				how.worker, how.settings = keepsUp, graphileBest
				if err := keepNothing(ctx, b); err != nil {
					return nil, err
				}
			}
			return addOneByOne(ctx, b, how)
		}
		other := variant{title: peer.title() + with, system: peer}
		other.run = one.run
		s.variants = append(s.variants, one, other)
		s.goals = append(s.goals, goal{metric: addRate, ours: one.title, peers: []string{other.title}, atBest: 2})
	}
	return s
}

// addPeers is adding one by one for all systems.
func addPeers(o options, f field) scenario {
	s := scenario{
		name: "add-single",
		about: fmt.Sprintf("each call adds one job and commits, for %s: one call at a time, and %d in flight; with workers, the task does nothing, or, where they are busy, waits %d ms and %d jobs were there before; where a worker idles in between, each of the %d writers adds %d jobs and all pause for %s, which do not count",
			o.seconds, o.writers, backlogWaits, backlog, o.writers, burst, burstPause),
		metrics: []metric{{name: addRate}, {name: addCPU, lower: true, digits: 1}, {name: addClient, lower: true, digits: 1}, {name: addWAL, lower: true}, {name: addBacklog, lower: true}},
	}
	for _, how := range []struct {
		title   string
		writers int
		worker  beside
		goal    float64
	}{
		{"one writer, no worker", 1, noWorker, 0},
		{fmt.Sprintf("%d writers, no worker", o.writers), o.writers, noWorker, 5},
		{fmt.Sprintf("%d writers, workers busy", o.writers), o.writers, hasBacklog, 4},
		{fmt.Sprintf("%d writers, worker idle in between", o.writers), o.writers, idles, 3},
		{fmt.Sprintf("%d writers, worker keeps up", o.writers), o.writers, keepsUp, 0},
	} {
		ours := entry{title: "offstage, " + how.title, system: f.ours, keepNone: true}
		others := []entry{
			{title: "graphile-worker, " + how.title, system: f.graphile, settings: graphileBest},
			{title: "river, " + how.title, system: f.river, settings: riverAt(100)},
			{title: "pg-boss, " + how.title, system: f.pgboss, settings: pgbossAt(100, 2)},
		}
		s.enter(func(ctx context.Context, b *block, e entry) (sample, error) {
			return addOneByOne(ctx, b, adds{writers: how.writers, worker: how.worker, settings: e.settings})
		}, append([]entry{ours}, others...))
		for i, e := range others {
			goal := 0.0
			if i == 0 {
				goal = how.goal
			}
			s.compare(addRate, goal, ours, e)
		}
	}
	return s
}

func addOneByOne(ctx context.Context, b *block, how adds) (sample, error) {
	var worker *agent
	if how.worker != noWorker {
		if how.worker == hasBacklog {
			if err := b.system.fill(ctx, b, backlog, backlogWaits); err != nil {
				return nil, err
			}
		}
		var err error
		if worker, err = b.liveWorker(ctx, how.settings, how.worker == hasBacklog); err != nil {
			return nil, err
		}
	}
	config := agentConfig{Role: "single", Pool: how.writers, Writers: how.writers, Millis: int(b.options.seconds.Milliseconds())}
	if how.worker == idles {
		config.Burst, config.Pause = burst, int(burstPause.Milliseconds())
	}
	a, err := b.start(ctx, config)
	if err != nil {
		return nil, err
	}
	if err := b.settle(ctx); err != nil {
		return nil, err
	}
	added, s, err := b.added(ctx, a)
	if err != nil {
		return nil, err
	}
	left, err := b.live(ctx)
	if err != nil {
		return nil, err
	}
	if worker == nil {
		if left != added {
			return nil, fmt.Errorf("%s added %d jobs, the table holds %d", b.system.title(), added, left)
		}
		return s, nil
	}
	if err := worker.alive(); err != nil {
		return nil, err
	}
	if how.worker != hasBacklog {
		s[addBacklog] = float64(left)
	} else if left <= added {
		return nil, fmt.Errorf("%s was not busy to the end: %d jobs added, %d left", b.system.title(), added, left)
	}
	return s, nil
}

// added lets an adding process run and measures it.
func (b *block) added(ctx context.Context, a *agent) (int, sample, error) {
	before, err := b.usage(ctx)
	if err != nil {
		return 0, nil, err
	}
	if err := a.tell("go"); err != nil {
		return 0, nil, err
	}
	begin, err := a.wait(ctx, "started")
	if err != nil {
		return 0, nil, err
	}
	end, err := a.wait(ctx, "added")
	if err != nil {
		return 0, nil, err
	}
	after, err := b.usage(ctx)
	if err != nil {
		return 0, nil, err
	}
	if _, err := a.stop(ctx); err != nil {
		return 0, nil, err
	}
	n := float64(max(end.N, 1))
	s := sample{
		addRate:   float64(end.N) / micros(end.Busy).Seconds(),
		addClient: float64(end.CPU-begin.CPU) / n,
	}
	after.since(before, end.N, s, addWAL, addCPU)
	return end.N, s, nil
}

// liveWorker starts a worker and proves that it works by one job, or by those that are there.
func (b *block) liveWorker(ctx context.Context, settings map[string]any, busy bool) (*agent, error) {
	a, err := b.start(ctx, agentConfig{Role: "worker", Settings: settings})
	if err != nil {
		return nil, err
	}
	if err := a.tell("go"); err != nil {
		return nil, err
	}
	if !busy {
		if err := b.fill(ctx, 1); err != nil {
			return nil, err
		}
	}
	if _, err := a.wait(ctx, "count"); err != nil {
		return nil, err
	}
	// From now on nobody reads what it says.
	go func() {
		for range a.events {
		}
	}()
	select {
	case <-time.After(500 * time.Millisecond): // until it sleeps
	case <-ctx.Done():
	}
	return a, context.Cause(ctx)
}
