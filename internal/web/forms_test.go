package web

import (
	"bytes"
	"mime/multipart"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/offstage-dev/offstage/internal/pgtest"
)

// A form that is too large, or cannot be read to its end, changes nothing: it is not taken for one with empty fields.
func TestFormsAreReadAsAWhole(t *testing.T) {
	t.Parallel()
	s := newPageSite(t, Config{})
	pgtest.Do(t, s.pool, `select offstage.add_job('mail', run_at => now() + interval '1 h')`)
	large := `{"x":"` + strings.Repeat("x", 11<<20) + `"}`
	s.ask("POST", "/tasks/mail/add", "payload="+large).has(422, "The form cannot be read")
	s.ask("POST", "/tasks/mail/add", "queue=a&payload=%zz").has(422, "The form cannot be read")
	s.ask("POST", "/tasks/mail/configure", "max_attempts=3&keep=%zz").has(422, "The form cannot be read")
	s.ask("POST", "/jobs/1/reschedule", "run_at=%zz").has(422, "The form cannot be read")
	for payload, want := range map[string]int{large: 422, `{"k":1}`: http.StatusSeeOther} {
		var body bytes.Buffer
		form := multipart.NewWriter(&body)
		if err := form.WriteField("payload", payload); err != nil {
			t.Fatal(err)
		}
		if err := form.Close(); err != nil {
			t.Fatal(err)
		}
		if a := s.ask("POST", "/tasks/mail/add", body.String(), "Content-Type", form.FormDataContentType()); a.Code != want {
			t.Errorf("in parts: %d, want %d", a.Code, want)
		}
	}
	if got := pgtest.One[string](t, s.pool, `select string_agg(payload::text, ' ' order by id) from offstage_private.job`); got != `{} {"k":1}` {
		t.Errorf("the jobs have %.100s", got)
	}
	if n := pgtest.One[int](t, s.pool, `select count(*) from offstage_private.audit where action <> 'add'`); n != 0 {
		t.Errorf("%d other things were changed", n)
	}
}

// However often a form that makes something is sent, it makes that once; the form of a page that was loaded again makes another.
func TestFormsMakeOnce(t *testing.T) {
	t.Parallel()
	s := newPageSite(t, Config{})
	s.play()
	s.exec(`select offstage.add_job('mail', queue_name => 'full', run_at => now() + interval '1 h')`)
	const jobs, bulks = `select max(id) || ' jobs' from offstage.jobs`, `select count(*) || ' actions' from offstage.bulks`
	for _, form := range []struct{ page, ask, to, fields, made string }{
		{"/tasks/mail", "", "/tasks/mail/add", "payload=%7B%7D", jobs},
		{"/jobs/1", "", "/jobs/1/duplicate", "", jobs},
		{"/schedules", "", "/schedules/nightly/run", "", jobs},
		{"/schedules/nightly", "", "/schedules/nightly/run", "", jobs},
		{"/schedules", "", "/schedules", "name=weekly&task=mail&expression=%40weekly", `select count(*) || ' schedules' from offstage.schedules`},
		{"/queues/full", "", "/queues/full/purge", "confirm=full", bulks},
		{"/jobs/bulk", "do=retry&ids=2", "/jobs/bulk", "do=retry&confirm=yes&ids=2", bulks},
		{"/jobs/bulk", "do=retry&all=yes&filter=task%3Dmail", "/jobs/bulk", "do=retry&confirm=yes&all=yes&filter=task%3Dmail", bulks},
	} {
		load := func() string {
			t.Helper()
			page := s.get(form.page)
			if form.ask != "" {
				page = s.ask("POST", form.page, form.ask)
			}
			_, rest, _ := strings.Cut(page.has(200).Body.String(), `action="`+form.to+`"`)
			rest, _, _ = strings.Cut(rest, "</form>")
			key := regexp.MustCompile(`name="once" value="(\w{32})"`).FindStringSubmatch(rest)
			if key == nil {
				t.Fatalf("the form of %s on %s has no key", form.to, form.page)
			}
			return form.fields + "&once=" + key[1]
		}
		send := func(body string) (to, made string) {
			t.Helper()
			a := s.ask("POST", form.to, body).has(303)
			return a.Header().Get("Location") + a.Header().Get("Set-Cookie"), s.value(form.made)
		}
		body := load()
		to, made := send(body)
		if again, more := send(body); again != to || more != made {
			t.Errorf("%s, sent again: %s instead of %s, and there are %s instead of %s", form.to, again, to, more, made)
		}
		if form.to == "/schedules" { // which has a name
			s.ask("POST", form.to, load()).has(409, "This name is taken")
			continue
		}
		if other, more := send(load()); more == made {
			t.Errorf("%s of another page: %s, and there are still %s", form.to, other, more)
		}
	}
}
