package view_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/internal/pgtest"
	"github.com/offstage-dev/offstage/internal/view"
)

// ended waits for a bulk to end.
func ended(t *testing.T, db *view.DB, id view.ID) view.Bulk {
	t.Helper()
	var b view.Bulk
	pgtest.Eventually(t, time.Minute, func() error {
		var err error
		if b, err = db.Bulk(t.Context(), id); err == nil && b.State == "running" {
			err = errors.New("still running")
		}
		return err
	})
	return b
}

// run works bulks off until the test ends.
func run(t *testing.T, db *view.DB) {
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- db.RunBulks(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("RunBulks: %v", err)
		}
	})
}

// TestBulk: 5000 failed jobs are retried by filter, by two processes, while they fail again at once, and others fail.
func TestBulk(t *testing.T) {
	t.Parallel()
	own := pgtest.New(t)
	conn := own.Conn(t)
	pgtest.Do(t, conn, stage)
	pgtest.Do(t, conn, `select t.worker('a')`)
	add(t, conn, "a", 5000)
	fail := func(n int) int64 {
		return pgtest.One[int64](t, conn, `select t.work(1, $1, 'a', 'fail', 'no')`, n)
	}
	for range 5 {
		fail(1000)
	}
	add(t, conn, "b", 100)
	one, two := look(t, own), look(t, own)
	action := view.Action{Do: "retry", Filter: &view.JobFilter{State: "failed", Task: "a", Error: "no"}}
	if n, err := one.DryRun(t.Context(), action); err != nil || n != (view.Count{N: 5000}) {
		t.Errorf("dry run: %v, %v", n, err)
	}
	b, err := one.StartBulk(t.Context(), ada, action, "")
	if err != nil {
		t.Fatal(err)
	}
	if b.State != "running" || b.Do != "retry" || b.Matched != (view.Count{N: 5000}) || b.Done != 0 || b.By != "ada" || b.EndedAt != nil {
		t.Errorf("it begins as %+v", b)
	}
	late := add(t, conn, "a", 10)
	pgtest.Do(t, conn, `select offstage.permanently_fail_jobs($1, 'no')`, late)
	run(t, one)
	run(t, two)
	failed := int64(0)
	for {
		failed += fail(100)
		b, err := one.Bulk(t.Context(), b.ID)
		if err != nil {
			t.Fatal(err)
		}
		if b.State != "running" {
			break
		}
	}
	for n := fail(1000); n > 0; n = fail(1000) {
		failed += n
	}
	if b = ended(t, two, b.ID); b.State != "done" || b.Done != 5000 || b.LeftOut != 0 || b.Error != nil {
		t.Errorf("it ended as %+v", b)
	}
	if failed != 5000 {
		t.Errorf("5000 jobs were retried, %d attempts failed", failed)
	}
	if n := pgtest.One[int64](t, conn, `select count(*) from (select from offstage_private.history where outcome = 'retried' group by job_id having count(*) = 1) x`); n != 5000 {
		t.Errorf("%d jobs were retried once", n)
	}
	list, _, err := one.Audit(t.Context(), view.AuditFilter{Who: "ada"}, "", 10)
	if err != nil || len(list) != 1 || list[0].Action != "bulk retry" || list[0].Target != "5000 jobs" || list[0].From != ada.From || !strings.Contains(string(list[0].After), `"state":"failed"`) {
		t.Errorf("the audit says %+v: %v", list, err)
	}
	if n := pgtest.One[int64](t, conn, `select count(*) from offstage_private.history where outcome = 'retried' and job_id = any ($1)`, late); n != 0 {
		t.Errorf("%d jobs that came later were retried", n)
	}
}

