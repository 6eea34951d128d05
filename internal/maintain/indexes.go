package maintain

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/offstage-dev/offstage/internal/store"
)

// Jobs come and go, and leave holes in the indexes of their small tables, which vacuum does not always give back. An index
// that is large, and many times larger than its rows need, is built anew beside its work. That waits for transactions which
// are older, and nobody waits for it; so it is not begun beside an old one, and given up when it has to wait too long.
const (
	bloatedFrom     = 64 << 20 // bytes; doctor tells the same
	bloatedTimes    = 4
	rebuildPatience = 10 * time.Second
)

// indexes looks after them: one worker at a time, one index after the other.
func (c *Chores) indexes(ctx context.Context, conn *pgx.Conn, as store.Chore) (time.Duration, error) {
	began := time.Now()
	ours, err := c.Store.LockIndexes(ctx, conn)
	if err != nil || !ours {
		return 0, err
	}
	if err := c.rebuild(ctx, conn, bloatedFrom); err != nil {
		return 0, err // the connection ends with the lock
	}
	if err := c.Store.UnlockIndexes(ctx, conn); err != nil {
		return 0, err
	}
	return 0, c.Store.Ran(ctx, conn, as, time.Since(began))
}

func (c *Chores) rebuild(ctx context.Context, conn *pgx.Conn, from int64) error {
	list, err := c.Store.BloatedIndexes(ctx, conn, from, bloatedTimes)
	if err != nil || len(list) == 0 {
		return err
	}
	who, err := c.Store.OldTransaction(ctx, conn, rebuildPatience)
	if err != nil {
		return err
	}
	if who != "" {
		return fmt.Errorf("the index %s takes %d MB and needs %d, but cannot be rebuilt: %s", list[0].Name, list[0].Bytes>>20, list[0].Needed>>20, who)
	}
	for _, x := range list {
		if err := c.Store.Rebuild(ctx, conn, x, rebuildPatience); err != nil {
			return fmt.Errorf("rebuild the index %s: %w", x.Name, err)
		}
		c.Log.Info("rebuilt an index that had become too large", "index", x.Name, "bytes", x.Bytes, "needed", x.Needed)
	}
	if list, err = c.Store.BloatedIndexes(ctx, conn, from, bloatedTimes); len(list) > 0 {
		return fmt.Errorf("the index %s was rebuilt and still takes %d MB: vacuum its table %s", list[0].Name, list[0].Bytes>>20, list[0].Table)
	}
	return err
}
