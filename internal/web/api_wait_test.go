package web

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/internal/pgtest"
	"github.com/offstage-dev/offstage/internal/view"
	"github.com/offstage-dev/offstage/worker"
)

func TestWaitForJob(t *testing.T) {
	t.Parallel()
	s := newAPISite(t, Config{})
	gate := make(chan struct{})
	s.work(func(w *worker.Worker) {
		worker.Handle(w, "sum", func(ctx context.Context, job *worker.Job[[]int]) (map[string]int, error) {
			<-gate
			return map[string]int{"sum": job.Payload[0] + job.Payload[1]}, nil
		})
		worker.Handle(w, "refuse", func(ctx context.Context, job *worker.Job[any]) (struct{}, error) {
			return struct{}{}, offstage.Fail(errors.New("no"))
		})
	})
	id := s.add("sum", []int{1, 2}, offstage.Options{Keep: "all"})
	unkept := s.add("sum", []int{3, 4}, offstage.Options{Keep: "none"})

	got := bodyOf[jobStatus](s.call(fmt.Sprintf("GET /jobs/%d/wait?timeout=20ms", id)), http.StatusAccepted)
	if got.Ended || got.ID != view.ID(id) {
		t.Errorf("before its end it is %+v", got)
	}
	answers := make(chan *apiAnswer, 2)
	for _, id := range []int64{id, unkept} {
		go func() { answers <- s.call(fmt.Sprintf("GET /jobs/%d/wait?timeout=1m", id)) }()
	}
	pgtest.Eventually(t, 20*time.Second, func() bool { // both are known to wait
		return pgtest.One[int](t, s.pool, `select count(*) from offstage_private.waiter`) == 2
	})
	close(gate)
	for range 2 {
		got = bodyOf[jobStatus](<-answers, http.StatusOK)
		if want := map[int64]string{id: `{"sum":3}`, unkept: `{"sum":7}`}[int64(got.ID)]; !got.Ended || got.State != "succeeded" || string(got.Result) != want {
			t.Errorf("it ended as %+v, want the result %s", got, want)
		}
	}

	id = s.add("refuse", nil)
	got = bodyOf[jobStatus](s.call(fmt.Sprintf("GET /jobs/%d/wait", id)), http.StatusOK)
	if !got.Ended || got.State != "failed" || got.Error == nil || *got.Error != "no" || got.EndedAt == nil {
		t.Errorf("it ended as %+v", got)
	}

	s.call("GET /jobs/4711/wait").problem(404, isNotFound)
	s.call("GET /jobs/9223372036854775808/wait").problem(404, isNotFound)
	s.call(fmt.Sprintf("GET /jobs/%d/wait?timeout=30", id)).problem(422, isInvalid, "query.timeout")
	s.call(fmt.Sprintf("GET /jobs/%d/wait?timeout=6m", id)).problem(422, isInvalid, "5m")
}

// apiEvent is one of a stream.
type apiEvent struct{ name, id, data string }

// readAPIEvents reads a stream until its end.
func readAPIEvents(t *testing.T, body *bufio.Scanner, each func(apiEvent)) {
	var e apiEvent
	for body.Scan() {
		switch line := body.Text(); {
		case line == "" && e.name != "":
			each(e)
			e = apiEvent{}
		case strings.HasPrefix(line, "event: "):
			e.name = line[7:]
		case strings.HasPrefix(line, "id: "):
			e.id = line[4:]
		case strings.HasPrefix(line, "data: "):
			e.data = line[6:]
		}
	}
	if err := body.Err(); err != nil && t.Context().Err() == nil {
		t.Error(err)
	}
}

