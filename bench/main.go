// Command bench compares Offstage with Graphile Worker, `bench peers` with River and pg-boss, too, and `bench backlogs` with itself when the
// table is ugly, on one server, in turns, so that the ratios can be believed even where the machine drifts. See README.md.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

type options struct {
	databaseURL   string
	postgres      string
	peerVersion   string
	peerProcesses []int
	rounds        int
	jobs          int
	samples       int
	history       int
	gap           time.Duration
	writers       int
	seconds       time.Duration
	timeout       time.Duration
	self          bool
	json          bool
	javascript    bool
	slots         int
	peers         bool            // all peers, in peerScenarios
	run           []scenarioMaker // the scenarios to run

	// of backlogs
	backlog  int
	graphile bool // graphile-worker, too, wherever it can
	longest  time.Duration
	keep     string
	minutes  float64
	plot     string
}

// scenarioMaker makes a scenario for those who take part.
type scenarioMaker struct {
	name      string
	onRequest bool // it runs only when --only names it
	make      func(o options, f field) scenario
}

// scenarios in the order they run.
var scenarios = []scenarioMaker{
	{name: "work", make: work}, {name: "add-single", make: addSingle}, {name: "add-bulk", make: addBulk}, {name: "latency", make: latency},
	{name: "history", make: history, onRequest: true},
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if len(os.Args) == 2 && os.Args[1] == childArgument {
		if err := runChild(ctx); err != nil {
			fatal(err)
		}
		return
	}
	parse, args := parseOptions, os.Args[1:]
	if len(args) > 0 && args[0] == "backlogs" {
		parse, args = parseBacklogs, args[1:]
	}
	o, err := parse(args)
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(2)
	}
	err = run(ctx, o)
	switch {
	case ctx.Err() != nil:
		fmt.Fprintln(os.Stderr, "bench: interrupted, everything is cleaned up")
		os.Exit(130)
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func parseOptions(args []string) (o options, err error) {
	name, from, processesToTry, rounds, samples := "bench", scenarios, "1,2", 3, 1000
	if len(args) > 0 && args[0] == "peers" {
		o.peers, args = true, args[1:]
		name, from, processesToTry, rounds, samples = "bench peers", peerScenarios, "1,2,4", 5, 300
	}
	f := newFlags(name)
	f.StringVar(&o.databaseURL, "database-url", "", "`URL` of a server to use, as a role that may create databases and checkpoint; default: a private one is started")
	f.StringVar(&o.postgres, "postgres", "15", "major `version` of the private server")
	f.StringVar(&o.peerVersion, "peer", "", "`version` of graphile-worker, 0.17 or 0.18; default: the newest that Node.js can run")
	processes := f.String("peer-processes", processesToTry, "`numbers` of graphile-worker processes to try in work")
	f.IntVar(&o.rounds, "rounds", rounds, "how `often` each variant is measured")
	only := onlyFlag(f, from)
	f.IntVar(&o.jobs, "jobs", 200_000, "`number` of jobs in work and add-bulk")
	f.IntVar(&o.samples, "samples", samples, "`number` of jobs in latency")
	f.DurationVar(&o.gap, "gap", 20*time.Millisecond, "mean `pause` between jobs in latency")
	f.IntVar(&o.writers, "writers", 32, "`calls` in flight in add-single")
	f.DurationVar(&o.seconds, "seconds", 3*time.Second, "`duration` of add-single")
	f.DurationVar(&o.timeout, "timeout", 5*time.Minute, "longest `duration` of one measurement")
	if !o.peers {
		f.IntVar(&o.history, "history", 10_000_000, "`number` of entries of history that are there, in history")
		f.BoolVar(&o.self, "self", false, "compare graphile-worker with itself, to check the harness: every ratio should be 1")
		f.BoolVar(&o.javascript, "javascript", false, "let our worker perform the same task in JavaScript, as graphile-worker does")
		f.IntVar(&o.slots, "slots", 0, "how many `jobs` our worker runs at a time; default: its default (graphile-worker runs 24, at its best settings)")
	}
	if err := o.parse(f, args, from, only, processes); err != nil {
		return o, err
	}
	if o.slots < 0 || o.rounds < 1 || o.jobs < 1 || o.samples < 1 || !o.peers && o.history < 1 || o.writers < 1 || o.writers > 90 || o.gap < time.Millisecond || o.seconds < time.Millisecond {
		return o, errors.New("numbers must be positive, --writers at most 90, durations at least 1ms")
	}
	return o, nil
}

// newFlags are those of a command; -h says which others there are.
func newFlags(name string) *flag.FlagSet {
	f := flag.NewFlagSet(name, flag.ContinueOnError)
	f.Usage = func() {
		fmt.Fprintf(f.Output(), "usage: ./dev bench [arguments]\n       ./dev bench peers [arguments]\n       ./dev bench backlogs [arguments]\n\nThe arguments of %s:\n", name)
		f.PrintDefaults()
	}
	return f
}

// onlyFlag is the flag whose value choose takes.
func onlyFlag(f *flag.FlagSet, from []scenarioMaker) *string {
	byDefault, _ := choose(from, "") // all are known
	text := func(all []scenarioMaker) string {
		var names []string
		for _, s := range all {
			names = append(names, s.name)
		}
		return strings.Join(names, ", ")
	}
	usage := "`names` of the scenarios to run, separated by commas, of " + text(from) + "; default: "
	if len(byDefault) == len(from) {
		return f.String("only", "", usage+"all")
	}
	return f.String("only", "", usage+text(byDefault))
}

// choose returns the scenarios that only names, separated by commas, or all but those that must be asked for.
func choose(from []scenarioMaker, only string) ([]scenarioMaker, error) {
	if only == "" {
		return slices.DeleteFunc(slices.Clone(from), func(s scenarioMaker) bool { return s.onRequest }), nil
	}
	names := strings.Split(only, ",")
	for i, name := range names {
		names[i] = strings.TrimSpace(name)
		if !slices.ContainsFunc(from, func(s scenarioMaker) bool { return s.name == names[i] }) {
			return nil, fmt.Errorf("--only: no scenario %q", names[i])
		}
	}
	return slices.DeleteFunc(slices.Clone(from), func(s scenarioMaker) bool { return !slices.Contains(names, s.name) }), nil
}

// parse reads the arguments, with the flags that all commands have.
func (o *options) parse(f *flag.FlagSet, args []string, from []scenarioMaker, only, processes *string) (err error) {
	f.BoolVar(&o.json, "json", false, "print JSON")
	if err := f.Parse(args); err != nil {
		return err
	}
	if f.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	if o.peerProcesses, err = parseProcesses(*processes); err != nil {
		return err
	}
	o.run, err = choose(from, *only)
	return err
}

func parseProcesses(list string) (all []int, err error) {
	for _, text := range strings.Split(list, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(text))
		if err != nil || n < 1 || n > 8 {
			return nil, fmt.Errorf("--peer-processes: %q is not a number from 1 to 8", text)
		}
		all = append(all, n)
	}
	return all, nil
}

