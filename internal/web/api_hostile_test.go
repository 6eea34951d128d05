package web

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
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
)

// byHeader takes everybody for who they say they are.
func byHeader(r *http.Request) (string, guard.Role, bool) {
	role, err := guard.ParseRole(r.Header.Get("X-Role"))
	return r.Header.Get("X-Role"), role, err == nil
}

var hole = regexp.MustCompile(`\{[a-z]+\}`)

// Whoever may not write cannot, by any operation that the document has, whatever they send.
func TestRoles(t *testing.T) {
	t.Parallel()
	s := newAPISite(t, Config{Guard: guard.Config{Authenticate: byHeader}})
	readOnly := newAPISite(t, Config{Guard: guard.Config{Authenticate: byHeader, ReadOnly: true}})
	id := s.add("x", nil, offstage.Options{Queue: "x", RunAt: time.Now().Add(time.Hour)})
	pgtest.Do(t, s.pool, `select offstage.add_schedule('x', 'x', '@daily')`)
	state := func() string {
		return pgtest.One[string](t, s.pool, `select concat((select jsonb_agg(j order by id) from offstage_private.job j), (select jsonb_agg(q) from offstage_private.queue_setting q),
			(select jsonb_agg(t) from offstage_private.task t), (select jsonb_agg(x) from offstage_private.schedule x), (select count(*) from offstage_private.bulk),
			(select count(*) from offstage_private.audit))`)
	}
	before := state()
	writes := 0
	for _, o := range readDocument().operations {
		path := hole.ReplaceAllString(strings.TrimPrefix(o.path, "/api/v1"), "x")
		if strings.Contains(o.path, "{id}") {
			path = strings.ReplaceAll(path, "/x", fmt.Sprint("/", id))
		}
		if o.id == "follow-job" {
			continue
		}
		if o.id == "wait-for-job" {
			path += "?timeout=1ms"
		}
		for _, body := range []string{"", "{}", "nonsense", `{"task": "x", "action": "delete", "ids": ["1"], "concurrency": 5, "expression": "@daily"}`} {
			if o.method == http.MethodGet && body != "" {
				continue
			}
			request := o.method + " " + path + " " + body
			s.call(request).problem(401, isUnauthenticated)
			for _, role := range []string{"viewer", "operator"} {
				if role == "operator" && o.role != "admin" {
					continue
				}
				a := s.call(request, "X-Role", role)
				if o.role == "viewer" {
					if a.status == 401 || a.status == 403 {
						t.Errorf("a viewer is refused: %s: %s", a.what, a.body)
					}
					continue
				}
				a.problem(403, isForbidden, "This needs the role ")
				writes++
			}
			if o.method != http.MethodGet {
				if a := readOnly.call(request, "X-Role", "admin"); a.status != 403 {
					t.Errorf("read-only: %s answers %d %s", a.what, a.status, a.body)
				}
			}
		}
	}
	if writes < 60 {
		t.Errorf("only %d writes were tried", writes)
	}
	if after := state(); after != before {
		t.Errorf("something was changed:\n%s\n%s", before, after)
	}
	// A site of somebody else cannot have a browser do it.
	a := s.call(`POST /jobs {"task": "x"}`, "X-Role", "admin", "Origin", "https://elsewhere.example", "Sec-Fetch-Site", "cross-site")
	if a.status != 403 {
		t.Errorf("across sites it answers %d %s", a.status, a.body)
	}
	s.call(`POST /jobs {"task": "x"}`, "X-Role", "admin", "Content-Type", "text/plain").problem(415, isMediaType, "application/json")
}

