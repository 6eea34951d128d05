package worker

import (
	"fmt"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/internal/cron"
)

// SetCrontab replaces the schedules that come from a crontab file, by its text: see docs/schedules.md for what may be in it.
// Otherwise it is like SetSchedules, beside which it may be used.
func (w *Worker) SetCrontab(text string) error {
	items, err := cron.ParseCrontab(text)
	if err != nil {
		return fmt.Errorf("crontab: %w", err)
	}
	schedules := make([]offstage.Schedule, len(items))
	for i, item := range items {
		s := offstage.Schedule{
			Name: item.Name, Task: item.Task, Expression: item.Expression, TimeZone: item.Zone, KeyMode: offstage.KeyMode(item.JobKeyMode),
			Jitter: item.Jitter, From: item.From, Until: item.Until, SkipOverlap: item.Overlap == "skip", Catchup: item.Catchup, Fill: item.Fill,
			MaxAttempts: or(item.MaxAttempts), Priority: or(item.Priority), Queue: or(item.Queue), Key: or(item.JobKey),
		}
		if item.Payload != nil {
			s.Payload = item.Payload
		}
		schedules[i] = s
	}
	if err := w.setSchedules("crontab", schedules); err != nil {
		return fmt.Errorf("crontab: %w", err)
	}
	return nil
}

func or[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}
