package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	riverqueue "github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

// river is River, the Go module. Every use of its API in this module is in this file.
type river struct{}

// The settings of its worker that are measured.
var (
	// riverDefault is that of its documentation; MaxWorkers is the only setting that has to be given.
	riverDefault = map[string]any{"max_workers": 100}
	// riverBest is what its best throughput was found with. A fetch takes as many jobs as there are free workers, at most one fetch
	// a cooldown: many workers make its batches large, and a cooldown of 1 ms, the least it takes, lets them follow each other.
	riverBest = map[string]any{"max_workers": 1000, "fetch_cooldown_ms": 1, "fetch_poll_ms": 10}
)

// riverCopies makes addMany use COPY.
var riverCopies = map[string]any{"copy": true}

// riverAt is riverBest with so many jobs at a time.
func riverAt(jobs int) map[string]any {
	return map[string]any{"max_workers": jobs, "fetch_cooldown_ms": 1, "fetch_poll_ms": 10}
}

func (*river) name() string   { return "river" }
func (*river) title() string  { return "river" }
func (*river) schema() string { return "" }
func (*river) idType() string { return "bigint" }
func (*river) unsettled() string {
	return "(select id from river_job where finalized_at is null) as job"
}

func (*river) about() string {
	return fmt.Sprintf("%s with riverpgxv5; a finished job's row stays, as it does by default", moduleVersion("github.com/riverqueue/river"))
}

func (*river) install(ctx context.Context, url string) error {
	pool, err := pgxpool.New(ctx, url)
	if err != nil {
		return err
	}
	defer pool.Close()
	migrator, err := rivermigrate.New(riverpgxv5.New(pool), &rivermigrate.Config{Logger: riverLogger()})
	if err != nil {
		return err
	}
	_, err = migrator.Migrate(ctx, rivermigrate.DirectionUp, nil)
	return err
}

func (r *river) command(config *agentConfig) *exec.Cmd {
	config.System = r.name()
	return selfCommand()
}

func (*river) fill(ctx context.Context, b *block, n, wait int) error {
	return fillByAgent(ctx, b, n, wait)
}

func (*river) adder(ctx context.Context, b *block, settings map[string]any) (addOne, error) {
	pool, err := pgxpool.New(ctx, b.url)
	if err != nil {
		return nil, err
	}
	b.atEnd(pool.Close)
	client, err := riverInserter(pool, settings)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, i int) (string, int64, error) {
		before := wall()
		added, err := client.Insert(ctx, riverArgs{payload{ID: i}}, nil)
		if err != nil {
			return "", 0, err
		}
		return strconv.FormatInt(added.Job.ID, 10), before, nil
	}, nil
}

// riverArgs are the arguments of a job of the task.
type riverArgs struct{ payload }

func (riverArgs) Kind() string { return task }

// riverLogger keeps standard output, to which it logs by default, for the protocol.
func riverLogger() *slog.Logger {
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
}

// riverSettings are what is set of a client's configuration; 0 is its default.
type riverSettings struct {
	MaxWorkers      int  `json:"max_workers"`
	FetchCooldownMs int  `json:"fetch_cooldown_ms"`
	FetchPollMs     int  `json:"fetch_poll_ms"`
	Copy            bool `json:"copy"` // not of the client: addMany uses COPY
}

func riverRead(settings map[string]any) (s riverSettings, err error) {
	text, err := json.Marshal(settings)
	if err != nil {
		return s, err
	}
	return s, json.Unmarshal(text, &s)
}

func (s riverSettings) config() *riverqueue.Config {
	return &riverqueue.Config{
		Logger:            riverLogger(),
		FetchCooldown:     time.Duration(s.FetchCooldownMs) * time.Millisecond,
		FetchPollInterval: time.Duration(s.FetchPollMs) * time.Millisecond,
	}
}

// riverInserter is a client that only adds. It sends at most one notification a cooldown, so that the cooldown has to be that
// of the worker for jobs that come soon after each other to be noticed.
func riverInserter(pool *pgxpool.Pool, settings map[string]any) (*riverqueue.Client[pgx.Tx], error) {
	s, err := riverRead(settings)
	if err != nil {
		return nil, err
	}
	return riverqueue.NewClient(riverpgxv5.New(pool), s.config())
}

type riverLibrary struct{}

func (riverLibrary) worker(c *child, handled func(id int64, p payload)) (func(ctx context.Context) error, error) {
	settings, err := riverRead(c.config.Settings)
	if err != nil {
		return nil, err
	}
	workers := riverqueue.NewWorkers()
	riverqueue.AddWorker(workers, riverqueue.WorkFunc(func(_ context.Context, job *riverqueue.Job[riverArgs]) error {
		handled(job.ID, job.Args.payload)
		return nil
	}))
	config := settings.config()
	config.Workers = workers
	config.Queues = map[string]riverqueue.QueueConfig{riverqueue.QueueDefault: {MaxWorkers: settings.MaxWorkers}}
	client, err := riverqueue.NewClient(riverpgxv5.New(c.pool), config)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) error {
		// Not ctx: its end would cancel the jobs.
		if err := client.Start(context.WithoutCancel(ctx)); err != nil {
			return err
		}
		<-ctx.Done()
		return client.Stop(context.WithoutCancel(ctx))
	}, nil
}

func (riverLibrary) adder(c *child) (adder, error) {
	settings, err := riverRead(c.config.Settings)
	if err != nil {
		return nil, err
	}
	client, err := riverInserter(c.pool, c.config.Settings)
	return &riverAdder{c, client, settings.Copy}, err
}

type riverAdder struct {
	child  *child
	client *riverqueue.Client[pgx.Tx]
	copies bool
}

func (a *riverAdder) add(ctx context.Context, id int) error {
	_, err := a.client.Insert(ctx, riverArgs{a.child.payload(id)}, nil)
	return err
}

func (a *riverAdder) addMany(ctx context.Context, from, to int) error {
	many := make([]riverqueue.InsertManyParams, 0, to-from+1)
	for id := from; id <= to; id++ {
		many = append(many, riverqueue.InsertManyParams{Args: riverArgs{a.child.payload(id)}})
	}
	if a.copies {
		_, err := a.client.InsertManyFast(ctx, many)
		return err
	}
	_, err := a.client.InsertMany(ctx, many)
	return err
}
