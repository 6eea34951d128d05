package view

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// ErrUnknown: there is no task, queue, schedule or worker of that name.
var ErrUnknown = errors.New("not known")

// KindOf says which page has this name: tasks, queues or schedules; "" for none.
func (db *DB) KindOf(ctx context.Context, name string) (string, error) {
	var kind string
	err := db.reads.QueryRow(ctx, db.sql(`
		select case when exists (select from offstage_private.task t where t.name = $1::text) then 'tasks'
		  when exists (select from offstage_private.queue q where q.name = $1::text) then 'queues'
		  when exists (select from offstage_private.schedule s where s.name = $1::text) then 'schedules' else '' end`), name).Scan(&kind)
	return kind, err
}

// one is the row of a statement that has one, as a struct, or ErrUnknown with what it is.
func one[T any](ctx context.Context, db *DB, what, sql string, args ...any) (T, error) {
	rows, err := db.reads.Query(ctx, db.sql(sql), args...)
	if err != nil {
		var none T
		return none, fmt.Errorf("%s: %w", what, err)
	}
	got, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[T])
	if errors.Is(err, pgx.ErrNoRows) {
		return got, fmt.Errorf("%s: %w", what, ErrUnknown)
	}
	if err != nil {
		return got, fmt.Errorf("%s: %w", what, err)
	}
	return got, nil
}

// many are the rows of a statement, as structs; never nil.
func many[T any](ctx context.Context, db *DB, what, sql string, args ...any) ([]T, error) {
	rows, err := db.reads.Query(ctx, db.sql(sql), args...)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[T])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	if list == nil {
		list = []T{}
	}
	return list, nil
}
