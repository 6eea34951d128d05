package worker_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/offstage-dev/offstage/internal/pgtest"
	"github.com/offstage-dev/offstage/worker"
)

// A worker that gets no other connection for long, because everybody wants one at once, beats over the one that it claims with: it is not declared dead, and works.
func TestBeatsWithoutConnection(t *testing.T) {
	s := newStage(t)
	var made atomic.Int32
	free := make(chan struct{})
	few := s.db.Pool(t, func(cfg *pgxpool.Config) {
		cfg.BeforeConnect = func(ctx context.Context, _ *pgx.ConnConfig) error {
			if made.Add(1) > 1 {
				select {
				case <-free:
				case <-ctx.Done():
					return ctx.Err()
				}
			}
			return nil
		}
	})
	w, err := worker.New(few, worker.Config{Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	worker.Handle(w, "work", func(context.Context, *worker.Job[int]) (any, error) { return nil, nil })
	stop := s.run(w)
	dead := 5 * one[time.Duration](s, "select period from offstage.register('h', 1, 'v', 1, '[]')")
	pgtest.Eventually(t, 30*time.Second, func() bool { return !w.Status().LastBeat.IsZero() })
	first := w.Status().LastBeat
	pgtest.Eventually(t, 60*time.Second, func() bool { return w.Status().LastBeat.Sub(first) > dead+time.Second })
	if made.Load() < 2 {
		t.Error("it did not ask for another connection")
	}
	if _, err := s.client.Add(t.Context(), "work", 1); err != nil {
		t.Fatal(err)
	}
	settled := func() bool { return one[int](s, "select count(*) from offstage.jobs") == 0 }
	pgtest.Eventually(t, 20*time.Second, settled)
	if n := one[int](s, "select count(*) from offstage.workers where tasks <> '{}'"); n != 1 {
		t.Errorf("there have been %d workers, expected 1", n)
	}
	// When there are connections again, it has one of its own.
	close(free)
	pgtest.Eventually(t, 30*time.Second, func() bool {
		return one[bool](s, `select bool_or(query ~ '\.heartbeat\(') and bool_or(query ~ '\.(claim|offer)\(') from pg_stat_activity
			where datname = current_database() and pid <> pg_backend_pid()`)
	})
	if err := stop(); err != nil {
		t.Error(err)
	}
}