// hostileTexts are what strings, names and payloads may be.
var hostileTexts = []string{
	"", " ", "x", "NaN", "null", "-1", "1e400", "9223372036854775808", "';drop table job;--", `"`, `\`, "%", "<script>", "\u202eabc\u202c", "مرحبا", "𝄞", "\u0000", "\ufffd", "../../etc/passwd",
	"2030-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "-infinity", "infinity", "294277-01-01T00:00:00Z", "0000-01-01T00:00:00Z", strings.Repeat("long ", 500), "user.id", "a..b", "$.a[*]",
	"succeeded", "failed", "waiting", "worker-7", "worker-99999999999999", "MSwyLDM=", "eyJsIjoiYW55IiwiaSI6MX0", "eyJsIjoiYW55IiwicCI6MTAwMDAwLCJhIjoieCIsImkiOjF9", "1-1", "-", "30s", "99999m",
}

// oneHostile makes something up: a request that may be sent.
func oneHostile(r *rand.Rand, o apiOperation, known []string) (path, body string) {
	text := func() string {
		if r.IntN(3) == 0 {
			return known[r.IntN(len(known))]
		}
		return hostileTexts[r.IntN(len(hostileTexts))]
	}
	path = hole.ReplaceAllStringFunc(o.path, func(string) string { return url.PathEscape(text()) })
	names := []string{"state", "task", "queue", "key", "flag", "worker", "error", "fingerprint", "added_after", "added_before", "payload_path", "payload_value", "cursor", "limit", "after",
		"timeout", "dry_run", "window", "search", "busy", "who", "action", "target"}
	query := url.Values{}
	for range r.IntN(4) {
		query.Set(names[r.IntN(len(names))], text())
	}
	if o.id == "wait-for-job" {
		query.Set("timeout", "1ms")
	}
	if len(query) > 0 {
		path += "?" + query.Encode()
	}
	var value func(depth int) any
	value = func(depth int) any {
		switch n := r.IntN(9); {
		case n == 0:
			return nil
		case n == 1:
			return r.IntN(2) == 0
		case n == 2:
			return r.IntN(70000) - 35000
		case n == 3:
			return json.Number([]string{"1e400", "-0", "0.1", "9223372036854775808", "123456789012345678901234567890"}[r.IntN(5)])
		case n == 4 && depth > 0:
			return []any{value(depth - 1), text()}
		case n == 5 && depth > 0:
			return map[string]any{text(): value(depth - 1), "policy": text(), "delay": text(), "state": text(), "payload_path": text(), "task": text()}
		}
		return text()
	}
	fields := []string{"task", "payload", "queue", "key", "run_at", "priority", "max_attempts", "flags", "action", "ids", "filter", "reason", "revision", "concurrency", "retry", "timeout", "keep",
		"expression", "time_zone", "key_mode", "jitter", "from", "until", "overlap", "catchup", "fill"}
	object := map[string]any{}
	for _, f := range fields {
		if r.IntN(4) == 0 {
			object[f] = value(2)
		}
	}
	// Mostly what the operation needs, so that it is not refused at once.
	switch o.id {
	case "add-job":
		object = map[string]any{"task": text(), "payload": value(3)}
	case "start-bulk":
		filter := map[string]any{"state": "failed"}
		filter[names[r.IntN(12)]] = text()
		object = map[string]any{"action": []string{"retry", "cancel", "delete", "reschedule"}[r.IntN(4)], "filter": filter}
	case "edit-job", "duplicate-job":
		object = map[string]any{"payload": value(3), "priority": value(0)}
	case "configure-task":
		object = map[string]any{[]string{"max_attempts", "retry", "timeout", "keep"}[r.IntN(4)]: value(2)}
	case "put-schedule":
		object = map[string]any{"task": text(), "expression": []string{"@daily", "* * * * *", text()}[r.IntN(3)], []string{"payload", "key", "from", "until", "time_zone", "queue"}[r.IntN(6)]: value(2)}
	}
	b, err := json.Marshal(object)
	if err != nil {
		panic(err)
	}
	if r.IntN(10) == 0 && len(b) > 0 {
		b[r.IntN(len(b))] = byte(r.IntN(256))
	}
	return path, string(b)
}

// serve calls the handler itself, so that paths may be what no client would send.
func (s *apiSite) serve(method, path, body string) (*httptest.ResponseRecorder, bool) {
	u, err := url.ParseRequestURI(path)
	if err != nil {
		return nil, false // neither would net/http take it
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	r := httptest.NewRequest(http.MethodGet, "/", strings.NewReader(body)).WithContext(ctx)
	r.Method, r.URL, r.RequestURI, r.RemoteAddr, r.Host = method, u, path, "127.0.0.1:1", "localhost"
	w := httptest.NewRecorder()
	s.server.Handler().ServeHTTP(w, r)
	return w, true
}

// check says what is wrong with an answer: it is never a fault of ours, and always in the document.
func (s *apiSite) check(method, path, body string) (status int, err error) {
	w, ok := s.serve(method, path, body)
	if !ok {
		return 0, nil
	}
	if w.Code == http.StatusInternalServerError || w.Code == 0 {
		return w.Code, fmt.Errorf("%s %s %.2000s: %d %s", method, path, body, w.Code, w.Body)
	}
	u, _ := url.ParseRequestURI(path)
	o := readDocument().find(method, u.EscapedPath())
	if o == nil || w.Code >= 300 && w.Code < 400 {
		return w.Code, nil
	}
	if err := readDocument().conforms(o, w.Code, w.Header().Get("Content-Type"), w.Body.Bytes()); err != nil {
		return w.Code, fmt.Errorf("%s %s %.2000s: %w", method, path, body, err)
	}
	return w.Code, nil
}

// seeded has something of everything.
func seeded(t testing.TB) (*apiSite, []string) {
	s := newAPISite(t, Config{})
	known := []string{"x", "a/b"}
	for i, payload := range []any{map[string]any{"user": map[string]any{"id": 1, "name": "\u202e"}}, []any{1, "x"}, "text", nil} {
		for _, o := range []offstage.Options{{}, {Queue: "x", Key: fmt.Sprint("k", i), Flags: []string{"x"}}, {RunAt: time.Now().Add(time.Hour), Priority: -5}} {
			known = append(known, fmt.Sprint(s.add("x", payload, o)))
		}
	}
	pgtest.Do(t, s.pool, `select offstage.add_job('nul', '{"a": "\u0000"}'::json), offstage.add_job('lone', '["\ud800"]'::json)`)
	pgtest.Do(t, s.pool, `select offstage.permanently_fail_jobs('{1,2,3}', E'TypeError: x is \u202e <script>'), offstage.complete_jobs('{4}'), offstage.remove_job('k1')`)
	pgtest.Do(t, s.pool, `select offstage.add_schedule('x', 'x', '@daily'), offstage.pause_queue('a/b')`)
	return s, known
}

// Nothing that can be sent makes the API fail.
func TestHostileRequests(t *testing.T) {
	t.Parallel()
	s, known := seeded(t)
	seed := uint64(time.Now().UnixNano())
	r := rand.New(rand.NewPCG(seed, 1))
	statuses := map[int]int{}
	const n = 1000
	for range n {
		o := readDocument().operations[r.IntN(len(readDocument().operations))]
		if o.id == "follow-job" {
			continue
		}
		path, body := oneHostile(r, o, known)
		if !o.body {
			body = ""
		}
		status, err := s.check(o.method, path, body)
		if err != nil {
			t.Errorf("seed %d: %v", seed, err)
		}
		statuses[status/100]++
	}
	t.Logf("answers by class: %v", statuses)
	if statuses[2] < n/20 || statuses[4] < n/20 {
		t.Errorf("the requests are no good: %v", statuses)
	}
}

func FuzzAPI(f *testing.F) {
	s, known := seeded(f)
	operations := readDocument().operations
	r := rand.New(rand.NewPCG(1, 2))
	for i, o := range operations {
		path, body := oneHostile(r, o, known)
		f.Add(uint8(i), path, body)
	}
	f.Fuzz(func(t *testing.T, i uint8, path, body string) {
		o := operations[int(i)%len(operations)]
		if strings.Contains(path, "/events") || strings.Contains(path, "/wait") {
			return
		}
		if !strings.HasPrefix(path, "/api/") {
			path = "/api/v1/" + path
		}
		if _, err := s.check(o.method, path, body); err != nil {
			t.Error(err)
		}
	})
}

func TestLargeAndDeepBodies(t *testing.T) {
	t.Parallel()
	s := newAPISite(t, Config{})
	add := func(payload string) *apiAnswer { return s.call(`POST /jobs {"task": "x", "payload": ` + payload + `}`) }
	large := `"` + strings.Repeat("x", 1<<20-100) + `"`
	add(large).is(201)
	add(`"`+strings.Repeat("x", 5<<20)+`"`).problem(413, isTooLarge, "1048576 bytes")
	s.call(`POST /queues/x/pause {"a": "`+strings.Repeat("x", 5<<20)+`"}`).problem(404, isNotFound) // it has no body
	s.call(`POST /jobs/1/cancel {"reason": "`+strings.Repeat("x", 1<<17)+`"}`).problem(413, isTooLarge, "65536 bytes")
	s.call(`POST /jobs/1/cancel {"reason": "`+strings.Repeat("x", 3000)+`"}`).problem(422, isInvalid, "body.reason")

	deep := func(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }
	id := bodyOf[addedBody](add(deep(5000)), 201).ID
	s.call("GET /jobs/" + id.String()).is(200)
	add(deep(10_001)).problem(400, isMalformed, "10000 levels")
	add(strings.Repeat(`{"a":`, 20_000)).problem(400, isMalformed)
	s.call(`POST /jobs/1/cancel `+deep(9000)).problem(422, isInvalid)

	// Larger bodies, where somebody wants them.
	s = newAPISite(t, Config{MaxBody: 8 << 20})
	id = bodyOf[addedBody](s.call(`POST /jobs {"task": "x", "payload": "`+strings.Repeat("x", 5<<20)+`"}`), 201).ID
	if a := s.call("GET /jobs/" + id.String()).is(200); len(a.body) < 5<<20 {
		t.Errorf("the job has %d bytes", len(a.body))
	}
}

func TestTextThatIsNone(t *testing.T) {
	t.Parallel()
	s := newAPISite(t, Config{})
	s.call(`POST /jobs {"task": "x", "payload": {"a": ["\u0000"]}}`).problem(422, isInvalid, "body.payload", "U+0000")
	s.call(`POST /jobs {"task": "x", "payload": {"\u0000": 1}}`).problem(422, isInvalid, "body.payload")
	s.call(`POST /jobs {"task": "x\u0000"}`).problem(422, isInvalid, "U+0000")
	s.call(`POST /jobs {"task": "x", "queue": "\u0000"}`).problem(422, isInvalid, "U+0000")
	s.call(`POST /jobs {"task": "x", "flags": ["\u0000"]}`).problem(422, isInvalid, "U+0000")
	s.call(`POST /bulk {"action": "cancel", "filter": {"error": "\u0000"}}`).problem(422, isInvalid)
	s.call("POST /jobs {\"task\": \"x\xff\"}").problem(400, isMalformed, "UTF-8")
	s.call("GET /jobs?task=%00").problem(422, isInvalid, "query.task")
	s.call("GET /jobs?task=%FF").problem(422, isInvalid, "query.task")
	s.call("GET /jobs?task=%zz").problem(400, isMalformed, "Percent-encode")
	s.call("GET /jobs?task=a&task=b").problem(422, isInvalid, "more than once")
	s.call("GET /errors/%00").problem(422, isInvalid, "NUL")
	// A backslash in front of u0000 is text.
	id := bodyOf[addedBody](s.call(`POST /jobs {"task": "مرحبا`+"\u202e"+`", "payload": {"a": "\\u0000", "b": "𝄞", "c": "\ud834\udd1e"}}`), 201).ID
	if a := s.call("GET /jobs/" + id.String()).is(200); !strings.Contains(string(a.body), `"payload":{"a":"\\u0000","b":"𝄞","c":"\ud834\udd1e"}`) || !strings.Contains(string(a.body), "مرحبا\u202e") {
		t.Errorf("the job is %s", a.body)
	}
	// Numbers are what they were.
	id = bodyOf[addedBody](s.call(`POST /jobs {"task": "x", "payload": [1e400, 123456789012345678901234567890, 0.1000, -0]}`), 201).ID
	if a := s.call("GET /jobs/" + id.String()).is(200); !strings.Contains(string(a.body), `"payload":[1e400,123456789012345678901234567890,0.1000,-0]`) {
		t.Errorf("the job is %s", a.body)
	}
	// A payload that SQL has brought does not spoil the list for all.
	pgtest.Do(t, s.pool, `select offstage.add_job('nul', '{"user": {"id": "\u0000"}}'::json), offstage.add_job('lone', '{"user": {"id": "\ud800"}}'::json), offstage.add_job('good', '{"user": {"id": 7}}'::json)`)
	if a := s.call("GET /jobs?payload_path=user.id&payload_value=7"); a.status != 200 || !strings.Contains(string(a.body), `"good"`) {
		t.Errorf("the list is %d %s", a.status, a.body)
	}
}

func TestUnknownPathsAndMethods(t *testing.T) {
	t.Parallel()
	s := newAPISite(t, Config{})
	s.call("GET /nothing").problem(404, isNotFound, "/openapi.json")
	s.call("POST /jobs/7").problem(405, isMethodNotAllowed, "DELETE, GET, HEAD")
	s.call("PUT /jobs").problem(405, isMethodNotAllowed, "GET, HEAD, POST")
	s.call("BREW /jobs").problem(405, isMethodNotAllowed)
	r, err := http.NewRequestWithContext(pgtest.Context(t), http.MethodGet, s.http.URL+"/openapi.json", nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := s.http.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if text, err := io.ReadAll(response.Body); err != nil || !bytes.Equal(text, readDocument().text) || response.Header.Get("Content-Type") != "application/json" {
		t.Errorf("the document is %.200s, %v", text, err)
	}
}

// Under a sub-path the document and the locations have it.
func TestAPIUnderASubPath(t *testing.T) {
	t.Parallel()
	s := newAPISite(t, Config{BasePath: "/offstage"})
	w, _ := s.serve(http.MethodPost, "/offstage/api/v1/jobs", `{"task": "x"}`)
	if got := w.Header().Get("Location"); w.Code != 201 || got != "/offstage/api/v1/jobs/1" {
		t.Errorf("%d %s, the location is %q", w.Code, w.Body, got)
	}
	w, _ = s.serve(http.MethodGet, "/offstage/openapi.json", "")
	if !strings.Contains(w.Body.String(), `"url": "/offstage"`) {
		t.Errorf("the document is %.300s", w.Body)
	}
}

// Without a database every operation says so, and when to come back.
func TestDatabaseGone(t *testing.T) {
	t.Parallel()
	pool, err := pgxpool.New(context.Background(), "postgres://nobody@127.0.0.1:1/nothing?connect_timeout=1&sslmode=disable")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	server, err := New(pool, Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	s := &apiSite{t: t, server: server}
	bodies := map[string]string{
		"add-job": `{"task": "x"}`, "start-bulk": `{"action": "retry", "ids": ["1"]}`, "edit-job": `{"priority": 1}`, "reschedule-job": `{}`, "configure-queue": `{"concurrency": 1}`,
		"configure-task": `{"max_attempts": 1}`, "put-schedule": `{"task": "x", "expression": "@daily"}`,
	}
	for _, o := range readDocument().operations {
		path := hole.ReplaceAllString(o.path, "1")
		if o.id == "wait-for-job" {
			path += "?timeout=10ms"
		}
		w, _ := s.serve(o.method, path, bodies[o.id])
		var p problem
		if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || w.Code != 503 || p.Type != isUnreachable || w.Header().Get("Retry-After") == "" {
			t.Errorf("%s: %d %s (Retry-After %q)", o.id, w.Code, w.Body, w.Header().Get("Retry-After"))
		}
	}
}

// Who waits is counted.
func TestTooManyWait(t *testing.T) {
	t.Parallel()
	s := newAPISite(t, Config{})
	a := newAPI(s.server)
	a.waiting = make(chan struct{}, 1)
	leave, err := a.enter()
	if err != nil {
		t.Fatal(err)
	}
	id := s.add("x", nil)
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodGet, fmt.Sprintf("/api/v1/jobs/%d/wait?timeout=1ms", id), nil)
	r = r.WithContext(guard.With(r.Context(), guard.Identity{Name: "x", Role: guard.Viewer}))
	a.ServeHTTP(w, r)
	if w.Code != 429 || w.Header().Get("Retry-After") == "" || !strings.Contains(w.Body.String(), isTooMany) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	leave()
	w = httptest.NewRecorder()
	a.ServeHTTP(w, r)
	if w.Code != 202 {
		t.Errorf("after the other one has left: %d %s", w.Code, w.Body)
	}
}
