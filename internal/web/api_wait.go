package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/internal/view"
	"github.com/offstage-dev/offstage/internal/web/guard"
)

// How long clients wait.
const (
	longestWait = 5 * time.Minute
	keepAlive   = 15 * time.Second // a comment in a stream where nothing happens, so that proxies do not close it
	maxWaiting  = 5000             // requests that wait at a time, both kinds
)

func (a *api) waitOperations() {
	register(a, op{id: "wait-for-job", tag: "wait", method: http.MethodGet, path: "/jobs/{id}/wait", role: guard.Viewer, waits: true, also: http.StatusAccepted, summary: "Wait for a job to end",
		about: "Answers within milliseconds of the end (200), or with where the job is when the time is over (202): then ask again. A job that has failed has ended."},
		func(ctx context.Context, in *struct {
			OneJob
			Timeout string `query:"timeout" pattern:"^[0-9]{1,6}(ms|s|m)$" patternDescription:"a number and ms, s or m" default:"30s" doc:"At most 5m." example:"30s"`
		}) (*struct {
			Status int
			Body   jobStatus
		}, error) {
			id, err := in.id()
			if err != nil {
				return nil, err
			}
			timeout, err := time.ParseDuration(in.Timeout)
			if err != nil || timeout > longestWait {
				return nil, refused("query.timeout", "is longer than 5m: wait again when the time is over")
			}
			leave, err := a.enter()
			if err != nil {
				return nil, err
			}
			defer leave()
			s, err := a.await(ctx, id, timeout)
			if err != nil {
				return nil, err
			}
			if !guard.Still(ctx) {
				return nil, (&problem{Type: isUnauthenticated, Status: http.StatusUnauthorized, Detail: "What you have shown is not good any more. Log in again, or use another token."}).titled()
			}
			out := &struct {
				Status int
				Body   jobStatus
			}{http.StatusOK, s}
			if !s.Ended {
				out.Status = http.StatusAccepted
			}
			return out, nil
		})
	a.eventOperation()
}

// enter counts who waits; leave must be called.
func (a *api) enter() (leave func(), err error) {
	select {
	case a.waiting <- struct{}{}:
		return func() { <-a.waiting }, nil
	default:
		return nil, (&problem{Type: isTooMany, Status: http.StatusTooManyRequests, retryAfter: "5",
			Detail: fmt.Sprintf("%d requests wait for jobs already. Come back in a few seconds, or ask GET /api/v1/jobs/{id} now and then.", cap(a.waiting))}).titled()
	}
}

// await is the status of a job when it has ended, or when the time is over.
func (a *api) await(ctx context.Context, id view.ID, timeout time.Duration) (jobStatus, error) {
	soon, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	stop := a.untilStopping(cancel)
	defer stop()
	result, err := offstage.Await[json.RawMessage](soon, a.client, int64(id))
	var ended *offstage.EndedError
	timedOut := err != nil && soon.Err() != nil && ctx.Err() == nil
	if err != nil && !errors.As(err, &ended) && !timedOut {
		return jobStatus{}, err
	}
	look, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	s, err := a.status(look, id)
	switch {
	case timedOut || err == nil && s.Ended:
		return s, err
	case err != nil && !errors.Is(err, offstage.ErrNotFound):
		return s, err
	}
	// It left nothing behind, or was retried since: what we were told is all there is.
	s = jobStatus{ID: id, State: string(offstage.OutcomeSucceeded), Ended: true, Attempt: s.Attempt, Result: a.redacted(result), RunAt: s.RunAt}
	if ended != nil {
		s.State, s.Error = string(ended.Outcome), textOrNil(ended.Reason)
	}
	return s, nil
}

// untilStopping calls f when the streams have to end.
func (a *api) untilStopping(f func()) (stop func()) {
	over := make(chan struct{})
	go func() {
		select {
		case <-a.stopping:
			f()
		case <-over:
		}
	}()
	return func() { close(over) }
}

// The events of a stream.
type (
	// progressEvent comes when a job says how far it is.
	progressEvent struct {
		Progress *float32 `json:"progress"`
		Message  *string  `json:"message"`
	}
)

func (a *api) eventOperation() {
	schemas := a.huma.OpenAPI().Components.Schemas
	event := func(name, about string, data *huma.Schema) *huma.Schema {
		return &huma.Schema{Title: name, Description: about, Type: huma.TypeObject, Required: []string{"event", "data"}, Properties: map[string]*huma.Schema{
			"event": {Type: huma.TypeString, Enum: []any{name}}, "id": {Type: huma.TypeString}, "data": data,
		}}
	}
	register(a, op{id: "follow-job", tag: "wait", method: http.MethodGet, path: "/jobs/{id}/events", role: guard.Viewer, waits: true, summary: "Follow a job until it ends",
		about: "Server-sent events: state when it changes (and first of all), progress, each line of the log, end. The stream ends with the job. " +
			"Who was cut off gives the id of the last line of the log as Last-Event-ID (browsers do), and misses none.",
		responses: map[string]*huma.Response{"200": {Description: "OK", Content: map[string]*huma.MediaType{"text/event-stream": {Schema: &huma.Schema{
			Type: huma.TypeArray, Description: "Each is one event.", Items: &huma.Schema{OneOf: []*huma.Schema{
				event("state", "The job is somewhere else than before.", schemas.Schema(typeOf[jobStatus](), true, "")),
				event("progress", "It has said how far it is.", schemas.Schema(typeOf[progressEvent](), true, "")),
				event("log", "A line of its log.", schemas.Schema(typeOf[view.LogLine](), true, "")),
				event("end", "The job has ended; nothing follows.", schemas.Schema(typeOf[jobStatus](), true, "")),
			}},
		}}}}}},
		func(ctx context.Context, in *struct {
			OneJob
			LastEventID string `header:"Last-Event-ID" maxLength:"100"`
		}) (*huma.StreamResponse, error) {
			id, err := in.id()
			if err != nil {
				return nil, err
			}
			claim, n, err := parsePlace(in.LastEventID)
			if err != nil {
				return nil, refused("header.Last-Event-ID", "is not an id of this stream: leave it out")
			}
			look, cancel := context.WithTimeout(ctx, patience)
			defer cancel()
			if _, err := a.status(look, id); err != nil {
				return nil, err
			}
			leave, err := a.enter()
			if err != nil {
				return nil, err
			}
			return &huma.StreamResponse{Body: func(ctx huma.Context) {
				defer leave()
				_, w := humago.Unwrap(ctx)
				a.tell(ctx.Context(), &events{w: w, control: http.NewResponseController(w)}, id, claim, n)
			}}, nil
		})
}