// TestBulkResumed: a process dies in the middle of a step; another one goes on, and nothing is lost or done twice.
func TestBulkResumed(t *testing.T) {
	t.Parallel()
	own := pgtest.New(t)
	conn := own.Conn(t)
	add(t, conn, "a", 2000)
	db := look(t, own)
	b, err := db.StartBulk(t.Context(), ada, view.Action{Do: "cancel", Filter: &view.JobFilter{State: "waiting"}, Reason: "not needed"}, "")
	if err != nil {
		t.Fatal(err)
	}
	dying := own.Conn(t)
	pgtest.Do(t, dying, `select offstage_private.bulk_step($1)`, int64(b.ID))
	pgtest.Do(t, dying, "begin")
	pgtest.Do(t, dying, `select offstage_private.bulk_step($1)`, int64(b.ID))
	run(t, db) // cannot go on: the row is locked
	if b, err = db.Bulk(t.Context(), b.ID); err != nil || b.Done != 500 || b.State != "running" {
		t.Errorf("in the middle it is %+v: %v", b, err)
	}
	if err := dying.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if b = ended(t, db, b.ID); b.State != "done" || b.Done != 2000 || b.LeftOut != 0 {
		t.Errorf("it ended as %+v", b)
	}
	if n := pgtest.One[int64](t, conn, `select count(distinct job_id) from offstage_private.history where outcome = 'cancelled' and error = 'not needed'`); n != 2000 {
		t.Errorf("%d jobs were cancelled", n)
	}
	if n := pgtest.One[int64](t, conn, `select count(*) from offstage_private.history`); n != 2000 {
		t.Errorf("history has %d entries", n)
	}
}

func TestBulkActions(t *testing.T) {
	t.Parallel()
	db, pool := open(t)
	run(t, db)
	pgtest.Do(t, pool, stage)
	pgtest.Do(t, pool, everyState)
	when := time.Now().Add(48 * time.Hour).Truncate(time.Second)
	running := pgtest.List[int64](t, pool, `select id from offstage.jobs where state = 'running' and task_identifier = 'running' order by id`)
	for _, c := range []struct {
		action  view.Action
		matched int64
		done    int64
		leftOut int64
		left    string // none of these are left
	}{
		{view.Action{Do: "reschedule", Filter: &view.JobFilter{State: "waiting", Task: "waiting"}, RunAt: &when}, 50, 50, 0, `select 1 from offstage.jobs where task_identifier = 'waiting' and state <> 'scheduled'`},
		{view.Action{Do: "reschedule", Filter: &view.JobFilter{Task: "waiting"}}, 50, 50, 0, `select 1 from offstage.jobs where task_identifier = 'waiting' and state <> 'waiting'`},
		{view.Action{Do: "retry", Filter: &view.JobFilter{State: "failed"}}, 25, 25, 0, `select 1 from offstage.jobs where state = 'failed'`},
		{view.Action{Do: "delete", Filter: &view.JobFilter{State: "paused"}}, 25, 25, 0, `select 1 from offstage.jobs where state = 'paused'`},
		{view.Action{Do: "delete", Filter: &view.JobFilter{State: "parked", Queue: "q1"}}, 9, 9, 0, `select 1 from offstage.jobs where state = 'parked' and queue_name = 'q1'`},
		{view.Action{Do: "cancel", IDs: []view.ID{view.ID(running[0]), 1 << 60}}, 1, 1, 1, `select 1 where not exists (select from offstage_private.cancellation)`},
		{view.Action{Do: "delete", Filter: &view.JobFilter{Task: "running"}}, 25, 0, 25, `select 1 where (select count(*) from offstage.jobs where task_identifier = 'running') <> 25`},
		{view.Action{Do: "delete", Filter: &view.JobFilter{Task: "nobody"}}, 0, 0, 0, `select 1 where false`},
	} {
		if n, err := db.DryRun(t.Context(), c.action); err != nil || n != (view.Count{N: c.matched}) {
			t.Errorf("%+v: dry run %v, %v", c.action, n, err)
		}
		b, err := db.StartBulk(t.Context(), ada, c.action, "")
		if err != nil {
			t.Errorf("%+v: %v", c.action, err)
			continue
		}
		if b = ended(t, db, b.ID); b.State != "done" || b.Done != c.done || b.LeftOut != c.leftOut || b.Matched != (view.Count{N: c.matched}) || b.EndedAt == nil {
			t.Errorf("%s %+v: it ended as %+v", c.action.Do, c.action.Filter, b)
		}
		if left := pgtest.List[int](t, pool, c.left); len(left) > 0 {
			t.Errorf("%s %+v: %d are left", c.action.Do, c.action.Filter, len(left))
		}
	}
	for _, a := range []view.Action{{Do: "kill", IDs: []view.ID{1}}, {Do: "retry"}, {Do: "retry", IDs: []view.ID{1}, Filter: &view.JobFilter{}}, {Do: "retry", Filter: &view.JobFilter{State: "removed"}}} {
		if _, err := db.StartBulk(t.Context(), ada, a, ""); !errors.Is(err, view.ErrInvalid) {
			t.Errorf("%+v: %v", a, err)
		}
	}
	if _, err := db.Bulk(t.Context(), 1<<60); !errors.Is(err, offstage.ErrNotFound) {
		t.Errorf("no such bulk: %v", err)
	}
}

