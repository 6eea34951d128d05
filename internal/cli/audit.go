package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/spf13/cobra"
)

// auditRow is one change.
type auditRow struct {
	ID     string          `json:"id"`
	At     time.Time       `json:"at"`
	Who    string          `json:"who"`
	Source string          `json:"source"`
	From   string          `json:"from"`
	Action string          `json:"action"`
	Target string          `json:"target"`
	IDs    []string        `json:"ids"` // of the first 1000 jobs
	Count  int64           `json:"count"`
	Before json.RawMessage `json:"before"`
	After  json.RawMessage `json:"after"`
	Reason *string         `json:"reason"`
}

func (a *app) auditCommand() *cobra.Command {
	var target, who, action string
	var limit int
	var before int64
	c := &cobra.Command{
		Use:   "audit",
		Short: "List who changed what by hand: jobs, queues, tasks, schedules",
		Long: `Lists what people have changed, from the web pages, the HTTP API, this program or SQL, the latest first. Entries are kept for
90 days.`,
		Example: `  offstage audit --target "queue mail"
  offstage audit --action cancel --who ada --json`,
		Args: cobra.NoArgs,
	}
	f := c.Flags()
	f.StringVar(&target, "target", "", `only of this: "queue x", "task y", "schedule z", "worker 3", "job 7"`)
	f.StringVar(&who, "who", "", "only by this one")
	f.StringVar(&action, "action", "", "only this, as the list shows it: retry, bulk retry, edit, pause, configure, create token and so on")
	f.IntVar(&limit, "limit", 50, "at most so many, up to 999")
	f.Int64Var(&before, "before", 0, "only older than this entry: the next page, as the last one said")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if limit < 1 || limit > 999 {
			return fmt.Errorf("--limit is %d; use 1 to 999", limit)
		}
		return a.run(func(ctx context.Context, _ []string) error {
			return a.with(ctx, func(db *database) error {
				rows, err := collect[auditRow](ctx, db, "audit", `
					select a.id::text, a.at, a.who, a.source, a.from_where, a.action, a.target, coalesce(a.ids::text[], '{}'), a.n, a.before::text, a.after::text, a.reason
					from offstage.audit(nullif($1::text, ''), nullif($2::text, ''), nullif($3::text, ''), nullif($4::bigint, 0), $5::integer) a`,
					target, who, action, before, limit+1)
				var pg *pgconn.PgError
				if errors.As(err, &pg) && pg.Code == "22023" {
					return failed(Usage, pg.Hint, "%s", pg.Message)
				}
				if err != nil {
					return err
				}
				return a.printAudit(rows, limit)
			})
		})(cmd, args)
	}
	return c
}

func (a *app) printAudit(rows []auditRow, limit int) error {
	more := len(rows) > limit
	rows = rows[:min(len(rows), limit)]
	switch {
	case a.json:
		if err := a.printJSON(rows); err != nil {
			return err
		}
	case len(rows) == 0:
		a.say("no changes")
	default:
		t := newTable("AT", "WHO", "FROM", "ACTION", "TARGET", "WHAT")
		for _, r := range rows {
			var what []string
			if r.Reason != nil {
				what = append(what, *r.Reason)
			}
			if r.Before != nil || r.After != nil {
				what = append(what, fmt.Sprintf("%s -> %s", dash(string(r.Before)), dash(string(r.After))))
			}
			t.add(stamp(r.At), r.Who, r.Source+" "+r.From, r.Action, short(r.Target, 60), short(strings.Join(what, "; "), 200))
		}
		a.print(t)
	}
	if more {
		id, err := strconv.ParseInt(rows[limit-1].ID, 10, 64)
		if err != nil {
			return err
		}
		a.say("there are more: --before %d", id)
	}
	return nil
}
