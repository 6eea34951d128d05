package view

import (
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// Overview is how the installation does. What there is now costs little to read, the rest more: it is read in parts, of which each may be as old as
// its costs demand.
type Overview struct {
	Standing
	Rates
	Problems []Problem `json:"problems"`
}

// Standing is what there is now.
type Standing struct {
	Waiting   Count      `json:"waiting"`
	Scheduled Count      `json:"scheduled"`
	Parked    Count      `json:"parked"`
	Running   Count      `json:"running"`
	Failed    Count      `json:"failed"`
	Oldest    *time.Time `json:"oldest"` // since when the job that has waited for longest is due; nil: none waits
	Workers   int        `json:"workers"`
	Slots     int        `json:"slots"`
	Schedules bool       `json:"schedules"` // there are some
}

// Rates are what ended within a window.
type Rates struct {
	Statistics Statistics `json:"statistics"`
	Tasks      []TaskRate `json:"tasks"` // in which attempts failed, the most first; ten at most
}

// TaskRate is what ended of a task.
type TaskRate struct {
	Task string `json:"task"`
	Point
}

const limit = 10_000 // of counts

// countsSQL counts up to the limit and one more, along indexes and from their backs: a scan of the table, and one from the front, would step over
// all that has been there since the last vacuum.
const countsSQL = `
	select
	  offstage_private.count_tickets(null, 10001),
	  (select count(*) from (select from offstage_private.scheduled k order by k.run_at desc, k.job_id desc limit 10001) x),
	  (select count(*) from (select from offstage_private.parked k order by k.queue_id desc, k.lane_id desc, k.priority desc, k.run_at desc, k.job_id desc limit 10001) x),
	  r.n, r.about,
	  (select count(*) from (select from offstage_private.job j where j.failed order by j.id desc limit 10001) x),
	  (select count(*) from offstage_private.worker w where offstage_private.lives(w, offstage_private.clock())),
	  (select coalesce(sum(w.slots), 0) from offstage_private.worker w where offstage_private.lives(w, offstage_private.clock())),
	  exists (select from offstage_private.schedule)
	from (select coalesce(sum(c.n), 0)::bigint as n, coalesce(bool_or(c.about), false) as about from offstage_private.count_running(false, 500) c) r`

// oldestSQL looks at the first ticket of each lane and priority, by the index.
const oldestSQL = `
	select min(h.run_at) from offstage_private.heads() h
	left join offstage_private.lane l on l.id = h.lane_id
	join offstage_private.task t on t.id = coalesce(l.task_id, h.lane_id) where not t.paused`

const ratesSQL = `
	select s.task, s.outcome, sum(s.n)::bigint
	from offstage.statistics($1::timestamptz, $2::interval, by => '{task,outcome}', times => false) s where s.task is not null group by 1, 2`

// Standing answers what there is now.
func (db *DB) Standing(ctx context.Context) (s Standing, err error) {
	batch := &pgx.Batch{}
	batch.Queue(db.sql(countsSQL)).QueryRow(func(row pgx.Row) error {
		var waiting, scheduled, parked, failed int64
		err := row.Scan(&waiting, &scheduled, &parked, &s.Running.N, &s.Running.About, &failed, &s.Workers, &s.Slots, &s.Schedules)
		s.Waiting, s.Scheduled, s.Parked, s.Failed = upTo(waiting), upTo(scheduled), upTo(parked), upTo(failed)
		return err
	})
	batch.Queue(db.sql(oldestSQL)).QueryRow(func(row pgx.Row) error { return row.Scan(&s.Oldest) })
	err = db.send(ctx, "overview", batch)
	return s, err
}

// Rates answers what ended within a window: 1h, 24h or 7d.
func (db *DB) Rates(ctx context.Context, window string) (Rates, error) {
	r := Rates{Tasks: []TaskRate{}}
	now, err := db.clock(ctx)
	if err != nil {
		return r, err
	}
	batch := &pgx.Batch{}
	db.statistics(batch, &r.Statistics, window, now, nil, nil)
	w := windows[r.Statistics.Window]
	step := w.step
	if w.span > time.Hour {
		step = time.Hour
	}
	rates := map[string]*TaskRate{}
	batch.Queue(db.sql(ratesSQL), now.Add(-w.span).Truncate(w.step).Add(w.step), interval(step)).Query(func(rows pgx.Rows) error {
		var task, outcome string
		var n int64
		_, err := pgx.ForEachRow(rows, []any{&task, &outcome, &n}, func() error {
			if rates[task] == nil {
				rates[task] = &TaskRate{Task: task}
			}
			rates[task].count(outcome, n)
			return nil
		})
		return err
	})
	if err := db.send(ctx, "rates", batch); err != nil {
		return r, err
	}
	for _, t := range rates {
		if t.Failed+t.Retried > 0 {
			r.Tasks = append(r.Tasks, *t)
		}
	}
	slices.SortFunc(r.Tasks, func(a, b TaskRate) int {
		if d := b.Failed + b.Retried - a.Failed - a.Retried; d != 0 {
			return int(max(-1, min(1, d)))
		}
		if a.Task < b.Task {
			return -1
		}
		return 1
	})
	r.Tasks = r.Tasks[:min(len(r.Tasks), 10)]
	return r, nil
}

func upTo(n int64) Count { return Count{N: min(n, limit), More: n > limit} }
