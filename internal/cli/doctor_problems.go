package cli

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/offstage-dev/offstage/internal/view"
)

// problems: what the function of that name finds, but for what other checks look at themselves.
func (d *doctor) problems(ctx context.Context) error {
	const check = "problems"
	rows, err := d.conn.Query(ctx, d.db.sql(`
		select p.message, p.remedy from offstage.problems() with ordinality p
		where p.kind <> all ('{horizon,schedule_missed,chore_failing,worker_silent}') order by p.ordinality`))
	if err != nil {
		return err
	}
	found := false
	var message, remedy string
	if _, err := pgx.ForEachRow(rows, []any{&message, &remedy}, func() error {
		found = true
		d.warn(check, view.PlainRemedy(remedy), "%s", message)
		return nil
	}); err != nil {
		return err
	}
	if !found {
		d.ok(check, "none with what waits, what is stopped, failures, crashes, or what history takes")
	}
	return nil
}
