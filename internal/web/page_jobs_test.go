package web

import (
	"context"
	"errors"
	"fmt"
	"html"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/internal/pgtest"
	"github.com/offstage-dev/offstage/internal/web/guard"
	"github.com/offstage-dev/offstage/worker"
)

// site is a UI over a database of its own, for one test.
type site struct {
	t      *testing.T
	pool   *pgxpool.Pool
	client *offstage.Client
	s      *Server
	role   guard.Role
}

func newSite(t *testing.T, cfg Config) *site {
	t.Helper()
	t.Parallel()
	pool := pgtest.New(t).Pool(t)
	client, err := offstage.New(pool, offstage.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	u := &site{t: t, pool: pool, client: client, role: guard.Operator}
	cfg.Guard.Authenticate = func(*http.Request) (string, guard.Role, bool) { return "ada", u.role, true }
	if u.s, err = New(pool, cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(u.s.Close)
	return u
}

func (u *site) ctx() context.Context { return pgtest.Context(u.t) }

func (u *site) add(task, payload string, options ...offstage.Options) int64 {
	u.t.Helper()
	id, err := u.client.Add(u.ctx(), task, rawJSON(payload), options...)
	if err != nil {
		u.t.Fatal(err)
	}
	return id
}

type rawJSON string

func (r rawJSON) MarshalJSON() ([]byte, error) { return []byte(r), nil }

func (u *site) exec(sql string, args ...any) {
	u.t.Helper()
	pgtest.Do(u.t, u.pool, sql, args...)
}

// answer is what the UI says to a request.
type answer struct {
	status   int
	body     string
	location string
	header   http.Header
}

// text is the page as people read it.
func (a answer) text() string {
	return strings.Join(strings.Fields(html.UnescapeString(regexp.MustCompile(`<[^>]*>`).ReplaceAllString(a.body, " "))), " ")
}

func (u *site) do(r *http.Request) answer {
	u.t.Helper()
	u.s.live.forget()
	w := httptest.NewRecorder()
	u.s.Handler().ServeHTTP(w, r.WithContext(u.ctx()))
	return answer{w.Code, w.Body.String(), w.Header().Get("Location"), w.Header()}
}

func (u *site) get(path string) answer {
	u.t.Helper()
	return u.do(httptest.NewRequest(http.MethodGet, path, nil))
}

func (u *site) page(path string) answer {
	u.t.Helper()
	a := u.get(path)
	if a.status != http.StatusOK {
		u.t.Fatalf("GET %s: %d %s", path, a.status, a.text())
	}
	return a
}

func (u *site) post(path string, form url.Values) answer {
	u.t.Helper()
	r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return u.do(r)
}

func (u *site) has(a answer, parts ...string) {
	u.t.Helper()
	text := a.text()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			u.t.Errorf("the page does not say %q: %s", part, text)
		}
	}
}

func (u *site) hasNot(a answer, parts ...string) {
	u.t.Helper()
	text := a.text()
	for _, part := range parts {
		if strings.Contains(text, part) {
			u.t.Errorf("the page says %q: %s", part, text)
		}
	}
}

// rows are the keys of the rows of a list.
func rows(a answer) (keys []string) {
	for _, m := range regexp.MustCompile(`<tr data-key="([^"]*)"`).FindAllStringSubmatch(a.body, -1) {
		keys = append(keys, m[1])
	}
	return keys
}

// link is where the link with this text leads.
func (u *site) link(a answer, text string) string {
	u.t.Helper()
	m := regexp.MustCompile(`<a[^>]*href="([^"]*)"[^>]*>` + regexp.QuoteMeta(text) + `<`).FindStringSubmatch(a.body)
	if m == nil {
		u.t.Fatalf("there is no link %q: %s", text, a.text())
	}
	return html.UnescapeString(m[1])
}

func (u *site) eventually(ok func() bool, what string) {
	u.t.Helper()
	deadline := time.After(30 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			u.t.Fatal("it did not happen: " + what)
		}
	}
}

