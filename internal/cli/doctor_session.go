package cli

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/offstage-dev/offstage/internal/wake"
)

// pooler: whether this session is one of the server's, or borrowed from a pool for each transaction. A pooler that
// lends them gives our first session's to the second one, which holds a transaction open, and another one to us: then
// the process id changes and session locks are gone. A pooler that lends whole sessions shows by the key that it made up.
func (d *doctor) pooler(ctx context.Context) error {
	const check = "pooler"
	second, err := d.scratch(ctx)
	if err != nil {
		d.warn(check, "raise max_connections, or the pooler's limit", "there is no second connection to be had: %v", err)
		return nil
	}
	defer wake.Close(second)

	// More than once: which session a pooler lends next is a matter of microseconds.
	lent := false
	first := uint32(0)
	for range 5 {
		if lent, first, err = d.lent(ctx, second); err != nil {
			return err
		}
		if lent || first == d.conn.PgConn().PID() {
			break
		}
	}
	switch {
	case lent:
		d.warn(check, "give workers a connection of their own to PostgreSQL (port 5432), or a pooler in session mode; programs that only add jobs may stay",
			"a pooler lends a server session for each transaction: LISTEN and session locks do not work, so workers find jobs by polling")
	case first != d.conn.PgConn().PID():
		d.ok(check, "a pooler is in between and lends whole sessions; leave six of them for each worker")
	default:
		d.ok(check, "none in between")
	}
	return nil
}

// lent tries once whether d.conn gets another session of the server, or finds its lock gone, while second holds a
// transaction open. first is the session that it had.
func (d *doctor) lent(ctx context.Context, second *pgx.Conn) (lent bool, first uint32, err error) {
	var seed [8]byte
	rand.Read(seed[:]) // never fails
	key := int64(binary.BigEndian.Uint64(seed[:]))
	pid := func(conn *pgx.Conn) (n uint32, err error) {
		err = conn.QueryRow(ctx, `select pg_backend_pid()`).Scan(&n)
		return n, err
	}
	if first, err = pid(d.conn); err != nil {
		return false, 0, err
	}
	if _, err := d.conn.Exec(ctx, `select pg_advisory_lock($1::bigint)`, key); err != nil {
		return false, 0, err
	}
	tx, err := second.Begin(ctx)
	if err != nil {
		return false, 0, err
	}
	_, err = tx.Exec(ctx, `select pg_backend_pid()`)
	var again uint32
	if err == nil {
		again, err = pid(d.conn)
	}
	var kept bool
	if err == nil {
		err = d.conn.QueryRow(ctx, `select pg_advisory_unlock($1::bigint)`, key).Scan(&kept)
	}
	return again != first || !kept, first, errors.Join(err, tx.Rollback(ctx))
}

// listen: whether a notification sent by one session arrives at another.
func (d *doctor) listen(ctx context.Context) error {
	const check, patience = "listen", 2 * time.Second
	listener, err := d.scratch(ctx)
	if err != nil {
		return err
	}
	defer wake.Close(listener)
	var random [8]byte
	rand.Read(random[:]) // never fails
	channel := "offstage:doctor:" + hex.EncodeToString(random[:])
	if _, err := listener.Exec(ctx, "listen "+pgx.Identifier{channel}.Sanitize()); err != nil {
		return err
	}
	begin := time.Now()
	if _, err := d.conn.Exec(ctx, `select pg_notify($1::text, '')`, channel); err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	switch _, err := listener.WaitForNotification(limited); {
	case err == nil:
		d.ok(check, "a notification arrives after %s", span(time.Since(begin)))
	case ctx.Err() != nil:
		return ctx.Err()
	default:
		d.warn(check, "connect workers directly to PostgreSQL; until then jobs start after up to --poll-interval",
			"a notification did not arrive within %s", span(patience))
	}
	return nil
}
