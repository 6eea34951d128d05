package worker_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/schema"
	"github.com/offstage-dev/offstage/worker"
)

// Stopping in a burst: what has run is settled, what has not is waiting, with no attempt spent.
func TestStopLosesNothing(t *testing.T) {
	s := newStage(t)
	var ran atomic.Int32
	w := s.worker(worker.Config{})
	worker.Handle(w, "burst", func(context.Context, *worker.Job[none]) (none, error) {
		ran.Add(1)
		return none{}, nil
	})
	const n = 20000
	s.burst(n)
	stop := s.run(w)
	s.eventually(func() bool { return ran.Load() > 1000 }, "nothing runs")
	if err := stop(); err != nil {
		t.Fatalf("run: %v", err)
	}
	done := int(ran.Load())
	succeeded := one[int](s, "select count(distinct job_id) from offstage_private.history where outcome = 'succeeded'")
	waiting := one[int](s, "select count(*) from offstage.jobs where state = 'waiting' and attempts = 0")
	if succeeded != done || waiting != n-done {
		t.Errorf("%d jobs ran, %d are recorded, %d of %d wait", done, succeeded, waiting, n-done)
	}
	if left := one[int](s, "select count(*) from offstage_private.lease") + one[int](s, "select count(*) from offstage_private.worker"); left != 0 {
		t.Errorf("%d leases and workers are left", left)
	}
}

// What is fetched ahead goes back at once, unspent, while what runs still runs.
func TestStopGivesBack(t *testing.T) {
	s := newStage(t)
	var ran atomic.Int32
	finish := make(chan none)
	w := s.worker(worker.Config{Jobs: 1})
	worker.Handle(w, "burst", func(context.Context, *worker.Job[none]) (none, error) {
		if ran.Add(1) == 3000 {
			<-finish
		}
		return none{}, nil
	})
	const n = 20000
	s.burst(n)
	stop := s.run(w)
	s.eventually(func() bool { return ran.Load() == 3000 && w.Status().Ready > 0 }, "nothing is fetched ahead")
	go stop()
	s.eventually(func() bool {
		return one[int](s, "select count(*) from offstage.jobs where state = 'waiting' and attempts = 0") == n-3000
	}, "what was fetched ahead is not given back")
	close(finish)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if done := ran.Load(); done != 3000 {
		t.Errorf("%d jobs ran, expected 3000", done)
	}
}

// A running job may finish within the grace period, and its result is written.
func TestStopWaits(t *testing.T) {
	s := newStage(t)
	started, finish := make(chan none), make(chan none)
	w := s.worker(worker.Config{})
	worker.Handle(w, "long", func(ctx context.Context, job *worker.Job[none]) (string, error) {
		close(started)
		<-finish
		return "done", ctx.Err()
	})
	stop := s.run(w)
	id := s.add("long", nil)
	<-started
	go func() { stop() }()
	s.eventually(func() bool { return one[bool](s, "select bool_or(draining) from offstage_private.worker") }, "the worker does not drain")
	close(finish)
	if got, err := offstage.Await[string](s.ctx(), s.client, id); err != nil || got != "done" {
		t.Errorf("await answered %q, %v", got, err)
	}
}

// After the grace period contexts are cancelled, and the jobs released without spending the attempt, even of handlers
// that do not listen.
func TestStopReleases(t *testing.T) {
	s := newStage(t)
	started := make(chan none, 2)
	deaf := make(chan none)
	defer close(deaf)
	w := s.worker(worker.Config{StopGrace: 50 * time.Millisecond})
	worker.Handle(w, "polite", func(ctx context.Context, job *worker.Job[none]) (none, error) {
		started <- none{}
		<-ctx.Done()
		if !errors.Is(context.Cause(ctx), offstage.ErrStopping) {
			t.Errorf("the cause is %v", context.Cause(ctx))
		}
		return none{}, ctx.Err()
	})
	worker.Handle(w, "deaf", func(ctx context.Context, job *worker.Job[none]) (none, error) {
		started <- none{}
		<-deaf
		return none{}, nil
	})
	stop := s.run(w)
	ids := []int64{s.add("polite", nil), s.add("deaf", nil)}
	<-started
	<-started
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		if st, err := s.client.Status(s.ctx(), id); err != nil || st.State != offstage.Waiting || st.Attempt != 0 {
			t.Errorf("job %d is %+v, %v", id, st, err)
		}
		if got := s.history(id); !slices.Equal(got, []string{"released"}) {
			t.Errorf("history of job %d is %v", id, got)
		}
	}
}

