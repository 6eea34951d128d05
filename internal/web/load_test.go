package web

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/offstage-dev/offstage/internal/pgtest"
	"github.com/offstage-dev/offstage/internal/web/guard"
)

// numberFrom is a number from the environment.
func numberFrom(t testing.TB, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s is %q, expected a positive number", name, text)
	}
	return n
}

// crowd makes an installation of this many live jobs (three of five wait, a fifth is scheduled, the others are parked in 1000 queues or
// have failed) of 20 tasks, and this many entries of history over seven days, one in a hundred of them with one of 500 errors; with
// workers that run 200 jobs, the statistics of a week, schedules and an audit. The newest job that has ended is -1.
func crowd(t *testing.T, pool *pgxpool.Pool, live, past int) {
	t.Helper()
	pgtest.Do(t, pool, `do $$ declare original text := pg_get_functiondef('offstage_private.clock()'::regprocedure); begin
		create table public.clock as select now() as at;
		create or replace function offstage_private.clock() returns timestamptz language sql volatile as 'select at from public.clock';
		for ago in reverse 7..0 loop
			update public.clock set at = now() - ago * interval '1 day';
			perform offstage.tidy();
		end loop;
		execute original;
		drop table public.clock;
	end $$`)
	pgtest.Do(t, pool, `select offstage_private.task_id('task' || n) from generate_series(1, 20) n`)
	pgtest.Do(t, pool, `select offstage_private.queue_id('queue' || n) from generate_series(1, 1000) n`)
	pgtest.Do(t, pool, `select offstage.register('host' || w, w, '1.0', 10, (select json_agg(json_build_object('name', 'task' || n)) from generate_series(1, 20) n)) from generate_series(1, 20) w`)
	pgtest.Do(t, pool, `create table public.task as select row_number() over (order by id)::integer as k, id, name from offstage_private.task where name like 'task%'`)
	pgtest.Do(t, pool, `create table public.error as select n as k, t.id, m.error, offstage_private.fingerprint(t.name, m.error) as fingerprint
		from generate_series(0, 499) n join public.task t on t.k = n % 20 + 1
		cross join lateral (select 'Error' || chr(65 + n / 20) || 'Of: it broke at ' || n || E'\n    at f (/srv/a.js:1:1)' as error) m`)
	const chunk = 250_000
	for from := 1; from <= live; from += chunk {
		pgtest.Do(t, pool, `with j as (
			insert into offstage_private.job (id, run_at, added_at, updated_at, task_id, lane_id, queue_id, priority, payload, failed, attempts, last_error, fingerprint)
			select nextval('offstage_private.job_id'), now() + n * case when n % 10 in (6, 7) then interval '1 s' else interval '-1 ms' end, now() - n * interval '1 ms',
				now() - interval '1 h', t.id, t.id, case when n % 10 = 8 then 1 + n / 10 % 1000 end, n % 7 % 3, json_build_object('user', json_build_object('id', n), 'kind', 'mail'),
				n % 10 = 9, case when n % 10 = 9 then 25 else 0 end, e.error, e.fingerprint
			from generate_series($1::integer, $2::integer) n join public.task t on t.k = n / 10 % 20 + 1
			left join public.error e on n % 10 = 9 and e.k = n / 10 % 25 * 20 + n / 10 % 20
			returning *),
		w as (insert into offstage_private.ticket (run_at, job_id, lane_id, queue_id, priority) select run_at, id, lane_id, queue_id, priority from j where run_at <= now() and not failed and queue_id is null and id > 200),
		s as (insert into offstage_private.scheduled (run_at, job_id, lane_id, queue_id, priority) select run_at, id, lane_id, queue_id, priority from j where run_at > now()),
		f as (insert into offstage_private.queue_front (run_at, job_id, queue_id, lane_id, priority) select distinct '-infinity'::timestamptz, 0, queue_id, lane_id, -32768 from j where queue_id is not null on conflict do nothing)
		insert into offstage_private.parked (run_at, job_id, lane_id, queue_id, priority) select run_at, id, lane_id, queue_id, priority from j where queue_id is not null`,
			from, min(from+chunk-1, live))
	}
	pgtest.Do(t, pool, `insert into offstage_private.lease (claim, worker_id, claimed_at, job_ids)
		select nextval('offstage_private.claim'), (select min(id) from offstage_private.worker) + n, now(),
			array(select j.id from offstage_private.job j where j.id between n * 10 + 1 and n * 10 + 10 and j.queue_id is null and not j.failed and j.run_at <= now()) from generate_series(0, 19) n`)
	for from := 1; from <= past; from += chunk {
		pgtest.Do(t, pool, `insert into offstage_private.history
			(settled_at, job_id, claim, added_at, run_at, claimed_at, task_id, worker_id, attempt, priority, outcome, error, fingerprint, payload, result)
			select e.at, -n, 1025, e.at - interval '1 min', e.at - interval '1 min', e.at - interval '1 s', t.id, 1, 1, 0,
				case when x.k is null then 'succeeded' when n % 1000 = 0 then 'failed' else 'retried' end, x.error, x.fingerprint, '{"id": 17}', '{"done": true}'
			from generate_series($3::integer, $4::integer) n join public.task t on t.k = n / 100 % 20 + 1
			left join public.error x on n % 100 = 0 and x.k = n / 100 % 25 * 20 + n / 100 % 20
			cross join lateral (select now() - n * interval '1 day' * $2 / $1::integer) e (at)`, past, 7, from, min(from+chunk-1, past))
	}
	for table, steps := range map[string][2]string{"statistic_minute": {"minute", "2 days"}, "statistic_hour": {"hour", "90 days"}} {
		pgtest.Do(t, pool, `insert into offstage_private.`+table+` (starts_at, task_id, queue_id, outcome, n, waits, runs)
			select at, t.id, 0, o, 50, '{0,1,2,3,10,20,10,5}', '{10,20,10,5,1}' from generate_series(date_trunc($1, now() - $2::interval), now(), ('1 ' || $1)::interval) at, public.task t,
				(values ('succeeded'), ('retried')) o (o)`, steps[0], steps[1])
	}
	pgtest.Do(t, pool, `select offstage.add_schedule('schedule' || n, 'task1', '@daily') from generate_series(1, 200) n`)
	pgtest.Do(t, pool, `update offstage_private.schedule set last_tick = now(), last_job_id = case when id % 10 = 0 then id else -100 * id - 1 end`)
	pgtest.Do(t, pool, `insert into offstage_private.audit (at, who, source, from_where, action, target, ids, n)
		select now() - n * interval '1 min', 'ada', 'ui', '::1', 'retry', 'job ' || n, array[n], 1 from generate_series(1, $1::integer) n`, max(live/10, 100))
	pgtest.Do(t, pool, `analyze`)
}

