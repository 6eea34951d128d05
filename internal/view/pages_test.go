package view

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/offstage-dev/offstage/internal/pgtest"
)

func openPages(t *testing.T) (*DB, *pgxpool.Pool) {
	t.Helper()
	pool := pgtest.New(t).Pool(t)
	db, err := Open(t.Context(), pool, "offstage")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	return db, pool
}

func must(t *testing.T, pool *pgxpool.Pool, sql string, args ...any) {
	t.Helper()
	if _, err := pool.Exec(t.Context(), sql, args...); err != nil {
		t.Fatal(err)
	}
}

// Quantiles are those of SQL.
func TestQuantile(t *testing.T) {
	t.Parallel()
	_, pool := openPages(t)
	for _, h := range []Histogram{nil, {}, {0, 0}, {5}, {1, 2, 3, 4}, {0, 0, 0, 7, 0, 1}, make(Histogram, 29), append(make(Histogram, 28), 3)} {
		for _, q := range []float64{0, 0.01, 0.5, 0.95, 1} {
			var want *float64
			if err := pool.QueryRow(t.Context(), `select offstage.quantile($1::bigint[], $2)`, []int64(h), q).Scan(&want); err != nil {
				t.Fatal(err)
			}
			got := h.Quantile(q)
			if (got == nil) != (want == nil) || got != nil && math.Abs(*got-*want) > 1e-9 {
				t.Errorf("%v at %v: %v, expected %v", h, q, got, want)
			}
		}
	}
}

func overview(ctx context.Context, db *DB, window string) (o Overview, err error) {
	if o.Standing, err = db.Standing(ctx); err == nil {
		o.Rates, err = db.Rates(ctx, window)
	}
	return o, err
}

func TestOverviewNumbers(t *testing.T) {
	t.Parallel()
	db, pool := openPages(t)
	o, err := overview(t.Context(), db, "nonsense")
	if err != nil || o.Statistics.Window != "1h" || len(o.Statistics.Points) != 60 || o.Oldest != nil || o.Workers != 0 || o.Schedules {
		t.Fatalf("of nothing: %+v %v", o, err)
	}
	must(t, pool, `select offstage.register('h', 1, 'v', 7, '[{"name": "a"}]')`)
	must(t, pool, `select offstage.add_job('a', '{}', run_at => now() - interval '5 min')`)
	must(t, pool, `select offstage.add_job('b', '{}', queue_name => 'q') from generate_series(1, 3)`)
	must(t, pool, `select offstage.add_job('halted', '{}', run_at => now() - interval '5 h'), offstage.pause_task('halted')`)
	must(t, pool, `select offstage.add_job('a', '{}', run_at => now() + interval '5 h')`)
	must(t, pool, `insert into offstage_private.statistic_raw (ended_at, task_id, queue_id, outcome, n, waits, runs)
		select now() - x.ago, t.id, 0, x.outcome, x.n, '{1,2}', '{4}' from offstage_private.task t,
		  (values ('succeeded', 40, interval '0'), ('rescued', 1, '0'), ('retried', 3, '10 min'), ('failed', 2, '20 min'), ('released', 5, '0'), ('failed', 9, '3 h')) x (outcome, n, ago)
		where t.name = 'a'`)
	if o, err = overview(t.Context(), db, "1h"); err != nil {
		t.Fatal(err)
	}
	if o.Waiting.N != 5 || o.Parked.N != 0 || o.Scheduled.N != 1 || o.Failed.N != 0 || o.Running.N != 0 || o.Workers != 1 || o.Slots != 7 {
		t.Errorf("counts: %+v", o)
	}
	if o.Oldest == nil || time.Since(*o.Oldest) < 4*time.Minute || time.Since(*o.Oldest) > time.Hour {
		t.Errorf("the oldest is due since %v; the one of a paused task does not count", o.Oldest)
	}
	sum := o.Statistics.Sum()
	if sum.Succeeded != 40 || sum.Retried != 4 || sum.Failed != 2 || sum.Other != 5 {
		t.Errorf("sums: %+v", sum)
	}
	if len(o.Tasks) != 1 || o.Tasks[0].Task != "a" || o.Tasks[0].Failed != 2 {
		t.Errorf("tasks: %+v", o.Tasks)
	}
	if got := o.Statistics.Waits.Total(); got != 15 {
		t.Errorf("%d waits are counted", got)
	}
	for window, n := range map[string]int{"24h": 24, "7d": 84} {
		must(t, pool, `select offstage.roll_up()`)
		o, err := overview(t.Context(), db, window)
		if err != nil || len(o.Statistics.Points) != n || o.Statistics.Sum().Failed != 11 {
			t.Errorf("%s: %d points, %+v, %v", window, len(o.Statistics.Points), o.Statistics.Sum(), err)
		}
	}
}

