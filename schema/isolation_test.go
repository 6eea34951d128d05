package schema_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/offstage-dev/offstage/internal/pgtest"
)

// TestIsolation: callers that add in REPEATABLE READ and SERIALIZABLE transactions, beside each other and beside a
// worker, are not turned away, unless they change the same existing jobs.
func TestIsolation(t *testing.T) {
	t.Parallel()
	for _, level := range []pgx.TxIsoLevel{pgx.RepeatableRead, pgx.Serializable} {
		t.Run(string(level), func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			conn := db.Conn(t)
			id, tasks := worker(t, conn, "a")
			other, shared := worker(t, conn, "shared")
			pgtest.Do(t, conn, "select offstage.add_job('a', queue_name => 'q', flags => '{f}')")

			callers, times := 4, 25
			var conns [16]*pgx.Conn // of the callers
			for i := range conns {
				conns[i] = db.Conn(t)
			}
			workerConn := db.Conn(t)
			// beside runs callers at once, each in transactions of its own, and counts those that were turned away.
			beside := func(what string, work bool, add func(ctx context.Context, tx pgx.Tx, caller, n int) error) (turned int32) {
				t.Helper()
				var all errgroup.Group
				var refused atomic.Int32
				for caller := range callers {
					conn := conns[caller]
					all.Go(func() error {
						for n := range times {
							err := pgx.BeginTxFunc(t.Context(), conn, pgx.TxOptions{IsoLevel: level}, func(tx pgx.Tx) error {
								if err := add(t.Context(), tx, caller, n); err != nil {
									return err
								}
								_, err := tx.Exec(t.Context(), "select pg_sleep(0.001)") // so that they overlap
								return err
							})
							switch code(err) {
							case "":
							case "40001":
								refused.Add(1)
							default:
								return fmt.Errorf("%s: %w", what, err)
							}
						}
						return nil
					})
				}
				done := make(chan struct{})
				var claims errgroup.Group
				if work {
					claims.Go(func() error {
						for {
							select {
							case <-done:
								return nil
							default:
							}
							_, err := workerConn.Exec(t.Context(), `
								with c as (select array_agg(claim) as claims, array_agg(job_id) as ids from offstage.claim($1, 10, $2) where kind = 'job')
								select count(s) from c, offstage.settle($1, c.claims, c.ids) s`, id, tasks)
							if err != nil {
								return err
							}
						}
					})
				}
				if err := all.Wait(); err != nil {
					t.Error(err)
				}
				close(done)
				if err := claims.Wait(); err != nil {
					t.Errorf("claim beside %s: %v", what, err)
				}
				t.Logf("%s: %d of %d turned away", what, refused.Load(), callers*times)
				return refused.Load()
			}

			never := func(what string, add func(ctx context.Context, tx pgx.Tx, caller, n int) error) {
				t.Helper()
				if n := beside(what, true, add); n > 0 {
					t.Errorf("%s: %d transactions were turned away", what, n)
				}
			}
			never("add_job", func(ctx context.Context, tx pgx.Tx, _, _ int) error {
				_, err := tx.Exec(ctx, "select offstage.add_job('a'), offstage.add_job('a', queue_name => 'q', flags => '{f}', run_at => now() + '1 h')")
				return err
			})
			never("add_jobs", func(ctx context.Context, tx pgx.Tx, _, _ int) error {
				_, err := tx.Exec(ctx, "select offstage.add_jobs(array(select row('a', null, 'q', null, null, null, null, '{f}')::offstage.job_spec from generate_series(1, 10)))")
				return err
			})
			never("add_job with new keys", func(ctx context.Context, tx pgx.Tx, caller, n int) error {
				_, err := tx.Exec(ctx, "select offstage.add_job('a', job_key => $1)", fmt.Sprint("new", caller, "/", n))
				return err
			})
			never("add_jobs with new keys", func(ctx context.Context, tx pgx.Tx, caller, n int) error {
				_, err := tx.Exec(ctx, "select offstage.add_jobs(array[row('a', null, null, null, null, $1, null, null)]::offstage.job_spec[])", fmt.Sprint("more", caller, "/", n))
				return err
			})

			// Jobs that are there, changed by callers with keys of their own: their places are found without an index, which
			// PostgreSQL would remember page by page.
			callers, times = len(conns), 30 // fewer meet too seldom
			for _, there := range []struct{ what, more string }{
				{"waiting jobs", "queue_name => null"},
				{"scheduled jobs", "run_at => now() + '1 day'"},
				{"jobs of a queue", "queue_name => 'q2'"},
				{"unsafe_dedupe", "job_key_mode => 'unsafe_dedupe'"},
			} {
				pgtest.Do(t, conn, "select offstage.add_job('a', job_key => 'k' || n, "+there.more+") from generate_series(0, 15) n")
				if n := beside(there.what, false, func(ctx context.Context, tx pgx.Tx, caller, _ int) error {
					_, err := tx.Exec(ctx, "select offstage.add_job('a', job_key => $1, "+there.more+")", fmt.Sprint("k", caller))
					return err
				}); n > 0 {
					t.Errorf("%s: %d transactions with keys of their own were turned away", there.what, n)
				}
			}
			changed := func(ctx context.Context, tx pgx.Tx, call string, id int64) error {
				var n int
				err := tx.QueryRow(ctx, "select count(*) from "+call, id).Scan(&n)
				if err == nil && n != 1 {
					err = fmt.Errorf("%d jobs changed", n)
				}
				return err
			}
			// Jobs that were added together, and share tickets, each changed by its id by one caller, who has its snapshot before others have changed
			// theirs, and before a worker has taken some.
			for _, change := range []string{
				"offstage.complete_jobs(array[$1::bigint])",
				"offstage.cancel_jobs(array[$1::bigint])",
				"offstage.delete_jobs(array[$1::bigint])",
				"offstage.permanently_fail_jobs(array[$1::bigint])",
				"offstage.reschedule_jobs(array[$1::bigint], run_at => now() + '1 day')",
			} {
				// In SERIALIZABLE an update is a write to what others have read, if the ids are in one page of the index: there PostgreSQL's own
				// updates by id of other rows are turned away, too.
				writes := level == pgx.Serializable && (strings.Contains(change, "fail") || strings.Contains(change, "reschedule"))
				callers, times = 8, 8
				ids := pgtest.List[int64](t, conn, "select unnest(offstage.add_many('shared', (select json_agg(n) from generate_series(1, $1) n)))", callers*times)
				if n := beside(change, false, func(ctx context.Context, tx pgx.Tx, caller, n int) error {
					return changed(ctx, tx, change, ids[n*callers+caller])
				}); n > 0 && !writes {
					t.Errorf("%s beside others: %d transactions were turned away", change, n)
				}

				pgtest.Do(t, conn, "select count(*) from offstage.delete_jobs(array(select id from offstage.jobs where task_identifier = 'shared'))")
				ids = pgtest.List[int64](t, conn, "select unnest(offstage.add_many('shared', (select json_agg(n) from generate_series(1, 32) n)))")
				tx, err := conns[0].BeginTx(t.Context(), pgx.TxOptions{IsoLevel: level})
				if err != nil {
					t.Fatal(err)
				}
				pgtest.Do(t, tx, "select 1 from offstage_private.task") // takes the snapshot
				pgtest.Do(t, conn, "select count(*) from offstage.complete_jobs($1)", ids[3:4])
				if took := pgtest.List[int64](t, conn, "select job_id from offstage.claim($1, 2, $2) where kind = 'job' order by 1", other, shared); !slices.Equal(took, ids[:2]) {
					t.Fatalf("the worker took %v of %v", took, ids)
				}
				if err := changed(t.Context(), tx, change, ids[5]); err != nil {
					t.Errorf("%s, after others have changed and taken others: %v", change, err)
				}
				if err := changed(t.Context(), tx, change, ids[1]); code(err) != "40001" {
					t.Errorf("%s, of a job that was taken meanwhile: %v", change, err)
				}
				if err := tx.Rollback(t.Context()); err != nil {
					t.Fatal(err)
				}
				checkWhole(t, conn)
				pgtest.Do(t, conn, "select count(*) from offstage.delete_jobs(array(select id from offstage.jobs where task_identifier = 'shared'))")
				pgtest.Do(t, conn, `select offstage.settle($1, array[l.claim + 1, l.claim + 2], l.job_ids) from offstage_private.lease l where worker_id = $1`, other)
			}
			// Here the worker changes the same jobs.
			beside("beside a worker", true, func(ctx context.Context, tx pgx.Tx, caller, _ int) error {
				_, err := tx.Exec(ctx, "select offstage.add_job('a', job_key => $1)", fmt.Sprint("k", caller))
				return err
			})
			callers, times = 4, 25
			beside("add_job with one key for all", false, func(ctx context.Context, tx pgx.Tx, _, _ int) error {
				_, err := tx.Exec(ctx, "select offstage.add_job('a', job_key => 'k0', run_at => now() + '1 day')")
				return err
			})
		})
	}
}
