package view

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Task is a task in the list, with what it did in the last hour.
type Task struct {
	Name        string          `json:"name"`
	Paused      bool            `json:"paused"`
	MaxAttempts *int            `json:"max_attempts"` // nil: 25
	Retry       json.RawMessage `json:"retry"`        // nil: the delays of Graphile Worker
	Timeout     *string         `json:"timeout"`
	Keep        string          `json:"keep"`    // what history keeps: all, failures, none
	Workers     int             `json:"workers"` // that run it
	Waiting     Count           `json:"waiting"`
	Hour        Point           `json:"hour"`  // what ended in the last 60 minutes
	Waits       Histogram       `json:"waits"` // of this hour and the one before
	Runs        Histogram       `json:"runs"`
}

// maxTasks is how many are listed.
const maxTasks = 500

// tasksSQL: its index on name gives the order.
const tasksSQL = `
	select t.name, t.paused, t.max_attempts::int, t.retry, t.timeout::text, coalesce(t.keep, 'all'),
	  (select count(*) from offstage_private.worker w where offstage_private.lives(w, offstage_private.clock()) and t.id = any (w.tasks)),
	  (select least(sum(offstage_private.count_tickets(l.id, 1001)), 1001)::bigint from (select t.id union all select l.id from offstage_private.lane l where l.task_id = t.id) l)
	from offstage_private.task t`

func scanTask(row pgx.CollectableRow) (Task, error) {
	var t Task
	var waiting int64
	var retry *string
	err := row.Scan(&t.Name, &t.Paused, &t.MaxAttempts, &retry, &t.Timeout, &t.Keep, &t.Workers, &waiting)
	if retry != nil {
		t.Retry = json.RawMessage(*retry)
	}
	t.Waiting = Count{N: min(waiting, 1000), More: waiting > 1000}
	return t, err
}

// Tasks answers the first 500 tasks by name.
func (db *DB) Tasks(ctx context.Context) ([]Task, error) {
	list := []Task{}
	hour := map[string]*Point{}
	type times struct{ waits, runs []int64 }
	all := map[string]times{}
	batch := &pgx.Batch{}
	batch.Queue(db.sql(tasksSQL+` order by t.name limit $1`), maxTasks).Query(func(rows pgx.Rows) (err error) {
		list, err = pgx.CollectRows(rows, scanTask)
		return err
	})
	batch.Queue(db.sql(ratesSQL), time.Now().Add(-time.Hour), "60 s").Query(func(rows pgx.Rows) error {
		var task, outcome string
		var n int64
		_, err := pgx.ForEachRow(rows, []any{&task, &outcome, &n}, func() error {
			if hour[task] == nil {
				hour[task] = &Point{}
			}
			hour[task].count(outcome, n)
			return nil
		})
		return err
	})
	batch.Queue(db.sql(`
		select x.task, array_agg(x.w order by x.bucket), array_agg(x.r order by x.bucket) from (
		  select s.task, u.bucket, coalesce(sum(u.w), 0)::bigint as w, coalesce(sum(u.r), 0)::bigint as r
		  from offstage.statistics($1::timestamptz, '1 h', by => '{task}') s
		  cross join lateral unnest(s.waits, s.runs) with ordinality u (w, r, bucket) where s.task is not null group by 1, 2
		) x group by 1`), time.Now().Add(-time.Hour)).Query(func(rows pgx.Rows) error {
		var task string
		var t times
		_, err := pgx.ForEachRow(rows, []any{&task, &t.waits, &t.runs}, func() error {
			all[task] = t
			t = times{}
			return nil
		})
		return err
	})
	if err := db.send(ctx, "tasks", batch); err != nil {
		return nil, err
	}
	for i := range list {
		t := &list[i]
		if p := hour[t.Name]; p != nil {
			t.Hour = *p
		}
		t.Waits, t.Runs = all[t.Name].waits, all[t.Name].runs
	}
	return list, nil
}

// TaskDetail is all about one task.
type TaskDetail struct {
	Task
	On         []TaskWorker `json:"on"` // the living workers that have it
	Statistics Statistics   `json:"statistics"`
}

// TaskWorker is a worker that has a task.
type TaskWorker struct {
	Name   string  `json:"name"`
	Host   string  `json:"host"`
	PID    int     `json:"pid"`
	Slots  int     `json:"slots"`
	Unable *string `json:"unable"` // why it cannot perform it; nil: it can
}

// TaskDetail answers one task, with what it did within a window. ErrUnknown: there is none of that name.
func (db *DB) TaskDetail(ctx context.Context, name, window string) (TaskDetail, error) {
	var d TaskDetail
	now, err := db.clock(ctx)
	if err != nil {
		return d, err
	}
	batch := &pgx.Batch{}
	found := false
	batch.Queue(db.sql(tasksSQL+` where t.name = $1::text`), name).Query(func(rows pgx.Rows) error {
		list, err := pgx.CollectRows(rows, scanTask)
		if len(list) == 1 {
			d.Task, found = list[0], true
		}
		return err
	})
	batch.Queue(db.sql(`
		select 'worker-' || w.id, w.host, w.pid, w.slots, w.unable ->> $1::text from offstage_private.worker w
		where offstage_private.lives(w, offstage_private.clock())
		  and ((select t.id from offstage_private.task t where t.name = $1::text) = any (w.tasks) or w.unable ? $1::text)
		order by w.id limit 100`), name).Query(func(rows pgx.Rows) (err error) {
		d.On, err = pgx.CollectRows(rows, pgx.RowToStructByPos[TaskWorker])
		return err
	})
	db.statistics(batch, &d.Statistics, window, now, &name, nil)
	switch err := db.send(ctx, "task", batch); {
	case err != nil:
		return d, err
	case !found:
		return d, fmt.Errorf("the task %q is %w", name, ErrUnknown)
	}
	d.Task.Waits, d.Task.Runs = nil, nil // the window's are in Statistics
	return d, nil
}

// PauseTask, ResumeTask and ConfigureTask do what the functions of these names in SQL do.
func (db *DB) PauseTask(ctx context.Context, by Actor, name string) error {
	return db.call(ctx, by, "task", name, `select offstage.pause_task($1::text)`, name)
}

// ResumeTask lets a paused task go on.
func (db *DB) ResumeTask(ctx context.Context, by Actor, name string) error {
	return db.call(ctx, by, "task", name, `select offstage.resume_task($1::text)`, name)
}

// ConfigureTask changes settings of a task: an object as configure_task() takes it.
func (db *DB) ConfigureTask(ctx context.Context, by Actor, name string, settings json.RawMessage) error {
	return db.call(ctx, by, "task", name, `select offstage.configure_task($1::text, $2::text::json)`, name, string(settings))
}

// call calls a function that changes a task or queue. Those functions make what is new; here a name that is not known is a
// mistake, and ErrUnknown.
func (db *DB) call(ctx context.Context, by Actor, kind, name, sql string, args ...any) error {
	return db.As(ctx, by, func(tx pgx.Tx) error {
		var known bool
		err := tx.QueryRow(ctx, db.sql(`select exists (select from offstage_private.`+kind+` x where x.name = $1::text)`), name).Scan(&known)
		if err == nil && !known {
			return fmt.Errorf("the %s %q is %w", kind, name, ErrUnknown)
		}
		if err == nil {
			_, err = tx.Exec(ctx, db.sql(sql), args...)
		}
		return err
	})
}
