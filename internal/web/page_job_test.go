package web

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/internal/pgtest"
	"github.com/offstage-dev/offstage/internal/web/guard"
	"github.com/offstage-dev/offstage/worker"
)

func TestJobPage(t *testing.T) {
	u := newSite(t, Config{TraceURL: "https://traces.example/{trace_id}?span={span_id}"})
	u.work(func(w *worker.Worker) {
		worker.Handle(w, "flaky", func(ctx context.Context, job *worker.Job[any]) (map[string]int, error) {
			worker.Log(ctx).Warn("about to try", "password", "hunter2", "n", 7)
			if job.Attempt == 1 {
				return nil, offstage.RetryIn(0, errors.New("Error: it is Monday\n    at line 17"))
			}
			return map[string]int{"answer": 42}, nil
		})
	})
	later := u.add("flaky", `{"password": "hunter2", "to": "ada"}`, offstage.Options{RunAt: time.Now().Add(time.Hour), Key: "k"})
	here := fmt.Sprintf("/jobs/%d", later)
	u.has(u.page(here), "Why it is not running", "scheduled", "Run now", "Edit and retry…", "to run 1 h later", "Attempt 1 is due", "Nothing yet", "it has not succeeded yet")
	if a := u.post(here+"/retry", nil); a.status != http.StatusSeeOther || a.location != here {
		t.Fatalf("got %d %s", a.status, a.text())
	}
	u.eventually(func() bool { return strings.Contains(u.page(here).text(), "How it ended") }, "the job succeeds")
	u.eventually(func() bool { return strings.Count(u.page(here).text(), "about to try") == 2 }, "the log arrives")
	a := u.page(here)
	u.has(a, "succeeded", "Attempt 1", "retried", "It failed and is tried again.", "Error: it is Monday", "at line 17", "Attempt 2", "on worker-1", "warn about to try password = •••", "n = 7", "answer : 42", `password : " ••• "`, `to : " ada "`)
	u.hasNot(a, "hunter2", "Delete…", "Edit and retry", "Run now")
	// Its values and its log as files.
	for part, want := range map[string]string{"payload": `"ada"`, "result": `{"answer":42}`, "log": "attempt 2 WARN  about to try password=\"•••\" n=\"7\"\n"} {
		f := u.get(here + "/" + part)
		if f.status != http.StatusOK || !strings.Contains(f.body, want) || strings.Contains(f.body, "hunter2") || !strings.HasPrefix(f.header.Get("Content-Disposition"), "attachment") {
			t.Errorf("%s: %d %v %s", part, f.status, f.header, f.body)
		}
	}
	if f := u.get(here + "/secrets"); f.status != http.StatusNotFound {
		t.Errorf("got %d", f.status)
	}
	// A copy of it has its payload, with what is hidden.
	dup := u.post(here+"/duplicate", nil)
	if dup.status != http.StatusSeeOther || !regexp.MustCompile(`^/jobs/\d+$`).MatchString(dup.location) {
		t.Fatalf("got %d %s", dup.status, dup.text())
	}
	u.eventually(func() bool { return strings.Contains(u.page(dup.location).text(), "How it ended") }, "the copy succeeds")
	// What has ended cannot be changed.
	for part, want := range map[string]string{"retry": "was not run", "cancel": "was not cancelled", "reschedule": "was not rescheduled", "delete": "was not deleted", "edit": "was not edited"} {
		a := u.post(here+"/"+part, url.Values{"confirm": {"yes"}, "revision": {"0"}, "payload": {"{}"}})
		if a.status != http.StatusConflict {
			t.Errorf("%s: got %d", part, a.status)
		}
		u.has(a, want, "has ended as succeeded", "Duplicate it")
	}
	u.has(u.get("/jobs/123456"), "There is no job 123456", "history is not kept")

	traced := pgtest.One[int64](t, u.pool, `select id from offstage.add_job('flaky', '{}', run_at => now() + interval '1 day', options => '{"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}')`)
	if a := u.page(fmt.Sprintf("/jobs/%d", traced)); !strings.Contains(a.body, `href="https://traces.example/4bf92f3577b34da6a3ce929d0e0e4736?span=00f067aa0ba902b7"`) {
		t.Error("the trace has no link")
	}
	// Rescheduled, then deleted, after a question.
	other := fmt.Sprintf("/jobs/%d", traced)
	if a := u.post(other+"/reschedule", url.Values{"run_at": {"2099-01-31T15:04"}}); a.status != http.StatusSeeOther {
		t.Fatalf("got %d %s", a.status, a.text())
	}
	u.has(u.page(other), "2099-01-31")
	u.has(u.post(other+"/delete", nil), fmt.Sprintf("Delete job %d?", traced), "scheduled")
	if a := u.post(other+"/delete", url.Values{"confirm": {"yes"}}); a.location != "/jobs" {
		t.Fatalf("got %d %s", a.status, a.text())
	}
	u.has(u.page(other), "How it ended", "removed")
	audit := u.page("/audit")
	u.has(audit, "ada", "delete", "duplicate", "retry", fmt.Sprintf("job %d", traced), "2099")
	u.hasNot(audit, "hunter2")
	u.has(u.page("/audit?action=delete&who=ada"), "offstage audit --who ada --action delete", "select * from offstage.audit(of_who => 'ada', of_action => 'delete');")
	if n := len(rows(u.page("/audit?action=delete"))); n != 1 {
		t.Errorf("got %d deletions", n)
	}
	if n, all := len(rows(u.page("/audit?source=ui"))), len(rows(audit)); n != all || n == 0 {
		t.Errorf("got %d of %d by the UI", n, all)
	}
	u.has(u.page("/audit?source=cli"), "No change matches")
	u.has(u.page("/audit?who=bob"), "No change matches")
	if a := u.get("/audit?action=deleet"); a.status != http.StatusUnprocessableEntity || !strings.Contains(a.text(), "There is no action 'deleet'") || !strings.Contains(a.text(), "bulk retry, cancel") {
		t.Errorf("got %d %s", a.status, a.text())
	}
	if a := u.get("/audit?cursor=x"); a.status != http.StatusNotFound {
		t.Errorf("got %d", a.status)
	}
}

