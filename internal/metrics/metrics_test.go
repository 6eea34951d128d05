package metrics_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/internal/metrics"
	"github.com/offstage-dev/offstage/internal/pgtest"
	"github.com/offstage-dev/offstage/worker"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

var quiet = slog.New(slog.DiscardHandler)

// scrape is what /metrics prints, by metric with its labels.
func scrape(t *testing.T, r metrics.Registry) map[string]float64 {
	t.Helper()
	answer := httptest.NewRecorder()
	r.Handler(quiet).ServeHTTP(answer, httptest.NewRequest("GET", "/metrics", nil))
	text, err := io.ReadAll(answer.Result().Body)
	if err != nil || answer.Code != 200 {
		t.Fatalf("%d %v", answer.Code, err)
	}
	problems, err := promlint.New(strings.NewReader(string(text))).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "offstage_") {
			t.Errorf("lint: %s: %s", p.Metric, p.Text)
		}
	}
	got := map[string]float64{}
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		at := strings.LastIndex(line, " ")
		var v float64
		if _, err := fmt.Sscan(line[at+1:], &v); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		got[line[:at]] = v
	}
	return got
}

func want(t *testing.T, got map[string]float64, all map[string]float64) {
	t.Helper()
	for name, v := range all {
		if g, ok := got[name]; !ok || math.Abs(g-v) > 1e-9 {
			t.Errorf("%s is %v (%v), want %v", name, g, ok, v)
		}
	}
}

type stage struct {
	pool   *pgxpool.Pool
	client *offstage.Client
}

func newStage(t *testing.T) *stage {
	t.Helper()
	t.Parallel()
	pool := pgtest.New(t).Pool(t)
	client, err := offstage.New(pool, offstage.Config{})
	if err != nil {
		t.Fatal(err)
	}
	return &stage{pool, client}
}

