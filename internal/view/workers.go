package view

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Worker is a worker, and what it does.
type Worker struct {
	Name      string        `json:"name"`  // worker-7
	State     string        `json:"state"` // alive, draining, silent, or gone
	Host      string        `json:"host"`
	PID       int           `json:"pid"`
	Version   string        `json:"version"`
	Slots     int           `json:"slots"`
	Running   Count         `json:"running"` // jobs that it has claimed: those that wait for a slot of it, too
	StartedAt time.Time     `json:"started_at"`
	BeatAt    time.Time     `json:"beat_at"`
	DeadAt    *time.Time    `json:"dead_at"`
	Tasks     []string      `json:"tasks"`
	Unable    []UnableTask  `json:"unable"`
	Jobs      []ClaimedJob  `json:"jobs"` // what it has claimed, the oldest first; ten at most
	Period    time.Duration `json:"period"`
	ID        int           `json:"id"`
	Wanted    string        `json:"wanted"`     // of it by somebody: drain, stop, or nothing
	DeafSince *time.Time    `json:"deaf_since"` // since when notifications do not reach it; nil: they do
}

// UnableTask is a task that a worker has and cannot perform.
type UnableTask struct {
	Task string `json:"task"`
	Why  string `json:"why"`
}

// ClaimedJob is a job that a worker has claimed.
type ClaimedJob struct {
	ID    ID        `json:"id"`
	Task  string    `json:"task"`
	Since time.Time `json:"since"`
}

// Workers answers the workers that live, at most 200, and those that died within the last hour, at most 20.
func (db *DB) Workers(ctx context.Context) ([]Worker, error) {
	list, err := many[struct {
		ID                  int
		State, Host         string
		PID                 int
		Version             string
		Slots               int
		Running             int64
		About               bool
		StartedAt, BeatAt   time.Time
		DeadAt              *time.Time
		Tasks               []string
		UnableTask, Because []string
		JobIDs              []int64
		JobTasks            []string
		Since               []time.Time
		Period              float64
		Wanted              string
		DeafSince           *time.Time
	}](ctx, db, "workers", `
		with held as materialized (select * from offstage_private.count_running(true, 500))
		select w.id, case when w.dead_at is not null then 'gone' when w.beat_at < offstage_private.clock() - 5 * w.period then 'silent'
		    when w.draining then 'draining' else 'alive' end,
		  w.host, w.pid, w.version, w.slots,
		  coalesce(c.n, 0), coalesce(c.about, false),
		  w.started_at, w.beat_at, w.dead_at,
		  array(select t.name from offstage_private.task t where t.id = any (w.tasks) order by t.name),
		  array(select u.key from jsonb_each_text(coalesce(w.unable, '{}')) u order by u.key),
		  array(select u.value from jsonb_each_text(coalesce(w.unable, '{}')) u order by u.key),
		  r.ids, r.tasks, r.since, extract(epoch from w.period)::float8,
		  coalesce((select o.wanted from offstage_private.wish o where o.worker_id = w.id and w.dead_at is null), ''),
		  case when w.dead_at is null then w.deaf_since end
		from ((select * from offstage_private.worker w where w.dead_at is null order by w.id desc limit 200)
		  union all (select * from offstage_private.worker w where w.dead_at > offstage_private.clock() - interval '1 h' order by w.id desc limit 20)) w
		cross join lateral (
		  select coalesce(array_agg(x.id order by x.claim, x.id), '{}') as ids, coalesce(array_agg(x.name order by x.claim, x.id), '{}') as tasks,
		    coalesce(array_agg(x.claimed_at order by x.claim, x.id), '{}') as since
		  from (
		    select l.claim, l.claimed_at, j.id, t.name
		    from (select * from offstage_private.lease l where l.worker_id = w.id order by l.claim limit 30) l  -- all but some have a job still
		    cross join lateral (
		      select o.id, o.task_id from offstage_private.job o where o.id = any (l.job_ids) and o.released_claim < l.claim order by o.id limit 10) j
		    join offstage_private.task t on t.id = j.task_id
		    order by l.claim, j.id limit 10
		  ) x
		) r
		left join held c on c.worker_id = w.id
		order by w.dead_at is not null, w.id`)
	if err != nil {
		return nil, err
	}
	workers := make([]Worker, len(list))
	for i, r := range list {
		w := Worker{
			Name: "worker-" + ID(r.ID).String(), State: r.State, Host: r.Host, PID: r.PID, Version: r.Version, Slots: r.Slots, Running: Count{N: r.Running, About: r.About},
			StartedAt: r.StartedAt, BeatAt: r.BeatAt, DeadAt: r.DeadAt, Tasks: r.Tasks, Unable: []UnableTask{}, Jobs: []ClaimedJob{},
			Period: time.Duration(r.Period * float64(time.Second)), ID: r.ID, Wanted: r.Wanted, DeafSince: r.DeafSince,
		}
		for n := range r.UnableTask {
			w.Unable = append(w.Unable, UnableTask{r.UnableTask[n], r.Because[n]})
		}
		for n := range r.JobIDs {
			w.Jobs = append(w.Jobs, ClaimedJob{ID(r.JobIDs[n]), r.JobTasks[n], r.Since[n]})
		}
		workers[i] = w
	}
	return workers, nil
}

// DrainWorker has a worker take no more jobs: running ones finish, and it stays. ErrUnknown: none of this id lives.
func (db *DB) DrainWorker(ctx context.Context, by Actor, id int) error {
	return db.tellWorker(ctx, by, id, `select offstage.drain_worker($1::int)`)
}

// ResumeWorker lets a drained worker go on. ErrUnknown; SQLSTATE 55006 for one that was told to stop.
func (db *DB) ResumeWorker(ctx context.Context, by Actor, id int) error {
	return db.tellWorker(ctx, by, id, `select offstage.undrain_worker($1::int)`)
}

// StopWorker ends a worker as a signal to its process does. ErrUnknown.
func (db *DB) StopWorker(ctx context.Context, by Actor, id int) error {
	return db.tellWorker(ctx, by, id, `select offstage.drain_worker($1::int, stop => true)`)
}

// tellWorker calls a function that answers whether the worker lives.
func (db *DB) tellWorker(ctx context.Context, by Actor, id int, sql string) error {
	return db.As(ctx, by, func(tx pgx.Tx) error {
		var lives bool
		err := tx.QueryRow(ctx, db.sql(sql), id).Scan(&lives)
		if err == nil && !lives {
			return fmt.Errorf("the worker %d is %w: none of this id lives", id, ErrUnknown)
		}
		return err
	})
}
