package store

import (
	"context"
	"encoding/json"
	"time"

	"github.com/jackc/pgx/v5"
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
	MaxAttempts  *int16 // nil: the task's
	Crashes      int16
	AddedAt      time.Time
	QueueID      *int32
	QueueName    *string
	Key          *string
	Flags        []byte
	LastError    *string
	Timeout      *time.Duration // of this job; nil: the task's
	Traceparent  *string
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
}

// Turn is one round trip and one transaction: it settles, if there is something to settle, and claims, if Want is
// above zero.
func (s *Store) Turn(ctx context.Context, conn *pgx.Conn, settle *Settle, claim *Claim) (unsettled []Verdict, look Look, err error) {
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
	return unsettled, look, Fault(err)
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

func (l *Look) read(rows pgx.Rows) error {
	var (
		kind            string
		claim, job      *int64
		lane, task      *int32
		priority        *int16
		attempt, maxAtt *int16
		crashes         *int16
		runAt, added    *time.Time
		queue           *int32
		expired         *bool
		c               Claimed
	)
	for rows.Next() {
		c = Claimed{}
		err := rows.Scan(&kind, &claim, &job, &lane, &priority, &runAt, &task, &attempt, &maxAtt, &crashes, &added, &queue,
			&c.QueueName, &c.Key, &c.Flags, &c.LastError, &c.Timeout, &c.Traceparent, &expired, (*[]byte)(&c.Payload))
		if err != nil {
			return err
		}
		switch kind {
		case "job":
			c.Claim, c.JobID, c.Lane, c.Priority, c.RunAt, c.TaskID = *claim, *job, *lane, *priority, *runAt, *task
			c.Attempt, c.MaxAttempts, c.Crashes, c.AddedAt, c.QueueID, c.Expired = *attempt, maxAtt, *crashes, *added, queue, *expired
			l.Jobs = append(l.Jobs, c)
			maxAtt, queue = nil, nil
		case "mark":
			l.Marks = append(l.Marks, Mark{*lane, *priority, *runAt, *job})
		case "again":
			l.Again = true
		case "asleep":
			l.Oldest, l.Next = *job, *claim
		}
	}
	return rows.Err()
}