// events writes a stream of events.
type events struct {
	w       http.ResponseWriter
	control *http.ResponseController
}

func (e *events) begin() {
	h := e.w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("X-Accel-Buffering", "no")
	e.w.WriteHeader(http.StatusOK)
}

// send writes one event; a client that does not read for ten seconds is given up.
func (e *events) send(name, id string, data any) error {
	b, err := json.Marshal(data)
	if err != nil {
		return err
	}
	text := "event: " + name + "\n"
	if id != "" {
		text += "id: " + id + "\n"
	}
	return e.write(text + "data: " + string(b) + "\n\n")
}

func (e *events) write(text string) error {
	_ = e.control.SetWriteDeadline(time.Now().Add(patience)) // not every writer can
	if _, err := e.w.Write([]byte(text)); err != nil {
		return err
	}
	return e.control.Flush()
}

// tell follows a job for one client, from a line of its log on.
func (a *api) tell(ctx context.Context, to *events, id, claim view.ID, n int) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := a.untilStopping(cancel)
	defer stop()
	to.begin()
	defer to.control.SetWriteDeadline(time.Time{}) // the connection may serve other requests

	ended := make(chan error, 1) // within milliseconds; what is looked at besides comes once a second
	go func() {
		_, err := offstage.Await[json.RawMessage](ctx, a.client, int64(id))
		ended <- err
	}()
	one := a.follow.join(id, claim, n)
	defer a.follow.leave(one)
	alive := time.NewTicker(a.keepAlive)
	defer alive.Stop()
	var last jobStatus
	for {
		var seen view.Followed
		var err error
		select {
		case <-ctx.Done():
			return
		case <-alive.C:
			if !guard.Still(ctx) {
				return // whoever comes again is told why
			}
			err = to.write(": still here\n\n")
		case seen = <-one.seen:
			last, err = a.report(to, last, seen)
			a.follow.ready(one, seen.Log)
		case err := <-ended:
			if ctx.Err() == nil {
				a.tellEnd(ctx, to, one, id, last, err)
			}
			return
		}
		if err != nil {
			return
		}
	}
}

// report sends what is new in what was seen.
func (a *api) report(to *events, last jobStatus, seen view.Followed) (jobStatus, error) {
	now := last
	if seen.Known {
		now = a.statusOf(seen.ID, seen.Status)
	}
	if now.State != last.State || now.Attempt != last.Attempt {
		if err := to.send("state", "", now); err != nil {
			return now, err
		}
	} else if !same(now.Progress, last.Progress) || !same(now.Message, last.Message) {
		if err := to.send("progress", "", progressEvent{now.Progress, now.Message}); err != nil {
			return now, err
		}
	}
	for _, l := range a.redactedLog(seen.Log) {
		if err := to.send("log", place(l), l); err != nil {
			return now, err
		}
	}
	return now, nil
}

func same[T comparable](a, b *T) bool {
	return a == nil && b == nil || a != nil && b != nil && *a == *b
}

// tellEnd sends the rest of the log, and how it ended.
func (a *api) tellEnd(ctx context.Context, to *events, one *follower, id view.ID, last jobStatus, awaited error) {
	claim, n := one.at()
	select { // seen but not reported yet
	case seen := <-one.seen:
		var err error
		if last, err = a.report(to, last, seen); err != nil {
			return
		}
		if k := len(seen.Log); k > 0 {
			claim, n = seen.Log[k-1].Claim, seen.Log[k-1].N
		}
	default:
	}
	var rest view.Followed
	for {
		list, err := a.follow.look(ctx, []view.Follow{{ID: id, Claim: claim, N: n}})
		if err != nil {
			return // the client comes again
		}
		if rest = list[0]; len(rest.Log) == 0 {
			break
		}
		if _, err := a.report(to, last, view.Followed{ID: id, Log: rest.Log}); err != nil {
			return
		}
		claim, n = rest.Log[len(rest.Log)-1].Claim, rest.Log[len(rest.Log)-1].N
	}
	var e *offstage.EndedError
	if awaited != nil && !errors.As(awaited, &e) {
		return // the client comes again, and is told why
	}
	s := a.statusOf(id, rest.Status)
	if !s.Ended { // it left nothing behind, or was retried since: what we were told is all there is
		s = jobStatus{ID: id, State: string(offstage.OutcomeSucceeded), Ended: true, Attempt: last.Attempt, RunAt: last.RunAt}
		if e != nil {
			s.State, s.Error = string(e.Outcome), textOrNil(e.Reason)
		}
	}
	_ = to.send("end", "", s) // the client has gone
}
