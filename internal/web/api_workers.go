package web

import (
	"context"
	"net/http"
	"time"

	"github.com/offstage-dev/offstage/internal/view"
	"github.com/offstage-dev/offstage/internal/web/guard"
)

// workerRow is a worker, and what it does.
type workerRow struct {
	Name      string            `json:"name" example:"worker-7"`
	State     string            `json:"state" enum:"alive,draining,silent,gone"`
	Host      string            `json:"host"`
	PID       int               `json:"pid"`
	Version   string            `json:"version"`
	Slots     int               `json:"slots" doc:"How many jobs it can run at a time."`
	Running   int               `json:"running" doc:"How many it has claimed."`
	StartedAt time.Time         `json:"started_at"`
	BeatAt    time.Time         `json:"beat_at" doc:"When its last sign of life came."`
	DeadAt    *time.Time        `json:"dead_at"`
	Tasks     []string          `json:"tasks"`
	Unable    []view.UnableTask `json:"unable" doc:"Tasks that it has and cannot perform."`
	Jobs      []view.ClaimedJob `json:"jobs" doc:"What it has claimed, oldest first; ten at most."`
}

type workerList struct {
	Workers []workerRow `json:"workers"`
}

func (a *api) workerOperations() {
	register(a, op{id: "list-workers", tag: "workers", method: http.MethodGet, path: "/workers", role: guard.Viewer, summary: "List workers",
		about: "Those that live, and those that died within the last hour."},
		func(ctx context.Context, in *struct{}) (*body[workerList], error) {
			list, err := shared[[]view.Worker](ctx, a, "workers")
			out := workerList{[]workerRow{}}
			for _, w := range list {
				out.Workers = append(out.Workers, workerRow{
					w.Name, w.State, w.Host, w.PID, w.Version, w.Slots, w.Running, w.StartedAt, w.BeatAt, w.DeadAt, filled(w.Tasks), filled(w.Unable), filled(w.Jobs),
				})
			}
			return answerOf(out, err)
		})
}
