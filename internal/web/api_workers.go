package web

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/offstage-dev/offstage/internal/view"
	"github.com/offstage-dev/offstage/internal/web/guard"
)

// workerRow is a worker, and what it does.
type workerRow struct {
	ID        int               `json:"id" example:"7"`
	Name      string            `json:"name" example:"worker-7"`
	State     string            `json:"state" enum:"alive,draining,silent,gone"`
	Host      string            `json:"host"`
	PID       int               `json:"pid"`
	Version   string            `json:"version"`
	Slots     int               `json:"slots" doc:"How many jobs it can run at a time."`
	Running   view.Count        `json:"running" doc:"How many it has claimed; about, where those are many."`
	StartedAt time.Time         `json:"started_at"`
	BeatAt    time.Time         `json:"beat_at" doc:"When its last sign of life came."`
	DeadAt    *time.Time        `json:"dead_at"`
	Tasks     []string          `json:"tasks"`
	Unable    []view.UnableTask `json:"unable" doc:"Tasks that it has and cannot perform."`
	Jobs      []view.ClaimedJob `json:"jobs" doc:"What it has claimed, oldest first; ten at most."`
	DeafSince *time.Time        `json:"deaf_since" doc:"Since when notifications do not reach it, so that it starts jobs only when it polls; null: they do."`
	Wanted    string            `json:"wanted" enum:"drain,stop," doc:"What somebody wants of it; empty: that it works. state says draining once it heeds that."`
}

func workerOf(w view.Worker) workerRow {
	return workerRow{
		w.ID, w.Name, w.State, w.Host, w.PID, w.Version, w.Slots, w.Running, w.StartedAt, w.BeatAt, w.DeadAt, filled(w.Tasks), filled(w.Unable), filled(w.Jobs), w.DeafSince, w.Wanted,
	}
}

// oneWorker is the path of a worker.
type oneWorker struct {
	ID int `path:"id" minimum:"1" maximum:"2147483647" doc:"The worker's id: 7 of worker-7." example:"7"`
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
				out.Workers = append(out.Workers, workerOf(w))
			}
			return answerOf(out, err)
		})
	tell := func(verb, summary, about string, do func(context.Context, view.Actor, int) error) {
		register(a, op{id: verb + "-worker", tag: "workers", method: http.MethodPost, path: "/workers/{id}/" + verb, role: guard.Operator, summary: summary, about: about},
			func(ctx context.Context, in *oneWorker) (*body[workerRow], error) {
				if err := do(ctx, by(ctx), in.ID); err != nil {
					return nil, err
				}
				return a.workerNow(ctx, in.ID)
			})
	}
	tell("drain", "Drain a worker", "It takes no more jobs, gives back what it has not started, finishes what runs, and stays until it is resumed. The answer may come before it heeds that.", a.db.DrainWorker)
	tell("resume", "Resume a drained worker", "One that was told to stop cannot be called back (409).", a.db.ResumeWorker)
	tell("stop", "Stop a worker", "What it runs may finish within its grace period, then its process ends. The answer comes before that.", a.db.StopWorker)
}

// workerNow is a worker that has just been told something.
func (a *api) workerNow(ctx context.Context, id int) (*body[workerRow], error) {
	a.live.forget()
	list, err := shared[[]view.Worker](ctx, a, "workers")
	if err != nil {
		return nil, err
	}
	for _, w := range list {
		if w.ID == id {
			return answerOf(workerOf(w), nil)
		}
	}
	return nil, fmt.Errorf("the worker %d is %w: it has just ended", id, view.ErrUnknown)
}
