package schema_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"github.com/offstage-dev/offstage/internal/pgtest"
)

// turnedAway lets each of these connections do transactions, all of them at once, and counts those that ended with 40001.
func turnedAway(t *testing.T, conns []*pgx.Conn, level pgx.TxIsoLevel, times int, do func(ctx context.Context, tx pgx.Tx, caller, n int) error) (int, error) {
	var all errgroup.Group
	var refused atomic.Int32
	for caller, conn := range conns {
		all.Go(func() error {
			for n := range times {
				err := pgx.BeginTxFunc(t.Context(), conn, pgx.TxOptions{IsoLevel: level}, func(tx pgx.Tx) error {
					if err := do(t.Context(), tx, caller, n); err != nil {
						return err
					}
					_, err := tx.Exec(t.Context(), "select pg_sleep(0.001)") // so that they overlap
					return err
				})
				if code(err) == "40001" {
					refused.Add(1)
				} else if err != nil {
					return err
				}
			}
			return nil
		})
	}
	err := all.Wait()
	return int(refused.Load()), err
}

// isolated is a database of its own: a connection to prepare it, and those of callers.
func isolated(t *testing.T, callers int) (*pgx.Conn, []*pgx.Conn) {
	db := pgtest.New(t)
	conns := make([]*pgx.Conn, callers)
	for i := range conns {
		conns[i] = db.Conn(t)
	}
	return db.Conn(t), conns
}

