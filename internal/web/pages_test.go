package web

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/internal/pgtest"
	"github.com/offstage-dev/offstage/internal/web/guard"
)

// pageSite is the UI on a database of its own, and somebody who looks at it.
type pageSite struct {
	t      *testing.T
	pool   *pgxpool.Pool
	server *Server
	role   guard.Role
}

func newPageSite(t *testing.T, cfg Config) *pageSite {
	t.Helper()
	s := &pageSite{t: t, pool: pgtest.New(t).Pool(t), role: guard.Admin}
	if cfg.Guard.Authenticate == nil {
		cfg.Guard.Authenticate = func(*http.Request) (string, guard.Role, bool) { return "ada", s.role, true }
	}
	var err error
	if s.server, err = New(s.pool, cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.server.Close)
	return s
}

type pageAnswer struct {
	*httptest.ResponseRecorder
	t    *testing.T
	what string
}

func (s *pageSite) ask(method, target, body string, headers ...string) *pageAnswer {
	s.t.Helper()
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	r.Header.Set("Accept", "text/html")
	if body != "" {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	s.server.Handler().ServeHTTP(w, r)
	return &pageAnswer{w, s.t, method + " " + short(100, target)}
}

func (s *pageSite) get(target string, headers ...string) *pageAnswer {
	s.t.Helper()
	return s.ask("GET", target, "", headers...)
}

// post follows to the page that the answer leads to.
func (s *pageSite) post(target string, pairs ...string) *pageAnswer {
	s.t.Helper()
	v := url.Values{}
	for i := 0; i+1 < len(pairs); i += 2 {
		v.Set(pairs[i], pairs[i+1])
	}
	a := s.ask("POST", target, v.Encode()+"&_=")
	if a.Code != http.StatusSeeOther {
		return a
	}
	var cookies []string
	for _, c := range a.Result().Cookies() {
		cookies = append(cookies, c.Name+"="+c.Value)
	}
	return s.get(a.Header().Get("Location"), "Cookie", strings.Join(cookies, "; "))
}

func (a *pageAnswer) has(status int, texts ...string) *pageAnswer {
	a.t.Helper()
	if a.Code != status {
		a.t.Errorf("%s: status %d, expected %d: %s", a.what, a.Code, status, short(1500, a.Body.String()))
	}
	for _, text := range texts {
		if !strings.Contains(a.Body.String(), text) {
			a.t.Errorf("%s: it does not have %q: %s", a.what, text, short(4000, mainOf(a.Body.String())))
		}
	}
	return a
}

func (a *pageAnswer) hasNot(texts ...string) *pageAnswer {
	a.t.Helper()
	for _, text := range texts {
		if strings.Contains(a.Body.String(), text) {
			a.t.Errorf("%s: it has %q", a.what, text)
		}
	}
	return a
}

func mainOf(page string) string {
	if i := strings.Index(page, "<main"); i >= 0 {
		page = page[i:]
	}
	page, _, _ = strings.Cut(page, "</main>")
	return page
}

func (s *pageSite) exec(sql string, args ...any) {
	s.t.Helper()
	if _, err := s.pool.Exec(s.t.Context(), sql, args...); err != nil {
		s.t.Fatal(err)
	}
}

func (s *pageSite) value(sql string, args ...any) (text string) {
	s.t.Helper()
	if err := s.pool.QueryRow(s.t.Context(), sql, args...).Scan(&text); err != nil {
		s.t.Fatal(err)
	}
	return text
}

// play makes one of everything: a worker that runs a job and has ended others, a queue that is busy, schedules.
func (s *pageSite) play() {
	s.t.Helper()
	s.exec(`select offstage.register('host', 7, '1.0', 4, '[{"name": "mail"}, {"name": "report"}, {"name": "broken", "unable": "no node"}]')`)
	s.exec(`select offstage.add_job('report', '{}', queue_name => 'line') from generate_series(1, 3)`)
	s.exec(`select offstage.add_job('mail', '{}') from generate_series(1, 2)`)
	s.exec(`select offstage.add_job('nobody', '{}', run_at => now() + interval '1 h')`)
	s.exec(`insert into offstage_private.statistic_raw (ended_at, task_id, queue_id, outcome, n, waits, runs)
		select now(), t.id, q.id, x.outcome, x.n, '{1,2,3}', '{0,0,4}' from offstage_private.task t, offstage_private.queue q,
		  (values ('succeeded', 40), ('retried', 3), ('failed', 2), ('cancelled', 1)) x (outcome, n) where t.name = 'report' and q.name = 'line'`)
	s.exec(`select offstage.add_schedule('nightly', 'report', '30 2 * * MON-FRI', '{"kind": "sales", "password": "geheim"}', '{"tz": "Europe/Berlin"}')`)
}

var everyPage = []string{
	"/", "/?window=24h", "/?window=7d", "/tasks", "/tasks/report", "/tasks/report?window=7d", "/queues", "/queues?show=busy", "/queues?q=li", "/queues/line", "/queues/line?window=24h",
	"/schedules", "/schedules/nightly", "/workers",
}

func TestPagesWithoutData(t *testing.T) {
	t.Parallel()
	s := newPageSite(t, Config{})
	s.get("/").has(200, "Start here", "offstage worker", "No job has been added yet")
	s.get("/tasks").has(200, "There are no tasks yet", "offstage worker --tasks ./tasks")
	s.get("/queues").has(200, "There are no queues yet", "queue_name =&gt; &#39;ada&#39;")
	s.get("/queues?show=busy").has(200, "No queue is like that")
	s.get("/schedules").has(200, "There are no schedules yet", "Add a schedule")
	s.get("/workers").has(200, "No worker is running")
	for _, path := range []string{"/tasks/x", "/queues/x", "/schedules/x"} {
		s.get(path).has(404, "Not found", "&#34;x&#34; is not known")
	}
	s.get("/nothing/at/all").has(404, "There is no such page")
	a := s.ask("POST", "/tasks", "x=1").has(405, "This page does not do that")
	if got := a.Header().Get("Allow"); got != "GET, HEAD" {
		t.Errorf("Allow is %q", got)
	}
}

func TestPagesWithData(t *testing.T) {
	t.Parallel()
	s := newPageSite(t, Config{})
	s.play()
	for _, path := range everyPage {
		a := s.get(path).has(200, "<!doctype html>", "<main id=\"main\"")
		if strings.Contains(a.Body.String(), "ZgotmplZ") {
			t.Errorf("%s: a value stands where the template cannot have it", path)
		}
		if m := regexp.MustCompile(`(?i) (style|on[a-z]+)=`).FindString(a.Body.String()); m != "" {
			t.Errorf("%s: it has an attribute%s that the policy forbids", path, m)
		}
		if head := s.ask("HEAD", path, ""); head.Code != 200 || head.Body.Len() > 0 {
			t.Errorf("HEAD %s: %d, with %d bytes", path, head.Code, head.Body.Len())
		}
		f := s.get(path, "Accept", fragmentType).has(200, "<main id=\"main\"")
		if !strings.HasPrefix(f.Body.String(), "<main") || strings.Contains(f.Body.String(), "<html") {
			t.Errorf("%s: the fragment is not <main> alone", path)
		}
	}
	s.get("/").has(200, "40 succeeded", "3 to be retried", "2 failed", `role="img"`, "<title id=\"ended-title\">", "<desc", "Tasks that fail", "/tasks/report")
	s.get("/tasks").has(200, "no worker", "nobody", "89 %", "/tasks/mail/pause")
	s.get("/tasks/report").has(200, "worker-", "Add a job", "offstage tasks pause report", "select offstage.pause_task(&#39;report&#39;)")
	s.get("/tasks/broken").has(404)
	s.get("/queues").has(200, "line", "0</span> / 1", "46 ended in the last hour")
	s.get("/queues/line").has(200, "Jobs at a time", "Type the name of the queue", "offstage jobs delete --queue line")
	s.get("/schedules").has(200, "nightly", "at 02:30 on Monday to Friday", "Europe/Berlin")
	s.get("/schedules/nightly").has(200, "at 02:30 on Monday to Friday", "02:30:00", "sales", guard.Hidden).hasNot("geheim")
	s.get("/workers").has(200, "worker-", "host · process 7", "no node", "alive")
}

func TestWorkersPage(t *testing.T) {
	t.Parallel()
	s := newPageSite(t, Config{})
	s.exec(`select offstage.register('host', 7, 'v1', 3, '[{"name": "a"}]')`)
	s.get("/workers").has(200, "/workers/worker-1/drain", "/workers/worker-1/stop").hasNot("/workers/worker-1/resume")
	s.post("/workers/worker-1/drain").has(200, "The worker 1 is drained", "told to drain", "/workers/worker-1/resume").hasNot("/workers/worker-1/drain")
	s.exec(`select offstage.heartbeat(1, true, '2 min')`)
	s.server.live.forget()
	s.get("/workers").has(200, "draining", "hears nothing for", "2 min</time>")
	s.get("/").has(200, "Worker 1 (pid 7 on host) has heard no notifications since", "--database-url")
	s.exec(`select offstage.heartbeat(1, true)`)
	s.server.live.forget()
	s.get("/workers").has(200, "draining").hasNot("told to", "hears nothing")
	s.post("/workers/worker-1/resume").has(200, "The worker 1 goes on", "/workers/worker-1/drain")
	s.post("/workers/worker-1/stop").has(200, "The worker 1 stops", "told to stop").hasNot("/workers/worker-1/")
	s.post("/workers/worker-1/resume").has(409, "Worker 1 was told to stop", "start another one")
	s.post("/workers/worker-2/stop").has(404, "none of this id lives")
	s.post("/workers/x/stop").has(404)
	s.get("/audit").has(200, "worker 1", "drain", "stop")
}

// Commands of what is to be done can be copied, whatever names are in them.
func TestRemedies(t *testing.T) {
	t.Parallel()
	s := newPageSite(t, Config{})
	const name = "<b>`x` 'y'\"</b>"
	s.exec(`select offstage.register('host', 7, 'v1', 3, '[{"name": "a"}]')`)
	s.exec(`select offstage.add_job('a', queue_name => $1), offstage.add_job('nobody')`, name)
	s.exec(`select offstage.pause_queue($1)`, name)
	escaped := `&lt;b&gt;` + "`x`" + ` &#39;y&#39;&#34;&lt;/b&gt;`
	cli := strings.ReplaceAll(escaped, "&#39;", `&#39;\&#39;&#39;`)
	sql := strings.ReplaceAll(escaped, "&#39;", "&#39;&#39;")
	html := []string{
		`<p><bdi>Let it go on:</bdi></p>`,
		`<span class="copy-kind">SQL</span><code><bdi>select offstage.resume_queue(&#39;` + sql + `&#39;);</bdi></code>`,
		`data-copy="select offstage.resume_queue(&#39;` + sql + `&#39;);"`, `<p><bdi>or:</bdi></p>`,
		`<span class="copy-kind">CLI</span><code><bdi>offstage queues resume &#39;` + cli + `&#39;</bdi></code>`,
		`data-copy="offstage queues resume &#39;` + cli + `&#39;"`,
	}
	s.get("/").has(200, html...).has(200, "the name is wrong, delete the jobs:", `data-copy="offstage jobs delete --task nobody"`).hasNot("<b>`", "``")
	s.get("/jobs/1").has(200, html...).has(200, "What to do").hasNot("<b>`", "``")
}

func TestRemedyLines(t *testing.T) {
	t.Parallel()
	for text, want := range map[string][]remedyLine{
		"":                nil,
		"look at its log": {{"Look at its log.", ""}},
		"é `offstage x`":  {{"É", ""}, {"offstage x", "CLI"}},
		"a: `select 1;` or: `offstage b`; or start another one": {{"A:", ""}, {"select 1;", "SQL"}, {"or:", ""}, {"offstage b", "CLI"}, {"Or start another one.", ""}},
		"`offstage worker`, without --forbid-flag":              {{"offstage worker", "CLI"}, {"Without --forbid-flag.", ""}},
	} {
		if got := remedyLines(text); !slices.Equal(got, want) {
			t.Errorf("%q: %q instead of %q", text, got, want)
		}
	}
}

func TestFind(t *testing.T) {
	t.Parallel()
	s := newPageSite(t, Config{BasePath: "/jobs-ui/"})
	s.play()
	for q, to := range map[string]string{
		"17": "/jobs-ui/jobs/17", "#17": "/jobs-ui/jobs/17", "report": "/jobs-ui/tasks/report", "line": "/jobs-ui/queues/line",
		"nightly": "/jobs-ui/schedules/nightly", "it broke & fell": "/jobs-ui/jobs?error=it+broke+%26+fell", "": "/jobs-ui/jobs", "99999999999999999999": "/jobs-ui/jobs?error=99999999999999999999",
	} {
		a := s.get("/jobs-ui/find?q=" + url.QueryEscape(q)).has(303)
		if got := a.Header().Get("Location"); got != to {
			t.Errorf("%q leads to %s, expected %s", q, got, to)
		}
	}
}

func TestPageActions(t *testing.T) {
	t.Parallel()
	s := newPageSite(t, Config{})
	s.play()
	s.post("/tasks/report/pause").has(200, "The task report is paused", `s-paused`, "/tasks/report/resume")
	s.post("/tasks/report/resume").has(200, "The task report goes on").hasNot(`s-paused`)
	s.post("/tasks/report/configure", "max_attempts", "5", "timeout", "30 s", "keep", "failures", "retry", `{"policy": "fixed", "delay": "10 s"}`).has(200, "are changed", `value="5"`, `value="00:00:30"`)
	s.post("/tasks/report/configure", "max_attempts", "", "timeout", "", "keep", "all", "retry", "").has(200, `name="max_attempts" min="1" max="32767" placeholder="25" value=""`)
	s.post("/tasks/report/configure", "timeout", "soon").has(422, "This cannot be done")
	s.post("/tasks/report/configure", "retry", "{").has(422, "no JSON")
	s.post("/tasks/unknown/pause").has(404)

	s.post("/tasks/mail/add", "payload", `{"to": "ada"}`, "queue", "line", "key", "k", "run_at", "2031-01-02T03:04", "priority", "-3", "max_attempts", "9", "flags", "a, b").has(200, "is added")
	if got := s.value(`select concat_ws(' ', queue_name, key, extract(year from run_at), priority, max_attempts, flags) from offstage.jobs where key = 'k'`); got != `line k 2031 -3 9 {"a": true, "b": true}` {
		t.Errorf("the job is %s", got)
	}
	// A double click adds one job; something else in the form is another one, and so is the form of another page.
	key := regexp.MustCompile(`name="once" value="(\w{32})"`)
	forms := [2]string{}
	for i := range forms {
		if m := key.FindStringSubmatch(s.get("/tasks/mail").Body.String()); m != nil {
			forms[i] = m[1]
		}
	}
	for n, form := range []struct{ once, payload, added string }{
		{forms[0], `{"n": 1}`, "1"}, {forms[0], `{"n": 1}`, "1"}, {forms[0], `{"n": 2}`, "2"}, {forms[1], `{"n": 1}`, "3"}, {forms[1], `{"n": 1}`, "3"}, {"", `{"n": 1}`, "4"}, {"", `{"n": 1}`, "5"},
	} {
		a := s.post("/tasks/mail/add", "payload", form.payload, "queue", "twice", "once", form.once).has(200, "is added")
		last := s.value(`select max(id) from offstage.jobs where queue_name = 'twice'`)
		if n == 1 && !strings.Contains(a.Body.String(), "Job "+last+" is added") {
			t.Errorf("the second click shows another job than %s", last)
		}
		if got := s.value(`select count(*) from offstage.jobs where queue_name = 'twice'`); got != form.added {
			t.Errorf("after the form %d there are %s jobs, expected %s", n, got, form.added)
		}
	}
	for text, says := range map[string]string{"{": "no JSON", "nope": "no JSON"} {
		s.post("/tasks/mail/add", "payload", text).has(422, says)
	}
	s.post("/tasks/mail/add", "payload", "{}", "priority", "70000").has(422, "priority is")
	s.post("/tasks/mail/add", "payload", "{}", "run_at", "tomorrow").has(422, "is no time")

	s.post("/queues/line/pause").has(200, "The queue line is paused", "/queues/line/resume")
	s.post("/queues/line/resume").has(200, "The queue line goes on")
	s.post("/queues/line/configure", "concurrency", "3").has(200, "runs 3 jobs at a time", "/ 3")
	s.post("/queues/line/configure", "concurrency", "0").has(422)
	s.post("/queues/line/configure", "concurrency", "").has(422, "How many")
	s.post("/queues/line/purge", "confirm", "lin").has(422, "Nothing is deleted")
	s.post("/queues/line/purge", "confirm", "line").has(200, "are being deleted")
	s.post("/queues/unknown/pause").has(404)

	s.post("/schedules", "name", "hourly", "task", "mail", "expression", "@hourly", "tz", "Asia/Tokyo", "payload", `{"a": 1}`, "overlap", "skip", "jitter", "30s", "priority", "2", "max_attempts", "3", "queue", "line").
		has(200, "The schedule hourly is added", "skip the tick", "Asia/Tokyo", "up to 30 s")
	s.post("/schedules", "name", "hourly", "task", "mail", "expression", "@hourly").has(409, "This name is taken")
	s.post("/schedules", "name", "bad", "task", "mail", "expression", "61 * * * *").has(422, "Five fields")
	s.post("/schedules", "name", "bad", "task", "mail", "expression", "@daily", "tz", "Nowhere/Else").has(422, "is not known")
	s.post("/schedules", "name", "bad", "task", "mail", "expression", "@daily", "payload", "[]").has(422, "no JSON object")
	s.post("/schedules", "name", "bad", "task", "", "expression", "@daily").has(422, "Which task")
	s.post("/schedules/hourly/edit", "task", "mail", "expression", "0 9 * * *", "tz", "Asia/Tokyo", "payload", "").has(200, "is changed", "at 09:00 every day", "add another")
	s.post("/schedules/nightly/edit", "task", "report", "expression", "0 9 * * *", "payload", `{"kind": "tax", "password": "`+guard.Hidden+`"}`).has(200, "tax")
	if got := s.value(`select payload ->> 'password' from offstage.schedules where name = 'nightly'`); got != "geheim" {
		t.Errorf("the hidden value is %q after the edit", got)
	}
	s.post("/schedules/hourly/run").has(200, "is added", "/jobs/")
	s.post("/schedules/hourly/pause").has(200, "is paused", "/schedules/hourly/resume")
	s.post("/schedules/hourly/resume").has(200, "goes on from now")
	s.post("/schedules/hourly/remove").has(200, "is removed")
	s.post("/schedules/hourly/run").has(404)
	s.exec(`select offstage.sync_schedules('crontab', '[{"name": "filed", "task": "mail", "expression": "@daily"}]')`)
	s.get("/schedules/filed").has(200, "It comes from a crontab").hasNot("/schedules/filed/edit")
	s.post("/schedules/filed/edit", "task", "mail", "expression", "@hourly").has(409, "not defined here")
}

func TestPageRoles(t *testing.T) {
	t.Parallel()
	s := newPageSite(t, Config{})
	s.play()
	operators := []string{"/tasks/report/pause", "/tasks/report/resume", "/tasks/report/add", "/queues/line/pause", "/queues/line/resume", "/queues/line/purge",
		"/workers/worker-1/drain", "/workers/worker-1/resume", "/workers/worker-1/stop",
		"/schedules/nightly/pause", "/schedules/nightly/resume", "/schedules/nightly/run"}
	admins := []string{"/tasks/report/configure", "/queues/line/configure", "/schedules", "/schedules/nightly/edit", "/schedules/nightly/remove"}
	s.role = guard.Viewer
	for _, path := range append(append([]string{}, operators...), admins...) {
		s.post(path).has(403, "You may not do this")
	}
	for _, path := range everyPage {
		if body := mainOf(s.get(path).has(200).Body.String()); strings.Contains(body, `method="post"`) && !strings.Contains(body, "logout") {
			t.Errorf("%s: a viewer is offered an action: %s", path, short(3000, body))
		}
	}
	s.role = guard.Operator
	for _, path := range admins {
		s.post(path).has(403, "needs the role admin")
	}
	s.post("/tasks/report/pause").has(200, "is paused")
	s.get("/tasks/report").has(200, "Add a job").hasNot("/configure")

	reader := newPageSite(t, Config{Guard: guard.Config{ReadOnly: true}})
	reader.play()
	for _, path := range operators {
		reader.post(path).has(403, "read-only")
	}
	reader.get("/tasks/report").has(200).hasNot("/pause", "Add a job")
}

func TestPagesUnderABasePath(t *testing.T) {
	t.Parallel()
	s := newPageSite(t, Config{BasePath: "/a/b"})
	s.play()
	if a := s.get("/a/b?window=24h").has(301); a.Header().Get("Location") != "/a/b/?window=24h" {
		t.Errorf("it leads to %s", a.Header().Get("Location"))
	}
	link := regexp.MustCompile(`(?:href|src|action)="(/[^"]*)"`)
	for _, path := range everyPage {
		a := s.get("/a/b"+path).has(200, `data-base="/a/b"`)
		for _, m := range link.FindAllStringSubmatch(a.Body.String(), -1) {
			if !strings.HasPrefix(m[1], "/a/b/") && m[1] != "/a/b" {
				t.Errorf("%s: the link %s leads out", path, m[1])
			}
		}
		s.get(path).has(200) // a proxy has taken the path off
	}
	a := s.ask("POST", "/a/b/queues/line/pause", "x=1").has(303)
	if got := a.Header().Get("Location"); got != "/a/b/queues/line" {
		t.Errorf("it leads to %s", got)
	}
	if c := a.Result().Cookies()[0]; c.Path != "/a/b/" || !c.HttpOnly || c.SameSite != http.SameSiteLaxMode {
		t.Errorf("the cookie is %+v", c)
	}
}

func TestHostileNames(t *testing.T) {
	t.Parallel()
	s := newPageSite(t, Config{})
	client, err := offstage.New(s.pool, offstage.Config{})
	if err != nil {
		t.Fatal(err)
	}
	names := []string{
		`<script>alert(1)</script>`, `a/b`, `/`, `//x`, `.`, `..`, `../..`, `~`, `~~`, `a%2Fb`, `%`, `a b`, `a+b`, `a?b#c`, `'; drop table x; --`, `"quoted"`, `back\slash`, `-rf`,
		"line\nbreak", "שלום\u202eעולם", "🎭", `{{.}}`, `javascript:alert(1)`, strings.Repeat("x", 128), strings.Repeat("長", 128),
	}
	for _, name := range names {
		if _, err := client.Add(t.Context(), name, json.RawMessage(`{}`), offstage.Options{Queue: name}); err != nil {
			t.Fatalf("%q: %v", name, err)
		}
		if err := client.AddSchedule(t.Context(), offstage.Schedule{Name: name, Task: name, Expression: "@daily"}); err != nil {
			t.Fatalf("%q: %v", name, err)
		}
	}
	tasks := []string{"/", "/tasks", "/queues", "/schedules", "/workers"}
	for _, path := range tasks {
		s.get(path).has(200).hasNot("<script>alert", "ZgotmplZ")
	}
	for _, name := range names {
		for kind, verbs := range map[string][]string{"tasks": {"pause", "resume"}, "queues": {"pause", "resume"}, "schedules": {"pause", "run"}} {
			path := pathTo(kind, name)
			for _, part := range strings.Split(strings.TrimPrefix(path, "/"), "/") {
				if p := strings.ToLower(part); p == "." || p == ".." || p == "%2e" || p == "%2e%2e" || p == "" {
					t.Errorf("%q: a browser would not send %s as it stands", name, path)
				}
			}
			s.get(path).has(200, "<h1>").hasNot("<script>alert", "ZgotmplZ")
			for _, verb := range verbs {
				s.post(path + "/" + verb).has(200).hasNot("<script>alert")
			}
		}
	}
	if got := s.value(`select count(*)::text from offstage_private.schedule where paused`); got != fmt.Sprint(len(names)) {
		t.Errorf("%s schedules are paused, expected %d", got, len(names))
	}
	long := strings.Repeat("y", 5000)
	s.get("/tasks/" + long).has(404)
	s.get("/queues?q=" + long).has(200)
	s.get("/queues?q=%00&after=%ff").has(422)
	s.get("/find?q=" + long).has(303)
	s.post("/tasks/report/add", "payload", strings.Repeat("[", 20000)).has(422)
}

func TestHeadersAndAssets(t *testing.T) {
	t.Parallel()
	s := newPageSite(t, Config{})
	for _, path := range []string{"/", "/nothing"} {
		a := s.get(path)
		for name, want := range map[string]string{
			"Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'; object-src 'none'",
			"X-Content-Type-Options":  "nosniff", "Referrer-Policy": "same-origin", "Cache-Control": "no-store",
		} {
			if got := a.Header().Get(name); got != want {
				t.Errorf("%s: %s is %q", path, name, got)
			}
		}
	}
	body := s.get("/").Body.String()
	for _, m := range regexp.MustCompile(`(?:href|src)="(/assets/[^"]*)"`).FindAllStringSubmatch(body, -1) {
		a := s.get(m[1]).has(200)
		if a.Header().Get("Cache-Control") != "public, max-age=31536000, immutable" || a.Header().Get("ETag") == "" {
			t.Errorf("%s: headers %v", m[1], a.Header())
		}
		if again := s.get(m[1], "If-None-Match", a.Header().Get("ETag")); again.Code != 304 {
			t.Errorf("%s: %d, expected 304", m[1], again.Code)
		}
		if zip := s.get(m[1], "Accept-Encoding", "gzip"); zip.Header().Get("Content-Encoding") != "gzip" || zip.Body.Len() >= a.Body.Len() && a.Body.Len() > 500 {
			t.Errorf("%s: it is not compressed", m[1])
		}
		for _, i := range regexp.MustCompile(`from '\./([^']*)'`).FindAllStringSubmatch(a.Body.String(), -1) {
			s.get("/assets/" + i[1]).has(200)
			if !regexp.MustCompile(`\.[0-9a-f]{12}\.js$`).MatchString(i[1]) {
				t.Errorf("%s imports %s, which may be an old one", m[1], i[1])
			}
		}
	}
	s.get("/assets/style.css").has(404)
	zip := s.get("/", "Accept-Encoding", "br, gzip;q=0.8")
	if zip.Header().Get("Content-Encoding") != "gzip" || zip.Header().Get("Content-Type") != "text/html; charset=utf-8" || zip.Body.Len() >= len(body) {
		t.Errorf("the page is not compressed: %v", zip.Header())
	}
	if plain := s.get("/", "Accept-Encoding", "gzip;q=0"); plain.Header().Get("Content-Encoding") != "" {
		t.Error("somebody who does not take gzip got it")
	}
}

func TestDatabaseIsGone(t *testing.T) {
	t.Parallel()
	s := newPageSite(t, Config{})
	s.get("/").has(200)
	s.server.live.forget()
	s.server.db.Close() // the reads' connections are refused from now on
	a := s.get("/tasks").has(503, "The database does not answer", `http-equiv="refresh"`)
	if a.Header().Get("Retry-After") == "" {
		t.Error("there is no Retry-After")
	}
	s.get("/tasks", "Accept", fragmentType).has(503)
}

// A standby can be looked at; it says itself why nothing can be changed there.
func TestDatabaseTakesNoWrites(t *testing.T) {
	t.Parallel()
	s := newPageSite(t, Config{})
	s.play()
	cfg := s.pool.Config()
	cfg.ConnConfig.RuntimeParams["default_transaction_read_only"] = "on"
	standby, err := pgxpool.NewWithConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(standby.Close)
	if s.server, err = New(standby, s.server.cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.server.Close)
	for _, page := range []string{"/", "/jobs", "/jobs/1", "/errors", "/tasks", "/queues", "/schedules", "/workers", "/audit", "/readyz", "/metrics"} {
		s.get(page).has(http.StatusOK)
	}
	s.post("/tasks/mail/pause").has(http.StatusServiceUnavailable, "The database takes no writes", "--read-only")
}

func TestSchemaIsNotThere(t *testing.T) {
	t.Parallel()
	s := newPageSite(t, Config{Schema: "elsewhere"})
	for _, path := range []string{"/", "/tasks", "/queues", "/schedules", "/workers"} {
		s.get(path).has(503, "offstage migrate")
	}
}

func TestCopyAsOfSettings(t *testing.T) {
	s := &Server{cfg: Config{Schema: "jobs"}}
	if got, want := s.sqlText("select offstage.pause_queue(%s)", `it's \ "x"`), `select jobs.pause_queue(E'it''s \\ "x"')`; got != want {
		t.Errorf("%s, expected %s", got, want)
	}
	for name, want := range map[string]string{"a": "a", "it's": `'it'\''s'`, "": "''", "-x": "'-x'", "a/b:c": "a/b:c", "$HOME": "'$HOME'"} {
		if got := s.cliText("offstage queues pause %s", name); got != "offstage queues pause "+want+" --schema jobs" {
			t.Errorf("%q: %s", name, got)
		}
	}
}

func TestWords(t *testing.T) {
	for s, want := range map[float64]string{0: "0 ms", 0.0004: "0.4 ms", 0.0123: "12 ms", 0.9: "900 ms", 0.9999: "1 s", 1.26: "1.3 s", 12: "12 s", 100: "1 min 40 s", 3600: "1 h", 90000: "25 h", 200000: "2 days 7 h"} {
		if got := seconds(s); got != want {
			t.Errorf("%v is %q, expected %q", s, got, want)
		}
	}
	for n, want := range map[int]string{0: "0", 999: "999", 1000: "1,000", 1234567: "1,234,567", -1234: "-1,234"} {
		if got := number(n); got != want {
			t.Errorf("%d is %q", n, got)
		}
	}
	if got := percent(9999, 10000); got != "99.9 %" {
		t.Errorf("nearly all is %q", got)
	}
}
