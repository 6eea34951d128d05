package schema_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sync/errgroup"

	"github.com/offstage-dev/offstage/internal/pgtest"
)

// rush is how long TestLockOrder lets everything happen at once.
const rush = 4 * time.Second

// TestLockOrder does all that can be done, at random and at once, on few jobs, few queues and few keys. Afterwards
// PostgreSQL must not have found a deadlock, no job may be lost, and nothing may be left over. The order in which
// locks are taken is at the top of functions/20_claim.sql.
func TestLockOrder(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	db := pgtest.New(t)
	super := db.SuperPool(t)
	pgtest.Do(t, super, fmt.Sprintf("alter database %s set deadlock_timeout = '10ms'", db.Name))
	r := &brawl{t: t, db: db}
	owner := db.Conn(t)
	for _, task := range brawlTasks {
		pgtest.Do(t, owner, `select offstage.configure_task($1, '{"max_attempts": 20}')`, task)
	}
	for _, q := range serialQueues {
		pgtest.Do(t, owner, `select offstage.configure_queue($1, 1)`, q)
	}
	pgtest.Do(t, owner, `select offstage.configure_queue('wide', 3)`)

	ctx, stop := context.WithTimeout(t.Context(), rush)
	defer stop()
	var all errgroup.Group
	n := uint64(0)
	start := func(times int, isolation string, f func(context.Context, *pgx.Conn, *rand.Rand) error) {
		for range times {
			conn := db.Conn(t)
			pgtest.Do(t, conn, fmt.Sprintf("set default_transaction_isolation = '%s'", isolation))
			random := rand.New(rand.NewPCG(seed, n))
			n++
			all.Go(func() error {
				for ctx.Err() == nil {
					err := f(t.Context(), conn, random)
					if isolation != "read committed" && code(err) == "40001" {
						continue
					}
					if err != nil {
						stop()
						return err
					}
				}
				return nil
			})
		}
	}
	for i := range 3 {
		w := &brawler{r: r, beats: db.Conn(t), handler: db.Conn(t), serializable: i == 0}
		if w.serializable {
			pgtest.Do(t, w.handler, "set default_transaction_isolation = 'serializable'")
		}
		start(1, "read committed", w.turn)
	}
	start(2, "read committed", r.add)
	start(3, "read committed", r.addKeyed)
	start(2, "read committed", r.meddle)
	for _, isolation := range []string{"repeatable read", "serializable"} {
		start(1, isolation, r.addKeyed)
		start(1, isolation, r.meddle)
	}
	start(1, "read committed", r.chores)
	start(1, "read committed", r.look)
	if err := all.Wait(); err != nil {
		var pg *pgconn.PgError
		if errors.As(err, &pg) {
			t.Fatalf("%v\n%s\n%s", err, pg.Detail, pg.Where)
		}
		t.Fatal(err)
	}
	if found := pgtest.One[int64](t, super, "select deadlocks from pg_stat_database where datname = $1", db.Name); found != 0 {
		t.Errorf("%d deadlocks", found)
	}
	r.drain(owner)
}

var (
	brawlTasks   = []string{"a", "b", "c"}
	serialQueues = []string{"one", "two", "three"}
	brawlQueues  = append([]string{"", "", "wide"}, serialQueues...)
	brawlKeys    = []string{"k1", "k2", "k3", "k4", "k5", "k6"}
)

// brawl is everything at once.
type brawl struct {
	t  *testing.T
	db *pgtest.DB

	mu    sync.Mutex
	added []int64 // without a key, committed; under mu
}

func pick[T any](r *rand.Rand, list []T) T { return list[r.IntN(len(list))] }

func nilIfEmpty(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// add adds jobs without keys, one by one and in bulk, and rolls some back.
func (b *brawl) add(ctx context.Context, conn *pgx.Conn, r *rand.Rand) error {
	tx, err := conn.Begin(ctx)
	if err != nil {
		return err
	}
	defer tx.Rollback(ctx)
	var ids []int64
	for range 1 + r.IntN(3) {
		var id int64
		err := tx.QueryRow(ctx, `select id from offstage.add_job($1, queue_name => $2, priority => $3, run_at => now() + $4 * interval '1 ms')`,
			pick(r, brawlTasks), nilIfEmpty(pick(r, brawlQueues)), r.IntN(3), r.IntN(60)-40).Scan(&id)
		if err != nil {
			return fmt.Errorf("add_job: %w", err)
		}
		ids = append(ids, id)
	}
	rows, err := tx.Query(ctx, `select id from offstage.add_jobs(array(
		select row($1, null, $2, null, null, null, n % 3, null)::offstage.job_spec from generate_series(1, $3) n))`,
		pick(r, brawlTasks), nilIfEmpty(pick(r, brawlQueues)), r.IntN(4))
	if err != nil {
		return fmt.Errorf("add_jobs: %w", err)
	}
	more, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		return fmt.Errorf("add_jobs: %w", err)
	}
	if r.IntN(5) == 0 {
		return nil
	}
	if err := tx.Commit(ctx); err != nil {
		return err
	}
	b.mu.Lock()
	b.added = append(b.added, append(ids, more...)...)
	b.mu.Unlock()
	_, err = conn.Exec(ctx, "select pg_sleep(0.005)") // as adders do: not all of the time
	return err
}

