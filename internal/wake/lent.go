package wake

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"

	"github.com/jackc/pgx/v5"
)

// Lent says whether a pooler lends sessions of the server for each transaction: it gives conn's session to second, which
// holds a transaction open, and another one to conn; then the process id changes and session locks are gone. pid is the
// server's process that conn had at first: a pooler that lends whole sessions shows by another one that it told conn of.
func Lent(ctx context.Context, conn, second *pgx.Conn) (lent bool, pid uint32, err error) {
	// More than once: which session a pooler lends next is a matter of microseconds.
	for range 5 {
		if lent, pid, err = lentNow(ctx, conn, second); err != nil || lent || pid == conn.PgConn().PID() {
			break
		}
	}
	return lent, pid, err
}

// lentNow tries once. Nothing is prepared, because that is what such poolers do not bear.
func lentNow(ctx context.Context, conn, second *pgx.Conn) (lent bool, first uint32, err error) {
	var seed [8]byte
	rand.Read(seed[:]) // never fails
	key := int64(binary.BigEndian.Uint64(seed[:]))
	pid := func(conn *pgx.Conn) (n uint32, err error) {
		err = conn.QueryRow(ctx, `select pg_backend_pid()`, pgx.QueryExecModeExec).Scan(&n)
		return n, err
	}
	if first, err = pid(conn); err != nil {
		return false, 0, err
	}
	if _, err := conn.Exec(ctx, `select pg_advisory_lock($1::bigint)`, pgx.QueryExecModeExec, key); err != nil {
		return false, 0, err
	}
	tx, err := second.Begin(ctx)
	if err != nil {
		return false, 0, err
	}
	_, err = tx.Exec(ctx, `select pg_backend_pid()`, pgx.QueryExecModeExec)
	var again uint32
	if err == nil {
		again, err = pid(conn)
	}
	var kept bool
	if err == nil {
		err = conn.QueryRow(ctx, `select pg_advisory_unlock($1::bigint)`, pgx.QueryExecModeExec, key).Scan(&kept)
	}
	return again != first || !kept, first, errors.Join(err, tx.Rollback(ctx))
}
