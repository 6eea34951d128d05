package offstage

import (
	"context"
	"encoding/json"
	"fmt"
	"time"
)

// Schedule adds a job of a task at each time that a cron expression names. What a job of it gets as payload is Payload,
// with {"_cron": {"ts": "2030-01-31T08:00:00.000Z", "backfilled": false}} in it besides.
type Schedule struct {
	Name string // what it is called; "": as its task
	Task string
	// Expression is five cron fields, six with seconds in front, or a word such as @daily: see docs/schedules.md.
	Expression string
	// TimeZone is the one of the expression, such as "Europe/Berlin". "": UTC.
	TimeZone string
	// Payload encodes to a JSON object. nil: {}.
	Payload any

	Queue       string
	MaxAttempts int // 0: the task's
	Priority    int // lower is more urgent
	Key         string
	KeyMode     KeyMode // Replace or PreserveRunAt

	Jitter      time.Duration // each job is put off by some part of it, the same wherever the tick is added
	From, Until time.Time     // no ticks before and after them; zero: no such bound
	// SkipOverlap leaves a tick out while the job before has not ended: waits, runs, or is to be tried again.
	SkipOverlap bool
	// Catchup says what becomes of ticks that are late by more than a minute: "none", "one" (the latest), "all", or a
	// number (so many of the latest, 1000 at most). "": all those that came while a worker lived; none from before.
	Catchup string
	// Fill is Graphile Worker's: ticks of before a worker lived are made up for, if they are not older. Not with Catchup.
	Fill time.Duration
}

// MarshalJSON is the schedule as an item of sync_schedules: name, task, expression, payload and options.
func (s Schedule) MarshalJSON() ([]byte, error) {
	payload, err := encodePayload(s.Task, s.Payload)
	if err != nil {
		return nil, err
	}
	if s.Name == "" {
		s.Name = s.Task
	}
	options := map[string]any{}
	put := func(key string, value any, given bool) {
		if given {
			options[key] = value
		}
	}
	interval := func(d time.Duration) string { // PostgreSQL 14 takes 2³¹ of a unit at most
		return fmt.Sprintf("%d h %.6f s", int64(d/time.Hour), (d % time.Hour).Seconds())
	}
	put("tz", s.TimeZone, s.TimeZone != "")
	put("queue_name", s.Queue, s.Queue != "")
	put("max_attempts", s.MaxAttempts, s.MaxAttempts != 0)
	put("priority", s.Priority, s.Priority != 0)
	put("job_key", s.Key, s.Key != "")
	put("job_key_mode", s.KeyMode, s.KeyMode != "")
	put("jitter", interval(s.Jitter), s.Jitter != 0)
	put("from", s.From, !s.From.IsZero())
	put("until", s.Until, !s.Until.IsZero())
	put("overlap", "skip", s.SkipOverlap)
	put("catchup", s.Catchup, s.Catchup != "")
	put("fill", interval(s.Fill), s.Fill != 0)
	return json.Marshal(struct {
		Name       string          `json:"name"`
		Task       string          `json:"task"`
		Expression string          `json:"expression"`
		Payload    json.RawMessage `json:"payload,omitempty"`
		Options    map[string]any  `json:"options,omitempty"`
	}{s.Name, s.Task, s.Expression, payload, options})
}

// ScheduleStatus is a schedule, and how it does.
type ScheduleStatus struct {
	Schedule
	Source    string // database, crontab or program
	Paused    bool
	Overdue   bool      // by more than a minute: no worker ticks it
	Next      time.Time // zero: none is to come, or it is not known yet
	LastTick  time.Time // zero: none yet
	LastJob   int64     // 0: none yet
	LastState string    // of that job: its outcome, or its state while it has not ended
	Ticks     int64     // that added a job
	Skipped   int64     // that did not (SkipOverlap)
	Error     string    // why the last tick could not be done; it is tried again
	SeenAt    time.Time // when a worker has last had it in its crontab file or program; zero for the database's
}

