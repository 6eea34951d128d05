// Package view is what people look at: the reads of the web pages and of the HTTP API, and what they change. Every read is
// bounded: no page costs more because the tables have grown.
package view

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/offstage-dev/offstage/internal/wake"
)

// DB is a database as people see it. Reads have a pool of their own, of four connections that cannot write and give up after two
// seconds, and of which one client has two at a time; their plans go along indexes whatever the planner believes of a table, so that no page harms the workers; writes go
// through the pool of the program.
type DB struct {
	reads  *reads
	writes *pgxpool.Pool
	schema string
	kick   chan struct{} // a bulk was started here: RunBulks
}

// Open makes the pool for reads, to where pool leads. The name of the schema must have been checked.
func Open(ctx context.Context, pool *pgxpool.Pool, schema string) (*DB, error) {
	cfg := pool.Config()
	cfg.MaxConns, cfg.MinConns = 4, 0
	cfg.ConnConfig.RuntimeParams["application_name"] = "offstage web"
	cfg.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		if err := owned(ctx, conn); err != nil {
			return err
		}
		_, err := conn.Exec(ctx, `select set_config(name, value, false) from (values
			('default_transaction_read_only', 'on'), ('statement_timeout', '2s'), ('lock_timeout', '1s'),
			('idle_in_transaction_session_timeout', '10s'), ('jit', 'off'), ('enable_seqscan', 'off'), ('enable_bitmapscan', 'off'),
			('enable_hashjoin', 'off'), ('enable_mergejoin', 'off'), ('client_min_messages', 'error')) s (name, value)`)
		return err
	}
	own, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("view: %w", err)
	}
	return &DB{reads: &reads{pool: own, clients: clients{all: map[string]*line{}}}, writes: pool, schema: schema, kick: make(chan struct{}, 1)}, nil
}

// ErrLent says that a pooler lends the sessions of the server for each transaction.
var ErrLent = errors.New("a pooler lends a session for each transaction, which would leave our settings (read-only, a limit of two seconds) to other programs: connect to PostgreSQL itself, or to a pooler that lends whole sessions")

// owned fails where the session is lent to others as well: they would find it read-only, with a short timeout and plans meant for our reads.
func owned(ctx context.Context, conn *pgx.Conn) error {
	var pid uint32
	if err := conn.QueryRow(ctx, `select pg_backend_pid()`, pgx.QueryExecModeExec).Scan(&pid); err != nil {
		return err
	}
	if pid == conn.PgConn().PID() { // nothing in between has made one up
		return nil
	}
	second, err := pgx.ConnectConfig(ctx, conn.Config())
	if err != nil {
		return err
	}
	defer wake.Close(second)
	lent, _, err := wake.Lent(ctx, conn, second)
	if err == nil && lent {
		err = ErrLent
	}
	return err
}

// Check connects, and says what keeps this database from being looked at.
func (db *DB) Check(ctx context.Context) error { return db.reads.pool.Ping(ctx) }

// Close ends the pool for reads.
func (db *DB) Close() { db.reads.pool.Close() }

// sql puts the schema's name into a statement.
func (db *DB) sql(text string) string {
	if db.schema == "offstage" {
		return text
	}
	return strings.NewReplacer("offstage_private.", db.schema+"_private.", "offstage.", db.schema+".").Replace(text)
}
