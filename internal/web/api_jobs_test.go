package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/internal/pgtest"
	"github.com/offstage-dev/offstage/internal/view"
	"github.com/offstage-dev/offstage/worker"
)

func TestAddAndGetJob(t *testing.T) {
	t.Parallel()
	s := newAPISite(t, Config{})
	a := s.call(`POST /jobs {"task": "send", "payload": {"to": "ada", "n": 12345678901234567890}, "queue": "mail", "key": "k/1", "priority": -3, "max_attempts": 4,
		"flags": ["slow"], "run_at": "2100-01-01T00:00:00Z"}`).is(http.StatusCreated)
	id := bodyOf[addedBody](a, 201).ID
	if got := a.header.Get("Location"); got != fmt.Sprintf("/api/v1/jobs/%d", id) {
		t.Errorf("the location is %q", got)
	}
	j := bodyOf[view.Job](s.call(fmt.Sprintf("GET /jobs/%d", id)), 200)
	if j.Task != "send" || *j.Queue != "mail" || *j.Key != "k/1" || j.Priority != -3 || j.MaxAttempts != 4 || !slices.Equal(j.Flags, []string{"slow"}) || j.State != "scheduled" ||
		j.RunAt.Year() != 2100 || string(j.Payload) != `{"to":"ada","n":12345678901234567890}` || j.Why.Because == "" {
		t.Errorf("the job is %+v", j)
	}

	// Once more is not twice.
	first := bodyOf[addedBody](s.call(`POST /jobs {"task": "send"}`, "Idempotency-Key", "abc"), 201)
	again := bodyOf[addedBody](s.call(`POST /jobs {"task": "send"}`, "Idempotency-Key", "abc"), 201)
	other := bodyOf[addedBody](s.call(`POST /jobs {"task": "send"}`, "Idempotency-Key", "abd"), 201)
	if first != again || first == other {
		t.Errorf("with a key it answered %v, %v, and %v with another one", first, again, other)
	}
	if n := pgtest.One[int](t, s.pool, `select count(*) from offstage.jobs`); n != 3 {
		t.Errorf("%d jobs were added", n)
	}
}

// What adds jobs or starts something is done once under a key; the key belongs to the request, so that another one has its own answer.
func TestOnceOverTheAPI(t *testing.T) {
	t.Parallel()
	s := newAPISite(t, Config{})
	s.add("send", nil)
	pgtest.Do(t, s.pool, `select offstage.add_job('send', run_at => now() + interval '1 h')`)
	pgtest.Do(t, s.pool, `select offstage.add_schedule('nightly', 'send', '@daily')`)
	seen := map[string]string{}
	for _, call := range []string{`POST /jobs {"task": "send"}`, "POST /jobs/1/duplicate", "POST /jobs/2/duplicate", "POST /schedules/nightly/run",
		`POST /bulk {"action": "cancel", "ids": ["1"]}`, `POST /bulk {"action": "delete", "ids": ["2"]}`} {
		ask := func(key ...string) string {
			t.Helper()
			a := s.call(call, key...)
			if a.status != 201 && a.status != 202 {
				t.Fatalf("%s: %d %s", call, a.status, a.body)
			}
			return a.header.Get("Location")
		}
		first := ask("Idempotency-Key", "abc")
		if again := ask("Idempotency-Key", "abc"); again != first {
			t.Errorf("%s, with the same key: %s instead of %s", call, again, first)
		}
		if before, there := seen[first]; there {
			t.Errorf("%s has the answer of %s", call, before)
		}
		seen[first] = call
		if other := ask(); other == first {
			t.Errorf("%s without a key: %s again", call, other)
		}
	}
}

