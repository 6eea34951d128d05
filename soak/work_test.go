//go:build soak && unix

package soak_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/worker"
)

const (
	urlVariable    = "OFFSTAGE_SOAK_URL"
	forbidVariable = "OFFSTAGE_SOAK_FORBID"
	jobsOfWorker   = 10
)

// tasks are served by all workers; what a job does is in its payload.
var tasks = []string{"quick", "slow", "moody"}

type payload struct {
	Do           string `json:"do"`
	Milliseconds int    `json:"ms"`
}

// work is what the test binary does as a worker.
func work(url string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := runWorker(ctx, url); err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

func runWorker(ctx context.Context, url string) error {
	pool, err := open(ctx, url, nil)
	if err != nil {
		return err
	}
	defer pool.Close()
	// What handlers write down is only to survive the handlers.
	notes, err := open(ctx, url, map[string]string{"synchronous_commit": "off"})
	if err != nil {
		return err
	}
	defer notes.Close()
	cfg := worker.Config{Jobs: jobsOfWorker, Log: slog.New(slog.NewTextHandler(os.Stdout, nil))}
	if flag := os.Getenv(forbidVariable); flag != "" {
		cfg.ForbiddenFlags = []string{flag}
	}
	w, err := worker.New(pool, cfg)
	if err != nil {
		return err
	}
	h := handlers{pool: pool, notes: notes}
	for _, task := range tasks {
		worker.Handle(w, task, h.perform, worker.MaxAttempts(4), worker.Retry(worker.Fixed(400*time.Millisecond).Jitter(0.8)))
	}
	return w.Run(ctx)
}

func open(ctx context.Context, url string, params map[string]string) (*pgxpool.Pool, error) {
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	cfg.ConnConfig.RuntimeParams["search_path"] = ""
	for k, v := range params {
		cfg.ConnConfig.RuntimeParams[k] = v
	}
	cfg.MaxConns = jobsOfWorker
	return pgxpool.NewWithConfig(ctx, cfg)
}

type handlers struct{ pool, notes *pgxpool.Pool }

// perform does what the payload says, and notes start and end.
func (h *handlers) perform(ctx context.Context, job *worker.Job[payload]) (any, error) {
	run, err := h.begin(ctx, job)
	if err != nil {
		return nil, fmt.Errorf("note the start: %w", err)
	}
	ending := "panic"
	defer func() {
		if err := h.end(run, ending); err != nil {
			panic(fmt.Sprintf("note the end: %v", err))
		}
	}()
	if job.Payload.Milliseconds > 0 && !pause(ctx, time.Duration(job.Payload.Milliseconds)*time.Millisecond) {
		ending = context.Cause(ctx).Error()
		return nil, context.Cause(ctx)
	}
	result, err := h.act(ctx, job)
	ending = "ok"
	if err != nil {
		ending = err.Error()
	}
	return result, err
}

func (h *handlers) act(ctx context.Context, job *worker.Job[payload]) (any, error) {
	switch job.Payload.Do {
	case "error":
		if rand.IntN(2) == 0 {
			return nil, errors.New("bad luck")
		}
	case "snooze":
		if rand.IntN(3) > 0 {
			return nil, offstage.Snooze(time.Duration(rand.IntN(800)) * time.Millisecond)
		}
	case "cancel":
		return nil, offstage.Cancel(errors.New("not wanted"))
	case "fail":
		return nil, offstage.Fail(errors.New("hopeless"))
	case "panic":
		if job.Attempt == 1 {
			panic("on purpose")
		}
	case "progress":
		if err := worker.Progress(ctx, 50, "half"); err != nil {
			return nil, err
		}
	case "complete":
		return job.ID, pgx.BeginFunc(ctx, h.pool, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, `insert into app.effect values ($1)`, job.ID); err != nil {
				return err
			}
			return worker.Complete(ctx, tx, job.ID)
		})
	}
	return job.ID, nil
}

// begin notes that a job starts, and under which claim. Attempts begin before their claim is committed, when only their
// worker knows it: this waits until all can see it, or the attempt is over.
func (h *handlers) begin(ctx context.Context, job *worker.Job[payload]) (run int64, err error) {
	claim, _ := worker.ClaimOf(ctx)
	var queue *string
	if job.HasQueue {
		queue = &job.Queue
	}
	for {
		if cause := context.Cause(ctx); cause != nil {
			return 0, cause // it was over before it began, perhaps before its claim was committed: there is nothing to note
		}
		noting, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute) // also if it is told to stop meanwhile
		err := h.notes.QueryRow(noting, `
			insert into app.run (job_id, claim, pid, task, queue)
			select $1, $2, $3, $4, $5 where offstage_private.holds($6, $2, $1)
			returning id`, job.ID, claim.Number, os.Getpid(), job.Task, queue, claim.Worker).Scan(&run)
		cancel()
		if !errors.Is(err, pgx.ErrNoRows) {
			return run, err
		}
		pause(ctx, 5*time.Millisecond)
	}
}

func (h *handlers) end(run int64, ending string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	_, err := h.notes.Exec(ctx, `update app.run set ended_at = clock_timestamp(), ending = $2 where id = $1`, run, ending)
	return err
}
