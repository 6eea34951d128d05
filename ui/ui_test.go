package ui_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/offstage-dev/offstage/internal/pgtest"
	"github.com/offstage-dev/offstage/ui"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// It is mounted in a program that has pages and users of its own.
func TestMounted(t *testing.T) {
	t.Parallel()
	jobs, err := ui.Handler(pgtest.New(t).Pool(t), ui.Config{BasePath: "/jobs", Authenticate: func(r *http.Request) (string, ui.Role, bool) {
		name := r.Header.Get("X-Test-User")
		return name, ui.Role(r.Header.Get("X-Test-Role")), name != ""
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer jobs.Close()
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- jobs.Run(ctx) }()
	mux := http.NewServeMux()
	mux.Handle("/jobs/", jobs)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusTeapot) })
	ask := func(method, path, name, role string) (int, string) {
		r := httptest.NewRequest(method, path, nil)
		r.Header.Set("X-Test-User", name)
		r.Header.Set("X-Test-Role", role)
		r.Header.Set("Accept", "text/html")
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, r)
		return w.Code, w.Body.String()
	}
	for _, c := range []struct {
		method, path, name, role string
		status                   int
		says                     string
	}{
		{"GET", "/jobs/", "ada", "viewer", 200, "viewer · ada"},
		{"GET", "/jobs/tasks", "ada", "admin", 200, `href="/jobs/queues"`},
		{"GET", "/jobs/tasks", "", "", 401, ""},
		{"GET", "/jobs/tasks", "ada", "king", 401, ""},
		{"POST", "/jobs/queues/x/pause", "ada", "viewer", 403, ""},
		{"POST", "/jobs/queues/x/pause", "ada", "operator", 404, "is not known"},
		{"GET", "/other", "", "", http.StatusTeapot, ""},
	} {
		if status, body := ask(c.method, c.path, c.name, c.role); status != c.status || !strings.Contains(body, c.says) {
			t.Errorf("%s %s as %s: %d, expected %d with %q: %.300s", c.method, c.path, c.role, status, c.status, c.says, body)
		}
	}
	stop()
	if err := <-ended; err != nil && ctx.Err() == nil {
		t.Error(err)
	}
}

func TestHandlerRefuses(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t).Pool(t)
	for _, cfg := range []ui.Config{{BasePath: "jobs"}, {BasePath: `/"x`}, {Schema: "No Such"}, {Redact: []string{""}}} {
		if u, err := ui.Handler(pool, cfg); err == nil {
			u.Close()
			t.Errorf("%+v was taken", cfg)
		}
	}
}
