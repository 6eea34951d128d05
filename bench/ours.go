package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/internal/runner/node"
	"github.com/offstage-dev/offstage/internal/runner/tasks"
	"github.com/offstage-dev/offstage/schema"
	"github.com/offstage-dev/offstage/worker"
)

// ours is Offstage. Every use of its public API in this module is in this file.
type ours struct {
	javascript bool // the worker's task is one in JavaScript
	slots      int  // how many jobs the worker runs at a time; 0: the default
}

func (o *ours) title() string {
	var how []string
	if o.javascript {
		how = append(how, "JavaScript")
	}
	if o.slots > 0 {
		how = append(how, fmt.Sprintf("%d at a time", o.slots))
	}
	if how == nil {
		return "offstage"
	}
	return "offstage (" + strings.Join(how, ", ") + ")"
}

func (*ours) name() string      { return "offstage" }
func (*ours) schema() string    { return schema.Default }
func (*ours) unsettled() string { return schema.Default + "_private.job" }
func (*ours) idType() string    { return "bigint" }

func (*ours) about() string {
	return fmt.Sprintf("%s, %s, pgx %s; worker: one process, all settings at their defaults", revision(context.Background()), runtime.Version(), moduleVersion("github.com/jackc/pgx/v5"))
}

func (*ours) fill(ctx context.Context, b *block, n, wait int) error {
	return fillBySQL(ctx, b, n, wait)
}
func (*ours) adder(_ context.Context, b *block, _ map[string]any) (addOne, error) {
	return addBySQL(b), nil
}

func (*ours) install(ctx context.Context, url string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	_, err = schema.Migrate(ctx, conn, schema.Config{})
	return err
}

func (o *ours) command(config *agentConfig) *exec.Cmd {
	config.System = o.name()
	config.JavaScript, config.Slots = o.javascript, o.slots
	config.Schema = o.schema()
	return selfCommand()
}

// keepNothing configures the task so that no history is kept; the peer keeps none.
func keepNothing(ctx context.Context, b *block) error {
	if !b.ours() {
		return nil
	}
	_, err := b.conn.Exec(ctx, `select offstage.configure_task($1, '{"keep": "none"}')`, task)
	return err
}

func (b *block) ours() bool {
	_, is := b.system.(*ours)
	return is
}

// quiet lets a worker say only what went wrong.
func quiet() {
	slog.SetDefault(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})))
}

// plainWorker knows no task yet.
func plainWorker(c *child) (*worker.Worker, error) {
	quiet()
	return worker.New(c.pool, worker.Config{Jobs: c.config.Slots})
}

// offstageLibrary is Offstage with nothing tuned, unless slots are given.
type offstageLibrary struct{}

func (offstageLibrary) worker(c *child, handled func(id int64, p payload)) (func(ctx context.Context) error, error) {
	if c.config.JavaScript {
		quiet()
		return scripted(c, handled)
	}
	w, err := plainWorker(c)
	if err != nil {
		return nil, err
	}
	worker.Handle(w, c.config.Task, func(_ context.Context, job *worker.Job[payload]) (struct{}, error) {
		handled(job.ID, job.Payload)
		return struct{}{}, nil
	})
	return w.Run, nil
}

var errUgly = errors.New("this one fails")

// uglyWorker is one of whose jobs some fail at first, or whose payloads are not decoded, or that has many tasks. Another task of it does nothing.
func uglyWorker(c *child, handled func(id int64, p payload)) (func(ctx context.Context) error, error) {
	w, err := plainWorker(c)
	if err != nil {
		return nil, err
	}
	if c.config.Raw {
		worker.Handle(w, c.config.Task, func(_ context.Context, job *worker.Job[json.RawMessage]) (struct{}, error) {
			handled(job.ID, payload{})
			return struct{}{}, nil
		})
		return w.Run, nil
	}
	names := []string{c.config.Task}
	if c.config.Many > 0 {
		names = nil
		for i := range c.config.Many {
			names = append(names, fmt.Sprint(c.config.Task, " ", i))
		}
	}
	for _, name := range names {
		worker.Handle(w, name, func(_ context.Context, job *worker.Job[payload]) (struct{}, error) {
			if c.config.Fail > 0 && job.Attempt == 1 && job.Payload.ID%c.config.Fail == 0 {
				return struct{}{}, errUgly
			}
			handled(job.ID, job.Payload)
			return struct{}{}, nil
		})
	}
	if c.config.Also != "" {
		worker.Handle(w, c.config.Also, func(context.Context, *worker.Job[payload]) (struct{}, error) { return struct{}{}, nil })
	}
	return w.Run, nil
}

// besideWorker is one of another task. A holder keeps each of its jobs until it is told to stop.
func besideWorker(c *child, handled func(id int64, p payload)) (func(ctx context.Context) error, error) {
	w, err := plainWorker(c)
	if err != nil {
		return nil, err
	}
	stopped := make(chan struct{})
	worker.Handle(w, c.config.Also, func(_ context.Context, job *worker.Job[payload]) (struct{}, error) {
		handled(job.ID, job.Payload)
		if c.config.Role == "holder" {
			<-stopped
		}
		return struct{}{}, nil
	})
	return func(ctx context.Context) error {
		defer context.AfterFunc(ctx, func() { close(stopped) })()
		return w.Run(ctx)
	}, nil
}

// scripted is a worker for a task in JavaScript that does nothing, or waits. A job counts when the worker has heard that it is
// done, which in latency is half a round trip to Node too late.
func scripted(c *child, handled func(id int64, p payload)) (func(ctx context.Context) error, error) {
	dir, err := os.MkdirTemp("", "offstage-bench-")
	if err != nil {
		return nil, err
	}
	script := "module.exports = ({ wait }) => { if (wait) return new Promise((resolve) => setTimeout(resolve, wait)) }\n"
	if err := os.WriteFile(filepath.Join(dir, c.config.Task+".js"), []byte(script), 0o600); err != nil {
		return nil, err
	}
	found, err := tasks.Read(dir)
	if err != nil {
		return nil, err
	}
	runner, err := node.Start(context.Background(), found, node.Config{Pool: c.pool, Jobs: cmp.Or(c.config.Slots, 10)})
	if err != nil {
		return nil, err
	}
	w, err := worker.New(c.pool, worker.Config{Jobs: c.config.Slots, Runners: []worker.Runner{runner}, Middleware: []func(worker.Handler) worker.Handler{
		func(next worker.Handler) worker.Handler {
			return func(ctx context.Context, job *offstage.Job) (json.RawMessage, error) {
				result, err := next(ctx, job)
				handled(job.ID, payload{})
				return result, err
			}
		},
	}})
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) error {
		defer os.RemoveAll(dir)
		defer runner.Close()
		return w.Run(ctx)
	}, nil
}

func (offstageLibrary) adder(c *child) (adder, error) {
	client, err := offstage.New(c.pool, offstage.Config{})
	if err != nil {
		return nil, err
	}
	return &offstageAdder{c, client}, nil
}

type offstageAdder struct {
	child  *child
	client *offstage.Client
}

func (a *offstageAdder) add(ctx context.Context, id int) error {
	_, err := a.client.Add(ctx, a.child.config.Task, a.child.payload(id))
	return err
}

func (a *offstageAdder) addMany(ctx context.Context, from, to int) error {
	specs := make([]offstage.Spec, 0, to-from+1)
	for id := from; id <= to; id++ {
		specs = append(specs, offstage.Spec{Task: a.child.config.Task, Payload: a.child.payload(id)})
	}
	_, err := a.client.AddMany(ctx, specs)
	return err
}
