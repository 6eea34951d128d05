package main

import (
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/internal/cli"
	"github.com/offstage-dev/offstage/internal/devpg"
	"github.com/offstage-dev/offstage/internal/runner/exec"
	"github.com/offstage-dev/offstage/internal/runner/node"
	"github.com/offstage-dev/offstage/internal/runner/tasks"
	"github.com/offstage-dev/offstage/schema"
	"github.com/offstage-dev/offstage/worker"
)

//go:embed tasks/*
var scripts embed.FS

// stage is what the jobs play on: a server, a schema, a worker.
type stage struct {
	url    string
	pool   *pgxpool.Pool
	client *offstage.Client
	bin    string // a directory with a link "offstage" to this program
	noNode error  // why the task in JavaScript is left out
	talk   *atomic.Bool
	crowd  atomic.Bool // two jobs of the serial queue were seen at the same time
	closed []func() error
}

// close takes everything down, in the reverse order.
func (s *stage) close() error {
	var all []error
	for i := len(s.closed) - 1; i >= 0; i-- {
		all = append(all, s.closed[i]())
	}
	s.closed = nil
	return errors.Join(all...)
}

func (s *stage) later(f func() error) { s.closed = append(s.closed, f) }

const database = "demo"

// open starts the server (a temporary one for a single run), installs the schema, and starts the worker.
func (s *stage) open(ctx context.Context, call cli.Main, once bool) error {
	dir := ""
	if !once {
		project, err := filepath.Abs(call.Project)
		if err != nil {
			return err
		}
		if dir, err = devpg.KeptDir(filepath.Join(project, "demo")); err != nil {
			return err
		}
	}
	url, stop, err := cli.StartPrivate(ctx, dir, database, call.Stderr)
	if err != nil {
		return err
	}
	s.url = url
	s.later(stop)
	if s.pool, err = pgxpool.New(ctx, url); err != nil {
		return err
	}
	s.later(func() error { s.pool.Close(); return nil })
	if err := s.pool.AcquireFunc(ctx, func(conn *pgxpool.Conn) error { return install(ctx, conn.Conn()) }); err != nil {
		return fmt.Errorf("install the schema: %w", err)
	}
	if s.client, err = offstage.New(s.pool, offstage.Config{}); err != nil {
		return err
	}
	s.later(func() error { s.client.Close(); return nil })

	files, err := os.MkdirTemp("", "offstage-demo-")
	if err != nil {
		return err
	}
	s.later(func() error { return os.RemoveAll(files) })
	s.bin = filepath.Join(files, "bin")
	program, err := os.Executable()
	if err == nil {
		err = os.Mkdir(s.bin, 0o755)
	}
	if err == nil {
		err = os.Symlink(program, filepath.Join(s.bin, "offstage"))
	}
	if err != nil {
		return err
	}
	return s.startWorker(ctx, call, filepath.Join(files, "tasks"))
}

// install makes the schema and the table with a trigger, anew.
func install(ctx context.Context, conn *pgx.Conn) error {
	_, err := conn.Exec(ctx, `drop schema if exists demo, offstage, offstage_private cascade`)
	if err == nil {
		_, err = schema.Migrate(ctx, conn, schema.Config{})
	}
	if err == nil {
		_, err = conn.Exec(ctx, signupSQL)
	}
	return err
}

// signupSQL is how a database adds jobs by itself: in the transaction of whoever inserts.
const signupSQL = `
create schema demo;
create table demo.signup (email text primary key);
create function demo.on_signup() returns trigger language plpgsql as $$
begin
  perform offstage.add_job('welcome', json_build_object('email', new.email));
  return null;
end $$;
create trigger on_signup after insert on demo.signup for each row execute function demo.on_signup()`

type person struct {
	Name string `json:"name"`
}

type greeting struct {
	Text string `json:"text"`
}

type mail struct {
	Email string `json:"email"`
}

type charge struct {
	Cents   int `json:"cents"`
	Attempt int `json:"attempt,omitempty"`
}

type number struct {
	Number int `json:"number"`
}

