package maintain_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/offstage-dev/offstage/internal/maintain"
	"github.com/offstage-dev/offstage/internal/pgtest"
	"github.com/offstage-dev/offstage/internal/store"
	"github.com/offstage-dev/offstage/internal/wake"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// stage is a database in which every new ticket is written down, with how late it came.
type stage struct {
	t        *testing.T
	db       *pgtest.DB
	pool     *pgxpool.Pool
	asked    atomic.Int32 // calls of promote,
	all      atomic.Int32 // and those of them that looked at all that is scheduled
	promoted atomic.Int32 // calls of Promoted
}

func newStage(t *testing.T) *stage {
	t.Helper()
	t.Parallel()
	db := pgtest.New(t)
	s := &stage{t: t, db: db}
	s.pool = db.Pool(t, func(c *pgxpool.Config) { c.ConnConfig.Tracer = s })
	s.exec(`create schema app`)
	s.exec(`create table app.given (job_id bigint not null, late interval not null)`)
	s.exec(`create function app.write_down() returns trigger language plpgsql as $$
		begin
			insert into app.given values (new.job_id, clock_timestamp() - new.run_at);
			return null;
		end $$`)
	s.exec(`create trigger write_down after insert on offstage_private.ticket for each row execute function app.write_down()`)
	return s
}

// TraceQueryStart counts calls of promote.
func (s *stage) TraceQueryStart(ctx context.Context, _ *pgx.Conn, q pgx.TraceQueryStartData) context.Context {
	if strings.Contains(q.SQL, "offstage.promote(") {
		s.asked.Add(1)
		if n := len(q.Args); n > 0 && q.Args[n-1] == 0.0 {
			s.all.Add(1)
		}
	}
	return ctx
}

func (s *stage) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

func (s *stage) exec(sql string, args ...any) {
	s.t.Helper()
	if _, err := s.pool.Exec(s.t.Context(), sql, args...); err != nil {
		s.t.Fatalf("%s: %v", sql, err)
	}
}

// open begins a transaction with this statement, which is rolled back at the end of the test at the latest.
func (s *stage) open(sql string) pgx.Tx {
	s.t.Helper()
	tx, err := s.pool.Begin(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = tx.Rollback(context.Background()) })
	if _, err := tx.Exec(s.t.Context(), sql); err != nil {
		s.t.Fatalf("%s: %v", sql, err)
	}
	return tx
}

func one[T any](s *stage, sql string, args ...any) (v T) {
	s.t.Helper()
	if err := s.pool.QueryRow(s.t.Context(), sql, args...).Scan(&v); err != nil {
		s.t.Fatalf("%s: %v", sql, err)
	}
	return v
}

// schedule adds n jobs that become due within a time, evenly spread.
func (s *stage) schedule(n int, first, within time.Duration) {
	s.t.Helper()
	s.exec(`select count(*) from offstage.add_jobs(array(
		select ('t', null, null, clock_timestamp() + ($2 + i * $3 / $1) * interval '1 us', null, null, null, null)::offstage.job_spec
		from generate_series(1, $1::bigint) i))`, n, first.Microseconds(), within.Microseconds())
}

// run runs chores until the test ends.
func (s *stage) run(kick <-chan struct{}) {
	s.t.Helper()
	s.runWith(kick, nil)
}

func (s *stage) runWith(kick <-chan struct{}, ticker *maintain.Ticker) {
	s.t.Helper()
	connect := wake.Connector(s.pool)
	c := maintain.Chores{
		Store: store.New("offstage"), Connect: connect, Kick: kick, Ticker: ticker, Log: slog.New(slog.DiscardHandler),
		Period: func() time.Duration { return time.Second }, Promoted: func() { s.promoted.Add(1) },
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	s.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			s.t.Errorf("run: %v", err)
		}
	})
}

// exact waits until n jobs have got tickets, and checks that each got one.
func (s *stage) exact(n int) {
	s.t.Helper()
	pgtest.Eventually(s.t, 30*time.Second, func() error {
		if got := one[int](s, "select count(*) from app.given"); got < n {
			return fmt.Errorf("%d of %d jobs have got tickets", got, n)
		}
		return nil
	})
	if got := one[int](s, "select count(*) from app.given"); got != n {
		s.t.Errorf("%d tickets were given to %d jobs", got, n)
	}
	if got := one[int](s, "select count(distinct job_id) from app.given"); got != n {
		s.t.Errorf("%d jobs of %d have got tickets", got, n)
	}
	if got := one[int](s, "select count(*) from offstage_private.ticket t join offstage_private.job j on (j.id, j.run_at, j.lane_id, j.priority) = (t.job_id, t.run_at, t.lane_id, t.priority)"); got != n {
		s.t.Errorf("%d tickets fit their jobs, expected %d", got, n)
	}
	if got := one[int](s, "select count(*) from offstage_private.scheduled"); got != 0 {
		s.t.Errorf("%d jobs are still scheduled", got)
	}
}