func TestCancelRunning(t *testing.T) {
	u := newSite(t, Config{})
	u.work(func(w *worker.Worker) {
		worker.Handle(w, "long", func(ctx context.Context, job *worker.Job[any]) (any, error) {
			if err := worker.Progress(ctx, 42, "half of it"); err != nil {
				return nil, err
			}
			<-ctx.Done()
			return nil, context.Cause(ctx)
		})
	})
	here := fmt.Sprintf("/jobs/%d", u.add("long", `{}`))
	u.eventually(func() bool { return strings.Contains(u.page(here).text(), "42 % half of it") }, "the job runs")
	a := u.page(here)
	u.has(a, "What it is doing", "running", "Stop…", "Ask it to stop", "worker-1")
	u.hasNot(a, "Run now", "Delete…", "Edit and retry")
	u.has(u.page("/jobs?state=running&worker=worker-1"), "long", "42 %")
	for _, part := range []string{"retry", "delete", "reschedule", "edit"} {
		if a := u.post(here+"/"+part, url.Values{"confirm": {"yes"}, "revision": {"0"}, "payload": {"{}"}}); a.status != http.StatusConflict {
			t.Errorf("%s of a running job: %d %s", part, a.status, a.text())
		}
	}
	stop := u.post(here+"/cancel", url.Values{"reason": {"the customer rang"}})
	if stop.status != http.StatusSeeOther || stop.location != here {
		t.Fatalf("got %d %s", stop.status, stop.text())
	}
	u.eventually(func() bool { return strings.Contains(u.page(here).text(), "How it ended") }, "the job ends")
	u.has(u.page(here), "cancelled", "the customer rang")
	u.has(u.page("/audit?action=cancel"), "because: the customer rang")
}

