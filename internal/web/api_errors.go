package web

import (
	"context"
	"errors"
	"net/http"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/internal/view"
	"github.com/offstage-dev/offstage/internal/web/guard"
)

// errorList is what an answer with error groups is.
type errorList struct {
	Groups []view.ErrorGroup `json:"groups"`
}

func (a *api) errorOperations() {
	register(a, op{id: "list-errors", tag: "errors", method: http.MethodGet, path: "/errors", role: guard.Viewer, summary: "List groups of errors",
		about: "Failures of one task whose errors differ only in numbers, ids and the like are one group. Those seen last come first. " +
			"To retry or delete the jobs of a group, POST /bulk with its fingerprint as filter."},
		func(ctx context.Context, in *struct {
			Task  string `query:"task" maxLength:"1000" doc:"Of this task only."`
			Limit int    `query:"limit" minimum:"1" maximum:"500" default:"50"`
		}) (*body[errorList], error) {
			list, err := a.db.ErrorGroups(ctx, in.Task, in.Limit)
			return answerOf(errorList{filled(list)}, err)
		})
	register(a, op{id: "get-error", tag: "errors", method: http.MethodGet, path: "/errors/{fingerprint}", role: guard.Viewer, summary: "Get a group of errors",
		about: "GET /jobs?fingerprint=… lists its jobs."},
		func(ctx context.Context, in *struct {
			Fingerprint string `path:"fingerprint" maxLength:"200"`
		}) (*body[view.ErrorGroup], error) {
			g, err := a.db.ErrorGroup(ctx, in.Fingerprint)
			if errors.Is(err, offstage.ErrNotFound) {
				return nil, notThere("There is no group of errors with this fingerprint any more. GET /api/v1/errors lists them.")
			}
			return answerOf(g, err)
		})
}
