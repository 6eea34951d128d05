//go:build unix

package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/internal/pgtest"
)

// stage is a database with a client, a directory and worker processes, for one test.
type stage struct {
	t      *testing.T
	db     *pgtest.DB
	pool   *pgxpool.Pool
	client *offstage.Client
	dir    string
	logs   []string // that workers in Go write
}

func newStage(t *testing.T, opts ...pgtest.Option) *stage {
	t.Helper()
	dir := t.TempDir()
	db := pgtest.New(t, opts...)
	s := &stage{t: t, db: db, pool: db.Pool(t), dir: dir}
	var err error
	if s.client, err = offstage.New(s.pool, offstage.Config{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.client.Close)
	s.exec(`create schema app`)
	s.exec(`create table app.added (job_id bigint primary key)`)
	s.exec(`create table app.run (
		id bigint generated always as identity primary key, job_id bigint not null, claim bigint, pid integer not null,
		attempt integer not null, queue text not null, started_at timestamptz not null default clock_timestamp(),
		ended_at timestamptz, ending text)`)
	return s
}

func (s *stage) ctx() context.Context { return pgtest.Context(s.t) }

func (s *stage) exec(sql string, args ...any) {
	s.t.Helper()
	pgtest.Do(s.t, s.pool, sql, args...)
}

// one is the only value of a query.
func one[T any](s *stage, sql string, args ...any) T {
	s.t.Helper()
	return pgtest.One[T](s.t, s.pool, sql, args...)
}

// reaches waits until a query, which answers a number, answers at least n.
func (s *stage) reaches(within time.Duration, n int, sql string, args ...any) {
	s.t.Helper()
	pgtest.Eventually(s.t, within, func() error {
		if got := one[int](s, sql, args...); got < n {
			return fmt.Errorf("%d of %d: %s", got, n, sql)
		}
		return nil
	})
}

// add adds jobs, and notes them in the same transaction.
func (s *stage) add(specs ...offstage.Spec) []int64 {
	s.t.Helper()
	ids, err := s.tryAdd(specs)
	if err != nil {
		s.t.Fatal(err)
	}
	return ids
}

func (s *stage) tryAdd(specs []offstage.Spec) (ids []int64, err error) {
	ctx, cancel := context.WithTimeout(s.t.Context(), 20*time.Second)
	defer cancel()
	err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if ids, err = s.client.With(tx).AddMany(ctx, specs); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `insert into app.added select unnest($1::bigint[])`, ids)
		return err
	})
	return ids, err
}

// many is n times the same spec.
func many(n int, spec offstage.Spec) []offstage.Spec { return slices.Repeat([]offstage.Spec{spec}, n) }

// load adds jobs of the task "log", a hundred at a time, until stop is called, whether the database is there or not.
func (s *stage) load() (stop func()) {
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(25 * time.Millisecond)
		defer tick.Stop()
		for {
			_, _ = s.tryAdd(many(100, offstage.Spec{Task: "log"})) // the table app.added knows which were added
			select {
			case <-quit:
				return
			case <-tick.C:
			}
		}
	}()
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			close(quit)
			<-done
		}
	}
	s.t.Cleanup(stop)
	return stop
}

// ran says how often each job ran, as the files tell that "log" wrote.
func (s *stage) ran() map[int64]int {
	s.t.Helper()
	runs := map[int64]int{}
	for _, path := range s.logs {
		b, err := os.ReadFile(path)
		if err != nil && !os.IsNotExist(err) {
			s.t.Fatal(err)
		}
		for line := range strings.Lines(string(b)) {
			id, err := strconv.ParseInt(strings.TrimSpace(line), 10, 64)
			if err != nil {
				s.t.Fatalf("%s: %v", path, err)
			}
			runs[id]++
		}
	}
	return runs
}

// ranMore waits until n more jobs have been started.
func (s *stage) ranMore(n int) {
	s.t.Helper()
	before := len(s.ran())
	pgtest.Eventually(s.t, 30*time.Second, func() error {
		if now := len(s.ran()); now < before+n {
			return fmt.Errorf("%d jobs have run since, %d are expected", now-before, n)
		}
		return nil
	})
}

// drained waits until no job is left, nor anything of one.
func (s *stage) drained(within time.Duration) {
	s.t.Helper()
	pgtest.Eventually(s.t, within, func() error {
		var left []string
		err := s.pool.QueryRow(s.ctx(), `
			select array(select what || ': ' || n from (values
				('jobs', (select count(*) from offstage_private.job)), ('tickets', (select count(*) from offstage_private.ticket)), ('stubs', (select count(*) from offstage_private.stub)),
				('scheduled', (select count(*) from offstage_private.scheduled)), ('parked', (select count(*) from offstage_private.parked)),
				('leases', (select count(*) from offstage_private.lease l left join offstage_private.worker w on w.id = l.worker_id
					where w.id is null or w.dead_at is not null)),  -- a live worker drops its last one when it settles the next job, or leaves
				('handovers', (select count(*) from offstage_private.handover)),
				('cancellations', (select count(*) from offstage_private.cancellation)),
				('slots', (select coalesce(sum(cardinality(claims)), 0) from offstage_private.queue_state))
			) x (what, n) where n > 0)`).Scan(&left)
		if err == nil && len(left) > 0 {
			err = errors.New("left: " + strings.Join(left, ", "))
		}
		return err
	})
}

