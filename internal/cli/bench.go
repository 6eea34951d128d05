package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/schema"
)

// benchSchema is made for a measurement and dropped after it.
const benchSchema = "offstage_bench"

var benchParts = []string{"add", "work", "latency"}

func (a *app) benchCommand() *cobra.Command {
	b := &bench{app: a}
	c := &cobra.Command{
		Use:   "bench",
		Short: "Measure adding, working and latency on this database",
		Long: `Measures adding (one by one, by 32 writers, in bulk), working, and latency (added, started, settled), on your own
database and from this machine. It makes a schema of its own, ` + benchSchema + `, and drops it at the end, also after Ctrl-C.
It loads the server as much as it can: ask first whether that is welcome.

Each figure says its conditions. Figures of two machines, or of two sets of settings, are not to be compared.`,
		Args: cobra.NoArgs,
	}
	f := c.Flags()
	f.IntVar(&b.count, "count", 20000, "how many jobs are added in bulk, and worked")
	f.Var((*durationFlag)(&b.time), "time", "how long one by one and 32 writers add (default 3s each)")
	f.IntVar(&b.samples, "samples", 300, "how many jobs latency is measured with")
	f.IntVarP(&b.slots, "jobs", "j", 10, "how many jobs a worker runs at a time")
	f.IntVar(&b.workers, "workers", 1, "how many workers there are, each with connections of its own as in a process of its own")
	f.Var((*durationFlag)(&b.takes), "takes", "for how long the handler waits, in work (default: not at all)")
	f.StringSliceVar(&b.only, "only", benchParts, "what to measure")
	f.BoolVarP(&a.yes, "yes", "y", false, "do not ask")
	f.BoolVar(&a.dryRun, "dry-run", false, "say what would be done, and do nothing")
	complete(c, "only", fixed(benchParts...))
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if b.time == 0 {
			b.time = 3 * time.Second
		}
		switch {
		case b.count < 1 || b.count > 10_000_000:
			return fmt.Errorf("--count is %d; use 1 to 10000000", b.count)
		case b.samples < 1 || b.samples > 100_000:
			return fmt.Errorf("--samples is %d; use 1 to 100000", b.samples)
		case b.slots < 1 || b.slots > 1000:
			return fmt.Errorf("--jobs is %d; use 1 to 1000", b.slots)
		case b.workers < 1 || b.workers > 100:
			return fmt.Errorf("--workers is %d; use 1 to 100", b.workers)
		case len(b.only) == 0:
			return errors.New("--only names nothing")
		}
		for _, part := range b.only {
			if !slices.Contains(benchParts, part) {
				return fmt.Errorf("--only has %q; use %s", part, strings.Join(benchParts, ", "))
			}
		}
		return a.run(func(ctx context.Context, _ []string) error { return b.run(ctx) })(cmd, args)
	}
	return c
}

// figure is one line of the result.
type figure struct {
	Name       string   `json:"name"`
	Value      float64  `json:"value"`
	Unit       string   `json:"unit"` // jobs/s or ms
	Jobs       int      `json:"jobs"`
	Seconds    float64  `json:"seconds"`
	WAL        *float64 `json:"wal_bytes_per_job,omitempty"` // of the server: what others write counts, too
	P50        *float64 `json:"p50_ms,omitempty"`
	P95        *float64 `json:"p95_ms,omitempty"`
	P99        *float64 `json:"p99_ms,omitempty"`
	Max        *float64 `json:"max_ms,omitempty"`
	Conditions string   `json:"conditions"`
}

type conditions struct {
	Offstage          string  `json:"offstage"`
	PostgreSQL        string  `json:"postgresql"`
	Database          string  `json:"database"`
	SynchronousCommit string  `json:"synchronous_commit"`
	Fsync             string  `json:"fsync"`
	SharedBuffers     string  `json:"shared_buffers"`
	RoundTripMS       float64 `json:"round_trip_ms"`
	ClientCPUs        int     `json:"client_cpus"`
	ClientHost        string  `json:"client_host"`
}

type bench struct {
	app            *app
	count, samples int
	slots, workers int
	time, takes    time.Duration
	only           []string

	db      *database
	figures []figure
}

