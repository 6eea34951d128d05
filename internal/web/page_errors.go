package web

import (
	"context"
	"net/http"
	"net/url"

	"github.com/offstage-dev/offstage/internal/view"
)

// groupsShown is how many groups the page of errors has.
const groupsShown = 100

func (s *Server) errorsRoutes(mux *http.ServeMux) {
	mux.HandleFunc("GET /errors", s.errorsPage)
	mux.HandleFunc("GET /errors/{fingerprint}", s.errorPage)
	s.live.register("errors", func(ctx context.Context, args url.Values) (any, error) {
		return s.db.ErrorGroups(ctx, args.Get("task"), groupsShown)
	})
	s.live.register("error", s.readError)
}

// errorsData is the page of all groups.
type errorsData struct {
	Groups []view.ErrorGroup
	Task   string
	Full   bool // there may be more
}

func (s *Server) errorsPage(w http.ResponseWriter, r *http.Request) {
	args := url.Values{}
	if task := r.URL.Query().Get("task"); task != "" {
		args.Set("task", task)
	}
	groups, err := read[[]view.ErrorGroup](r.Context(), s, "errors", args)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	s.render(w, r, "errors", page{Title: "Errors", Nav: "errors", Live: liveTopic("errors", args), Data: errorsData{
		Groups: groups, Task: args.Get("task"), Full: len(groups) >= groupsShown,
	}})
}

// errorRead is one group, with its newest jobs.
type errorRead struct {
	Group view.ErrorGroup
	Jobs  []view.JobRow
	Whole string // the newest error with its stack, where it is known
}

func (s *Server) readError(ctx context.Context, args url.Values) (any, error) {
	var got errorRead
	var err error
	fingerprint := args.Get("fingerprint")
	if got.Group, err = s.db.ErrorGroup(ctx, fingerprint); err != nil {
		return nil, err
	}
	page, err := s.db.Jobs(ctx, view.JobFilter{Fingerprint: fingerprint, Task: got.Group.Task, State: "failed"}, "", 20)
	if err != nil {
		return nil, err
	}
	got.Jobs, got.Whole = page.Jobs, got.Group.Sample
	if got.Group.LastJob != 0 {
		if j, err := s.db.Job(ctx, got.Group.LastJob); err == nil { // a sample is enough where it is gone
			for _, a := range j.Attempts {
				if a.Error != nil && a.StartedAt != nil {
					got.Whole = *a.Error
				}
			}
		}
	}
	return got, nil
}

// errorData is the page of one group.
type errorData struct {
	errorRead
	Headline string
	Encoded  string // the filter of its failed jobs
	List     copyText
	Acts     []bulkAct
	JobsURL  string
}

func (s *Server) errorPage(w http.ResponseWriter, r *http.Request) {
	args := url.Values{"fingerprint": {named(r, "fingerprint")}}
	got, err := read[errorRead](r.Context(), s, "error", args)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	f := view.JobFilter{State: "failed", Task: got.Group.Task, Fingerprint: got.Group.Fingerprint}
	data := errorData{
		errorRead: got, Headline: cutText(firstLine(got.Group.Sample), 300), Encoded: filterValues(f).Encode(), List: s.copyAs("", nil, f, nil, ""),
		JobsURL: jobsURL(filterValues(f)),
	}
	data.Whole = cutText(data.Whole, shownError)
	for _, a := range bulkActs {
		if a.Do == "retry" || a.Do == "delete" {
			a.Copy = s.copyAs(a.Do, nil, f, nil, "")
			data.Acts = append(data.Acts, a)
		}
	}
	s.render(w, r, "error", page{Title: "Error in " + got.Group.Task, Nav: "errors", Live: liveTopic("error", args), Data: data})
}
