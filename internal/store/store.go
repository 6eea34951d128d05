// Package store speaks the worker protocol: each method is one call of one SQL function. It decides nothing.
package store

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/offstage-dev/offstage"
)

// Store makes the statements for one schema.
type Store struct {
	schema string
	claim  call
	settle call
	offer  call
}

// New makes a store. The name of the schema must have been checked.
func New(schema string) *Store {
	return &Store{
		schema: schema,
		claim: newCall("offstage_claim", `select kind, claim, job_id, lane_id, priority, run_at, task_id, attempt, max_attempts, crashes, added_at, queue_id,
			queue_name, key, flags, last_error, timeout, traceparent, expired, payload, job_ctid
			from `+schema+`.claim($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
			pgtype.Int4OID, pgtype.Int4OID, pgtype.Int4ArrayOID, pgtype.TextArrayOID,
			pgtype.Int4ArrayOID, pgtype.Int2ArrayOID, pgtype.TimestamptzArrayOID, pgtype.Int8ArrayOID, pgtype.Int4OID),
		settle: newCall("offstage_settle", `select claim, job_id, verdict from `+schema+`.settle($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`,
			pgtype.Int4OID, pgtype.Int8ArrayOID, pgtype.Int8ArrayOID, pgtype.JSONArrayOID,
			pgtype.JSONArrayOID, pgtype.JSONOID, pgtype.Int8ArrayOID, pgtype.TIDArrayOID, pgtype.JSONOID, pgtype.BoolOID),
		offer: newCall("offstage_offer", `select `+schema+`.offer($1, $2, $3)`, pgtype.Int4OID, pgtype.TextOID, pgtype.Int4ArrayOID),
	}
}

// fn puts the schema's name into a statement.
func (s *Store) fn(sql string) string {
	if s.schema == "offstage" {
		return sql
	}
	return strings.NewReplacer("offstage_private.", s.schema+"_private.", "offstage.", s.schema+".").Replace(sql)
}

// Prepare sets a session up for worker statements, whatever the role or database has as defaults: no transaction
// that idles can keep rows locked, a cut connection is noticed in seconds, and every statement reads what is committed.
func Prepare(ctx context.Context, conn *pgx.Conn) error {
	_, err := conn.Exec(ctx, `select set_config(name, value, false) from (values
		('idle_in_transaction_session_timeout', '10s'), ('statement_timeout', '0'), ('lock_timeout', '0'),
		('default_transaction_isolation', 'read committed'), ('default_transaction_read_only', 'off'),
		('tcp_keepalives_idle', '5'), ('tcp_keepalives_interval', '2'), ('tcp_keepalives_count', '3'),
		('tcp_user_timeout', '10000'), ('client_min_messages', 'error')) s (name, value)`)
	return err
}

// Fault maps errors of the database to the vocabulary: a worker that has been declared dead gets offstage.ErrLost, a
// function that is missing offstage.ErrNotInstalled.
func Fault(err error) error {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return err
	}
	switch pg.Code {
	case "OS001":
		return fmt.Errorf("%w: %w", offstage.ErrLost, err)
	case "42883", "3F000", "42P01":
		return fmt.Errorf("%w: %w", offstage.ErrNotInstalled, err)
	}
	return err
}