// work runs a worker until the test ends.
func (u *site) work(handle func(w *worker.Worker)) {
	u.t.Helper()
	w, err := worker.New(u.pool, worker.Config{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		u.t.Fatal(err)
	}
	handle(w)
	u.run(w.Run)
}

func (u *site) run(fn func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- fn(ctx) }()
	u.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			u.t.Error(err)
		}
	})
}

func TestJobsList(t *testing.T) {
	u := newSite(t, Config{})
	u.has(u.page("/jobs"), "No jobs are here", "offstage add hello")
	u.has(u.page("/jobs?state=paused"), "No job is paused")
	u.exec(`select offstage.add_job('hello', json_build_object('user', json_build_object('id', n)), queue_name => 'q' || n % 2, run_at => now()) from generate_series(1, 60) n`)
	u.exec(`select offstage.add_job('later', '{}', run_at => now() + interval '1 day', flags => array['slow'], job_key => 'k' || n) from generate_series(1, 60) n`)
	u.exec(`select from offstage.permanently_fail_jobs(array(select id from offstage.jobs where task_identifier = 'hello' order by id limit 5), 'Error: the disk is full')`)

	all := u.page("/jobs")
	u.has(all, "all 120", "scheduled 60", "failed 5", "Retry…", "all 120 that match")
	first := rows(all)
	if len(first) != jobsShown {
		t.Fatalf("got %d rows", len(first))
	}
	// Older and newer lead to all jobs once, and back.
	seen := map[string]bool{}
	a := all
	var path []string
	for {
		for _, key := range rows(a) {
			if seen[key] {
				t.Errorf("job %s is on two pages", key)
			}
			seen[key] = true
		}
		if !strings.Contains(a.body, "Older →") {
			break
		}
		next := u.link(a, "Older →")
		path = append(path, next)
		a = u.page(next)
	}
	if len(seen) != 120 || len(path) != 2 {
		t.Errorf("got %d jobs on %d pages", len(seen), len(path)+1)
	}
	back := u.page(u.link(u.page(u.link(a, "← Newer")), "← Newer"))
	if got := rows(back); strings.Join(got, " ") != strings.Join(first, " ") {
		t.Errorf("newer leads elsewhere: %v", got)
	}
	// The tab of a state keeps the filter; its chip can be taken away.
	f := u.page("/jobs?task=hello&state=failed")
	if got := len(rows(f)); got != 5 {
		t.Errorf("got %d failed", got)
	}
	u.has(f, "task hello", "Error: the disk is full", "all 5 that match", "offstage jobs list --state failed --task hello")
	if to := u.link(f, "×"); to != "/jobs?state=failed" {
		t.Errorf("without the task: %s", to)
	}
	if to := regexp.MustCompile(`href="([^"]*)"[^>]*>all<`).FindStringSubmatch(f.body); to == nil || to[1] != "/jobs?task=hello" {
		t.Errorf("the tab of all leads to %v", to)
	}
	for filter, want := range map[string]int{
		"queue=q1&task=hello": 30, "flag=slow": 50, "key=k7": 1, "error=DISK+is": 5, "payload_path=user.id&payload_value=7": 1, "task=none": 0,
		"added_after=1h": 50, "added_before=1h": 0, "worker=worker-7&state=running": 0,
	} {
		if got := len(rows(u.page("/jobs?" + filter))); got != want {
			t.Errorf("%s: got %d rows, want %d", filter, got, want)
		}
	}
	u.has(u.page("/jobs?task=none"), "No job matches")
	u.has(u.page("/jobs?error=hello"), "look for it as task")
	// The search box.
	if a := u.get("/jobs?state=failed&q=" + url.QueryEscape(`task:hello error:"disk is"`)); a.location != "/jobs?error=disk+is&state=failed&task=hello" {
		t.Errorf("the search leads to %d %s", a.status, a.location)
	}
	if a := u.get("/jobs?q=%2317"); a.location != "/jobs/17" {
		t.Errorf("the search leads to %d %s", a.status, a.location)
	}
	wrong := u.page("/jobs?q=quue:x")
	u.has(wrong, `"quue:" is not something to search by`)
	if !strings.Contains(wrong.body, `value="quue:x"`) {
		t.Error("what was typed is lost")
	}
	u.has(u.page("/jobs?state=dead"), `there is no state "dead"`)
	u.has(u.page("/jobs?payload_path=user.password&payload_value=a"), "is hidden here, so it cannot be searched for")
	if a := u.get("/jobs?cursor=nonsense"); a.status < 400 || a.status >= 500 {
		t.Errorf("a cursor that is none: %d", a.status)
	}
	if a := u.get("/jobs?task=%00"); a.status < 400 || a.status >= 500 {
		t.Errorf("a zero byte: %d %s", a.status, a.text())
	}
}