func (s *stage) add(t *testing.T, task string, opts ...offstage.Options) int64 {
	t.Helper()
	id, err := s.client.Add(pgtest.Context(t), task, nil, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// A worker that has run jobs which ended in every way exports what they did, to the number.
func TestWorker(t *testing.T) {
	s := newStage(t)
	r := metrics.NewRegistry()
	m := metrics.NewWorker(r)
	w, err := worker.New(s.pool, worker.Config{Jobs: 3, Observer: m, Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	type none = struct{}
	hold := make(chan none)
	worker.Handle(w, "good", func(context.Context, *worker.Job[none]) (none, error) { return none{}, nil })
	worker.Handle(w, "slow", func(context.Context, *worker.Job[none]) (none, error) {
		<-time.After(70 * time.Millisecond)
		return none{}, nil
	})
	worker.Handle(w, "held", func(context.Context, *worker.Job[none]) (none, error) { <-hold; return none{}, nil })
	worker.Handle(w, "bad", func(_ context.Context, j *worker.Job[none]) (none, error) {
		switch j.Key {
		case "fail":
			return none{}, offstage.Fail(errors.New("no"))
		case "cancel":
			return none{}, offstage.Cancel(errors.New("no"))
		case "snooze":
			return none{}, offstage.Snooze(time.Hour)
		}
		return none{}, errors.New("again")
	})
	m.Know(w.Tasks())
	m.Follow(r, w.Status)
	want(t, scrape(t, r), map[string]float64{
		`offstage_jobs_total{outcome="succeeded",task="good"}`: 0, `offstage_jobs_total{outcome="failed",task="bad"}`: 0,
		`offstage_slots{state="busy"}`: 0, `offstage_slots{state="free"}`: 0, `offstage_db_errors_total`: 0, `offstage_claim_seconds_count`: 0,
	})
	for range 50 {
		s.add(t, "good")
	}
	s.add(t, "slow")
	s.add(t, "slow", offstage.Options{RunAt: time.Now().Add(-5 * time.Second)}) // due since it was added, not before
	for _, key := range []string{"fail", "cancel", "snooze", "retry"} {
		s.add(t, "bad", offstage.Options{Key: key})
	}
	s.add(t, "bad", offstage.Options{MaxAttempts: 1})
	s.add(t, "held")
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	defer func() {
		close(hold)
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if st := w.Status(); st.State != worker.Stopped || st.Slots != 3 {
			t.Errorf("%+v", st)
		}
		want(t, scrape(t, r), map[string]float64{`offstage_jobs_total{outcome="succeeded",task="held"}`: 1, `offstage_slots{state="busy"}`: 0, `offstage_slots{state="free"}`: 0})
	}()
	pgtest.Eventually(t, 30*time.Second, func() bool {
		return scrape(t, r)[`offstage_jobs_total{outcome="succeeded",task="good"}`] == 50 && w.Status().Busy == 1 &&
			scrape(t, r)[`offstage_jobs_total{outcome="succeeded",task="slow"}`] == 2
	})
	got := scrape(t, r)
	want(t, got, map[string]float64{
		`offstage_jobs_total{outcome="succeeded",task="good"}`:     50,
		`offstage_jobs_total{outcome="succeeded",task="slow"}`:     2,
		`offstage_jobs_total{outcome="failed",task="bad"}`:         2,
		`offstage_jobs_total{outcome="cancelled",task="bad"}`:      1,
		`offstage_jobs_total{outcome="snoozed",task="bad"}`:        1,
		`offstage_jobs_total{outcome="retried",task="bad"}`:        1,
		`offstage_job_run_seconds_count{task="good"}`:              50,
		`offstage_job_wait_seconds_count{task="good"}`:             50,
		`offstage_job_run_seconds_count{task="bad"}`:               5,
		`offstage_job_run_seconds_bucket{task="slow",le="0.064"}`:  0,
		`offstage_job_run_seconds_bucket{task="slow",le="+Inf"}`:   2,
		`offstage_job_wait_seconds_bucket{task="slow",le="4.096"}`: 2,
		`offstage_slots{state="busy"}`:                             1,
		`offstage_slots{state="free"}`:                             2,
		`offstage_db_errors_total`:                                 0,
	})
	for _, name := range []string{`offstage_claim_seconds`, `offstage_settle_seconds`} {
		if n, sum := got[name+"_count"], got[name+"_sum"]; n < 1 || sum <= 0 || sum > n*5 {
			t.Errorf("%s: %v calls, %v s", name, n, sum)
		}
	}
	if _, there := got["go_goroutines"]; !there {
		t.Error("nothing of Go itself")
	}
	// The numbers are those of the statistics in the database.
	pgtest.Eventually(t, 10*time.Second, func() error {
		rows, err := s.pool.Query(t.Context(), `select task, outcome, sum(n)::float8 from offstage.statistics(now() - interval '5 min', null, by => '{task,outcome}', times => false) group by 1, 2`)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var task, outcome string
			var n float64
			if err := rows.Scan(&task, &outcome, &n); err != nil {
				return err
			}
			if name := fmt.Sprintf(`offstage_jobs_total{outcome="%s",task="%s"}`, outcome, task); got[name] != n {
				return fmt.Errorf("%s is %v, and statistics say %v", name, got[name], n)
			}
		}
		return rows.Err()
	})
}

// The buckets are those of SQL.
func TestBuckets(t *testing.T) {
	s := newStage(t)
	r := metrics.NewRegistry()
	m := metrics.NewWorker(r)
	m.Settled([]worker.Settled{{Task: "t", Outcome: offstage.OutcomeSucceeded, Started: true, Run: time.Millisecond}})
	got := scrape(t, r)
	bounds := pgtest.One[[]float64](t, s.pool, `select offstage.buckets()`)
	for _, b := range bounds {
		if _, ok := got[fmt.Sprintf(`offstage_job_run_seconds_bucket{task="t",le="%v"}`, b)]; !ok {
			t.Errorf("no bucket ends at %v", b)
		}
	}
	n := 0
	for name := range got {
		if strings.HasPrefix(name, "offstage_job_run_seconds_bucket") {
			n++
		}
	}
	if n != len(bounds)+1 {
		t.Errorf("%d buckets, SQL has %d", n, len(bounds))
	}
}

// However many tasks there are, 200 have labels.
func TestManyTasks(t *testing.T) {
	s := newStage(t)
	r := metrics.NewRegistry()
	m := metrics.NewWorker(r)
	for i := range 500 {
		m.Settled([]worker.Settled{{Task: fmt.Sprintf("task %d", i), Outcome: offstage.OutcomeSucceeded}})
	}
	want(t, scrape(t, r), map[string]float64{
		`offstage_jobs_total{outcome="succeeded",task="task 199"}`: 1, `offstage_jobs_total{outcome="succeeded",task="other"}`: 300,
	})
	if n, err := testutil.GatherAndCount(r, "offstage_jobs_total"); err != nil || n != 201 {
		t.Errorf("%d series", n)
	}

	pgtest.Do(t, s.pool, `select count(offstage.add_job('task ' || i)) from generate_series(1, 300) i`)
	database := metrics.NewRegistry()
	metrics.NewDatabase(database, s.pool, "offstage", metrics.DatabaseOptions{})
	want(t, scrape(t, database), map[string]float64{
		`offstage_queue_depth{state="waiting",task="task 200"}`: 1, `offstage_queue_depth{state="waiting",task="other"}`: 100,
	})
	if n, err := testutil.GatherAndCount(database, "offstage_queue_depth"); err != nil || n != 201 {
		t.Errorf("%d series", n)
	}
}

func TestDatabase(t *testing.T) {
	s := newStage(t)
	r := metrics.NewRegistry()
	first := metrics.NewDatabase(r, s.pool, "offstage", metrics.DatabaseOptions{Totals: true})
	ctx := pgtest.Context(t)
	for range 3 {
		s.add(t, "mail")
	}
	s.add(t, "mail", offstage.Options{Flags: []string{"x"}, Priority: 4})
	s.add(t, "mail", offstage.Options{RunAt: time.Now().Add(time.Hour)})
	s.add(t, "mail", offstage.Options{Queue: "q"})
	s.add(t, "mail", offstage.Options{Queue: "q"})
	s.add(t, "mail", offstage.Options{Queue: "stopped"})
	s.add(t, "mail", offstage.Options{Queue: "stopped"})
	s.add(t, "stopped")
	bad := s.add(t, "bad")
	pgtest.Do(t, s.pool, `select offstage.permanently_fail_jobs(array[$1::bigint], 'no')`, bad)
	pgtest.Do(t, s.pool, `select offstage.pause_task('stopped')`)
	pgtest.Do(t, s.pool, `update offstage_private.ticket set run_at = run_at - interval '90 s' where lane_id in (select id from offstage_private.lane)`)
	if err := s.client.AddSchedule(ctx, offstage.Schedule{Name: "nightly", Task: "mail", Expression: "0 4 * * *"}); err != nil {
		t.Fatal(err)
	}
	pgtest.Do(t, s.pool, `update offstage_private.schedule set last_tick = '2026-01-01 04:00Z'`)
	pgtest.Do(t, s.pool, `select offstage.register('host', 1, 'v', 7, '[{"name": "mail"}]')`)

	got := scrape(t, r)
	want(t, got, map[string]float64{
		`offstage_queue_depth{state="scheduled",task="mail"}`:                1,
		`offstage_queue_depth{state="paused",task="stopped"}`:                1,
		`offstage_queue_depth{state="waiting",task="stopped"}`:               0,
		`offstage_queue_depth{state="failed",task="bad"}`:                    1,
		`offstage_queue_depth{state="waiting",task="bad"}`:                   0,
		`offstage_oldest_waiting_seconds{task="bad"}`:                        0,
		`offstage_oldest_waiting_seconds{task="stopped"}`:                    0,
		`offstage_schedule_last_tick_timestamp{schedule="nightly"}`:          1767240000,
		`offstage_slots{source="database",state="busy"}`:                     0,
		`offstage_slots{source="database",state="free"}`:                     7,
		`offstage_db_errors_total`:                                           0,
		`offstage_jobs_total{outcome="failed",source="database",task="bad"}`: 0, // before this began
	})
	if sum := got[`offstage_queue_depth{state="waiting",task="mail"}`] + got[`offstage_queue_depth{state="parked",task="mail"}`]; sum != 8 {
		t.Errorf("%v jobs of mail wait or are parked", sum)
	}
	if age := got[`offstage_oldest_waiting_seconds{task="mail"}`]; age < 90 || age > 150 {
		t.Errorf("the oldest waits for %v s", age)
	}

	// What ends from now on is counted, once.
	w, err := worker.New(s.pool, worker.Config{Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	worker.Handle(w, "mail", func(context.Context, *worker.Job[struct{}]) (struct{}, error) { return struct{}{}, nil })
	if err := w.RunOnce(ctx); err != nil {
		t.Fatal(err)
	}
	if again := scrape(t, r); again[`offstage_queue_depth{state="scheduled",task="mail"}`] != 1 || again[`offstage_jobs_total{outcome="succeeded",source="database",task="mail"}`] != 0 {
		t.Error("what was read within five seconds is read again")
	}
	for range 2 {
		metrics.Forget(first)
		want(t, scrape(t, r), map[string]float64{
			`offstage_jobs_total{outcome="succeeded",source="database",task="mail"}`: 8,
			`offstage_job_run_seconds_count{source="database",task="mail"}`:          8,
			`offstage_job_wait_seconds_count{source="database",task="mail"}`:         8,
			`offstage_queue_depth{state="waiting",task="mail"}`:                      0,
			`offstage_queue_depth{state="scheduled",task="mail"}`:                    1,
		})
	}
}

// Histograms of the database have the buckets of SQL, cumulated, and grow with what has ended since the look before, however long ago that was;
// times of what ended more than five minutes ago are left out, its number is not.
func TestDatabaseTimes(t *testing.T) {
	s := newStage(t)
	r := metrics.NewRegistry()
	d := metrics.NewDatabase(r, s.pool, "offstage", metrics.DatabaseOptions{Totals: true})
	s.add(t, "mail")
	began := pgtest.One[time.Time](t, s.pool, `select now()`)
	ended := func(ago time.Duration, waits, runs string) {
		t.Helper()
		pgtest.Do(t, s.pool, `select offstage_private.count_ended($1, '{1,1}', '{null,null}', '{succeeded,failed}', $2::text::float8[], $3::text::float8[])`,
			began.Add(-ago), waits, runs)
	}
	times := func(name string, seconds ...float64) map[string]float64 { // as a histogram that has measured these has them
		all := map[string]float64{}
		for le, bound := 0, 0.001; le <= 28; le, bound = le+1, bound*2 {
			label, n := fmt.Sprint(bound), 0.0
			if le == 28 {
				label = "+Inf"
			}
			for _, s := range seconds {
				if s < bound || le == 28 {
					n++
				}
			}
			all[fmt.Sprintf(`offstage_job_%s_seconds_bucket{source="database",task="mail",le="%s"}`, name, label)] = n
		}
		return all
	}
	ended(0, "{1,1}", "{1,1}") // before the first look
	ended(3*time.Minute, "{1,1}", "{1,1}")
	want(t, scrape(t, r), times("run"))
	ended(0, "{0.0001,3}", "{0.5,400000}")
	ended(time.Minute, "{null,0.02}", "{null,0.7}")
	for range 2 { // what was told is not told again
		metrics.Forget(d)
		got := scrape(t, r)
		want(t, got, times("wait", 0.0001, 3, 0.02))
		want(t, got, times("run", 0.5, 400000, 0.7))
		want(t, got, map[string]float64{
			`offstage_jobs_total{outcome="succeeded",source="database",task="mail"}`: 2,
			`offstage_job_wait_seconds_sum{source="database",task="mail"}`:           0.0005 + (2.048+4.096)/2 + (0.016+0.032)/2,
		})
	}
	ended(3*time.Minute, "{1,1}", "{1,1}") // of a minute whose times were not read before: which of them are new is not known
	ended(2*time.Hour, "{1,1}", "{1,1}")
	ended(4*time.Minute, "{6,6}", "{0.9,0.9}")
	metrics.Away(d, 3*time.Hour)
	got := scrape(t, r)
	want(t, got, times("run", 0.5, 400000, 0.7, 0.9, 0.9))
	want(t, got, map[string]float64{`offstage_jobs_total{outcome="succeeded",source="database",task="mail"}`: 5})
}

// What runs, and what is put aside because its queue is paused.
func TestDatabasePlaces(t *testing.T) {
	s := newStage(t)
	r := metrics.NewRegistry()
	metrics.NewDatabase(r, s.pool, "offstage", metrics.DatabaseOptions{Totals: true})
	pgtest.Do(t, s.pool, `select offstage.pause_queue('stopped')`)
	for range 2 {
		s.add(t, "mail", offstage.Options{Queue: "stopped"})
		s.add(t, "mail")
		s.add(t, "mail", offstage.Options{Queue: "one at a time"})
	}
	pgtest.Do(t, s.pool, `select (w).worker_id, offstage.claim((w).worker_id, 10, (w).task_ids) from offstage.register('host', 1, 'v', 7, '[{"name": "mail"}]') w`)
	want(t, scrape(t, r), map[string]float64{
		`offstage_queue_depth{state="running",task="mail"}`: 3,
		`offstage_queue_depth{state="parked",task="mail"}`:  1,
		`offstage_queue_depth{state="paused",task="mail"}`:  2,
		`offstage_slots{source="database",state="busy"}`:    3,
		`offstage_slots{source="database",state="free"}`:    4,
	})
}

// Without a database the rest is told, and the error counted.
func TestDatabaseGone(t *testing.T) {
	t.Parallel()
	cfg, err := pgxpool.ParseConfig("postgres://nobody@127.0.0.1:1/none")
	if err != nil {
		t.Fatal(err)
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	r := metrics.NewRegistry()
	metrics.NewDatabase(r, pool, "offstage", metrics.DatabaseOptions{Totals: true})
	scrape(t, r)
	got := scrape(t, r) // counted after the first was gathered
	want(t, got, map[string]float64{"offstage_db_errors_total": 1})
	for name := range got {
		if strings.HasPrefix(name, "offstage_queue") {
			t.Error(name)
		}
	}
}

// What it costs to count an attempt.
func BenchmarkSettled(b *testing.B) {
	m := metrics.NewWorker(prometheus.NewRegistry())
	batch := make([]worker.Settled, 100)
	for i := range batch {
		batch[i] = worker.Settled{Task: fmt.Sprint("task ", i%5), Outcome: offstage.OutcomeSucceeded, Started: true, Wait: time.Millisecond, Run: time.Second}
	}
	b.ReportAllocs()
	for b.Loop() {
		m.Settled(batch)
	}
}
