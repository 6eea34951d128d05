package view

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/jackc/pgx/v5"
)

// Windows of time that charts show, with the step of their bars: what is longer than an hour is read from hours, where minutes would
// be many.
var windows = map[string]struct{ span, step time.Duration }{
	"1h":  {time.Hour, time.Minute},
	"24h": {24 * time.Hour, time.Hour},
	"7d":  {7 * 24 * time.Hour, 2 * time.Hour},
}

// Window is the nearest thing to a window of this name: 1h, 24h or 7d.
func Window(name string) string {
	if _, ok := windows[name]; ok {
		return name
	}
	return "1h"
}

// Point is what ended in one step of time.
type Point struct {
	At        time.Time `json:"at"` // when the step begins
	Succeeded int64     `json:"succeeded"`
	Retried   int64     `json:"retried"` // attempts that failed, or whose worker died, and are tried again
	Failed    int64     `json:"failed"`  // jobs that failed for good
	Other     int64     `json:"other"`   // cancelled, removed, completed, snoozed, released
}

// Total is all of it.
func (p Point) Total() int64 { return p.Succeeded + p.Retried + p.Failed + p.Other }

func (p *Point) count(outcome string, n int64) {
	switch outcome {
	case "succeeded":
		p.Succeeded += n
	case "retried", "rescued":
		p.Retried += n
	case "failed":
		p.Failed += n
	default:
		p.Other += n
	}
}

// Histogram counts times in buckets: see offstage.buckets() in SQL.
type Histogram []int64

// buckets is how many there are; all but the last end at a bound.
const buckets = 29

// Bound is where a bucket ends, in seconds; bucket 0 is below a millisecond.
func Bound(bucket int) float64 { return 0.001 * math.Pow(2, float64(bucket)) }

// Total is how many times were counted.
func (h Histogram) Total() (n int64) {
	for _, c := range h {
		n += c
	}
	return n
}

// Quantile is offstage.quantile() in SQL; nil when nothing was counted.
func (h Histogram) Quantile(q float64) *float64 {
	total, below := h.Total(), int64(0)
	for i, n := range h {
		if n == 0 || float64(below+n) < q*float64(total) {
			below += n
			continue
		}
		low := 0.0
		if i > 0 {
			low = Bound(i - 1)
		}
		at := low
		if i < buckets-1 {
			at += (Bound(i) - low) * max(q*float64(total)-float64(below), 0) / float64(n)
		}
		return &at
	}
	return nil
}

// Statistics are what ended in a window, and how long it took.
type Statistics struct {
	Window string        `json:"window"`
	Step   time.Duration `json:"step"`
	Points []Point       `json:"points"` // oldest first, without gaps; the last one is not over
	Waits  Histogram     `json:"waits"`  // from being due to being started
	Runs   Histogram     `json:"runs"`
}

// Sum is all points as one.
func (s Statistics) Sum() (sum Point) {
	for _, p := range s.Points {
		sum.Succeeded += p.Succeeded
		sum.Retried += p.Retried
		sum.Failed += p.Failed
		sum.Other += p.Other
	}
	return sum
}

// pointsSQL: what ended since $1, in steps of $2, of a task and a queue.
const pointsSQL = `select s.starts_at, s.outcome, s.n
	from offstage.statistics($1::timestamptz, $2::interval, of_task => $3::text, of_queue => $4::text, by => '{outcome}', times => false) s`

// timesSQL: the histograms since $1; an hour's worth from the minutes, more from the hours.
const timesSQL = `
	select coalesce(array_agg(x.w order by x.bucket), '{}'), coalesce(array_agg(x.r order by x.bucket), '{}')
	from (
	  select u.bucket, coalesce(sum(u.w), 0)::bigint as w, coalesce(sum(u.r), 0)::bigint as r
	  from offstage.statistics($1::timestamptz, $2::interval, of_task => $3::text, of_queue => $4::text, by => '{}') s
	  cross join lateral unnest(s.waits, s.runs) with ordinality u (w, r, bucket) group by u.bucket
	) x`

// statistics puts the two reads into a batch. Nil for a name: all.
func (db *DB) statistics(batch *pgx.Batch, s *Statistics, window string, now time.Time, task, queue *string) {
	w := windows[Window(window)]
	s.Window, s.Step = Window(window), w.step
	since := now.Add(-w.span).Truncate(w.step).Add(w.step)
	for at := since; !at.After(now); at = at.Add(w.step) {
		s.Points = append(s.Points, Point{At: at.UTC()})
	}
	batch.Queue(db.sql(pointsSQL), since, interval(w.step), task, queue).Query(func(rows pgx.Rows) error {
		var at time.Time
		var outcome string
		var n int64
		_, err := pgx.ForEachRow(rows, []any{&at, &outcome, &n}, func() error {
			// What the database's clock has begun already is counted to the last step of ours.
			i := min(int(at.Sub(since)/w.step), len(s.Points)-1)
			if i >= 0 {
				s.Points[i].count(outcome, n)
			}
			return nil
		})
		return err
	})
	var step *string
	if w.span > time.Hour {
		text := "1 h"
		step = &text
	}
	batch.Queue(db.sql(timesSQL), since, step, task, queue).QueryRow(func(row pgx.Row) error {
		return row.Scan((*[]int64)(&s.Waits), (*[]int64)(&s.Runs))
	})
}

func interval(d time.Duration) string { return fmt.Sprintf("%d s", int64(d/time.Second)) }

// send sends a batch and does what its statements were given to do.
func (db *DB) send(ctx context.Context, what string, batch *pgx.Batch) error {
	if err := db.reads.batch(ctx, batch); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// clock is the database's time, by which everything else is told.
func (db *DB) clock(ctx context.Context) (now time.Time, err error) {
	err = db.reads.QueryRow(ctx, db.sql(`select offstage_private.clock()`)).Scan(&now)
	return now, err
}