func TestBulkWithoutScript(t *testing.T) {
	u := newSite(t, Config{})
	u.exec(`select offstage.add_job('mail', '{}') from generate_series(1, 1200)`)
	u.exec(`select from offstage.permanently_fail_jobs(array(select id from offstage.jobs), 'Error: no ' || 7)`)
	form := url.Values{"do": {"retry"}, "all": {"yes"}, "filter": {"state=failed&task=mail"}}
	ask := u.post("/jobs/bulk", form)
	u.has(ask, "Retry 1,200 jobs?", `failed jobs of task "mail"`, "offstage jobs retry --state failed --task mail")
	if ask.status != http.StatusOK || pgtest.One[int](t, u.pool, "select count(*) from offstage.bulks") != 0 {
		t.Fatalf("the question has done something: %d", ask.status)
	}
	form.Set("confirm", "yes")
	started := u.post("/jobs/bulk", form)
	if started.status != http.StatusSeeOther || started.location != "/jobs/bulk/1" {
		t.Fatalf("got %d %s", started.status, started.text())
	}
	u.has(u.page("/jobs/bulk/1"), "under way", "Matched 1,200", "by ada")
	u.run(u.s.Run)
	u.eventually(func() bool { return strings.Contains(u.page("/jobs/bulk/1").text(), "finished") }, "the end of the action")
	u.has(u.page("/jobs/bulk/1"), "Retried 1,200", "Left out 0")
	u.has(u.page("/jobs"), "waiting 1,200", "failed 0")
	u.has(u.page("/audit"), "bulk retry", "ada", "ui", "1200 jobs")

	// Some by their ids: one of them is not there.
	u.exec(`select offstage.add_job('other', '{}')`)
	id := pgtest.One[int64](t, u.pool, `select id from offstage.jobs where task_identifier = 'other'`)
	ask = u.post("/jobs/bulk", url.Values{"do": {"delete"}, "ids": {fmt.Sprint(id), "999999"}})
	u.has(ask, "Delete 1 job?", "selected jobs")
	done := u.post("/jobs/bulk", url.Values{"do": {"delete"}, "ids": {fmt.Sprint(id)}, "confirm": {"yes"}})
	u.eventually(func() bool { return strings.Contains(u.page(done.location).text(), "finished") }, "the end of the deletion")
	u.has(u.page("/jobs?task=other&state=removed"), fmt.Sprint(id))
	u.has(u.post("/jobs/bulk", url.Values{"do": {"reschedule"}, "all": {"1"}, "filter": {"task=mail"}}), "Reschedule 1,200 jobs?", "Run at")
	u.has(u.post("/jobs/bulk", url.Values{"do": {"cancel"}, "all": {"1"}, "filter": {""}}), "this is every job", "Reason")
	u.has(u.post("/jobs/bulk", url.Values{"do": {"cancel"}, "all": {"1"}, "filter": {"task=none"}}), "Nothing to cancel")

	for what, form := range map[string]url.Values{
		"No job is selected":       {"do": {"retry"}},
		`There is no filter "tsk"`: {"do": {"retry"}, "all": {"1"}, "filter": {"tsk=mail"}},
		"is there more than once":  {"do": {"delete"}, "all": {"1"}, "filter": {"task=mail&task="}, "confirm": {"yes"}},
		`filter "task" is empty`:   {"do": {"delete"}, "all": {"1"}, "filter": {"task="}, "confirm": {"yes"}},
		`filter "state" is empty`:  {"do": {"delete"}, "all": {"1"}, "filter": {"state=+"}, "confirm": {"yes"}},
		"does not say which jobs":  {"do": {"delete"}, "all": {"1"}, "confirm": {"yes"}},
		"have ended":               {"do": {"retry"}, "all": {"1"}, "filter": {"state=succeeded"}},
		"There is no action":       {"do": {"drop"}, "ids": {"1"}},
		"is not the id":            {"do": {"retry"}, "ids": {"1; drop"}},
		"is not a time":            {"do": {"reschedule"}, "ids": {"1"}, "run_at": {"soon"}},
		"is hidden here":           {"do": {"retry"}, "all": {"1"}, "filter": {"payload_path=password&payload_value=a"}},
	} {
		a := u.post("/jobs/bulk", form)
		if a.status != http.StatusUnprocessableEntity {
			t.Errorf("%s: got %d", what, a.status)
		}
		u.has(a, what)
	}
	if a := u.get("/jobs/bulk/77"); a.status != http.StatusNotFound {
		t.Errorf("an action that is not there: %d", a.status)
	}
}

