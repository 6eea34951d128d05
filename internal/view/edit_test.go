package view_test

import (
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/internal/pgtest"
	"github.com/offstage-dev/offstage/internal/view"
)

func ptr[T any](v T) *T { return &v }

func TestEdit(t *testing.T) {
	t.Parallel()
	db, pool := open(t)
	pgtest.Do(t, pool, stage)
	pgtest.Do(t, pool, `select t.worker('a', 'b')`)
	pgtest.Do(t, pool, `select offstage.add_job('a', '{"x": 1}', job_key => 'k', max_attempts => 1), offstage.add_job('a', run_at => now() + interval '1 h')`)
	pgtest.Do(t, pool, `select t.work(1, 1, 'a', 'fail', 'no')`)
	j, err := db.Job(t.Context(), 1)
	if err != nil || j.State != "failed" {
		t.Fatalf("%+v: %v", j, err)
	}
	edit := view.Edit{Payload: json.RawMessage(`{"x": "\u0000"}`), Priority: ptr(3), MaxAttempts: ptr(2), Revision: &j.Revision}
	if err := db.EditAndRetry(t.Context(), ada, 1, edit); err != nil {
		t.Fatal(err)
	}
	list, _, err := db.Audit(t.Context(), view.AuditFilter{}, "", 1)
	if err != nil || len(list) != 1 || list[0].Action != "edit" || list[0].Target != "job 1" || list[0].Who != "ada" || list[0].Source != "ui" {
		t.Fatalf("the audit says %+v: %v", list, err)
	}
	var before, after map[string]any
	if err := errors.Join(json.Unmarshal(list[0].Before, &before), json.Unmarshal(list[0].After, &after)); err != nil {
		t.Fatal(err)
	}
	if len(before) != 4 || before["failed"] != true || after["failed"] != false || before["priority"] != 0.0 || after["priority"] != 3.0 || after["max_attempts"] != 2.0 || before["payload"] == nil {
		t.Errorf("what changed: %v is now %v", before, after)
	}
	if err := db.EditAndRetry(t.Context(), ada, 1, edit); !errors.Is(err, view.ErrConflict) {
		t.Errorf("the second one: %v", err)
	}
	if j, err = db.Job(t.Context(), 1); err != nil || j.State != "waiting" || string(j.Payload) != `{"x": "\u0000"}` || j.Priority != 3 || j.MaxAttempts != 2 || j.Attempt != 0 || j.Revision != 1 {
		t.Errorf("edited it is %+v: %v", j, err)
	}
	if j, err = db.Job(t.Context(), 2); err != nil || j.State != "scheduled" {
		t.Errorf("the other one is %+v: %v", j, err)
	}
	pgtest.Do(t, pool, `select t.claim(1, 1, 'a')`)
	if err := db.EditAndRetry(t.Context(), ada, 1, view.Edit{}); !errors.Is(err, view.ErrRunning) {
		t.Errorf("while it runs: %v", err)
	}
	if err := db.EditAndRetry(t.Context(), ada, 99, view.Edit{}); !errors.Is(err, offstage.ErrNotFound) {
		t.Errorf("job 99: %v", err)
	}
	for _, e := range []view.Edit{{Payload: json.RawMessage(`{`)}, {Priority: ptr(40_000)}, {MaxAttempts: ptr(0)}} {
		if err := db.EditAndRetry(t.Context(), ada, 2, e); !errors.Is(err, view.ErrInvalid) {
			t.Errorf("%+v: %v", e, err)
		}
	}
	// Two at once: one of them.
	answers := make(chan error)
	for range 2 {
		go func() { answers <- db.EditAndRetry(t.Context(), ada, 2, view.Edit{Priority: ptr(1), Revision: ptr(0)}) }()
	}
	if one, two := <-answers, <-answers; (one == nil) == (two == nil) || !errors.Is(errors.Join(one, two), view.ErrConflict) {
		t.Errorf("two at once: %v, %v", one, two)
	}
}

func TestDuplicate(t *testing.T) {
	t.Parallel()
	db, pool := open(t)
	pgtest.Do(t, pool, stage)
	pgtest.Do(t, pool, `select t.worker('a')`)
	pgtest.Do(t, pool, `select offstage.add_job('a', '{"x": 1}', 'q', job_key => 'k', flags => '{f}', priority => 2)`)
	copied, err := db.Duplicate(t.Context(), ada, 1, view.Edit{}, "")
	if err != nil {
		t.Fatal(err)
	}
	j, err := db.Job(t.Context(), copied)
	if err != nil || j.Task != "a" || *j.Queue != "q" || j.Key != nil || string(j.Payload) != `{"x": 1}` || len(j.Flags) != 1 || j.Priority != 2 || j.State != "waiting" {
		t.Errorf("the copy of a live one is %+v: %v", j, err)
	}
	pgtest.Do(t, pool, `select t.work(1, 1, 'a', 'succeed')`)
	later := time.Now().Add(time.Hour)
	if copied, err = db.Duplicate(t.Context(), ada, 1, view.Edit{Payload: json.RawMessage(`[2]`), RunAt: &later}, ""); err != nil {
		t.Fatal(err)
	}
	if j, err = db.Job(t.Context(), copied); err != nil || *j.Key != "k" || string(j.Payload) != `[2]` || j.State != "scheduled" || *j.Queue != "q" {
		t.Errorf("the copy of an ended one is %+v: %v", j, err)
	}
	if _, err := db.Duplicate(t.Context(), ada, 99, view.Edit{}, ""); !errors.Is(err, offstage.ErrNotFound) {
		t.Errorf("job 99: %v", err)
	}
}

func TestAddJob(t *testing.T) {
	t.Parallel()
	db, pool := open(t)
	add := view.Add{Task: "a", Payload: json.RawMessage(`{"x": 1}`), Queue: ptr("q"), Key: ptr("k"), Priority: ptr(3), MaxAttempts: ptr(4), Flags: []string{"f"}, RunAt: ptr(time.Now().Add(time.Hour)), IdempotencyKey: "once"}
	answers := make(chan view.ID)
	for range 4 {
		go func() {
			id, err := db.AddJob(t.Context(), ada, add)
			if err != nil {
				t.Error(err)
			}
			answers <- id
		}()
	}
	id := <-answers
	for range 3 {
		if other := <-answers; other != id {
			t.Errorf("with the same key: jobs %d and %d", id, other)
		}
	}
	j, err := db.Job(t.Context(), id)
	if err != nil || j.Task != "a" || *j.Queue != "q" || *j.Key != "k" || j.Priority != 3 || j.MaxAttempts != 4 || len(j.Flags) != 1 || j.State != "scheduled" || string(j.Payload) != `{"x": 1}` {
		t.Errorf("added was %+v: %v", j, err)
	}
	if n := pgtest.One[int64](t, pool, `select count(*) from offstage.jobs`); n != 1 {
		t.Errorf("there are %d jobs", n)
	}
	if other, err := db.AddJob(t.Context(), view.Actor{Name: "bob"}, view.Add{Task: "a", IdempotencyKey: "once"}); err != nil || other == id {
		t.Errorf("somebody else with the same key: job %d, %v", other, err)
	}
	for _, a := range []view.Add{{}, {Task: "a", Payload: json.RawMessage(`{`)}, {Task: "a", Priority: ptr(1 << 20)}, {Task: "a", Key: ptr("")}} {
		if _, err := db.AddJob(t.Context(), ada, a); !errors.Is(err, view.ErrInvalid) {
			t.Errorf("%+v: %v", a, err)
		}
	}
}
