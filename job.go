// Package offstage adds background jobs to PostgreSQL, in the transaction that made them necessary, and follows
// what becomes of them. A program that only adds jobs links pgx and nothing of the worker; package worker runs them.
package offstage

import (
	"encoding/json"
	"time"
)

// Version of this module.
const Version = "0.1.0"

// State is where a job is now.
type State string

// The states of a job.
const (
	Scheduled State = "scheduled" // its time has not come
	Waiting   State = "waiting"   // it has a ticket: the next worker with a free slot takes it
	Parked    State = "parked"    // its queue is busy
	Paused    State = "paused"    // its queue or task is paused
	Running   State = "running"   // a worker has claimed it
	Failed    State = "failed"    // out of attempts, failed for good, or set aside; may be retried by hand
)

// Outcome is how a job, or one attempt of it, ended.
type Outcome string

// The outcomes. The first five end the job, the others one attempt of it.
const (
	OutcomeSucceeded Outcome = "succeeded"
	OutcomeFailed    Outcome = "failed"
	OutcomeCancelled Outcome = "cancelled"
	OutcomeRemoved   Outcome = "removed"   // by remove_job
	OutcomeCompleted Outcome = "completed" // by complete_jobs

	OutcomeRetried  Outcome = "retried"
	OutcomeSnoozed  Outcome = "snoozed"
	OutcomeReleased Outcome = "released" // given back without spending an attempt
	OutcomeRescued  Outcome = "rescued"  // its worker died
	OutcomeRefused  Outcome = "refused"  // settled by a worker that had lost the claim; the result was not taken
)

// Job is a job as its handler, and whoever lists jobs, sees it.
type Job struct {
	ID          int64
	Task        string
	Queue       string // "" if none; see HasQueue
	HasQueue    bool
	Key         string // job_key, "" if none
	Payload     json.RawMessage
	Priority    int
	RunAt       time.Time
	AddedAt     time.Time
	Attempt     int // the attempt that runs, or the last one that did; counted from 1
	MaxAttempts int
	Flags       []string
	LastError   string // of the attempt before
	State       State
	Traceparent string
}