func TestEditAndRetry(t *testing.T) {
	u := newSite(t, Config{})
	id := u.add("mail", `{"to": "bob", "token": "s3cret", "n": 12345678901234567890.10, "list": [1, 2, 3]}`)
	u.exec(`select from offstage.permanently_fail_jobs(array[$1::bigint], 'Error: nobody is called bob')`, id)
	group := pgtest.One[string](t, u.pool, `select fingerprint from offstage_private.job where failed`)
	if a := u.page(fmt.Sprintf("/jobs/%d", id)); !strings.Contains(a.body, `href="/errors/`+group+`"`) {
		t.Error("the job does not lead to those that fail like it")
	}
	u.has(u.page("/errors/"+group), "nobody is called bob")
	here := fmt.Sprintf("/jobs/%d", id)
	form := u.page(here + "/edit")
	u.has(form, "Some values are hidden", "12345678901234567890.10", "Show the changes…")
	u.hasNot(form, "s3cret")
	revision := regexp.MustCompile(`name="revision" value="(\d+)"`).FindStringSubmatch(form.body)[1]
	typed := url.Values{
		"revision": {revision}, "priority": {"-5"}, "max_attempts": {"25"},
		"payload": {"{\r\n  \"to\": \"ada\",\r\n  \"token\": \"•••\",\r\n  \"n\": 12345678901234567890.10,\r\n  \"list\": [1, 3]\r\n}"},
	}
	diff := u.post(here+"/edit", typed)
	u.has(diff, "Save and retry?", `− removed "to": "bob"`, `+ added "to": "ada"`, "3 lines change", "Priority 0 → -5", "− removed 2,")
	u.hasNot(diff, "s3cret", "Max attempts")
	state := func() string { return pgtest.One[string](t, u.pool, `select state from offstage.jobs`) }
	if state() != "failed" {
		t.Fatal("the difference has done something")
	}
	// Back to the form keeps what was typed.
	typed.Set("confirm", "no")
	u.has(u.post(here+"/edit", typed), "Show the changes…", `"to": "ada"`)
	// What cannot be saved is said above the form, which keeps it, too.
	for want, change := range map[string][2]string{
		"The payload is no JSON. Line 2":                    {"payload", "{\n\"to\": ada}"},
		"A hidden value cannot be put back":                 {"payload", `{"other": {"token": "•••"}}`},
		"Priority must be a whole number from -32768":       {"priority", "1e9"},
		"Max attempts must be a whole number from 1":        {"max_attempts", "0"},
		"The form does not say which revision":              {"revision", ""},
		"nested more than 200 levels deep":                  {"payload", deep(1000)},
		`The payload holds \u0000`:                          {"payload", `"\u0000"`},
		"The payload is no JSON. The text is not UTF-8":     {"payload", "\"\xff\""},
		"The payload is no JSON. Line 1: unexpected end of": {"payload", ""},
	} {
		bad := url.Values{}
		for k, v := range typed {
			bad[k] = v
		}
		bad.Del("confirm")
		bad.Set(change[0], change[1])
		a := u.post(here+"/edit", bad)
		if a.status != http.StatusUnprocessableEntity {
			t.Errorf("%s: got %d", want, a.status)
		}
		u.has(a, want)
	}
	// Somebody else was faster.
	u.exec(`select from offstage.edit_job($1, payload => '{"to": "carol"}')`, id)
	u.exec(`select from offstage.permanently_fail_jobs(array[$1::bigint], 'Error: nobody is called carol')`, id)
	typed.Set("confirm", "yes")
	conflict := u.post(here+"/edit", typed)
	if conflict.status != http.StatusConflict {
		t.Fatalf("got %d", conflict.status)
	}
	u.has(conflict, "Somebody changed this job while you were editing. Nothing was saved.", `"to": "carol"`, `"to": "ada"`)
	if state() != "failed" {
		t.Fatal("a conflict has done something")
	}
	// The new form is for what is there now; the old one's hidden value is gone with it.
	typed.Set("revision", regexp.MustCompile(`name="revision" value="(\d+)"`).FindStringSubmatch(conflict.body)[1])
	u.has(u.post(here+"/edit", typed), "A hidden value cannot be put back")
	u.exec(`select from offstage.edit_job($1, payload => '{"to": "carol", "token": "s3cret"}')`, id)
	typed.Set("revision", fmt.Sprint(pgtest.One[int](t, u.pool, `select revision from offstage.jobs`)))
	saved := u.post(here+"/edit", typed)
	if saved.status != http.StatusSeeOther || saved.location != here {
		t.Fatalf("got %d %s", saved.status, saved.text())
	}
	if got := pgtest.One[string](t, u.pool, `select offstage.job_payload($1)::text`, id); got != `{"to":"ada","token":"s3cret","n":12345678901234567890.10,"list":[1,3]}` {
		t.Errorf("saved %s", got)
	}
	if state() != "waiting" || pgtest.One[int](t, u.pool, `select priority from offstage.jobs`) != -5 {
		t.Errorf("the job is %s", state())
	}
	audit := u.page("/audit?action=edit")
	u.has(audit, "edit", "ada", "what changed", `+ added "to": "ada"`)
	u.hasNot(audit, "s3cret")
}

