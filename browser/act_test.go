package browser

import (
	"fmt"
	"testing"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/internal/pgtest"
	"github.com/offstage-dev/offstage/internal/web/guard"
)

// Thousands of failed jobs of one kind are retried from the page of their error: the count first, then all of them, and no other.
func TestRetryByFilter(t *testing.T) {
	t.Parallel()
	s := newStage(t, "", guard.Config{Open: true})
	fail := `select count(*) from offstage.permanently_fail_jobs(array(
		select j.id from offstage.add_jobs(array(select row($1::text, '{}', null, null, null, null, null, null)::offstage.job_spec from generate_series(1, $2::int))) j), $3::text)`
	pgtest.One[int](t, s.pool, fail, "render_pdf", 5000, "TypeError: nothing to print on page 7")
	pgtest.One[int](t, s.pool, fail, "render_pdf", 3, "the printer is on fire")
	b := s.open(1280, 860, false)
	b.visit("/errors")
	b.press("#main", "TypeError: nothing to print on page <n>")
	b.text("nothing to print on page <n>")
	b.text("5,000")
	b.press("#main", "Retry 5,000 failed…")
	b.until(`/retry (5,000|[\d,]+\+) jobs\?/i.test(document.querySelector('#main').innerText)`) // counting ends after 80 ms
	js[any](b, `[...document.querySelectorAll('#main button')].find(x => /^retry [\d,]+\+? jobs$/i.test(x.innerText.trim())).click()`)
	b.text("finished")
	s.eventually(`select (select count(*) from offstage.jobs where state = 'waiting') = 5000 and (select count(*) from offstage.jobs where state = 'failed') = 3`)

	b.visit("/audit")
	b.text("retry")
	b.calm()
}

// A job that failed for what is in its payload is mended by hand: the change is shown before it is saved, and then the job runs.
func TestEditAndRetry(t *testing.T) {
	t.Parallel()
	s := newStage(t, "", guard.Config{Open: true})
	s.work()
	id, err := s.client.Add(t.Context(), "send_email", order{Email: "ada@example,com", Fail: "no such domain: example,com"}, offstage.Options{})
	if err != nil {
		t.Fatal(err)
	}
	b := s.open(1280, 860, false)
	b.visit(fmt.Sprintf("/jobs/%d", id))
	b.text("no such domain")
	b.press("#main", "Edit and retry…")
	b.until(`document.querySelector('#main textarea[name=payload]')`)
	js[any](b, `(() => { const t = document.querySelector('#main textarea[name=payload]'); t.value = '{"email": "ada@example.com"}' })()`)
	js[any](b, `document.querySelector('#main textarea[name=payload]').form.querySelector('button.main').click()`)
	b.text("Save and retry?")
	b.until(`document.querySelector('#main').innerText.includes('ada@example,com') && document.querySelector('#main').innerText.includes('ada@example.com')`)
	b.press("#main", "Save and retry")
	b.until(fmt.Sprintf(`location.pathname === '/jobs/%d'`, id))
	b.text("succeeded")
	b.text("sent_to")
	s.eventually(`select outcome = 'succeeded' from offstage.job_status($1)`, id)
	b.calm()
}

// A running job is watched, and stopped: what its handler reports shows by itself.
func TestStopRunning(t *testing.T) {
	t.Parallel()
	s := newStage(t, "", guard.Config{Open: true})
	s.work()
	id, err := s.client.Add(t.Context(), "render_pdf", order{Hold: true}, offstage.Options{})
	if err != nil {
		t.Fatal(err)
	}
	b := s.open(1280, 860, true)
	b.visit(fmt.Sprintf("/jobs/%d", id))
	b.text("two of five pages")
	b.press("#main", "Stop…")
	b.press("#main", "Ask it to stop")
	b.text("cancelled")
	s.eventually(`select outcome = 'cancelled' from offstage.job_status($1)`, id)
	b.calm()
}

// A task is paused and let go on, on a phone; a schedule is run by hand; a queue's limit is set.
func TestManage(t *testing.T) {
	t.Parallel()
	s := newStage(t, "", guard.Config{Open: true})
	running, _, _ := s.story()
	b := s.open(390, 844, false)
	b.visit("/tasks/sync_customer")
	b.press("#main", "Pause")
	s.eventually(`select paused from offstage_private.task where name = 'sync_customer'`)
	b.text("paused")
	b.press("#main", "Resume")
	s.eventually(`select not paused from offstage_private.task where name = 'sync_customer'`)

	b.visit("/schedules/nightly-report")
	b.press("#main", "Run now")
	s.eventually(`select last_job_id is not null from offstage_private.schedule where name = 'nightly-report'`)

	b.visit("/queues/reports")
	js[any](b, `(() => { const i = document.querySelector('#main input[name=concurrency]'); i.value = '3'; i.form.requestSubmit() })()`)
	s.eventually(`select concurrency = 3 from offstage.queues where queue_name = 'reports'`)
	close(s.hold)
	s.eventually(`select outcome = 'succeeded' from offstage.job_status($1)`, running)
	b.calm()
}

// A form adds one job, however often it is sent, and whatever the page does meanwhile; and another one when it is used again.
func TestAddOnce(t *testing.T) {
	t.Parallel()
	s := newStage(t, "", guard.Config{Open: true})
	s.add("hello", offstage.Options{RunAt: inHours(1)})
	b := s.open(1280, 860, false)
	b.visit("/tasks/hello")
	key := `document.querySelector('#add input[name=once]').value`
	first := js[string](b, key)
	s.add("hello", offstage.Options{RunAt: inHours(-1)}) // the page brings itself up to date
	b.until(`[...document.querySelectorAll('.stat')].some((e) => /Waiting\s*1/.test(e.innerText))`)
	if got := js[string](b, key); got != first || len(got) != 32 {
		t.Errorf("the key was %q, and is %q", first, got)
	}
	for n := range 2 {
		js[any](b, `(() => {
			const form = document.querySelector('#add form')
			form.requestSubmit(); form.requestSubmit(); form.requestSubmit()
		})()`)
		b.until(fmt.Sprintf(`document.querySelector('#flash').innerText.includes('Job %d is added')`, n+3))
		b.until(key + ` !== '` + first + `'`)
		first = js[string](b, key)
		s.eventually(`select count(*) = $1 from offstage.jobs`, n+3)
	}
	b.calm()
}

// What is in an address is on the page: it can be sent to somebody.
func TestDeepLinks(t *testing.T) {
	t.Parallel()
	s := newStage(t, "", guard.Config{Open: true})
	for n := range 5 {
		if _, err := s.client.Add(t.Context(), "hello", map[string]any{"user": map[string]int{"id": n}}, offstage.Options{RunAt: inHours(1), Queue: "mail"}); err != nil {
			t.Fatal(err)
		}
	}
	b := s.open(1280, 860, false)
	b.visit("/jobs?state=scheduled&queue=mail&payload_path=user.id&payload_value=3")
	b.until(`document.querySelectorAll('[data-rows] [data-key]').length === 1`)
	b.text("user.id")
	// The same, typed.
	b.visit("/jobs")
	js[any](b, `(() => { const f = document.querySelector('#main form[role=search] input'); f.value = 'queue:mail payload.user.id:3'; f.form.requestSubmit() })()`)
	b.until(`location.search.includes('user.id') && document.querySelectorAll('[data-rows] [data-key]').length === 1`)
	b.calm()
}