// histories are the outcomes of all jobs, in order; but first what workers had to say of claims that never came to be, which
// have no claimed_at: it may come after the job has run elsewhere, and ended.
func (s *stage) histories() map[int64][]string {
	s.t.Helper()
	rows, err := s.pool.Query(s.ctx(), `
		select a.job_id, array(select h.outcome from offstage_private.history h where h.job_id = a.job_id order by h.claimed_at is not null or h.outcome <> 'rescued', h.settled_at, h.claim)
		from (select job_id from app.added union select job_id from offstage_private.history) a`)
	if err != nil {
		s.t.Fatal(err)
	}
	all := map[int64][]string{}
	var id int64
	var outcomes []string
	if _, err = pgx.ForEachRow(rows, []any{&id, &outcomes}, func() error {
		all[id] = slices.Clone(outcomes)
		return nil
	}); err != nil {
		s.t.Fatal(err)
	}
	return all
}

func count(list []string, of ...string) (n int) {
	for _, x := range list {
		if slices.Contains(of, x) {
			n++
		}
	}
	return n
}

// ledger compares what was added, what ran and what history says: every job has succeeded once, and ran again only
// where history says why.
func (s *stage) ledger(runs map[int64]int) {
	s.t.Helper()
	added := map[int64]bool{}
	for _, id := range one[[]int64](s, `select array(select job_id from app.added)`) {
		added[id] = true
	}
	wrong := 0
	complain := func(format string, args ...any) {
		s.t.Helper()
		if wrong++; wrong <= 10 {
			s.t.Errorf(format, args...)
		}
	}
	histories := s.histories()
	for id, h := range histories {
		if !added[id] {
			complain("job %d was never committed, and history has %v", id, h)
			continue
		}
		h = slices.DeleteFunc(h, func(o string) bool { return o == "refused" })
		if count(h, "succeeded") != 1 || h[len(h)-1] != "succeeded" || count(h, "failed", "cancelled", "removed") > 0 {
			complain("job %d: history is %v", id, h)
		}
		if n := runs[id]; n < 1 || n > len(h) || n > 1+count(h, "rescued", "released", "retried") {
			complain("job %d ran %d times, and history is %v", id, n, h)
		}
		delete(runs, id)
	}
	for id, n := range runs {
		complain("job %d ran %d times and is in no history", id, n)
	}
	if wrong > 10 {
		s.t.Errorf("… and %d more", wrong-10)
	}
	s.t.Logf("%d jobs", len(histories))
}

// overlaps are pairs of runs in one queue that were under way at the same time, both under a claim that was valid: a
// claim ends to be so when it is settled or rescued, whatever its handler does.
func (s *stage) overlaps(queue string) int {
	s.t.Helper()
	return one[int](s, `
		with valid as (
			select r.id, r.started_at, least(r.ended_at, (select min(h.settled_at) from offstage_private.history h
				where h.job_id = r.job_id and h.claim = r.claim and h.outcome <> 'refused')) as ended_at
			from app.run r where r.queue = $1 and r.claim is not null
		)
		select count(*) from valid a join valid b on a.id < b.id
		where a.started_at < coalesce(b.ended_at, 'infinity') and b.started_at < coalesce(a.ended_at, 'infinity')`, queue)
}

// watchQueue looks, until stop is called, how many jobs of a queue run at the same time; stop answers the most. Each look
// is one snapshot, so that the answer is exact.
func (s *stage) watchQueue(queue string) (stop func() int) {
	quit, answer := make(chan struct{}), make(chan int, 1)
	conn := s.db.Conn(s.t)
	go func() {
		most := 0
		tick := time.NewTicker(3 * time.Millisecond)
		defer tick.Stop()
		for {
			var n int
			if conn.QueryRow(context.Background(), `
				select count(*) from offstage_private.lease l
				cross join lateral unnest(l.job_ids) with ordinality x (id, position)
				join offstage_private.job j on j.id = x.id and j.released_claim < l.claim
				join offstage_private.queue q on q.id = j.queue_id
				where q.name = $1`, queue).Scan(&n) == nil {
				most = max(most, n)
			}
			select {
			case <-quit:
				answer <- most
				return
			case <-tick.C:
			}
		}
	}()
	stop = sync.OnceValue(func() int {
		close(quit)
		return <-answer
	})
	s.t.Cleanup(func() { stop() })
	return stop
}
