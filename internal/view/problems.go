package view

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// Problems are what is wrong, the worst first; empty where nothing is. See problems() in SQL.
func (db *DB) Problems(ctx context.Context) ([]Problem, error) {
	rows, err := db.reads.Query(ctx, db.sql(`
		select p.kind, p.severity, p.subject, p.message, p.since, p.remedy, p.page from offstage.problems() with ordinality p order by p.ordinality`))
	if err != nil {
		return nil, fmt.Errorf("problems: %w", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Problem])
	if err != nil {
		return nil, fmt.Errorf("problems: %w", err)
	}
	return list, nil
}
