package offstage

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"
)

// Status is what is known of a job. Either State is set, while it lives, or Outcome, when it has ended; a failed job
// has both, because it may be retried.
type Status struct {
	State     State
	Outcome   Outcome
	Attempt   int
	Progress  *float32 // percent
	Message   string
	Result    json.RawMessage
	Error     string
	RunAt     time.Time
	SettledAt time.Time
}

// Status answers where a job is, or how it ended. ErrNotFound: it is unknown, or ended without leaving a trace in
// history (see Keep).
func (c *Client) Status(ctx context.Context, id int64) (Status, error) {
	var s Status
	found := false
	err := c.each(ctx, "status", `select state, outcome, attempt, progress, message, result::text, error, run_at, settled_at from offstage.job_status($1::bigint)`,
		[]any{id}, func(r rows) error {
			var state, outcome, message, result, text *string
			var at *time.Time
			found = true
			if err := r.Scan(&state, &outcome, &s.Attempt, &s.Progress, &message, &result, &text, &s.RunAt, &at); err != nil {
				return err
			}
			s.State, s.Outcome, s.Message, s.Error = State(or(state)), Outcome(or(outcome)), or(message), or(text)
			if result != nil {
				s.Result = json.RawMessage(*result)
			}
			if at != nil {
				s.SettledAt = *at
			}
			return nil
		})
	if err == nil && !found {
		return s, fmt.Errorf("job %d: %w", id, ErrNotFound)
	}
	return s, err
}

func or(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// Filter chooses jobs. The zero value is all of them.
type Filter struct {
	State State
	Task  string
	Queue string
	Key   string
	After int64 // ids above it: for the next page
	Limit int   // default 100, at most 10000
}

// List answers jobs that have not ended, by id. Payloads are not among what it answers; Get has them.
func (c *Client) List(ctx context.Context, f Filter) ([]Job, error) {
	if f.Limit <= 0 {
		f.Limit = 100
	}
	return c.jobs(ctx, "list", `
		select j.id, j.task_identifier, j.queue_name, j.key, null::text, j.priority, j.run_at, j.created_at, j.attempts, j.max_attempts, j.flags::text, j.last_error, j.state
		from offstage.jobs j
		where j.id > $1::bigint and ($2::text = '' or j.state = $2::text) and ($3::text = '' or j.task_identifier = $3::text)
		  and ($4::text = '' or j.queue_name = $4::text) and ($5::text = '' or j.key = $5::text)
		order by j.id limit $6::int`, f.After, string(f.State), f.Task, f.Queue, f.Key, min(f.Limit, 10000))
}

// Get answers one job that has not ended, with its payload. ErrNotFound: use Status for jobs that have ended.
func (c *Client) Get(ctx context.Context, id int64) (Job, error) {
	list, err := c.jobs(ctx, "get", `
		select j.id, j.task_identifier, j.queue_name, j.key, offstage.job_payload(j.id)::text, j.priority, j.run_at, j.created_at, j.attempts, j.max_attempts, j.flags::text, j.last_error, j.state
		from offstage.jobs j where j.id = $1::bigint`, id)
	if err == nil && len(list) == 0 {
		return Job{}, fmt.Errorf("job %d: %w", id, ErrNotFound)
	}
	if err != nil {
		return Job{}, err
	}
	return list[0], nil
}

func (c *Client) jobs(ctx context.Context, what, sql string, args ...any) (list []Job, err error) {
	err = c.each(ctx, what, sql, args, func(r rows) error {
		var j Job
		var queue, key, payload, flags, last *string
		var state string
		if err := r.Scan(&j.ID, &j.Task, &queue, &key, &payload, &j.Priority, &j.RunAt, &j.AddedAt, &j.Attempt, &j.MaxAttempts, &flags, &last, &state); err != nil {
			return err
		}
		j.State, j.Queue, j.HasQueue, j.Key, j.LastError = State(state), or(queue), queue != nil, or(key), or(last)
		if payload != nil {
			j.Payload = json.RawMessage(*payload)
		}
		if flags != nil {
			var set map[string]bool
			if err := json.Unmarshal([]byte(*flags), &set); err != nil {
				return err
			}
			j.Flags = slices.Sorted(maps.Keys(set))
		}
		list = append(list, j)
		return nil
	})
	return list, err
}

// Explain says in a sentence why a job is where it is.
func (c *Client) Explain(ctx context.Context, id int64) (text string, err error) {
	err = c.each(ctx, "explain", `select offstage.explain($1::bigint)`, []any{id}, func(r rows) error { return r.Scan(&text) })
	return text, err
}

// Cancel cancels jobs. Waiting ones end at once; running ones have their context cancelled, and end as cancelled when
// their handler returns an error. Failed and unknown ones are left. It answers what was cancelled and what was asked to stop.
func (c *Client) Cancel(ctx context.Context, reason string, ids ...int64) (cancelled, requested []int64, err error) {
	var why any
	if reason != "" {
		why = reason
	}
	err = c.each(ctx, "cancel", `select job_id, answer from offstage.cancel_jobs($1::text::bigint[], $2::text)`,
		[]any{"{" + idArray(ids) + "}", why}, func(r rows) error {
			var id int64
			var answer string
			if err := r.Scan(&id, &answer); err != nil {
				return err
			}
			if answer == "cancelled" {
				cancelled = append(cancelled, id)
			} else {
				requested = append(requested, id)
			}
			return nil
		})
	return cancelled, requested, err
}

// Retry tries failed jobs again from their first attempt, and waiting ones now. It answers which; running ones are left.
func (c *Client) Retry(ctx context.Context, ids ...int64) ([]int64, error) {
	return c.act(ctx, "retry", `select id from offstage.retry_jobs($1::text::bigint[])`, ids)
}

// Delete removes jobs that are not running, and answers which.
func (c *Client) Delete(ctx context.Context, ids ...int64) ([]int64, error) {
	return c.act(ctx, "delete", `select * from offstage.delete_jobs($1::text::bigint[])`, ids)
}

func (c *Client) act(ctx context.Context, what, sql string, ids []int64) (done []int64, err error) {
	err = c.each(ctx, what, sql, []any{"{" + idArray(ids) + "}"}, func(r rows) error {
		var id int64
		err := r.Scan(&id)
		done = append(done, id)
		return err
	})
	return done, err
}

// ConfigureQueue sets how many jobs of a queue run at a time, over all workers. Default: 1.
func (c *Client) ConfigureQueue(ctx context.Context, queue string, concurrency int) error {
	return c.each(ctx, "configure queue", `select offstage.configure_queue($1::text, $2::int)`, []any{queue, concurrency}, discard)
}

// PauseQueue and ResumeQueue stop a queue and let it go on. Running jobs finish.
func (c *Client) PauseQueue(ctx context.Context, queue string) error {
	return c.each(ctx, "pause queue", `select offstage.pause_queue($1::text)`, []any{queue}, discard)
}

// ResumeQueue lets a paused queue go on.
func (c *Client) ResumeQueue(ctx context.Context, queue string) error {
	return c.each(ctx, "resume queue", `select offstage.resume_queue($1::text)`, []any{queue}, discard)
}

// PauseTask stops a task: its jobs are not claimed. Running ones finish.
func (c *Client) PauseTask(ctx context.Context, task string) error {
	return c.each(ctx, "pause task", `select offstage.pause_task($1::text)`, []any{task}, discard)
}

// ResumeTask lets a paused task go on.
func (c *Client) ResumeTask(ctx context.Context, task string) error {
	return c.each(ctx, "resume task", `select offstage.resume_task($1::text)`, []any{task}, discard)
}

func discard(r rows) error { return nil }