// addKeyed holds the rows of its keys for a while, which it takes in their order.
func (b *brawl) addKeyed(ctx context.Context, conn *pgx.Conn, r *rand.Rand) error {
	tx, err := conn.Begin(ctx)
	if err != nil {
		return err
	}
	defer tx.Rollback(ctx)
	keys := []string{pick(r, brawlKeys), pick(r, brawlKeys)}
	slices.Sort(keys)
	keys = slices.Compact(keys)
	if r.IntN(3) == 0 {
		slices.Reverse(keys) // add_jobs sorts them itself
		var specs []string
		for _, k := range keys {
			specs = append(specs, fmt.Sprintf("row('%s', '[1]', %s, null, null, '%s', null, null)::offstage.job_spec", pick(r, brawlTasks), pick(r, []string{"null", "'one'", "'wide'"}), k))
		}
		_, err = tx.Exec(ctx, "select offstage.add_jobs(array["+strings.Join(specs, ",")+"])")
		if err != nil {
			return fmt.Errorf("add_jobs with keys: %w", err)
		}
	} else {
		for _, k := range keys {
			_, err := tx.Exec(ctx, `select offstage.add_job($1, queue_name => $2, job_key => $3, job_key_mode => $4, run_at => now() + $5 * interval '1 ms')`,
				pick(r, brawlTasks), nilIfEmpty(pick(r, brawlQueues)), k, pick(r, []string{"replace", "preserve_run_at", "unsafe_dedupe"}), r.IntN(60)-40)
			if err != nil {
				return fmt.Errorf("add_job with a key: %w", err)
			}
		}
	}
	if _, err := tx.Exec(ctx, "select pg_sleep($1)", r.Float64()*0.02); err != nil {
		return err
	}
	if r.IntN(4) == 0 {
		return nil
	}
	return tx.Commit(ctx)
}

// meddle is what people do, one call a transaction.
func (b *brawl) meddle(ctx context.Context, conn *pgx.Conn, r *rand.Rand) error {
	rows, err := conn.Query(ctx, `select id from (select id from offstage_private.job order by id desc limit 60) j order by random() limit 4`)
	if err != nil {
		return err
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		return err
	}
	queue, task := pick(r, brawlQueues[2:]), pick(r, brawlTasks)
	call := pick(r, []struct {
		sql string
		arg any
	}{
		{"select * from offstage.complete_jobs($1)", ids},
		{"select * from offstage.permanently_fail_jobs($1)", ids},
		{"select * from offstage.reschedule_jobs($1, run_at => now() + interval '5 ms', priority => 1)", ids},
		{"select * from offstage.reschedule_jobs($1, attempts => 0)", ids},
		{"select * from offstage.cancel_jobs($1)", ids},
		{"select * from offstage.retry_jobs($1)", ids},
		{"select * from offstage.delete_jobs($1)", ids},
		{"select * from offstage.remove_job($1)", pick(r, brawlKeys)},
		{"select offstage.pause_queue($1)", queue},
		{"select offstage.resume_queue($1)", queue},
		{"select offstage.resume_queue($1)", queue},
		{"select offstage.pause_task($1)", task},
		{"select offstage.resume_task($1)", task},
		{"select offstage.resume_task($1)", task},
		{"select offstage.configure_queue('wide', $1)", 1 + r.IntN(4)},
		{"select offstage.force_unlock_workers(array(select 'worker-' || w.id from offstage_private.worker w where w.dead_at is null order by random() limit $1))", r.IntN(2)},
		{"select count(*) from offstage.jobs where id = any ($1)", ids},
		{"select count(*) from unnest($1::bigint[]) i, offstage.job_status(i)", ids},
		{"select count(offstage.explain(i)) from unnest($1::bigint[]) i", ids},
		{"select offstage.await_job(i) from unnest($1::bigint[]) i", ids},
	})
	if _, err := conn.Exec(ctx, call.sql, call.arg); err != nil {
		return fmt.Errorf("%s: %w", call.sql, err)
	}
	_, err = conn.Exec(ctx, "select pg_sleep(0.002)")
	return err
}

