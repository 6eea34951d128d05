package web

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"

	"github.com/offstage-dev/offstage/internal/view"
)

// auditShown is how many changes a page of the audit has.
const auditShown = 50

func (s *Server) auditRoutes(mux *http.ServeMux) {
	mux.HandleFunc("GET /audit", s.auditPage)
	s.live.register("audit", s.readAudit)
}

type auditRead struct {
	List   []view.AuditEntry
	Older  string
	Looked int64 // changes that were looked at, where a source was searched for and the end was not reached
}

func auditFilter(v url.Values) view.AuditFilter {
	return view.AuditFilter{Who: v.Get("who"), Action: v.Get("action"), Target: v.Get("target")}
}

// readAudit reads a page. Few sources are looked for, and no index serves them: it looks at some thousands of changes at most.
func (s *Server) readAudit(ctx context.Context, args url.Values) (any, error) {
	f, source := auditFilter(args), args.Get("source")
	got := auditRead{Older: args.Get("cursor")}
	if source == "" {
		var err error
		got.List, got.Older, err = s.db.Audit(ctx, f, got.Older, auditShown)
		return got, err
	}
	for range 8 {
		list, older, err := s.db.Audit(ctx, f, got.Older, 500)
		if err != nil {
			return nil, err
		}
		got.Looked += int64(len(list))
		for _, e := range list {
			if e.Source == source {
				got.List = append(got.List, e)
			}
		}
		if got.Older = older; older == "" {
			got.Looked = 0
			break
		}
		if len(got.List) >= auditShown {
			break
		}
	}
	return got, nil
}

// auditData is the page.
type auditData struct {
	Rows    []auditRow
	Filter  view.AuditFilter
	Source  string
	Looked  int64
	Chips   []chip
	Sources []string
	Older   string
	First   string
	Cursor  bool
	List    copyText
}

// auditRow is a change with what it changed.
type auditRow struct {
	view.AuditEntry
	Diff []diffLine
	More int64 // jobs that are not named
}

// One says that the change is of one job.
func (r auditRow) One() bool { return r.Count == 1 && len(r.IDs) == 1 }

func (s *Server) auditPage(w http.ResponseWriter, r *http.Request) {
	args := url.Values{}
	var names []string
	for _, name := range []string{"who", "action", "source", "target"} {
		if text := r.URL.Query().Get(name); text != "" {
			args.Set(name, text)
			names = append(names, name)
		}
	}
	data := auditData{Filter: auditFilter(args), Source: args.Get("source"), Sources: []string{"ui", "api", "cli", "sql"}, First: auditURL(args, "", "")}
	for _, name := range names {
		data.Chips = append(data.Chips, chip{Name: name, Value: args.Get(name), Without: auditURL(args, name, "")})
	}
	if cursor := r.URL.Query().Get("cursor"); cursor != "" {
		if _, err := pathID(cursor, "change"); err != nil {
			s.fail(w, r, err)
			return
		}
		args.Set("cursor", cursor)
		data.Cursor = true
	}
	got, err := read[auditRead](r.Context(), s, "audit", args)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	data.Looked = got.Looked
	if got.Older != "" {
		data.Older = auditURL(args, "", got.Older)
	}
	for _, e := range got.List {
		row := auditRow{AuditEntry: e, More: max(0, e.Count-int64(len(e.IDs)))}
		row.Diff = diffLines(jsonLines(s.guard.RedactWithin(e.Before)), jsonLines(s.guard.RedactWithin(e.After)))
		if changed(row.Diff) == 0 {
			row.Diff = nil
		}
		data.Rows = append(data.Rows, row)
	}
	data.List = s.copyAudit(data.Filter)
	s.render(w, r, "audit", page{Title: "Audit", Nav: "audit", Live: liveTopic("audit", args), Data: data})
}

// copyAudit says how to list the same in SQL and on the command line; those do not choose by source.
func (s *Server) copyAudit(f view.AuditFilter) copyText {
	sql, cli := "", s.cliText("offstage audit")
	for _, p := range [][2]string{{"target", f.Target}, {"who", f.Who}, {"action", f.Action}} {
		if p[1] == "" {
			continue
		}
		if sql != "" {
			sql += ", "
		}
		sql += "of_" + p[0] + " => " + sqlLiteral(p[1])
		cli += " --" + p[0] + " " + shellWord(p[1])
	}
	return copyText{SQL: s.sqlText("select * from offstage.audit(") + sql + ");", CLI: cli}
}

// auditURL is the list without a filter, or from a cursor on.
func auditURL(args url.Values, without, cursor string) string {
	v := url.Values{}
	for name, values := range args {
		if name != without && name != "cursor" {
			v[name] = values
		}
	}
	if cursor != "" {
		v.Set("cursor", cursor)
	}
	if len(v) == 0 {
		return "/audit"
	}
	return "/audit?" + v.Encode()
}

// jsonLines is a value for a difference: none where there is none, its text where it is too deep.
func jsonLines(raw json.RawMessage) []string {
	if raw == nil || string(raw) == "null" {
		return nil
	}
	n, err := parseJSON(raw)
	if err != nil {
		return []string{cutText(string(raw), shownBytes)}
	}
	return n.canonical()
}
