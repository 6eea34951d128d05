package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// chores: whether somebody does what workers do besides jobs, and what became of it.
func (d *doctor) chores(ctx context.Context) error {
	const check = "chores"
	list, err := collect[choreRow](ctx, d.db, "list chores", choresQuery)
	if err != nil {
		return err
	}
	var alive *float64 // for so many seconds there has been a worker
	if err := d.row(ctx, `select extract(epoch from offstage_private.clock() - min(started_at))::float8 from offstage.workers where state in ('alive', 'draining')`, nil, &alive); err != nil {
		return err
	}
	var fine []string
	for _, c := range list {
		switch {
		case c.State == "failing":
			do := "see what the error says; the chore is tried again, by all workers"
			if c.RanAt != nil {
				do += "; it last worked " + when(*c.RanAt)
			}
			d.warn(check, do, "%s fails since %s: %s", c.Name, when(*c.FailedAt), dash(*c.Error))
		case alive == nil: // nobody is there to do it, which the check of the workers tells
		case c.State == "late" && *alive > 3*c.Period+30: // else they have not come to it yet
			last := "never"
			if c.RanAt != nil {
				last = when(*c.RanAt)
			}
			d.warn(check, "look what the workers' log says of it, and whether they wait for a lock (pg_stat_activity)",
				"%s is to run every %s, and last ran: %s", c.Name, span(time.Duration(c.Period*float64(time.Second))), last)
		case c.RanAt != nil:
			fine = append(fine, fmt.Sprintf("%s %s in %s by worker-%s", c.Name, when(*c.RanAt), span(time.Duration(*c.Took*float64(time.Second))), *c.Worker))
		}
	}
	switch {
	case len(fine) > 0:
		d.ok(check, "last runs: %s", strings.Join(fine, ",\n"))
	case len(list) == 0:
		d.ok(check, "none has run yet; the workers do them")
	case alive == nil:
		d.ok(check, "no worker is running that could do them")
	}
	return nil
}

type choreRow struct {
	Name     string     `json:"name"`
	State    string     `json:"state"`
	Period   float64    `json:"period_seconds"`
	RanAt    *time.Time `json:"ran_at"`
	Took     *float64   `json:"took_seconds"`
	Worker   *string    `json:"worker_id"`
	FailedAt *time.Time `json:"failed_at"`
	Error    *string    `json:"error"`
}

const choresQuery = `
	select c.name, c.state, extract(epoch from c.period)::float8, c.ran_at, extract(epoch from c.took)::float8, c.worker_id::text, c.failed_at, c.error
	from offstage.chores c order by c.name`

// indexes: those that are much larger than what is in them.
func (d *doctor) indexes(ctx context.Context) error {
	const check = "indexes"
	rows, err := d.conn.Query(ctx, d.db.sql(`select x.index_name, x.bytes, x.needed, x.broken from offstage_private.bloated_indexes(64 << 20, 4) x limit 10`))
	if err != nil {
		return err
	}
	var name string
	var bytes, needed int64
	var broken, found bool
	if _, err := pgx.ForEachRow(rows, []any{&name, &bytes, &needed, &broken}, func() error {
		found = true
		name := d.db.schema + "_private." + name
		if broken {
			d.warn(check, "the workers drop it within ten minutes, as soon as no old transaction is in the way; or: drop index concurrently "+name,
				"a rebuild that failed has left %s behind", name)
			return nil
		}
		d.warn(check, "the workers rebuild it within ten minutes, as soon as no old transaction is in the way (see snapshots and chores); or: reindex index concurrently "+name,
			"%s takes %d MB for what needs about %d MB", name, bytes>>20, max(needed>>20, 1))
		return nil
	}); err != nil {
		return err
	}
	if !found {
		d.ok(check, "none is more than four times as large as its rows need")
	}
	return nil
}
