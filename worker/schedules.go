package worker

import (
	"fmt"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/internal/maintain"
)

// SetSchedules replaces the schedules of this worker's program (Config.Schedules), also while it runs. The database knows them
// within moments; those that are gone from all programs are ticked no more. One that the database refuses, because the name
// is taken, is logged. After an error the old ones hold.
func (w *Worker) SetSchedules(schedules []offstage.Schedule) error {
	if err := w.setSchedules("program", schedules); err != nil {
		return fmt.Errorf("worker: %w", err)
	}
	return nil
}

func (w *Worker) setSchedules(source string, schedules []offstage.Schedule) error {
	seen := map[string]bool{}
	list := make([]offstage.Schedule, len(schedules))
	for i, s := range schedules {
		if s.Name == "" {
			s.Name = s.Task
		}
		if err := maintain.CheckSchedule(s); err != nil {
			return err
		}
		if seen[s.Name] {
			return fmt.Errorf("two schedules have the name %q: give one of them another Name", s.Name)
		}
		seen[s.Name] = true
		list[i] = s
	}
	w.ticker.Set(source, list)
	if wake := w.kickChores.Load(); wake != nil {
		(*wake)()
	}
	return nil
}
