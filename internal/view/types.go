package view

import (
	"encoding/json"
	"strconv"
	"time"
)

// ID is the id of a job. It is a string in JSON, because JavaScript's numbers end at 2^53.
type ID int64

func (id ID) String() string { return strconv.FormatInt(int64(id), 10) }

// MarshalText and UnmarshalText make it a string in JSON, in URLs and as the key of a map.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText is strict: decimal digits alone.
func (id *ID) UnmarshalText(text []byte) error {
	n, err := strconv.ParseInt(string(text), 10, 64)
	*id = ID(n)
	return err
}

// Count is a number that is counted up to a limit, and no further; or, of running jobs that are many, estimated.
type Count struct {
	N     int64 `json:"n"`
	More  bool  `json:"more"`            // there are more than N
	About bool  `json:"about,omitempty"` // N is an estimate
}

// Actor is who changes something, and from where: for the audit.
type Actor struct {
	Name   string // as authenticated; "anonymous" without authentication
	Source string // ui, api or cli
	From   string // address, or user@host
}

// JobFilter chooses jobs. Empty fields do not filter.
type JobFilter struct {
	State       string     `json:"state,omitempty"` // scheduled waiting parked paused running failed; or, of history: succeeded cancelled removed completed
	Task        string     `json:"task,omitempty"`
	Queue       string     `json:"queue,omitempty"`
	Key         string     `json:"key,omitempty"`
	Flag        string     `json:"flag,omitempty"`
	Worker      string     `json:"worker,omitempty"`      // worker-7
	Error       string     `json:"error,omitempty"`       // a part of the last error's text, in any case
	Fingerprint string     `json:"fingerprint,omitempty"` // of the last error
	AddedAfter  *time.Time `json:"added_after,omitempty"`
	AddedBefore *time.Time `json:"added_before,omitempty"`
	PayloadPath string     `json:"payload_path,omitempty"`  // user.id
	PayloadIs   string     `json:"payload_value,omitempty"` // compared as text
}

// JobRow is a job in a list.
type JobRow struct {
	ID          ID         `json:"id"`
	State       string     `json:"state"` // or, when it has ended, its outcome
	Task        string     `json:"task"`
	Queue       *string    `json:"queue"`
	Key         *string    `json:"key"`
	Priority    int        `json:"priority"`
	Attempt     int        `json:"attempt"`
	MaxAttempts int        `json:"max_attempts"`
	RunAt       time.Time  `json:"run_at"`
	AddedAt     time.Time  `json:"added_at"`
	StartedAt   *time.Time `json:"started_at"`
	EndedAt     *time.Time `json:"ended_at"`
	Worker      *string    `json:"worker"`
	Progress    *float32   `json:"progress"` // percent, while it runs
	Error       *string    `json:"error"`    // the first 300 characters of the last one
}

// JobPage is a piece of a list. Cursors are opaque; "" means that there is nothing.
type JobPage struct {
	Jobs   []JobRow `json:"jobs"`
	Older  string   `json:"older"`  // cursor of the next page
	Newer  string   `json:"newer"`  // cursor of the page before
	Looked string   `json:"looked"` // how far a filter has looked, in words, when it did not come to the end: show it
}

// Blocker says why a job is not running, or what it is doing.
type Blocker struct {
	Kind    string     `json:"kind"`    // see explain() in SQL
	Because string     `json:"because"` // in a sentence
	Since   *time.Time `json:"since"`
	Until   *time.Time `json:"until"`
	Remedy  string     `json:"remedy"` // what to do; "" for nothing
}

// Attempt is one that has ended, or another entry of the job's history.
type Attempt struct {
	Outcome   string     `json:"outcome"`
	Attempt   int        `json:"attempt"`
	Worker    *string    `json:"worker"`
	RunAt     time.Time  `json:"run_at"`
	StartedAt *time.Time `json:"started_at"`
	EndedAt   time.Time  `json:"ended_at"`
	Error     *string    `json:"error"` // whole, with its stack
}

