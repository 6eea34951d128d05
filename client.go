package offstage

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Config of a client. The zero value works.
type Config struct {
	// Schema is where Offstage is installed. Default: "offstage".
	Schema string

	// Traceparent says in which trace a job is added (a W3C traceparent), from the context that Add gets, so that its attempts
	// belong to it; "": in none. Options.Traceparent goes first. Package offstageotel has one for OpenTelemetry. Default: none.
	Traceparent func(ctx context.Context) string
}

// Client adds jobs and follows them. It is safe for concurrent use, and cheap to copy with With and WithSQL.
type Client struct {
	pool    *pgxpool.Pool
	db      database
	schema  string
	trace   func(context.Context) string // nil: jobs are in no trace
	waiters *waiters                     // shared by all clients of the pool and schema
	close   *sync.Once                   // shared by all copies
}

var validSchema = regexp.MustCompile(`^[a-z_][a-z0-9_]{0,54}$`)

// New makes a client over a pool. It starts nothing and connects only when it is used.
func New(pool *pgxpool.Pool, cfg Config) (*Client, error) {
	if cfg.Schema == "" {
		cfg.Schema = "offstage"
	}
	if !validSchema.MatchString(cfg.Schema) {
		return nil, fmt.Errorf("offstage: schema name %q is not allowed: use 1 to 55 of a-z, 0-9 and _, not starting with a digit", cfg.Schema)
	}
	c := &Client{pool: pool, schema: cfg.Schema, trace: cfg.Traceparent, close: new(sync.Once)}
	if pool != nil {
		c.db = pgxDB{pool}
	}
	c.waiters = waitersOf(pool, cfg.Schema)
	return c, nil
}

// With is the client in the caller's transaction: what it does becomes true when tx commits.
func (c *Client) With(tx pgx.Tx) *Client {
	clone := *c
	clone.db = pgxDB{tx}
	return &clone
}

// WithSQL is the client in a transaction of database/sql, with any PostgreSQL driver.
func (c *Client) WithSQL(tx *sql.Tx) *Client {
	clone := *c
	clone.db = sqlDB{tx}
	return &clone
}

// Close ends the connection on which the client awaits jobs, if there is one and no other client of the same pool is open. Who
// awaits then looks through the pool, every two seconds at last. The pool is the caller's.
func (c *Client) Close() { c.close.Do(c.waiters.close) }

// database is what the client needs of a pool or transaction. All arguments are text, numbers or times, so that any
// driver passes them on.
type database interface {
	query(ctx context.Context, sql string, args ...any) (rows, error)
}

type rows interface {
	Next() bool
	Scan(...any) error
	Err() error
	Close()
}

type pgxDB struct {
	q interface {
		Query(context.Context, string, ...any) (pgx.Rows, error)
	}
}

func (d pgxDB) query(ctx context.Context, sql string, args ...any) (rows, error) {
	return d.q.Query(ctx, sql, args...)
}

type sqlDB struct{ tx *sql.Tx }

type sqlRows struct{ *sql.Rows }

func (r sqlRows) Close() { r.Rows.Close() } // its error is in Err

func (d sqlDB) query(ctx context.Context, sql string, args ...any) (rows, error) {
	r, err := d.tx.QueryContext(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return sqlRows{r}, nil
}

// each runs a query with "offstage." for the client's schema and calls scan for every row.
func (c *Client) each(ctx context.Context, what, sql string, args []any, scan func(rows) error) error {
	if c.db == nil {
		return fmt.Errorf("%s: the client has no pool: use With or WithSQL", what)
	}
	r, err := c.db.query(ctx, strings.ReplaceAll(sql, "offstage.", c.schema+"."), args...)
	if err != nil {
		return fmt.Errorf("%s: %w", what, fault(err))
	}
	defer r.Close()
	for r.Next() {
		if err := scan(r); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
	if err := r.Err(); err != nil {
		return fmt.Errorf("%s: %w", what, fault(err))
	}
	return nil
}

// fault maps SQLSTATEs to the sentinels.
func fault(err error) error {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		switch pg.Code {
		case "OS002":
			return fmt.Errorf("%w: %w", ErrNoSchedule, err)
		case "42883", "3F000", "42P01":
			return fmt.Errorf("%w (offstage migrate installs it): %w", ErrNotInstalled, err)
		}
		if pg.Hint != "" {
			return fmt.Errorf("%w (%s)", err, pg.Hint)
		}
	}
	return err
}
