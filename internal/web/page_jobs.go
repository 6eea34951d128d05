package web

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/offstage-dev/offstage/internal/view"
	"github.com/offstage-dev/offstage/internal/web/guard"
)

// jobsShown is how many jobs a page of the list has.
const jobsShown = 50

func (s *Server) jobsRoutes(mux *http.ServeMux) {
	mux.HandleFunc("GET /jobs", s.jobsPage)
	mux.HandleFunc("POST /jobs/bulk", s.bulkAsk)
	mux.HandleFunc("GET /jobs/bulk/{id}", s.bulkPage)
	s.live.register("jobs", s.readJobs)
	s.live.register("counts", s.readCounts)
	s.live.register("bulk", s.readBulk)
}

// jobsRead is what the list of jobs shows of the database.
type jobsRead struct {
	Page   view.JobPage
	Counts map[string]view.Count
}

// readJobs reads a topic of the list: the filter, and the cursor.
func (s *Server) readJobs(ctx context.Context, args url.Values) (any, error) {
	f, err := s.filter(args)
	if err != nil {
		return nil, err
	}
	var got jobsRead
	if got.Page, err = s.db.Jobs(ctx, f, args.Get("cursor"), jobsShown); err != nil {
		return nil, err
	}
	some := maps.Clone(args)
	some.Del("cursor")
	some.Del("state")
	got.Counts, err = read[map[string]view.Count](ctx, s, "counts", some)
	return got, err
}

// readCounts reads how many jobs a filter finds in each state: a topic of its own, the same on all pages of the lists of all states.
func (s *Server) readCounts(ctx context.Context, args url.Values) (any, error) {
	f, err := s.filter(args)
	if err != nil {
		return nil, err
	}
	return s.db.JobCounts(ctx, f)
}

// filter is readFilter, and refuses to search for what is never shown: it could be guessed letter by letter.
func (s *Server) filter(v url.Values) (view.JobFilter, error) {
	f, err := readFilter(v)
	if err == nil && f.PayloadPath != "" && s.guard.Hides(f.PayloadPath) {
		err = fmt.Errorf("payload.%s is hidden here, so it cannot be searched for", f.PayloadPath)
	}
	return f, err
}

// jobsData is the page.
type jobsData struct {
	jobsRead
	Filter   view.JobFilter
	Tabs     []jobTab
	Chips    []chip
	Params   [][2]string // the filter, for forms
	Encoded  string      // the filter, as one parameter
	Matching view.Count  // jobs that an action on all would find
	Older    string      // URLs; "" for none
	Newer    string
	First    string
	Query    string // what was searched for and not understood
	Wrong    string // and why
	Ended    bool   // the jobs have ended: nothing can be done to them
	Cursor   bool
	Zone     string
	List     copyText
	Try      []jobTab // where else a word may be looked for
	Acts     []bulkAct
}

// jobTab is a link to the list with another state.
type jobTab struct {
	Name    string
	URL     string
	Count   *view.Count
	Current bool
	Ended   bool
}

// bulkAct is a button for many jobs.
type bulkAct struct {
	Do, Label, About string
	Copy             copyText
}

func (s *Server) jobsPage(w http.ResponseWriter, r *http.Request) {
	v := r.URL.Query()
	f, err := s.filter(v)
	data := jobsData{Zone: zone()}
	if err != nil {
		data.Wrong = err.Error()
		f = view.JobFilter{}
	} else if q := v.Get("q"); strings.TrimSpace(q) != "" {
		found, id, err := search(f, q)
		switch {
		case err != nil:
			data.Query, data.Wrong = q, err.Error()
		case id != "":
			s.redirect(w, r, "/jobs/"+url.PathEscape(id))
			return
		default:
			s.redirect(w, r, jobsURL(filterValues(found)))
			return
		}
	}
	args := filterValues(f)
	cursor := v.Get("cursor")
	if cursor != "" {
		args.Set("cursor", cursor)
	}
	if data.jobsRead, err = read[jobsRead](r.Context(), s, "jobs", args); err != nil {
		s.fail(w, r, err)
		return
	}
	data.fill(f, cursor)
	data.List = s.copyAs("", nil, f, nil, "")
	for _, a := range bulkActs {
		a.Copy = s.copyAs(a.Do, nil, f, nil, "")
		data.Acts = append(data.Acts, a)
	}
	s.render(w, r, "jobs", page{Title: "Jobs", Nav: "jobs", Live: liveTopic("jobs", args), Data: data})
}

// bulkActs are what can be done to many jobs.
var bulkActs = []bulkAct{
	{Do: "retry", Label: "Retry", About: "Failed jobs start again from their first attempt; waiting ones run now. Running ones are left out."},
	{Do: "reschedule", Label: "Reschedule", About: "They run at another time. Running ones are left out."},
	{Do: "cancel", Label: "Cancel", About: "Waiting jobs end as cancelled; running ones are asked to stop. Failed ones are left as they are."},
	{Do: "delete", Label: "Delete", About: "They are removed without running; history says so. Running ones are left out."},
}

