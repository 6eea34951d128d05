package main

import (
	"context"
	"fmt"
	"math"
	"sync"
	"time"
)

const (
	workEmpty  = "jobs/s, go to empty"
	workMiddle = "jobs/s, first to last start"
	workClient = "client CPU µs/job"
	workWAL    = "WAL B/job"
	workCPU    = "database CPU µs/job"
	workMemory = "client MB"
)

// workMetrics are those of workOff.
var workMetrics = []metric{{name: workEmpty}, {name: workMiddle}, {name: workCPU, lower: true, digits: 1}, {name: workClient, lower: true, digits: 1},
	{name: workWAL, lower: true}, {name: workMemory, lower: true}}

// work measures how fast jobs that are already there are worked off.
func work(o options, f field) scenario {
	ours, peer := f.ours, f.graphile
	s := scenario{
		name: "work",
		about: fmt.Sprintf("%d jobs that do nothing are there; from the moment the worker is told to start, until no job is left in the table",
			o.jobs),
		metrics: workMetrics,
	}
	// Settings are the peer's; ours has none.
	keepNone := variant{title: ours.title() + ", history off", system: ours}
	keepNone.run = func(ctx context.Context, b *block) (sample, error) {
		if err := keepNothing(ctx, b); err != nil {
			return nil, err
		}
		return fillAndWork(ctx, b, 1, graphileBest)
	}
	keepAll := variant{title: ours.title() + ", history on (default)", system: ours}
	keepAll.run = func(ctx context.Context, b *block) (sample, error) { return fillAndWork(ctx, b, 1, graphileBest) }
	var peers []variant
	var peerTitles []string
	for _, n := range o.peerProcesses {
		v := variant{title: fmt.Sprintf("%s, %s", peer.title(), processes(n)), system: peer}
		v.run = func(ctx context.Context, b *block) (sample, error) { return fillAndWork(ctx, b, n, graphileBest) }
		peers = append(peers, v)
		peerTitles = append(peerTitles, v.title)
	}
	s.variants = alternate([]variant{keepNone, keepAll}, peers)
	best := 2.5
	if o.javascript {
		best = 1
	}
	s.goals = []goal{
		{metric: workEmpty, ours: keepNone.title, peers: peerTitles, atBest: best},
		{metric: workMiddle, ours: keepNone.title, peers: peerTitles},
		{metric: workEmpty, ours: keepAll.title, peers: peerTitles},
	}
	return s
}

// workPeers is work for all systems, at their defaults and at their best.
func workPeers(o options, f field) scenario {
	s := scenario{
		name: "work",
		about: fmt.Sprintf("%d jobs that do nothing are there (fewer where that would take minutes); from the moment the worker is told to start, until the last one's end is on disk",
			o.jobs),
		metrics: workMetrics,
	}
	best := f.graphileBest(o)
	graphileDefaults := entry{title: "graphile-worker, defaults", system: f.graphile, settings: graphileDefault, jobs: 20_000}
	riverAtBest := entry{title: "river, best", system: f.river, settings: riverBest}
	riverDefaults := entry{title: "river, defaults", system: f.river, settings: riverDefault, jobs: 5_000}
	bossAtBest := entry{title: "pg-boss, best", system: f.pgboss, settings: pgbossBest, processes: 2}
	bossDefaults := entry{title: "pg-boss, defaults", system: f.pgboss, settings: pgbossDefault, jobs: 10}
	none := entry{title: "offstage, nothing kept", system: f.ours, keepNone: true}
	kept := entry{title: "offstage, history kept (defaults)", system: f.ours}
	script := entry{title: "offstage, JavaScript, nothing kept", system: &ours{javascript: true}, keepNone: true}
	script24 := entry{title: "offstage, JavaScript, nothing kept, 24 at a time", system: &ours{javascript: true, slots: 24}, keepNone: true}
	s.enter(func(ctx context.Context, b *block, e entry) (sample, error) {
		return fillAndWork(ctx, b, max(1, e.processes), e.settings)
	}, alternate([]entry{none, kept, script, script24}, best, []entry{riverAtBest, bossAtBest, riverDefaults, graphileDefaults, bossDefaults}))
	s.compare(workEmpty, 3.5, none, best...)
	s.compare(workEmpty, 2.8, kept, best...)
	s.compare(workEmpty, 9, none, riverAtBest)
	s.compare(workEmpty, 7, kept, riverAtBest)
	s.compare(workEmpty, 0, none, bossAtBest)
	s.compare(workEmpty, 40, kept, graphileDefaults)
	s.compare(workEmpty, 100, kept, riverDefaults)
	s.compare(workEmpty, 1.2, script, best...)
	s.compare(workEmpty, 0, script24, best...)
	s.compare(workCPU, 0.4, none, best...)
	for _, e := range []entry{riverAtBest, bossAtBest} {
		s.compare(workCPU, 0, none, e)
	}
	return s
}

