package view

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// ErrCrowded says that this client's own reads have taken so long that another one of its could not begin in time.
var ErrCrowded = errors.New("too many reads at a time")

// Of the four connections for reads, one client has two at a time, and its streams another one: its other reads wait in line, as long as a read may
// take. So nobody who asks for much that is slow keeps others waiting for more than a moment.
const (
	readTime     = 2 * time.Second
	readsEach    = 2
	followedEach = 1
)

// clients are those whose reads are under way, or wait.
type clients struct {
	mu  sync.Mutex // guards all
	all map[string]*line
}

type line struct {
	turns chan struct{}
	users int // that hold a turn, or wait for one
}

// enter waits for a turn, until ctx ends, stopping is closed, or it has taken longer than patience; 0: however long. leave must be called.
func (c *clients) enter(ctx context.Context, name string, turns int, patience time.Duration, stopping <-chan struct{}) (leave func(), err error) {
	c.mu.Lock()
	l := c.all[name]
	if l == nil {
		l = &line{turns: make(chan struct{}, turns)}
		c.all[name] = l
	}
	l.users++
	c.mu.Unlock()
	gone := func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if l.users--; l.users == 0 {
			delete(c.all, name)
		}
	}
	leave = sync.OnceFunc(func() { <-l.turns; gone() })
	select {
	case l.turns <- struct{}{}:
		return leave, nil
	default:
	}
	var late <-chan time.Time
	if patience > 0 {
		timer := time.NewTimer(patience)
		defer timer.Stop()
		late = timer.C
	}
	select {
	case l.turns <- struct{}{}:
		return leave, nil
	case <-ctx.Done():
		err = ctx.Err()
	case <-stopping:
		err = context.Canceled
	case <-late:
		err = ErrCrowded
	}
	gone()
	return nil, err
}

// asking is who reads; in the context.
type asking struct {
	client string
	turn   bool // it has one
}

type askingKey struct{}

// ForClient says whose reads these are. Without it they do not wait for each other: those of the program itself.
func ForClient(ctx context.Context, client string) context.Context {
	return context.WithValue(ctx, askingKey{}, asking{client: client})
}

// Enter takes a turn for several reads, one after another, before anything else is held that others may wait for. ErrCrowded; leave must be called.
func (db *DB) Enter(ctx context.Context) (own context.Context, leave func(), err error) {
	return db.reads.enter(ctx, "", readsEach, readTime, nil)
}

// EnterStream is Enter for what looks again and again: it has a turn of its own, and waits for it until stopping is closed.
func (db *DB) EnterStream(ctx context.Context, stopping <-chan struct{}) (own context.Context, leave func(), err error) {
	return db.reads.enter(ctx, "stream ", followedEach, 0, stopping)
}

// reads is the pool for reads, in which clients take turns.
type reads struct {
	pool    *pgxpool.Pool
	clients clients
}

func (r *reads) enter(ctx context.Context, kind string, turns int, patience time.Duration, stopping <-chan struct{}) (own context.Context, leave func(), err error) {
	who, ok := ctx.Value(askingKey{}).(asking)
	if !ok || who.turn {
		return ctx, func() {}, nil
	}
	leave, err = r.clients.enter(ctx, kind+who.client, turns, patience, stopping)
	if err != nil {
		return ctx, nil, err
	}
	who.turn = true
	return context.WithValue(ctx, askingKey{}, who), leave, nil
}

func (r *reads) turn(ctx context.Context) (leave func(), err error) {
	_, leave, err = r.enter(ctx, "", readsEach, readTime, nil)
	return leave, err
}

// Query is the pool's; the turn ends with the rows.
func (r *reads) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	leave, err := r.turn(ctx)
	if err != nil {
		return nil, err
	}
	found, err := r.pool.Query(ctx, sql, args...)
	if err != nil {
		leave()
		return found, err
	}
	return &rows{found, leave}, nil
}

// QueryRow is the pool's; the turn ends with Scan.
func (r *reads) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	leave, err := r.turn(ctx)
	if err != nil {
		return noRow{err}
	}
	return row{r.pool.QueryRow(ctx, sql, args...), leave}
}

// BeginTx is the pool's; the turn ends with the transaction.
func (r *reads) BeginTx(ctx context.Context, options pgx.TxOptions) (pgx.Tx, error) {
	leave, err := r.turn(ctx)
	if err != nil {
		return nil, err
	}
	begun, err := r.pool.BeginTx(ctx, options)
	if err != nil {
		leave()
		return nil, err
	}
	return transaction{begun, leave}, nil
}

// batch sends it, and does what its statements were given to do.
func (r *reads) batch(ctx context.Context, b *pgx.Batch) error {
	leave, err := r.turn(ctx)
	if err != nil {
		return err
	}
	defer leave()
	return r.pool.SendBatch(ctx, b).Close()
}

type rows struct {
	pgx.Rows
	leave func()
}

func (r *rows) Next() bool {
	more := r.Rows.Next()
	if !more {
		r.leave()
	}
	return more
}

func (r *rows) Close() {
	r.Rows.Close()
	r.leave()
}

type row struct {
	pgx.Row
	leave func()
}

func (r row) Scan(to ...any) error {
	defer r.leave()
	return r.Row.Scan(to...)
}

type noRow struct{ err error }

func (r noRow) Scan(...any) error { return r.err }

type transaction struct {
	pgx.Tx
	leave func()
}

func (t transaction) Commit(ctx context.Context) error {
	defer t.leave()
	return t.Tx.Commit(ctx)
}

func (t transaction) Rollback(ctx context.Context) error {
	defer t.leave()
	return t.Tx.Rollback(ctx)
}
