// Package worker runs jobs: it claims them, performs their attempts, and settles them. A Worker is embedded in the
// program that has the handlers; several in one process, and many processes, share the work.
package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/offstage-dev/offstage/internal/maintain"
	"github.com/offstage-dev/offstage/internal/store"
	"github.com/offstage-dev/offstage/internal/wake"
	"github.com/offstage-dev/offstage/schema"
)

// Worker claims and performs jobs. Make it with New, give it handlers with Handle, then Run it, once.
type Worker struct {
	cfg     Config
	store   *store.Store
	connect func(context.Context) (*pgx.Conn, error)
	tasks   map[string]task
	order   []string // names, in the order of registration
	running atomic.Bool
	stopped atomic.Bool             // Run has returned
	session atomic.Pointer[session] // nil while there is none

	ticker     *maintain.Ticker
	kickChores atomic.Pointer[func()] // the session's, while there is one
}

type task struct {
	handler  Handler
	settings json.RawMessage
}

// New validates the config and starts nothing. The worker opens sessions of its own with the pool's configuration: four,
// one more under load, one more while its attempts log or report progress, and now and then one that looks after indexes. The
// pool itself is for your handlers.
func New(pool *pgxpool.Pool, cfg Config) (*Worker, error) {
	if pool == nil {
		return nil, errors.New("worker: the pool is nil")
	}
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	w := &Worker{cfg: cfg, store: store.New(cfg.Schema), tasks: map[string]task{}, ticker: maintain.NewTicker(cfg.Log)}
	if err := w.SetSchedules(cfg.Schedules); err != nil {
		return nil, err
	}
	plain := wake.Connector(pool)
	w.connect = func(ctx context.Context) (*pgx.Conn, error) {
		conn, err := plain(ctx)
		if err != nil {
			return nil, err
		}
		if err := store.Prepare(ctx, conn); err != nil {
			wake.Close(conn)
			return nil, err
		}
		return conn, nil
	}
	for _, r := range cfg.Runners {
		for _, name := range r.Tasks() {
			if _, twice := w.tasks[name]; twice {
				return nil, fmt.Errorf("worker: two runners have the task %q", name)
			}
			w.register(name, r.Run, nil)
		}
	}
	return w, nil
}

// Tasks are the names this worker serves, in the order in which they were registered.
func (w *Worker) Tasks() []string { return append([]string(nil), w.order...) }

func (w *Worker) register(name string, handler Handler, options []Option) {
	if w.running.Load() {
		panic("worker: task " + name + " is registered after Run")
	}
	if _, twice := w.tasks[name]; twice {
		panic("worker: task " + name + " has a handler already")
	}
	if n := len([]rune(name)); n > 128 {
		panic(fmt.Sprintf("worker: the name of task %.20s… has %d characters, at most 128 are allowed", name, n))
	}
	settings := map[string]any{}
	for _, o := range options {
		o(settings)
	}
	b, err := json.Marshal(settings)
	if err != nil {
		panic("worker: settings of task " + name + ": " + err.Error())
	}
	for i := len(w.cfg.Middleware) - 1; i >= 0; i-- {
		handler = w.cfg.Middleware[i](handler)
	}
	w.tasks[name] = task{handler, b}
	w.order = append(w.order, name)
}

// Run works until ctx ends, or drain_worker tells it to stop, then stops gracefully and returns nil: it claims nothing more, gives back what it has
// claimed but not started, lets running attempts finish for StopGrace, writes all results, and only then returns.
// It returns an error when it cannot start (no database, no schema, no task), and when a newer program has migrated
// the database (schema.ErrNewer). A lost database is waited for.
func (w *Worker) Run(ctx context.Context) error { return w.run(ctx, false) }

// RunOnce works until there is no job left that can run now, and returns nil. Jobs that failed and wait for their
// next attempt are left.
func (w *Worker) RunOnce(ctx context.Context) error { return w.run(ctx, true) }

func (w *Worker) run(ctx context.Context, once bool) error {
	if !w.running.CompareAndSwap(false, true) {
		return errors.New("worker: Run was called before; make a new worker")
	}
	defer w.stopped.Store(true)
	if len(w.tasks) == 0 {
		return errors.New("worker: no tasks; register at least one with worker.Handle, or give a runner that has some")
	}
	conn, err := w.connect(ctx)
	if err != nil {
		return fmt.Errorf("worker: connect: %w", err)
	}
	if err = schema.Check(ctx, conn, w.cfg.Schema); err != nil {
		wake.Close(conn)
		return fmt.Errorf("worker: %w", err)
	}
	wanted := store.WantWork
	for failures := 0; ; failures++ {
		s, err := w.open(ctx, conn, wanted)
		conn = nil // the session's, or closed
		if err == nil {
			failures = 0
			w.session.Store(s)
			err = s.run(ctx, once)
			w.session.Store(nil)
			if !errors.Is(err, errDeclaredDead) {
				return err
			}
			if wanted = s.wanted; wanted == store.WantStop {
				return nil
			}
			w.cfg.Log.Warn("worker: was declared dead, its jobs are others' now; starts anew", "worker", s.id)
		} else if isData(err) {
			return fmt.Errorf("worker: register: the database refuses the settings of a task: %w", err)
		} else if ctx.Err() == nil {
			w.cfg.Log.Warn("worker: cannot register, will try again", "error", err)
			if w.cfg.Observer != nil {
				w.cfg.Observer.Failed(err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wake.Backoff(failures + 1)):
		}
	}
}
