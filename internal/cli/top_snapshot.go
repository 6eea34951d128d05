package cli

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// snapshot is what top shows, and prints as JSON. Counts stop at 10,000.
type snapshot struct {
	At        time.Time `json:"at"` // the database's clock
	Waiting   int       `json:"waiting"`
	Scheduled int       `json:"scheduled"`
	Parked    int       `json:"parked"`
	Running   int       `json:"running"` // claimed: those that a worker has fetched ahead, too
	Failed    int       `json:"failed"`
	Oldest    *float64  `json:"oldest_waiting_seconds"` // null: none waits
	Workers   int       `json:"workers"`
	Slots     int       `json:"slots"`
	Done      float64   `json:"done_per_minute"`
	Failures  float64   `json:"failures_per_minute"`
	Tasks     []topTask `json:"tasks"`
	Queues    []topQue  `json:"queues"`

	minutes map[minuteOf]int64 // what was counted, to tell what has come since
}

type topTask struct {
	Name     string   `json:"task"`
	Done     float64  `json:"done_per_minute"`
	Failures float64  `json:"failures_per_minute"`
	Waiting  int      `json:"waiting"` // counted up to 1000
	WaitP50  *float64 `json:"wait_p50_seconds"`
	WaitP95  *float64 `json:"wait_p95_seconds"`
	RunP50   *float64 `json:"run_p50_seconds"`
	RunP95   *float64 `json:"run_p95_seconds"`
}

type topQue struct {
	Name     string  `json:"queue"`
	Paused   bool    `json:"paused"`
	Running  int     `json:"running"`
	Limit    int     `json:"concurrency"`
	Parked   int     `json:"parked"` // counted up to 1000
	Done     float64 `json:"done_per_minute"`
	Failures float64 `json:"failures_per_minute"`
}

type minuteOf struct {
	at   time.Time
	done bool
}

// What each look asks. All of it reads what is counted already, or counts a little of an index.
const (
	topCounts = `
		select offstage_private.clock(),
		  offstage_private.count_tickets(null, 10000),
		  (select count(*) from (select from offstage_private.scheduled limit 10000) x),
		  (select count(*) from (select from offstage_private.parked limit 10000) x),
		  (select count(*) from (select from offstage_private.lease l cross join lateral unnest(l.job_ids) i (id)
		    join offstage_private.job j on j.id = i.id and j.released_claim < l.claim limit 10000) x),
		  (select count(*) from (select from offstage_private.job j where j.failed limit 10000) x),
		  w.n, w.slots
		from (select count(*) as n, coalesce(sum(w.slots), 0) as slots from offstage_private.worker w
		  where offstage_private.lives(w, offstage_private.clock())) w`

	// The first ticket of each lane and priority, by the index.
	topOldest = `
		select extract(epoch from offstage_private.clock() - min(h.run_at))::float8 from offstage_private.heads() h
		left join offstage_private.lane l on l.id = h.lane_id
		join offstage_private.task t on t.id = coalesce(l.task_id, h.lane_id) where not t.paused`

	topTasks = `
		with rates as (
		  select s.task, s.outcome, s.starts_at, s.n from offstage.statistics(offstage_private.clock() - interval '1 min', '1 min', by => '{task,outcome}', times => false) s
		), times as (
		  select s.task, offstage.quantile(s.waits, 0.5) as wait50, offstage.quantile(s.waits, 0.95) as wait95,
		    offstage.quantile(s.runs, 0.5) as run50, offstage.quantile(s.runs, 0.95) as run95
		  from offstage.statistics(offstage_private.clock() - interval '5 min', null, by => '{task}') s
		)
		select t.name, r.starts_at, r.outcome, r.n, t.waiting, m.wait50, m.wait95, m.run50, m.run95
		from (
		  select t.name, (select least(sum(offstage_private.count_tickets(l.id, 1000)), 1000)::bigint
		    from (select t.id union all select l.id from offstage_private.lane l where l.task_id = t.id) l) as waiting
		  from offstage_private.task t offset 0  -- counted once each, not for each rate
		) t
		left join times m on m.task = t.name
		left join rates r on r.task = t.name
		order by t.name`

	topQueues = `
		with rates as (
		  select s.queue_name, s.outcome, s.starts_at, s.n from offstage.statistics(offstage_private.clock() - interval '1 min', '1 min', by => '{queue,outcome}', times => false) s
		)
		select q.name, coalesce(s.paused, false), q.running, coalesce(s.concurrency, 1), q.parked, r.starts_at, r.outcome, r.n
		from (
		  select q.id, q.name,
		    (select cardinality(o.claims) from offstage_private.queue_state o where o.queue_id = q.id order by o.queue_id, o.turn limit 1) as running,
		    (select count(*) from (select from offstage_private.parked k where k.queue_id = q.id limit 1000) x) as parked
		  from offstage_private.queue q where q.id <= 256 offset 0
		) q
		left join offstage_private.queue_setting s on s.queue_id = q.id
		left join rates r on r.queue_name = q.name
		order by q.name`
)

