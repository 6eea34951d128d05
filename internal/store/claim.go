package store

import (
	"bytes"
	"context"
	"encoding/json"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// Mark is how far looks have come in one lane at one priority.
type Mark struct {
	Lane     int32
	Priority int16
	RunAt    time.Time
	JobID    int64
}

// Claim asks for jobs.
type Claim struct {
	Worker    int32
	Want      int
	Tasks     []int32
	Forbidden []string
	Marks     []Mark
	// Sleep is 1 to take the sleep locks, -1 to drop them, 2 to ask for the horizon, 0 for nothing.
	Sleep int
}

// Claimed is one job, as claimed.
type Claimed struct {
	Claim, JobID int64
	Lane         int32
	Priority     int16
	RunAt        time.Time
	TaskID       int32
	Attempt      int16
	MaxAttempts  int16 // 0: the task's
	Crashes      int16
	AddedAt      time.Time
	QueueID      *int32
	QueueName    string
	Key          string
	Flags        []byte
	LastError    string
	Timeout      time.Duration // of this job; 0: the task's
	Traceparent  string
	Expired      bool
	Payload      json.RawMessage
}

// Look is what a claim brought.
type Look struct {
	Jobs  []Claimed
	Marks []Mark // of tickets that were parked
	Again bool   // something was busy: look again soon
	// Oldest and Next are the transactions in progress and to come, if Sleep asked for them.
	Oldest, Next int64

	size int // of the payloads of the last look, together: a guess for the next one
}

// Turn is one round trip and one transaction: it settles, if there is something to settle, and claims, if there is
// something to claim, into look, which is emptied before.
func (s *Store) Turn(ctx context.Context, conn *pgx.Conn, settle *Settle, claim *Claim, look *Look) (unsettled []Verdict, err error) {
	*look = Look{Jobs: look.Jobs[:0], Marks: look.Marks[:0], size: look.size}
	var b pgx.Batch
	if settle != nil {
		b.Queue(s.settle, settle.args()...).Query(func(rows pgx.Rows) (err error) {
			unsettled, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Verdict])
			return err
		})
	}
	if claim != nil {
		b.Queue(s.claim, claim.args()...).Query(func(rows pgx.Rows) error { return look.read(rows) })
	}
	err = conn.SendBatch(ctx, &b).Close()
	return unsettled, Fault(err)
}

func (c *Claim) args() []any {
	if len(c.Marks) == 0 {
		return []any{c.Worker, c.Want, c.Tasks, c.Forbidden, nil, nil, nil, nil, c.Sleep}
	}
	n := len(c.Marks)
	lanes, priorities, runAts, ids := make([]int32, n), make([]int16, n), make([]time.Time, n), make([]int64, n)
	for i, m := range c.Marks {
		lanes[i], priorities[i], runAts[i], ids[i] = m.Lane, m.Priority, m.RunAt, m.JobID
	}
	return []any{c.Worker, c.Want, c.Tasks, c.Forbidden, lanes, priorities, runAts, ids, c.Sleep}
}

// read takes the rows without an allocation for each value: this is the hot path of every worker.
func (l *Look) read(rows pgx.Rows) error {
	var (
		kind                                    pgtype.DriverBytes
		claim, job                              pgtype.Int8
		lane, task, queue                       pgtype.Int4
		priority, attempt, maxAttempts, crashes pgtype.Int2
		runAt, added                            pgtype.Timestamptz
		queueName, key, lastError, traceparent  pgtype.Text
		flags, payload                          pgtype.DriverBytes
		timeout                                 pgtype.Interval
		expired                                 pgtype.Bool
		payloads                                []byte // of all jobs, one behind the other
		ends                                    []int
	)
	for rows.Next() {
		err := rows.Scan(&kind, &claim, &job, &lane, &priority, &runAt, &task, &attempt, &maxAttempts, &crashes, &added, &queue,
			&queueName, &key, &flags, &lastError, &timeout, &traceparent, &expired, &payload)
		if err != nil {
			return err
		}
		switch string(kind) {
		case "job":
			c := Claimed{
				Claim: claim.Int64, JobID: job.Int64, Lane: lane.Int32, Priority: priority.Int16, RunAt: instant(runAt), TaskID: task.Int32,
				Attempt: attempt.Int16, Crashes: crashes.Int16, AddedAt: instant(added), Expired: expired.Bool,
				MaxAttempts: maxAttempts.Int16, Key: key.String, LastError: lastError.String, Traceparent: traceparent.String,
			}
			if queue.Valid {
				id := queue.Int32
				c.QueueID, c.QueueName = &id, queueName.String
			}
			if flags != nil {
				c.Flags = bytes.Clone(flags)
			}
			if timeout.Valid {
				c.Timeout = duration(timeout)
			}
			l.Jobs = append(l.Jobs, c)
			if payloads == nil {
				payloads = make([]byte, 0, max(l.size, len(payload)))
			}
			payloads = append(payloads, payload...)
			ends = append(ends, len(payloads))
		case "mark":
			l.Marks = append(l.Marks, Mark{lane.Int32, priority.Int16, instant(runAt), job.Int64})
		case "again":
			l.Again = true
		case "asleep":
			l.Oldest, l.Next = job.Int64, claim.Int64
		}
	}
	l.size = len(payloads)
	from := 0
	for i, to := range ends {
		l.Jobs[i].Payload = payloads[from:to:to]
		from = to
	}
	return rows.Err()
}

// The times of PostgreSQL that Go's cannot hold: far enough away, and they come back as they were (see store.instant).
var (
	past   = time.Date(-4713, 1, 1, 0, 0, 0, 0, time.UTC)
	future = time.Date(294276, 12, 31, 0, 0, 0, 0, time.UTC)
)

func instant(t pgtype.Timestamptz) time.Time {
	switch t.InfinityModifier {
	case pgtype.NegativeInfinity:
		return past
	case pgtype.Infinity:
		return future
	}
	return t.Time
}

func duration(i pgtype.Interval) time.Duration {
	return time.Duration(i.Microseconds)*time.Microsecond + time.Duration(i.Days)*24*time.Hour + time.Duration(i.Months)*30*24*time.Hour
}