// Viewers see all of it and can change nothing.
func TestViewerCannotAct(t *testing.T) {
	u := newSite(t, Config{})
	id := u.add("mail", `{}`)
	u.exec(`select from offstage.permanently_fail_jobs(array[$1::bigint], 'Error: no')`, id)
	u.role = guard.Viewer
	here := fmt.Sprintf("/jobs/%d", id)
	for _, path := range []string{"/jobs", here, "/errors", "/audit"} {
		a := u.page(path)
		if main := regexp.MustCompile(`(?s)<main.*</main>`).FindString(a.body); strings.Contains(main, `method="post"`) && path != "/jobs" || strings.Contains(main, `name="do"`) || strings.Contains(main, `name="ids"`) {
			t.Errorf("%s offers something to do", path)
		}
	}
	for _, part := range []string{"retry", "cancel", "reschedule", "duplicate", "delete", "edit"} {
		if a := u.post(here+"/"+part, url.Values{"confirm": {"yes"}, "revision": {"0"}, "payload": {"{}"}}); a.status != http.StatusForbidden {
			t.Errorf("%s: got %d", part, a.status)
		}
	}
	if a := u.post("/jobs/bulk", url.Values{"do": {"delete"}, "ids": {fmt.Sprint(id)}, "confirm": {"yes"}}); a.status != http.StatusForbidden {
		t.Errorf("bulk: got %d", a.status)
	}
	if a := u.get(here + "/edit"); a.status != http.StatusForbidden {
		t.Errorf("the form: got %d", a.status)
	}
	if state := pgtest.One[string](t, u.pool, `select state from offstage.jobs`); state != "failed" {
		t.Errorf("the job is %s", state)
	}
}

