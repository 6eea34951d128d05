// Package view is what people look at: the reads of the web pages and of the HTTP API, and what they change. Every read is
// bounded: no page costs more because the tables have grown.
package view

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
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

// Close ends the pool for reads.
func (db *DB) Close() { db.reads.pool.Close() }

// sql puts the schema's name into a statement.
func (db *DB) sql(text string) string {
	if db.schema == "offstage" {
		return text
	}
	return strings.NewReplacer("offstage_private.", db.schema+"_private.", "offstage.", db.schema+".").Replace(text)
}