// startWorker registers the tasks in Go and those of the directory.
func (s *stage) startWorker(ctx context.Context, call cli.Main, dir string) error {
	if err := unpack(dir); err != nil {
		return err
	}
	found, err := tasks.Read(dir)
	if err != nil {
		return err
	}
	executables, err := exec.New(found, exec.Config{})
	if err != nil {
		return err
	}
	log, eachAttempt := call.JobLog()
	runners := []worker.Runner{executables}
	javascript, err := node.Start(ctx, found, node.Config{Processes: 1, Pool: s.pool, URL: s.url, Log: log})
	switch {
	case errors.Is(err, node.ErrNoNode):
		s.noNode = err
	case err != nil:
		return err
	default:
		s.later(func() error { javascript.Close(); return nil })
		runners = append(runners, javascript)
	}
	s.talk = new(atomic.Bool)
	w, err := worker.New(s.pool, worker.Config{
		Runners: runners,
		Log:     slog.New(gate{log.Handler(), s.talk}),
		Middleware: []func(worker.Handler) worker.Handler{func(next worker.Handler) worker.Handler {
			loud := eachAttempt(next)
			return func(ctx context.Context, job *offstage.Job) (json.RawMessage, error) {
				if s.talk.Load() {
					return loud(ctx, job)
				}
				return next(ctx, job)
			}
		}},
		StopGrace: 3 * time.Second,
	})
	if err != nil {
		return err
	}
	worker.Handle(w, "greet", func(_ context.Context, job *worker.Job[person]) (greeting, error) {
		return greeting{"Hello " + job.Payload.Name}, nil
	})
	worker.Handle(w, "welcome", func(_ context.Context, job *worker.Job[mail]) (mail, error) {
		return job.Payload, nil
	})
	worker.Handle(w, "charge_card", func(_ context.Context, job *worker.Job[charge]) (charge, error) {
		if job.Attempt < 3 {
			return charge{}, errors.New("the bank does not answer")
		}
		return charge{job.Payload.Cents, job.Attempt}, nil
	}, worker.Retry(worker.Fixed(retryAfter)))
	worker.Handle(w, "remind", func(_ context.Context, job *worker.Job[person]) (greeting, error) {
		return greeting{"It is time, " + job.Payload.Name}, nil
	})
	var busy atomic.Int32
	worker.Handle(w, "invoice", func(ctx context.Context, job *worker.Job[number]) (number, error) {
		if busy.Add(1) > 1 {
			s.crowd.Store(true)
		}
		defer busy.Add(-1)
		select { // as if it were work
		case <-time.After(invoiceTakes):
			return job.Payload, nil
		case <-ctx.Done():
			return number{}, context.Cause(ctx)
		}
	})

	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan struct{})
	var reason error // read after ended is closed
	go func() {
		defer close(ended)
		reason = w.Run(running)
	}()
	s.later(func() error { stop(); <-ended; return reason })

	// Ready is what the database says: the worker has registered. Its times are then those of a worker at work.
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for ready := false; !ready; {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ended:
			return reason
		case <-ticker.C:
		}
		if err := s.pool.QueryRow(ctx, `select exists (select from offstage.workers where state = 'alive')`).Scan(&ready); err != nil {
			return err
		}
	}
	return nil
}

// unpack writes the tasks of this program to a directory.
func unpack(dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	list, err := scripts.ReadDir("tasks")
	if err != nil {
		return err
	}
	for _, entry := range list {
		source, err := scripts.Open("tasks/" + entry.Name())
		if err != nil {
			return err
		}
		text, err := io.ReadAll(source)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, entry.Name()), text, 0o755)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// gate lets the log through once the story is told.
type gate struct {
	slog.Handler
	open *atomic.Bool
}

func (g gate) Handle(ctx context.Context, r slog.Record) error {
	if !g.open.Load() && r.Level < slog.LevelError {
		return nil
	}
	return g.Handler.Handle(ctx, r)
}

func (g gate) WithAttrs(attrs []slog.Attr) slog.Handler {
	return gate{g.Handler.WithAttrs(attrs), g.open}
}
func (g gate) WithGroup(name string) slog.Handler { return gate{g.Handler.WithGroup(name), g.open} }
