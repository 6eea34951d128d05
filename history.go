package offstage

import (
	"context"
	"encoding/json"
	"time"
)

// Entry is a line of history: an attempt that ended, or the end of a job.
type Entry struct {
	JobID     int64
	Task      string
	Queue     string // "" if none
	Key       string
	Priority  int
	Outcome   Outcome
	Attempt   int
	Worker    string // "" if it did not run
	AddedAt   time.Time
	RunAt     time.Time
	ClaimedAt time.Time // zero if it did not run
	SettledAt time.Time
	Error     string          // with what the runner knows: stack and causes, exit status, last lines of stderr
	Payload   json.RawMessage // with History, where the job ended
	Result    json.RawMessage // with History
}

// History answers the attempts of a job that have ended, and its end, oldest first, at most 1000. None: no attempt has ended,
// it was not kept (see Keep), or the job is unknown.
func (c *Client) History(ctx context.Context, id int64) (list []Entry, err error) {
	err = c.each(ctx, "history", `select settled_at, outcome, attempt, worker, added_at, run_at, claimed_at, error, payload::text, result::text
		from offstage.job_history($1::bigint)`, []any{id}, func(r rows) error {
		e := Entry{JobID: id}
		var worker, text, payload, result *string
		var claimed *time.Time
		if err := r.Scan(&e.SettledAt, &e.Outcome, &e.Attempt, &worker, &e.AddedAt, &e.RunAt, &claimed, &text, &payload, &result); err != nil {
			return err
		}
		e.Worker, e.Error = or(worker), or(text)
		if claimed != nil {
			e.ClaimedAt = *claimed
		}
		if payload != nil {
			e.Payload = json.RawMessage(*payload)
		}
		if result != nil {
			e.Result = json.RawMessage(*result)
		}
		list = append(list, e)
		return nil
	})
	return list, err
}

// HistoryFilter chooses entries of history. The zero value is the latest hundred.
type HistoryFilter struct {
	Task    string
	Outcome Outcome
	Since   time.Time
	Limit   int // default 100, at most 10000

	// Before and BeforeJob are where a page begins: older than this entry.
	Before    time.Time
	BeforeJob int64
}

// ListHistory answers what ended lately, newest first, without payloads and results, and the filter for the next page, nil if
// there is none. A page may be short, or empty, though there is a next one: one call looks at 20,000 entries at most.
func (c *Client) ListHistory(ctx context.Context, f HistoryFilter) (list []Entry, next *HistoryFilter, err error) {
	if f.Limit <= 0 {
		f.Limit = 100
	}
	f.Limit = min(f.Limit, 10000)
	further := f
	more := false
	err = c.each(ctx, "list history", `select settled_at, job_id, task_identifier, queue_name, key, priority, outcome, attempt, worker, added_at, run_at, claimed_at, error
		from offstage.history(nullif($1::text, ''), nullif($2::text, ''), $3::timestamptz, $4::bigint, $5::timestamptz, $6::int)`,
		[]any{f.Task, string(f.Outcome), moment(f.Before), f.BeforeJob, moment(f.Since), f.Limit}, func(r rows) error {
			var e Entry
			var task, queue, key, outcome, worker, text *string
			var priority, attempt *int
			var added, runAt, claimed *time.Time
			err := r.Scan(&e.SettledAt, &e.JobID, &task, &queue, &key, &priority, &outcome, &attempt, &worker, &added, &runAt, &claimed, &text)
			if err != nil {
				return err
			}
			further.Before, further.BeforeJob = e.SettledAt, e.JobID
			if outcome == nil { // so far it has looked
				more = true
				return nil
			}
			e.Task, e.Queue, e.Key, e.Worker, e.Error = or(task), or(queue), or(key), or(worker), or(text)
			e.Outcome, e.Priority, e.Attempt, e.AddedAt, e.RunAt = Outcome(*outcome), *priority, *attempt, *added, *runAt
			if claimed != nil {
				e.ClaimedAt = *claimed
			}
			list = append(list, e)
			return nil
		})
	if err != nil || !more && len(list) < f.Limit {
		return list, nil, err
	}
	return list, &further, nil
}

// moment is t, or null for the zero time.
func moment(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t
}
