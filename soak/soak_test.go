//go:build soak && unix

package soak_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/internal/pgtest"
)

var (
	duration = flag.Duration("for", 30*time.Minute, "how long jobs are added and workers are killed")
	seed     = flag.Uint64("seed", 0, "of all that is random; 0: the time")
	fleet    = flag.Int("workers", 3, "worker processes")
	rate     = flag.Float64("rate", 0, "jobs added in a second; 0: half of what the machine can do")
)

func TestMain(m *testing.M) {
	if url := os.Getenv(urlVariable); url != "" {
		os.Exit(work(url))
	}
	pgtest.Main(m)
}

// soak is one run. What is counted is atomic; the rest is set before the goroutines start.
type soak struct {
	t      *testing.T
	db     *pgtest.DB
	pool   *pgxpool.Pool // of those who add and meddle
	watch  *pgxpool.Pool // of those who look on
	client *offstage.Client
	dir    string
	log    string // of the server
	began  time.Time

	pace     pace
	stranded int // jobs that are nowhere, as last seen; belongs to progress

	transactions, rolledBack, serialization, added, meddled atomic.Int64
	kills, stops, restarts                                  atomic.Int64
	complaints                                              atomic.Int64
}

func TestSoak(t *testing.T) {
	if *seed == 0 {
		*seed = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d, %v, %d workers", *seed, *duration, *fleet)
	s := newSoak(t)

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var watching, busy, chaos sync.WaitGroup
	watching.Go(func() { s.progress(ctx) })
	watching.Go(func() { s.watchQueues(ctx) })

	workers := make([]*slot, *fleet)
	for i := range workers {
		workers[i] = &slot{s: s, rng: s.rng(uint64(100 + i)), forbid: i == 0}
		workers[i].start()
	}
	quit, stop := context.WithCancel(ctx)
	defer stop()
	for i := range shortAdders + longAdders {
		busy.Go(func() { (&adder{s: s, rng: s.rng(uint64(i)), long: i >= shortAdders}).run(quit) })
	}
	s.measure(quit)
	busy.Go(func() { (&meddler{s: s, rng: s.rng(50)}).run(quit) })
	for _, w := range workers {
		chaos.Go(func() { w.torment(quit) })
	}

	select {
	case <-time.After(*duration):
	case <-ctx.Done():
	}
	stop()
	busy.Wait()
	chaos.Wait()
	s.say("no more jobs are added, all workers run")
	s.drain(ctx)
	for _, w := range workers {
		w.leave()
	}
	cancel()
	watching.Wait()
	s.checkLogs(workers)
	s.ledger()
	s.summary()
}

// TestLedger: where nothing has been done, nothing is wrong. What the ledger asks changes with the schema, and a soak is long; so CI asks it.
func TestLedger(t *testing.T) {
	s := newSoak(t)
	s.exec(`select offstage.promote()`) // queues were configured
	s.ledger()
	s.summary()
}

func newSoak(t *testing.T) *soak {
	dir := t.TempDir()
	server := pgtest.Server(t, map[string]string{
		"fsync":                  "on",
		"full_page_writes":       "on",
		"max_wal_size":           "1GB",
		"track_commit_timestamp": "on", // a job exists from then on
		"log_lock_waits":         "on",
	})
	s := &soak{t: t, db: pgtest.New(t, pgtest.On(server)), dir: dir, log: server.LogFile(), began: time.Now()}
	s.pace.set(1e6)
	s.pool = s.db.Pool(t, func(c *pgxpool.Config) { c.MaxConns = 2*(shortAdders+longAdders) + 4 })
	s.watch = s.db.SuperPool(t)
	var err error
	if s.client, err = offstage.New(s.pool, offstage.Config{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.client.Close)
	s.exec(application)
	s.widen()
	// Queues and lanes exist before the load: two callers who both bring the same two new names wait for one another.
	for i := range serialQueues {
		s.exec(`select offstage.configure_queue($1, 1)`, serialQueue(i))
	}
	for _, task := range tasks {
		for _, flags := range flagSets {
			if _, err := s.client.Add(t.Context(), task, payload{Do: "ok"}, offstage.Options{Flags: flags, RunAt: time.Now().Add(time.Hour), Key: "warm"}); err != nil {
				t.Fatal(err)
			}
		}
	}
	s.exec(`select offstage.remove_job('warm')`)
	s.exec(`truncate offstage_private.history`)
	return s
}

// application are the tables of the program that has the jobs, and a trigger of its own that adds some.
const application = `
create schema app;
create table app.added (                  -- in the transaction that adds
  job_id bigint not null, how text not null, key text
);
create table app.run (                    -- by handlers, through a connection of their own
  id bigint generated always as identity primary key, job_id bigint not null, claim bigint, pid integer not null,
  task text not null, queue text, started_at timestamptz not null default clock_timestamp(), ended_at timestamptz, ending text
);
create table app.effect (job_id bigint not null);  -- in the transaction in which a handler completes its job
create table app.document (id bigint generated always as identity primary key, jobs integer not null, task text not null, payload json not null);
create function app.on_document() returns trigger language plpgsql set search_path = '' as $$
begin
  for i in 1 .. new.jobs loop
    insert into app.added (job_id, how) select j.id, 'trigger' from offstage.add_job(new.task, new.payload) j;
  end loop;
  return null;
end $$;
create trigger on_document after insert on app.document for each row execute function app.on_document();
`

// rng is a source of chance for one goroutine.
func (s *soak) rng(n uint64) *rand.Rand { return rand.New(rand.NewPCG(*seed, n)) }

func (s *soak) exec(sql string, args ...any) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if _, err := s.pool.Exec(ctx, sql, args...); err != nil {
		s.t.Fatalf("%s: %v", sql, err)
	}
}

// say prints at once, with the time since the beginning; the testing package would keep it until the end.
func (s *soak) say(format string, args ...any) {
	fmt.Printf("%8s  %s\n", time.Since(s.began).Round(100*time.Millisecond), fmt.Sprintf(format, args...))
}

// complain fails the test and goes on. Of many complaints the first are told.
func (s *soak) complain(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if s.complaints.Add(1) <= 50 {
		s.say("WRONG: %s", text)
	}
	s.t.Errorf("%s", strings.TrimSpace(text))
}

// pause lets time pass; false: ctx has ended.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// between is a random duration.
func between(rng *rand.Rand, from, to time.Duration) time.Duration {
	return from + time.Duration(rng.Int64N(int64(to-from)+1))
}

func pick[T any](rng *rand.Rand, list []T) T { return list[rng.IntN(len(list))] }