func (s *stage) lateness() (median, worst time.Duration) {
	s.t.Helper()
	err := s.pool.QueryRow(s.t.Context(), `select percentile_cont(0.5) within group (order by late), max(late) from app.given`).Scan(&median, &worst)
	if err != nil {
		s.t.Fatal(err)
	}
	return median, worst
}

// A job gets its ticket when it is due, not at some poll; and not before.
func TestPromoteIsOnTime(t *testing.T) {
	s := newStage(t)
	const n = 30
	s.schedule(n, 500*time.Millisecond, 1500*time.Millisecond)
	s.run(nil)
	s.exact(n)
	median, worst := s.lateness()
	t.Logf("tickets came %v late (median), %v at worst", median, worst)
	if median > 250*time.Millisecond || worst > 1500*time.Millisecond {
		t.Errorf("tickets came %v late (median), %v at worst", median, worst)
	}
	if early := one[int](s, "select count(*) from app.given where late < interval '0'"); early != 0 {
		t.Errorf("%d tickets came too early", early)
	}
	if s.promoted.Load() == 0 {
		t.Error("nobody was told of the tickets")
	}
}

// A kick makes it look at what was scheduled after it went to sleep.
func TestPromoteIsKicked(t *testing.T) {
	s := newStage(t)
	kick := make(chan struct{}, 1)
	s.run(kick)
	pgtest.Eventually(t, 20*time.Second, func() bool { return s.asked.Load() > 0 })
	s.schedule(1, 200*time.Millisecond, 0)
	kick <- struct{}{}
	s.exact(1)
	if _, worst := s.lateness(); worst > time.Second { // its own next look may be two seconds away
		t.Errorf("the ticket came %v late", worst)
	}
}

