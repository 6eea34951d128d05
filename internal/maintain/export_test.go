package maintain

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/offstage-dev/offstage/internal/store"
)

// Turn is one turn of a ticker.
func Turn(t *Ticker, ctx context.Context, conn *pgx.Conn, db *store.Store) (time.Duration, error) {
	return t.turn(ctx, conn, db, store.Chore{Name: "ticks", Period: time.Second})
}

// For tests: indexes are rebuilt that are smaller than others would be.
var Rebuild = (*Chores).rebuild
