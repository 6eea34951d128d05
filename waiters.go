package offstage

import (
	"context"
	"encoding/json"
	"errors"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"weak"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/offstage-dev/offstage/internal/wake"
)

// How waiters look for the end of their jobs, besides being told.
const (
	firstPause   = 20 * time.Millisecond // a settle that looked for waiters just before we announced ours is over by then
	longestPause = 2 * time.Second       // however long the job takes
	perLook      = 1000                  // jobs in one statement; with more of them than this, so many are looked at a second
	announceFor  = time.Minute           // and again after half of it
	linger       = 5 * time.Second       // how long the connection is kept for who awaits the next job
)

// waiters are all who await jobs of one installation through one pool, by whatever client. While there are some, a line
// serves them.
type waiters struct {
	pool   *pgxpool.Pool
	schema string

	mu      sync.Mutex // guards what is below
	clients int        // that are not closed; none: no connections of our own any more
	all     map[*waiter]bool
	line    *line
	resting *time.Timer // ends the line; one, so that the last to leave decides when
	failing error       // why the database cannot be asked
}

// places has the waiters of this process, as long as somebody holds them: clients need not be closed.
var places = struct {
	mu  sync.Mutex
	all map[place]weak.Pointer[waiters]
}{all: map[place]weak.Pointer[waiters]{}}

type place struct {
	pool   weak.Pointer[pgxpool.Pool]
	schema string
}

// waiter is one call of Await.
type waiter struct {
	id   int64
	told chan end // holds one

	// The line's:
	looks     int // that have not found the end
	next      time.Time
	announced time.Time
}

// waitersOf are those of a new client.
func waitersOf(pool *pgxpool.Pool, schema string) *waiters {
	at := place{weak.Make(pool), schema}
	places.mu.Lock()
	defer places.mu.Unlock()
	w := places.all[at].Value()
	if w == nil {
		w = &waiters{pool: pool, schema: schema, all: map[*waiter]bool{}}
		places.all[at] = weak.Make(w)
		runtime.AddCleanup(w, forget, at)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.clients++
	return w
}

func forget(at place) {
	places.mu.Lock()
	defer places.mu.Unlock()
	if places.all[at].Value() == nil { // there may be others by now
		delete(places.all, at)
	}
}

// join adds a waiter, who is told at most once; leave must be called.
func (w *waiters) join(id int64) (told <-chan end, leave func()) {
	one := &waiter{id: id, told: make(chan end, 1)}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all[one] = true
	if w.line == nil {
		w.line = &line{w: w}
		w.line.ctx, w.line.end = context.WithCancel(context.Background())
		go w.line.run()
	}
	w.line.kick()
	return one.told, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.all, one)
		if len(w.all) == 0 {
			if w.resting != nil {
				w.resting.Stop()
			}
			w.resting = time.AfterFunc(linger, w.rest)
		}
	}
}

// rest ends the line when nobody has come back meanwhile to await the next job.
func (w *waiters) rest() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.all) == 0 && w.line != nil {
		w.line.end()
		w.line, w.failing = nil, nil
	}
}

// close is for a client that is closed: with the last one the connection is given up. Those who still wait, or come later,
// look through the pool.
func (w *waiters) close() {
	w.mu.Lock()
	w.clients--
	if w.clients == 0 && w.line != nil {
		w.line.kick()
	}
	w.mu.Unlock()
	w.rest()
}

// tell answers those of these waiters who are still there.
func (w *waiters) tell(list []*waiter, e end) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, one := range list {
		if w.all[one] {
			delete(w.all, one)
			one.told <- e
		}
	}
}

func (w *waiters) isClosed() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.clients == 0
}

func (w *waiters) trouble() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.failing
}

func (w *waiters) setTrouble(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.failing = err
}

// line is the goroutine that looks for all waiters, and its one connection. At first that is the pool's: who need not wait
// makes none. When somebody has to, it is taken out of the pool, and listens.
type line struct {
	w   *waiters
	ctx context.Context
	end context.CancelFunc

	// run's own:
	conn      *pgx.Conn
	borrowed  *pgxpool.Conn // conn, if it is to be given back
	listening bool

	// Under waiters.mu:
	kicked bool // somebody came since due() looked
	stir   context.CancelFunc
}