// TestIsolation: callers that add in REPEATABLE READ and SERIALIZABLE transactions, beside each other and beside a
// worker, are not turned away, unless they change the same existing jobs.
func TestIsolation(t *testing.T) {
	t.Parallel()
	for _, level := range []pgx.TxIsoLevel{pgx.RepeatableRead, pgx.Serializable} {
		t.Run(string(level), func(t *testing.T) {
			t.Parallel()
			conn, conns := isolated(t, 17)
			workerConn, conns := conns[0], conns[1:]
			id, tasks := worker(t, conn, "a")
			other, shared := worker(t, conn, "shared")
			pgtest.Do(t, conn, "select offstage.add_job('a', queue_name => 'q', flags => '{f}')")

			callers, times := 4, 25
			// beside runs callers at once, each in transactions of its own, and counts those that were turned away.
			beside := func(what string, work bool, add func(ctx context.Context, tx pgx.Tx, caller, n int) error) int {
				t.Helper()
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
				refused, err := turnedAway(t, conns[:callers], level, times, add)
				if err != nil {
					t.Errorf("%s: %v", what, err)
				}
				close(done)
				if err := claims.Wait(); err != nil {
					t.Errorf("claim beside %s: %v", what, err)
				}
				t.Logf("%s: %d of %d turned away", what, refused, callers*times)
				return refused
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
			pgtest.Do(t, conn, "select offstage.configure_task('t' || n, '{}') from generate_series(0, 15) n")
			if n := beside("configure_task", false, func(ctx context.Context, tx pgx.Tx, caller, n int) error {
				_, err := tx.Exec(ctx, "select offstage.configure_task('t' || $1::integer, json_build_object('keep', $2::text))", caller, []string{"all", "none", "failures"}[n%3])
				return err
			}); n > 0 {
				t.Errorf("%d transactions with tasks of their own were turned away", n)
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
				callers, times = 8, 8
				ids := pgtest.List[int64](t, conn, "select unnest(offstage.add_many('shared', (select json_agg(n) from generate_series(1, $1) n)))", callers*times)
				if n := beside(change, false, func(ctx context.Context, tx pgx.Tx, caller, n int) error {
					return changed(ctx, tx, change, ids[n*callers+caller])
				}); n > 0 {
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

// remembers: whether this server remembers the row that an INSERT ... ON CONFLICT of a SERIALIZABLE caller has found, as PostgreSQL does since 15.20, of November 2026. Asked of the server,
// because there is no setting. What such a caller does not get there: see ADR 18.
func remembers(t *testing.T, conn *pgx.Conn) bool {
	t.Helper()
	pgtest.Do(t, conn, "create table public.found (id integer primary key)")
	pgtest.Do(t, conn, "insert into public.found values (1)")
	tx, err := conn.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: pgx.Serializable})
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.WithoutCancel(t.Context()))
	pgtest.Do(t, tx, "insert into public.found values (1) on conflict do nothing")
	return pgtest.One[bool](t, tx, "select exists (select from pg_locks where mode = 'SIReadLock' and relation = 'public.found'::regclass and pid = pg_backend_pid())")
}

// TestIsolationByID: callers that change different jobs, several at a time, by id or key, and add others in the same transaction, do not turn each other away,
// though the jobs are next to each other in every table and index.
func TestIsolationByID(t *testing.T) {
	t.Parallel()
	const callers, times, each = 8, 2, 3
	for _, level := range []pgx.TxIsoLevel{pgx.RepeatableRead, pgx.Serializable} {
		t.Run(string(level), func(t *testing.T) {
			t.Parallel()
			conn, conns := isolated(t, callers)
			remembering := level == pgx.Serializable && remembers(t, conn)
			id, tasks := worker(t, conn, "a")
			pgtest.Do(t, conn, "select offstage.configure_queue('q', 1)")

			kinds := map[string]string{ // jobs as they are added: n is 1 to $1
				"shared":    "select unnest(offstage.add_many('a', (select json_agg(n) from generate_series(1, $1::integer) n)))",
				"apart":     "select (select id from offstage.add_job('a', to_json(n))) from generate_series(1, $1::integer) n",
				"scheduled": "select (select id from offstage.add_job('a', to_json(n), run_at => now() + '1 h')) from generate_series(1, $1::integer) n",
				"keyed":     "select (select id from offstage.add_job('a', to_json(n), job_key => 'k' || n)) from generate_series(1, $1::integer) n",
				"parked":    "select (select id from offstage.add_job('a', to_json(n), queue_name => 'q')) from generate_series(1, $1::integer) n",
			}
			claim := func(most int) []int64 {
				return pgtest.List[int64](t, conn, "select job_id from offstage.claim($1, $2, $3) where kind = 'job' order by 1", id, most, tasks)
			}
			// add adds as many jobs as callers will change, and brings them into a state.
			add := func(kind string) []int64 {
				t.Helper()
				want := callers * times * each
				switch kind {
				case "failed":
					ids := pgtest.List[int64](t, conn, kinds["apart"], want)
					pgtest.Do(t, conn, "select count(*) from offstage.permanently_fail_jobs($1)", ids)
					return ids
				case "running", "running, keyed":
					pgtest.Do(t, conn, kinds[map[string]string{"running": "apart", "running, keyed": "keyed"}[kind]], want)
					return claim(want)
				case "parked":
					ids := pgtest.List[int64](t, conn, kinds[kind], want+1)
					claim(1)
					for pgtest.One[int64](t, conn, "select count(*) from offstage_private.ticket") > 0 {
						claim(want)
					}
					if n := pgtest.One[int64](t, conn, "select count(*) from offstage_private.parked"); n != int64(want) {
						t.Fatalf("%d of %d are parked", n, want)
					}
					return ids[1:]
				}
				return pgtest.List[int64](t, conn, kinds[kind], want)
			}

			clean := func() {
				pgtest.Do(t, conn, `
					select offstage.settle($1, array_agg(l.claim + x.n order by x.id), array_agg(x.id order by x.id))
					from offstage_private.lease l, unnest(l.job_ids) with ordinality x (id, n)
					where exists (select from offstage_private.job j where j.id = x.id and j.released_claim < l.claim) having count(*) > 0`, id)
				pgtest.Do(t, conn, "select count(*) from offstage.delete_jobs(array(select id from offstage.jobs))")
				pgtest.Do(t, conn, "select offstage.settle($1, null, null, emptied => array(select claim from offstage_private.lease))", id)
			}

			complete, cancel, remove := "offstage.complete_jobs($1)", "offstage.cancel_jobs($1)", "unnest($1::text[]) k, offstage.remove_job(k) r where r.id is not null"
			finish := fmt.Sprintf("(select offstage.finish(%d, l.claim + x.n, x.id) as done from offstage_private.lease l, unnest(l.job_ids) with ordinality x (id, n) where x.id = any ($1)) f where done", id)
			edit := "(select offstage.edit_job(i, payload => '{}') from unnest($1::bigint[]) i) e"
			byID := []string{complete, cancel, "offstage.delete_jobs($1)", "offstage.permanently_fail_jobs($1)", "offstage.retry_jobs($1)",
				"offstage.reschedule_jobs($1, run_at => now() + '1 day')", "offstage.reschedule_jobs($1, priority => 3)", edit}
			cases := []struct{ kind, change, more string }{
				{"shared", complete, "offstage.add_many('a', '[1, 2, 3]')"},
				{"shared", complete, "offstage.add_jobs(array(select row('a', null, null, null, null, null, n % 2, null)::offstage.job_spec from generate_series(1, 10) n))"},
				{"scheduled", complete, "offstage.add_job('a', queue_name => 'q')"},
				{"running", cancel, "offstage.add_job('a')"},
				{"running", finish, "offstage.add_job('a')"},
				{"keyed", remove, "offstage.add_job('a', job_key => gen_random_uuid()::text)"},
				{"running, keyed", remove, "offstage.add_job('a', job_key => gen_random_uuid()::text)"},
			}
			states := []string{"shared", "apart", "scheduled", "keyed", "parked", "failed"}
			if level == pgx.RepeatableRead { // where PostgreSQL remembers no pages
				states = states[:1]
			}
			for _, kind := range states {
				for _, change := range byID {
					if kind != "failed" || change != cancel { // what has failed is not cancelled
						cases = append(cases, struct{ kind, change, more string }{kind, change, ""})
					}
				}
			}
			for _, c := range cases {
				ids, each := add(c.kind), each
				if remembering && c.kind == "keyed" && c.change != remove {
					each = 2 // by id, they are all looked at before the first one is taken: three may be a page
				}
				refused, err := turnedAway(t, conns, level, times, func(ctx context.Context, tx pgx.Tx, caller, n int) error {
					var mine []any // ids, every callers-th, or keys
					for k := range each {
						i := (k*times+n)*callers + caller
						if c.change == remove {
							mine = append(mine, fmt.Sprint("k", i+1))
						} else {
							mine = append(mine, ids[i])
						}
					}
					var changed int
					if err := tx.QueryRow(ctx, "select count(*) from "+c.change, mine).Scan(&changed); err != nil {
						return err
					}
					if changed != each {
						return fmt.Errorf("%d of %d changed", changed, each)
					}
					if c.more == "" {
						return nil
					}
					_, err := tx.Exec(ctx, "select "+c.more)
					return err
				})
				if err != nil {
					t.Errorf("%s, %s, %s: %v", c.kind, c.change, c.more, err)
				}
				if refused > 0 {
					t.Errorf("%s, %s, %s: %d of %d transactions were turned away", c.kind, c.change, c.more, refused, callers*times)
				}
				checkWhole(t, conn)
				clean()
			}

			// A job that has been claimed since the snapshot is not left out, as one that ran before is: who looked at it saw it waiting.
			for _, kind := range []string{"apart", "keyed", "parked"} {
				ids := add(kind)
				tx, err := conns[0].BeginTx(t.Context(), pgx.TxOptions{IsoLevel: level})
				if err != nil {
					t.Fatal(err)
				}
				pgtest.Do(t, tx, "select 1 from offstage_private.task") // takes the snapshot
				if kind == "parked" {
					pgtest.Do(t, conn, "select count(*) from offstage.configure_queue('q', 2)")
					pgtest.Do(t, conn, "select offstage.promote()")
				}
				took := claim(1)
				if len(took) != 1 || took[0] != ids[0] {
					t.Fatalf("%s: the worker took %v, want %d", kind, took, ids[0])
				}
				if _, err := tx.Exec(t.Context(), "select count(*) from "+complete, took); code(err) != "40001" {
					t.Errorf("%s, of a job that was taken meanwhile: %v", kind, err)
				}
				if err := tx.Rollback(t.Context()); err != nil {
					t.Fatal(err)
				}
				// Whoever names a running job does not hold up its worker, whatever becomes of it. One with a key is locked first, and then its settle is told so.
				if kind == "keyed" && level != pgx.Serializable {
					clean()
					continue
				}
				for _, change := range byID {
					if change == edit { // raises "is running"
						continue
					}
					tx, err := conns[0].BeginTx(t.Context(), pgx.TxOptions{IsoLevel: level})
					if err != nil {
						t.Fatal(err)
					}
					pgtest.Do(t, tx, "select count(*) from "+change, took)
					pgtest.Do(t, conn, "set lock_timeout = '5s'")
					if left := pgtest.List[string](t, conn, `
						select s.verdict from offstage_private.lease l, offstage.settle($1, null, null, null, null,
							json_build_array(json_build_object('claim', l.claim + 1, 'job_id', $2::bigint, 'ending', 'release'))) s where l.job_ids[1] = $2`, id, took[0]); len(left) > 0 {
						t.Errorf("%s, settle beside %s: %v", kind, change, left)
					}
					if again := claim(1); !slices.Equal(again, took) {
						t.Errorf("%s, given back beside %s: the worker took %v, want %v", kind, change, again, took)
					}
					if err := tx.Rollback(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
				clean()
			}
		})
	}
}

// TestIsolationTogether: callers of whom each does everything in one transaction, in any order, with tasks, queues, flags, schedules and jobs of its own, some of them new, do not turn
// each other away.
func TestIsolationTogether(t *testing.T) {
	t.Parallel()
	const callers, times = 8, 3
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for _, level := range []pgx.TxIsoLevel{pgx.RepeatableRead, pgx.Serializable} {
		t.Run(string(level), func(t *testing.T) {
			t.Parallel()
			conn, conns := isolated(t, callers)
			remembering := level == pgx.Serializable && remembers(t, conn)
			id, tasks := worker(t, conn, "a")
			pgtest.Do(t, conn, "select offstage.configure_task('t' || n, '{}'), offstage.configure_queue('q' || n, 1), offstage.add_schedule('s' || n, 'a', '* * * * *') from generate_series(0, 7) n")
			pgtest.Do(t, conn, "select offstage.add_job('t' || n, queue_name => 'q' || n, flags => array['f' || n], job_key => 'k' || n) from generate_series(0, 7) n")
			pgtest.Do(t, conn, "select offstage.add_job('a', queue_name => 'all', flags => '{all}')")
			// $1 is the caller, $2 a text that nobody else has, $3 the id of a waiting job, $4 that of a running one, $5 three workers with jobs.
			calls := []string{
				"offstage.add_job('a', queue_name => 'all', flags => '{all}')",
				"offstage.add_job('t' || $1, queue_name => 'q' || $1, flags => array['f' || $1])",
				"offstage.add_job('new' || $2, queue_name => 'new' || $2, flags => array[$2])",
				"offstage.add_job('t' || $1, job_key => 'k' || $1)",
				"offstage.add_job('t' || ($1::integer + 1) % 8, queue_name => 'q' || ($1::integer + 1) % 8, flags => array['f' || ($1::integer + 1) % 8])", // what others configure
				"offstage.add_jobs(array[row('t' || ($1::integer + 2) % 8, null, 'q' || ($1::integer + 2) % 8, null, null, $2, null, null)]::offstage.job_spec[])",
				"offstage.remove_job('k' || $1)",
				`offstage.add_jobs(array[row('t' || $1, null, 'q' || $1, null, null, null, null, array['f' || $1]), row('t' || $1, null, null, null, null, $2, null, array['f' || $1]),
					row('more' || $2, null, 'more' || $2, null, null, null, null, array['f' || $1]), row('keyed' || $2, null, null, null, null, 'more' || $2, null, null)]::offstage.job_spec[])`,
				"offstage.add_many('t' || $1, '[1,2]', queue_name => 'q' || $1)",
				"offstage.configure_task('t' || $1, json_build_object('keep', case when random() < 0.5 then 'all' else 'none' end, 'max_attempts', (random() * 1000)::integer + 1))",
				"offstage.configure_task('settings' || $2, '{}')",
				"offstage.pause_task('t' || $1)",
				"offstage.resume_task('t' || $1)",
				"offstage.configure_queue('q' || $1, (random() * 1000)::integer + 1)",
				"offstage.configure_queue('settings' || $2, 2)",
				"offstage.pause_queue('q' || $1)",
				"offstage.resume_queue('q' || $1)",
				"offstage.add_schedule('s' || $1, 'a', (random() * 50)::integer || ' * * * *')",
				"offstage.add_schedule($2, 'a', '* * * * *'), offstage.remove_schedule($2)",
				"offstage.pause_schedule('s' || $1)",
				"offstage.resume_schedule('s' || $1)",
				"offstage.run_schedule('s' || $1)",
				"offstage.await_job((select id from offstage.add_job('a')))",
				"offstage.complete_jobs(array[$3::bigint])",
				"offstage.cancel_jobs(array[$3::bigint])",
				"offstage.permanently_fail_jobs(array[$3::bigint])",
				"offstage.reschedule_jobs(array[$3::bigint], attempts => 3)",
				"offstage.retry_jobs(array[$3::bigint])",
				"offstage.edit_job($3::bigint, '{}')",
				"offstage.delete_jobs(array[$3::bigint])",
				"offstage.cancel_jobs(array[$4::bigint])",
				fmt.Sprintf("(select offstage.finish(%d, l.claim + x.n, x.id) from offstage_private.lease l, unnest(l.job_ids) with ordinality x (id, n) where x.id = $4::bigint)", id),
			}
			unlock := "offstage.force_unlock_workers($5)"
			if !remembering { // it looks for jobs within a subtransaction
				calls = append(calls, unlock)
			}
			others := make([][]string, callers*times)
			for i := range 3 * len(others) {
				other, _ := worker(t, conn, "a")
				others[i/3] = append(others[i/3], fmt.Sprint("worker-", other))
				pgtest.Do(t, conn, "select offstage.add_job('a', max_attempts => 1 + n % 2, queue_name => case when n = 1 then 'of' || $1::integer end) from generate_series(1, 4) n", i)
				took := pgtest.List[int64](t, conn, "select job_id from offstage.claim($1, 4, $2) where kind = 'job' order by 1", other, tasks)
				if len(took) != 4 {
					t.Fatalf("a worker took %v", took)
				}
				pgtest.Do(t, conn, "select offstage.cancel_jobs($1)", took[2:3])
			}
			waiting := pgtest.List[int64](t, conn, "select (offstage.add_job('t' || (n + 1) % 8)).id from generate_series(0, $1::integer - 1) n", callers*times*len(calls))
			running := pgtest.List[int64](t, conn, "select (offstage.add_job('a')).id from generate_series(1, $1::integer)", callers*times*len(calls))
			for left := len(running); left > 0; {
				took := len(pgtest.List[int64](t, conn, "select job_id from offstage.claim($1, 500, $2) where kind = 'job'", id, tasks))
				if took == 0 {
					t.Fatalf("%d jobs are not claimed", left)
				}
				left -= took
			}
			refused, err := turnedAway(t, conns, level, times, func(ctx context.Context, tx pgx.Tx, caller, n int) error {
				for _, i := range rand.New(rand.NewPCG(seed, uint64(n*callers+caller))).Perm(len(calls)) {
					call, own := calls[i], (n*len(calls)+i)*callers+caller // so that those of others are beside it
					if _, err := tx.Exec(ctx, "select "+call+", $1::text, $2::text, $3::bigint, $4::bigint, $5::text[]",
						fmt.Sprint(caller), fmt.Sprint(caller, "/", n), waiting[own], running[own], others[n*callers+caller]); err != nil {
						return fmt.Errorf("%s: %w", call, err)
					}
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
			if refused > 0 {
				t.Errorf("%d of %d transactions were turned away", refused, callers*times)
			}
			// The living clean up what callers have left of the dead.
			pgtest.Do(t, conn, "update offstage_private.worker set beats = 5, beat_at = offstage_private.clock() where id = $1", id)
			if n := pgtest.One[int](t, conn, "select offstage.rescue($1)", id); n > callers && slices.Contains(calls, unlock) { // single ones that others kept from being locked for a moment
				t.Errorf("%d jobs were not given back", n)
			}
			checkWhole(t, conn)
		})
	}
}

// TestIsolationCrosswise: callers who have each configured what the other one changes jobs of, before either of them has committed, do not turn each other away, and see the settings
// of their snapshots.
func TestIsolationCrosswise(t *testing.T) {
	t.Parallel()
	const callers = 3
	for _, level := range []pgx.TxIsoLevel{pgx.RepeatableRead, pgx.Serializable} {
		t.Run(string(level), func(t *testing.T) {
			t.Parallel()
			conn, conns := isolated(t, callers)
			pgtest.Do(t, conn, "select offstage.configure_task('t' || n, '{}'), offstage.configure_queue('q' || n, 1) from generate_series(0, 2) n")
			for _, max := range []int{9, 8, 7, 6, 5} { // so that there are versions
				pgtest.Do(t, conn, "select offstage.configure_task('t' || n, json_build_object('max_attempts', $1::integer)) from generate_series(0, 2) n", max)
			}
			ids := pgtest.List[int64](t, conn, "select (offstage.add_job('t' || n % 3, flags => '{f}')).id from generate_series(0, 5) n")

			txs := make([]pgx.Tx, callers)
			for i, c := range conns {
				tx, err := c.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: level})
				if err != nil {
					t.Fatal(err)
				}
				txs[i] = tx
				pgtest.Do(t, tx, "select 1 from offstage_private.migration") // takes the snapshot
			}
			for i, tx := range txs {
				for _, max := range []int{20, 21, 22} {
					pgtest.Do(t, tx, "select offstage.configure_task('t' || $1::text, json_build_object('max_attempts', $2::integer)), offstage.pause_task('t' || $1::text), offstage.configure_queue('q' || $1::text, 2)", fmt.Sprint(i), max)
				}
			}
			add := func(tx pgx.Tx, of int) int {
				t.Helper()
				return pgtest.One[int](t, tx, "select max_attempts from offstage.add_job('t' || $1::text, queue_name => 'q' || $1::text, flags => '{f}')", fmt.Sprint(of))
			}
			for i, tx := range txs {
				for of := range callers {
					if got, want := add(tx, of), map[bool]int{true: 22, false: 5}[of == i]; got != want {
						t.Errorf("caller %d, who has not seen or made a change of t%d: max_attempts is %d, not %d", i, of, got, want)
					}
				}
				pgtest.Do(t, tx, "select offstage.add_jobs(array(select row('t' || n, null, 'q' || n, null, null, null, null, null)::offstage.job_spec from generate_series(0, 2) n)), offstage.add_many('t' || ($1 + 1) % 3, '[1, 2]')", i)
			}
			if err := txs[0].Commit(t.Context()); err != nil {
				t.Errorf("the first: %v", err)
			}
			// The others' snapshots are older than what it has made.
			for i, tx := range txs[1:] {
				if got := add(tx, 0); got != 5 {
					t.Errorf("caller %d, whose snapshot is older than the change of t0: max_attempts is %d, not 5", i+1, got)
				}
				// Jobs of the other one's task, and of the first one's.
				if got := pgtest.List[int](t, tx, "select max_attempts from offstage.permanently_fail_jobs($1) order by 1", []int64{ids[2-i], ids[3*i]}); !slices.Equal(got, []int{5, 5}) {
					t.Errorf("caller %d: jobs of tasks that others are configuring, or have since its snapshot: max_attempts are %v, not 5", i+1, got)
				}
				pgtest.Do(t, tx, "select count(*) from offstage.reschedule_jobs($1, priority => 3)", []int64{ids[4+(1-i)]})
			}
			for i, tx := range txs[1:] {
				if err := tx.Commit(t.Context()); err != nil {
					t.Errorf("caller %d: %v", i+1, err)
				}
			}
			checkWhole(t, conn)
		})
	}
}

// TestIsolationMissing: SERIALIZABLE callers find tasks and queues that were made where triggers do not fire.
func TestIsolationMissing(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	pool := db.SuperPool(t, func(cfg *pgxpool.Config) { cfg.ConnConfig.RuntimeParams["session_replication_role"] = "replica" })
	pgtest.Do(t, pool, "select offstage.add_job('a', queue_name => 'q'), offstage.configure_task('b', '{\"max_attempts\": 3}')")
	id := pgtest.One[int64](t, pool, "select id from offstage.add_job('b')")
	conn := db.Conn(t)
	pgtest.Do(t, conn, "set default_transaction_isolation = serializable")
	pgtest.Do(t, conn, "select offstage.add_job('a', queue_name => 'q')")
	pgtest.Do(t, conn, "select offstage.add_jobs(array[row('a', null, 'q', null, null, null, null, null)]::offstage.job_spec[])")
	if n := pgtest.One[int](t, conn, "select count(*) from offstage.jobs where task_identifier = 'a' and queue_name = 'q'"); n != 3 {
		t.Errorf("%d of 3 jobs are of the task and the queue", n)
	}
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(t.Context())
	pgtest.Do(t, tx, "select offstage.configure_task('b', '{\"max_attempts\": 5}')")
	if n := pgtest.One[int](t, conn, "select max_attempts from offstage.permanently_fail_jobs($1)", []int64{id}); n != 3 {
		t.Errorf("max_attempts of a task that somebody is configuring are %d, not 3", n)
	}
}