// TestBulkFails: a step that cannot be done ends the action, and says why; the actions beside it go on.
func TestBulkFails(t *testing.T) {
	t.Parallel()
	db, pool := open(t)
	list := add(t, pool, "a", 2)
	pgtest.Do(t, pool, `create schema t; create function t.fails() returns trigger language plpgsql as 'begin raise exception using errcode = ''P0001'', message = ''hands off''; end';
		create trigger fails before delete on offstage_private.job for each row when (old.id = 1) execute function t.fails()`)
	var started []view.ID
	for _, id := range list {
		b, err := db.StartBulk(t.Context(), ada, view.Action{Do: "delete", IDs: []view.ID{view.ID(id)}}, "")
		if err != nil {
			t.Fatal(err)
		}
		started = append(started, b.ID)
	}
	run(t, db)
	if b := ended(t, db, started[0]); b.State != "failed" || b.Error == nil || b.EndedAt == nil || b.Done != 0 {
		t.Errorf("it ended as %+v", b)
	}
	if b := ended(t, db, started[1]); b.State != "done" || b.Done != 1 {
		t.Errorf("the other one ended as %+v", b)
	}
	if left := pgtest.List[int64](t, pool, `select id from offstage.jobs`); !slices.Equal(left, list[:1]) {
		t.Errorf("left are %v", left)
	}
}

// TestBulkRare: where a filter finds little, steps look on to the end.
func TestBulkRare(t *testing.T) {
	t.Parallel()
	db, pool := open(t)
	add(t, pool, "rare", 1)
	add(t, pool, "a", 45_000)
	add(t, pool, "rare", 1)
	run(t, db)
	b, err := db.StartBulk(t.Context(), ada, view.Action{Do: "delete", Filter: &view.JobFilter{Task: "rare"}}, "")
	if err != nil {
		t.Fatal(err)
	}
	if b.Matched.N < 1 || b.Matched.N == 1 && !b.Matched.More {
		t.Errorf("it begins as %+v", b)
	}
	if b = ended(t, db, b.ID); b.State != "done" || b.Done != 2 {
		t.Errorf("it ended as %+v", b)
	}
	if n := pgtest.One[int64](t, pool, `select count(*) from offstage_private.job`); n != 45_000 {
		t.Errorf("%d jobs are left", n)
	}
}

// What a filter has and says nothing of must not mean every job.
func TestBulkOfNothingInParticular(t *testing.T) {
	t.Parallel()
	conn := pgtest.New(t).Conn(t)
	pgtest.Do(t, conn, `select offstage.add_job('a')`)
	for _, filter := range []string{`{"task":""}`, `{"task":null}`, `{"queue":" "}`, `{"state":""}`, `{"state":"waiting","key":""}`, `{"payload_path":""}`, `{"tsk":"a"}`, `null`, `[]`} {
		var id int64
		err := conn.QueryRow(t.Context(), `select offstage.bulk_start('delete', $1::text::json)`, filter).Scan(&id)
		var pg *pgconn.PgError
		if !errors.As(err, &pg) || pg.Code != "22023" {
			t.Errorf("%s: %v", filter, err)
		}
	}
	pgtest.Do(t, conn, `select offstage.bulk_start('retry', '{"task":"a","payload_path":"x","payload_value":""}'), offstage.bulk_start('retry', '{}')`)
}
