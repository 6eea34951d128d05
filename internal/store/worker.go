package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Task is a task that a worker registers.
type Task struct {
	Name     string          `json:"name"`
	Settings json.RawMessage `json:"settings,omitempty"`
	Unable   string          `json:"unable,omitempty"` // why the worker cannot perform it
}

// Registered is what a worker gets.
type Registered struct {
	Worker int32
	Tasks  []int32
	Period time.Duration
	Clock  time.Time // the database's
}

// Register makes a worker. It leaves jobs with a forbidden flag to others.
func (s *Store) Register(ctx context.Context, conn *pgx.Conn, host string, pid int, version string, slots int, tasks []Task, forbidden []string) (r Registered, err error) {
	b, err := json.Marshal(tasks)
	if err != nil {
		return r, err
	}
	err = conn.QueryRow(ctx, s.fn(`select worker_id, task_ids, period, offstage_private.clock() from offstage.register($1, $2, $3, $4, $5, $6)`),
		host, pid, version, slots, string(b), forbidden).Scan(&r.Worker, &r.Tasks, &r.Period, &r.Clock)
	return r, Fault(err)
}

// TaskSettings are those of a task that its worker must know.
type TaskSettings struct {
	ID          int32
	Name        string
	MaxAttempts int16
	Timeout     *time.Duration
	Revision    int32
}

// TaskSettings asks for them.
func (s *Store) TaskSettings(ctx context.Context, conn *pgx.Conn, ids []int32) ([]TaskSettings, error) {
	rows, err := conn.Query(ctx, s.fn(`select task_id, task, max_attempts, timeout, revision from offstage.task_settings($1)`), ids)
	if err != nil {
		return nil, Fault(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[TaskSettings])
	return all, Fault(err)
}

// Beat is what a heartbeat answers.
type Beat struct {
	Alive     bool
	Clock     time.Time // the database's
	Period    time.Duration
	Leases    []int64          // that the worker still holds
	Cancelled map[int64]string // running jobs that are to be cancelled, with the reason
	Settings  int64            // changes when a task's settings have changed
	Breaking  int              // newest breaking migration
	Wanted    Wish             // what somebody wants of the worker
}

// Wish is what somebody wants of a worker.
type Wish string

const (
	WantWork  Wish = ""      // what it is there for
	WantDrain Wish = "drain" // that it claims nothing more
	WantStop  Wish = "stop"  // that it ends
)

// Heartbeat says that the worker lives. deaf: for how long it has heard nothing of what it sends to itself; 0: it hears.
func (s *Store) Heartbeat(ctx context.Context, conn *pgx.Conn, worker int32, draining bool, deaf time.Duration) (b Beat, err error) {
	var ids []int64
	var reasons []string
	var settings *int64
	var breaking *int
	err = conn.QueryRow(ctx, s.fn(`select period, claims, cancelled, reasons, settings, breaking, coalesce(wanted, ''), offstage_private.clock() from offstage.heartbeat($1, $2, nullif($3::float8, 0) * interval '1 s')`), worker, draining, deaf.Seconds()).
		Scan(&b.Period, &b.Leases, &ids, &reasons, &settings, &breaking, &b.Wanted, &b.Clock)
	if errors.Is(err, pgx.ErrNoRows) {
		return b, nil
	}
	if err != nil {
		return b, Fault(err)
	}
	b.Alive = true
	for i, id := range ids {
		if b.Cancelled == nil {
			b.Cancelled = map[int64]string{}
		}
		b.Cancelled[id] = reasons[i]
	}
	if settings != nil {
		b.Settings = *settings
	}
	if breaking != nil {
		b.Breaking = *breaking
	}
	return b, nil
}

// EarChannel is where a worker hears TestEar.
func EarChannel(worker int32) string { return fmt.Sprintf("offstage:ear:%d", worker) }

// TestEar sends a notification that this worker alone listens to.
func (s *Store) TestEar(ctx context.Context, conn *pgx.Conn, worker int32) error {
	_, err := conn.Exec(ctx, s.fn(`select offstage.test_ear($1)`), worker)
	return Fault(err)
}

// StayDrained drains a worker that begins anew.
func (s *Store) StayDrained(ctx context.Context, conn *pgx.Conn, worker int32) error {
	_, err := conn.Exec(ctx, s.fn(`select offstage_private.stay_drained($1)`), worker)
	return Fault(err)
}

// SignOff ends the worker.
func (s *Store) SignOff(ctx context.Context, conn *pgx.Conn, worker int32) error {
	_, err := conn.Exec(ctx, s.fn(`select offstage.sign_off($1)`), worker)
	return Fault(err)
}

// StartSuspect is called before a job runs that was there when two workers in a row died. False: the claim is gone.
func (s *Store) StartSuspect(ctx context.Context, conn *pgx.Conn, worker int32, claim, job int64) (held bool, err error) {
	err = conn.QueryRow(ctx, s.fn(`select offstage.start_suspect($1, $2, $3)`), worker, claim, job).Scan(&held)
	return held, Fault(err)
}

// Row is the part of a connection, pool or transaction that Finish needs.
type Row interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// Finish ends a running job in the caller's transaction. False: the claim is gone.
func (s *Store) Finish(ctx context.Context, db Row, worker int32, claim, job int64, result *string) (held bool, err error) {
	err = db.QueryRow(ctx, s.fn(`select offstage.finish($1, $2, $3, $4::text::json)`), worker, claim, job, result).Scan(&held)
	return held, Fault(err)
}

// Recall gives back what a claim took whose answer was lost: the leases of this worker that it does not know of.
func (s *Store) Recall(ctx context.Context, conn *pgx.Conn, worker int32, known []int64) (n int, err error) {
	err = conn.QueryRow(ctx, s.fn(`select offstage.recall($1, $2)`), worker, known).Scan(&n)
	return n, Fault(err)
}
