package main

import (
	"context"
	"fmt"
)

// field is who takes part: two of them in `bench`, all in `bench peers`.
type field struct {
	ours, graphile system
	river          *river
	pgboss         *pgboss
}

func (f field) systems() []system {
	all := []system{f.ours, f.graphile}
	if f.river != nil {
		all = append(all, f.river, f.pgboss)
	}
	return all
}

// peerScenarios are those of `bench peers`, in the order they run.
var peerScenarios = []scenarioMaker{
	{name: "work", make: workPeers}, {name: "wait", make: waitPeers}, {name: "add-single", make: addPeers}, {name: "add-bulk", make: bulkPeers},
	{name: "latency", make: latencyPeers}, {name: "half-load", make: loadPeers}, {name: "start-stop", make: startStop},
}

// entry is a system with the settings with which it takes part in a scenario.
type entry struct {
	title     string
	system    system
	settings  map[string]any // of a peer
	processes int            // of its worker; 0: one
	jobs      int            // the most it gets, because with these settings more would take minutes; 0: as many as the others
	keepNone  bool           // ours: keep no history, as graphile-worker does
}

// graphileBest is graphile-worker at its best settings with each number of processes.
func (f field) graphileBest(o options) (all []entry) {
	for _, n := range o.peerProcesses {
		all = append(all, entry{title: "graphile-worker, best, " + processes(n), system: f.graphile, settings: graphileBest, processes: n})
	}
	return all
}

// enter adds a variant for each entry.
func (s *scenario) enter(run func(ctx context.Context, b *block, e entry) (sample, error), entries []entry) {
	for _, e := range entries {
		v := variant{title: e.title, system: e.system}
		v.run = func(ctx context.Context, b *block) (sample, error) {
			if e.jobs > 0 {
				b.options.jobs = min(b.options.jobs, e.jobs)
			}
			if e.keepNone {
				if err := keepNothing(ctx, b); err != nil {
					return nil, err
				}
			}
			return run(ctx, b, e)
		}
		s.variants = append(s.variants, v)
	}
}

// compare compares ours with the best of others; goal 0 sets none.
func (s *scenario) compare(metric string, atBest float64, ours entry, others ...entry) {
	g := goal{metric: metric, ours: ours.title, atBest: atBest}
	for _, e := range others {
		g.peers = append(g.peers, e.title)
	}
	s.goals = append(s.goals, g)
}

// peerConditions say with which settings all take part.
func peerConditions(o options) []condition {
	return []condition{
		{"… offstage", "its defaults, one process; history is kept where nothing else is said, and not in add-single; wait: 100 at a time"},
		{"… graphile-worker, defaults", "1 job at a time, no local queue, no batches"},
		{"… graphile-worker, best", "concurrentJobs 24 (wait: 100; half-load: 10), localQueue.size 500, completeJobBatchDelay 0, failJobBatchDelay 0, maxPoolSize 2 more than the jobs, at most 80"},
		{"… river, defaults", "MaxWorkers 100, the rest as it comes (FetchCooldown 100 ms, FetchPollInterval 1 s)"},
		{"… river, best", "MaxWorkers 1000 (100 in wait, add-single, latency and start-stop; half-load: 10), FetchCooldown 1 ms, FetchPollInterval 10 ms"},
		{"… pg-boss, defaults", "one job, then a pause of two seconds; no notifications"},
		{"… pg-boss, best", "batches of 1000, two at a time in each of two processes, burstWhenBatchFull, poll 0.5 s (wait: 4 batches of 25; add-single and start-stop: one process, 2 batches of 100)"},
		{"… pg-boss, notifying", "useListenNotify and notify, one job at a time (half-load: 2 batches of 5, burstWhenBatchFull)"},
		{"… adding", fmt.Sprintf("each by its own client, with as many connections as calls in flight (at most %d)", o.writers)},
	}
}