// snapshot looks once, in one transaction that reads only and takes two seconds a statement at most.
func (db *database) snapshot(ctx context.Context) (*snapshot, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	s := &snapshot{Tasks: []topTask{}, Queues: []topQue{}, minutes: map[minuteOf]int64{}}
	err := pgx.BeginTxFunc(ctx, db.pool, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `set local statement_timeout = '2s'`); err != nil {
			return err
		}
		if err := tx.QueryRow(ctx, db.sql(topCounts)).Scan(&s.At, &s.Waiting, &s.Scheduled, &s.Parked, &s.Running, &s.Failed, &s.Workers, &s.Slots); err != nil {
			return err
		}
		s.At = s.At.UTC()
		if err := tx.QueryRow(ctx, db.sql(topOldest)).Scan(&s.Oldest); err != nil {
			return err
		}
		if err := s.readTasks(ctx, db, tx); err != nil {
			return err
		}
		return s.readQueues(ctx, db, tx)
	})
	return s, err
}

func (s *snapshot) readTasks(ctx context.Context, db *database, tx pgx.Tx) error {
	rows, err := tx.Query(ctx, db.sql(topTasks))
	if err != nil {
		return err
	}
	var t topTask
	var at *time.Time
	var outcome *string
	var n *int64
	_, err = pgx.ForEachRow(rows, []any{&t.Name, &at, &outcome, &n, &t.Waiting, &t.WaitP50, &t.WaitP95, &t.RunP50, &t.RunP95}, func() error {
		if len(s.Tasks) == 0 || s.Tasks[len(s.Tasks)-1].Name != t.Name {
			s.Tasks = append(s.Tasks, t)
		}
		if at != nil {
			last := &s.Tasks[len(s.Tasks)-1]
			done, failures := s.lastMinute(*at, *outcome, *n)
			last.Done, last.Failures = last.Done+done, last.Failures+failures
			s.Done, s.Failures = s.Done+done, s.Failures+failures
			switch {
			case isDone(*outcome):
				s.minutes[minuteOf{*at, true}] += *n
			case isFailure(*outcome):
				s.minutes[minuteOf{*at, false}] += *n
			}
		}
		return nil
	})
	return err
}

func (s *snapshot) readQueues(ctx context.Context, db *database, tx pgx.Tx) error {
	rows, err := tx.Query(ctx, db.sql(topQueues))
	if err != nil {
		return err
	}
	var q topQue
	var at *time.Time
	var outcome *string
	var n *int64
	_, err = pgx.ForEachRow(rows, []any{&q.Name, &q.Paused, &q.Running, &q.Limit, &q.Parked, &at, &outcome, &n}, func() error {
		if len(s.Queues) == 0 || s.Queues[len(s.Queues)-1].Name != q.Name {
			s.Queues = append(s.Queues, q)
		}
		if at != nil {
			last := &s.Queues[len(s.Queues)-1]
			done, failures := s.lastMinute(*at, *outcome, *n)
			last.Done, last.Failures = last.Done+done, last.Failures+failures
		}
		return nil
	})
	return err
}

func isDone(outcome string) bool { return outcome == "succeeded" }
func isFailure(outcome string) bool {
	return outcome == "retried" || outcome == "failed" || outcome == "rescued"
}

// lastMinute is what a minute's count gives to the last 60 seconds: all of the minute that runs, and of the one before as much
// as is not yet a minute ago.
func (s *snapshot) lastMinute(minute time.Time, outcome string, n int64) (done, failures float64) {
	share := min(max(1-s.At.Sub(minute.Add(time.Minute)).Minutes(), 0), 1)
	switch {
	case isDone(outcome):
		return share * float64(n), 0
	case isFailure(outcome):
		return 0, share * float64(n)
	}
	return 0, 0
}

// perSecond is how many have ended a second since an earlier snapshot; without one, as in the last minute.
func (s *snapshot) perSecond(before *snapshot, done bool) float64 {
	if before == nil || !s.At.After(before.At) || s.At.Sub(before.At) > time.Minute {
		if done {
			return s.Done / 60
		}
		return s.Failures / 60
	}
	var n int64
	for m, count := range s.minutes {
		if m.done == done {
			n += count - before.minutes[m]
		}
	}
	return max(float64(n), 0) / s.At.Sub(before.At).Seconds()
}
