package web

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/offstage-dev/offstage/internal/pgtest"
	"github.com/offstage-dev/offstage/internal/web/guard"
	"github.com/offstage-dev/offstage/worker"
)

// cost is what a run cost the database, in milliseconds by pg_stat_statements, and how long it took.
type cost struct {
	worker, web float64
	requests    int64
	took        time.Duration
}

// BenchmarkWhatLookingCosts, with -benchtime 1x: OFFSTAGE_TEST_COST jobs that do nothing, 200,000 if it is not set, are worked through, in
// turns with nobody looking and with 20 requests a second to the API and four pages open. It says how much more time the worker's statements
// take, and how much the pages' take. (By printing: what a benchmark logs is cut off.)
func BenchmarkWhatLookingCosts(t *testing.B) {
	jobs := numberFrom(t, "OFFSTAGE_TEST_COST", 200_000)
	db := pgtest.New(t, pgtest.On(pgtest.Server(t, map[string]string{"shared_preload_libraries": "pg_stat_statements", "max_wal_size": "4GB"})))
	super := db.SuperPool(t)
	pgtest.Do(t, super, `create extension pg_stat_statements schema public`)
	pool := db.Pool(t, func(cfg *pgxpool.Config) { cfg.MaxConns = 10 }) // the UI's
	server, err := New(pool, Config{Guard: guard.Config{Authenticate: func(*http.Request) (string, guard.Role, bool) { return "ada", guard.Admin, true }}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	web := httptest.NewServer(server.Handler())
	t.Cleanup(web.Close)
	const rounds = 5
	var alone, watched []cost
	for round := range rounds + 1 {
		for _, look := range []bool{round%2 == 0, round%2 != 0} {
			c := spend(t, db, super, web, jobs, look)
			switch {
			case round == 0: // to get warm
			case look:
				watched = append(watched, c)
			default:
				alone = append(alone, c)
			}
		}
	}
	report := func(what string, of func(i int) float64) {
		var all []float64
		for i := range rounds {
			all = append(all, of(i))
		}
		slices.Sort(all)
		fmt.Printf("%s: %.3f (%.3f–%.3f)\n", what, all[rounds/2], all[0], all[rounds-1])
	}
	n := float64(jobs)
	report("the worker's statements, alone, µs a job", func(i int) float64 { return alone[i].worker * 1000 / n })
	report("the worker's statements, watched, µs a job", func(i int) float64 { return watched[i].worker * 1000 / n })
	report("ratio of the two in a round", func(i int) float64 { return watched[i].worker / alone[i].worker })
	report("the pages' statements, ms a second", func(i int) float64 { return watched[i].web / watched[i].took.Seconds() })
	report("all statements, watched to alone", func(i int) float64 { return (watched[i].worker + watched[i].web) / alone[i].worker })
	report("alone, jobs a second", func(i int) float64 { return n / alone[i].took.Seconds() })
	report("watched, jobs a second", func(i int) float64 { return n / watched[i].took.Seconds() })
	report("ratio of the two in a round", func(i int) float64 { return alone[i].took.Seconds() / watched[i].took.Seconds() })
	report("requests a second", func(i int) float64 { return float64(watched[i].requests) / watched[i].took.Seconds() })
	load, _ := os.ReadFile("/proc/loadavg")
	fmt.Printf("load %s", load)
}

// spend works through so many jobs. The worker is a superuser, which tells its statements from the pages'.
func spend(t testing.TB, db *pgtest.DB, super *pgxpool.Pool, web *httptest.Server, jobs int, look bool) (c cost) {
	t.Helper()
	pgtest.Do(t, super, `truncate offstage_private.history, offstage_private.statistic_raw`)
	const chunk = 50_000
	for left := jobs; left > 0; left -= chunk {
		pgtest.Do(t, super, `select count(*) from offstage.add_jobs(array(select row('nothing', '{}', null, null, null, null, null, null)::offstage.job_spec from generate_series(1, $1::integer)))`, min(chunk, left))
	}
	pgtest.Do(t, super, `vacuum analyze offstage_private.job, offstage_private.ticket`)
	w, err := worker.New(db.SuperPool(t), worker.Config{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	var done atomic.Int64
	over := make(chan struct{})
	worker.Handle(w, "nothing", func(context.Context, *worker.Job[struct{}]) (struct{}, error) {
		if done.Add(1) == int64(jobs) {
			close(over)
		}
		return struct{}{}, nil
	})
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	var requests atomic.Int64
	if look {
		watch(ctx, t, &all, web, &requests)
		pgtest.Eventually(t, time.Minute, func() error { // the pages have been open for a while: every connection has planned its statements
			if n := requests.Load(); n < 100 {
				return fmt.Errorf("%d requests", n)
			}
			return nil
		})
	}
	pgtest.Do(t, super, `select public.pg_stat_statements_reset()`)
	began := time.Now()
	requests.Store(0)
	stopped := make(chan error, 1)
	running, stop := context.WithCancel(t.Context())
	go func() { stopped <- w.Run(running) }()
	<-over
	c.took, c.requests = time.Since(began), requests.Load()
	cancel()
	all.Wait()
	stop()
	if err := <-stopped; err != nil {
		t.Fatal(err)
	}
	const sum = `select coalesce(sum(s.total_exec_time + s.total_plan_time), 0) from pg_stat_statements s join pg_roles r on r.oid = s.userid
		where s.query !~ 'pg_stat_statements' and (r.rolname = 'owner') = $1`
	c.worker = pgtest.One[float64](t, super, `with pg_stat_statements as (select * from public.pg_stat_statements) `+sum, false)
	c.web = pgtest.One[float64](t, super, `with pg_stat_statements as (select * from public.pg_stat_statements) `+sum, true)
	if look {
		rows, err := super.Query(t.Context(), `select s.calls, s.total_exec_time + s.total_plan_time, left(regexp_replace(s.query, '\s+', ' ', 'g'), 110)
			from public.pg_stat_statements s join pg_roles r on r.oid = s.userid where r.rolname = 'owner' order by 2 desc limit 12`)
		if err != nil {
			t.Fatal(err)
		}
		var calls int64
		var ms float64
		var query string
		if _, err := pgx.ForEachRow(rows, []any{&calls, &ms, &query}, func() error {
			fmt.Printf("    %6.1f ms a second, %5.2f ms a call: %s\n", ms/c.took.Seconds(), ms/float64(calls), query)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// watch has four pages open, as a browser has, and asks the API 20 times a second, until ctx ends.
func watch(ctx context.Context, t testing.TB, all *sync.WaitGroup, web *httptest.Server, requests *atomic.Int64) {
	get := func(path, accept string) {
		r, err := http.NewRequestWithContext(ctx, "GET", web.URL+path, nil)
		if err != nil {
			t.Error(err)
			return
		}
		r.Header.Set("Accept", accept)
		a, err := web.Client().Do(r)
		if err != nil {
			if ctx.Err() == nil {
				t.Error(err)
			}
			return
		}
		defer a.Body.Close()
		if accept != "text/event-stream" {
			_, _ = io.Copy(io.Discard, a.Body)
			if a.StatusCode != 200 && a.StatusCode != 404 && ctx.Err() == nil {
				t.Errorf("%s: %s", path, a.Status)
			}
			return
		}
		page := map[string]string{"/live/overview?window=1h": "/?window=1h", "/live/jobs": "/jobs", "/live/tasks": "/tasks", "/live/workers": "/workers"}[path]
		buf := make([]byte, 4096)
		for {
			n, err := a.Body.Read(buf)
			if err != nil {
				return
			}
			if n > 20 { // it has changed
				all.Go(func() {
					r, _ := http.NewRequestWithContext(ctx, "GET", web.URL+page, nil)
					r.Header.Set("Accept", fragmentType)
					if a, err := web.Client().Do(r); err == nil {
						_, _ = io.Copy(io.Discard, a.Body)
						a.Body.Close()
					}
				})
			}
		}
	}
	for _, topic := range []string{"overview?window=1h", "jobs", "tasks", "workers"} {
		all.Go(func() { get("/live/"+topic, "text/event-stream") })
	}
	all.Go(func() {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for i := 0; ; i++ {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			path := []string{"/jobs/%d", "/jobs?limit=50", "/jobs/%d", "/depth", "/jobs/%d", "/tasks", "/jobs?state=failed", "/jobs/%d", "/queues", "/workers"}[i%10]
			if path == "/jobs/%d" {
				path = fmt.Sprintf(path, 1+i*7)
			}
			all.Go(func() {
				get("/api/v1"+path, "application/json")
				requests.Add(1)
			})
		}
	})
}
