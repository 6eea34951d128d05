package web

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/internal/cron"
	"github.com/offstage-dev/offstage/internal/view"
	"github.com/offstage-dev/offstage/internal/web/guard"
)

// apiSchedule is a schedule, and how it does.
type apiSchedule struct {
	Name        string          `json:"name"`
	Task        string          `json:"task"`
	Expression  string          `json:"expression"`
	Plain       string          `json:"plain" doc:"The expression in English."`
	TimeZone    string          `json:"time_zone"`
	Payload     json.RawMessage `json:"payload"`
	Queue       *string         `json:"queue"`
	Key         *string         `json:"key"`
	KeyMode     *string         `json:"key_mode"`
	Priority    int             `json:"priority"`
	MaxAttempts *int            `json:"max_attempts" doc:"null: the task's."`
	Jitter      float64         `json:"jitter" doc:"Seconds."`
	From        *time.Time      `json:"from"`
	Until       *time.Time      `json:"until"`
	Overlap     string          `json:"overlap" enum:"allow,skip"`
	Catchup     *string         `json:"catchup"`
	Fill        float64         `json:"fill" doc:"Seconds."`

	Source    string      `json:"source" doc:"Where it is defined: database, crontab or program."`
	Paused    bool        `json:"paused"`
	Overdue   bool        `json:"overdue" doc:"By more than a minute: no worker ticks it."`
	Next      []time.Time `json:"next" doc:"When it will tick, five times at most; none while it is paused."`
	LastTick  *time.Time  `json:"last_tick"`
	LastJob   *view.ID    `json:"last_job"`
	LastState *string     `json:"last_state" doc:"Of that job: its outcome, or its state."`
	Ticks     int64       `json:"ticks" doc:"That added a job."`
	Skipped   int64       `json:"skipped" doc:"That did not, because of overlap skip."`
	Error     *string     `json:"error" doc:"Why the last tick could not be done; it is tried again."`
	SeenAt    *time.Time  `json:"seen_at" doc:"When a worker has last had it in its file or program."`
}

type scheduleList struct {
	Schedules []apiSchedule `json:"schedules"`
}

// scheduleBody is a schedule as somebody wants it.
type scheduleBody struct {
	Task        string          `json:"task" minLength:"1" maxLength:"128"`
	Expression  string          `json:"expression" maxLength:"1000" doc:"Five cron fields, six with seconds in front, or a word such as @daily." example:"0 4 * * *"`
	TimeZone    string          `json:"time_zone,omitempty" maxLength:"100" doc:"UTC, if it is left out." example:"Europe/Berlin"`
	Payload     json.RawMessage `json:"payload,omitempty" doc:"A JSON object."`
	Queue       string          `json:"queue,omitempty" maxLength:"128"`
	Key         string          `json:"key,omitempty" maxLength:"512"`
	KeyMode     string          `json:"key_mode,omitempty" enum:"replace,preserve_run_at"`
	Priority    int             `json:"priority,omitempty" minimum:"-32768" maximum:"32767"`
	MaxAttempts int             `json:"max_attempts,omitempty" minimum:"1" maximum:"32767"`
	Jitter      float64         `json:"jitter,omitempty" minimum:"0" maximum:"31536000" doc:"Seconds by which each job is put off at most."`
	From        *time.Time      `json:"from,omitempty"`
	Until       *time.Time      `json:"until,omitempty"`
	Overlap     string          `json:"overlap,omitempty" enum:"allow,skip" doc:"skip: no tick while the job before has not ended."`
	Catchup     string          `json:"catchup,omitempty" pattern:"^(none|one|all|[0-9]{1,4})$" patternDescription:"none, one, all or a number" doc:"What becomes of ticks that are late."`
	Fill        float64         `json:"fill,omitempty" minimum:"0" maximum:"31536000" doc:"Seconds: ticks of before a worker lived are made up for, if they are not older."`
}

func (b scheduleBody) schedule(name string) (s offstage.Schedule, err error) {
	zone, err := time.LoadLocation(b.TimeZone)
	if err != nil || b.TimeZone == "Local" {
		return s, refused("body.time_zone", "is not a time zone that is known here: write one like Europe/Berlin")
	}
	if _, err := cron.Parse(b.Expression, zone); err != nil {
		return s, refused("body.expression", "%s", err)
	}
	if err := textual(b.Payload); err != nil {
		return s, err
	}
	s = offstage.Schedule{
		Name: name, Task: b.Task, Expression: b.Expression, TimeZone: b.TimeZone, Queue: b.Queue, MaxAttempts: b.MaxAttempts, Priority: b.Priority, Key: b.Key,
		KeyMode: offstage.KeyMode(b.KeyMode), Jitter: seconds64(b.Jitter), SkipOverlap: b.Overlap == "skip", Catchup: b.Catchup, Fill: seconds64(b.Fill),
	}
	if b.Payload != nil {
		s.Payload = b.Payload
	}
	if b.From != nil {
		s.From = *b.From
	}
	if b.Until != nil {
		s.Until = *b.Until
	}
	return s, nil
}

