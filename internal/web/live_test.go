package web

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/offstage-dev/offstage/internal/web/guard"
)

// Fifty who look at the same cost one read a second, or a hundredth of a connection where a read takes long; and nobody who looks
// costs none.
func TestReadsAreShared(t *testing.T) {
	for _, c := range []struct {
		took           time.Duration
		atLeast, limit int64 // reads in a minute
	}{{3 * time.Millisecond, 55, 60}, {10 * time.Millisecond, 19, 20}, {3 * time.Second, 11, 12}} {
		synctest.Test(t, func(t *testing.T) {
			l := newLive(time.Second)
			var reads atomic.Int64
			l.register("jobs", func(ctx context.Context, args url.Values) (any, error) {
				reads.Add(1)
				time.Sleep(c.took)
				return args.Get("state"), nil
			})
			s := &Server{live: l, stopping: make(chan struct{})}
			ctx, stop := context.WithCancel(t.Context())
			var tabs sync.WaitGroup
			var shown atomic.Int64
			for range 50 {
				tabs.Go(func() {
					r := httptest.NewRequest("GET", "/live/jobs?state=failed", nil).WithContext(ctx)
					r.SetPathValue("topic", "jobs")
					w := httptest.NewRecorder()
					s.stream(w, r)
					shown.Add(int64(strings.Count(w.Body.String(), "event: changed")))
				})
			}
			time.Sleep(time.Minute - time.Millisecond)
			if n := reads.Load(); n < c.atLeast || n > c.limit {
				t.Errorf("a read takes %s, and there were %d in a minute, expected %d to %d", c.took, n, c.atLeast, c.limit)
			}
			stop()
			tabs.Wait()
			before := reads.Load()
			time.Sleep(time.Minute)
			if reads.Load() != before {
				t.Error("it reads while nobody looks")
			}
			if shown.Load() != 50 {
				t.Errorf("nothing has changed, and %d changes were told to 50", shown.Load())
			}
		})
	}
}

// A topic that reads another one is read as often as its own part may be, and the other one as rarely as that must be.
func TestPartsRestAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLive(time.Second)
		s := &Server{live: l}
		var whole, part int
		l.register("part", func(context.Context, url.Values) (any, error) {
			part++
			time.Sleep(time.Second)
			return part, nil
		})
		l.register("whole", func(ctx context.Context, _ url.Values) (any, error) {
			whole++
			return read[int](ctx, s, "part", nil)
		})
		for began := time.Now(); time.Since(began) < time.Minute; {
			if got, err := read[int](t.Context(), s, "whole", nil); err != nil || got != part {
				t.Fatalf("it is %d, %v; expected %d", got, err, part)
			}
			time.Sleep(100 * time.Millisecond)
		}
		if whole < 45 || whole > 60 || part < 11 || part > 13 {
			t.Errorf("in a minute, the whole is read %d times and its part %d times", whole, part)
		}
	})
}

func TestOneWhoGoesDoesNotHarmTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLive(time.Second)
		l.register("x", func(ctx context.Context, _ url.Values) (any, error) {
			select {
			case <-time.After(100 * time.Millisecond):
				return 1, nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		})
		ctx, stop := context.WithCancel(t.Context())
		go func() {
			time.Sleep(10 * time.Millisecond)
			stop()
		}()
		var others sync.WaitGroup
		others.Go(func() { _, _ = l.get(ctx, "x", nil) })
		time.Sleep(20 * time.Millisecond)
		if got, err := l.get(t.Context(), "x", nil); err != nil || got.value != 1 {
			t.Errorf("it got %v, %v", got.value, err)
		}
		others.Wait()
	})
}

func TestForgetting(t *testing.T) {
	l := newLive(time.Hour)
	n := 0
	fault := errors.New("it broke")
	l.register("x", func(context.Context, url.Values) (any, error) {
		n++
		if n == 3 {
			return nil, fault
		}
		return n, nil
	})
	for _, want := range []int{1, 1} {
		if got, _ := l.get(t.Context(), "x", nil); got.value != want {
			t.Errorf("it is %v, expected %d", got.value, want)
		}
	}
	l.forget()
	if got, _ := l.get(t.Context(), "x", nil); got.value != 2 {
		t.Errorf("after a change it is %v", got.value)
	}
	l.forget()
	for range 2 { // an error is shared as well: a database in trouble is not asked by everybody
		if _, err := l.get(t.Context(), "x", nil); err != fault {
			t.Errorf("the error is %v", err)
		}
	}
	for i := range maxTopics + 10 {
		if _, err := l.get(t.Context(), "x", url.Values{"i": {string(rune(i))}}); err != nil {
			t.Fatal(err)
		}
	}
	if len(l.topics) > maxTopics {
		t.Errorf("%d topics are kept", len(l.topics))
	}
}

