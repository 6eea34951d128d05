package web

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/internal/pgtest"
	"github.com/offstage-dev/offstage/worker"
)

// apiSite is a server over a database of its own, with a client of the API.
type apiSite struct {
	t      testing.TB
	db     *pgtest.DB
	pool   *pgxpool.Pool
	client *offstage.Client
	server *Server
	http   *httptest.Server
}

func newAPISite(t testing.TB, cfg Config) *apiSite {
	t.Helper()
	db := pgtest.New(t)
	s := &apiSite{t: t, db: db, pool: db.Pool(t)}
	var err error
	if s.client, err = offstage.New(s.pool, offstage.Config{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.client.Close)
	if s.server, err = New(s.pool, cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.server.Close)
	s.http = httptest.NewServer(s.server.Handler())
	t.Cleanup(s.http.Close)
	return s
}

// runBulks works bulk actions off until the test ends.
func (s *apiSite) runBulks() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.server.db.RunBulks(ctx) }()
	s.t.Cleanup(func() {
		cancel()
		<-done
	})
}

// work runs a worker until the test ends.
func (s *apiSite) work(register func(w *worker.Worker)) {
	s.t.Helper()
	w, err := worker.New(s.pool, worker.Config{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		s.t.Fatal(err)
	}
	register(w)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	s.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			s.t.Errorf("the worker: %v", err)
		}
	})
}

func (s *apiSite) add(task string, payload any, opts ...offstage.Options) int64 {
	s.t.Helper()
	id, err := s.client.Add(pgtest.Context(s.t), task, payload, opts...)
	if err != nil {
		s.t.Fatal(err)
	}
	return id
}

// apiAnswer is what the API answered.
type apiAnswer struct {
	t      testing.TB
	what   string
	status int
	header http.Header
	body   []byte
}

// call sends "METHOD /path body", with headers as name, value, ….
func (s *apiSite) call(request string, headers ...string) *apiAnswer {
	s.t.Helper()
	method, rest, _ := strings.Cut(request, " ")
	path, body, _ := strings.Cut(rest, " ")
	r, err := http.NewRequestWithContext(pgtest.Context(s.t), method, s.http.URL+"/api/v1"+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	if body == "" {
		r.Body, r.ContentLength = nil, 0
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	return s.send(r)
}

func (s *apiSite) send(r *http.Request) *apiAnswer {
	s.t.Helper()
	response, err := s.http.Client().Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer response.Body.Close()
	a := &apiAnswer{s.t, r.Method + " " + r.URL.RequestURI(), response.StatusCode, response.Header, nil}
	if a.body, err = io.ReadAll(response.Body); err != nil {
		s.t.Fatal(err)
	}
	a.conforms()
	return a
}

// conforms checks that the document describes such an answer.
func (a *apiAnswer) conforms() {
	a.t.Helper()
	method, uri, _ := strings.Cut(a.what, " ")
	path, _, _ := strings.Cut(uri, "?")
	o := readDocument().find(method, path)
	if o == nil {
		if a.status != http.StatusNotFound && a.status != http.StatusMethodNotAllowed {
			a.t.Errorf("%s is not in the document, and answers %d", a.what, a.status)
		}
		return
	}
	if err := readDocument().conforms(o, a.status, a.header.Get("Content-Type"), a.body); err != nil {
		a.t.Errorf("%s: %v", a.what, err)
	}
}

// is checks the status.
func (a *apiAnswer) is(status int) *apiAnswer {
	a.t.Helper()
	if a.status != status {
		a.t.Fatalf("%s: %d, want %d: %.1000s", a.what, a.status, status, a.body)
	}
	return a
}

// problem checks that it is one of this type, that says this.
func (a *apiAnswer) problem(status int, kind string, says ...string) {
	a.t.Helper()
	a.is(status)
	if got := a.header.Get("Content-Type"); got != "application/problem+json" {
		a.t.Errorf("%s: the content type is %q", a.what, got)
	}
	var p problem
	a.into(&p)
	if p.Type != kind || p.Status != status || p.Title == "" || p.Detail == "" {
		a.t.Errorf("%s: the problem is %s", a.what, a.body)
	}
	for _, text := range says {
		if !strings.Contains(p.Detail, text) {
			a.t.Errorf("%s: it says %q, want %q in it", a.what, p.Detail, text)
		}
	}
}

func (a *apiAnswer) into(v any) {
	a.t.Helper()
	d := json.NewDecoder(bytes.NewReader(a.body))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		a.t.Fatalf("%s: %v: %.1000s", a.what, err, a.body)
	}
}

// bodyOf is the answer's body, which must have come with this status.
func bodyOf[T any](a *apiAnswer, status int) (v T) {
	a.t.Helper()
	a.is(status)
	a.into(&v)
	return v
}
