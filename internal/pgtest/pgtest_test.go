package pgtest_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/offstage-dev/offstage/internal/pgtest"
)

func TestMain(m *testing.M) {
	// What a developer's shell may have; none of it may reach the tests.
	os.Setenv("DATABASE_URL", "postgres://nobody@192.0.2.1/wrong")
	os.Setenv("PGOPTIONS", "-c statement_timeout=1")
	os.Setenv("PGSERVICE", "no_such_service")
	pgtest.Main(m)
}

func TestEveryTestHasItsOwnDatabase(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	for i := range 3 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			pool := pgtest.New(t).Pool(t)
			if _, err := pool.Exec(ctx, "create table public.only_here (n int)"); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestPool(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t).Pool(t)
	var path, timeout, super string
	err := pool.QueryRow(t.Context(), `select pg_catalog.current_setting('search_path'),
		pg_catalog.current_setting('statement_timeout'), pg_catalog.current_setting('is_superuser')`).Scan(&path, &timeout, &super)
	if err != nil {
		t.Fatal(err)
	}
	if path != "" || timeout != "0" || super != "off" {
		t.Errorf("search_path %q, statement_timeout %q, superuser %q; want empty, 0, off", path, timeout, super)
	}
	var schemaExists bool
	if err := pool.QueryRow(t.Context(), "select pg_catalog.to_regnamespace('offstage') is not null").Scan(&schemaExists); err != nil || !schemaExists {
		t.Errorf("the schema is not installed (%v)", err)
	}
}

func TestSuperURL(t *testing.T) {
	t.Parallel()
	var super string
	err := pgtest.Bare(t).SuperPool(t).QueryRow(t.Context(), "select pg_catalog.current_setting('is_superuser')").Scan(&super)
	if err != nil || super != "on" {
		t.Errorf("superuser is %q (%v)", super, err)
	}
}

func TestBareIsEmpty(t *testing.T) {
	t.Parallel()
	db := pgtest.Bare(t)
	var n int
	err := db.Conn(t).QueryRow(t.Context(), `select count(*) from pg_catalog.pg_namespace
		where nspname not in ('public', 'information_schema') and nspname not like 'pg\_%'`).Scan(&n)
	if err != nil || n != 0 {
		t.Errorf("%d schemas (%v), want none", n, err)
	}
}

func TestTemplate(t *testing.T) {
	t.Parallel()
	made := 0
	template := pgtest.Template{Make: func(t testing.TB, db *pgtest.DB) {
		made++
		conn := db.Conn(t)
		pgtest.Do(t, conn, "create table public.filled as select 1 as n")
		if err := conn.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}}
	for range 2 {
		conn := template.New(t).Conn(t)
		pgtest.Do(t, conn, "insert into public.filled values (2)")
		if n := pgtest.One[int](t, conn, "select sum(n) from public.filled"); n != 3 {
			t.Errorf("the copy has %d, want 3", n)
		}
	}
	if made != 1 {
		t.Errorf("made %d times", made)
	}
}

func TestDatabaseIsDroppedUnderOpenConnections(t *testing.T) {
	t.Parallel()
	var name string
	t.Run("left connected", func(t *testing.T) {
		db := pgtest.Bare(t)
		name = db.Name
		if _, err := pgx.Connect(t.Context(), db.URL); err != nil { // never closed
			t.Fatal(err)
		}
	})
	var there bool
	err := pgtest.Bare(t).Conn(t).QueryRow(t.Context(),
		"select exists (select from pg_catalog.pg_database where datname = $1)", name).Scan(&there)
	if err != nil || there {
		t.Errorf("database %s is still there (%v)", name, err)
	}
}

func TestServerSurvivesACrash(t *testing.T) {
	t.Parallel()
	server := pgtest.Server(t, map[string]string{"synchronous_commit": "off"})
	pool := pgtest.New(t, pgtest.On(server)).Pool(t)
	ctx := t.Context()
	if _, err := pool.Exec(ctx, "create table public.t as select 1 as n"); err != nil {
		t.Fatal(err)
	}
	if _, err := pool.Exec(ctx, "set synchronous_commit = on; insert into public.t values (2)"); err != nil {
		t.Fatal(err)
	}
	if err := server.StopImmediate(); err != nil {
		t.Fatal(err)
	}
	if err := pool.Ping(ctx); err == nil {
		t.Error("the server still answers after its crash")
	}
	if err := server.StartAgain(ctx); err != nil {
		t.Fatal(err)
	}
	var n int
	pgtest.Eventually(t, 10*time.Second, func() error {
		return pool.QueryRow(ctx, "select count(*) from public.t").Scan(&n)
	})
	if n != 2 {
		t.Errorf("%d rows after the crash, want 2", n)
	}
}

func TestEventually(t *testing.T) {
	t.Parallel()
	asked := 0
	pgtest.Eventually(t, time.Second, func() bool { asked++; return asked == 3 })
	if asked != 3 {
		t.Errorf("asked %d times, want 3", asked)
	}
	failing := &recorder{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		pgtest.Eventually(failing, 5*time.Millisecond, func() error { return errors.New("two rows missing") })
	}()
	<-done
	if want := "not within 5ms: two rows missing"; failing.message != want {
		t.Errorf("message %q, want %q", failing.message, want)
	}
}

// recorder keeps the message of Fatalf, which must end the goroutine as the real one does.
type recorder struct {
	testing.TB
	message string
}

func (r *recorder) Fatalf(format string, args ...any) {
	r.message = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

func BenchmarkNew(b *testing.B) {
	ctx := context.Background()
	for b.Loop() {
		conn := pgtest.New(b).Conn(b)
		if err := conn.Ping(ctx); err != nil {
			b.Fatal(err)
		}
	}
}
