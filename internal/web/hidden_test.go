package web

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/internal/pgtest"
	"github.com/offstage-dev/offstage/internal/view"
	"github.com/offstage-dev/offstage/internal/web/guard"
)

// What is hidden cannot be found out by searching for it: not by its path, not through the array it is in, and not as a part of
// the object around it.
func TestHiddenValuesCannotBeGuessed(t *testing.T) {
	t.Parallel()
	s := newAPISite(t, Config{Guard: guard.Config{Redact: []string{"cards.number"}}})
	s.add("x", json.RawMessage(`{"password":"geheim","user":{"pin":"1234"},"cards":[{"number":"4711"}],"open":"yes"}`))
	for _, path := range []string{"password", "user.pin", "cards.0.number", "cards.-1.number", "cards. 0.number", "cards.+0.number"} {
		filter := "payload_path=" + url.QueryEscape(path) + "&payload_value=x"
		s.call("GET /jobs?"+filter).problem(422, isInvalid, "is hidden here")
		s.call("GET /jobs/counts?"+filter).problem(422, isInvalid, "is hidden here")
		for _, dry := range []string{"true", "false"} {
			s.call(fmt.Sprintf(`POST /bulk?dry_run=%s {"action":"cancel","filter":{"payload_path":%q}}`, dry, path)).problem(422, isInvalid, "is hidden here")
		}
	}
	for path, value := range map[string]string{"user": `{"pin":"1234"}`, "cards": `[{"number":"4711"}]`, "cards.0": `{"number":"4711"}`} {
		page := bodyOf[view.JobPage](s.call("GET /jobs?payload_path="+path+"&payload_value="+url.QueryEscape(value)), 200)
		if len(page.Jobs) != 0 {
			t.Errorf("%s: the object around a hidden value was compared", path)
		}
	}
	if page := bodyOf[view.JobPage](s.call("GET /jobs?payload_path=open&payload_value=yes"), 200); len(page.Jobs) != 1 {
		t.Errorf("by an open value %d jobs were found", len(page.Jobs))
	}
	if n := pgtest.One[int](t, s.pool, `select count(*) from offstage.bulks`); n != 0 {
		t.Errorf("%d actions were begun", n)
	}
}

// The audit has payloads within its entries: what is hidden of them is hidden there, too.
func TestHiddenValuesInTheAudit(t *testing.T) {
	t.Parallel()
	s := newAPISite(t, Config{Guard: guard.Config{Redact: []string{"card.number"}}})
	id := s.add("x", json.RawMessage(`{"card":{"number":"4711"}}`), offstage.Options{RunAt: time.Now().Add(time.Hour)})
	s.call(fmt.Sprintf(`POST /jobs/%d/edit {"payload":{"card":{"number":"4712"}}}`, id)).is(200)
	for _, path := range []string{"/api/v1/audit", "/audit", fmt.Sprintf("/api/v1/audit?target=job+%d", id)} {
		w, _ := s.serve(http.MethodGet, path, "")
		if w.Code != 200 || !strings.Contains(w.Body.String(), "card") || strings.Contains(w.Body.String(), "471") {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
}

// Clients that escape what is not ASCII send hidden values back as they got them, too; and schedules have payloads as jobs have.
func TestHiddenValuesComeBack(t *testing.T) {
	t.Parallel()
	s := newAPISite(t, Config{})
	id := s.add("x", json.RawMessage(`{"password":"geheim"}`), offstage.Options{RunAt: time.Now().Add(time.Hour)})
	for _, hidden := range []string{`•••`, `\u2022\u2022\u2022`, `\u2022••`} {
		s.call(fmt.Sprintf(`POST /jobs/%d/edit {"payload":{"password":"%s","n":1}}`, id, hidden)).is(200)
		if got := pgtest.One[string](t, s.pool, `select payload ->> 'password' from offstage_private.job where id = $1`, id); got != "geheim" {
			t.Errorf("%s: the password is %q now", hidden, got)
		}
		s.call(`PUT /schedules/` + url.PathEscape("s"+hidden) + ` {"task":"x","expression":"@daily","payload":{"token":"geheim"}}`).is(200)
		s.call(`PUT /schedules/` + url.PathEscape("s"+hidden) + ` {"task":"x","expression":"@daily","payload":{"token":"` + hidden + `","n":2}}`).is(200)
		if got := pgtest.One[string](t, s.pool, `select payload ->> 'token' from offstage_private.schedule where name = $1`, "s"+hidden); got != "geheim" {
			t.Errorf("%s: the token of the schedule is %q now", hidden, got)
		}
		s.call(`PUT /schedules/new {"task":"x","expression":"@daily","payload":{"token":"`+hidden+`"}}`).problem(422, isInvalid, "where nothing was hidden")
	}
}
