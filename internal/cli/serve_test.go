package cli

import (
	"context"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/offstage-dev/offstage/internal/pgtest"
)

// visit gets a page of a UI whose address a running command has printed behind a word.
func visit(t *testing.T, errs *text, word, path string, headers ...string) (status int, body string) {
	t.Helper()
	var at string
	pgtest.Eventually(t, time.Minute, func() bool {
		_, rest, found := strings.Cut(errs.String(), word)
		at, _, _ = strings.Cut(strings.TrimSpace(rest), "\n")
		return found && strings.HasSuffix(at, "/")
	})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, "GET", strings.TrimSuffix(at, "/")+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Accept", "text/html")
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	answer, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	all, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(all)
}

func TestServe(t *testing.T) {
	s := newStage(t)
	errs, stop := s.start("serve", "--listen", "127.0.0.1:0", "--base-path", "/jobs")
	for _, path := range []string{"/", "/tasks", "/queues", "/schedules", "/workers"} {
		if status, body := visit(t, errs, "the web UI is at", path); status != 200 || !strings.Contains(body, `data-base="/jobs"`) {
			t.Errorf("%s: %d %s", path, status, body)
		}
	}
	stop()
}

func TestServeRefuses(t *testing.T) {
	s := newStage(t)
	empty := filepath.Join(s.dir, "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for says, args := range map[string][]string{
		"without authentication":   {"--listen", "0.0.0.0:0"},
		"all addresses":            {"--listen", ":0"},
		"is no address":            {"--listen", "here"},
		"--trusted-proxy is":       {"--trusted-proxy", "far away"},
		"there are no users in it": {"--users", empty},
		"no such file":             {"--users", empty + "-not"},
		"--log-format is":          {"--log-format", "xml"},
		"base path":                {"--base-path", "jobs", "--listen", "127.0.0.1:0"},
		"role":                     {"--proxy-header", "X-User", "--trusted-proxy", "10.0.0.7", "--proxy-role", "king"},
	} {
		s.want(Usage, append([]string{"serve"}, args...)...).says(t, says)
	}
	s.env["OFFSTAGE_SESSION_KEY"] = "secret"
	s.want(Usage, "serve").says(t, "openssl rand -hex 32")
}

func TestServeReadOnlyBehindAProxy(t *testing.T) {
	s := newStage(t)
	errs, stop := s.start("serve", "--listen", "127.0.0.1:0", "--proxy-header", "X-User", "--trusted-proxy", "127.0.0.1", "--proxy-role", "admin", "--read-only")
	if status, body := visit(t, errs, "the web UI is at", "/", "X-User", "ada"); status != 200 || !strings.Contains(body, "viewer · ada") {
		t.Errorf("%d %s", status, body)
	}
	if status, _ := visit(t, errs, "the web UI is at", "/"); status != 401 {
		t.Errorf("nobody gets %d", status)
	}
	stop()
}
