package web

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"

	"github.com/offstage-dev/offstage/internal/view"
	"github.com/offstage-dev/offstage/internal/web/guard"
)

// OneName is the path of a task, queue or schedule.
type OneName struct {
	Name string `path:"name" maxLength:"1000" doc:"Percent-encoded, / too. In front of a name that is . or .. or begins with ~, write ~." example:"send_email"`
}

func (in OneName) name() string { return strings.TrimPrefix(in.Name, "~") }

// TaskFacts are what is said of a task wherever it is shown.
type TaskFacts struct {
	Name        string          `json:"name"`
	Paused      bool            `json:"paused"`
	MaxAttempts *int            `json:"max_attempts" doc:"null: 25."`
	Retry       json.RawMessage `json:"retry" doc:"The delays between attempts; null: those of Graphile Worker."`
	Timeout     *string         `json:"timeout" doc:"Of an attempt."`
	Keep        string          `json:"keep" doc:"What history keeps: all, failures or none."`
	Workers     int             `json:"workers" doc:"That run it."`
	Waiting     view.Count      `json:"waiting"`
}

func taskOf(t view.Task) TaskFacts {
	return TaskFacts{t.Name, t.Paused, t.MaxAttempts, t.Retry, t.Timeout, t.Keep, t.Workers, t.Waiting}
}

// taskRow is a task in the list.
type taskRow struct {
	TaskFacts
	Hour hour      `json:"hour" doc:"What ended in the last 60 minutes."`
	Wait quantiles `json:"wait" doc:"Of this hour and the one before, in seconds."`
	Run  quantiles `json:"run" doc:"Of this hour and the one before, in seconds."`
}

// hour is what ended in an hour.
type hour struct {
	Succeeded int64 `json:"succeeded"`
	Retried   int64 `json:"retried" doc:"Attempts that failed, or whose worker died, and are tried again."`
	Failed    int64 `json:"failed" doc:"Jobs that failed for good."`
	Other     int64 `json:"other" doc:"Cancelled, removed, completed, snoozed, released."`
}

type taskList struct {
	Tasks []taskRow `json:"tasks"`
}

// taskDetail is all about one task.
type taskDetail struct {
	TaskFacts
	On         []view.TaskWorker `json:"on" doc:"The workers that have it."`
	Statistics statistics        `json:"statistics"`
}

// apiTaskSettings are what can be changed of a task.
type apiTaskSettings struct {
	MaxAttempts setting `json:"max_attempts,omitempty" doc:"How often a job is tried; null: 25."`
	Retry       setting `json:"retry,omitempty" doc:"The delays between attempts, such as {\"policy\": \"fixed\", \"delay\": \"10 s\"}; null: those of Graphile Worker."`
	Timeout     setting `json:"timeout,omitempty" doc:"Of an attempt, such as \"30 s\"; null: none."`
	Keep        setting `json:"keep,omitempty" doc:"What history keeps: all, failures or none; null: all."`
}

// setting is JSON, and null means the default: it has to be told from what is left out.
type setting = json.RawMessage

func (s apiTaskSettings) encode() (json.RawMessage, error) {
	all := map[string]json.RawMessage{}
	for name, value := range map[string]json.RawMessage{"max_attempts": s.MaxAttempts, "retry": s.Retry, "timeout": s.Timeout, "keep": s.Keep} {
		if value != nil {
			all[name] = value
		}
	}
	if len(all) == 0 {
		return nil, refused("body", "names nothing to change: max_attempts, retry, timeout or keep")
	}
	return json.Marshal(all)
}

func (a *api) taskOperations() {
	register(a, op{id: "list-tasks", tag: "tasks", method: http.MethodGet, path: "/tasks", role: guard.Viewer, summary: "List tasks", about: "The first 500, by name."},
		func(ctx context.Context, in *struct{}) (*body[taskList], error) {
			list, err := shared[[]view.Task](ctx, a, "tasks")
			out := taskList{[]taskRow{}}
			for _, t := range list {
				h := hour{t.Hour.Succeeded, t.Hour.Retried, t.Hour.Failed, t.Hour.Other}
				out.Tasks = append(out.Tasks, taskRow{taskOf(t), h, quantilesOf(t.Waits), quantilesOf(t.Runs)})
			}
			return answerOf(out, err)
		})
	register(a, op{id: "get-task", tag: "tasks", method: http.MethodGet, path: "/tasks/{name}", role: guard.Viewer, summary: "Get a task"},
		func(ctx context.Context, in *struct {
			OneName
			WindowQuery
		}) (*body[taskDetail], error) {
			t, err := shared[view.TaskDetail](ctx, a, "task", "name", in.name(), "window", in.Window)
			return answerOf(taskDetail{taskOf(t.Task), filled(t.On), statisticsOf(t.Statistics)}, err)
		})
	register(a, op{id: "pause-task", tag: "tasks", method: http.MethodPost, path: "/tasks/{name}/pause", role: guard.Operator, summary: "Pause a task",
		about: "Its jobs are not started any more; those that run finish."},
		func(ctx context.Context, in *OneName) (*body[TaskFacts], error) {
			if err := a.db.PauseTask(ctx, by(ctx), in.name()); err != nil {
				return nil, err
			}
			return a.taskNow(ctx, in.name())
		})
	register(a, op{id: "resume-task", tag: "tasks", method: http.MethodPost, path: "/tasks/{name}/resume", role: guard.Operator, summary: "Resume a task"},
		func(ctx context.Context, in *OneName) (*body[TaskFacts], error) {
			if err := a.db.ResumeTask(ctx, by(ctx), in.name()); err != nil {
				return nil, err
			}
			return a.taskNow(ctx, in.name())
		})
	register(a, op{id: "configure-task", tag: "tasks", method: http.MethodPatch, path: "/tasks/{name}", role: guard.Admin, summary: "Change the settings of a task",
		about: "What is left out stays. A program that states settings in its code sets them again when it starts."},
		func(ctx context.Context, in *struct {
			OneName
			Body apiTaskSettings
		}) (*body[TaskFacts], error) {
			settings, err := in.Body.encode()
			if err != nil {
				return nil, err
			}
			if err := a.db.ConfigureTask(ctx, by(ctx), in.name(), settings); err != nil {
				return nil, err
			}
			return a.taskNow(ctx, in.name())
		})
}

// taskNow is a task that has just been changed.
func (a *api) taskNow(ctx context.Context, name string) (*body[TaskFacts], error) {
	a.live.forget()
	t, err := shared[view.TaskDetail](ctx, a, "task", "name", name, "window", "1h")
	return answerOf(taskOf(t.Task), err)
}