func (b *bench) run(ctx context.Context) (err error) {
	a := b.app
	a.schema = benchSchema
	cfg, err := a.config(true)
	if err != nil {
		return err
	}
	cfg.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeCacheStatement // as programs that add jobs do
	cfg.MaxConns = writers + 2
	if b.db, err = a.connect(ctx, cfg); err != nil {
		return err
	}
	defer b.db.close()
	about := fmt.Sprintf("load %s with jobs for about %s, in the schema %s, which is dropped afterwards", placeOf(cfg.ConnConfig), span(b.guess()), benchSchema)
	if a.dryRun {
		return b.announce(ctx, about)
	}
	if err := a.confirm(ctx, about); err != nil {
		return err
	}
	if err := b.drop(ctx); err != nil { // what a killed one has left
		return err
	}
	defer func() {
		// Ctrl-C must not leave it behind.
		cleaning, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		defer cancel()
		if gone := b.drop(cleaning); gone != nil {
			err = errors.Join(err, fmt.Errorf("the schema %s is left behind; drop schema %[1]s, %[1]s_private cascade: %w", benchSchema, gone))
		}
	}()
	if _, err := migrate(ctx, b.db, schema.Config{Schema: benchSchema}); err != nil {
		return err
	}
	under, err := b.conditions(ctx)
	if err != nil {
		return err
	}
	if !a.json {
		fmt.Fprintf(a.Stdout, "Offstage %s, PostgreSQL %s at %s, synchronous_commit %s, fsync %s, shared_buffers %s; round trip %.2f ms, client with %d CPUs\n",
			under.Offstage, under.PostgreSQL, under.Database, under.SynchronousCommit, under.Fsync, under.SharedBuffers, under.RoundTripMS, under.ClientCPUs)
	}
	for _, part := range b.parts() {
		var err error
		switch part {
		case "add":
			err = errors.Join(b.addSingle(ctx), b.addWriters(ctx), b.addBulk(ctx))
		case "work":
			err = b.work(ctx)
		case "latency":
			err = b.latency(ctx)
		}
		if err != nil {
			return err
		}
	}
	if a.json {
		return a.printJSON(struct {
			Conditions conditions `json:"conditions"`
			Figures    []figure   `json:"figures"`
		}{under, b.figures})
	}
	return nil
}

// announce says what would be done, and whether the schema is in the way of it.
func (b *bench) announce(ctx context.Context, about string) error {
	if _, err := b.remains(ctx); err != nil {
		return err
	}
	a := b.app
	if a.json {
		return a.printJSON(struct {
			DryRun   bool     `json:"dry_run"`
			Database string   `json:"database"`
			Schema   string   `json:"schema"`
			Seconds  float64  `json:"seconds"`
			Parts    []string `json:"parts"`
			Count    int      `json:"count"`
			Samples  int      `json:"samples"`
		}{true, placeOf(b.db.pool.Config().ConnConfig), benchSchema, round(b.guess().Seconds()), b.parts(), b.count, b.samples})
	}
	fmt.Fprintf(a.Stdout, "would %s:\n", about)
	for _, part := range b.parts() {
		what := map[string]string{
			"add":     fmt.Sprintf("one by one for %s, by %d writers for %s, %d in bulk", span(b.time), writers, span(b.time), b.count),
			"work":    fmt.Sprintf("%s, by %s", plural(b.count, "job"), b.staff()),
			"latency": fmt.Sprintf("of %s, with %s", plural(b.samples, "job"), b.staff()),
		}[part]
		fmt.Fprintf(a.Stdout, "  %-8s %s\n", part, what)
	}
	return nil
}

// parts are those that were asked for, in their order.
func (b *bench) parts() []string {
	return slices.DeleteFunc(slices.Clone(benchParts), func(part string) bool { return !slices.Contains(b.only, part) })
}

// guess is how long it will take, at a modest 5,000 jobs a second.
func (b *bench) guess() time.Duration {
	jobs := time.Duration(0)
	if slices.Contains(b.only, "add") {
		jobs += 2*b.time + time.Duration(b.count)*200*time.Microsecond
	}
	if slices.Contains(b.only, "work") {
		jobs += time.Duration(b.count) * (400*time.Microsecond + b.takes/time.Duration(b.slots*b.workers))
	}
	if slices.Contains(b.only, "latency") {
		jobs += time.Duration(b.samples) * 10 * time.Millisecond
	}
	return max(jobs, time.Second)
}

