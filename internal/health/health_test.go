package health_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/offstage-dev/offstage/internal/health"
	"github.com/offstage-dev/offstage/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

var quiet = slog.New(slog.DiscardHandler)

func ask(h http.Handler, method, path string) (int, string) {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(method, path, nil))
	return w.Code, w.Body.String()
}

func TestHandler(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	h := health.Handler(health.Config{
		Live:  []health.Check{func(context.Context) error { return nil }},
		Ready: []health.Check{func(context.Context) error { asked.Add(1); return errors.New("one") }, func(context.Context) error { return errors.New("two") }},
		Log:   quiet,
	})
	if code, text := ask(h, "GET", "/livez"); code != 200 || text != "ok\n" {
		t.Errorf("%d %q", code, text)
	}
	for range 3 {
		if code, text := ask(h, "GET", "/readyz"); code != 503 || text != "one\ntwo\n" {
			t.Errorf("%d %q", code, text)
		}
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("looked %d times within a second", n)
	}
	if code, _ := ask(h, "POST", "/readyz"); code != http.StatusMethodNotAllowed {
		t.Error(code)
	}
	if code, _ := ask(h, "GET", "/metrics"); code != http.StatusNotFound {
		t.Error(code)
	}
}

// A check that hangs is an answer, too.
func TestHanging(t *testing.T) {
	t.Parallel()
	hold := make(chan struct{})
	defer close(hold)
	h := health.Handler(health.Config{
		Live:  []health.Check{func(context.Context) error { <-hold; return nil }, func(context.Context) error { return nil }, func(context.Context) error { <-hold; return nil }},
		Ready: []health.Check{func(ctx context.Context) error { <-ctx.Done(); return context.Cause(ctx) }},
		Log:   quiet,
	})
	if code, text := ask(h, "GET", "/livez"); code != 503 || text != strings.Repeat("a check does not come to its end\n", 2) {
		t.Errorf("%d %q", code, text)
	}
	if code, _ := ask(h, "GET", "/readyz"); code != 503 {
		t.Error(code)
	}
}

func TestDatabase(t *testing.T) {
	t.Parallel()
	ctx := pgtest.Context(t)
	if err := health.Database(pgtest.New(t).Pool(t), "offstage")(ctx); err != nil {
		t.Error(err)
	}
	if err := health.Database(pgtest.Bare(t).Pool(t), "offstage")(ctx); err == nil || !strings.Contains(err.Error(), "run offstage migrate") {
		t.Error(err)
	}
	cfg, err := pgxpool.ParseConfig("postgres://somebody:secret@127.0.0.1:1/none")
	if err != nil {
		t.Fatal(err)
	}
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	if err := health.Database(pool, "offstage")(ctx); err == nil || err.Error() != "database: cannot be reached" {
		t.Error(err)
	}
}
