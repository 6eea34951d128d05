//go:build soak && unix

package soak_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// meddler does to jobs what people and programs do: removes, cancels, reschedules, retries them, pauses queues and changes their concurrency, changes what is set on tasks, and takes workers for dead.
type meddler struct {
	s   *soak
	rng *rand.Rand
}

func (m *meddler) run(ctx context.Context) {
	for pause(ctx, between(m.rng, 20*time.Millisecond, 150*time.Millisecond)) {
		what, sql, args := m.deed(ctx)
		if sql == "" {
			continue
		}
		opts, hold, rollback := options(m.rng), m.rng.IntN(20) == 0, m.rng.IntN(20) == 0
		err := pgx.BeginTxFunc(ctx, m.s.pool, opts, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, sql, args...); err != nil {
				return err
			}
			if hold {
				pause(ctx, between(m.rng, 0, time.Second))
			}
			if rollback {
				return errRollback
			}
			return nil
		})
		var pg *pgconn.PgError
		if errors.As(err, &pg) && pg.Code == "40001" && opts.IsoLevel != pgx.ReadCommitted {
			m.s.serialization.Add(1)
			continue
		}
		if err != nil && !errors.Is(err, errRollback) && ctx.Err() == nil {
			m.s.complain("%s: %v", what, describe(err))
			continue
		}
		m.s.meddled.Add(1)
		if what == "pause" {
			pause(ctx, between(m.rng, 0, time.Second))
			m.s.exec(`select offstage.resume_queue($1)`, args...)
		}
	}
}

func (m *meddler) deed(ctx context.Context) (what, sql string, args []any) {
	switch n := m.rng.IntN(100); {
	case n < 20:
		return "remove_job", `select offstage.remove_job($1)`, []any{fmt.Sprintf("key-%02d", m.rng.IntN(keys))}
	case n < 25:
		// Short: until it is committed, nobody can settle a job of the queue.
		queue := serialQueue(m.rng.IntN(serialQueues))
		m.s.exec(`select offstage.pause_queue($1)`, queue)
		return "pause", `select 1 where $1::text is not null`, []any{queue}
	case n < 30:
		return "configure_queue", `select offstage.configure_queue($1, $2)`, []any{wideQueue(m.rng.IntN(wideQueues)), 1 + m.rng.IntN(wideConcurrency)}
	case n < 35:
		return "configure_task", `select offstage.configure_task($1, json_build_object('max_attempts', $2::integer, 'retry', json_build_object('policy', 'fixed', 'delay', $3 * interval '1 ms')))`,
			[]any{pick(m.rng, tasks), 20 + m.rng.IntN(10), 1 + m.rng.IntN(3000)}
	case n < 45:
		ids := m.some(ctx, "where failed and id >= $1")
		if len(ids) > 0 {
			return "retry_jobs", `select offstage.retry_jobs($1)`, []any{ids}
		}
	case n < 46 && m.rng.IntN(3) == 0:
		// One that lives, too: what it still does is refused, and it begins anew.
		return "force_unlock_workers", `select offstage.force_unlock_workers(array(
			select 'worker-' || w.id from offstage_private.worker w where w.dead_at is null and w.id % 5 <> $1 order by w.id desc limit 1))`, []any{m.rng.IntN(5)}
	}
	ids := m.some(ctx, "where id >= $1")
	if len(ids) == 0 {
		return "", "", nil
	}
	switch m.rng.IntN(10) {
	case 0:
		return "delete_jobs", `select offstage.delete_jobs($1)`, []any{ids}
	case 1:
		return "complete_jobs", `select offstage.complete_jobs($1)`, []any{ids}
	case 2:
		return "permanently_fail_jobs", `select offstage.permanently_fail_jobs($1, 'by hand')`, []any{ids}
	case 3:
		return "retry_jobs", `select offstage.retry_jobs($1)`, []any{ids}
	case 4, 5, 6:
		return "cancel_jobs", `select offstage.cancel_jobs($1, 'by hand')`, []any{ids}
	}
	return "reschedule_jobs", `select offstage.reschedule_jobs($1, run_at => now() + $2 * interval '1 ms', priority => $3, attempts => $4)`,
		[]any{ids, m.rng.IntN(6000) - 1000, m.rng.IntN(5) - 2, pick(m.rng, []any{nil, nil, 0, 1})}
}

// some are a few jobs that have not ended.
func (m *meddler) some(ctx context.Context, where string) (ids []int64) {
	err := m.s.pool.QueryRow(ctx, `
		select array(select id from offstage_private.job `+where+` order by id limit $2) from
			(select 1) x`, m.from(ctx), 1+m.rng.IntN(6)).Scan(&ids)
	if err != nil && ctx.Err() == nil {
		m.s.complain("look for jobs: %v", err)
	}
	return ids
}

// from is the id of any job.
func (m *meddler) from(ctx context.Context) (id int64) {
	var low, high int64
	err := m.s.pool.QueryRow(ctx, `select coalesce(min(id), 0), coalesce(max(id), 0) from offstage_private.job`).Scan(&low, &high)
	if err != nil && ctx.Err() == nil {
		m.s.complain("look for jobs: %v", err)
	}
	if m.rng.IntN(2) == 0 { // the newest are where things happen
		low = max(low, high-200)
	}
	return low + m.rng.Int64N(high-low+1)
}