// What people and programs write is text, wherever it is shown.
func TestHostile(t *testing.T) {
	u := newSite(t, Config{})
	const bad = `"><script>alert(1)</script>'{{.}}` + "\u202e\u0007é"
	slashes := `a/../b?c#d%2f ` + bad
	id := u.add(bad, `{"`+strings.ReplaceAll(bad, `"`, `\"`)[:20]+`": ["<script>alert(2)</script>", "`+strings.Repeat("<script>", 100)+`"]}`,
		offstage.Options{Queue: slashes, Key: bad, Flags: []string{bad}})
	u.work(func(w *worker.Worker) {
		worker.Handle(w, bad, func(ctx context.Context, _ *worker.Job[any]) (any, error) {
			worker.Log(ctx).Error(bad, bad, bad)
			if err := worker.Progress(ctx, 50, bad); err != nil {
				return nil, err
			}
			return nil, offstage.Fail(errors.New(bad + "\n" + bad))
		})
	})
	u.eventually(func() bool { return strings.Contains(u.page("/jobs?state=failed").text(), "all 1 that match") }, "the failure")
	u.exec(`select offstage.pause_queue($1)`, bad)
	fingerprint := regexp.MustCompile(`data-key="([0-9a-f]+)"`).FindStringSubmatch(u.page("/errors").body)
	if fingerprint == nil {
		t.Fatal("there is no group of errors")
	}
	if a := u.post(fmt.Sprintf("/jobs/%d/reschedule", id), url.Values{"run_at": {"2099-01-31T15:04"}}); a.status != http.StatusSeeOther {
		t.Fatalf("got %d %s", a.status, a.text())
	}
	here := fmt.Sprintf("/jobs/%d", id)
	answers := map[string]answer{}
	for _, path := range []string{
		"/jobs", "/jobs?task=" + url.QueryEscape(bad), "/jobs?q=" + url.QueryEscape("x:"+bad), "/jobs?queue=" + url.QueryEscape(slashes) + "&key=" + url.QueryEscape(bad) + "&flag=" + url.QueryEscape(bad) +
			"&error=" + url.QueryEscape(bad) + "&payload_path=" + url.QueryEscape(bad) + "&payload_value=" + url.QueryEscape(bad),
		here, here + "/edit", "/errors", "/errors?task=" + url.QueryEscape(bad), "/errors/" + fingerprint[1], "/audit", "/audit?who=" + url.QueryEscape(bad) + "&target=" + url.QueryEscape(bad),
	} {
		answers[path] = u.page(path)
	}
	answers["bulk"] = u.post("/jobs/bulk", url.Values{"do": {"cancel"}, "all": {"1"}, "filter": {"task=" + url.QueryEscape(bad)}, "reason": {bad}})
	answers["diff"] = u.post(here+"/edit", url.Values{"revision": {fmt.Sprint(pgtest.One[int](t, u.pool, "select revision from offstage.jobs"))}, "payload": {`{"new": "<script>alert(3)</script>"}`}, "priority": {"0"}, "max_attempts": {"25"}})
	answers["wrong"] = u.post(here+"/edit", url.Values{"revision": {bad}, "payload": {bad}, "priority": {bad}, "max_attempts": {bad}})
	answers["delete"] = u.post(here+"/delete", nil)
	answers["no action"] = u.get("/audit?action=" + url.QueryEscape(bad))
	answers["no job"] = u.get("/jobs/" + url.PathEscape(bad))
	answers["no error"] = u.get("/errors/" + url.PathEscape(bad))
	answers["no part"] = u.get(here + "/" + url.PathEscape(bad))
	for path, a := range answers {
		if strings.Contains(a.body, "<script>") || strings.Contains(a.body, "alert(1)</script") {
			t.Errorf("%s: text became markup", path)
		}
		if a.status >= 500 {
			t.Errorf("%s: got %d %s", path, a.status, a.text())
		}
	}
	u.has(answers[here], "<script>alert(2)</script>")
	u.has(answers["diff"], "Save and retry?", "<script>alert(3)</script>")
	// The links of a name lead to it, whatever it holds.
	if m := regexp.MustCompile(`href="(/jobs\?queue=[^"]*)"`).FindStringSubmatch(answers["/jobs"].body); m == nil || len(rows(u.page(html.UnescapeString(m[1])))) != 1 {
		t.Errorf("the link of the queue does not find its job: %v", m)
	}
	for _, path := range []string{"/jobs/9223372036854775808", "/jobs/99999999999999999999999", "/jobs/-1", "/jobs/+1", "/jobs/1e3", "/jobs/0x10"} {
		a := u.get(path)
		if a.status != http.StatusNotFound {
			t.Errorf("%s: got %d", path, a.status)
		}
		u.has(a, "whole numbers up to 9223372036854775807")
	}
	u.has(u.get("/jobs/9007199254740993"), "There is no job 9007199254740993")
}
