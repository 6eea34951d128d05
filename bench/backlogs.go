package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"
)

// ugly are the scenarios of ./dev bench backlogs, in the order they run.
var ugly = []scenarioMaker{
	{name: "future", make: inFuture}, {name: "parked", make: parked}, {name: "parking", make: parking}, {name: "queues", make: queues},
	{name: "unknown", make: unknown}, {name: "failed", make: failed}, {name: "priorities", make: priorities}, {name: "tasks", make: manyTasks}, {name: "snapshot", make: snapshot},
	{name: "payload-1k", make: payload1K}, {name: "payload-100k", make: payload100K}, {name: "retries", make: retries}, {name: "mix", make: mix},
	{name: "memory", make: memory}, {name: "steady", make: steady},
}

func parseBacklogs(args []string) (o options, err error) {
	f := newFlags("bench backlogs")
	f.StringVar(&o.databaseURL, "database-url", "", "`URL` of a server to use, as a role that may create databases and checkpoint; default: a private one is started")
	f.StringVar(&o.postgres, "postgres", "15", "major `version` of the private server")
	f.BoolVar(&o.graphile, "peer", false, "let graphile-worker do the same wherever it can, clean and ugly, too")
	f.StringVar(&o.peerVersion, "peer-version", "", "`version` of graphile-worker, 0.17 or 0.18; default: the newest that Node.js can run")
	processes := f.String("peer-processes", "1,2", "`numbers` of graphile-worker processes to try")
	f.DurationVar(&o.longest, "longest", time.Minute, "graphile-worker is stopped after this `duration`; its rate is that until then")
	f.IntVar(&o.rounds, "rounds", 3, "how `often` each variant is measured (steady: once)")
	only := onlyFlag(f, ugly)
	f.IntVar(&o.jobs, "jobs", 200_000, "`number` of jobs that can run")
	f.IntVar(&o.backlog, "backlog", 1_000_000, "`number` of jobs in the way")
	f.StringVar(&o.keep, "keep", "none", "`what` our history keeps: none, as graphile-worker, or all, our default")
	f.Float64Var(&o.minutes, "minutes", 10, "`minutes` of steady adding and working")
	f.StringVar(&o.plot, "plot", "", "`file` to draw steady into, as SVG; seen from bench")
	f.IntVar(&o.slots, "slots", 0, "how many `jobs` our worker runs at a time; default: its default")
	f.DurationVar(&o.timeout, "timeout", 10*time.Minute, "longest `duration` of one measurement with what it needs before")
	if err := o.parse(f, args, ugly, only, processes); err != nil {
		return o, err
	}
	if o.keep != "none" && o.keep != "all" {
		return o, fmt.Errorf("--keep: %q is neither none nor all", o.keep)
	}
	if o.slots < 0 || o.rounds < 1 || o.jobs < 100 || o.backlog < 100 || o.minutes <= 0 || o.longest <= 0 {
		return o, errors.New("numbers must be positive, --jobs and --backlog at least 100")
	}
	if o.plot != "" { // or the run would be lost at its end
		file, err := os.OpenFile(o.plot, os.O_WRONLY|os.O_CREATE, 0o666) // what is there stays until then
		if err != nil {
			return o, fmt.Errorf("--plot: %w", err)
		}
		file.Close()
	}
	return o, nil
}

// shape is what the table looks like while jobs are worked off.
type shape struct {
	title    string
	goal     float64 // ratio of the rate to that of the clean run; 0: none
	peerGoal float64 // and to graphile-worker's with the same; then that runs without --peer, too

	before func(ctx context.Context, b *block) (after func(), err error) // what is there before the jobs that can run; may be nil
	jobs   like                                                          // these
	config agentConfig                                                   // of the worker; default: one whose task does nothing

	oursOnly bool // graphile-worker cannot do it
}

