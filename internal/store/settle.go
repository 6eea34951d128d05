package store

import (
	"encoding/json"

	"github.com/jackc/pgx/v5/pgtype"
)

// Settle ends attempts of one worker.
type Settle struct {
	Worker  int32
	Claims  []int64 // of attempts that succeeded
	JobIDs  []int64
	Places  []pgtype.TID
	Results []*string // JSON; nil when none has one
	Logs    []*string // JSON arrays of lines; nil when none has one
	Endings []Ending  // of the others
	Emptied []int64   // leases whose settles have all been answered
	Counts  Counts    // of the successes that have a place
}

// Ending is how an attempt ended that did not just succeed.
type Ending struct {
	Claim   int64           `json:"claim"`
	JobID   int64           `json:"job_id"`
	Ending  string          `json:"ending"` // retry, fail, cancel, snooze, release, crash, finished or lost
	Error   string          `json:"error,omitempty"`
	Delay   *float64        `json:"delay,omitempty"` // seconds
	Payload json.RawMessage `json:"payload,omitempty"`
	Log     []Line          `json:"log,omitempty"`
	QueueID *int32          `json:"queue_id,omitempty"` // after finish()
	Wait    *float64        `json:"wait,omitempty"`     // seconds that the job had waited, for statistics; null: as the database guesses
	Run     *float64        `json:"run,omitempty"`      // seconds that the attempt took
}

// Verdict names an attempt that was not settled: busy (send it again) or lost.
type Verdict struct {
	Claim, JobID int64
	Verdict      string
}

// args are those of settle; turn says that a claim follows in the same transaction.
func (s *Settle) args(turn bool) []any {
	var endings any
	if len(s.Endings) > 0 {
		endings = text(s.Endings) // payloads were JSON when they came
	}
	var results, logs any
	if s.Results != nil {
		results = s.Results
	}
	if s.Logs != nil {
		logs = s.Logs
	}
	return []any{s.Worker, int8Array(s.Claims), int8Array(s.JobIDs), results, logs, endings, int8Array(s.Emptied), tidArray(s.Places), s.Counts.json(), turn}
}
