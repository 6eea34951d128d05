package view

import (
	"context"
	"fmt"
)

// Explain says why a job is not running, or what it is doing, also of a job that has ended (kind ended) or that nobody knows
// (unknown). See explain_job() in SQL for the kinds.
func (db *DB) Explain(ctx context.Context, id ID) (b Blocker, err error) {
	err = db.reads.QueryRow(ctx, db.sql(`select e.kind, e.because, e.since, e.until, e.remedy from offstage.explain_job($1::bigint) e`), int64(id)).
		Scan(&b.Kind, &b.Because, &b.Since, &b.Until, &b.Remedy)
	if err != nil {
		return b, fmt.Errorf("explain job %d: %w", id, err)
	}
	return b, nil
}