func run(ctx context.Context, o options) error {
	found, err := findGraphile(ctx, o.peerVersion)
	if err != nil {
		return err
	}
	f := field{ours: &ours{javascript: o.javascript, slots: o.slots}, graphile: found}
	if o.self {
		same := *found
		same.label += " (itself)"
		f.ours = &same
	}
	if o.peers {
		f.river = &river{}
		if f.pgboss, err = findPgboss(found); err != nil {
			return err
		}
	}
	s, err := openServer(ctx, o.databaseURL, o.postgres)
	if err != nil {
		return err
	}
	defer s.close()

	r := report{Command: strings.Join(append([]string{"./dev", "bench"}, redacted(os.Args[1:])...), " ")}
	if r.Conditions, err = conditions(ctx, s, o, f); err != nil {
		return err
	}
	r.Conditions = append([]condition{{"command", r.Command}}, r.Conditions...)
	templates := map[string]string{}
	for _, sys := range f.systems() {
		if _, made := templates[sys.name()]; made {
			continue
		}
		if templates[sys.name()], err = s.template(ctx, sys); err != nil {
			return err
		}
	}
	for _, sc := range o.run {
		made := sc.make(o, f)
		if o.self {
			made.forgetGoals()
		}
		measured, err := measure(ctx, s, o, made, templates)
		if err != nil {
			return fmt.Errorf("%s: %w", sc.name, err)
		}
		r.Scenarios = append(r.Scenarios, measured)
		if !o.json {
			measured.writeText(os.Stdout)
		}
	}
	if o.json {
		return r.writeJSON(os.Stdout)
	}
	r.writeGoals(os.Stdout)
	r.Scenarios = nil // printed as they came
	r.writeText(os.Stdout)
	return nil
}

// measure runs every variant once a round.
func measure(ctx context.Context, s *server, o options, sc scenario, templates map[string]string) (result, error) {
	o.timeout = max(o.timeout, sc.timeout)
	o.rounds = cmp.Or(sc.rounds, o.rounds)
	rounds := make([][]sample, o.rounds)
	for round := range rounds {
		for _, v := range sc.variants {
			got, err := runBlock(ctx, s, o, v, templates[v.system.name()])
			if err != nil {
				return result{}, fmt.Errorf("%s: %w", v.title, err)
			}
			rounds[round] = append(rounds[round], got)
			var values []string
			for _, m := range sc.metrics {
				if x, ok := got[m.name]; ok {
					values = append(values, m.name+" "+number(x, m.digits))
				}
			}
			progress("%s %d/%d  %s: %s", sc.name, round+1, o.rounds, v.title, strings.Join(values, ", "))
		}
	}
	return summarize(sc, rounds), nil
}

// redacted hides the value of --database-url, which may hold a password.
func redacted(args []string) []string {
	args = slices.Clone(args)
	for i, a := range args {
		name, _, hasValue := strings.Cut(a, "=")
		switch {
		case strings.TrimLeft(name, "-") != "database-url":
		case hasValue:
			args[i] = name + "=…"
		case i+1 < len(args):
			args[i+1] = "…"
		}
	}
	return args
}

func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
}
