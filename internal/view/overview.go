package view

import (
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// Overview is how the installation does.
type Overview struct {
	Waiting    Count      `json:"waiting"`
	Scheduled  Count      `json:"scheduled"`
	Parked     Count      `json:"parked"`
	Running    Count      `json:"running"`
	Failed     Count      `json:"failed"`
	Oldest     *time.Time `json:"oldest"` // since when the job that has waited for longest is due; nil: none waits
	Workers    int        `json:"workers"`
	Slots      int        `json:"slots"`
	Schedules  bool       `json:"schedules"` // there are some
	Statistics Statistics `json:"statistics"`
	Tasks      []TaskRate `json:"tasks"` // in which attempts failed, the most first; ten at most
	Problems   []Problem  `json:"problems"`
}

// TaskRate is what ended of a task.
type TaskRate struct {
	Task string `json:"task"`
	Point
}

const limit = 10_000 // of counts

// countsSQL counts up to the limit and one more, along indexes: in front of what a table has there may be any number of dead rows, which a
// scan of the table would step over each time.
const countsSQL = `
	select
	  (select count(*) from (select from offstage_private.ticket k order by k.lane_id, k.priority, k.run_at, k.job_id limit 10001) x),
	  (select count(*) from (select from offstage_private.scheduled k order by k.run_at, k.job_id limit 10001) x),
	  (select count(*) from (select from offstage_private.parked k order by k.queue_id, k.lane_id, k.priority, k.run_at, k.job_id limit 10001) x),
	  (select count(*) from (select from offstage_private.lease l cross join lateral unnest(l.job_ids) i (id)
	    cross join lateral (select from offstage_private.job o where o.id = i.id and o.released_claim < l.claim limit 1) j limit 10001) x),
	  (select count(*) from (select from offstage_private.job j where j.failed order by j.id limit 10001) x),
	  (select count(*) from offstage_private.worker w where offstage_private.lives(w, offstage_private.clock())),
	  (select coalesce(sum(w.slots), 0) from offstage_private.worker w where offstage_private.lives(w, offstage_private.clock())),
	  exists (select from offstage_private.schedule)`

// oldestSQL looks at the first ticket of each lane and priority, by the index.
const oldestSQL = `
	select min(h.run_at) from offstage_private.heads() h
	left join offstage_private.lane l on l.id = h.lane_id
	join offstage_private.task t on t.id = coalesce(l.task_id, h.lane_id) where not t.paused`

const ratesSQL = `
	select s.task, s.outcome, sum(s.n)::bigint
	from offstage.statistics($1::timestamptz, $2::interval, by => '{task,outcome}', times => false) s where s.task is not null group by 1, 2`

// Overview answers how the installation does, and what it did within a window: 1h, 24h or 7d.
func (db *DB) Overview(ctx context.Context, window string) (Overview, error) {
	var o Overview
	now, err := db.clock(ctx)
	if err != nil {
		return o, err
	}
	batch := &pgx.Batch{}
	batch.Queue(db.sql(countsSQL)).QueryRow(func(row pgx.Row) error {
		var waiting, scheduled, parked, running, failed int64
		err := row.Scan(&waiting, &scheduled, &parked, &running, &failed, &o.Workers, &o.Slots, &o.Schedules)
		o.Waiting, o.Scheduled, o.Parked, o.Running, o.Failed = upTo(waiting), upTo(scheduled), upTo(parked), upTo(running), upTo(failed)
		return err
	})
	batch.Queue(db.sql(oldestSQL)).QueryRow(func(row pgx.Row) error { return row.Scan(&o.Oldest) })
	db.statistics(batch, &o.Statistics, window, now, nil, nil)
	w := windows[o.Statistics.Window]
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
	if err := db.send(ctx, "overview", batch); err != nil {
		return o, err
	}
	o.Tasks = []TaskRate{}
	for _, r := range rates {
		if r.Failed+r.Retried > 0 {
			o.Tasks = append(o.Tasks, *r)
		}
	}
	slices.SortFunc(o.Tasks, func(a, b TaskRate) int {
		if d := b.Failed + b.Retried - a.Failed - a.Retried; d != 0 {
			return int(max(-1, min(1, d)))
		}
		if a.Task < b.Task {
			return -1
		}
		return 1
	})
	o.Tasks = o.Tasks[:min(len(o.Tasks), 10)]
	o.Problems, err = db.Problems(ctx)
	return o, err
}

func upTo(n int64) Count { return Count{N: min(n, limit), More: n > limit} }
