package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"
)

const (
	latencyP50 = "p50 ms"
	latencyP99 = "p99 ms"
	latencyMax = "max ms"
)

// latency measures, on an otherwise idle system, the time from just before the call that adds a job to the moment
// its handler is entered. The harness adds for both, so that only the workers differ.
func latency(o options, ours, peer system) scenario {
	s := scenario{
		name: "latency",
		about: fmt.Sprintf("%d jobs one after another, %s to %s apart, idle system: from before select … from add_job(…) (pgx, for both) to the entry into the handler",
			o.samples, o.gap/2, o.gap*3/2),
		metrics: []metric{{name: latencyP50, lower: true, digits: 2}, {name: latencyP99, lower: true, digits: 2}, {name: latencyMax, lower: true, digits: 2}},
	}
	one := variant{title: ours.title() + ", defaults", system: ours}
	one.run = func(ctx context.Context, b *block) (sample, error) { return addedToStarted(ctx, b, peerDefault) }
	var peers []variant
	var titles []string
	for _, p := range []struct {
		title    string
		settings map[string]any
	}{{"defaults", peerDefault}, {"local queue of 10", peerQueued}, {"as in work", peerBest}} {
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

// latencyWarmUp is how many jobs are not counted: plans are made, code is compiled.
const latencyWarmUp = 50

func addedToStarted(ctx context.Context, b *block, settings map[string]any) (sample, error) {
	o := b.options
	a, err := b.start(ctx, agentConfig{Role: "worker", Each: true, Settings: settings})
	if err != nil {
		return nil, err
	}
	offset, bound, err := a.clockOffset(ctx)
	if err != nil {
		return nil, err
	}
	if max(offset, -offset) > bound+20 {
		return nil, fmt.Errorf("the clock of %s is %d µs off (known to %d µs)", b.system.title(), offset, bound)
	}
	if err := b.settle(ctx); err != nil {
		return nil, err
	}
	if err := a.tell("go"); err != nil {
		return nil, err
	}
	add := "select id from " + b.system.schema() + ".add_job($1, $2::json)"
	waits := make([]float64, 0, o.samples)
	for i := range latencyWarmUp + o.samples {
		// At random, so that it does not fall into step with anybody's timer.
		gap := o.gap/2 + rand.N(o.gap)
		select {
		case <-time.After(gap):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		text := `{"id":` + strconv.Itoa(i) + `}`
		var id int64
		before := wall()
		if err := b.conn.QueryRow(ctx, add, task, text).Scan(&id); err != nil {
			return nil, fmt.Errorf("add: %w", err)
		}
		e, err := a.wait(ctx, "ran")
		if err != nil {
			return nil, err
		}
		if e.ID != strconv.FormatInt(id, 10) {
			return nil, fmt.Errorf("%s ran job %s instead of %d", b.system.title(), e.ID, id)
		}
		if i >= latencyWarmUp {
			waits = append(waits, float64(e.T-before)/1000)
		}
	}
	if _, err := a.stop(ctx); err != nil {
		return nil, err
	}
	slices.Sort(waits)
	return sample{latencyP50: percentile(waits, 50), latencyP99: percentile(waits, 99), latencyMax: waits[len(waits)-1]}, nil
}
