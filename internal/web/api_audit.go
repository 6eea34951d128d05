package web

import (
	"context"
	"net/http"
	"strconv"

	"github.com/offstage-dev/offstage/internal/view"
	"github.com/offstage-dev/offstage/internal/web/guard"
)

// auditList is a piece of the audit.
type auditList struct {
	Entries []view.AuditEntry `json:"entries"`
	Older   string            `json:"older" doc:"The cursor of the next page; empty: there is none."`
}

func (a *api) auditOperations() {
	register(a, op{id: "list-audit", tag: "audit", method: http.MethodGet, path: "/audit", role: guard.Viewer, summary: "List who changed what", about: "Newest first."},
		func(ctx context.Context, in *struct {
			Who    string `query:"who" maxLength:"1000" doc:"By this one only."`
			Action string `query:"action" maxLength:"1000" doc:"Of this kind only." example:"pause"`
			Target string `query:"target" maxLength:"1000" doc:"Of this only." example:"queue mail"`
			PageQuery
		}) (*body[auditList], error) {
			if n, err := strconv.ParseInt(in.Cursor, 10, 64); in.Cursor != "" && (err != nil || n < 1) {
				return nil, refused("query.cursor", "is not of this list: begin at the first page")
			}
			list, older, err := a.db.Audit(ctx, view.AuditFilter{Who: in.Who, Action: in.Action, Target: in.Target}, in.Cursor, in.Limit)
			for i := range list {
				e := &list[i]
				e.Before, e.After, e.IDs = a.encodable(a.guard.RedactWithin(e.Before)), a.encodable(a.guard.RedactWithin(e.After)), filled(e.IDs)
			}
			return answerOf(auditList{filled(list), older}, err)
		})
}
