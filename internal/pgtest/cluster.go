package pgtest

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/offstage-dev/offstage/internal/devpg"
	"github.com/offstage-dev/offstage/schema"
)

// cluster is a server with what New needs on it: the owner role and the migrated template.
type cluster struct {
	server    *devpg.Server // nil for OFFSTAGE_TEST_DATABASE_URL
	super     *url.URL      // the superuser's URL; its database is replaced
	admin     *pgxpool.Pool // where databases are created and dropped
	owner     string
	password  string
	templates string // name of the template
	prefix    string // names of test databases begin with it

	strategy string                 // of create database
	template func() (string, error) // makes the template once

	mu   sync.Mutex // guards kept
	kept []string   // databases that outlive their tests
}

var shared struct {
	sync.Mutex // guards the fields
	started    bool
	cluster    *cluster
	err        error
}

// sharedCluster is the one that all tests of this process use, started by the first.
func sharedCluster() (*cluster, error) {
	shared.Lock()
	defer shared.Unlock()
	if !shared.started {
		shared.started = true
		shared.cluster, shared.err = openShared()
	}
	return shared.cluster, shared.err
}

func openShared() (*cluster, error) {
	if external := os.Getenv("OFFSTAGE_TEST_DATABASE_URL"); external != "" {
		return openExternal(external)
	}
	server, err := startServer(nil)
	if err != nil {
		return nil, err
	}
	c, err := openPrivate(server)
	if err != nil {
		return nil, errors.Join(err, server.Stop())
	}
	return c, nil
}

func stopShared() error {
	shared.Lock()
	defer shared.Unlock()
	c := shared.cluster
	shared.cluster, shared.err = nil, errors.New("the tests are over")
	if c == nil {
		return nil
	}
	if c.server == nil {
		defer c.admin.Close()
		return c.dropKept()
	}
	c.admin.Close()
	return c.server.Stop()
}

// dropKept leaves nothing on a server that goes on running.
func (c *cluster) dropKept() (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for _, name := range c.kept {
		_, failed := c.admin.Exec(ctx, "drop database if exists "+quote(name)+" with (force)")
		err = errors.Join(err, failed)
	}
	return err
}

// startServer starts a private server whose data need not survive the machine.
func startServer(settings map[string]string) (*devpg.Server, error) {
	all := map[string]string{
		"fsync":              "off",
		"full_page_writes":   "off",
		"synchronous_commit": "on",
		"max_connections":    "200",
		"max_wal_size":       "256MB", // the directory is in memory
		"autovacuum_naptime": "1h",    // it starts a process for each database, of which tests make many
		"timezone":           "UTC",
	}
	maps.Copy(all, settings)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return devpg.Start(ctx, devpg.Config{
		Version:  os.Getenv("OFFSTAGE_TEST_PG"),
		Settings: all,
		InMemory: all["fsync"] == "off", // who asks for fsync wants to see a disk
	})
}

// openPrivate prepares a server of which this process is the only user.
func openPrivate(server *devpg.Server) (*cluster, error) {
	super, err := url.Parse(server.URL("postgres"))
	if err != nil {
		return nil, err
	}
	c := &cluster{
		server: server, super: super, owner: "owner", password: random(),
		templates: "offstage_template", prefix: "t_",
	}
	return c, c.open()
}

// openExternal prepares a server that other test processes use at the same time, of this checkout and
// others. So the role's password must be one that all of them know and nobody else does, and the
// template is found by the schema that it has.
func openExternal(text string) (*cluster, error) {
	super, err := url.Parse(text)
	if err != nil || super.Host == "" || super.User == nil {
		// The parser's error would quote the URL with its password.
		return nil, errors.New("OFFSTAGE_TEST_DATABASE_URL cannot be read; write postgres://user:password@host:port/postgres?sslmode=disable")
	}
	mac := hmac.New(sha256.New, []byte(super.User.String()))
	mac.Write([]byte("offstage test owner"))
	hash, err := schemaHash()
	if err != nil {
		return nil, err
	}
	c := &cluster{
		super: super, owner: "offstage_test_owner", password: hex.EncodeToString(mac.Sum(nil)[:16]),
		templates: "offstage_template_" + hash, prefix: "offstage_test_",
	}
	return c, c.open()
}

func (c *cluster) open() error {
	cfg, err := pgxpool.ParseConfig(c.superURL(strings.TrimPrefix(c.super.Path, "/")))
	if err != nil {
		return fmt.Errorf("open the test server: %w", err)
	}
	plain(cfg.ConnConfig, "offstage pgtest")
	cfg.MaxConns = 8
	if c.admin, err = pgxpool.NewWithConfig(context.Background(), cfg); err != nil {
		return fmt.Errorf("open the test server: %w", err)
	}
	c.template = sync.OnceValues(func() (string, error) {
		return c.templates, c.locked(c.makeTemplate)
	})
	if err := errors.Join(c.locked(c.chooseStrategy), c.locked(c.makeOwner)); err != nil {
		c.admin.Close()
		return fmt.Errorf("open the test server: %w", err)
	}
	return nil
}

// locked runs f on one connection while no other test process does.
func (c *cluster) locked(f func(context.Context, *pgx.Conn) error) error {
	const key = 0x6f666673 // "offs"
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return c.admin.AcquireFunc(ctx, func(conn *pgxpool.Conn) (err error) {
		if _, err := conn.Exec(ctx, "select pg_catalog.pg_advisory_lock($1)", key); err != nil {
			return err
		}
		defer func() {
			_, unlock := conn.Exec(ctx, "select pg_catalog.pg_advisory_unlock($1)", key)
			err = errors.Join(err, unlock)
		}()
		return f(ctx, conn.Conn())
	})
}

