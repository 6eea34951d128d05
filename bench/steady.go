package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
)

// mix is how many jobs get through when they are added and worked off at once.
func mix(o options, f field) scenario {
	ours, peer := f.ours, f.graphile
	n := o.backlog
	s := scenario{
		name: "mix",
		about: fmt.Sprintf("%d jobs are added by one process, 1000 a call, and worked off at the same time; from the word go until none is left; our history keeps %s",
			n, o.keep),
		metrics: workMetrics,
	}
	at := func(of system, title string, processes int) variant {
		return variant{title: title, system: of, run: func(ctx context.Context, b *block) (sample, error) {
			return addingAndWorking(ctx, b, n, processes, "bulk")
		}}
	}
	s.variants = []variant{at(ours, ours.title(), 1)}
	versus := goal{metric: workEmpty, ours: ours.title(), atBest: 2}
	for _, p := range o.peerProcesses {
		v := at(peer, peer.title()+", "+processes(p), p)
		s.variants = append(s.variants, v)
		versus.peers = append(versus.peers, v.title)
	}
	s.goals = []goal{versus}
	return s
}

func addingAndWorking(ctx context.Context, b *block, jobs, processes int, adding string) (sample, error) {
	if err := b.keep(ctx); err != nil {
		return nil, err
	}
	adder, err := b.start(ctx, agentConfig{Role: adding, Total: jobs, Chunk: 1000})
	if err != nil {
		return nil, err
	}
	var begun int64
	longest := b.longest()
	return b.work(ctx, jobs, workload{
		workers: processes, config: agentConfig{Role: "worker", Settings: graphileBest}, adder: adder,
		seen: func(_ int, at int64) bool {
			if begun == 0 {
				begun = at
			}
			return micros(at-begun) > longest
		},
	})
}

const (
	steadyMost  = "most jobs/s"
	steadyAdded = "added/s"
	steadyRate  = "jobs/s in the end"
	steadyKeeps = "of added"
	steadySize  = "MB after the beginning"
	steadyEnd   = "MB in the end"
	steadyGrows = "end / after the beginning"

	steadyShare = 0.6
)

// steady adds and works at 60 % of the maximum, and looks whether tables and indexes grow.
func steady(o options, f field) scenario {
	ours, peer := f.ours, f.graphile
	long := time.Duration(o.minutes * float64(time.Minute))
	s := scenario{
		name: "steady",
		about: fmt.Sprintf("jobs are added, 1000 a call, and worked off at the same time, at 60 %% of the maximum that is measured before, for %s; the beginning is the first %s, what comes after it and the end are as long; our history keeps %s",
			long, beginning(long), o.keep),
		metrics: []metric{{name: steadyMost}, {name: steadyAdded}, {name: steadyRate}, {name: steadyKeeps, digits: 2},
			{name: steadySize, lower: true, digits: 1}, {name: steadyEnd, lower: true, digits: 1}, {name: steadyGrows, lower: true, digits: 2}},
		rounds:  1,
		timeout: 2*long + 5*time.Minute,
	}
	var drawn []*timeline
	of := func(of system, title, adding string, processes int) string {
		var maximum float64
		most := variant{title: title + ", as fast as it can", system: of}
		most.run = func(ctx context.Context, b *block) (sample, error) {
			got, err := addingAndWorking(ctx, b, o.backlog, processes, adding)
			maximum = got[workEmpty]
			return sample{steadyMost: maximum}, err
		}
		v := variant{title: title + ", steady", system: of}
		v.run = func(ctx context.Context, b *block) (sample, error) {
			line := &timeline{name: title, rate: int(steadyShare * maximum), long: long}
			if err := line.measure(ctx, b, adding, processes); err != nil {
				return nil, err
			}
			drawn = append(drawn, line)
			if o.plot != "" {
				if err := os.WriteFile(o.plot, []byte(draw(drawn)), 0o666); err != nil {
					return nil, err
				}
			}
			return line.sample(), nil
		}
		s.variants = append(s.variants, most, v)
		return v.title
	}
	title := of(ours, ours.title(), "bulk", 1)
	s.goals = []goal{{metric: steadyGrows, ours: title, atBest: 1.1}, {metric: steadyKeeps, ours: title, atBest: 0.95}}
	if o.graphile { // adds through SQL: its client does not wait as long as it is told
		for _, n := range o.peerProcesses {
			of(peer, peer.title()+", "+processes(n), "sqlbulk", n)
		}
	}
	return s
}

// beginning is how much of a run of that length does not count.
func beginning(long time.Duration) time.Duration { return min(time.Minute, long/4) }

