package view

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Queue is a queue with what is in it.
type Queue struct {
	Name        string     `json:"name"`
	Concurrency int        `json:"concurrency"`
	Paused      bool       `json:"paused"`
	Running     int        `json:"running"` // of its slots, how many are taken: by jobs that run, or are about to
	Waiting     Count      `json:"waiting"` // their turn has come, and no worker has taken them yet
	Parked      Count      `json:"parked"`  // counted up to 1000 in the list, to 10,000 alone
	Oldest      *time.Time `json:"oldest"`  // since when the first parked or waiting job of it is due
	Points      []int64    `json:"points"`  // what ended in the last hour, in steps of 5 minutes; nil: it is not counted alone
}

// queueSQL reads queue q. $1 is up to where it counts. Oldest: of each lane and priority the first, by the index; those are few,
// and 100 at most are looked at.
const queueSQL = `
	select q.name, coalesce(s.concurrency, 1), coalesce(s.paused, false),
	  coalesce((select cardinality(o.claims) from offstage_private.queue_state o where o.queue_id = q.id order by o.queue_id, o.turn limit 1), 0),
	  (select count(*) from (select from offstage_private.ticket k where k.queue_id = q.id limit $1::int + 1) x),
	  (select count(*) from (select from offstage_private.parked k where k.queue_id = q.id limit $1::int + 1) x),
	  (with recursive head as (
	    (select k.lane_id, k.priority, k.run_at, 1 as n from offstage_private.parked k where k.queue_id = q.id order by k.lane_id, k.priority, k.run_at, k.job_id limit 1)
	    union all
	    select f.lane_id, f.priority, f.run_at, h.n + 1 from head h cross join lateral (
	      select k.lane_id, k.priority, k.run_at from offstage_private.parked k
	      where k.queue_id = q.id and (k.lane_id, k.priority) > (h.lane_id, h.priority) order by k.lane_id, k.priority, k.run_at, k.job_id limit 1) f
	    where h.n < 100
	  ) select least(min(h.run_at), (select min(x.run_at) from (select k.run_at from offstage_private.ticket k where k.queue_id = q.id limit 1000) x)) from head h)
	from offstage_private.queue q left join offstage_private.queue_setting s on s.queue_id = q.id`

func scanQueue(upTo int64) pgx.RowToFunc[Queue] {
	return func(row pgx.CollectableRow) (Queue, error) {
		var q Queue
		var waiting, parked int64
		err := row.Scan(&q.Name, &q.Concurrency, &q.Paused, &q.Running, &waiting, &parked, &q.Oldest)
		q.Waiting = Count{N: min(waiting, upTo), More: waiting > upTo}
		q.Parked = Count{N: min(parked, upTo), More: parked > upTo}
		return q, err
	}
}

// QueuePage is a part of the list.
type QueuePage struct {
	Queues []Queue `json:"queues"`
	More   string  `json:"more"` // the name after which there are others; "": none
}

const queuesAPage = 100

