package web

import (
	"context"
	"net/http"
	"net/url"
	"time"

	"github.com/offstage-dev/offstage/internal/view"
	"github.com/offstage-dev/offstage/internal/web/guard"
)

// WindowQuery is how far statistics go back.
type WindowQuery struct {
	Window string `query:"window" enum:"1h,24h,7d" default:"1h" doc:"How far the statistics go back."`
}

// overview is how the installation does.
type overview struct {
	Waiting    view.Count      `json:"waiting"`
	Scheduled  view.Count      `json:"scheduled"`
	Parked     view.Count      `json:"parked"`
	Running    view.Count      `json:"running"`
	Failed     view.Count      `json:"failed"`
	Oldest     *time.Time      `json:"oldest" doc:"Since when the job that has waited for longest is due; null: none waits."`
	Workers    int             `json:"workers" doc:"That are alive."`
	Slots      int             `json:"slots" doc:"Of all of them: how many jobs they can run at a time."`
	Statistics statistics      `json:"statistics"`
	Tasks      []view.TaskRate `json:"tasks" doc:"In which attempts failed, the most first."`
	Problems   []view.Problem  `json:"problems"`
}

// statistics are what ended, and how long it took.
type statistics struct {
	Window      string       `json:"window"`
	StepSeconds int64        `json:"step_seconds" doc:"How long a step of points is."`
	Points      []view.Point `json:"points" doc:"Oldest first, without gaps; the last step is not over."`
	Wait        quantiles    `json:"wait" doc:"From being due to being started, in seconds."`
	Run         quantiles    `json:"run" doc:"From being started to its end, in seconds."`
}

// quantiles are of a histogram whose buckets double; null: nothing was counted.
type quantiles struct {
	P50 *float64 `json:"p50"`
	P95 *float64 `json:"p95"`
	P99 *float64 `json:"p99"`
}

func quantilesOf(h view.Histogram) quantiles {
	return quantiles{h.Quantile(0.5), h.Quantile(0.95), h.Quantile(0.99)}
}

func statisticsOf(s view.Statistics) statistics {
	return statistics{s.Window, int64(s.Step / time.Second), filled(s.Points), quantilesOf(s.Waits), quantilesOf(s.Runs)}
}

type problemList struct {
	Problems []view.Problem `json:"problems"`
}

type depth struct {
	Depth int `json:"depth" maximum:"10000"`
}

// shared reads a topic of the pages: once a second at most, however many ask. So programs that look often cost what one of them
// does, and nothing where somebody looks at the page. What a request has just changed is read anew: see live.forget.
func shared[T any](ctx context.Context, a *api, topic string, args ...string) (T, error) {
	values := url.Values{}
	for i := 0; i < len(args); i += 2 {
		if args[i+1] != "" {
			values.Set(args[i], args[i+1])
		}
	}
	return read[T](ctx, a.Server, topic, values)
}

func (a *api) overviewOperations() {
	a.live.register("depth", func(ctx context.Context, args url.Values) (any, error) {
		return a.db.Depth(ctx, args.Get("task"), args.Get("queue"))
	})
	register(a, op{id: "get-overview", tag: "overview", method: http.MethodGet, path: "/overview", role: guard.Viewer, summary: "See how the installation does"},
		func(ctx context.Context, in *WindowQuery) (*body[overview], error) {
			o, err := shared[view.Overview](ctx, a, "overview", "window", in.Window)
			return answerOf(overview{
				o.Waiting, o.Scheduled, o.Parked, o.Running, o.Failed, o.Oldest, o.Workers, o.Slots, statisticsOf(o.Statistics), filled(o.Tasks), filled(o.Problems),
			}, err)
		})
	register(a, op{id: "list-problems", tag: "overview", method: http.MethodGet, path: "/problems", role: guard.Viewer, summary: "List what an operator should look at"},
		func(ctx context.Context, in *struct{}) (*body[problemList], error) {
			list, err := shared[[]view.Problem](ctx, a, "problems")
			return answerOf(problemList{filled(list)}, err)
		})
	register(a, op{id: "get-depth", tag: "overview", method: http.MethodGet, path: "/depth", role: guard.Viewer, summary: "Count the jobs that wait for a worker",
		about: "For autoscalers: up to 10,000, without those whose time or turn has not come, and those of paused tasks and queues."},
		func(ctx context.Context, in *struct {
			Task  string `query:"task" maxLength:"1000" doc:"Of this task only."`
			Queue string `query:"queue" maxLength:"1000" doc:"Of this queue only."`
		}) (*body[depth], error) {
			n, err := shared[int](ctx, a, "depth", "task", in.Task, "queue", in.Queue)
			return answerOf(depth{n}, err)
		})
}
