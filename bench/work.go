package main

import (
	"context"
	"fmt"
	"sync"
	"time"
)

const (
	workEmpty  = "jobs/s, go to empty"
	workMiddle = "jobs/s, first to last start"
	workClient = "client CPU µs/job"
	workWAL    = "WAL B/job"
	workMemory = "worker MB" // at most
)

// work measures how fast jobs that are already there are worked off.
func work(o options, ours, peer system) scenario {
	s := scenario{
		name: "work",
		about: fmt.Sprintf("%d jobs that do nothing are there; from the moment the worker is told to start, until no job is left in the table",
			o.jobs),
		metrics: []metric{{name: workEmpty}, {name: workMiddle}, {name: workClient, lower: true, digits: 1}, {name: workWAL, lower: true}},
	}
	// Settings are the peer's; ours has none.
	keepNone := variant{title: ours.title() + ", history off", system: ours}
	keepNone.run = func(ctx context.Context, b *block) (sample, error) {
		if err := keepNothing(ctx, b); err != nil {
			return nil, err
		}
		return fillAndWork(ctx, b, 1, peerBest)
	}
	keepAll := variant{title: ours.title() + ", history on (default)", system: ours}
	keepAll.run = func(ctx context.Context, b *block) (sample, error) { return fillAndWork(ctx, b, 1, peerBest) }
	var peers []variant
	var peerTitles []string
	for _, n := range o.peerProcesses {
		v := variant{title: fmt.Sprintf("%s, %s", peer.title(), processes(n)), system: peer}
		v.run = func(ctx context.Context, b *block) (sample, error) { return fillAndWork(ctx, b, n, peerBest) }
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
	workers := make([]*agent, l.workers)
	l.config.Total = jobs
	for i := range workers {
		var err error
		if workers[i], err = b.start(ctx, l.config); err != nil {
			return nil, err
		}
	}
	if err := b.settle(ctx); err != nil {
		return nil, err
	}
	walBefore, err := b.wal(ctx)
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
	walAfter, err := b.wal(ctx)
	if err != nil {
		return nil, err
	}
	ran, cpu, memory := 0, int64(0), 0.0
	for _, a := range workers {
		memory += a.memory()
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
		workWAL:    (walAfter - walBefore) / float64(jobs),
	}
	if memory > 0 {
		s[workMemory] = memory
	}
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
	some := "select exists (select from " + b.system.jobs() + " where id = any ($1::text[]::bigint[]))"
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

// alternate deals the variants of both sides in turn.
func alternate(ours, peers []variant) []variant {
	var all []variant
	for i := range max(len(ours), len(peers)) {
		if i < len(ours) {
			all = append(all, ours[i])
		}
		if i < len(peers) {
			all = append(all, peers[i])
		}
	}
	return all
}

func processes(n int) string {
	if n == 1 {
		return "1 process"
	}
	return fmt.Sprintf("%d processes", n)
}