func TestStream(t *testing.T) {
	t.Parallel()
	s := newPageSite(t, Config{})
	s.server.live.period = 20 * time.Millisecond
	s.play()
	web := httptest.NewServer(s.server.Handler())
	defer web.Close()
	open := func(topic string) (*http.Response, *bufio.Scanner) {
		t.Helper()
		r, err := web.Client().Get(web.URL + "/live/" + topic)
		if err != nil {
			t.Fatal(err)
		}
		return r, bufio.NewScanner(r.Body)
	}
	version := func(in *bufio.Scanner) string {
		for in.Scan() {
			if v, ok := strings.CutPrefix(in.Text(), "data: "); ok {
				return v
			}
		}
		return ""
	}
	for _, topic := range []string{"overview", "overview?window=7d", "tasks", "task?name=report", "queues", "queue?name=line", "schedules", "schedule?name=nightly", "workers"} {
		r, in := open(topic)
		if r.StatusCode != 200 || r.Header.Get("Content-Type") != "text/event-stream" || version(in) == "" {
			t.Errorf("%s: %s %v", topic, r.Status, r.Header)
		}
		r.Body.Close()
	}
	r, in := open("queues")
	first := version(in)
	s.exec(`select offstage.pause_queue('line')`)
	if second := version(in); second == "" || second == first {
		t.Errorf("the version was %q, and is %q after a change", first, second)
	}
	r.Body.Close()
	if r, _ = open("nothing"); r.StatusCode != 404 {
		t.Errorf("a topic that is none: %s", r.Status)
	}
	r.Body.Close()
	if r, err := web.Client().Head(web.URL + "/live/tasks"); err != nil || r.StatusCode != 200 {
		t.Errorf("HEAD: %v %v", r, err)
	}
	r, in = open("tasks")
	version(in)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for in.Scan() {
		}
	}()
	s.server.Close() // or the HTTP server could not shut down
	<-ended
	r.Body.Close()
}

func TestStreamNeedsALogin(t *testing.T) {
	t.Parallel()
	s := newPageSite(t, Config{Guard: guard.Config{Authenticate: func(*http.Request) (string, guard.Role, bool) { return "", guard.None, false }}})
	s.get("/live/tasks", "Accept", "text/event-stream").has(401)
	s.get("/tasks", "Accept", fragmentType).has(401)
	s.get("/tasks").has(401)
}

// What a stream says of a page is no hash of secrets that somebody could try values against.
func TestVersionsTellNothing(t *testing.T) {
	t.Parallel()
	a, b := newLive(time.Second), newLive(time.Second)
	one, again, two := a.version(1, nil), a.version(1, nil), a.version(2, nil)
	if a.version("pin 1234", nil) == b.version("pin 1234", nil) || one != again || one == two {
		t.Error("versions are the same in every process, or tell nothing at all")
	}
}

// Streams end when who follows them may not any more: within half a minute, not when their connection does.
func TestStreamsEndWithTheSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var in atomic.Bool
		in.Store(true)
		g, err := guard.New(guard.Config{Authenticate: func(*http.Request) (string, guard.Role, bool) { return "ada", guard.Viewer, in.Load() }}, nil)
		if err != nil {
			t.Fatal(err)
		}
		l := newLive(time.Second)
		l.register("x", func(context.Context, url.Values) (any, error) { return 1, nil })
		s := &Server{live: l, stopping: make(chan struct{})}
		began := time.Now()
		over := make(chan time.Duration)
		go func() {
			r := httptest.NewRequest("GET", "/live/x", nil)
			r.SetPathValue("topic", "x")
			g.Middleware(http.HandlerFunc(s.stream)).ServeHTTP(httptest.NewRecorder(), r)
			over <- time.Since(began)
		}()
		time.Sleep(5 * time.Minute)
		in.Store(false)
		if lasted := <-over; lasted < 5*time.Minute || lasted > 5*time.Minute+30*time.Second {
			t.Errorf("it lasted %s", lasted)
		}
	})
}

// A thousand streams of different pages, each slow to read, do not keep somebody waiting for a page; and they end at once.
func TestStreamsLeaveRoomForPages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLive(time.Second)
		connections := make(chan struct{}, 4)
		l.register("x", func(ctx context.Context, args url.Values) (any, error) {
			connections <- struct{}{}
			defer func() { <-connections }()
			time.Sleep(2 * time.Second)
			return 1, nil
		})
		s := &Server{live: l, stopping: make(chan struct{})}
		var tabs sync.WaitGroup
		for i := range 1000 {
			tabs.Go(func() {
				r := httptest.NewRequest("GET", fmt.Sprint("/live/x?n=", i), nil)
				r.SetPathValue("topic", "x")
				s.stream(httptest.NewRecorder(), r)
			})
		}
		time.Sleep(time.Minute)
		began := time.Now()
		if _, err := l.get(t.Context(), "x", url.Values{"n": {"page"}}); err != nil || time.Since(began) > 2*time.Second {
			t.Errorf("a page took %s: %v", time.Since(began), err)
		}
		began = time.Now()
		close(s.stopping)
		tabs.Wait()
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("they took %s to end", took)
		}
	})
}
