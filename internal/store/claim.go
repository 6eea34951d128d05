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
	Place        pgtype.TID // of the row in job: what Settle finds it by
}

// Look is what a claim brought.
type Look struct {
	Jobs  []Claimed
	Marks []Mark // of tickets that were parked
	Rests []Mark // tickets of which there is more: no mark may be at or behind them
	Again bool   // something was busy: look again soon
	// Oldest and Next are the transactions in progress and to come, if Sleep asked for them.
	Oldest, Next int64

	size     int // of the payloads of the last look, together: a guess for the next one
	payloads []byte
	ends     []int
}

// Turn is one round trip and one transaction: it settles, if there is something to settle, claims, if there is
// something to claim, into look, which is emptied before, and makes or takes back an offer. The claimed jobs arrive before the transaction is
// committed: arrived is called then, while the server still waits for its disk. Only when Turn returns nil is
// anything of it true.
func (s *Store) Turn(ctx context.Context, conn *pgx.Conn, settle *Settle, claim *Claim, offer *Offer, look *Look, arrived func()) (unsettled []Verdict, err error) {
	*look = Look{Jobs: look.Jobs[:0], Marks: look.Marks[:0], Rests: look.Rests[:0], size: look.size, ends: look.ends[:0]}
	p, err := s.pipeline(ctx, conn)
	if err != nil {
		return nil, Fault(err)
	}
	if settle != nil {
		p.send(&s.settle, settle.args(claim != nil))
	}
	if claim != nil {
		p.send(&s.claim, claim.args())
	}
	if offer != nil {
		p.send(&s.offer, offer.args())
	}
	if err := p.flush(); err != nil {
		return nil, Fault(err)
	}
	if settle != nil {
		p.read(func(row [][]byte) {
			unsettled = append(unsettled, Verdict{readInt8(row[0]), readInt8(row[1]), string(row[2])})
		})
	}
	if claim != nil {
		if p.read(look.add); p.err == nil {
			look.slice()
			arrived()
		}
	}
	if offer != nil {
		p.read(func(row [][]byte) { offer.Stood = readBool(row[0]) })
	}
	return unsettled, Fault(p.close())
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

// add takes a row: this is the hot path of every worker.
func (l *Look) add(row [][]byte) {
	const (
		kind = iota
		claim
		jobID
		lane
		priority
		runAt
		task
		attempt
		maxAttempts
		crashes
		addedAt
		queue
		queueName
		key
		flags
		lastError
		timeout
		traceparent
		expired
		payload
		ctid
	)
	switch string(row[kind]) {
	case "job":
		c := Claimed{
			Claim: readInt8(row[claim]), JobID: readInt8(row[jobID]), Lane: readInt4(row[lane]), Priority: readInt2(row[priority]),
			RunAt: readTime(row[runAt]), TaskID: readInt4(row[task]), Attempt: readInt2(row[attempt]), MaxAttempts: readInt2(row[maxAttempts]),
			Crashes: readInt2(row[crashes]), AddedAt: readTime(row[addedAt]), Key: string(row[key]), LastError: string(row[lastError]),
			Timeout: readInterval(row[timeout]), Traceparent: string(row[traceparent]), Expired: readBool(row[expired]), Place: readTID(row[ctid]),
		}
		if row[queue] != nil {
			id := readInt4(row[queue])
			c.QueueID, c.QueueName = &id, string(row[queueName])
		}
		if row[flags] != nil {
			c.Flags = bytes.Clone(row[flags][1:]) // behind the version of jsonb
		}
		if large := len(row[payload]) > 8<<10; large { // not copied again as the others grow, nor kept as long as they are
			c.Payload = bytes.Clone(row[payload])
		} else {
			if l.payloads == nil {
				l.payloads = make([]byte, 0, max(l.size, len(row[payload])))
			}
			l.payloads = append(l.payloads, row[payload]...)
		}
		l.Jobs = append(l.Jobs, c)
		l.ends = append(l.ends, len(l.payloads))
	case "mark", "rest":
		list := &l.Marks
		if string(row[kind]) == "rest" {
			list = &l.Rests
		}
		*list = append(*list, Mark{readInt4(row[lane]), readInt2(row[priority]), readTime(row[runAt]), readInt8(row[jobID])})
	case "again":
		l.Again = true
	case "asleep":
		l.Oldest, l.Next = readInt8(row[jobID]), readInt8(row[claim])
	}
}

// slice gives each job its payload, when all have been read: they stand one behind the other.
func (l *Look) slice() {
	l.size = len(l.payloads)
	from := 0
	for i, to := range l.ends {
		if l.Jobs[i].Payload == nil {
			l.Jobs[i].Payload = l.payloads[from:to:to]
		}
		from = to
	}
	l.payloads, l.ends = nil, l.ends[:0]
}
