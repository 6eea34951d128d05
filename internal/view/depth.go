package view

import (
	"context"
	"fmt"
)

// Depth is how many jobs wait for a worker, up to 10,000, of one task or queue if they are not "": for whoever starts and stops
// workers by that number.
func (db *DB) Depth(ctx context.Context, task, queue string) (n int, err error) {
	err = db.reads.QueryRow(ctx, db.sql(`select offstage.queue_depth(nullif($1::text, ''), nullif($2::text, ''))`), task, queue).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("queue depth: %w", err)
	}
	return n, nil
}
