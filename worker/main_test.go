package worker_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/internal/pgtest"
	"github.com/offstage-dev/offstage/worker"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// stage is a database with a client, for workers of one test.
type stage struct {
	t      *testing.T
	db     *pgtest.DB
	pool   *pgxpool.Pool
	client *offstage.Client
}

func newStage(t *testing.T) *stage {
	t.Helper()
	t.Parallel()
	db := pgtest.New(t)
	return onStage(t, db)
}

func onStage(t *testing.T, db *pgtest.DB) *stage {
	pool := db.Pool(t)
	client, err := offstage.New(pool, offstage.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return &stage{t, db, pool, client}
}

// quiet is a logger for tests; OFFSTAGE_TEST_LOG=1 shows it.
func quiet() *slog.Logger {
	if os.Getenv("OFFSTAGE_TEST_LOG") != "" {
		return slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	return slog.New(slog.NewTextHandler(io.Discard, nil))
}

func (s *stage) worker(cfg worker.Config) *worker.Worker {
	s.t.Helper()
	if cfg.Log == nil {
		cfg.Log = quiet()
	}
	w, err := worker.New(s.pool, cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	return w
}

// run runs w until stop is called, or the test ends; stop answers what Run returned.
func (s *stage) run(w *worker.Worker) (stop func() error) {
	s.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	var once sync.Once
	var result error
	stop = func() error {
		once.Do(func() { // whoever comes second waits for the first
			cancel()
			select {
			case result = <-done:
			case <-time.After(time.Minute):
				s.t.Error("the worker did not stop within a minute")
			}
		})
		return result
	}
	s.t.Cleanup(func() {
		if err := stop(); err != nil {
			s.t.Errorf("run: %v", err)
		}
	})
	return stop
}

func (s *stage) ctx() context.Context { return pgtest.Context(s.t) }

func (s *stage) add(task string, payload any, opts ...offstage.Options) int64 {
	s.t.Helper()
	id, err := s.client.Add(s.ctx(), task, payload, opts...)
	if err != nil {
		s.t.Fatal(err)
	}
	return id
}

// burst adds n jobs of the task "burst".
func (s *stage) burst(n int) {
	s.t.Helper()
	specs := make([]offstage.Spec, n)
	for i := range specs {
		specs[i].Task = "burst"
	}
	if _, err := s.client.AddMany(s.ctx(), specs); err != nil {
		s.t.Fatal(err)
	}
}

func (s *stage) exec(sql string, args ...any) {
	s.t.Helper()
	pgtest.Do(s.t, s.pool, sql, args...)
}

// one is the only value of a query.
func one[T any](s *stage, sql string, args ...any) T {
	s.t.Helper()
	return pgtest.One[T](s.t, s.pool, sql, args...)
}

// outcome waits until the job has ended.
func (s *stage) outcome(id int64) offstage.Status {
	s.t.Helper()
	var st offstage.Status
	s.eventually(func() bool {
		var err error
		st, err = s.client.Status(s.ctx(), id)
		if err != nil {
			s.t.Fatal(err)
		}
		return st.Outcome != ""
	}, "job %d has not ended", id)
	return st
}

func (s *stage) eventually(ok func() bool, format string, args ...any) {
	s.t.Helper()
	deadline := time.After(30 * time.Second)
	for tick := time.NewTicker(5 * time.Millisecond); !ok(); {
		select {
		case <-tick.C:
		case <-deadline:
			s.t.Fatalf(format, args...)
		}
	}
}

// claimed waits until others can see that the job runs: its attempt starts before the claim is committed.
func (s *stage) claimed(id int64) {
	s.t.Helper()
	s.eventually(func() bool { return one[bool](s, "select locked_by is not null from offstage.jobs where id = $1", id) }, "job %d is not claimed", id)
}

// asleep waits until no worker looks any more. While one falls asleep, it looks every 100 ms at least.
func (s *stage) asleep() {
	s.t.Helper()
	s.eventually(func() bool {
		return one[bool](s, `select count(*) = (select count(*) from offstage_private.worker) and coalesce(bool_and(state = 'idle' and state_change < clock_timestamp() - interval '300 ms'), false)
			from pg_stat_activity where datname = current_database() and query ~ '\.(claim|settle|offer)\('`)
	}, "a worker does not sleep")
}

// empty checks that nothing is left of any job.
func (s *stage) empty() {
	s.t.Helper()
	for _, table := range []string{"job", "ticket", "scheduled", "parked", "cancellation"} {
		if n := one[int](s, "select count(*) from offstage_private."+table); n != 0 {
			s.t.Errorf("%d rows are left in %s", n, table)
		}
	}
	if n := one[int](s, "select coalesce(sum(cardinality(claims)), 0) from offstage_private.queue_state"); n != 0 {
		s.t.Errorf("%d slots of queues are still taken", n)
	}
}

// log are the lines of a job, in order: attempt, level, message, attributes.
func (s *stage) log(id int64) (all []string) {
	s.t.Helper()
	var last *offstage.LogLine
	for {
		lines, err := s.client.Log(s.ctx(), id, last)
		if err != nil {
			s.t.Fatal(err)
		}
		if len(lines) == 0 {
			return all
		}
		for _, l := range lines {
			all = append(all, strings.TrimSpace(fmt.Sprintf("%d %s %s %s", l.Attempt, l.Level, l.Message, string(l.Attrs))))
		}
		last = &lines[len(lines)-1]
	}
}

// history are the outcomes of a job, in order.
func (s *stage) history(id int64) []string {
	return one[[]string](s, "select coalesce(array_agg(outcome order by settled_at, claim), '{}') from offstage_private.history where job_id = $1", id)
}