// waitPeers is work with a task that waits: how many run at a time bounds it, and the queue's part is what keeps it from that.
func waitPeers(o options, f field) scenario {
	const wait, slots = 5, 100
	jobs := max(1, o.jobs/4)
	s := scenario{
		name: "wait",
		about: fmt.Sprintf("%d jobs that wait %d ms each are there, %d run at a time, so that %d/s is the most; from the moment the worker is told to start, until the last one's end is on disk",
			jobs, wait, slots, slots*1000/wait),
		metrics: workMetrics,
	}
	kept := entry{title: "offstage, history kept", system: &ours{slots: slots}}
	none := entry{title: "offstage, nothing kept", system: &ours{slots: slots}, keepNone: true}
	best := []entry{
		{title: "graphile-worker, best, 1 process", system: f.graphile, settings: graphileAt(slots)},
		{title: "graphile-worker, best, 2 processes of 50", system: f.graphile, settings: graphileAt(slots / 2), processes: 2},
	}
	river := entry{title: "river, best", system: f.river, settings: riverAt(slots)}
	boss := entry{title: "pg-boss, best, 4 batches of 25", system: f.pgboss, settings: pgbossAt(slots/4, 4)}
	s.enter(func(ctx context.Context, b *block, e entry) (sample, error) {
		b.options.jobs = jobs
		if err := b.system.fill(ctx, b, jobs, wait); err != nil {
			return nil, err
		}
		return workOff(ctx, b, max(1, e.processes), e.settings)
	}, alternate([]entry{none, kept}, best, []entry{river, boss}))
	s.compare(workEmpty, 0, none, best...)
	s.compare(workEmpty, 0, kept, best...)
	s.compare(workEmpty, 0, none, river)
	s.compare(workEmpty, 0, none, boss)
	return s
}

// fillAndWork fills the table and works it off.
func fillAndWork(ctx context.Context, b *block, n int, settings map[string]any) (sample, error) {
	if err := b.fill(ctx, b.options.jobs); err != nil {
		return nil, err
	}
	return workOff(ctx, b, n, settings)
}

// workOff starts n worker processes and measures until the last job's end is on disk.
func workOff(ctx context.Context, b *block, n int, settings map[string]any) (sample, error) {
	return b.work(ctx, b.options.jobs, workload{workers: n, config: agentConfig{Role: "worker", Settings: settings}})
}

// workload is how jobs are worked off.
type workload struct {
	workers int
	config  agentConfig                            // of each; Total is filled in
	adder   *agent                                 // is told to go first; nil: the jobs are there
	seen    func(jobs int, at int64) (enough bool) // is told how many have run; when enough, it ends there. May be nil
}