// AddSchedule adds a schedule, or changes the one of that name, which keeps its last tick.
func (c *Client) AddSchedule(ctx context.Context, s Schedule) error {
	what := "add schedule"
	b, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return c.each(ctx, what, `
		select offstage.add_schedule(x.i ->> 'name', x.i ->> 'task', x.i ->> 'expression', x.i -> 'payload', x.i -> 'options')
		from (select $1::text::json) x (i)`, []any{string(b)}, discard)
}

// RemoveSchedule removes a schedule. Jobs that it has added stay. ErrNoSchedule: there is none of that name.
func (c *Client) RemoveSchedule(ctx context.Context, name string) error {
	return c.each(ctx, "remove schedule", `select offstage.remove_schedule($1::text)`, []any{name}, discard)
}

// PauseSchedule stops a schedule, wherever it comes from. ErrNoSchedule: there is none of that name.
func (c *Client) PauseSchedule(ctx context.Context, name string) error {
	return c.each(ctx, "pause schedule", `select offstage.pause_schedule($1::text)`, []any{name}, discard)
}

// ResumeSchedule lets a paused schedule go on from now. ErrNoSchedule: there is none of that name.
func (c *Client) ResumeSchedule(ctx context.Context, name string) error {
	return c.each(ctx, "resume schedule", `select offstage.resume_schedule($1::text)`, []any{name}, discard)
}

// RunSchedule adds the job of a schedule now, beside its ticks, and answers its id. ErrNoSchedule: there is none of that name.
func (c *Client) RunSchedule(ctx context.Context, name string) (id int64, err error) {
	err = c.each(ctx, "run schedule", `select offstage.run_schedule($1::text)`, []any{name}, func(r rows) error { return r.Scan(&id) })
	return id, err
}

// Schedules answers all schedules, by name.
func (c *Client) Schedules(ctx context.Context) (list []ScheduleStatus, err error) {
	err = c.each(ctx, "schedules", `
		select s.name, s.task, s.expression, s.time_zone, s.payload::text, coalesce(s.queue_name, ''), coalesce(s.max_attempts, 0)::int, coalesce(s.priority, 0)::int,
		  coalesce(s.job_key, ''), coalesce(s.job_key_mode, ''), extract(epoch from s.jitter)::float8, s.from_at, s.until_at, s.overlap = 'skip',
		  coalesce(s.catchup, ''), coalesce(extract(epoch from s.fill), 0)::float8,
		  s.source, s.paused, s.overdue, s.next_at, s.last_tick, coalesce(s.last_job_id, 0), coalesce(s.last_state, ''), s.ticks, s.skipped, coalesce(s.error, ''), s.seen_at
		from offstage.schedules s order by s.name`, nil, func(r rows) error {
		var s ScheduleStatus
		var payload *string
		var mode string
		var jitter, fill float64
		var from, until, next, last, seen *time.Time
		if err := r.Scan(&s.Name, &s.Task, &s.Expression, &s.TimeZone, &payload, &s.Queue, &s.MaxAttempts, &s.Priority, &s.Key, &mode, &jitter, &from, &until,
			&s.SkipOverlap, &s.Catchup, &fill, &s.Source, &s.Paused, &s.Overdue, &next, &last, &s.LastJob, &s.LastState, &s.Ticks, &s.Skipped, &s.Error, &seen); err != nil {
			return err
		}
		if payload != nil {
			s.Payload = json.RawMessage(*payload)
		}
		s.KeyMode = KeyMode(mode)
		s.Jitter, s.Fill = time.Duration(jitter*float64(time.Second)), time.Duration(fill*float64(time.Second))
		for to, t := range map[*time.Time]*time.Time{&s.From: from, &s.Until: until, &s.Next: next, &s.LastTick: last, &s.SeenAt: seen} {
			if t != nil {
				*to = *t
			}
		}
		list = append(list, s)
		return nil
	})
	return list, err
}