func TestQueuePages(t *testing.T) {
	t.Parallel()
	db, pool := openPages(t)
	must(t, pool, `select offstage_private.queue_id('q' || lpad(i::text, 3, '0')) from generate_series(1, 250) i`)
	must(t, pool, `select offstage.add_job('t', '{}', queue_name => 'q100') from generate_series(1, 1200) i`)
	must(t, pool, `select offstage.pause_queue('q007')`)
	var names []string
	for after, pages := "", 0; ; pages++ {
		p, err := db.Queues(t.Context(), "", after, false)
		if err != nil || pages > 3 {
			t.Fatalf("page %d: %v", pages, err)
		}
		for _, q := range p.Queues {
			names = append(names, q.Name)
		}
		if after = p.More; after == "" {
			break
		}
	}
	if len(names) != 250 || !slices.IsSorted(names) {
		t.Errorf("%d queues: %v", len(names), names)
	}
	p, err := db.Queues(t.Context(), "", "", true)
	if err != nil || len(p.Queues) != 2 || p.Queues[0].Name != "q007" || !p.Queues[0].Paused || p.Queues[1].Name != "q100" || p.Queues[1].Waiting != (Count{N: 1000, More: true}) {
		t.Errorf("busy: %+v %v", p, err)
	}
	if p, err = db.Queues(t.Context(), "q24", "", false); err != nil || len(p.Queues) != 10 {
		t.Errorf("found: %+v %v", p, err)
	}
	q, err := db.QueueDetail(t.Context(), "q100", "1h")
	if err != nil || q.Waiting.N != 1200 || q.Concurrency != 1 || q.Parked.N != 0 || q.Oldest == nil || !q.Counted {
		t.Errorf("one: %+v %v", q, err)
	}
}

func TestUnknownNames(t *testing.T) {
	t.Parallel()
	db, _ := openPages(t)
	by := Actor{Name: "ada", Source: "ui"}
	_, task := db.TaskDetail(t.Context(), "x", "1h")
	_, queue := db.QueueDetail(t.Context(), "x", "1h")
	_, schedule := db.Schedule(t.Context(), "x")
	for what, err := range map[string]error{
		"task": task, "queue": queue, "schedule": schedule, "pause task": db.PauseTask(t.Context(), by, "x"), "resume queue": db.ResumeQueue(t.Context(), by, "x"),
		"configure queue": db.ConfigureQueue(t.Context(), by, "x", 3),
	} {
		if !errors.Is(err, ErrUnknown) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// No page reads a table from its beginning to its end: with the settings of the planner as they are, and tables that are large.
func TestPlansOfPages(t *testing.T) {
	t.Parallel()
	db, pool := openPages(t)
	must(t, pool, `select offstage.add_job('t' || i % 5, '{}', queue_name => case when i % 2 = 0 then 'q' || i % 50 end) from generate_series(1, 20000) i`)
	for _, table := range []string{"job", "ticket", "parked", "queue", "task"} {
		must(t, pool, `analyze offstage_private.`+table)
	}
	for name, c := range map[string]struct {
		sql  string
		args []any
	}{
		"counts": {countsSQL, nil},
		"oldest": {oldestSQL, nil},
		"tasks":  {tasksSQL + ` order by t.name limit $1`, []any{500}},
		"queue":  {queueSQL + ` where q.name = $2::text`, []any{10000, "q1"}},
		"queues": {queueSQL + ` where q.name > $2::text order by q.name limit 101`, []any{1000, ""}},
	} {
		rows, err := pool.Query(t.Context(), "explain "+db.sql(c.sql), c.args...)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		plan, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for _, line := range plan {
			for _, table := range []string{"job ", "history", "log"} {
				if strings.Contains(line, "Seq Scan on "+table) {
					t.Errorf("%s reads all of %s:\n%s", name, table, strings.Join(plan, "\n"))
				}
			}
		}
	}
	start := time.Now()
	if _, err := overview(t.Context(), db, "1h"); err != nil {
		t.Error(err)
	}
	t.Log(fmt.Sprint("overview took ", time.Since(start)))
}