// against is a scenario of shapes, each against the same jobs with nothing in their way.
func against(o options, f field, name, about string, jobs int, shapes ...shape) scenario {
	ours, peer := f.ours, f.graphile
	s := scenario{name: name, about: about, metrics: slices.Clone(workMetrics)}
	s.about += fmt.Sprintf("; our history keeps %s", o.keep)
	clean := shape{title: "clean"}
	at := func(s shape, of system, processes int) variant {
		v := variant{title: of.title() + ", " + s.title, system: of}
		if of == peer {
			v.title = fmt.Sprintf("%s, %d×, %s", of.title(), processes, s.title)
		}
		v.run = func(ctx context.Context, b *block) (sample, error) { return s.work(ctx, b, jobs, processes) }
		return v
	}
	var ourClean variant
	var cleans []variant // of the peer, by processes
	for _, x := range shapes {
		if x.goal > 0 && ourClean.title == "" {
			ourClean = at(clean, ours, 1)
			s.variants = append(s.variants, ourClean)
		}
		one := at(x, ours, 1)
		s.variants = append(s.variants, one)
		if x.goal > 0 {
			s.goals = append(s.goals, goal{metric: workEmpty, ours: one.title, peers: []string{ourClean.title}, atBest: x.goal})
		}
		if x.oursOnly || !o.graphile && x.peerGoal == 0 {
			continue
		}
		if o.graphile && x.goal > 0 && cleans == nil {
			for _, n := range o.peerProcesses {
				cleans = append(cleans, at(clean, peer, n))
			}
			s.variants = append(s.variants, cleans...)
		}
		versus := goal{metric: workEmpty, ours: one.title, atBest: x.peerGoal}
		for i, n := range o.peerProcesses {
			other := at(x, peer, n)
			s.variants = append(s.variants, other)
			versus.peers = append(versus.peers, other.title)
			if cleans != nil {
				s.goals = append(s.goals, goal{metric: workEmpty, ours: other.title, peers: []string{cleans[i].title}})
			}
		}
		s.goals = append(s.goals, versus)
	}
	return s
}

// work measures how fast the jobs are worked off in this shape.
func (s shape) work(ctx context.Context, b *block, jobs, processes int) (sample, error) {
	if err := b.keep(ctx); err != nil {
		return nil, err
	}
	if s.before != nil {
		after, err := s.before(ctx, b)
		if after != nil {
			defer after()
		}
		if err != nil {
			return nil, err
		}
	}
	if err := b.fillLike(ctx, jobs, s.jobs); err != nil {
		return nil, err
	}
	l := workload{workers: processes, config: s.config}
	if l.config.Role == "" {
		l.config.Role = "worker"
	}
	l.config.Settings = graphileBest
	t := tenths{jobs: jobs}
	longest := b.longest()
	l.seen = func(n int, at int64) bool {
		t.see(n, at)
		return micros(at-t.begun) > longest
	}
	got, err := b.work(ctx, jobs, l)
	if err != nil {
		return nil, err
	}
	t.into(got)
	return got, nil
}

// longest is how long jobs may be worked off: ours for ever.
func (b *block) longest() time.Duration {
	if b.ours() {
		return 1 << 62
	}
	return b.options.longest
}

// keep sets what our history keeps.
func (b *block) keep(ctx context.Context) error {
	if b.options.keep == "all" {
		return nil
	}
	return keepNothing(ctx, b)
}

// tenths is how fast the first tenth and the last tenth of the jobs were.
type tenths struct {
	jobs  int
	begun int64 // the first event
	n     [3]int
	at    [3]int64 // when n jobs had run: the first ones, a tenth, nine tenths
	last  int64
}

const (
	firstTenth = "jobs/s, first tenth"
	lastTenth  = "jobs/s, last tenth"
	bothTenths = "last / first tenth"
)

func (t *tenths) see(n int, at int64) {
	if t.begun == 0 {
		t.begun = at
	}
	for i, from := range []int{1, t.jobs / 10, t.jobs - t.jobs/10} {
		if t.at[i] == 0 && n >= max(from, 1) {
			t.n[i], t.at[i] = n, at
		}
	}
	if n >= t.jobs && t.last == 0 {
		t.last = at
	}
}

// into writes them into a sample, unless there were too few jobs, or not all were run.
func (t *tenths) into(s sample) {
	if t.last <= t.at[2] || t.at[1] <= t.at[0] || t.at[2] <= t.at[1] {
		return
	}
	s[firstTenth] = float64(t.n[1]-t.n[0]) / micros(t.at[1]-t.at[0]).Seconds()
	s[lastTenth] = float64(t.jobs-t.n[2]) / micros(t.last-t.at[2]).Seconds()
	s[bothTenths] = s[lastTenth] / s[firstTenth]
}
