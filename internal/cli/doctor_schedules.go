package cli

import (
	"context"
	"strings"
)

// schedules: what is not ticked as it should be.
func (d *doctor) schedules(ctx context.Context) error {
	const check = "schedules"
	all, err := d.db.client.Schedules(ctx)
	if err != nil {
		return err
	}
	var gone, overdue []string
	paused, failing := 0, 0
	for _, s := range all {
		switch {
		case s.Paused:
			paused++
		case s.Error != "":
			failing++
			d.warn(check, "see it whole, and mend it: "+d.app.command("schedules get "+s.Name), "%s cannot be ticked: %s", s.Name, short(s.Error, 200))
		case s.Overdue && s.Source == "database":
			overdue = append(overdue, s.Name)
		case s.Overdue:
			gone = append(gone, s.Name)
		}
	}
	if len(overdue) > 0 {
		d.warn(check, "start a worker; any will do", "overdue, because no worker ticks them: %s", short(strings.Join(overdue, ", "), 300))
	}
	if len(gone) > 0 {
		d.warn(check, "start a worker with that file or program; where they were taken out on purpose: "+d.app.command("schedules remove NAME"),
			"in no running worker's crontab file or program: %s", short(strings.Join(gone, ", "), 300))
	}
	switch {
	case len(all) == 0:
		d.ok(check, "there are none")
	case failing+len(overdue)+len(gone) == 0:
		d.ok(check, "%s, %d of them paused", plural(len(all), "schedule"), paused)
	}
	return nil
}