// noted counts statements, and keeps those that read.
type noted struct {
	mu   sync.Mutex
	list []statement
}

type statement struct {
	sql  string
	args []any
}

func (n *noted) add(sql string, args []any) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !strings.HasPrefix(sql, "begin") && sql != "commit" && sql != "rollback" && !strings.Contains(sql, "set_config(name") {
		n.list = append(n.list, statement{sql, args})
	}
}

func (n *noted) take() []statement {
	n.mu.Lock()
	defer n.mu.Unlock()
	defer func() { n.list = nil }()
	return n.list
}

func (n *noted) TraceQueryStart(ctx context.Context, _ *pgx.Conn, q pgx.TraceQueryStartData) context.Context {
	n.add(q.SQL, q.Args)
	return ctx
}
func (n *noted) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}
func (n *noted) TraceBatchStart(ctx context.Context, _ *pgx.Conn, b pgx.TraceBatchStartData) context.Context {
	for _, q := range b.Batch.QueuedQueries {
		n.add(q.SQL, q.Arguments)
	}
	return ctx
}
func (n *noted) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}
func (n *noted) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData)     {}

// TestPagesAtSize: no page reads a table of jobs or of history as a whole, nor more because there are more jobs. With
// OFFSTAGE_TEST_LIVE and OFFSTAGE_TEST_HISTORY it says how long each page takes with so many of them.
func TestPagesAtSize(t *testing.T) {
	t.Parallel()
	live, past := numberFrom(t, "OFFSTAGE_TEST_LIVE", 20_000), numberFrom(t, "OFFSTAGE_TEST_HISTORY", 100_000)
	full := os.Getenv("OFFSTAGE_TEST_LIVE") != ""
	rounds := 2
	db := pgtest.New(t)
	seen := &noted{}
	pool := db.Pool(t, func(cfg *pgxpool.Config) { cfg.ConnConfig.Tracer = seen })
	began := time.Now()
	crowd(t, db.Pool(t), live, past)
	t.Logf("%d live jobs and %d entries of history made in %v", live, past, time.Since(began).Round(time.Millisecond))
	if full {
		rounds = 60
		pgtest.Do(t, db.Pool(t), `vacuum`) // as autovacuum would have done
	}
	measurePages(t, pool, seen, rounds)
}