// What is due, but held by a caller's open transaction, is asked for now and then, and gets its ticket when that has ended.
func TestPromoteWaitsForCallers(t *testing.T) {
	s := newStage(t)
	s.schedule(1, 300*time.Millisecond, 0)
	tx := s.open("select from offstage_private.scheduled for update")
	s.run(nil)
	pgtest.Eventually(t, 20*time.Second, func() bool { return one[bool](s, "select run_at < clock_timestamp() from offstage_private.scheduled") })
	before, at := s.asked.Load(), time.Now()
	pgtest.Eventually(t, 20*time.Second, func() bool { return s.asked.Load() >= before+20 })
	if took := time.Since(at); took < 200*time.Millisecond {
		t.Errorf("twenty times in %v", took)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.exact(1)
}

func TestPromoteInSteps(t *testing.T) {
	s := newStage(t)
	const n = 2500 // more than one call gives tickets to
	s.schedule(n, 300*time.Millisecond, 0)
	s.run(nil)
	s.exact(n)
}

// Where one job after another comes due, they get their tickets some at a time: promote does not look for each.
func TestPromoteRests(t *testing.T) {
	s := newStage(t)
	const n = 2000
	s.schedule(n, 300*time.Millisecond, time.Second)
	s.run(nil)
	s.exact(n)
	if asked := s.asked.Load(); asked > n/4 {
		t.Errorf("it looked %d times for %d jobs", asked, n)
	}
	if median, _ := s.lateness(); median > 250*time.Millisecond {
		t.Errorf("tickets came %v late (median)", median)
	}
}

// Where an old snapshot keeps many that were scheduled and are gone, it seldom looks at all of them; and yet it finds what was committed long after it was due.
func TestPromoteAmongDead(t *testing.T) {
	s := newStage(t)
	s.open("declare c cursor for select from offstage_private.scheduled")
	s.exec(`insert into offstage_private.scheduled (run_at, job_id, lane_id, priority)
		select clock_timestamp() - interval '1 min' - n * interval '1 ms', -n, 1, 0 from generate_series(1, 200000) n`)
	s.exec("delete from offstage_private.scheduled")
	const n = 300
	s.schedule(n, 1500*time.Millisecond, 2*time.Second)
	late := s.open("select offstage.add_job('t', run_at => clock_timestamp() + interval '1 ms')")
	s.run(nil)
	pgtest.Eventually(t, 30*time.Second, func() bool { return one[int](s, "select count(*) from app.given") == n })
	if asked, all := s.asked.Load(), s.all.Load(); all == 0 || all > asked/2 {
		t.Errorf("%d of %d looks were at all that is scheduled", all, asked)
	}
	if err := late.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.exact(n + 1)
}

func TestTwoAtOnce(t *testing.T) {
	s := newStage(t)
	const n = 2000
	s.schedule(n, 0, 1500*time.Millisecond)
	s.run(nil)
	s.run(nil)
	s.exact(n)
}

// The advisory lock saves work. That every job gets one ticket is held by the rows alone.
func TestWithoutAdvisoryLocks(t *testing.T) {
	s := newStage(t)
	source := one[string](s, "select pg_catalog.pg_get_functiondef('offstage.promote(integer, interval)'::regprocedure)")
	const lock = "pg_try_advisory_xact_lock(hashtext('offstage'), -1)"
	if !strings.Contains(source, lock) {
		t.Fatalf("promote does not take its lock as this test knows it:\n%s", source)
	}
	s.exec(strings.ReplaceAll(source, lock, "true"))
	const n = 2000
	s.schedule(n, 0, 1500*time.Millisecond)
	for range 4 {
		s.run(nil)
	}
	// Beside them, callers that take jobs out of their places: those must not come back.
	var taken int
	for id := range int64(20) {
		var got int
		if err := s.pool.QueryRow(t.Context(), "select count(*) from offstage.delete_jobs(array[$1::bigint])", id*100+99).Scan(&got); err != nil {
			t.Fatal(err)
		}
		taken += got
	}
	if taken != 20 {
		t.Errorf("%d jobs were deleted, expected 20", taken)
	}
	s.exec(`delete from app.given g where not exists (select from offstage_private.job j where j.id = g.job_id)`)
	s.exact(n - taken)
}

// Where another one is at it, chores pass, and come back.
func TestLockedElsewhere(t *testing.T) {
	s := newStage(t)
	conn, ctx := s.db.Conn(t), t.Context()
	if _, err := conn.Exec(ctx, "select pg_advisory_lock(hashtext('offstage'), n) from generate_series(-3, -1) n"); err != nil {
		t.Fatal(err)
	}
	s.exec("insert into offstage_private.waiter values (1, now() - interval '1 day')")
	mine := s.db.Conn(t)
	db := store.New("offstage")
	as := store.Chore{Name: "c", Worker: 1, Period: time.Second}
	if n, next, busy, err := db.Promote(ctx, mine, as, 10, 0); n != 0 || next != 0 || !busy || err != nil {
		t.Errorf("promote answered %d, %v, %t, %v", n, next, busy, err)
	}
	if n, err := db.Rescue(ctx, mine, as); n != 0 || err != nil {
		t.Errorf("rescue answered %d, %v", n, err)
	}
	if err := db.Tidy(ctx, mine, as); err != nil || one[int](s, "select count(*) from offstage_private.waiter") != 1 {
		t.Errorf("tidy: %v", err)
	}
	s.schedule(5, 50*time.Millisecond, 0)
	s.run(nil)
	pgtest.Eventually(t, 20*time.Second, func() bool {
		return s.asked.Load() > 10 && one[bool](s, "select max(run_at) < now() from offstage_private.scheduled")
	})
	if got := one[int](s, "select count(*) from app.given"); got != 0 || s.promoted.Load() != 0 {
		t.Errorf("%d tickets were given while another one held the lock", got)
	}
	if _, err := conn.Exec(ctx, "select pg_advisory_unlock_all()"); err != nil {
		t.Fatal(err)
	}
	s.exact(5)
	if err := db.Tidy(ctx, mine, as); err != nil || one[int](s, "select count(*) from offstage_private.waiter") != 0 {
		t.Errorf("tidy: %v", err)
	}
}

// A lost connection is made again.
func TestConnectionIsLost(t *testing.T) {
	s := newStage(t)
	s.schedule(200, 0, 2*time.Second)
	s.run(nil)
	super := s.db.SuperPool(t)
	for range 3 {
		before := s.asked.Load()
		if _, err := super.Exec(t.Context(), `select pg_catalog.pg_terminate_backend(pid) from pg_catalog.pg_stat_activity
			where datname = pg_catalog.current_database() and query like '%offstage.promote(%' and pid <> pg_catalog.pg_backend_pid()`); err != nil {
			t.Fatal(err)
		}
		pgtest.Eventually(t, 20*time.Second, func() bool { return s.asked.Load() > before })
	}
	s.exact(200)
}
