package web

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/offstage-dev/offstage/internal/pgtest"
	"github.com/offstage-dev/offstage/internal/view"
	"github.com/offstage-dev/offstage/internal/web/guard"
)

// A client that asks for much that is slow waits in line, and is told to come back; others, and the streams of its own pages, do not wait.
func TestGreedyClient(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t).Pool(t)
	server, err := New(pool, Config{Guard: guard.Config{Open: true}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	pgtest.Do(t, pool, `
		create or replace function offstage.queue_depth(task text default null, queue text default null) returns integer language plpgsql as $$
		begin
		  if task = 'slow' then
		    perform pg_sleep(1.5);
		  end if;
		  return 7;
		end $$`)
	ask := func(ctx context.Context, from, path string, accept ...string) *httptest.ResponseRecorder {
		r := httptest.NewRequestWithContext(ctx, "GET", "http://localhost"+path, nil)
		r.RemoteAddr = from + ":4711"
		r.Header["Accept"] = accept
		w := httptest.NewRecorder()
		server.Handler().ServeHTTP(w, r)
		return w
	}
	const greedy, other = "127.0.0.1", "127.0.0.2"
	if w := ask(t.Context(), greedy, "/workers", "text/html"); w.Code != 200 {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	answers := make(chan *httptest.ResponseRecorder, 8)
	for n := range cap(answers) {
		path := fmt.Sprint("/api/v1/depth?task=slow&queue=", n)
		go func() { answers <- ask(t.Context(), greedy, path) }()
	}
	const asleep = `select count(*) from pg_stat_activity where wait_event = 'PgSleep' and datname = current_database()`
	pgtest.Eventually(t, 30*time.Second, func() error {
		if n := pgtest.One[int](t, pool, asleep); n < 2 {
			return fmt.Errorf("%d are under way", n)
		}
		return nil
	})
	for _, path := range []string{"/workers", "/", "/jobs", "/api/v1/jobs", "/api/v1/depth"} {
		begun := time.Now()
		if w := ask(t.Context(), other, path, "text/html"); w.Code != 200 || time.Since(begun) > time.Second {
			t.Errorf("%s for somebody else: %d after %v", path, w.Code, time.Since(begun))
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	r := httptest.NewRequestWithContext(ctx, "GET", "http://localhost/live/workers", nil)
	r.RemoteAddr = greedy + ":4711"
	stream := &untilChanged{httptest.NewRecorder(), cancel}
	server.Handler().ServeHTTP(stream, r)
	if !strings.Contains(stream.Body.String(), "event: changed") {
		t.Errorf("the stream of its page says %q", stream.Body)
	}
	codes := map[int]int{}
	for range cap(answers) {
		w := <-answers
		codes[w.Code]++
		if w.Code != http.StatusOK && (w.Code != http.StatusTooManyRequests || w.Header().Get("Retry-After") != "2" || !strings.Contains(w.Body.String(), isTooMany)) {
			t.Errorf("%d %v %s", w.Code, w.Header(), w.Body)
		}
	}
	if codes[200] != 4 || codes[429] != 4 {
		t.Errorf("answers: %v, expected 4 of each", codes)
	}

	// As a page.
	w := httptest.NewRecorder()
	server.fail(w, httptest.NewRequest("GET", "/tasks", nil), fmt.Errorf("tasks: %w", view.ErrCrowded))
	if w.Code != 429 || !strings.Contains(w.Body.String(), "You ask for too much at a time") || w.Header().Get("Retry-After") != "2" {
		t.Errorf("%d %v %s", w.Code, w.Header(), w.Body)
	}
}

// untilChanged leaves a stream when it has said what there is.
type untilChanged struct {
	*httptest.ResponseRecorder
	leave func()
}

func (u *untilChanged) Write(b []byte) (int, error) {
	n, err := u.ResponseRecorder.Write(b)
	if strings.Contains(u.Body.String(), "event: changed") {
		u.leave()
	}
	return n, err
}
