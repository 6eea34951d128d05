package view

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/offstage-dev/offstage"
)

// Job is all that is known of a job, while it lives and for as long as its history is kept. offstage.ErrNotFound otherwise.
func (db *DB) Job(ctx context.Context, id ID) (Job, error) {
	var j Job
	err := pgx.BeginTxFunc(ctx, db.reads, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		if err := db.live(ctx, tx, id, &j); err != nil {
			return err
		}
		if err := db.attempts(ctx, tx, id, &j); err != nil {
			return err
		}
		if j.ID == 0 {
			return offstage.ErrNotFound
		}
		var err error
		if j.Log, err = db.log(ctx, tx, id, 0, 0); err != nil {
			return err
		}
		if j.Related, err = db.related(ctx, tx, j); err != nil {
			return err
		}
		w := &j.Why
		err = tx.QueryRow(ctx, db.sql(`select coalesce(kind, ''), coalesce(because, ''), since, until, coalesce(remedy, '') from offstage.explain_job($1)`), int64(id)).
			Scan(&w.Kind, &w.Because, &w.Since, &w.Until, &w.Remedy)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		return err
	})
	if err != nil {
		return Job{}, fmt.Errorf("job %d: %w", id, fault(err))
	}
	return j, nil
}

// live reads what is in the job itself; j stays empty where there is none, which the first and cheapest statement finds out.
func (db *DB) live(ctx context.Context, tx pgx.Tx, id ID, j *Job) error {
	var payload string
	err := tx.QueryRow(ctx, db.sql(`
		select j.revision, array(select f from jsonb_object_keys(j.flags) f order by f), j.crashes, p.message, j.options ->> 'traceparent', j.payload::text, j.last_error,
		  case when j.failed then j.fingerprint end
		from offstage_private.job j
		left join offstage_private.progress p on p.job_id = j.id and p.claim > j.released_claim
		where j.id = $1`), int64(id)).
		Scan(&j.Revision, &j.Flags, &j.Crashes, &j.Message, &j.Traceparent, &payload, &j.LastError, &j.Fingerprint)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	j.Payload = json.RawMessage(payload)
	list, err := db.jobRows(ctx, tx, []int64{int64(id)}, nil, false)
	if err == nil && len(list) == 1 {
		j.JobRow = list[0]
	}
	return err
}

// attempts reads the history of a job, and from it the job itself where it has ended.
func (db *DB) attempts(ctx context.Context, tx pgx.Tx, id ID, j *Job) error {
	rows, err := tx.Query(ctx, db.sql(`select h.settled_at, h.outcome, h.attempt, h.worker, h.added_at, h.run_at, h.claimed_at, h.error, h.payload::text, h.result::text
		from offstage.job_history($1) h`), int64(id))
	if err != nil {
		return err
	}
	live := j.ID != 0
	j.Attempts = []Attempt{}
	var a Attempt
	var added, runAt moment
	var payload, result *string
	var end *Attempt
	_, err = pgx.ForEachRow(rows, []any{&a.EndedAt, &a.Outcome, &a.Attempt, &a.Worker, &added, &runAt, &a.StartedAt, &a.Error, &payload, &result}, func() error {
		a.RunAt = time.Time(runAt)
		j.Attempts = append(j.Attempts, a)
		switch a.Outcome {
		case "succeeded", "failed", "cancelled", "removed", "completed":
		default:
			return nil
		}
		if live {
			return nil
		}
		last := a
		end = &last
		j.AddedAt = time.Time(added)
		j.Payload, j.Result = nil, nil
		if payload != nil {
			j.Payload = json.RawMessage(*payload)
		}
		if result != nil {
			j.Result = json.RawMessage(*result)
		}
		return nil
	})
	if err != nil || end == nil {
		return err
	}
	j.Ended, j.ID, j.State, j.Attempt, j.Worker, j.RunAt, j.StartedAt, j.EndedAt, j.LastError = true, id, end.Outcome, end.Attempt, end.Worker, end.RunAt, end.StartedAt, &end.EndedAt, end.Error
	if j.Error = end.Error; j.Error != nil {
		short := []rune(*end.Error)
		s := string(short[:min(len(short), 300)])
		j.Error = &s
	}
	j.Flags = []string{}
	return tx.QueryRow(ctx, db.sql(`
		select t.name, q.name, h.key, h.priority, coalesce(t.max_attempts, 25)
		from offstage_private.history h
		join offstage_private.task t on t.id = h.task_id
		left join offstage_private.queue q on q.id = h.queue_id
		where h.job_id = $1 and h.settled_at + interval '0' = $2 and h.outcome = $3 limit 1`), int64(id), end.EndedAt, end.Outcome).
		Scan(&j.Task, &j.Queue, &j.Key, &j.Priority, &j.MaxAttempts)
}

// related are jobs of the same key, when this one no longer has it, and of the same queue: what runs there, what has its turn, what waits.
func (db *DB) related(ctx context.Context, tx pgx.Tx, j Job) ([]JobRow, error) {
	if j.Queue == nil && j.Key == nil {
		return []JobRow{}, nil
	}
	rows, err := tx.Query(ctx, db.sql(`
		with q as (select q.id from offstage_private.queue q where q.name = $2), x (id, n) as (
			select j.id, 0 from offstage_private.job j where j.key = $3
			union all
			select * from (
				select l.job_ids[(c & 1023)::integer], 1
				from q cross join lateral (select s.claims from offstage_private.queue_state s where s.queue_id = q.id order by s.turn limit 1) s
				cross join lateral unnest(s.claims) c join offstage_private.lease l on l.claim = c & -1024 limit 10) r
			union all
			select * from (select t.job_id, 2 from q cross join lateral (
				select t.job_id from offstage_private.ticket t where t.queue_id = q.id order by t.queue_id, t.lane_id, t.priority, t.run_at, t.job_id limit 11) t) t
			union all
			select * from (select p.job_id, 3 from q cross join lateral (
				select p.job_id from offstage_private.parked p where p.queue_id = q.id order by p.queue_id, p.lane_id, p.priority, p.run_at, p.job_id limit 11) p) p
		)
		select x.id from x where x.id <> $1 group by x.id order by min(x.n), min(x.id) limit 10`), int64(j.ID), j.Queue, j.Key)
	if err != nil {
		return nil, err
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		return nil, err
	}
	return db.jobRows(ctx, tx, ids, nil, false)
}

// JobLog is what a job has logged behind a line, a thousand lines at most; 0, 0 is from the beginning.
func (db *DB) JobLog(ctx context.Context, id ID, afterClaim ID, afterN int) ([]LogLine, error) {
	list, err := db.log(ctx, db.reads, id, afterClaim, afterN)
	if err != nil {
		return nil, fmt.Errorf("log of job %d: %w", id, fault(err))
	}
	return list, nil
}

func (db *DB) log(ctx context.Context, q querier, id ID, afterClaim ID, afterN int) ([]LogLine, error) {
	rows, err := q.Query(ctx, db.sql(`select l.at, l.attempt, l.claim, l.n, l.level, l.message, l.attrs::text from offstage.job_log($1, $2, $3) l`),
		int64(id), int64(afterClaim), afterN)
	if err != nil {
		return nil, err
	}
	list := []LogLine{}
	var l LogLine
	var attrs *string
	_, err = pgx.ForEachRow(rows, []any{&l.At, &l.Attempt, &l.Claim, &l.N, &l.Level, &l.Message, &attrs}, func() error {
		if l.Attrs = nil; attrs != nil {
			l.Attrs = json.RawMessage(*attrs)
		}
		list = append(list, l)
		return nil
	})
	return list, err
}