// measurePages asks for every page so often, anew each time, and checks and says what it costs.
func measurePages(t *testing.T, pool *pgxpool.Pool, seen *noted, rounds int) {
	t.Helper()
	s := &pageSite{t: t, pool: pool, role: guard.Admin}
	server, err := New(pool, Config{Guard: guard.Config{Authenticate: func(*http.Request) (string, guard.Role, bool) { return "ada", guard.Admin, true }}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	s.server = server
	reads := server.db.Reads()

	print := pgtest.One[string](t, pool, `select fingerprint from offstage_private.history where fingerprint is not null order by fingerprint limit 1`)
	waiting := pgtest.One[int64](t, pool, `select max(job_id) from offstage_private.ticket`)
	failed := pgtest.One[int64](t, pool, `select max(id) from offstage_private.job where failed`)
	cursor := func(query string) string {
		t.Helper()
		a := httptest.NewRecorder()
		server.Handler().ServeHTTP(a, httptest.NewRequest("GET", "/api/v1/jobs?limit=50&"+query, nil))
		var page struct{ Older string }
		if err := json.Unmarshal(a.Body.Bytes(), &page); err != nil || page.Older == "" {
			t.Fatalf("%s: no older page in %.300s", query, a.Body)
		}
		return "&cursor=" + url.QueryEscape(page.Older)
	}
	pages := []struct {
		path       string
		statements int
		buffers    int // so many at most, whatever the size; a search stops after 80 ms, and reads more where the machine is fast
	}{
		{"/", 7, 60_000},
		{"/?window=24h", 7, 60_000},
		{"/?window=7d", 7, 60_000},
		{"/jobs", 4, 50_000},
		{"/jobs?" + strings.TrimPrefix(cursor(""), "&"), 4, 50_000},
		{"/jobs?state=waiting", 4, 50_000},
		{"/jobs?state=waiting" + cursor("state=waiting"), 4, 50_000},
		{"/jobs?state=scheduled", 4, 50_000},
		{"/jobs?state=parked", 4, 50_000},
		{"/jobs?state=running", 4, 50_000},
		{"/jobs?state=failed", 4, 50_000},
		{"/jobs?state=succeeded", 4, 50_000},
		{"/jobs?state=succeeded" + cursor("state=succeeded"), 4, 50_000},
		{"/jobs?state=succeeded&task=task7", 3, 400_000},
		{"/jobs?task=task7", 3, 400_000},
		{"/jobs?task=task7&state=failed", 3, 400_000},
		{"/jobs?queue=queue7", 3, 400_000},
		{"/jobs?key=nothing", 3, 50_000},
		{"/jobs?fingerprint=" + print, 3, 400_000},
		{"/jobs?fingerprint=" + print + "&state=failed", 3, 400_000},
		{"/jobs?worker=worker-3", 3, 50_000},
		{"/jobs?state=waiting&payload_path=user.id&payload_value=no", 3, 500_000},
		{"/jobs?state=failed&error=nothing+like+this", 3, 500_000},
		{"/jobs?state=succeeded&error=nothing+like+this", 3, 500_000},
		{fmt.Sprintf("/jobs/%d", waiting), 9, 20_000},
		{fmt.Sprintf("/jobs/%d", failed), 9, 20_000},
		{"/jobs/1", 9, 20_000},
		{"/errors", 1, 400_000},
		{"/errors/" + print, 5, 20_000},
		{"/tasks", 3, 60_000},
		{"/tasks/task7", 6, 20_000},
		{"/queues", 2, 20_000},
		{"/queues?show=busy", 2, 40_000},
		{"/queues/queue7", 5, 20_000},
		{"/schedules", 3, 20_000},
		{"/schedules/schedule7", 4, 20_000},
		{"/workers", 1, 20_000},
		{"/audit", 2, 20_000},
	}
	took := make([][]time.Duration, len(pages))
	var trips []time.Duration
	for range rounds {
		for i, p := range pages {
			server.live.forget()
			seen.take()
			began := time.Now()
			s.get(p.path).has(200)
			took[i] = append(took[i], time.Since(began))
			if n := len(seen.take()); n > p.statements {
				t.Errorf("%s: %d statements, at most %d are allowed", p.path, n, p.statements)
			}
			began = time.Now()
			pgtest.Do(t, reads, "select 1")
			trips = append(trips, time.Since(began))
		}
	}
	quantile := func(all []time.Duration, q float64) float64 {
		all = slices.Clone(all)
		slices.Sort(all)
		return float64(all[min(len(all)-1, int(q*float64(len(all))))].Microseconds()) / 1000
	}
	load, _ := os.ReadFile("/proc/loadavg")
	t.Logf("load %s; select 1: p50 %.2f ms, p95 %.2f ms", strings.TrimSpace(string(load)), quantile(trips, 0.5), quantile(trips, 0.95))
	for i, p := range pages {
		server.live.forget()
		seen.take()
		s.get(p.path)
		statements := seen.take()
		buffers, whole := costs(t, reads, statements)
		seen.take()
		t.Logf("| `%s` | %.0f | %.0f | %d | %d |", short(70, p.path), quantile(took[i], 0.5), quantile(took[i], 0.95), len(statements), buffers)
		if buffers > p.buffers {
			t.Errorf("%s: touches %d pages, at most %d are allowed", p.path, buffers, p.buffers)
		}
		if len(whole) > 0 {
			t.Errorf("%s: reads all of %v", p.path, whole)
		}
	}
}

// costs runs statements again and says how many pages of the database they touch, and of which tables that grow they read more than is
// counted anywhere without an index, in functions, too; of history and logs anything.
func costs(t *testing.T, pool *pgxpool.Pool, statements []statement) (buffers int, whole []string) {
	t.Helper()
	read := func(tx pgx.Tx) (map[string]int, error) {
		rows, err := tx.Query(t.Context(), `select relname, seq_tup_read from pg_stat_xact_user_tables where schemaname = 'offstage_private' and seq_tup_read > 0
			and (relname ~ '^(history|log)_' or relname in ('job', 'ticket', 'scheduled', 'parked', 'audit', 'statistic_minute', 'statistic_hour'))`)
		if err != nil {
			return nil, err
		}
		n := map[string]int{}
		var name string
		var rowsRead int
		_, err = pgx.ForEachRow(rows, []any{&name, &rowsRead}, func() error {
			n[name] = rowsRead
			return nil
		})
		return n, err
	}
	err := pgx.BeginTxFunc(t.Context(), pool, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		before, err := read(tx) // the transactions before may not be in the statistics yet
		if err != nil {
			return err
		}
		for _, s := range statements {
			var plan []byte
			if err := tx.QueryRow(t.Context(), "explain (analyze, buffers, timing off, format json) "+s.sql, s.args...).Scan(&plan); err != nil {
				return fmt.Errorf("%s: %w", s.sql, err)
			}
			var parsed []struct {
				Plan struct {
					Hit  int `json:"Shared Hit Blocks"`
					Read int `json:"Shared Read Blocks"`
				}
			}
			if err := json.Unmarshal(plan, &parsed); err != nil {
				return err
			}
			buffers += parsed[0].Plan.Hit + parsed[0].Plan.Read
		}
		after, err := read(tx)
		for name, n := range after {
			if n > before[name] {
				whole = append(whole, fmt.Sprintf("%s (%d rows)", name, n-before[name]))
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(whole)
	return buffers, whole
}
