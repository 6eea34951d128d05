package view_test

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/internal/pgtest"
	"github.com/offstage-dev/offstage/internal/view"
	"github.com/offstage-dev/offstage/schema"
)

// watched is a database that is looked at, where pass moves the clock.
type watched struct {
	t    *testing.T
	db   *pgtest.DB
	pool *pgxpool.Pool
	view *view.DB
}

func watch(t *testing.T, opts ...pgtest.Option) *watched {
	t.Helper()
	db := pgtest.New(t, opts...)
	w := &watched{t: t, db: db, pool: db.Pool(t)}
	pgtest.Do(t, w.pool, `create table offstage_private.t_clock as select interval '0' as ahead`)
	pgtest.Do(t, w.pool, `create or replace function offstage_private.clock() returns timestamptz language sql volatile as
		$$ select pg_catalog.clock_timestamp() + ahead from offstage_private.t_clock $$`)
	w.view = openAs(t, w.pool, "offstage")
	return w
}

func openAs(t *testing.T, pool *pgxpool.Pool, schema string) *view.DB {
	t.Helper()
	v, err := view.Open(t.Context(), pool, schema)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v.Close)
	return v
}

func (w *watched) pass(span string) {
	w.t.Helper()
	pgtest.Do(w.t, w.pool, `update offstage_private.t_clock set ahead = ahead + $1::text::interval`, span)
}

func (w *watched) add(sql string) view.ID {
	w.t.Helper()
	return view.ID(pgtest.One[int64](w.t, w.pool, sql))
}

