package view

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/offstage-dev/offstage"
)

// ErrorGroups are errors that are alike, the last seen first, of one task if it is not "". limit is 1 to 1000.
func (db *DB) ErrorGroups(ctx context.Context, task string, limit int) ([]ErrorGroup, error) {
	return db.errorGroups(ctx, `select g.* from offstage.errors(nullif($1::text, ''), $2::integer) g`, task, limit)
}

// ErrorGroup is the one with this fingerprint; offstage.ErrNotFound if nothing of it is left.
func (db *DB) ErrorGroup(ctx context.Context, fingerprint string) (ErrorGroup, error) {
	list, err := db.errorGroups(ctx, `select g.* from offstage_private.error_group($1::text, 10000) g`, fingerprint)
	if err == nil && len(list) == 0 {
		err = fmt.Errorf("errors %s: %w", fingerprint, offstage.ErrNotFound)
	}
	if err != nil {
		return ErrorGroup{}, err
	}
	return list[0], nil
}

func (db *DB) errorGroups(ctx context.Context, sql string, args ...any) ([]ErrorGroup, error) {
	rows, err := db.reads.Query(ctx, db.sql(sql), args...)
	if err != nil {
		return nil, fmt.Errorf("errors: %w", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (g ErrorGroup, err error) {
		var hour, day, week, failed, most, last int64
		err = row.Scan(&g.Fingerprint, &g.Task, &g.Class, &g.Message, &g.Sample, &g.FirstSeen, &g.LastSeen, &hour, &day, &week, &failed, &most, &last)
		upTo := func(n int64) Count { return Count{N: n, More: n >= most} }
		g.Hour, g.Day, g.Week, g.Failed, g.LastJob = upTo(hour), upTo(day), upTo(week), upTo(failed), ID(last)
		return g, err
	})
	if err != nil {
		return nil, fmt.Errorf("errors: %w", err)
	}
	return list, nil
}
