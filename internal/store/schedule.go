package store

import (
	"context"
	"encoding/json"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/offstage-dev/offstage"
)

// Schedule is one of a crontab file or a program.
type Schedule = offstage.Schedule

// SyncSchedules registers them, and calls refused for each that the database does not take, with the reason.
func (s *Store) SyncSchedules(ctx context.Context, conn *pgx.Conn, source string, items []Schedule, refused func(name, reason string)) error {
	b, err := json.Marshal(items)
	if err != nil {
		return err
	}
	rows, err := conn.Query(ctx, s.fn(`select name, error from offstage.sync_schedules($1, $2::text::json)`), source, string(b))
	if err != nil {
		return Fault(err)
	}
	var name, reason string
	_, err = pgx.ForEachRow(rows, []any{&name, &reason}, func() error { refused(name, reason); return nil })
	return Fault(err)
}

// SawSchedules says that a worker still has them.
func (s *Store) SawSchedules(ctx context.Context, conn *pgx.Conn, names []string) error {
	_, err := conn.Exec(ctx, s.fn(`select offstage.saw_schedules($1)`), names)
	return Fault(err)
}

// DueSchedule is one that has to be looked at.
type DueSchedule struct {
	ID          int32
	Name        string
	Revision    int32
	Expression  string
	Zone        string
	From, Until *time.Time
	Catchup     *string
	Fill        *time.Duration
	NextAt      *time.Time // the first tick that was not added; nil: not computed yet
	Since       time.Time  // ticks count from here, exclusively
}

// Due is what due_schedules answers.
type Due struct {
	Busy      bool          // another worker is at it
	At        time.Time     // the database's clock
	Wait      time.Duration // until the next one is due; 0: nothing is known to come
	Schedules []DueSchedule
}

// Due looks for schedules that are due; whoever is told of them ticks them in the same transaction.
func (s *Store) Due(ctx context.Context, tx pgx.Tx, names []string, limit int) (d Due, err error) {
	rows, err := tx.Query(ctx, s.fn(`
		select at, extract(epoch from looks_at - clock_timestamp())::float8, coalesce(schedule_id, 0), coalesce(name, ''), coalesce(revision, 0), coalesce(expression, ''),
			coalesce(zone, ''), from_at, until_at, catchup, extract(epoch from fill)::float8, next_at, coalesce(since, at)
		from offstage.due_schedules($1, $2)`), names, limit)
	if err != nil {
		return d, Fault(err)
	}
	d.Busy = true
	var wait, fill *float64
	var one DueSchedule
	_, err = pgx.ForEachRow(rows, []any{&d.At, &wait, &one.ID, &one.Name, &one.Revision, &one.Expression, &one.Zone, &one.From, &one.Until,
		&one.Catchup, &fill, &one.NextAt, &one.Since}, func() error {
		d.Busy = false
		if wait != nil {
			d.Wait = max(time.Duration(*wait*float64(time.Second)), time.Microsecond)
		}
		if one.ID != 0 {
			next := one
			if fill != nil {
				f := time.Duration(*fill * float64(time.Second))
				next.Fill = &f
			}
			d.Schedules = append(d.Schedules, next)
		}
		one, wait, fill = DueSchedule{}, nil, nil
		return nil
	})
	return d, Fault(err)
}

// Tick is a schedule moved on, with what came between.
type Tick struct {
	Of         DueSchedule
	Next       *time.Time // nil: never again
	Ticks      []time.Time
	Backfilled int        // so many of the first
	Missed     *time.Time // the first one that is not made up for
	Err        error      // instead of all that: why the schedule cannot be ticked
}

// Tick moves schedules on and adds their jobs, all in one round trip. It answers what became of each: ticked, lost, busy or failed.
func (s *Store) Tick(ctx context.Context, tx pgx.Tx, ticks []Tick) ([]string, error) {
	var batch pgx.Batch
	answers := make([]string, len(ticks))
	for i, t := range ticks {
		read := func(row pgx.Row) error { return row.Scan(&answers[i]) }
		if t.Err != nil {
			batch.Queue(s.fn(`select case when offstage.schedule_failed($1, $2, $3) then 'failed' else 'lost' end`), t.Of.ID, t.Of.Revision, t.Err.Error()).QueryRow(read)
			continue
		}
		batch.Queue(s.fn(`select offstage.tick_schedule($1, $2, $3, $4, $5, $6)`), t.Of.ID, t.Of.Revision, t.Of.NextAt, t.Next, t.Ticks, t.Backfilled).QueryRow(read)
	}
	return answers, Fault(tx.SendBatch(ctx, &batch).Close())
}
