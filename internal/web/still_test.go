package web

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/internal/pgtest"
	"github.com/offstage-dev/offstage/internal/web/guard"
)

// Who waits for a job is told nothing more of it once their token is revoked.
func TestWaitingEndsWithTheToken(t *testing.T) {
	t.Parallel()
	s := newAPISite(t, Config{Guard: guard.Config{Tokens: true}})
	a := newAPI(s.server)
	a.keepAlive = 20 * time.Millisecond
	var came atomic.Int64
	site := httptest.NewServer(s.server.guard.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		came.Add(1)
		a.ServeHTTP(w, r)
	})))
	t.Cleanup(site.Close)
	secret := pgtest.One[string](t, s.pool, `select offstage.create_token('ci', 'viewer')`)
	id := s.add("x", nil, offstage.Options{RunAt: time.Now().Add(time.Hour)})
	ask := func(path string, to chan string) {
		r, err := http.NewRequestWithContext(pgtest.Context(t), "GET", site.URL+fmt.Sprintf("/api/v1/jobs/%d/", id)+path, nil)
		if err != nil {
			t.Error(err)
		}
		r.Header.Set("Authorization", "Bearer "+secret)
		response, err := site.Client().Do(r)
		if err != nil {
			to <- err.Error()
			return
		}
		defer response.Body.Close()
		body, _ := io.ReadAll(response.Body)
		to <- fmt.Sprint(response.StatusCode, " ", string(body))
	}
	events, wait := make(chan string, 1), make(chan string, 1)
	go ask("events", events)
	go ask("wait?timeout=5m", wait)
	pgtest.Eventually(t, 20*time.Second, func() bool { return came.Load() == 2 && len(a.waiting) == 2 })
	pgtest.Do(t, s.pool, `select offstage.revoke_token('ci')`)
	if got := <-events; !strings.HasPrefix(got, "200 ") || strings.Contains(got, "event: end") {
		t.Errorf("the stream: %s", got)
	}
	pgtest.Do(t, s.pool, `select offstage.cancel_jobs(array[$1::bigint], 'geheim')`, id)
	if got := <-wait; !strings.HasPrefix(got, "401 ") || strings.Contains(got, "geheim") {
		t.Errorf("who waits is told: %s", got)
	}
}
