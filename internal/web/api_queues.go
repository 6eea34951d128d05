package web

import (
	"context"
	"net/http"
	"time"

	"github.com/offstage-dev/offstage/internal/view"
	"github.com/offstage-dev/offstage/internal/web/guard"
)

// QueueFacts are what is said of a queue wherever it is shown.
type QueueFacts struct {
	Name        string     `json:"name"`
	Concurrency int        `json:"concurrency" doc:"How many of its jobs run at a time."`
	Paused      bool       `json:"paused"`
	Running     int        `json:"running" doc:"Jobs that run, or are about to."`
	Waiting     view.Count `json:"waiting" doc:"Their turn has come, and no worker has taken them yet."`
	Parked      view.Count `json:"parked" doc:"Their turn has not come."`
	Oldest      *time.Time `json:"oldest" doc:"Since when the first of them is due; null: none waits."`
}

func queueOf(q view.Queue) QueueFacts {
	return QueueFacts{q.Name, q.Concurrency, q.Paused, q.Running, q.Waiting, q.Parked, q.Oldest}
}

// apiQueueList is a piece of the list.
type apiQueueList struct {
	Queues []QueueFacts `json:"queues"`
	After  string       `json:"after" doc:"The cursor of the next page; empty: there is none."`
}

// queueDetail is all about one queue.
type queueDetail struct {
	QueueFacts
	Statistics *statistics `json:"statistics,omitempty" doc:"Not of queues behind the first 256, which are not counted one by one."`
}

type concurrencyBody struct {
	Concurrency int `json:"concurrency" minimum:"1" maximum:"32767"`
}

func (a *api) queueOperations() {
	register(a, op{id: "list-queues", tag: "queues", method: http.MethodGet, path: "/queues", role: guard.Viewer, summary: "List queues", about: "By name, a hundred at a time."},
		func(ctx context.Context, in *struct {
			Search string `query:"search" maxLength:"1000" doc:"What the name begins with."`
			Busy   bool   `query:"busy" doc:"Only those in which jobs wait for their turn, or which are paused."`
			Cursor string `query:"cursor" maxLength:"1000" doc:"after of the page before."`
		}) (*body[apiQueueList], error) {
			show := ""
			if in.Busy {
				show = "busy"
			}
			page, err := shared[view.QueuePage](ctx, a, "queues", "q", in.Search, "after", in.Cursor, "show", show)
			out := apiQueueList{[]QueueFacts{}, page.More}
			for _, q := range page.Queues {
				out.Queues = append(out.Queues, queueOf(q))
			}
			return answerOf(out, err)
		})
	register(a, op{id: "get-queue", tag: "queues", method: http.MethodGet, path: "/queues/{name}", role: guard.Viewer, summary: "Get a queue"},
		func(ctx context.Context, in *struct {
			OneName
			WindowQuery
		}) (*body[queueDetail], error) {
			q, err := shared[view.QueueDetail](ctx, a, "queue", "name", in.name(), "window", in.Window)
			out := queueDetail{QueueFacts: queueOf(q.Queue)}
			if q.Counted {
				s := statisticsOf(q.Statistics)
				out.Statistics = &s
			}
			return answerOf(out, err)
		})
	register(a, op{id: "pause-queue", tag: "queues", method: http.MethodPost, path: "/queues/{name}/pause", role: guard.Operator, summary: "Pause a queue",
		about: "Its jobs are not started any more; those that run finish."},
		func(ctx context.Context, in *OneName) (*body[QueueFacts], error) {
			if err := a.db.PauseQueue(ctx, by(ctx), in.name()); err != nil {
				return nil, err
			}
			return a.queueNow(ctx, in.name())
		})
	register(a, op{id: "resume-queue", tag: "queues", method: http.MethodPost, path: "/queues/{name}/resume", role: guard.Operator, summary: "Resume a queue"},
		func(ctx context.Context, in *OneName) (*body[QueueFacts], error) {
			if err := a.db.ResumeQueue(ctx, by(ctx), in.name()); err != nil {
				return nil, err
			}
			return a.queueNow(ctx, in.name())
		})
	register(a, op{id: "configure-queue", tag: "queues", method: http.MethodPatch, path: "/queues/{name}", role: guard.Admin, summary: "Set how many jobs of a queue run at a time"},
		func(ctx context.Context, in *struct {
			OneName
			Body concurrencyBody
		}) (*body[QueueFacts], error) {
			if err := a.db.ConfigureQueue(ctx, by(ctx), in.name(), in.Body.Concurrency); err != nil {
				return nil, err
			}
			return a.queueNow(ctx, in.name())
		})
}

// queueNow is a queue that has just been changed.
func (a *api) queueNow(ctx context.Context, name string) (*body[QueueFacts], error) {
	a.live.forget()
	q, err := shared[view.QueueDetail](ctx, a, "queue", "name", name, "window", "1h")
	return answerOf(queueOf(q.Queue), err)
}
