package web

import (
	"bytes"
	"mime/multipart"
	"net/http"
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