// chores promotes, and declares dead whom it likes.
func (b *brawl) chores(ctx context.Context, conn *pgx.Conn, r *rand.Rand) error {
	if _, err := conn.Exec(ctx, "select * from offstage.promote(20)"); err != nil {
		return fmt.Errorf("promote: %w", err)
	}
	if r.IntN(10) > 0 {
		return nil
	}
	var id int
	err := conn.QueryRow(ctx, `select worker_id from offstage.register('chores', 1, 'test', 1, '[]')`).Scan(&id)
	if err != nil {
		return fmt.Errorf("register: %w", err)
	}
	for _, sql := range []string{
		`update offstage_private.worker set beats = 5, beat_at = clock_timestamp() where id = $1`,
		`update offstage_private.worker set beat_at = clock_timestamp() - interval '1 h'
			where id = (select id from offstage_private.worker where dead_at is null and id <> $1 order by random() limit 1)`,
		`select offstage.rescue($1)`,
		`select offstage.sign_off($1)`,
	} {
		if _, err := conn.Exec(ctx, sql, id); err != nil {
			return fmt.Errorf("%s: %w", sql, err)
		}
	}
	return nil
}

// look finds serial queues with two valid claims.
func (b *brawl) look(ctx context.Context, conn *pgx.Conn, r *rand.Rand) error {
	var wrong *string
	err := conn.QueryRow(ctx, `
		select string_agg(format('queue %s runs %s', q.name, x.running), '; ')
		from offstage_private.queue q join offstage_private.queue_state u on u.queue_id = q.id cross join lateral (
		  select array_agg(l.claim + u.position) as running
		  from offstage_private.lease l cross join lateral unnest(l.job_ids) with ordinality u (id, position)
		  join offstage_private.job j on j.id = u.id and j.released_claim < l.claim + u.position
		  where j.queue_id = q.id) x
		where q.name = any ($1) and (cardinality(x.running) > 1 or cardinality(u.claims) > 1 or not x.running <@ u.claims)`, serialQueues).Scan(&wrong)
	if err != nil {
		return err
	}
	if wrong != nil {
		return errors.New(*wrong)
	}
	_, err = conn.Exec(ctx, "select pg_sleep(0.005)")
	return err
}

// held is a claimed job.
type held struct {
	claim, id int64
	queue     *int32
	ctid      string
}

// brawler is a worker that fetches ahead, settles in another order, and claims in the transaction in which it settles.
type brawler struct {
	r       *brawl
	id      int32
	tasks   []int32
	jobs    []held
	leases  map[int64]int
	emptied []int64
	beats   *pgx.Conn
	handler *pgx.Conn

	serializable bool // the handler's transactions
}

type ending struct {
	Claim   int64    `json:"claim"`
	JobID   int64    `json:"job_id"`
	Ending  string   `json:"ending"`
	Delay   *float64 `json:"delay,omitempty"`
	QueueID *int32   `json:"queue_id,omitempty"`
}

func (w *brawler) turn(ctx context.Context, conn *pgx.Conn, r *rand.Rand) error {
	if w.id == 0 || r.IntN(60) == 0 { // or dies
		if w.id != 0 && r.IntN(2) == 0 {
			if _, err := conn.Exec(ctx, "select offstage.sign_off($1)", w.id); err != nil {
				return fmt.Errorf("sign_off: %w", err)
			}
		}
		*w = brawler{r: w.r, beats: w.beats, handler: w.handler, serializable: w.serializable, leases: map[int64]int{}}
		tasks := `[{"name": "a"}, {"name": "b"}, {"name": "c"}]`
		if r.IntN(3) == 0 {
			tasks = `[{"name": "b"}]`
		}
		err := conn.QueryRow(ctx, `select worker_id, task_ids from offstage.register('brawl', 1, 'test', 10, $1)`, tasks).Scan(&w.id, &w.tasks)
		if err != nil {
			return fmt.Errorf("register: %w", err)
		}
	}
	beat := make(chan error, 1)
	go func() {
		_, err := w.beats.Exec(ctx, "select * from offstage.heartbeat($1)", w.id)
		beat <- err
	}()
	err := w.settleAndClaim(ctx, conn, r)
	if err := <-beat; err != nil {
		return fmt.Errorf("heartbeat: %w", err)
	}
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "OS001" { // somebody has declared it dead
		w.id = 0
		return nil
	}
	return err
}