// kick has the line look who has come. waiters.mu is held.
func (l *line) kick() {
	l.kicked = true
	if l.stir != nil {
		l.stir()
	}
}

func (l *line) run() {
	defer l.hangUp()
	for failures := 0; l.ctx.Err() == nil; {
		batch, next := l.due()
		var err error
		if len(batch) > 0 {
			err = l.look(batch)
		} else {
			err = l.hear(next)
		}
		switch {
		case err == nil:
			if len(batch) > 0 && failures > 0 {
				failures = 0
				l.w.setTrouble(nil)
			}
		case len(batch) > 0 && isFinal(err):
			for _, list := range batch {
				l.w.tell(list, end{err: err})
			}
		default: // anything may be missed until the next connection
			failures++
			l.hangUp()
			l.hurry(nil)
			l.w.setTrouble(err)
			select {
			case <-l.ctx.Done():
			case <-time.After(wake.Backoff(failures)):
			}
		}
	}
}

// isFinal says that the database has answered, and would answer the same again. (0A: a migration has changed what functions
// answer under a prepared statement.)
func isFinal(err error) bool {
	var pg *pgconn.PgError
	passing := []string{"08", "0A", "25", "40", "53", "55", "57", "58"}
	return errors.As(err, &pg) && !slices.Contains(passing, pg.Code[:min(2, len(pg.Code))])
}

// due are the waiters to look for now, by job, and until when there is nothing to do otherwise. Who is nearly due comes
// along, so that looks are few.
func (l *line) due() (batch map[int64][]*waiter, next time.Time) {
	now := time.Now()
	batch, next = map[int64][]*waiter{}, now.Add(time.Hour)
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	l.kicked = false
	if l.w.line != l { // we have ended, and those who have come since are our successor's
		return batch, next
	}
	for one := range l.w.all {
		early := one.next.Add(-pause(one.looks, len(l.w.all)) / 2)
		if !early.After(now) && (len(batch) < perLook || batch[one.id] != nil) {
			batch[one.id] = append(batch[one.id], one)
		} else if one.next.Before(next) {
			next = one.next
		}
	}
	return batch, next
}

// pause is how long to wait after so many looks that found nothing. The first one, which many need only, is made before the
// database is told of them.
func pause(looks, waiters int) time.Duration {
	if looks < 2 {
		return 0
	}
	return min(firstPause<<min(looks-2, 20), max(longestPause, time.Duration(waiters)*time.Second/perLook))
}

// hurry makes everybody due, or those who await one of these jobs.
func (l *line) hurry(ids []int64) {
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	if l.w.line != l {
		return
	}
	some := map[int64]bool{}
	for _, id := range ids {
		some[id] = true
	}
	for one := range l.w.all {
		if ids == nil || some[one.id] {
			one.next = time.Time{}
		}
	}
}

// look asks for the jobs of a batch and tells the waiters of those that have ended. If they have to wait, it announces them
// first: the settle that ends a job looks for waiters before it commits.
func (l *line) look(batch map[int64][]*waiter) error {
	ctx, cancel := context.WithTimeout(l.ctx, 10*time.Second)
	defer cancel()
	now := time.Now()
	var ids, announce []int64
	wait := false
	for id, list := range batch {
		ids = append(ids, id)
		again := slices.ContainsFunc(list, func(one *waiter) bool { return one.looks > 0 })
		wait = wait || again
		if again && slices.ContainsFunc(list, func(one *waiter) bool { return now.Sub(one.announced) > announceFor/2 }) {
			announce = append(announce, id)
		}
	}
	if err := l.connect(ctx, wait); err != nil {
		return err
	}
	if announce != nil {
		if _, err := l.conn.Exec(ctx, l.sql(`select offstage.await_jobs($1::bigint[], $2::float8 * interval '1 s')`), announce, announceFor.Seconds()); err != nil {
			return err
		}
		for _, id := range announce {
			for _, one := range batch[id] {
				one.announced = now
			}
		}
	}
	return l.ask(ctx, ids, batch)
}