func seconds64(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

func (a *api) scheduleOf(s offstage.ScheduleStatus) apiSchedule {
	out := apiSchedule{
		Name: s.Name, Task: s.Task, Expression: s.Expression, TimeZone: s.TimeZone, Queue: textOrNil(s.Queue), Key: textOrNil(s.Key), KeyMode: textOrNil(string(s.KeyMode)),
		Priority: s.Priority, Jitter: s.Jitter.Seconds(), From: given(s.From), Until: given(s.Until), Overlap: "allow", Catchup: textOrNil(s.Catchup), Fill: s.Fill.Seconds(),
		Source: s.Source, Paused: s.Paused, Overdue: s.Overdue, Next: []time.Time{}, LastTick: given(s.LastTick), LastState: textOrNil(s.LastState), Ticks: s.Ticks,
		Skipped: s.Skipped, Error: textOrNil(s.Error), SeenAt: given(s.SeenAt),
	}
	if raw, ok := s.Payload.(json.RawMessage); ok {
		out.Payload = a.redacted(raw)
	}
	if s.MaxAttempts != 0 {
		out.MaxAttempts = &s.MaxAttempts
	}
	if s.SkipOverlap {
		out.Overlap = "skip"
	}
	if s.LastJob != 0 {
		id := view.ID(s.LastJob)
		out.LastJob = &id
	}
	zone, err := time.LoadLocation(s.TimeZone)
	if err != nil {
		return out
	}
	e, err := cron.Parse(s.Expression, zone)
	if err != nil {
		return out
	}
	out.Plain = e.Describe()
	if s.Paused {
		return out
	}
	at, ok := s.Next, !s.Next.IsZero()
	if !ok {
		at, ok = e.Next(latest(time.Now(), s.From.Add(-time.Nanosecond)))
	}
	for ; ok && len(out.Next) < 5 && (s.Until.IsZero() || !at.After(s.Until)); at, ok = e.Next(at) {
		out.Next = append(out.Next, at.UTC())
	}
	return out
}

func latest(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

type scheduleAnswer = body[apiSchedule]

func (a *api) scheduleOperations() {
	register(a, op{id: "list-schedules", tag: "schedules", method: http.MethodGet, path: "/schedules", role: guard.Viewer, summary: "List schedules"},
		func(ctx context.Context, in *struct{}) (*body[scheduleList], error) {
			list, err := a.db.Schedules(ctx)
			out := scheduleList{[]apiSchedule{}}
			for _, s := range list {
				out.Schedules = append(out.Schedules, a.scheduleOf(s))
			}
			return answerOf(out, err)
		})
	register(a, op{id: "get-schedule", tag: "schedules", method: http.MethodGet, path: "/schedules/{name}", role: guard.Viewer, summary: "Get a schedule"},
		func(ctx context.Context, in *OneName) (*scheduleAnswer, error) { return a.schedule(ctx, in.name()) })
	register(a, op{id: "put-schedule", tag: "schedules", method: http.MethodPut, path: "/schedules/{name}", role: guard.Admin, body: a.maxBody(), summary: "Add or replace a schedule",
		about: "It is kept in the database; one of the same name keeps its last tick."},
		func(ctx context.Context, in *struct {
			OneName
			Body scheduleBody
		}) (*scheduleAnswer, error) {
			s, err := in.Body.schedule(in.name())
			if err != nil {
				return nil, err
			}
			if mayHide(in.Body.Payload) { // what was not shown stays
				now, err := a.db.Schedule(ctx, in.name())
				if err != nil && !errors.Is(err, view.ErrUnknown) {
					return nil, err
				}
				original, _ := now.Payload.(json.RawMessage)
				if s.Payload, err = a.restored(in.Body.Payload, original); err != nil {
					return nil, err
				}
			}
			if err := a.db.AddSchedule(ctx, by(ctx), s); err != nil {
				return nil, err
			}
			return a.schedule(ctx, in.name())
		})
	register(a, op{id: "delete-schedule", tag: "schedules", method: http.MethodDelete, path: "/schedules/{name}", role: guard.Admin, status: http.StatusNoContent, summary: "Remove a schedule",
		about: "Jobs that it has added stay. One that a worker has in its file or program cannot be removed here: pause it."},
		func(ctx context.Context, in *OneName) (*struct{}, error) {
			if err := a.db.RemoveSchedule(ctx, by(ctx), in.name()); err != nil {
				return nil, err
			}
			return &struct{}{}, nil
		})
	register(a, op{id: "pause-schedule", tag: "schedules", method: http.MethodPost, path: "/schedules/{name}/pause", role: guard.Operator, summary: "Pause a schedule"},
		func(ctx context.Context, in *OneName) (*scheduleAnswer, error) {
			if err := a.db.PauseSchedule(ctx, by(ctx), in.name()); err != nil {
				return nil, err
			}
			return a.schedule(ctx, in.name())
		})
	register(a, op{id: "resume-schedule", tag: "schedules", method: http.MethodPost, path: "/schedules/{name}/resume", role: guard.Operator, summary: "Resume a schedule",
		about: "What would have come meanwhile is not made up for."},
		func(ctx context.Context, in *OneName) (*scheduleAnswer, error) {
			if err := a.db.ResumeSchedule(ctx, by(ctx), in.name()); err != nil {
				return nil, err
			}
			return a.schedule(ctx, in.name())
		})
	register(a, op{id: "run-schedule", tag: "schedules", method: http.MethodPost, path: "/schedules/{name}/run", role: guard.Operator, status: http.StatusCreated, summary: "Add the job of a schedule now",
		about: "Beside its ticks, whether it is paused or not. With an Idempotency-Key it is added once."},
		func(ctx context.Context, in *struct {
			OneName
			OnceKey
		}) (*added, error) {
			id, err := a.db.RunSchedule(ctx, by(ctx), in.name(), in.of("run "+in.name()))
			if err != nil {
				return nil, err
			}
			return a.added(id), nil
		})
}

func (a *api) schedule(ctx context.Context, name string) (*scheduleAnswer, error) {
	s, err := a.db.Schedule(ctx, name)
	if err != nil {
		return nil, err
	}
	return answerOf(a.scheduleOf(s), nil)
}
