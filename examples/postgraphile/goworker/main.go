// Command goworker performs the example's task sales_report, as tasks/sales_report.js does, in Go. One of the two is enough:
//
//	DATABASE_URL=… go run ./examples/postgraphile/goworker
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/offstage-dev/offstage/worker"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "goworker:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	pool, err := pgxpool.New(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		return err
	}
	defer pool.Close()
	w, err := worker.New(pool, worker.Config{Schema: "graphile_worker"})
	if err != nil {
		return err
	}
	worker.Handle(w, "sales_report", reports{pool}.fill)
	return w.Run(ctx)
}

// request is what the trigger in app.sql gives to add_job.
type request struct {
	ReportID int64 `json:"report_id"`
}

// sales is the result of a report.
type sales struct {
	Count int     `json:"count"`
	Total float64 `json:"total"`
	Best  *string `json:"best"`
}

type reports struct{ pool *pgxpool.Pool }

// fill writes the result into the report's row, and ends the job in the same transaction: the event goes out when it
// commits, so that there is no moment at which one is true and the other is not yet.
func (r reports) fill(ctx context.Context, job *worker.Job[request]) (result sales, err error) {
	err = pgx.BeginFunc(ctx, r.pool, func(tx pgx.Tx) error {
		err := tx.QueryRow(ctx, `
			select count(*), coalesce(sum(cents), 0) / 100.0, mode() within group (order by product)
			from app_private.sale where city = (select city from app_public.report where id = $1)`, job.Payload.ReportID,
		).Scan(&result.Count, &result.Total, &result.Best)
		if err != nil {
			return err
		}
		worker.Log(ctx).Info("counted", "sales", result.Count)
		if _, err := tx.Exec(ctx, `update app_public.report set result = $2, finished_at = now() where id = $1`,
			job.Payload.ReportID, result); err != nil {
			return err
		}
		return worker.Complete(ctx, tx, result)
	})
	return result, err
}
