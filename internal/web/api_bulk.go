package web

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/internal/view"
	"github.com/offstage-dev/offstage/internal/web/guard"
)

// bulkBody is something to be done to many jobs.
type bulkBody struct {
	Do     string          `json:"action" enum:"retry,cancel,delete,reschedule"`
	IDs    []string        `json:"ids,omitempty" minItems:"1" maxItems:"10000" pattern:"^[0-9]{1,19}$" patternDescription:"decimal digits" doc:"These jobs,"`
	Filter *view.JobFilter `json:"filter,omitempty" doc:"or all that match this. One of the two."`
	RunAt  *time.Time      `json:"run_at,omitempty" doc:"Of reschedule; now, if it is left out."`
	Reason string          `json:"reason,omitempty" maxLength:"2000" doc:"Of cancel."`
}

// actable are the states of jobs to which something can be done.
var actable = []string{"scheduled", "waiting", "parked", "paused", "running", "failed"}

func (a *api) action(b bulkBody) (view.Action, error) {
	out := view.Action{Do: b.Do, Filter: b.Filter, RunAt: b.RunAt, Reason: b.Reason}
	switch {
	case (b.IDs == nil) == (b.Filter == nil):
		return out, refused("body", "give ids or filter, one of the two")
	case b.Filter != nil && b.Filter.State != "" && !slices.Contains(actable, b.Filter.State):
		return out, refused("body.filter.state", "is not one of %s: jobs that have ended cannot be acted upon", strings.Join(actable, ", "))
	case b.Filter != nil && *b.Filter == (view.JobFilter{}):
		return out, refused("body.filter", "is empty, and would match all jobs: name at least a state")
	case b.Filter != nil && b.Filter.PayloadIs != "" && b.Filter.PayloadPath == "":
		return out, refused("body.filter.payload_value", "needs payload_path, which says where to look")
	case b.RunAt != nil && b.Do != "reschedule":
		return out, refused("body.run_at", "is for the action reschedule")
	case b.Reason != "" && b.Do != "cancel":
		return out, refused("body.reason", "is for the action cancel")
	}
	if b.Filter != nil {
		if err := a.searchable("body.filter.payload_path", *b.Filter); err != nil {
			return out, err
		}
	}
	for i, text := range b.IDs {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return out, refused(fmt.Sprintf("body.ids[%d]", i), "no job has this id: they end at 9223372036854775807")
		}
		out.IDs = append(out.IDs, view.ID(n))
	}
	return out, nil
}

// bulkAnswer is how many there are, or the action under way.
type bulkAnswer struct {
	Status   int
	Location string `header:"Location" doc:"Where the progress of the action is."`
	Body     bulkStarted
}

type bulkStarted struct {
	DryRun  bool       `json:"dry_run"`
	Matched view.Count `json:"matched" doc:"How many jobs it is about; counted up to a limit."`
	Bulk    *view.Bulk `json:"bulk,omitempty" doc:"The action under way; not of a dry run."`
}

func (a *api) bulkOperations() {
	register(a, op{id: "start-bulk", tag: "bulk", method: http.MethodPost, path: "/bulk", role: guard.Operator, status: http.StatusAccepted, also: http.StatusOK, body: a.maxBody(), summary: "Do something to many jobs",
		about: "With dry_run=true nothing is done: the answer (200) says how many jobs it is about. Otherwise (202) the action goes on in the background, in batches; its progress is at Location. " +
			"Jobs that run, or are gone when their turn comes, are left out and counted; cancel asks those that run to stop. With an Idempotency-Key it is started once."},
		func(ctx context.Context, in *struct {
			OnceKey
			DryRun bool `query:"dry_run" doc:"Only say how many."`
			Body   bulkBody
		}) (*bulkAnswer, error) {
			action, err := a.action(in.Body)
			if err != nil {
				return nil, err
			}
			out := &bulkAnswer{Status: http.StatusOK}
			out.Body.DryRun = in.DryRun
			if in.DryRun {
				out.Body.Matched, err = a.db.DryRun(ctx, action)
				return out, err
			}
			b, err := a.db.StartBulk(ctx, by(ctx), action, in.of("bulk "+action.Do))
			if err != nil {
				return nil, err
			}
			out.Status, out.Location = http.StatusAccepted, a.base+"/api/v1/bulk/"+b.ID.String()
			out.Body.Matched, out.Body.Bulk = b.Matched, &b
			return out, nil
		})
	register(a, op{id: "get-bulk", tag: "bulk", method: http.MethodGet, path: "/bulk/{id}", role: guard.Viewer, summary: "Follow an action under way"},
		func(ctx context.Context, in *struct {
			ID string `path:"id" pattern:"^[0-9]{1,100}$" patternDescription:"decimal digits"`
		}) (*body[view.Bulk], error) {
			n, err := strconv.ParseInt(in.ID, 10, 64)
			var b view.Bulk
			if err == nil {
				b, err = a.db.Bulk(ctx, view.ID(n))
			}
			if errors.Is(err, strconv.ErrRange) || errors.Is(err, offstage.ErrNotFound) {
				return nil, notThere("There is no action of this id, or it ended more than 30 days ago.")
			}
			return answerOf(b, err)
		})
}