// drop drops the schema, if it is one of ours.
func (b *bench) drop(ctx context.Context) error {
	if there, err := b.remains(ctx); err != nil || !there {
		return err
	}
	_, err := b.db.pool.Exec(ctx, "drop schema if exists "+benchSchema+", "+benchSchema+"_private cascade")
	if err != nil {
		return fmt.Errorf("drop schema %s: %w", benchSchema, err)
	}
	return nil
}

// remains says whether the schema is there; an error if it is somebody else's.
func (b *bench) remains(ctx context.Context) (there bool, err error) {
	var ours bool
	err = b.db.pool.QueryRow(ctx, `
		select exists (select from pg_catalog.pg_namespace where nspname in ($1::text, $1::text || '_private')),
		  to_regclass($1::text || '_private.migration') is not null`, benchSchema).Scan(&there, &ours)
	if err != nil {
		return false, fmt.Errorf("look for schema %s: %w", benchSchema, err)
	}
	if there && !ours {
		return true, failed(Refused, "rename it, or measure in another database", "there is a schema %s that a measurement has not made", benchSchema)
	}
	return there, nil
}

func (b *bench) conditions(ctx context.Context) (c conditions, err error) {
	c.Offstage, c.ClientCPUs, c.Database = offstage.Version, runtime.NumCPU(), placeOf(b.db.pool.Config().ConnConfig)
	c.ClientHost, _ = os.Hostname()
	err = b.db.pool.QueryRow(ctx, `
		select current_setting('server_version'), current_setting('synchronous_commit'), current_setting('fsync'), current_setting('shared_buffers')`).
		Scan(&c.PostgreSQL, &c.SynchronousCommit, &c.Fsync, &c.SharedBuffers)
	if err != nil {
		return c, err
	}
	trips := make([]time.Duration, 0, 50)
	for range cap(trips) {
		begin := time.Now()
		if err := b.db.pool.Ping(ctx); err != nil {
			return c, err
		}
		trips = append(trips, time.Since(begin))
	}
	c.RoundTripMS = quantile(trips, 0.5)
	return c, nil
}

// tell keeps a figure and prints its line.
func (b *bench) tell(f figure, what string, conditions string, args ...any) {
	f.Conditions = fmt.Sprintf(conditions, args...)
	b.figures = append(b.figures, f)
	if b.app.json {
		return
	}
	value := fmt.Sprintf("%.2f %s", f.Value, f.Unit)
	if f.Unit == "jobs/s" {
		value = fmt.Sprintf("%.0f %s", f.Value, f.Unit)
	}
	spread := ""
	if f.WAL != nil {
		spread = fmt.Sprintf("; WAL %.0f B a job", *f.WAL)
	}
	if f.P50 != nil {
		spread += fmt.Sprintf("; p50 %.2f, p95 %.2f, p99 %.2f, max %.2f ms", *f.P50, *f.P95, *f.P99, *f.Max)
	}
	fmt.Fprintf(b.app.Stdout, "%-22s %14s  %s%s\n", what, value, f.Conditions, spread)
}

// rate is a figure in jobs a second.
func rate(name string, jobs int, took time.Duration, each []time.Duration) figure {
	f := figure{Name: name, Value: round(float64(jobs) / took.Seconds()), Unit: "jobs/s", Jobs: jobs, Seconds: round(took.Seconds())}
	if len(each) > 0 {
		f.spread(each)
	}
	return f
}

// delay is a figure in milliseconds: the median.
func delay(name string, each []time.Duration) figure {
	var total time.Duration
	for _, d := range each {
		total += d
	}
	f := figure{Name: name, Value: round(quantile(each, 0.5)), Unit: "ms", Jobs: len(each), Seconds: round(total.Seconds())}
	f.spread(each)
	return f
}

func (f *figure) spread(each []time.Duration) {
	at := func(q float64) *float64 { v := round(quantile(each, q)); return &v }
	f.P50, f.P95, f.P99, f.Max = at(0.5), at(0.95), at(0.99), at(1)
}

func round(v float64) float64 { return math.Round(v*1000) / 1000 }

// quantile is in milliseconds. It sorts.
func quantile(each []time.Duration, q float64) float64 {
	if len(each) == 0 {
		return 0
	}
	slices.Sort(each)
	i := min(int(math.Ceil(q*float64(len(each)))), len(each)) - 1
	return float64(each[max(i, 0)]) / 1e6
}

// quietLog is for workers that are measured: what they have to say must not come between.
func (b *bench) quietLog() *slog.Logger { return b.app.logger("text", slog.LevelError) }
