package view

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/offstage-dev/offstage"
)

// args are what bulk_start and bulk_count take: a filter or ids.
func (a Action) args() (filter *string, ids []int64, err error) {
	if a.Filter != nil {
		text, err := a.Filter.encode()
		if err != nil {
			return nil, nil, err
		}
		filter = &text
	}
	if a.IDs != nil {
		ids = make([]int64, len(a.IDs))
		for i, id := range a.IDs {
			ids[i] = int64(id)
		}
	}
	if (filter == nil) == (ids == nil) {
		return nil, nil, fmt.Errorf("%w: an action needs either ids or a filter", ErrInvalid)
	}
	return filter, ids, nil
}

// DryRun counts the jobs that an action would find, up to 10,000, within a second: More says that there are more, or that the filter could
// not look at all of them in that time. Those that run are among them, although most actions leave them out.
func (db *DB) DryRun(ctx context.Context, a Action) (Count, error) {
	filter, ids, err := a.args()
	if err != nil {
		return Count{}, err
	}
	var c Count
	err = db.reads.QueryRow(ctx, db.sql(`select c.n, c.more from offstage_private.bulk_count($1::json, $2::bigint[]) c`), filter, ids).Scan(&c.N, &c.More)
	if err != nil {
		return Count{}, fmt.Errorf("dry run: %w", fault(err))
	}
	return c, nil
}

// StartBulk starts an action on many jobs: those that match now; under the same key once. It is worked off by RunBulks, here or in another
// process.
func (db *DB) StartBulk(ctx context.Context, by Actor, a Action, key string) (Bulk, error) {
	filter, ids, err := a.args()
	if err != nil {
		return Bulk{}, err
	}
	var reason *string
	if a.Reason != "" {
		reason = &a.Reason
	}
	id, err := db.once(ctx, by, key, func(tx pgx.Tx) (id ID, err error) {
		err = tx.QueryRow(ctx, db.sql(`select offstage.bulk_start($1, $2::json, $3::bigint[], $4, $5)`), a.Do, filter, ids, a.RunAt, reason).Scan(&id)
		return id, err
	})
	if err != nil {
		return Bulk{}, fmt.Errorf("start bulk: %w", fault(err))
	}
	select {
	case db.kick <- struct{}{}:
	default:
	}
	return db.bulk(ctx, db.writes, id) // not through the pool for reads: that may lead to a replica
}

// Bulk is how far an action is. offstage.ErrNotFound: there is none of that id, or it ended 30 days ago.
func (db *DB) Bulk(ctx context.Context, id ID) (Bulk, error) { return db.bulk(ctx, db.reads, id) }

func (db *DB) bulk(ctx context.Context, q interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}, id ID) (Bulk, error) {
	b := Bulk{ID: id}
	err := q.QueryRow(ctx, db.sql(`select b.action, b.state, b.matched, b.more, b.done, b.left_out, b.started_at, b.ended_at, coalesce(b.who, ''), b.error
		from offstage.bulks b where b.id = $1`), int64(id)).
		Scan(&b.Do, &b.State, &b.Matched.N, &b.Matched.More, &b.Done, &b.LeftOut, &b.StartedAt, &b.EndedAt, &b.By, &b.Error)
	if errors.Is(err, pgx.ErrNoRows) {
		err = offstage.ErrNotFound
	}
	if err != nil {
		return Bulk{}, fmt.Errorf("bulk %d: %w", id, fault(err))
	}
	return b, nil
}

// bulkPause is how often RunBulks looks for actions that were started elsewhere, or whose process died.
const bulkPause = 3 * time.Second

// RunBulks works started actions off, step by step, until ctx ends. Any number of processes may: each step is done by one of them, and
// what a dead one has left is gone on with by the others. While the database cannot be reached it tries again.
func (db *DB) RunBulks(ctx context.Context) error {
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		worked, err := db.stepBulks(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err == nil && worked {
			continue
		}
		pause.Reset(bulkPause)
		select {
		case <-ctx.Done():
			return nil
		case <-db.kick:
		case <-pause.C:
		}
	}
}

// stepBulks does a step of each action that is under way, and says whether there was anything to do.
func (db *DB) stepBulks(ctx context.Context) (worked bool, err error) {
	rows, err := db.writes.Query(ctx, db.sql(`select b.id from offstage_private.bulk b where b.state = 'running' order by b.id limit 100`))
	if err != nil {
		return false, err
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		return false, err
	}
	for _, id := range ids {
		var n *int
		err := db.writes.QueryRow(ctx, db.sql(`select offstage_private.bulk_step($1)`), id).Scan(&n)
		switch {
		case err == nil:
			worked = worked || n != nil
		case ctx.Err() != nil:
			return worked, ctx.Err()
		case !lasting(err):
			return worked, err
		default:
			if _, err := db.writes.Exec(ctx, db.sql(`select offstage_private.bulk_fail($1, $2)`), id, err.Error()); err != nil {
				return worked, err
			}
		}
	}
	return worked, nil
}

// lasting says that the statement itself is at fault, and would be the next time: its values, a constraint, something that is missing.
// Whatever else it is (the connection, a lock, a deadlock, memory, a shutdown), it is tried again.
func lasting(err error) bool {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) || len(pg.Code) != 5 {
		return false
	}
	switch pg.Code[:2] {
	case "22", "23", "42", "P0", "XX":
		return true
	}
	return false
}
