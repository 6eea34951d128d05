package main

import (
	"context"
	"fmt"
)

// addBulk measures how fast many jobs a call are added, one call after another, without a worker.
func addBulk(o options, f field) scenario {
	ours, peer := f.ours, f.graphile
	s := scenario{
		name: "add-bulk",
		about: fmt.Sprintf("%d jobs added many a call, one call after another, no worker; by each system's client, and by the SQL function add_jobs with one statement and driver for both",
			o.jobs),
		metrics: []metric{{name: addRate}, {name: addClient, lower: true, digits: 1}, {name: addWAL, lower: true}},
	}
	for _, chunk := range []int{1000, 5000} {
		for _, by := range []struct {
			role, title string
			goal        float64
		}{{"bulk", "client", 2}, {"sqlbulk", "SQL", 0}} {
			with := fmt.Sprintf(", %s, %d a call", by.title, chunk)
			one := variant{title: ours.title() + with, system: ours}
			one.run = func(ctx context.Context, b *block) (sample, error) {
				return addInBulk(ctx, b, agentConfig{Role: by.role, Chunk: chunk})
			}
			other := variant{title: peer.title() + with, system: peer, run: one.run}
			s.variants = append(s.variants, one, other)
			s.goals = append(s.goals, goal{metric: addRate, ours: one.title, peers: []string{other.title}, atBest: by.goal})
		}
	}
	return s
}

// bulkPeers is adding many a call for all systems, by their clients.
func bulkPeers(o options, f field) scenario {
	s := scenario{
		name:    "add-bulk",
		about:   fmt.Sprintf("%d jobs, 1000 a call, one call after another, no worker; by each system's client", o.jobs),
		metrics: []metric{{name: addRate}, {name: addCPU, lower: true, digits: 1}, {name: addClient, lower: true, digits: 1}, {name: addWAL, lower: true}},
	}
	ours := entry{title: "offstage", system: f.ours}
	graphile := entry{title: "graphile-worker", system: f.graphile}
	river := entry{title: "river, InsertMany", system: f.river}
	copied := entry{title: "river, InsertManyFast", system: f.river, settings: riverCopies}
	boss := entry{title: "pg-boss", system: f.pgboss}
	s.enter(func(ctx context.Context, b *block, e entry) (sample, error) {
		return addInBulk(ctx, b, agentConfig{Role: "bulk", Chunk: 1000, Settings: e.settings})
	}, []entry{ours, graphile, river, copied, boss})
	s.compare(addRate, 2.2, ours, graphile)
	s.compare(addRate, 0, ours, river, copied)
	s.compare(addRate, 0, ours, boss)
	return s
}

// addInBulk adds all jobs; config says by what and how many a call.
func addInBulk(ctx context.Context, b *block, config agentConfig) (sample, error) {
	config.Total = b.options.jobs
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
	there, err := b.live(ctx)
	if err != nil {
		return nil, err
	}
	if added != b.options.jobs || there != added {
		return nil, fmt.Errorf("%s added %d of %d jobs, the table holds %d", b.system.title(), added, b.options.jobs, there)
	}
	return s, nil
}
