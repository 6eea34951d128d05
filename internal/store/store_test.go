package store_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/internal/pgtest"
	"github.com/offstage-dev/offstage/internal/store"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func TestFault(t *testing.T) {
	t.Parallel()
	plain := errors.New("no route to host")
	cases := map[string]struct {
		err  error
		want error // nil: only the error itself
	}{
		"declared dead":      {&pgconn.PgError{Code: "OS001"}, offstage.ErrLost},
		"wrapped":            {fmt.Errorf("claim: %w", &pgconn.PgError{Code: "OS001"}), offstage.ErrLost},
		"no function":        {&pgconn.PgError{Code: "42883"}, offstage.ErrNotInstalled},
		"no schema":          {&pgconn.PgError{Code: "3F000"}, offstage.ErrNotInstalled},
		"no table":           {&pgconn.PgError{Code: "42P01"}, offstage.ErrNotInstalled},
		"another error":      {&pgconn.PgError{Code: "23514"}, nil},
		"not the database's": {plain, nil},
		"no rows":            {pgx.ErrNoRows, nil},
		"context":            {context.Canceled, nil},
	}
	for name, c := range cases {
		got := store.Fault(c.err)
		if !errors.Is(got, c.err) {
			t.Errorf("%s: the error itself is lost: %v", name, got)
		}
		for _, sentinel := range []error{offstage.ErrLost, offstage.ErrNotInstalled, offstage.ErrNotFound} {
			if errors.Is(got, sentinel) != (sentinel == c.want) {
				t.Errorf("%s became %v, expected %v", name, got, c.want)
			}
		}
		if c.want == nil && got != c.err {
			t.Errorf("%s was changed to %v", name, got)
		}
	}
	if err := store.Fault(nil); err != nil {
		t.Errorf("no error became %v", err)
	}
}