func (s *apiSite) stream(path string, headers ...string) (*bufio.Scanner, func()) {
	s.t.Helper()
	r, err := http.NewRequestWithContext(pgtest.Context(s.t), http.MethodGet, s.http.URL+"/api/v1"+path, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	response, err := s.http.Client().Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	if response.StatusCode != 200 || response.Header.Get("Content-Type") != "text/event-stream" {
		s.t.Fatalf("%s: %s, %s", path, response.Status, response.Header.Get("Content-Type"))
	}
	return bufio.NewScanner(response.Body), func() { response.Body.Close() }
}

func TestFollowJob(t *testing.T) {
	t.Parallel()
	s := newAPISite(t, Config{})
	seen := make(chan string, 100)
	s.work(func(w *worker.Worker) {
		worker.Handle(w, "report", func(ctx context.Context, job *worker.Job[any]) (string, error) {
			worker.Log(ctx).Info("one", "n", 1)
			for text := range seen { // what the client has seen lets it go on
				switch {
				case strings.HasPrefix(text, "log"):
					worker.Progress(ctx, 50, "half")
				case strings.HasPrefix(text, "progress"):
					worker.Log(ctx).Warn("two")
					return "fine", nil
				}
			}
			return "", errors.New("the client has gone")
		})
	})
	id := s.add("report", nil, offstage.Options{RunAt: time.Now().Add(time.Hour)})
	body, leave := s.stream(fmt.Sprintf("/jobs/%d/events", id))
	defer leave()
	var all []apiEvent
	readAPIEvents(t, body, func(e apiEvent) {
		all = append(all, e)
		if len(all) == 1 { // where it is comes first
			s.call(fmt.Sprintf("POST /jobs/%d/retry", id)).is(200)
		}
		seen <- e.name
	})
	close(seen)
	var words []string
	for _, e := range all {
		word := e.name
		switch e.name {
		case "state", "end":
			var st jobStatus
			if err := json.Unmarshal([]byte(e.data), &st); err != nil {
				t.Fatal(err)
			}
			word += " " + st.State
			if e.name == "end" {
				word += " " + string(st.Result)
			}
		case "log":
			var l view.LogLine
			if err := json.Unmarshal([]byte(e.data), &l); err != nil {
				t.Fatal(err)
			}
			word += " " + l.Message
		}
		words = append(words, word)
	}
	want := []string{"state scheduled", "log one", "log two", "progress", "state running", `end succeeded "fine"`}
	if got := strings.Join(words, ", "); words[0] != want[0] || words[len(words)-1] != want[5] {
		t.Errorf("the stream was %s", got)
	} else {
		for _, w := range want {
			if n := strings.Count(got, w); n != 1 {
				t.Errorf("%q came %d times in %s", w, n, got)
			}
		}
	}

	// Who was cut off goes on behind the last line of the log.
	var last string
	for _, e := range all {
		if e.name == "log" && last == "" {
			last = e.id
		}
	}
	body, leave = s.stream(fmt.Sprintf("/jobs/%d/events", id), "Last-Event-ID", last)
	defer leave()
	words = nil
	readAPIEvents(t, body, func(e apiEvent) { words = append(words, e.name) })
	if got := strings.Join(words, " "); got != "log end" && got != "state log end" {
		t.Errorf("after %s came %s", last, got)
	}
	s.call("GET /jobs/4711/events").problem(404, isNotFound)
	s.call(fmt.Sprintf("GET /jobs/%d/events", id), "Last-Event-ID", "x").problem(422, isInvalid, "Last-Event-ID")
}

// Streams end with the server, so that it can stop.
func TestStreamsEndWithTheServer(t *testing.T) {
	t.Parallel()
	s := newAPISite(t, Config{})
	id := s.add("nobody", nil)
	body, leave := s.stream(fmt.Sprintf("/jobs/%d/events", id))
	defer leave()
	answer := make(chan *apiAnswer, 1)
	go func() { answer <- s.call(fmt.Sprintf("GET /jobs/%d/wait?timeout=5m", id)) }()
	first := true
	readAPIEvents(t, body, func(apiEvent) {
		if first {
			first = false
			s.server.endStreams()
		}
	})
	if first {
		t.Error("nothing came")
	}
	got := <-answer
	if got.status != http.StatusAccepted {
		t.Errorf("who waited was told %d %s", got.status, got.body)
	}
}

// However many follow a job, the database is asked as often as for one.
func TestManyFollowers(t *testing.T) {
	t.Parallel()
	var asked []int
	seen := make(chan []view.Follow)
	f := newFollowers(nil)
	f.every = time.Millisecond
	f.look = func(_ context.Context, list []view.Follow) ([]view.Followed, error) {
		seen <- list
		return make([]view.Followed, len(list)), nil
	}
	f.mu.Lock()
	for i := range 1200 {
		one := &follower{id: view.ID(i), seen: make(chan view.Followed, 1), ready: true, of: f}
		f.all[one] = true
	}
	f.mu.Unlock()
	extra := f.join(7, 0, 0)
	for range 3 {
		asked = append(asked, len(<-seen))
	}
	if fmt.Sprint(asked) != "[500 500 201]" {
		t.Errorf("looked for %v", asked)
	}
	<-extra.seen
	f.ready(extra, []view.LogLine{{Claim: 3, N: 4}})
	if list := <-seen; len(list) != 1 || list[0] != (view.Follow{ID: 7, Claim: 3, N: 4}) {
		t.Errorf("who is not ready was looked for again: %v", list)
	}
	f.mu.Lock()
	clear(f.all)
	f.mu.Unlock()
	f.leave(extra)
}