// problem is the one of this kind whose subject begins so, or nil.
func (w *watched) problem(kind, subject string) *view.Problem {
	w.t.Helper()
	list, err := w.view.Problems(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	for _, p := range list {
		if p.Kind == kind && strings.HasPrefix(p.Subject, subject) {
			return &p
		}
	}
	return nil
}

func TestExplain(t *testing.T) {
	t.Parallel()
	w := watch(t)
	id := w.add(`select id from offstage.add_job('a')`)
	b, err := w.view.Explain(t.Context(), id)
	if err != nil || b.Kind != "no_worker" || b.Because != "waiting: no worker is running" || b.Remedy != "start a worker: `offstage worker`" || b.Since == nil || b.Until != nil {
		t.Errorf("%+v, %v", b, err)
	}
	if b, err = w.view.Explain(t.Context(), 4711); err != nil || b.Kind != "unknown" || b.Since != nil || b.Remedy != "" {
		t.Errorf("%+v, %v", b, err)
	}
	// Every remedy names the schema, and the program whatever the schema is called.
	if _, err := schema.Migrate(t.Context(), w.db.Conn(t), schema.Config{Schema: "graphile_worker"}); err != nil {
		t.Fatal(err)
	}
	other := openAs(t, w.pool, "graphile_worker")
	pgtest.Do(t, w.pool, `select graphile_worker.add_job('a', queue_name => 'q'), graphile_worker.pause_queue('q')`)
	b, err = other.Explain(t.Context(), 1)
	if err != nil || b.Remedy != "let it go on: `select graphile_worker.resume_queue('q');` or: `offstage queues resume q --schema graphile_worker`" {
		t.Errorf("%+v, %v", b, err)
	}
}

func TestProblems(t *testing.T) {
	t.Parallel()
	w := watch(t)
	list, err := w.view.Problems(t.Context())
	if err != nil || list == nil || len(list) != 0 {
		t.Errorf("nothing is wrong, but: %+v, %v", list, err)
	}
	w.add(`select id from offstage.add_job('a')`)
	p := w.problem("no_worker", "")
	if p == nil || p.Severity != "critical" || p.Text != "1 job is due, and no worker is running" || p.Since == nil || p.Page != "workers" {
		t.Errorf("%+v", p)
	}
	text, err := json.Marshal(p)
	if err != nil || !strings.Contains(string(text), `"severity":"critical"`) {
		t.Errorf("%s, %v", text, err)
	}
}

// TestHorizon: what keeps dead rows from being removed, each for real.
func TestHorizon(t *testing.T) {
	t.Parallel()
	server := pgtest.Server(t, map[string]string{"max_prepared_transactions": "3", "wal_level": "replica", "max_slot_wal_keep_size": "16MB", "min_wal_size": "32MB", "max_wal_size": "64MB"})
	w := watch(t, pgtest.On(server))
	super := w.db.SuperPool(t)

	old := w.db.Conn(t)
	pgtest.Do(t, old, `set application_name = 'the report'`)
	pgtest.Do(t, old, `begin isolation level repeatable read`)
	pgtest.Do(t, old, `select 1`)
	prepared := w.db.Conn(t)
	pgtest.Do(t, prepared, `begin`)
	pgtest.Do(t, prepared, `create table offstage_private.t_prepared ()`)
	pgtest.Do(t, prepared, `prepare transaction 'it''s lost'`)

	if p := w.problem("horizon", ""); p != nil {
		t.Errorf("at once: %+v", p)
	}
	w.pass("10 min")
	p := w.problem("horizon", "pid ")
	if p == nil || p.Severity != "warning" || !strings.Contains(p.Text, "(the report") || !strings.Contains(p.Text, "idle in transaction") || !strings.Contains(p.Remedy, "pg_terminate_backend(") {
		t.Errorf("a session: %+v", p)
	}
	p = w.problem("horizon", "transaction it's lost")
	if p == nil || p.Severity != "warning" || !strings.Contains(p.Remedy, "rollback prepared 'it''s lost'") {
		t.Errorf("a prepared transaction: %+v", p)
	}
	w.pass("1 hour")
	if p = w.problem("horizon", "pid "); p == nil || p.Severity != "critical" {
		t.Errorf("an older session: %+v", p)
	}

	// A role that sees no others' sessions gets what it may see, and no error.
	pgtest.Do(t, super, `create role blind login; grant usage on schema offstage, offstage_private to blind; grant select on all tables in schema offstage_private to blind;
		grant select on all tables in schema offstage to blind`)
	blind := w.db.SuperPool(t, func(cfg *pgxpool.Config) { cfg.ConnConfig.RuntimeParams["role"] = "blind" })
	found := pgtest.List[string](t, blind, `select subject from offstage.problems() where kind = 'horizon' order by 1`)
	if !slices.Equal(found, []string{"transaction it's lost"}) {
		t.Errorf("who may see little sees %q", found)
	}
	pgtest.Do(t, old, `rollback`)
	pgtest.Do(t, prepared, `rollback prepared 'it''s lost'`)
	if p = w.problem("horizon", ""); p != nil {
		t.Errorf("afterwards: %+v", p)
	}

	pgtest.Do(t, super, `select pg_create_physical_replication_slot('gone', true)`)
	for range 5 {
		pgtest.Do(t, super, `select pg_logical_emit_message(false, 'x', 'x'), pg_switch_wal()`)
	}
	pgtest.Do(t, super, `checkpoint`)
	p = w.problem("horizon", "slot gone")
	if p == nil || p.Severity != "critical" || !strings.Contains(p.Text, "which nobody uses") || !strings.Contains(p.Remedy, "pg_drop_replication_slot('gone')") {
		t.Errorf("a slot: %+v", p)
	}
	pgtest.Do(t, super, `select pg_drop_replication_slot('gone')`)
}

func TestErrorGroups(t *testing.T) {
	t.Parallel()
	w := watch(t)
	list, err := w.view.ErrorGroups(t.Context(), "", 10)
	if err != nil || list == nil || len(list) != 0 {
		t.Errorf("%+v, %v", list, err)
	}
	pgtest.Do(t, w.pool, `select id from generate_series(1, 5) n, offstage.add_job(case when n = 5 then 'b' else 'a' end)`)
	pgtest.Do(t, w.pool, `select offstage.permanently_fail_jobs(array[n], format('TypeError: no user %s', n)) from generate_series(1, 3) n`)
	w.pass("2 hours")
	pgtest.Do(t, w.pool, `select offstage.permanently_fail_jobs('{4}', 'TypeError: no user 4'), offstage.permanently_fail_jobs('{5}', 'it broke')`)
	list, err = w.view.ErrorGroups(t.Context(), "a", 10)
	if err != nil || len(list) != 1 {
		t.Fatalf("%+v, %v", list, err)
	}
	g := list[0]
	if g.Task != "a" || g.Class != "TypeError" || g.Message != "TypeError: no user <n>" || g.Sample != "TypeError: no user 4" || g.Hour.N != 1 || g.Day.N != 4 ||
		g.Week.N != 4 || g.Failed != (view.Count{N: 4}) || g.LastJob != 4 || g.LastSeen.Sub(g.FirstSeen) < time.Hour {
		t.Errorf("%+v", g)
	}
	if again, err := w.view.ErrorGroup(t.Context(), g.Fingerprint); err != nil || again != g {
		t.Errorf("%+v, %v", again, err)
	}
	if list, err = w.view.ErrorGroups(t.Context(), "", 10); err != nil || len(list) != 2 {
		t.Errorf("%+v, %v", list, err)
	}
	if _, err := w.view.ErrorGroup(t.Context(), "none"); !errors.Is(err, offstage.ErrNotFound) {
		t.Errorf("%v", err)
	}
}

func TestAudit(t *testing.T) {
	t.Parallel()
	w := watch(t)
	ctx := t.Context()
	as := func(by view.Actor, sql string) {
		t.Helper()
		if err := w.view.As(ctx, by, func(tx pgx.Tx) error {
			_, err := tx.Exec(ctx, sql)
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	ada := view.Actor{Name: "ada", Source: "ui", From: "10.0.0.7"}
	as(ada, `select offstage.pause_queue('q')`)
	as(view.Actor{Source: "api"}, `select offstage.configure_queue('q', 3)`)
	broken := errors.New("no")
	if err := w.view.As(ctx, ada, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `select offstage.resume_queue('q')`); err != nil {
			return err
		}
		return broken
	}); !errors.Is(err, broken) {
		t.Error(err)
	}
	pgtest.Do(t, w.pool, `select offstage.pause_task('t')`) // the sessions of the pool have nothing of it left

	list, older, err := w.view.Audit(ctx, view.AuditFilter{}, "", 2)
	if err != nil || len(list) != 2 || older == "" {
		t.Fatalf("%+v, %q, %v", list, older, err)
	}
	if e := list[0]; e.Source != "sql" || e.Who == "ada" || e.Target != "task t" || e.Action != "pause" || e.Before != nil || e.IDs == nil {
		t.Errorf("%+v", e)
	}
	if e := list[1]; e.Who != "anonymous" || e.Source != "api" || string(e.Before) != `{"concurrency" : 1}` || string(e.After) != `{"concurrency" : 3}` || e.Count != 1 {
		t.Errorf("%+v", e)
	}
	list, older, err = w.view.Audit(ctx, view.AuditFilter{}, older, 2)
	if err != nil || len(list) != 1 || older != "" || list[0].Who != "ada" || list[0].From != "10.0.0.7" {
		t.Errorf("%+v, %q, %v", list, older, err)
	}
	if list, _, err = w.view.Audit(ctx, view.AuditFilter{Target: "queue q", Who: "ada", Action: "pause"}, "", 10); err != nil || len(list) != 1 {
		t.Errorf("%+v, %v", list, err)
	}
	if _, _, err = w.view.Audit(ctx, view.AuditFilter{}, "x", 10); err == nil {
		t.Error("a cursor that is none gives no error")
	}
	pgtest.Do(t, w.pool, `select offstage.add_job('a') from generate_series(1, 150)`)
	as(ada, `select offstage.delete_jobs(array(select generate_series(1, 150)))`)
	if list, _, err = w.view.Audit(ctx, view.AuditFilter{Action: "delete"}, "", 10); err != nil || len(list) != 1 || len(list[0].IDs) != 100 || list[0].Count != 150 || list[0].Target != "150 jobs" {
		t.Errorf("%+v, %v", list, err)
	}
	text, err := json.Marshal(list[0])
	if err != nil || !strings.Contains(string(text), `"ids":["1","2",`) || !strings.Contains(string(text), `"before":null`) {
		t.Errorf("%s, %v", text, err)
	}
	// Reads cannot write, whoever asks.
	if err := w.view.As(context.WithoutCancel(ctx), ada, func(tx pgx.Tx) error { return nil }); err != nil {
		t.Error(err)
	}
}