func (l *line) ask(ctx context.Context, ids []int64, batch map[int64][]*waiter) error {
	rows, err := l.conn.Query(ctx, l.sql(`select job_id, outcome, result::text, error from offstage.job_outcomes($1::bigint[])`), ids)
	if err != nil {
		return err
	}
	defer rows.Close()
	known := map[int64]bool{}
	for rows.Next() {
		var id int64
		var outcome, result, reason *string
		if err := rows.Scan(&id, &outcome, &result, &reason); err != nil {
			return err
		}
		known[id] = true
		if outcome != nil {
			e := end{outcome: Outcome(*outcome), reason: or(reason)}
			if result != nil {
				e.result = json.RawMessage(*result)
			}
			l.w.tell(batch[id], e)
		}
	}
	if err := rows.Err(); err != nil {
		return err
	}
	now := time.Now()
	l.w.mu.Lock()
	n := len(l.w.all)
	l.w.mu.Unlock()
	for id, list := range batch {
		if !known[id] {
			l.w.tell(list, end{})
		}
		for _, one := range list {
			one.looks++
			one.next = now.Add(pause(one.looks, n))
		}
	}
	return nil
}

func (l *line) sql(text string) string { return strings.ReplaceAll(text, "offstage.", l.w.schema+".") }

// connect sees to it that there is a connection, and, if somebody has to wait, that it listens.
func (l *line) connect(ctx context.Context, listen bool) error {
	if l.w.isClosed() {
		listen = false
		if l.listening {
			l.hangUp()
		}
	}
	if l.conn == nil {
		if err := l.borrow(ctx); err != nil {
			return err
		}
	}
	if !listen || l.listening {
		return nil
	}
	if l.borrowed != nil {
		l.conn, l.borrowed = l.borrowed.Hijack(), nil
	}
	if _, err := l.conn.Exec(ctx, `listen "offstage:settled"`); err != nil {
		return err
	}
	l.listening = true
	return nil
}

// borrow takes a connection of the pool, or makes one where callers have them all: they may hold theirs until we answer.
func (l *line) borrow(ctx context.Context) error {
	pool := l.w.pool
	if s := pool.Stat(); s.AcquiredConns() < s.MaxConns() {
		soon, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		if conn, err := pool.Acquire(soon); err == nil {
			l.conn, l.borrowed = conn.Conn(), conn
			return nil
		}
	}
	conn, err := wake.Connector(pool)(ctx)
	l.conn = conn
	return err
}

// hear waits until a notification, somebody who comes, or the next look.
func (l *line) hear(until time.Time) error {
	if !l.listening || l.w.isClosed() {
		l.hangUp()
	}
	ctx, cancel := context.WithDeadline(l.ctx, until)
	defer cancel()
	l.w.mu.Lock()
	l.stir = cancel
	if l.kicked {
		cancel()
	}
	l.w.mu.Unlock()
	if l.conn == nil {
		<-ctx.Done()
		return nil
	}
	n, err := l.conn.WaitForNotification(ctx)
	switch {
	case err != nil && ctx.Err() != nil && !l.conn.IsClosed():
		return nil // the connection is as it was
	case err != nil:
		return err
	case n == nil: // the pool's connections have a handler of their own for notifications
		l.hurry(nil)
		return nil
	}
	l.hurry(idsIn(n.Payload, l.w.schema))
	return nil
}

// idsIn are the jobs that a notification names: "schema:1,2,3". Never nil.
func idsIn(payload, schema string) []int64 {
	ids := []int64{}
	if of, list, _ := strings.Cut(payload, ":"); of == schema {
		for _, text := range strings.Split(list, ",") {
			if id, err := strconv.ParseInt(text, 10, 64); err == nil {
				ids = append(ids, id)
			}
		}
	}
	return ids
}

// hangUp gives the connection back, or closes it.
func (l *line) hangUp() {
	switch {
	case l.borrowed != nil:
		l.borrowed.Release()
	case l.conn != nil:
		wake.Close(l.conn)
	}
	l.conn, l.borrowed, l.listening = nil, nil, false
}