// timeline is what happened second by second.
type timeline struct {
	name   string
	rate   int // jobs added a second
	long   time.Duration
	points []point
}

type point struct {
	at              float64 // seconds since the beginning
	jobs            int     // that have run by then
	tables, indexes float64 // MB
}

// measure adds and works, and takes a sample each second.
func (l *timeline) measure(ctx context.Context, b *block, adding string, processes int) error {
	if err := b.keep(ctx); err != nil {
		return err
	}
	jobs := int(float64(l.rate) * l.long.Seconds())
	adder, err := b.start(ctx, agentConfig{Role: adding, Total: jobs, Chunk: 1000, Rate: l.rate})
	if err != nil {
		return err
	}
	sizes, err := pgx.Connect(ctx, b.url)
	if err != nil {
		return err
	}
	defer func() { _ = sizes.Close(context.WithoutCancel(ctx)) }()

	var ran, begun atomic.Int64
	sampling, cancel := context.WithCancel(ctx)
	var sampler sync.WaitGroup
	var lost error // of the sampler, until it is waited for
	sampler.Go(func() { lost = l.watch(sampling, b.system.schema(), sizes, &begun, &ran) })
	_, err = b.work(ctx, jobs, workload{
		workers: processes, config: agentConfig{Role: "worker", Settings: graphileBest}, adder: adder,
		seen: func(n int, at int64) bool {
			begun.CompareAndSwap(0, at)
			ran.Store(int64(n))
			return micros(at-begun.Load()) > 2*l.long
		},
	})
	cancel()
	sampler.Wait()
	if err != nil {
		return err
	}
	return lost
}

func (l *timeline) watch(ctx context.Context, schema string, conn *pgx.Conn, begun, ran *atomic.Int64) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		since := begun.Load()
		if since == 0 {
			continue
		}
		p := point{at: micros(wall() - since).Seconds(), jobs: int(ran.Load())}
		err := conn.QueryRow(ctx, `select sum(pg_table_size(c.oid)) / 1e6, sum(pg_indexes_size(c.oid)) / 1e6
			from pg_class c join pg_namespace n on n.oid = c.relnamespace
			where n.nspname in ($1::text, $1::text || '_private') and c.relkind = 'r'`, schema).Scan(&p.tables, &p.indexes)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return fmt.Errorf("size of the tables: %w", err)
		}
		if p.at <= l.long.Seconds()+0.5 { // what is left when adding has ended shows nothing
			l.points = append(l.points, p)
		}
	}
}

// sample compares what comes after the beginning with the end.
func (l *timeline) sample() sample {
	span := beginning(l.long).Seconds()
	s := sample{steadyAdded: float64(l.rate)}
	size := func(from, to float64) (largest float64) {
		for _, p := range l.points {
			if p.at >= from && p.at < to {
				largest = max(largest, p.tables+p.indexes)
			}
		}
		return largest
	}
	end := l.long.Seconds()
	s[steadySize], s[steadyEnd] = size(span, 2*span), size(end-span, end+1)
	if s[steadySize] > 0 {
		s[steadyGrows] = s[steadyEnd] / s[steadySize]
	}
	if from := slices.IndexFunc(l.points, func(p point) bool { return p.at >= end-span }); from >= 0 && from < len(l.points)-1 {
		first, last := l.points[from], l.points[len(l.points)-1]
		s[steadyRate] = float64(last.jobs-first.jobs) / (last.at - first.at)
		s[steadyKeeps] = s[steadyRate] / s[steadyAdded]
	}
	return s
}

// draw is a picture of these.
func draw(lines []*timeline) string {
	rates := panel{title: "jobs run per second"}
	sizes := panel{title: "tables and indexes (dashed: indexes alone), MB"}
	var names []string
	for _, l := range lines {
		rate, all, indexes := curve{name: l.name}, curve{name: l.name}, curve{thin: true}
		for i, p := range l.points {
			if i > 0 {
				before := l.points[i-1]
				rate.points = append(rate.points, [2]float64{p.at, float64(p.jobs-before.jobs) / (p.at - before.at)})
			}
			all.points = append(all.points, [2]float64{p.at, p.tables + p.indexes})
			indexes.points = append(indexes.points, [2]float64{p.at, p.indexes})
		}
		rates.curves = append(rates.curves, rate)
		sizes.curves = append(sizes.curves, all, indexes)
		names = append(names, fmt.Sprintf("%s: %s jobs/s", l.name, number(float64(l.rate), 0)))
	}
	return plot("Adding and working at 60 % of the maximum: "+strings.Join(names, ", "), "seconds", rates, sizes)
}
