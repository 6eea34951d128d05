//go:build unix

package e2e_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/worker"
)

const roleVariable = "OFFSTAGE_E2E_ROLE"

// role is what the test binary does when it is started as a worker.
type role struct {
	Database string // the worker's own, perhaps through a proxy
	App      string // straight to the database, for what handlers write down
	Log      string // the file that "log" writes to
	Jobs     int
	Poll     time.Duration
	Tasks    []string // nil: all
}

// perform is the worker process.
func perform(text string) int {
	var r role
	err := json.Unmarshal([]byte(text), &r)
	if err == nil {
		err = r.run()
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

func (r role) run() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	pool, err := connect(ctx, r.Database)
	if err != nil {
		return err
	}
	defer pool.Close()
	app, err := connect(ctx, r.App)
	if err != nil {
		return err
	}
	defer app.Close()
	log, err := os.OpenFile(r.Log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	w, err := worker.New(pool, worker.Config{Jobs: r.Jobs, PollInterval: r.Poll, Log: slog.New(slog.NewTextHandler(os.Stdout, nil))})
	if err != nil {
		return err
	}
	h := handlers{app: app, log: log}
	for _, name := range r.tasks() {
		h.register(w, name)
	}
	return w.Run(ctx)
}

func (r role) tasks() []string {
	if r.Tasks != nil {
		return r.Tasks
	}
	return []string{"log", "record", "hold", "crash"}
}

func connect(ctx context.Context, url string) (*pgxpool.Pool, error) {
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	cfg.ConnConfig.RuntimeParams["search_path"] = ""
	cfg.MaxConns = 6
	return pgxpool.NewWithConfig(ctx, cfg)
}

type handlers struct {
	app *pgxpool.Pool
	log *os.File
}

type payload struct {
	Milliseconds int `json:"ms"`
}

func (h *handlers) register(w *worker.Worker, name string) {
	kinds := map[string]func(context.Context, *worker.Job[payload]) (any, error){
		"log": h.logged, "record": h.record, "hold": h.hold, "crash": h.crash, "other": h.logged,
	}
	worker.Handle(w, name, kinds[name])
}

// logged writes its job's id into a file, which needs no database. Its result is the job's id.
func (h *handlers) logged(_ context.Context, job *worker.Job[payload]) (any, error) {
	_, err := fmt.Fprintf(h.log, "%d\n", job.ID)
	return job.ID, err
}

// record takes its time and writes down when it started and ended.
func (h *handlers) record(ctx context.Context, job *worker.Job[payload]) (any, error) {
	run, err := h.begin(job)
	if err != nil {
		return nil, err
	}
	timer := time.NewTimer(time.Duration(job.Payload.Milliseconds) * time.Millisecond)
	defer timer.Stop()
	select {
	case <-timer.C:
		return job.ID, h.end(run, "done")
	case <-ctx.Done():
		return nil, errors.Join(context.Cause(ctx), h.end(run, context.Cause(ctx).Error()))
	}
}

// hold goes on, at the first attempt, until its context ends, and then claims to have succeeded all the same.
func (h *handlers) hold(ctx context.Context, job *worker.Job[payload]) (any, error) {
	run, err := h.begin(job)
	if err != nil {
		return nil, err
	}
	if job.Attempt > 1 {
		return job.ID, h.end(run, "done")
	}
	<-ctx.Done()
	return "too late", h.end(run, context.Cause(ctx).Error())
}

// crash ends its own process.
func (h *handlers) crash(ctx context.Context, job *worker.Job[payload]) (any, error) {
	if _, err := h.begin(job); err != nil {
		return nil, err
	}
	if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
		return nil, offstage.Fail(err)
	}
	<-ctx.Done()
	return nil, ctx.Err()
}

// begin writes down that a job starts, and under which claim; null if that is gone already.
func (h *handlers) begin(job *worker.Job[payload]) (run int64, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	err = h.app.QueryRow(ctx, `
		insert into app.run (job_id, claim, pid, attempt, queue)
		values ($1, (select l.claim + array_position(l.job_ids, $1)
			from offstage_private.lease l join offstage_private.worker w on w.id = l.worker_id
			where w.pid = $2 and $1 = any (l.job_ids) order by l.claim desc limit 1), $2, $3, $4)
		returning id`, job.ID, os.Getpid(), job.Attempt, job.Queue).Scan(&run)
	return run, err
}

func (h *handlers) end(run int64, ending string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	_, err := h.app.Exec(ctx, `update app.run set ended_at = clock_timestamp(), ending = $2 where id = $1`, run, ending)
	return err
}