func TestRunRefuses(t *testing.T) {
	s := newStage(t)
	ctx := s.ctx()
	if _, err := worker.New(nil, worker.Config{}); err == nil {
		t.Error("a worker without a pool was made")
	}
	for _, cfg := range []worker.Config{{Schema: "Bad Name"}, {Jobs: -1}, {PollInterval: -1}} {
		if _, err := worker.New(s.pool, cfg); err == nil {
			t.Errorf("config %+v was taken", cfg)
		}
	}
	if err := s.worker(worker.Config{}).Run(ctx); err == nil || !strings.Contains(err.Error(), "no tasks") {
		t.Errorf("without tasks: %v", err)
	}
	w := s.worker(worker.Config{Schema: "elsewhere"})
	worker.Handle(w, "t", func(context.Context, *worker.Job[none]) (none, error) { return none{}, nil })
	if err := w.Run(ctx); !errors.Is(err, schema.ErrOlder) || !strings.Contains(err.Error(), "offstage migrate --schema elsewhere") {
		t.Errorf("without a schema: %v", err)
	}
	pool, err := pgxpool.New(ctx, "postgres://nobody@127.0.0.1:1/none?connect_timeout=2")
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	w, err = worker.New(pool, worker.Config{Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	worker.Handle(w, "t", func(context.Context, *worker.Job[none]) (none, error) { return none{}, nil })
	if err := w.Run(ctx); err == nil || !strings.Contains(err.Error(), "connect") {
		t.Errorf("without a server: %v", err)
	}
}

// A newer program makes a breaking change: the worker finishes what runs, and stops.
func TestBreakingMigrationStops(t *testing.T) {
	s := newStage(t)
	started, finish := make(chan none), make(chan none)
	w := s.worker(worker.Config{})
	worker.Handle(w, "last", func(ctx context.Context, job *worker.Job[none]) (string, error) {
		close(started)
		<-finish
		return "done", nil
	})
	done := make(chan error, 1)
	go func() { done <- w.Run(context.Background()) }()
	id := s.add("last", nil)
	<-started
	s.exec("insert into offstage_private.migration (version, name, breaking) values (9999, 'tomorrow', true)")
	s.eventually(func() bool { return one[bool](s, "select bool_or(draining) from offstage_private.worker") }, "the worker does not drain")
	close(finish)
	select {
	case err := <-done:
		if !errors.Is(err, schema.ErrNewer) {
			t.Errorf("run: %v", err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("the worker did not stop")
	}
	if st := s.outcome(id); st.Outcome != offstage.OutcomeSucceeded {
		t.Errorf("the last job %s", st.Outcome)
	}
}

// Workers of two schemas in one database do not see each other's jobs or wakes.
func TestTwoSchemas(t *testing.T) {
	s := newStage(t)
	if _, err := schema.Migrate(s.ctx(), s.db.Conn(t), schema.Config{Schema: "graphile_worker"}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"offstage", "graphile_worker"} {
		w := s.worker(worker.Config{Schema: name, PollInterval: time.Hour})
		worker.Handle(w, "where", func(context.Context, *worker.Job[none]) (string, error) { return name, nil })
		s.run(w)
	}
	for _, name := range []string{"offstage", "graphile_worker"} {
		client, err := offstage.New(s.pool, offstage.Config{Schema: name})
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		id, err := client.Add(s.ctx(), "where", nil)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := offstage.Await[string](s.ctx(), client, id); err != nil || got != name {
			t.Errorf("a job of %s ran in %q, %v", name, got, err)
		}
	}
}