// Queues answers queues by name: the first hundred after a name. With busy, those alone in which jobs wait, or which are paused
// (of the first thousand of each): there may be a queue for each customer. A search is for the beginning of a name.
func (db *DB) Queues(ctx context.Context, search, after string, busy bool) (QueuePage, error) {
	page := QueuePage{Queues: []Queue{}}
	const upTo = 1000
	where := ` where q.name > $2::text and starts_with(q.name, $3::text) and q.name >= $3::text`
	if busy {
		// The queues in parked and in ticket, from one to the next by the index.
		where = `
			join (with recursive behind as (
			    (select k.queue_id, 1 as n from offstage_private.parked k order by k.queue_id limit 1)
			    union all
			    select f.queue_id, b.n + 1 from behind b cross join lateral (
			      select k.queue_id from offstage_private.parked k where k.queue_id > b.queue_id order by k.queue_id limit 1) f where b.n < 1000
			  ), ahead as (
			    (select k.queue_id, 1 as n from offstage_private.ticket k where k.queue_id is not null order by k.queue_id limit 1)
			    union all
			    select f.queue_id, b.n + 1 from ahead b cross join lateral (
			      select k.queue_id from offstage_private.ticket k where k.queue_id > b.queue_id order by k.queue_id limit 1) f where b.n < 1000
			  ) select b.queue_id from behind b union select b.queue_id from ahead b union (select s.queue_id from offstage_private.queue_setting s where s.paused limit 1000)) u on u.queue_id = q.id` + where
	}
	batch := &pgx.Batch{}
	batch.Queue(db.sql(queueSQL+where+` order by q.name limit $4::int + 1`), upTo, after, search, queuesAPage).Query(func(rows pgx.Rows) (err error) {
		page.Queues, err = pgx.CollectRows(rows, scanQueue(upTo))
		return err
	})
	now := time.Now()
	sparks := map[string][]int64{}
	batch.Queue(db.sql(`
		select s.queue_name, s.starts_at, s.n from offstage.statistics($1::timestamptz, '5 min', by => '{queue}', times => false) s
		where s.queue_name is not null and s.queue_name <> '*'`), now.Add(-55*time.Minute)).Query(func(rows pgx.Rows) error {
		return readSparks(rows, now, sparks)
	})
	if err := db.send(ctx, "queues", batch); err != nil {
		return page, err
	}
	if len(page.Queues) > queuesAPage {
		page.Queues = page.Queues[:queuesAPage]
		page.More = page.Queues[queuesAPage-1].Name
	}
	for i := range page.Queues {
		page.Queues[i].Points = sparks[page.Queues[i].Name]
	}
	return page, nil
}

// sparkSteps is how many points a small chart has.
const sparkSteps = 12

func readSparks(rows pgx.Rows, now time.Time, sparks map[string][]int64) error {
	const step = 5 * time.Minute
	first := now.Truncate(step).Add(-(sparkSteps - 1) * step)
	var name string
	var at time.Time
	var n int64
	_, err := pgx.ForEachRow(rows, []any{&name, &at, &n}, func() error {
		if sparks[name] == nil {
			sparks[name] = make([]int64, sparkSteps)
		}
		if i := int(at.Sub(first) / step); i >= 0 && !at.Before(first) {
			sparks[name][min(i, sparkSteps-1)] += n
		}
		return nil
	})
	return err
}

// QueueDetail is all about one queue.
type QueueDetail struct {
	Queue
	Counted    bool       `json:"counted"` // its statistics are its own: it is one of the first 256
	Statistics Statistics `json:"statistics"`
}

// QueueDetail answers one queue, with what it did within a window. ErrUnknown: there is none of that name.
func (db *DB) QueueDetail(ctx context.Context, name, window string) (QueueDetail, error) {
	var d QueueDetail
	now, err := db.clock(ctx)
	if err != nil {
		return d, err
	}
	batch := &pgx.Batch{}
	found := false
	batch.Queue(db.sql(queueSQL+` where q.name = $2::text`), limit, name).Query(func(rows pgx.Rows) error {
		list, err := pgx.CollectRows(rows, scanQueue(limit))
		if len(list) == 1 {
			d.Queue, found = list[0], true
		}
		return err
	})
	batch.Queue(db.sql(`select coalesce((select q.id <= 256 from offstage_private.queue q where q.name = $1::text), false)`), name).QueryRow(func(row pgx.Row) error {
		return row.Scan(&d.Counted)
	})
	db.statistics(batch, &d.Statistics, window, now, nil, &name)
	switch err := db.send(ctx, "queue", batch); {
	case err != nil:
		return d, err
	case !found:
		return d, fmt.Errorf("the queue %q is %w", name, ErrUnknown)
	}
	return d, nil
}

// PauseQueue stops a queue: its jobs wait, running ones finish.
func (db *DB) PauseQueue(ctx context.Context, by Actor, name string) error {
	return db.call(ctx, by, "queue", name, `select offstage.pause_queue($1::text)`, name)
}

// ResumeQueue lets a paused queue go on.
func (db *DB) ResumeQueue(ctx context.Context, by Actor, name string) error {
	return db.call(ctx, by, "queue", name, `select offstage.resume_queue($1::text)`, name)
}

// ConfigureQueue sets how many of its jobs run at a time.
func (db *DB) ConfigureQueue(ctx context.Context, by Actor, name string, concurrency int) error {
	return db.call(ctx, by, "queue", name, `select offstage.configure_queue($1::text, $2::int)`, name, concurrency)
}
