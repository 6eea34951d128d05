package web

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/offstage-dev/offstage/internal/pgtest"
)

// healthOf is a server over a pool, and how to ask it.
func healthOf(t *testing.T, pool *pgxpool.Pool, cfg Config) (s *Server, ask func(path string) (int, string)) {
	t.Helper()
	s, err := New(pool, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	server := httptest.NewServer(s.Handler())
	t.Cleanup(server.Close)
	return s, func(path string) (int, string) {
		t.Helper()
		client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		answer, err := client.Get(server.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		text, err := io.ReadAll(answer.Body)
		if err != nil {
			t.Fatal(err)
		}
		return answer.StatusCode, string(text)
	}
}

func TestHealth(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t).Pool(t)
	pgtest.Do(t, pool, `select offstage.add_job('mail')`)
	s, ask := healthOf(t, pool, Config{BasePath: "/jobs"})
	for _, base := range []string{"", "/jobs"} {
		for path, want := range map[string]string{"/livez": "ok", "/readyz": "ok", "/metrics": `offstage_queue_depth{state="waiting",task="mail"} 1`} {
			if status, text := ask(base + path); status != 200 || !strings.Contains(text, want) {
				t.Errorf("%s: %d %s", base+path, status, text)
			}
		}
	}
	s.endStreams()
	pgtest.Eventually(t, 30*time.Second, func() bool { status, text := ask("/readyz"); return status == 503 && text == "server: is stopping\n" })
	if status, _ := ask("/livez"); status != 200 {
		t.Error(status)
	}
}

// A server starts before its database is there, or fits.
func TestHealthWithoutDatabase(t *testing.T) {
	t.Parallel()
	_, ask := healthOf(t, pgtest.Bare(t).Pool(t), Config{})
	if status, text := ask("/readyz"); status != 503 || !strings.Contains(text, "run offstage migrate") {
		t.Errorf("%d %s", status, text)
	}
	if status, text := ask("/metrics"); status != 200 || !strings.Contains(text, "offstage_build_info") {
		t.Errorf("%d %s", status, text)
	}
}