// Ids are strings, as large as they may be.
func TestLargeIDs(t *testing.T) {
	t.Parallel()
	s := newAPISite(t, Config{})
	const large = int64(1)<<62 + 1 // beyond 2^53, where JavaScript's numbers end
	pgtest.Do(t, s.pool, fmt.Sprintf(`select setval('offstage_private.job_id', %d)`, large-1))
	if id := s.add("x", nil); id != large {
		t.Fatalf("the id is %d", id)
	}
	text := fmt.Sprint(large)
	if got := bodyOf[view.JobPage](s.call("GET /jobs"), 200); len(got.Jobs) != 1 || got.Jobs[0].ID.String() != text {
		t.Errorf("the list is %+v", got)
	}
	if a := s.call("GET /jobs/" + text).is(200); !strings.Contains(string(a.body), `"id":"`+text+`"`) {
		t.Errorf("the job is %s", a.body)
	}
	s.call(`POST /jobs/` + text + `/cancel`).is(200)
	for _, id := range []string{"9223372036854775807", "9223372036854775808", strings.Repeat("9", 100)} {
		s.call("GET /jobs/"+id).problem(404, isNotFound)
		s.call("GET /jobs/"+id+"/log").problem(404, isNotFound)
		s.call("POST /jobs/"+id+"/retry").problem(404, isNotFound)
		s.call("DELETE /jobs/"+id).problem(404, isNotFound)
		s.call("POST /jobs/"+id+"/duplicate").problem(404, isNotFound)
		s.call("GET /bulk/"+id).problem(404, isNotFound)
	}
	for _, id := range []string{"-1", "0x7", "7.0", "1e3", "seven", "+7", "%20"} {
		s.call("GET /jobs/"+id).problem(422, isInvalid, "path.id")
	}
	s.call(`POST /bulk {"action": "retry", "ids": ["9223372036854775808"]}`).problem(422, isInvalid, "9223372036854775807")
}

