// Package pgtest gives every test a database of its own.
//
// The first test that asks starts one private PostgreSQL for the test process and migrates a template
// database; each further database is a copy of that (about 20 ms), dropped when its test ends. Tests can
// therefore all run in parallel. Two variables choose another server: OFFSTAGE_TEST_PG=18 a private one
// of that major version, OFFSTAGE_TEST_DATABASE_URL one that already runs, by a superuser's URL.
// DATABASE_URL and PG* are ignored: tests must not reach a server by accident.
package pgtest

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/goleak"

	"github.com/offstage-dev/offstage/internal/devpg"
)

// patience bounds every statement of this package. It is only reached when something hangs.
const patience = time.Minute

// Main runs a package's tests, stops the server and fails when a goroutine is left. Call it from
// TestMain; it does not return.
func Main(m goleak.TestingM, options ...goleak.Option) {
	forgetEnvironment()
	goleak.VerifyTestMain(stopAfter{m}, options...)
}

type stopAfter struct{ m goleak.TestingM }

func (s stopAfter) Run() int {
	code := s.m.Run()
	if err := stopShared(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return max(code, 1)
	}
	return code
}

// forgetEnvironment keeps the developer's own database settings from the tests and from the programs
// that they start; pgx and libpq read them by themselves.
func forgetEnvironment() {
	for _, entry := range os.Environ() {
		name, _, _ := strings.Cut(entry, "=")
		if name == "DATABASE_URL" || strings.HasPrefix(name, "PG") {
			os.Unsetenv(name)
		}
	}
}

// DB is a database that belongs to one test.
type DB struct {
	Name     string
	URL      string // as the owner of the database, who is no superuser
	SuperURL string // as superuser
}

// Option changes where New and Bare make the database.
type Option func(*options)

type options struct{ server *devpg.Server }

// On makes the database on a server that Server has started.
func On(server *devpg.Server) Option {
	return func(o *options) { o.server = server }
}

// New returns a database with the current schema, named offstage, installed by its owner.
func New(t testing.TB, opts ...Option) *DB {
	t.Helper()
	c := clusterFor(t, opts)
	template, err := c.template()
	if err != nil {
		t.Fatalf("make the migrated template database: %v", err)
	}
	return c.create(t, template)
}

// Bare returns an empty database.
func Bare(t testing.TB, opts ...Option) *DB {
	t.Helper()
	return clusterFor(t, opts).create(t, "template1")
}

func clusterFor(t testing.TB, opts []Option) *cluster {
	t.Helper()
	var o options
	for _, opt := range opts {
		opt(&o)
	}
	if o.server != nil {
		return ownCluster(t, o.server)
	}
	c, err := sharedCluster()
	if err != nil {
		t.Fatalf("get a PostgreSQL for the tests: %v", err)
	}
	return c
}

// Server starts a private server for this test alone, to be stopped, crashed and started again; about
// a second. Settings add to those that all tests have (fsync=off among them) or replace them.
func Server(t testing.TB, settings map[string]string) *devpg.Server {
	t.Helper()
	server, err := startServer(settings)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		closeOwn(server)
		if err := server.Stop(); err != nil {
			t.Error(err)
		}
	})
	return server
}

// Pool opens a pool as the owner, with an empty search_path: a name without its schema fails in tests,
// whatever the settings of the users will be. The pool is closed when the test ends.
func (db *DB) Pool(t testing.TB, edit ...func(*pgxpool.Config)) *pgxpool.Pool {
	t.Helper()
	return openPool(t, db.URL, edit)
}

// SuperPool is Pool as superuser.
func (db *DB) SuperPool(t testing.TB, edit ...func(*pgxpool.Config)) *pgxpool.Pool {
	t.Helper()
	return openPool(t, db.SuperURL, edit)
}

// Conn opens one connection as the owner, with an empty search_path.
func (db *DB) Conn(t testing.TB) *pgx.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cfg, err := pgx.ParseConfig(db.URL)
	if err != nil {
		t.Fatalf("connect to %s: %v", db.Name, err)
	}
	plain(cfg, t.Name())
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		t.Fatalf("connect to %s: %v", db.Name, err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

func openPool(t testing.TB, url string, edit []func(*pgxpool.Config)) *pgxpool.Pool {
	t.Helper()
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Fatalf("open a pool: %v", err)
	}
	plain(cfg.ConnConfig, t.Name())
	for _, change := range edit {
		change(cfg)
	}
	pool, err := pgxpool.NewWithConfig(context.Background(), cfg)
	if err != nil {
		t.Fatalf("open a pool: %v", err)
	}
	t.Cleanup(func() { closePool(t, pool) })
	return pool
}

// closePool fails the test, instead of hanging, when a connection was never given back.
func closePool(t testing.TB, pool *pgxpool.Pool) {
	closed := make(chan struct{})
	go func() {
		pool.Close()
		close(closed)
	}()
	timer := time.NewTimer(10 * time.Second)
	defer timer.Stop()
	select {
	case <-closed:
	case <-timer.C:
		t.Errorf("close the pool: %d connections are still in use; release them before the test ends", pool.Stat().AcquiredConns())
	}
}

// plain removes what pgx took from the environment and makes search_path empty.
func plain(cfg *pgx.ConnConfig, name string) {
	cfg.RuntimeParams = map[string]string{"search_path": "", "application_name": name[:min(len(name), 63)]}
	cfg.ValidateConnect = nil
	cfg.ConnectTimeout = 20 * time.Second
}