// Every call of the worker protocol says so when nothing is installed, and when the worker is not alive.
func TestFaultsOfCalls(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	bare := pgtest.Bare(t).Conn(t)
	missing := store.New("offstage")
	chore := store.Chore{Name: "c", Worker: 404, Period: time.Second}
	none := &store.Claim{Worker: 404, Want: 1, Tasks: []int32{1}} // the first task that is made
	for name, call := range map[string]func(*store.Store, *pgx.Conn) error{
		"register": func(s *store.Store, c *pgx.Conn) error {
			_, err := s.Register(ctx, c, "host", 1, "test", 1, []store.Task{{Name: "t"}}, nil)
			return err
		},
		"claim": func(s *store.Store, c *pgx.Conn) error {
			_, err := s.Turn(ctx, c, nil, none, nil, &store.Look{}, func() {})
			return err
		},
		"settle": func(s *store.Store, c *pgx.Conn) error {
			_, err := s.Turn(ctx, c, &store.Settle{}, nil, nil, &store.Look{}, func() {})
			return err
		},
		"heartbeat": func(s *store.Store, c *pgx.Conn) error { _, err := s.Heartbeat(ctx, c, 404, false, 0); return err },
		"ear":       func(s *store.Store, c *pgx.Conn) error { return s.TestEar(ctx, c, 404) },
		"settings":  func(s *store.Store, c *pgx.Conn) error { _, err := s.TaskSettings(ctx, c, []int32{1}); return err },
		"report": func(s *store.Store, c *pgx.Conn) error {
			gone, err := s.Report(ctx, c, 404, []store.Told{{Claim: 1025, JobID: 1}})
			if err == nil && !slices.Equal(gone, []int64{1025}) {
				t.Errorf("claims that are gone: %v", gone)
			}
			return err
		},
		"finish":  func(s *store.Store, c *pgx.Conn) error { _, err := s.Finish(ctx, c, 404, 1025, 1, nil); return err },
		"suspect": func(s *store.Store, c *pgx.Conn) error { _, err := s.StartSuspect(ctx, c, 404, 1025, 1); return err },
		"promote": func(s *store.Store, c *pgx.Conn) error {
			_, _, _, err := s.Promote(ctx, c, chore, 1, time.Second)
			return err
		},
		"rescue":   func(s *store.Store, c *pgx.Conn) error { _, err := s.Rescue(ctx, c, chore); return err },
		"recall":   func(s *store.Store, c *pgx.Conn) error { _, err := s.Recall(ctx, c, 404, nil); return err },
		"tidy":     func(s *store.Store, c *pgx.Conn) error { return s.Tidy(ctx, c, chore) },
		"roll up":  func(s *store.Store, c *pgx.Conn) error { _, err := s.RollUp(ctx, c, chore, 1); return err },
		"indexes":  func(s *store.Store, c *pgx.Conn) error { _, err := s.BloatedIndexes(ctx, c, 1, 1); return err },
		"failed":   func(s *store.Store, c *pgx.Conn) error { return s.Failed(ctx, c, chore, errors.New("no")) },
		"sign off": func(s *store.Store, c *pgx.Conn) error { return s.SignOff(ctx, c, 404) },
	} {
		if err := call(missing, bare); !errors.Is(err, offstage.ErrNotInstalled) {
			t.Errorf("%s without a schema: %v", name, err)
		}
		conn := pgtest.New(t).Conn(t)
		if _, err := conn.Exec(ctx, "select offstage.add_job('t')"); err != nil {
			t.Fatal(err)
		}
		err := call(missing, conn)
		if name == "claim" {
			if !errors.Is(err, offstage.ErrLost) || !strings.Contains(err.Error(), "worker 404 is not alive") {
				t.Errorf("claim of an unknown worker: %v", err)
			}
		} else if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What a session is prepared for holds, whatever the database has as defaults.
func TestPrepare(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	ctx := t.Context()
	if _, err := db.Conn(t).Exec(ctx, `do $$ begin
		execute format('alter database %I set statement_timeout = 1234', current_database());
		execute format('alter database %I set default_transaction_isolation = serializable', current_database());
		execute format('alter database %I set default_transaction_read_only = on', current_database());
		end $$`); err != nil {
		t.Fatal(err)
	}
	conn := db.Conn(t)
	if err := store.Prepare(ctx, conn); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"statement_timeout": "0", "lock_timeout": "0", "default_transaction_isolation": "read committed",
		"default_transaction_read_only": "off", "transaction_read_only": "off", "idle_in_transaction_session_timeout": "10s",
	} {
		var got string
		if err := conn.QueryRow(ctx, "select pg_catalog.current_setting($1)", name).Scan(&got); err != nil || got != want {
			t.Errorf("%s is %q (%v), expected %q", name, got, err, want)
		}
	}
}

// A settle and a claim are one transaction: if one fails, the other has not happened.
func TestTurnIsOneTransaction(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn, ctx := db.Conn(t), t.Context()
	s := store.New("offstage")
	r, err := s.Register(ctx, conn, "host", 1, "test", 1, []store.Task{{Name: "t"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(ctx, "select offstage.add_job('t', '[1]', flags := array['b', 'a'], queue_name := 'q')"); err != nil {
		t.Fatal(err)
	}
	var look store.Look
	_, err = s.Turn(ctx, conn, nil, &store.Claim{Worker: r.Worker, Want: 5, Tasks: r.Tasks}, nil, &look, func() {})
	if err != nil || len(look.Jobs) != 1 {
		t.Fatalf("claimed %+v, %v", look, err)
	}
	job := look.Jobs[0]
	if string(job.Payload) != "[1]" || job.Attempt != 1 || job.QueueName != "q" || job.MaxAttempts != 0 || job.Expired {
		t.Errorf("the job is %+v", job)
	}
	done := &store.Settle{Worker: r.Worker, Claims: []int64{job.Claim}, JobIDs: []int64{job.JobID}}
	if _, err := conn.Exec(ctx, "select offstage.add_job('t')"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Turn(ctx, conn, done, &store.Claim{Worker: 404, Want: 1, Tasks: r.Tasks}, nil, &store.Look{}, func() {}); !errors.Is(err, offstage.ErrLost) {
		t.Errorf("a claim of an unknown worker: %v", err)
	}
	left := func() (n int) {
		t.Helper()
		if err := conn.QueryRow(ctx, "select count(*) from offstage_private.job").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	if left() != 2 {
		t.Error("the settle has happened, though the claim of its transaction failed")
	}
	for range 2 { // the answer of the first may have been lost
		if unsettled, err := s.Turn(ctx, conn, done, nil, nil, &store.Look{}, func() {}); err != nil || len(unsettled) != 0 || left() != 1 {
			t.Errorf("settled: %+v unsettled, %v", unsettled, err)
		}
	}
	done.Claims[0] += 1024 // a claim that this worker never had
	if unsettled, err := s.Turn(ctx, conn, done, nil, nil, &store.Look{}, func() {}); err != nil || len(unsettled) != 1 || unsettled[0].Verdict != "lost" {
		t.Errorf("another claim's result: %+v, %v", unsettled, err)
	}
}