func TestListJobs(t *testing.T) {
	t.Parallel()
	s := newAPISite(t, Config{})
	var want []string
	for i := range 25 {
		id := s.add("page", map[string]any{"user": map[string]int{"id": i % 2}}, offstage.Options{RunAt: time.Now().Add(time.Duration(i+1) * time.Hour)})
		want = append(want, fmt.Sprint(id))
	}
	s.add("other", nil)
	var got []string
	cursor, pages := "", 0
	for {
		page := bodyOf[view.JobPage](s.call("GET /jobs?task=page&limit=10&cursor="+cursor), 200)
		for _, j := range page.Jobs {
			got = append(got, j.ID.String())
		}
		pages++
		if cursor = page.Older; cursor == "" || pages > 10 {
			break
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) || pages > 4 {
		t.Errorf("%d pages had %v", pages, got)
	}
	if page := bodyOf[view.JobPage](s.call("GET /jobs?payload_path=user.id&payload_value=1&limit=500"), 200); len(page.Jobs) != 12 {
		t.Errorf("the payload was found %d times", len(page.Jobs))
	}
	counts := bodyOf[map[string]view.Count](s.call("GET /jobs/counts?task=page"), 200)
	if counts["scheduled"].N != 25 {
		t.Errorf("the counts are %v", counts)
	}
	s.call("GET /jobs?cursor=nonsense").problem(422, isInvalid, "cursor")
	s.call("GET /jobs?payload_value=1").problem(422, isInvalid, "payload_path")
	s.call("GET /jobs?limit=501").problem(422, isInvalid, "500")
	s.call("GET /jobs?limit=0").problem(422, isInvalid, "query.limit")
	s.call("GET /jobs?stat=failed").problem(422, isInvalid, "query.stat", "known are state, task")
	s.call("GET /jobs?state=dead").problem(422, isInvalid, "scheduled, waiting")
	s.call("GET /jobs?added_after=yesterday").problem(422, isInvalid, "query.added_after")
}

func TestChangeOneJob(t *testing.T) {
	t.Parallel()
	s := newAPISite(t, Config{})
	started, gate := make(chan struct{}, 10), make(chan struct{})
	s.work(func(w *worker.Worker) {
		worker.Handle(w, "fail", func(ctx context.Context, job *worker.Job[any]) (struct{}, error) {
			return struct{}{}, offstage.Fail(errors.New("boom"))
		})
		worker.Handle(w, "wait", func(ctx context.Context, job *worker.Job[any]) (struct{}, error) {
			started <- struct{}{}
			select {
			case <-gate:
				return struct{}{}, nil
			case <-ctx.Done():
				return struct{}{}, context.Cause(ctx)
			}
		})
	})
	wait := func(id int64) jobStatus {
		return bodyOf[jobStatus](s.call(fmt.Sprintf("GET /jobs/%d/wait?timeout=1m", id)), 200)
	}
	do := func(id int64, verb string) *apiAnswer { return s.call(fmt.Sprintf("POST /jobs/%d/%s", id, verb)) }

	failed := s.add("fail", nil)
	wait(failed)
	if got := bodyOf[acted](do(failed, "retry"), 200); got.Answer != "retried" {
		t.Errorf("retry answered %+v", got)
	}
	wait(failed)
	if got := bodyOf[acted](s.call(fmt.Sprintf(`POST /jobs/%d/edit {"payload": {"a": 2}, "priority": 7, "run_at": "2100-01-01T00:00:00Z"}`, failed)), 200); got.Answer != "edited" {
		t.Errorf("edit answered %+v", got)
	}
	j := bodyOf[view.Job](s.call(fmt.Sprintf("GET /jobs/%d", failed)), 200)
	if string(j.Payload) != `{"a":2}` || j.Priority != 7 || j.State != "scheduled" {
		t.Errorf("the edited job is %+v", j)
	}
	s.call(fmt.Sprintf(`POST /jobs/%d/edit {"priority": 8, "revision": %d}`, failed, j.Revision-1)).problem(409, isChanged, "has changed")
	s.call(fmt.Sprintf(`POST /jobs/%d/reschedule {"run_at": "2101-01-01T00:00:00Z"}`, failed)).is(200)
	j = bodyOf[view.Job](s.call(fmt.Sprintf("GET /jobs/%d", failed)), 200)
	if j.RunAt.Year() != 2101 {
		t.Errorf("it was rescheduled to %s", j.RunAt)
	}
	copied := bodyOf[addedBody](s.call(fmt.Sprintf(`POST /jobs/%d/duplicate {"payload": [1]}`, failed)), 201)
	if j := bodyOf[view.Job](s.call("GET /jobs/"+copied.ID.String()), 200); j.Task != "fail" || string(j.Payload) != "[1]" {
		t.Errorf("the duplicate is %+v", j)
	}
	if got := bodyOf[acted](s.call(fmt.Sprintf("DELETE /jobs/%d", failed)), 200); got.Answer != "deleted" {
		t.Errorf("delete answered %+v", got)
	}
	do(failed, "retry").problem(409, isConflict, "has removed", "duplicate")

	running := s.add("wait", nil)
	<-started
	do(running, "retry").problem(409, isRunning, "is running")
	s.call(fmt.Sprintf("DELETE /jobs/%d", running)).problem(409, isRunning, "is running", "cancel it first")
	s.call(fmt.Sprintf(`POST /jobs/%d/edit {"priority": 8}`, running)).problem(409, isRunning, "is running")
	if got := bodyOf[acted](s.call(fmt.Sprintf(`POST /jobs/%d/cancel {"reason": "enough"}`, running)), 200); got.Answer != "requested" {
		t.Errorf("cancel answered %+v", got)
	}
	if got := wait(running); got.State != "cancelled" || *got.Error != "enough" {
		t.Errorf("it ended as %+v", got)
	}
	do(running, "cancel").problem(409, isConflict)

	later := s.add("wait", nil, offstage.Options{RunAt: time.Now().Add(time.Hour)})
	if got := bodyOf[acted](do(later, "cancel"), 200); got.Answer != "cancelled" {
		t.Errorf("cancel answered %+v", got)
	}
	do(4711, "retry").problem(404, isNotFound)
	do(4711, "duplicate").problem(404, isNotFound)
	s.call(`POST /jobs/4711/edit {"priority": 1}`).problem(404, isNotFound)
	close(gate)

	// All of it was done by somebody, through the API.
	if n := pgtest.One[int](t, s.pool, `select count(*) from offstage.audit() a where a.who <> 'anonymous' or a.source <> 'api'`); n != 0 {
		t.Errorf("%d changes are noted as somebody else's", n)
	}
}

func TestJobLog(t *testing.T) {
	t.Parallel()
	s := newAPISite(t, Config{})
	s.work(func(w *worker.Worker) {
		worker.Handle(w, "talk", func(ctx context.Context, job *worker.Job[any]) (struct{}, error) {
			for i := range 600 {
				worker.Log(ctx).Info(fmt.Sprint("line ", i), "password", "secret")
			}
			if job.Attempt < 3 {
				return struct{}{}, offstage.RetryIn(0, errors.New("once more"))
			}
			return struct{}{}, nil
		})
	})
	id := s.add("talk", nil)
	s.call(fmt.Sprintf("GET /jobs/%d/wait?timeout=1m", id)).is(200)
	lines, after := 0, ""
	for {
		page := bodyOf[logPage](s.call(fmt.Sprintf("GET /jobs/%d/log?after=%s", id, after)), 200)
		if len(page.Lines) == 0 {
			break
		}
		for _, l := range page.Lines {
			if l.Message != fmt.Sprint("line ", lines%600) || l.Attempt != lines/600+1 || strings.Contains(string(l.Attrs), "secret") {
				t.Fatalf("line %d is %+v", lines, l)
			}
			lines++
		}
		after = page.After
	}
	if lines != 1800 {
		t.Errorf("%d lines were read", lines)
	}
	s.call(fmt.Sprintf("GET /jobs/%d/log?after=x", id)).problem(422, isInvalid, "query.after")
	s.call("GET /jobs/4711/log").problem(404, isNotFound)
}

func TestBulk(t *testing.T) {
	t.Parallel()
	s := newAPISite(t, Config{})
	s.runBulks()
	for i := range 5 {
		s.add("many", i, offstage.Options{RunAt: time.Now().Add(time.Hour)})
	}
	other := s.add("other", nil, offstage.Options{RunAt: time.Now().Add(time.Hour)})

	dry := bodyOf[bulkStarted](s.call(`POST /bulk?dry_run=true {"action": "cancel", "filter": {"task": "many"}}`), 200)
	if !dry.DryRun || dry.Matched.N != 5 || dry.Matched.More || dry.Bulk != nil {
		t.Errorf("the dry run says %+v", dry)
	}
	if n := pgtest.One[int](t, s.pool, `select count(*) from offstage.jobs`); n != 6 {
		t.Fatalf("the dry run left %d jobs", n)
	}
	a := s.call(`POST /bulk {"action": "cancel", "filter": {"task": "many"}, "reason": "not wanted"}`)
	started := bodyOf[bulkStarted](a, 202)
	if got := a.header.Get("Location"); got != "/api/v1/bulk/"+started.Bulk.ID.String() {
		t.Errorf("the location is %q", got)
	}
	var b view.Bulk
	pgtest.Eventually(t, 30*time.Second, func() bool {
		b = bodyOf[view.Bulk](s.call("GET /bulk/"+started.Bulk.ID.String()), 200)
		return b.EndedAt != nil
	})
	if b.State != "done" || b.Done != 5 || b.By != "anonymous" {
		t.Errorf("the action ended as %+v", b)
	}
	if got := pgtest.List[int64](t, s.pool, `select id from offstage.jobs`); !slices.Equal(got, []int64{other}) {
		t.Errorf("left are %v", got)
	}
	s.call(fmt.Sprintf(`POST /bulk {"action": "delete", "ids": ["%d"]}`, other)).is(202)
	pgtest.Eventually(t, 30*time.Second, func() bool { return pgtest.One[int](t, s.pool, `select count(*) from offstage.jobs`) == 0 })

	for body, says := range map[string]string{
		`{"action": "cancel"}`: "ids or filter", `{"action": "cancel", "ids": ["1"], "filter": {"state": "failed"}}`: "ids or filter", `{"action": "cancel", "filter": {}}`: "is empty",
		`{"action": "explode", "ids": ["1"]}`: "body.action", `{"action": "cancel", "ids": [1]}`: "body.ids[0]: expected string", `{"action": "cancel", "ids": []}`: "body.ids",
		`{"action": "cancel", "filter": {"state": "succeeded"}}`: "have ended", `{"action": "retry", "ids": ["1"], "reason": "x"}`: "for the action cancel",
		`{"action": "retry", "ids": ["1"], "run_at": "2100-01-01T00:00:00Z"}`: "for the action reschedule", `{"action": "retry", "filter": {"tusk": "x"}}`: "body.filter.tusk",
	} {
		s.call("POST /bulk "+body).problem(422, isInvalid, says)
		s.call("POST /bulk?dry_run=true "+body).problem(422, isInvalid, says)
	}
	s.call("GET /bulk/4711").problem(404, isNotFound)
}

// What rules hide is hidden wherever it is shown.
func TestRedaction(t *testing.T) {
	t.Parallel()
	s := newAPISite(t, Config{})
	s.work(func(w *worker.Worker) {
		worker.Handle(w, "secret", func(ctx context.Context, job *worker.Job[any]) (map[string]string, error) {
			return map[string]string{"password": "hunter2"}, nil
		})
	})
	id := s.add("secret", map[string]string{"password": "hunter2"})
	for _, path := range []string{"/jobs/%d/wait?timeout=1m", "/jobs/%d", "/jobs/%d/events"} {
		r, err := http.NewRequestWithContext(pgtest.Context(t), http.MethodGet, s.http.URL+"/api/v1"+fmt.Sprintf(path, id), nil)
		if err != nil {
			t.Fatal(err)
		}
		if a := s.send(r).is(200); strings.Contains(string(a.body), "hunter2") || !strings.Contains(string(a.body), "password") {
			t.Errorf("%s answers %s", path, a.body)
		}
	}
}

// Who edits what they were shown does not destroy what they were not.
func TestEditOfHiddenValues(t *testing.T) {
	t.Parallel()
	s := newAPISite(t, Config{})
	id := s.add("secret", map[string]any{"password": "hunter2", "n": 1}, offstage.Options{RunAt: time.Now().Add(time.Hour)})
	s.call(fmt.Sprintf(`POST /jobs/%d/edit {"payload": {"password": "•••", "n": 2}}`, id)).is(200)
	other := bodyOf[addedBody](s.call(fmt.Sprintf(`POST /jobs/%d/duplicate {"payload": {"password": "•••", "n": 3}}`, id)), 201).ID
	for id, n := range map[int64]int{id: 2, int64(other): 3} {
		if got := pgtest.One[string](t, s.pool, `select payload::jsonb::text from offstage_private.job where id = $1`, id); got != fmt.Sprintf(`{"n": %d, "password": "hunter2"}`, n) {
			t.Errorf("the payload is %s", got)
		}
	}
	s.call(fmt.Sprintf(`POST /jobs/%d/edit {"payload": {"token": "•••"}}`, id)).problem(422, isInvalid, "body.payload")
}

// JSON that is so deep that encoding/json would refuse to encode it is answered, too.
func TestDeepJSONIsAnswered(t *testing.T) {
	t.Parallel()
	s := newAPISite(t, Config{})
	for _, depth := range []int{100, 9000, 9_999, 12_000} {
		text := strings.Repeat("[", depth) + strings.Repeat("]", depth)
		id := pgtest.One[int64](t, s.pool, `select id from offstage.add_job('deep', $1::text::json)`, text)
		a := s.call(fmt.Sprintf("GET /jobs/%d", id)).is(200)
		var j struct{ Payload json.RawMessage }
		if err := json.Unmarshal(a.body, &j); err != nil {
			t.Errorf("%d levels: %v", depth, err)
		} else if got := strings.Trim(string(j.Payload), `"`); got != text && got != "•••" {
			t.Errorf("%d levels: %.100s", depth, got)
		}
	}
}