func (w *brawler) settleAndClaim(ctx context.Context, conn *pgx.Conn, r *rand.Rand) error {
	r.Shuffle(len(w.jobs), func(i, k int) { w.jobs[i], w.jobs[k] = w.jobs[k], w.jobs[i] })
	n := r.IntN(len(w.jobs) + 1)
	batch := slices.Clone(w.jobs[:n])
	var claims, ids []int64
	var ctids []string
	if r.IntN(8) > 0 { // in the order that settle asks for
		slices.SortFunc(batch, func(a, b held) int { return cmp.Compare(a.id, b.id) })
	}
	endings := []ending{}
	for i, j := range batch {
		e := ending{Claim: j.claim, JobID: j.id, Ending: pick(r, []string{"succeed", "succeed", "succeed", "retry", "retry", "snooze", "release", "fail", "cancel"})}
		switch {
		case i == 0 && r.IntN(3) == 0: // ends in its handler's transaction, which may roll back
			e.Ending = "release"
			done, err := w.finish(ctx, j, r)
			if w.serializable && code(err) == "40001" {
				done, err = false, nil
			}
			if err != nil {
				return fmt.Errorf("finish: %w", err)
			}
			if done {
				e.Ending = "finished"
			}
			e.QueueID = j.queue
		case e.Ending == "succeed":
			claims, ids, ctids = append(claims, j.claim), append(ids, j.id), append(ctids, j.ctid)
			continue
		case e.Ending == "retry" || e.Ending == "snooze":
			delay := r.Float64() * 0.02
			e.Delay = &delay
		}
		endings = append(endings, e)
	}
	tx, err := conn.Begin(ctx)
	if err != nil {
		return err
	}
	defer tx.Rollback(ctx)
	js, err := json.Marshal(endings)
	if err != nil {
		return err
	}
	var busy []int64
	settles := n > 0 || r.IntN(2) == 0 // without, the claim is the first that asks for the worker
	if settles {
		rows, err := tx.Query(ctx, `select claim from offstage.settle($1, $2, $3, null, null, $4, $5, $6::text[]::tid[], turn => $7) where verdict = 'busy'`,
			w.id, claims, ids, string(js), w.emptied, ctids, r.IntN(4) > 0)
		if err != nil {
			return fmt.Errorf("settle: %w", err)
		}
		if busy, err = pgx.CollectRows(rows, pgx.RowTo[int64]); err != nil {
			return fmt.Errorf("settle: %w", err)
		}
	}
	rows, err := tx.Query(ctx, `select claim, job_id, queue_id, job_ctid::text from offstage.claim($1, $2, $3, case when $4 then '{f}'::text[] end) where kind = 'job'`,
		w.id, r.IntN(20), w.tasks, r.IntN(2) == 0)
	if err != nil {
		return fmt.Errorf("claim: %w", err)
	}
	got, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (h held, err error) {
		err = row.Scan(&h.claim, &h.id, &h.queue, &h.ctid)
		return h, err
	})
	if err != nil {
		return fmt.Errorf("claim: %w", err)
	}
	if err := tx.Commit(ctx); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	if settles {
		w.emptied = nil
	}
	left := slices.Clone(w.jobs[n:])
	for _, j := range batch {
		if slices.Contains(busy, j.claim) {
			left = append(left, j)
			continue
		}
		l := j.claim &^ 1023
		if w.leases[l]--; w.leases[l] == 0 {
			delete(w.leases, l)
			w.emptied = append(w.emptied, l)
		}
	}
	for _, j := range got {
		w.leases[j.claim&^1023]++
	}
	w.jobs = append(left, got...)
	return nil
}

// finish ends the job in a transaction that stays open for a moment; true when it was committed.
func (w *brawler) finish(ctx context.Context, j held, r *rand.Rand) (bool, error) {
	tx, err := w.handler.Begin(ctx)
	if err != nil {
		return false, err
	}
	defer tx.Rollback(ctx)
	var held bool
	if err := tx.QueryRow(ctx, "select offstage.finish($1, $2, $3)", w.id, j.claim, j.id).Scan(&held); err != nil {
		return false, err
	}
	if _, err := tx.Exec(ctx, "select pg_sleep(0.003)"); err != nil {
		return false, err
	}
	if !held || r.IntN(3) == 0 {
		return false, nil
	}
	return true, tx.Commit(ctx)
}