// work lets so many jobs be worked off and measures until the last one's end is on disk, or until enough were seen.
func (b *block) work(ctx context.Context, jobs int, l workload) (sample, error) {
	there, err := b.live(ctx)
	if err != nil {
		return nil, err
	}
	expected := b.standing
	if l.adder == nil {
		expected += jobs
	}
	if there != expected {
		return nil, fmt.Errorf("%s has %d jobs instead of %d", b.system.title(), there, expected)
	}
	workers := make([]*agent, l.workers)
	l.config.Total = jobs
	for i := range workers {
		if workers[i], err = b.start(ctx, l.config); err != nil {
			return nil, err
		}
	}
	if err := b.settle(ctx); err != nil {
		return nil, err
	}
	before, err := b.usage(ctx)
	if err != nil {
		return nil, err
	}
	if l.adder != nil {
		if err := l.adder.tell("go"); err != nil {
			return nil, err
		}
	}
	for _, a := range workers {
		if err := a.tell("go"); err != nil {
			return nil, err
		}
	}
	cut := false
	begun, first, last, err := executed(ctx, workers, func(n int, at int64) bool {
		cut = l.seen != nil && l.seen(n, at) && n < jobs
		if cut {
			jobs = n
		}
		return n >= jobs
	})
	if err != nil {
		return nil, err
	}
	empty := last
	if !cut {
		if empty, err = emptied(ctx, b, workers); err != nil {
			return nil, err
		}
	}
	after, err := b.usage(ctx)
	if err != nil {
		return nil, err
	}
	ran, cpu, memory := 0, int64(0), 0.0
	for _, a := range workers {
		memory += peakMemory(a.cmd.Process.Pid)
		e, err := a.stop(ctx)
		if err != nil {
			return nil, err
		}
		ran += e.N
		cpu += e.CPU - a.cpuAtStart
	}
	if ran != jobs && !cut {
		progress("%s: %d executions of %d jobs", b.system.title(), ran, jobs)
	}
	s := sample{
		workEmpty:  float64(jobs) / micros(empty-begun).Seconds(),
		workMiddle: float64(jobs) / micros(last-first).Seconds(),
		workClient: float64(cpu) / float64(jobs),
	}
	if !math.IsNaN(memory) {
		s[workMemory] = memory / 1e6
	}
	after.since(before, jobs, s, workWAL, workCPU)
	return s, nil
}

// executed follows the workers until enough says that together they have run so many jobs. It returns when the first was told to
// start, when the first job started and when the last one did (known to 5 ms where there are several workers).
func executed(ctx context.Context, workers []*agent, enough func(jobs int, at int64) bool) (begun, first, last int64, err error) {
	type of struct {
		worker int
		event  event
		err    error
	}
	reading, cancel := context.WithCancel(ctx)
	var readers sync.WaitGroup
	defer readers.Wait() // or a reader would take what the caller waits for
	defer cancel()
	events := make(chan of)
	for i, a := range workers {
		readers.Go(func() {
			for {
				e, err := a.next(reading)
				select {
				case events <- of{i, e, err}:
				case <-reading.Done():
					return
				}
				if err != nil {
					return
				}
			}
		})
	}
	counts := make([]int, len(workers))
	for {
		var e of
		select {
		case e = <-events:
		case <-ctx.Done():
			return 0, 0, 0, context.Cause(ctx)
		}
		if e.err != nil {
			return 0, 0, 0, e.err
		}
		switch e.event.Event {
		case "started":
			if begun == 0 || e.event.T < begun {
				begun = e.event.T
			}
		case "count":
			counts[e.worker] = e.event.N
			if first == 0 || e.event.First < first {
				first = e.event.First
			}
			last = max(last, e.event.T)
		}
		sum := 0
		for _, n := range counts {
			sum += n
		}
		if enough(sum, e.event.T) {
			return begun, first, last, nil
		}
	}
}

// emptied returns when the last job had left the table. It asks for the jobs that were run last by their ids: to
// look through the whole table, full of dead rows, would take longer than what is measured. That nothing else is
// left is checked once, at the end.
func emptied(ctx context.Context, b *block, workers []*agent) (int64, error) {
	var ids []string
	for _, a := range workers {
		if err := a.tell("last"); err != nil {
			return 0, err
		}
		e, err := a.wait(ctx, "last")
		if err != nil {
			return 0, err
		}
		ids = append(ids, e.IDs...)
	}
	some := "select exists (select from " + b.system.unsettled() + " where id = any ($1::text[]::" + b.system.idType() + "[]))"
	for left := true; left; {
		if err := b.conn.QueryRow(ctx, some, ids).Scan(&left); err != nil {
			return 0, err
		}
	}
	at := wall()
	for {
		n, err := b.live(ctx)
		if err != nil {
			return 0, err
		}
		if n == b.standing {
			return at, nil
		}
		time.Sleep(time.Millisecond)
		at = wall()
	}
}

// alternate deals from each side in turn.
func alternate[T any](sides ...[]T) []T {
	var all []T
	for i := 0; ; i++ {
		before := len(all)
		for _, side := range sides {
			if i < len(side) {
				all = append(all, side[i])
			}
		}
		if len(all) == before {
			return all
		}
	}
}

func processes(n int) string {
	if n == 1 {
		return "1 process"
	}
	return fmt.Sprintf("%d processes", n)
}
