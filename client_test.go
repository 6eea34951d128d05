package offstage_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/internal/pgtest"
	"github.com/offstage-dev/offstage/schema"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// stage is a database with a client, for one test.
type stage struct {
	t      testing.TB
	db     *pgtest.DB
	pool   *pgxpool.Pool
	client *offstage.Client
}

func newStage(t *testing.T, edit ...func(*pgxpool.Config)) *stage {
	t.Helper()
	t.Parallel()
	db := pgtest.New(t)
	s := &stage{t: t, db: db, pool: db.Pool(t, edit...)}
	s.client = s.clientOf(offstage.Config{})
	return s
}

func (s *stage) clientOf(cfg offstage.Config) *offstage.Client {
	s.t.Helper()
	client, err := offstage.New(s.pool, cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(client.Close)
	return client
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

func (s *stage) exec(sql string, args ...any) {
	s.t.Helper()
	pgtest.Do(s.t, s.pool, sql, args...)
}

// one is the only value of a query.
func one[T any](s *stage, sql string, args ...any) T {
	s.t.Helper()
	return pgtest.One[T](s.t, s.pool, sql, args...)
}

// hands claims and settles jobs by the SQL of the worker protocol, when a test says so.
type hands struct {
	s      *stage
	worker int32
	tasks  []int32
	claims map[int64]int64 // by job
}

func (s *stage) hands(tasks string) *hands {
	s.t.Helper()
	h := &hands{s: s, claims: map[int64]int64{}}
	err := s.pool.QueryRow(s.ctx(), `select worker_id, task_ids from offstage.register('host', 1, 'test', 1,
		(select json_agg(json_build_object('name', n)) from unnest(string_to_array($1, ',')) n))`, tasks).Scan(&h.worker, &h.tasks)
	if err != nil {
		s.t.Fatal(err)
	}
	return h
}

// claim takes up to n jobs and answers which.
func (h *hands) claim(n int) (jobs []int64) {
	h.s.t.Helper()
	rows, err := h.s.pool.Query(h.s.ctx(), "select claim, job_id from offstage.claim($1, $2, $3) where kind = 'job'", h.worker, n, h.tasks)
	if err != nil {
		h.s.t.Fatal(err)
	}
	var claim, job int64
	_, err = pgx.ForEachRow(rows, []any{&claim, &job}, func() error {
		h.claims[job] = claim
		jobs = append(jobs, job)
		return nil
	})
	if err != nil {
		h.s.t.Fatal(err)
	}
	return jobs
}

// succeed settles a job that was claimed; result is JSON, or "" for none.
func (h *hands) succeed(job int64, result string) {
	h.s.t.Helper()
	h.s.exec("select offstage.settle($1, array[$2::bigint], array[$3::bigint], array[nullif($4::text, '')::json])", h.worker, h.claims[job], job, result)
}

// end settles a job that was claimed, with one of settle's endings.
func (h *hands) end(job int64, ending, text string) {
	h.s.t.Helper()
	h.s.exec("select offstage.settle($1, null, null, null, null, json_build_array(json_build_object('claim', $2::bigint, 'job_id', $3::bigint, 'ending', $4::text, 'error', $5::text)))",
		h.worker, h.claims[job], job, ending, text)
}

func TestNewRefusesNames(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"Jobs", "1st", "a-b", "a.b", `a"b`, "jöbs", " ", "x;drop", strings.Repeat("x", 56)} {
		if _, err := offstage.New(nil, offstage.Config{Schema: name}); err == nil || !strings.Contains(err.Error(), "not allowed: use 1 to 55") {
			t.Errorf("schema %q: %v", name, err)
		}
	}
	for _, name := range []string{"", "a", "_", "graphile_worker", strings.Repeat("x", 55)} {
		if _, err := offstage.New(nil, offstage.Config{Schema: name}); err != nil {
			t.Errorf("schema %q: %v", name, err)
		}
	}
}

func TestNotInstalled(t *testing.T) {
	t.Parallel()
	bare, err := offstage.New(pgtest.Bare(t).Pool(t), offstage.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer bare.Close()
	elsewhere, err := offstage.New(pgtest.New(t).Pool(t), offstage.Config{Schema: "elsewhere"})
	if err != nil {
		t.Fatal(err)
	}
	defer elsewhere.Close()
	ctx := t.Context()
	for name, client := range map[string]*offstage.Client{"no schema": bare, "another name": elsewhere} {
		_, add := client.Add(ctx, "t", nil)
		_, many := client.AddMany(ctx, []offstage.Spec{{Task: "t"}})
		_, status := client.Status(ctx, 1)
		_, list := client.List(ctx, offstage.Filter{})
		_, await := offstage.Await[any](ctx, client, 1)
		for call, err := range map[string]error{
			"add": add, "add many": many, "status": status, "list": list, "await": await, "pause queue": client.PauseQueue(ctx, "q"),
		} {
			if !errors.Is(err, offstage.ErrNotInstalled) || !strings.Contains(err.Error(), "offstage migrate") || !strings.HasPrefix(err.Error(), call) {
				t.Errorf("%s, %s: %v", name, call, err)
			}
			var pg *pgconn.PgError
			if !errors.As(err, &pg) {
				t.Errorf("%s, %s: the database's own error is lost: %v", name, call, err)
			}
		}
	}
}

func TestWithoutPool(t *testing.T) {
	s := newStage(t)
	client, err := offstage.New(nil, offstage.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.Add(s.ctx(), "t", nil); err == nil || !strings.Contains(err.Error(), "use With or WithSQL") {
		t.Errorf("add: %v", err)
	}
	tx, err := s.pool.Begin(s.ctx())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(s.ctx())
	inside := client.With(tx)
	id, err := inside.Add(s.ctx(), "t", nil)
	if err != nil {
		t.Fatal(err)
	}
	if st, err := inside.Status(s.ctx(), id); err != nil || st.State != offstage.Waiting {
		t.Errorf("status is %+v, %v", st, err)
	}
	for name, c := range map[string]*offstage.Client{"alone": client, "in a transaction": inside} {
		if _, err := offstage.Await[any](s.ctx(), c, id); err == nil || !strings.Contains(err.Error(), "has no pool") {
			t.Errorf("await %s: %v", name, err)
		}
	}
}

// Poolers need protocols without named statements, and the client works with all that pgx has.
func TestProtocols(t *testing.T) {
	t.Parallel()
	for _, mode := range []pgx.QueryExecMode{
		pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheDescribe, pgx.QueryExecModeDescribeExec, pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol,
	} {
		t.Run(mode.String(), func(t *testing.T) {
			s := newStage(t, func(c *pgxpool.Config) { c.ConnConfig.DefaultQueryExecMode = mode })
			id := s.add("t", map[string]string{"it's": `"\`}, everything)
			checkArrived(s, id, everything, true)
			ids, err := s.client.AddMany(s.ctx(), []offstage.Spec{{Task: "t"}, {Task: "t", Payload: []int{1}, Options: offstage.Options{RunAt: time.Now().Add(time.Hour)}}})
			if err != nil {
				t.Fatal(err)
			}
			if st, err := s.client.Status(s.ctx(), ids[1]); err != nil || st.State != offstage.Scheduled {
				t.Errorf("status is %+v, %v", st, err)
			}
			if list, err := s.client.List(s.ctx(), offstage.Filter{Task: "t"}); err != nil || len(list) != 3 {
				t.Errorf("list is %+v, %v", list, err)
			}
			if job, err := s.client.Get(s.ctx(), ids[1]); err != nil || string(job.Payload) != "[1]" {
				t.Errorf("get answered %+v, %v", job, err)
			}
			if done, err := s.client.Delete(s.ctx(), ids...); err != nil || len(done) != 2 {
				t.Errorf("delete answered %v, %v", done, err)
			}
			var ended *offstage.EndedError
			if _, err := offstage.Await[any](s.ctx(), s.client, ids[0]); !errors.As(err, &ended) || ended.Outcome != offstage.OutcomeRemoved {
				t.Errorf("await: %v", err)
			}
		})
	}
}

// Two clients of two schemas in one database do not see each other's jobs.
func TestOtherSchema(t *testing.T) {
	s := newStage(t)
	if _, err := schema.Migrate(s.ctx(), s.db.Conn(t), schema.Config{Schema: "graphile_worker"}); err != nil {
		t.Fatal(err)
	}
	other := s.clientOf(offstage.Config{Schema: "graphile_worker"})
	id, err := other.Add(s.ctx(), "there", nil, everything)
	if err != nil {
		t.Fatal(err)
	}
	if job, err := other.Get(s.ctx(), id); err != nil || job.Task != "there" {
		t.Errorf("get answered %+v, %v", job, err)
	}
	if _, err := s.client.Get(s.ctx(), id); !errors.Is(err, offstage.ErrNotFound) {
		t.Errorf("the other schema's job was found: %v", err)
	}
	if n := one[int](s, "select count(*) from graphile_worker.jobs"); n != 1 {
		t.Errorf("%d jobs in graphile_worker", n)
	}
	// Both share the channel on which ends are told; the payload says whose job it was.
	conn := s.db.Conn(t)
	if _, err := conn.Exec(s.ctx(), `listen "offstage:settled"`); err != nil {
		t.Fatal(err)
	}
	s.exec("select graphile_worker.await_job($1)", id)
	s.exec("select graphile_worker.complete_jobs(array[$1::bigint])", id)
	if n, err := conn.WaitForNotification(s.ctx()); err != nil || n.Payload != fmt.Sprintf("graphile_worker:%d", id) {
		t.Errorf("told %+v, %v", n, err)
	}
}
