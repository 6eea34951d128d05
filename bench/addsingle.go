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
	addBacklog = "not yet run at the end"
)

// addSingle measures how many jobs a second writers add one by one, each in a transaction of its own.
func addSingle(o options, ours, peer system) scenario {
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
		one.run = func(ctx context.Context, b *block) (sample, error) { return addOneByOne(ctx, b, live) }
		other := variant{title: peer.title() + with, system: peer}
		other.run = one.run
		s.variants = append(s.variants, one, other)
		s.goals = append(s.goals, goal{metric: addRate, ours: one.title, peers: []string{other.title}, atBest: 2})
	}
	return s
}

func addOneByOne(ctx context.Context, b *block, live bool) (sample, error) {
	o := b.options
	var worker *agent
	if live {
		if err := keepNothing(ctx, b); err != nil {
			return nil, err
		}
		var err error
		if worker, err = b.liveWorker(ctx, peerBest); err != nil {
			return nil, err
		}
	}
	a, err := b.start(ctx, agentConfig{Role: "single", Pool: o.writers, Writers: o.writers, Millis: int(o.seconds.Milliseconds())})
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
	if !live {
		if left != added {
			return nil, fmt.Errorf("%s added %d jobs, the table holds %d", b.system.title(), added, left)
		}
		return s, nil
	}
	if err := worker.alive(); err != nil {
		return nil, err
	}
	s[addBacklog] = float64(left)
	return s, nil
}

// added lets an adding process run and measures it.
func (b *block) added(ctx context.Context, a *agent) (int, sample, error) {
	walBefore, err := b.wal(ctx)
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
	walAfter, err := b.wal(ctx)
	if err != nil {
		return 0, nil, err
	}
	if _, err := a.stop(ctx); err != nil {
		return 0, nil, err
	}
	n := float64(max(end.N, 1))
	return end.N, sample{
		addRate:   float64(end.N) / micros(end.T-begin.T).Seconds(),
		addClient: float64(end.CPU-begin.CPU) / n,
		addWAL:    (walAfter - walBefore) / n,
	}, nil
}

// liveWorker starts a worker and proves that it works by one job.
func (b *block) liveWorker(ctx context.Context, settings map[string]any) (*agent, error) {
	a, err := b.start(ctx, agentConfig{Role: "worker", Settings: settings})
	if err != nil {
		return nil, err
	}
	if err := a.tell("go"); err != nil {
		return nil, err
	}
	if err := b.fill(ctx, 1); err != nil {
		return nil, err
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
