package view

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// ErrTaken: there is one of that name already.
var ErrTaken = errors.New("the name is taken")

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