// fill makes what follows from the filter and what was read.
func (d *jobsData) fill(f view.JobFilter, cursor string) {
	d.Filter, d.Chips, d.Params, d.Encoded = f, chips(f), filterPairs(f), filterValues(f).Encode()
	d.Ended, d.Cursor = ended(f.State), cursor != ""
	with := func(state, cursor string) string {
		v := filterValues(f)
		v.Del("state")
		if state != "" {
			v.Set("state", state)
		}
		if cursor != "" {
			v.Set("cursor", cursor)
		}
		return jobsURL(v)
	}
	var all view.Count
	known := false
	for _, state := range liveStates {
		if c, ok := d.Counts[state]; ok {
			all.N, all.More, all.About, known = all.N+c.N, all.More || c.More, all.About || c.About, true
		}
	}
	tab := jobTab{Name: "all", URL: with("", ""), Current: f.State == ""}
	if known {
		tab.Count = &all
	}
	d.Tabs = append(d.Tabs, tab)
	for _, state := range slices.Concat(liveStates, endedStates) {
		tab := jobTab{Name: state, URL: with(state, ""), Current: f.State == state, Ended: ended(state)}
		if c, ok := d.Counts[state]; ok {
			tab.Count = &c
		}
		d.Tabs = append(d.Tabs, tab)
	}
	d.Matching = all
	if f.State != "" {
		d.Matching = d.Counts[f.State]
	}
	d.First = with(f.State, "")
	if d.Page.Older != "" {
		d.Older = with(f.State, d.Page.Older)
	}
	if d.Page.Newer != "" {
		d.Newer = with(f.State, d.Page.Newer)
	}
	if len(d.Page.Jobs) == 0 && f.Error != "" && (view.JobFilter{State: f.State, Error: f.Error}) == f {
		for _, name := range []string{"task", "queue", "key", "flag"} {
			d.Try = append(d.Try, jobTab{Name: name, URL: jobsURL(url.Values{name: {f.Error}})})
		}
	}
}

// readAction takes an action out of a form: the jobs that are ticked, or all that match its filter.
func (s *Server) readAction(v url.Values) (a view.Action, err error) {
	a.Do, a.Reason = v.Get("do"), strings.TrimSpace(v.Get("reason"))
	if !slices.ContainsFunc(bulkActs, func(b bulkAct) bool { return b.Do == a.Do }) {
		return a, unfit("There is no action %q for jobs.", a.Do)
	}
	if a.Do == "reschedule" {
		if a.RunAt, err = readTime(v.Get("run_at"), time.Now()); err != nil {
			return a, unfit("%v.", err)
		}
	}
	if v.Get("all") != "" {
		params, err := url.ParseQuery(v.Get("filter"))
		if err != nil {
			return a, unfit("The filter cannot be read: %v.", err)
		}
		if !v.Has("filter") {
			return a, unfit("The form does not say which jobs.")
		}
		for name, values := range params { // what is not understood must not widen what is changed
			switch {
			case !slices.Contains(filterParams, name):
				return a, unfit("There is no filter %q.", name)
			case len(values) > 1:
				return a, unfit("The filter %q is there more than once.", name)
			case strings.TrimSpace(values[0]) == "" && name != "payload_value":
				return a, unfit("The filter %q is empty.", name)
			}
		}
		f, err := s.filter(params)
		if err != nil {
			return a, unfit("%v.", err)
		}
		if ended(f.State) {
			return a, unfit("Jobs that are %s have ended: nothing can be done to them. Duplicate one from its page to run it again.", f.State)
		}
		a.Filter = &f
		return a, nil
	}
	for _, text := range v["ids"] {
		var id view.ID
		if err := id.UnmarshalText([]byte(text)); err != nil {
			return a, unfit("%q is not the id of a job.", text)
		}
		a.IDs = append(a.IDs, id)
	}
	if len(a.IDs) == 0 {
		return a, unfit("No job is selected. Tick some, or tick “all that match”.")
	}
	if len(a.IDs) > 1000 {
		return a, unfit("%d jobs are too many to name one by one; use a filter.", len(a.IDs))
	}
	return a, nil
}

// bulkData asks whether to do something to many jobs.
type bulkData struct {
	Do      string
	Verb    string // Retry
	About   string
	Words   string // which jobs
	Count   view.Count
	All     bool
	Empty   bool // the filter chooses every job
	IDs     []view.ID
	Encoded string
	Reason  string
	RunAt   string // as typed
	When    *time.Time
	Back    string
	Zone    string
	Copy    copyText
}

