package cli

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/offstage-dev/offstage/internal/wake"
)

// pooler: whether this session is one of the server's, or borrowed from a pool, and for how long.
func (d *doctor) pooler(ctx context.Context) error {
	const check = "pooler"
	second, err := d.scratch(ctx)
	if err != nil {
		d.warn(check, "raise max_connections, or the pooler's limit", "there is no second connection to be had: %v", err)
		return nil
	}
	defer wake.Close(second)

	lent, first, err := wake.Lent(ctx, d.conn, second)
	if err != nil {
		return err
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