// chooseStrategy has databases copied file by file, as before version 15. The server's own choice writes all of it to the log, and leaves
// out the file with which the first session of a database starts faster: together half as much work again.
func (c *cluster) chooseStrategy(ctx context.Context, conn *pgx.Conn) error {
	var known bool
	err := conn.QueryRow(ctx, "select pg_catalog.current_setting('server_version_num')::integer >= 150000").Scan(&known)
	if known {
		c.strategy = " strategy file_copy"
	}
	return err
}

func (c *cluster) makeOwner(ctx context.Context, conn *pgx.Conn) error {
	verifier, err := devpg.PasswordVerifier(c.password)
	if err != nil {
		return err
	}
	verb := "alter"
	err = conn.QueryRow(ctx, "select 1 from pg_catalog.pg_roles where rolname = $1", c.owner).Scan(new(int))
	if errors.Is(err, pgx.ErrNoRows) {
		verb = "create"
	} else if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, fmt.Sprintf("%s role %s login nosuperuser nocreatedb nocreaterole password '%s'",
		verb, quote(c.owner), verifier))
	return err
}

// makeTemplate migrates a database and closes it to connections: one that is connected to cannot be
// copied. A template that is not closed yet was left by a process that was killed.
func (c *cluster) makeTemplate(ctx context.Context, conn *pgx.Conn) error {
	var ready bool
	err := conn.QueryRow(ctx, "select coalesce(bool_or(datistemplate), false) from pg_catalog.pg_database where datname = $1",
		c.templates).Scan(&ready)
	if err != nil || ready {
		return err
	}
	name := quote(c.templates)
	for _, statement := range []string{
		"drop database if exists " + name + " with (force)",
		"create database " + name + " owner " + quote(c.owner),
	} {
		if _, err := conn.Exec(ctx, statement); err != nil {
			return err
		}
	}
	if err := c.migrate(ctx); err != nil {
		return err
	}
	_, err = conn.Exec(ctx, "alter database "+name+" is_template true allow_connections false")
	return err
}

func (c *cluster) migrate(ctx context.Context) error {
	cfg, err := pgx.ParseConfig(c.ownerURL(c.templates))
	if err != nil {
		return err
	}
	plain(cfg, "offstage pgtest template")
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return err
	}
	_, err = schema.Migrate(ctx, conn, schema.Config{})
	return errors.Join(err, conn.Close(ctx))
}

// create copies a database for a test and drops it afterwards.
func (c *cluster) create(t testing.TB, template string) *DB {
	t.Helper()
	db := c.copy(t, template)
	t.Cleanup(func() { c.drop(t, db.Name) })
	return db
}

// keep is create for a database that stays as long as the server, or this process.
func (c *cluster) keep(t testing.TB, template string) *DB {
	t.Helper()
	db := c.copy(t, template)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.kept = append(c.kept, db.Name)
	return db
}

func (c *cluster) copy(t testing.TB, template string) *DB {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	name := c.prefix + readable(t.Name()) + "_" + random()[:10]
	_, err := c.admin.Exec(ctx, "create database "+quote(name)+" owner "+quote(c.owner)+" template "+quote(template)+c.strategy)
	if err != nil {
		t.Fatalf("create a test database: %v", err)
	}
	return &DB{Name: name, URL: c.ownerURL(name), SuperURL: c.superURL(name)}
}

func (c *cluster) drop(t testing.TB, name string) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, err := c.admin.Exec(ctx, "drop database if exists "+quote(name)+" with (force)")
	var answer *pgconn.PgError
	if err != nil && (c.server == nil || errors.As(err, &answer)) {
		t.Errorf("drop the test database: %v", err)
	}
	// A private server that does not answer was crashed by its test, and goes away with its data.
}

// own holds the clusters of servers that tests started for themselves, until Server's cleanup.
var own struct {
	sync.Mutex // guards byServer
	byServer   map[*devpg.Server]*cluster
}

func ownCluster(t testing.TB, server *devpg.Server) *cluster {
	t.Helper()
	own.Lock()
	defer own.Unlock()
	if c := own.byServer[server]; c != nil {
		return c
	}
	c, err := openPrivate(server)
	if err != nil {
		t.Fatal(err)
	}
	if own.byServer == nil {
		own.byServer = map[*devpg.Server]*cluster{}
	}
	own.byServer[server] = c
	return c
}

func closeOwn(server *devpg.Server) {
	own.Lock()
	defer own.Unlock()
	if c := own.byServer[server]; c != nil {
		c.admin.Close()
		delete(own.byServer, server)
	}
}

func (c *cluster) superURL(database string) string { return with(c.super, c.super.User, database) }

func (c *cluster) ownerURL(database string) string {
	return with(c.super, url.UserPassword(c.owner, c.password), database)
}

func with(base *url.URL, user *url.Userinfo, database string) string {
	u := *base
	u.User, u.Path = user, "/"+database
	return u.String()
}

// readable makes a test's name part of a database's, so that pg_stat_activity tells who is who.
func readable(name string) string {
	clean := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		}
		return '_'
	}, strings.TrimPrefix(name, "Test"))
	return clean[:min(len(clean), 30)]
}

func quote(name string) string { return pgx.Identifier{name}.Sanitize() }

func random() string {
	var b [16]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}