// bulkAsk first says how many jobs an action would change; with confirm=yes it starts it.
func (s *Server) bulkAsk(w http.ResponseWriter, r *http.Request) {
	if !s.allowed(w, r, guard.Operator) {
		return
	}
	a, err := s.readAction(r.PostForm)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	if r.PostForm.Get("confirm") == "yes" {
		b, err := s.db.StartBulk(r.Context(), actor(r), a, onceKey(r))
		if err != nil {
			s.fail(w, r, err)
			return
		}
		s.live.forget()
		s.redirect(w, r, "/jobs/bulk/"+b.ID.String())
		return
	}
	count, err := s.db.DryRun(r.Context(), a)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	act := bulkActs[slices.IndexFunc(bulkActs, func(b bulkAct) bool { return b.Do == a.Do })]
	data := bulkData{
		Do: a.Do, Verb: act.Label, About: act.About, Count: count, IDs: a.IDs, Reason: a.Reason, RunAt: r.PostForm.Get("run_at"), When: a.RunAt, Back: "/jobs", Zone: zone(),
	}
	var f view.JobFilter
	if a.Filter != nil {
		f = *a.Filter
		data.All, data.Encoded, data.Words, data.Empty = true, filterValues(f).Encode(), filterWords(f), f == view.JobFilter{}
		data.Back = jobsURL(filterValues(f))
	} else {
		data.Words = "selected jobs"
		if len(a.IDs) == 1 {
			data.Words = "job " + a.IDs[0].String()
		}
	}
	data.Copy = s.copyAs(a.Do, a.IDs, f, a.RunAt, a.Reason)
	s.render(w, r, "bulk_confirm", page{Title: act.Label + " jobs?", Nav: "jobs", Data: data})
}

func (s *Server) readBulk(ctx context.Context, args url.Values) (any, error) {
	id, err := pathID(args.Get("id"), "action")
	if err != nil {
		return nil, err
	}
	return s.db.Bulk(ctx, id)
}

// bulkProgress is how far an action has come.
type bulkProgress struct {
	view.Bulk
	Verb    string // Retry
	Past    string // retried
	Percent int
	Took    string
}

func (s *Server) bulkPage(w http.ResponseWriter, r *http.Request) {
	args := url.Values{"id": {r.PathValue("id")}}
	b, err := read[view.Bulk](r.Context(), s, "bulk", args)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	past := map[string]string{"retry": "Retried", "cancel": "Cancelled or asked to stop", "delete": "Deleted", "reschedule": "Rescheduled"}
	data := bulkProgress{Bulk: b, Verb: titled(b.Do), Past: past[b.Do], Percent: 100}
	if b.State == "running" {
		data.Percent = 0
		if b.Matched.N > 0 { // more than were counted may match: then it stays short of the end
			data.Percent = int(min(99, 100*(b.Done+b.LeftOut)/b.Matched.N))
		}
	}
	end := time.Now()
	if b.EndedAt != nil {
		end = *b.EndedAt
	}
	data.Took = seconds(end.Sub(b.StartedAt))
	s.render(w, r, "bulk", page{Title: fmt.Sprintf("%s jobs", titled(b.Do)), Nav: "jobs", Live: liveTopic("bulk", args), Data: data})
}

// pathID reads an id out of a URL. What cannot be one names nothing that exists.
func pathID(text, of string) (view.ID, error) {
	var id view.ID
	if err := id.UnmarshalText([]byte(text)); err != nil || id < 0 || text[0] == '+' {
		return 0, missing("%q is not the id of %s: ids are whole numbers up to 9223372036854775807.", cutText(text, 100), article(of))
	}
	return id, nil
}

func article(noun string) string {
	if strings.ContainsRune("aeiou", rune(noun[0])) {
		return "an " + noun
	}
	return "a " + noun
}

func titled(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

// zone is where this server's clock is: people type times in it.
func zone() string {
	name, offset := time.Now().Zone()
	if name == "UTC" {
		return "UTC"
	}
	return fmt.Sprintf("%s, UTC%+03d:%02d", name, offset/3600, abs(offset)%3600/60)
}

func abs(n int) int { return max(n, -n) }

// unfit refuses what a form says; missing is for what is not there.
func unfit(format string, args ...any) error {
	return refuse(http.StatusUnprocessableEntity, "This cannot be done", sentence(fmt.Sprintf(format, args...)), "Go back, and change what you have chosen or written.")
}

func missing(format string, args ...any) error {
	return refuse(http.StatusNotFound, "Not found", sentence(fmt.Sprintf(format, args...)), "Search for it in the list of jobs.")
}

// allowed says whether who asks has the role; otherwise it has answered.
func (s *Server) allowed(w http.ResponseWriter, r *http.Request, least guard.Role) bool {
	err := guard.Allow(r.Context(), least)
	if err != nil {
		s.fail(w, r, err)
	}
	return err == nil
}

// actor is who asks, for the audit.
func actor(r *http.Request) view.Actor {
	me := guard.FromContext(r.Context())
	return view.Actor{Name: me.Name, Source: "ui", From: me.From}
}

// redirect leads to a page below the base path.
func (s *Server) redirect(w http.ResponseWriter, r *http.Request, to string) {
	http.Redirect(w, r, s.base+to, http.StatusSeeOther)
}

func liveTopic(name string, args url.Values) string { return name + "?" + args.Encode() }