func TestErrorsPages(t *testing.T) {
	u := newSite(t, Config{})
	u.has(u.page("/errors"), "No errors")
	for i := range 3 {
		u.add("charge", fmt.Sprintf(`{"card": %d}`, i))
	}
	u.add("mail", `{}`)
	u.work(func(w *worker.Worker) {
		worker.Handle(w, "charge", func(ctx context.Context, job *worker.Job[any]) (any, error) {
			return nil, offstage.Fail(fmt.Errorf("TimeoutError: no answer for job %d after 3000 ms\n    at charge.js:7", job.ID))
		})
		worker.Handle(w, "mail", func(ctx context.Context, job *worker.Job[any]) (any, error) {
			return nil, offstage.Fail(errors.New("connect ECONNREFUSED 127.0.0.1:25"))
		})
	})
	u.eventually(func() bool { return strings.Contains(u.page("/jobs").text(), "failed 4") }, "all fail")
	list := u.page("/errors")
	u.has(list, "TimeoutError", "no answer for job <n> after <n> ms", "ECONNREFUSED", "charge", "mail")
	if got := len(rows(list)); got != 2 {
		t.Fatalf("got %d groups", got)
	}
	one := u.page("/errors?task=charge")
	if got := rows(one); len(got) != 1 {
		t.Fatalf("got %d groups of a task", len(got))
	}
	u.has(u.page("/errors?task=none"), "No errors of this task", "select * from offstage.errors(task => 'none');")
	fingerprint := rows(one)[0]
	group := u.page("/errors/" + fingerprint)
	u.has(group, "TimeoutError", "at charge.js:7", "Retry 3 failed…", "Delete 3 failed…", "no answer for job <n> after <n> ms")
	if got := len(rows(group)); got != 3 {
		t.Errorf("got %d jobs of the group", got)
	}
	encoded := regexp.MustCompile(`name="filter" value="([^"]*)"`).FindStringSubmatch(group.body)
	if encoded == nil {
		t.Fatal("the group cannot be retried")
	}
	filter := strings.ReplaceAll(encoded[1], "&amp;", "&")
	u.has(u.post("/jobs/bulk", url.Values{"do": {"delete"}, "all": {"yes"}, "filter": {filter}}), "Delete 3 jobs?", `of task "charge" that failed with error `+fingerprint)
	u.run(u.s.Run)
	done := u.post("/jobs/bulk", url.Values{"do": {"delete"}, "all": {"yes"}, "filter": {filter}, "confirm": {"yes"}})
	u.eventually(func() bool { return strings.Contains(u.page(done.location).text(), "Deleted 3") }, "the group is deleted")
	u.has(u.page("/errors/"+fingerprint), "None: the jobs were tried again, or are gone.")
	if a := u.get("/errors/nothing"); a.status != http.StatusNotFound {
		t.Errorf("got %d", a.status)
	}
	u.role = guard.Viewer
	u.hasNot(u.page("/errors/"+fingerprint), "failed…")
}

// Payloads may be as large as they like: the page stays small, and the whole is a file.
func TestLargePayload(t *testing.T) {
	u := newSite(t, Config{})
	id := pgtest.One[int64](t, u.pool, `select id from offstage.add_job('big', json_build_object('text', repeat('é', 2500000)), run_at => now() + interval '1 day')`)
	deepID := pgtest.One[int64](t, u.pool, `select id from offstage.add_job('deep', (repeat('[', 2000) || repeat(']', 2000))::json, run_at => now() + interval '1 day')`)
	here := fmt.Sprintf("/jobs/%d", id)
	a := u.page(here)
	u.has(a, "This is the beginning; the whole is 4.8 MB.")
	if len(a.body) > 200<<10 {
		t.Errorf("the page has %d bytes", len(a.body))
	}
	if f := u.get(here + "/payload"); f.status != http.StatusOK || len(f.body) < 5<<20-300000 {
		t.Errorf("got %d with %d bytes", f.status, len(f.body))
	}
	if a := u.get(here + "/edit"); a.status != http.StatusUnprocessableEntity {
		t.Errorf("got %d", a.status)
	}
	u.has(u.page(fmt.Sprintf("/jobs/%d", deepID)), "Shown as text: the JSON is nested more than 200 levels deep.")
}