// Job is all that is known of one.
type Job struct {
	JobRow
	Revision    int             `json:"revision"` // counts edits, and replacements under its key: see Edit
	Flags       []string        `json:"flags"`
	Crashes     int             `json:"crashes"`
	Message     *string         `json:"message"` // of its progress
	Traceparent *string         `json:"traceparent"`
	Payload     json.RawMessage `json:"payload"`
	Result      json.RawMessage `json:"result"`
	LastError   *string         `json:"last_error"`
	Fingerprint *string         `json:"fingerprint"` // of a failed job's last error: its group, see ErrorGroup
	Why         Blocker         `json:"why"`
	Attempts    []Attempt       `json:"attempts"` // oldest first
	Log         []LogLine       `json:"log"`      // the first thousand lines
	Related     []JobRow        `json:"related"`  // of the same key or queue, at most ten
	Ended       bool            `json:"ended"`    // it is in history only
}

// LogLine is a line of a job's log.
type LogLine struct {
	At      time.Time       `json:"at"`
	Attempt int             `json:"attempt"`
	Claim   ID              `json:"claim"`
	N       int             `json:"n"`
	Level   string          `json:"level"`
	Message string          `json:"message"`
	Attrs   json.RawMessage `json:"attrs"`
}

// Action is what is done to many jobs: retry, cancel, delete or reschedule.
type Action struct {
	Do     string     `json:"action"`
	IDs    []ID       `json:"ids,omitempty"`    // these,
	Filter *JobFilter `json:"filter,omitempty"` // or all that match; one of the two
	RunAt  *time.Time `json:"run_at,omitempty"` // reschedule: null is now
	Reason string     `json:"reason,omitempty"` // cancel
}

// Bulk is an action under way: its progress row.
type Bulk struct {
	ID        ID         `json:"id"`
	Do        string     `json:"action"`
	State     string     `json:"state"` // running, done or failed
	Matched   Count      `json:"matched"`
	Done      int64      `json:"done"`
	LeftOut   int64      `json:"left_out"` // running, or gone meanwhile
	StartedAt time.Time  `json:"started_at"`
	EndedAt   *time.Time `json:"ended_at"`
	By        string     `json:"by"`
	Error     *string    `json:"error"`
}

// Problem is what an operator should look at.
type Problem struct {
	Kind     string     `json:"kind"`
	Severity string     `json:"severity"` // critical or warning
	Subject  string     `json:"subject"`  // a task, queue, schedule, worker, session; "" for the system
	Text     string     `json:"text"`     // in a sentence
	Since    *time.Time `json:"since"`
	Remedy   string     `json:"remedy"`
	Page     string     `json:"page"` // tasks, queues, schedules, workers, jobs, errors; where to look
}

// ErrorGroup is all failures of a task with the same fingerprint.
type ErrorGroup struct {
	Fingerprint string    `json:"fingerprint"`
	Task        string    `json:"task"`
	Class       string    `json:"class"`   // TypeError, exit status 3; "" unknown
	Message     string    `json:"message"` // normalised: what differs from job to job is <…>
	Sample      string    `json:"sample"`  // the error of the last job: its first 300 characters, or the line of it that tells
	FirstSeen   time.Time `json:"first_seen"`
	LastSeen    time.Time `json:"last_seen"`
	Hour        Count     `json:"hour"`
	Day         Count     `json:"day"`
	Week        Count     `json:"week"`
	Failed      Count     `json:"failed"` // jobs that are there, failed for good, with this as their last error
	LastJob     ID        `json:"last_job"`
}

// AuditEntry is one change.
type AuditEntry struct {
	ID     ID              `json:"id"`
	At     time.Time       `json:"at"`
	Who    string          `json:"who"`
	Source string          `json:"source"` // ui, api, cli, sql
	From   string          `json:"from"`
	Action string          `json:"action"`
	Target string          `json:"target"` // job 7; 5000 jobs; queue x; task y
	IDs    []ID            `json:"ids"`    // the first hundred
	Count  int64           `json:"count"`
	Before json.RawMessage `json:"before"`
	After  json.RawMessage `json:"after"`
	Reason *string         `json:"reason"`
}

// Edit is a job as somebody wants it; nil leaves a value.
type Edit struct {
	Payload     json.RawMessage `json:"payload,omitempty"`
	RunAt       *time.Time      `json:"run_at,omitempty"`
	Priority    *int            `json:"priority,omitempty"`
	MaxAttempts *int            `json:"max_attempts,omitempty"`
	Revision    *int            `json:"revision,omitempty"` // refuse the edit if the job has changed since
}