// drain lets a last worker do all that is left, and looks at what has become of everything.
func (b *brawl) drain(conn *pgx.Conn) {
	t, ctx := b.t, pgtest.Context(b.t)
	id, tasks := worker(t, conn, brawlTasks...)
	// The living do what REPEATABLE READ and SERIALIZABLE callers have left to them: workers to be unlocked, and with the next call slots of queues.
	pgtest.Do(t, conn, "update offstage_private.worker set beats = 5, beat_at = offstage_private.clock() where id = $1", id)
	for range 2 {
		pgtest.Do(t, conn, "select offstage.rescue($1)", id)
	}
	checkWhole(t, conn)
	if t.Failed() {
		t.Log(pgtest.One[string](t, conn, "select string_agg(to_jsonb(l)::text, E'\\n') from offstage_private.lease l"))
	}
	for _, q := range brawlQueues[2:] {
		pgtest.Do(t, conn, "select offstage.resume_queue($1)", q)
	}
	for _, task := range brawlTasks {
		pgtest.Do(t, conn, "select offstage.resume_task($1)", task)
	}
	pgtest.Do(t, conn, "select offstage.force_unlock_workers(array(select 'worker-' || w.id from offstage_private.worker w where w.id <> $1))", id)
	var leases []int64
	for {
		var claims, ids []int64
		rows, err := conn.Query(ctx, "select claim, job_id from offstage.claim($1, 1000, $2) where kind = 'job'", id, tasks)
		if err != nil {
			t.Fatal(err)
		}
		for rows.Next() {
			var c, j int64
			if err := rows.Scan(&c, &j); err != nil {
				t.Fatal(err)
			}
			claims, ids = append(claims, c), append(ids, j)
			if l := c &^ 1023; !slices.Contains(leases, l) {
				leases = append(leases, l)
			}
		}
		if rows.Err() != nil {
			t.Fatal(rows.Err())
		}
		pgtest.Do(t, conn, "select * from offstage.settle($1, $2, $3)", id, claims, ids)
		pgtest.Do(t, conn, "select * from offstage.promote()")
		left := pgtest.One[int](t, conn, "select count(*) from offstage_private.job where not failed")
		if left == 0 {
			break
		}
		if ctx.Err() != nil {
			t.Fatalf("%d jobs do not run: %s", left, pgtest.One[string](t, conn,
				"select string_agg(format('%s: %s %s', j.id, offstage.explain(j.id), to_jsonb(j)), E'\n') from (select * from offstage_private.job where not failed order by id limit 5) j"))
		}
	}
	pgtest.Do(t, conn, "select * from offstage.settle($1, null, null, emptied => $2)", id, leases)
	// Queues whose parked jobs callers held in the last moment of the brawl are looked at again a second later.
	for pgtest.One[bool](t, conn, "select next_at is not null from offstage.promote()") {
		pgtest.Do(t, conn, "select pg_sleep_until(min(due_at)) from offstage_private.handover")
	}
	checkWhole(t, conn)
	for _, table := range []string{"ticket", "scheduled", "parked", "lease", "handover", "unlock"} {
		if n := pgtest.One[int](t, conn, "select count(*) from offstage_private."+table); n != 0 {
			t.Errorf("%d rows are left in %s", n, table)
		}
	}
	if n := pgtest.One[int](t, conn, "select coalesce(sum(cardinality(claims)), 0) from offstage_private.queue_state"); n != 0 {
		t.Errorf("%d slots are left", n)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	lost := pgtest.List[int64](t, conn, `select i from unnest($1::bigint[]) i
		where not exists (select from offstage_private.job j where j.id = i)
		  and not exists (select from offstage_private.history h where h.job_id = i and h.outcome in ('succeeded', 'cancelled', 'removed', 'completed'))`, b.added)
	if len(lost) > 0 {
		t.Errorf("lost: %v", lost)
	}
	twice := pgtest.List[int64](t, conn, `select job_id from offstage_private.history where outcome in ('succeeded', 'cancelled', 'removed', 'completed')
		group by job_id having count(*) > 1`)
	if len(twice) > 0 {
		t.Errorf("ended twice: %v", twice)
	}
	t.Logf("%d jobs without a key; history: %s", len(b.added), pgtest.One[string](t, conn,
		"select string_agg(format('%s %s', n, outcome), ', ') from (select outcome, count(*) n from offstage_private.history group by 1 order by 2 desc) h"))
}
