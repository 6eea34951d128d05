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
func (*ours) schema() string { return schema.Default }
func (*ours) jobs() string   { return schema.Default + "_private.job" }

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
	config.System = "offstage"
	config.JavaScript, config.Slots = o.javascript, o.slots
	config.Schema = o.schema()
	return selfCommand()
}

// keepNothing configures the task so that no history is kept; the peer keeps none.
func keepNothing(ctx context.Context, b *block) error {
	if _, ok := b.system.(*ours); !ok {
		return nil
	}
	_, err := b.conn.Exec(ctx, `select offstage.configure_task($1, '{"keep": "none"}')`, task)
	return err
}

// quiet lets a worker say only what went wrong.
func quiet() {
	slog.SetDefault(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})))
}

// newPlain is a worker that knows no task yet.
func newPlain(c *child) (*working, *worker.Worker, error) {
	quiet()
	w, err := worker.New(c.pool, worker.Config{Jobs: c.config.Slots})
	if err != nil {
		return nil, nil, err
	}
	return &working{child: c, run: w.Run}, w, nil
}

// newWorking is a worker with nothing tuned, unless --slots was given.
func newWorking(c *child) (role, error) {
	if c.config.JavaScript {
		quiet()
		return newScripted(c)
	}
	counting, w, err := newPlain(c)
	if err != nil {
		return nil, err
	}
	worker.Handle(w, c.config.Task, func(_ context.Context, job *worker.Job[payload]) (struct{}, error) {
		counting.handled(job.ID)
		return struct{}{}, nil
	})
	return counting, nil
}

var errUgly = errors.New("this one fails")

// newUgly is such a worker, of whose jobs some fail at first, and which says how long they waited. Another task of it does nothing.
func newUgly(c *child) (role, error) {
	counting, w, err := newPlain(c)
	if err != nil {
		return nil, err
	}
	worker.Handle(w, c.config.Task, func(_ context.Context, job *worker.Job[stamped]) (struct{}, error) {
		if c.config.Fail > 0 && job.Attempt == 1 && job.Payload.ID%c.config.Fail == 0 {
			return struct{}{}, errUgly
		}
		counting.handledStamped(job.ID, job.Payload.At)
		return struct{}{}, nil
	})
	if c.config.Also != "" {
		worker.Handle(w, c.config.Also, func(context.Context, *worker.Job[payload]) (struct{}, error) { return struct{}{}, nil })
	}
	return counting, nil
}

// newBeside is a worker of another task. A holder keeps each of its jobs until it is told to stop.
func newBeside(c *child) (role, error) {
	counting, w, err := newPlain(c)
	if err != nil {
		return nil, err
	}
	stopped := make(chan struct{})
	counting.run = func(ctx context.Context) error {
		defer context.AfterFunc(ctx, func() { close(stopped) })()
		return w.Run(ctx)
	}
	worker.Handle(w, c.config.Also, func(_ context.Context, job *worker.Job[payload]) (struct{}, error) {
		counting.handled(job.ID)
		if c.config.Role == "holder" {
			<-stopped
		}
		return struct{}{}, nil
	})
	return counting, nil
}

// newScripted is such a worker for a task in JavaScript that does nothing. A job counts when the worker has heard that it is
// done, which in latency is half a round trip to Node too late.
func newScripted(c *child) (role, error) {
	dir, err := os.MkdirTemp("", "offstage-bench-")
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, c.config.Task+".js"), []byte("module.exports = (payload, helpers) => {}\n"), 0o600); err != nil {
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
	counting := &working{child: c}
	w, err := worker.New(c.pool, worker.Config{Jobs: c.config.Slots, Runners: []worker.Runner{runner}, Middleware: []func(worker.Handler) worker.Handler{
		func(next worker.Handler) worker.Handler {
			return func(ctx context.Context, job *offstage.Job) (json.RawMessage, error) {
				result, err := next(ctx, job)
				counting.handled(job.ID)
				return result, err
			}
		},
	}})
	if err != nil {
		return nil, err
	}
	counting.run = func(ctx context.Context) error {
		defer os.RemoveAll(dir)
		defer runner.Close()
		return w.Run(ctx)
	}
	return counting, nil
}

func ourSingle(c *child) (func(context.Context, *child) (int, error), error) {
	client, err := offstage.New(c.pool, offstage.Config{})
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, c *child) (int, error) {
		return inParallel(ctx, c, func(ctx context.Context, id int) error {
			_, err := client.Add(ctx, c.config.Task, payload{id})
			return err
		})
	}, nil
}

func ourBulk(c *child) (func(context.Context, *child) (int, error), error) {
	client, err := offstage.New(c.pool, offstage.Config{})
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, c *child) (int, error) {
		return inChunks(ctx, c, func(ctx context.Context, from, to int) error {
			specs := make([]offstage.Spec, 0, to-from+1)
			for id := from; id <= to; id++ {
				specs = append(specs, offstage.Spec{Task: c.config.Task, Payload: c.payload(id)})
			}
			_, err := client.AddMany(ctx, specs)
			return err
		})
	}, nil
}
