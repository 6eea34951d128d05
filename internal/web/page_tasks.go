package web

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/offstage-dev/offstage/internal/view"
	"github.com/offstage-dev/offstage/internal/web/guard"
)

func (s *Server) tasksRoutes(mux *http.ServeMux) {
	s.live.register("tasks", func(ctx context.Context, _ url.Values) (any, error) { return s.db.Tasks(ctx) })
	s.live.register("task", func(ctx context.Context, args url.Values) (any, error) {
		return s.db.TaskDetail(ctx, args.Get("name"), windowOf(args))
	})
	mux.HandleFunc("GET /tasks", func(w http.ResponseWriter, r *http.Request) {
		tasks, err := read[[]view.Task](r.Context(), s, "tasks", nil)
		if err != nil {
			s.fail(w, r, err)
			return
		}
		s.render(w, r, "tasks", page{Title: "Tasks", Nav: "tasks", Live: "tasks", Data: tasks})
	})
	mux.HandleFunc("GET /tasks/{name}", func(w http.ResponseWriter, r *http.Request) {
		args := url.Values{"name": {named(r, "name")}, "window": {windowOf(r.URL.Query())}}
		t, err := read[view.TaskDetail](r.Context(), s, "task", args)
		if err != nil {
			s.fail(w, r, err)
			return
		}
		s.render(w, r, "task", page{Title: "Task " + short(60, t.Name), Nav: "tasks", Live: "task?" + args.Encode(), Data: t})
	})
	mux.HandleFunc("POST /tasks/{name}/pause", func(w http.ResponseWriter, r *http.Request) {
		name := named(r, "name")
		s.act(w, r, guard.Operator, func(by view.Actor) (string, error) {
			return fmt.Sprintf("The task %s is paused: its jobs wait, running ones finish.", name), s.db.PauseTask(r.Context(), by, name)
		}, pathTo("tasks", name))
	})
	mux.HandleFunc("POST /tasks/{name}/resume", func(w http.ResponseWriter, r *http.Request) {
		name := named(r, "name")
		s.act(w, r, guard.Operator, func(by view.Actor) (string, error) {
			return fmt.Sprintf("The task %s goes on.", name), s.db.ResumeTask(r.Context(), by, name)
		}, pathTo("tasks", name))
	})
	mux.HandleFunc("POST /tasks/{name}/configure", func(w http.ResponseWriter, r *http.Request) {
		name := named(r, "name")
		s.act(w, r, guard.Admin, func(by view.Actor) (string, error) {
			settings, err := taskSettings(r)
			if err != nil {
				return "", err
			}
			return fmt.Sprintf("The settings of %s are changed. Workers know within a second or two.", name), s.db.ConfigureTask(r.Context(), by, name, settings)
		}, pathTo("tasks", name))
	})
	mux.HandleFunc("POST /tasks/{name}/add", func(w http.ResponseWriter, r *http.Request) {
		name := named(r, "name")
		s.act(w, r, guard.Operator, func(by view.Actor) (string, error) {
			a, err := jobOf(r, name)
			if err != nil {
				return "", err
			}
			a.IdempotencyKey = onceKey(r)
			id, err := s.db.AddJob(r.Context(), by, a)
			return fmt.Sprintf("Job %s is added.", id), err
		}, pathTo("tasks", name))
	})
}

// taskSettings are those of the form, all of them: an empty field takes the default again.
func taskSettings(r *http.Request) (json.RawMessage, error) {
	m := map[string]any{"max_attempts": nil, "timeout": nil, "retry": nil, "keep": nil}
	n, err := numberIn(r, "max_attempts", 1, 32767)
	if err != nil {
		return nil, err
	}
	if n != nil {
		m["max_attempts"] = *n
	}
	if t := field(r, "timeout"); t != "" {
		m["timeout"] = t
	}
	if k := field(r, "keep"); k != "" && k != "all" {
		m["keep"] = k
	}
	if p := field(r, "retry"); p != "" {
		if !json.Valid([]byte(p)) {
			return nil, invalid("The retry policy is no JSON.", `Write it like {"policy": "fixed", "delay": "10 s"}.`)
		}
		m["retry"] = json.RawMessage(p)
	}
	return json.Marshal(m)
}

// jobOf is the job that the form describes.
func jobOf(r *http.Request, task string) (view.Add, error) {
	a := view.Add{Task: task}
	payload := strings.TrimSpace(r.PostFormValue("payload"))
	if payload == "" {
		payload = "{}"
	}
	var any json.RawMessage
	if err := json.Unmarshal([]byte(payload), &any); err != nil {
		return a, invalid("The payload is no JSON: "+err.Error()+".", `Write it like {"to": "ada@example.com"}.`)
	}
	a.Payload = json.RawMessage(payload)
	a.Queue, a.Key = ifGiven(field(r, "queue")), ifGiven(field(r, "key"))
	var err error
	if a.Priority, err = numberIn(r, "priority", -32768, 32767); err != nil {
		return a, err
	}
	if a.MaxAttempts, err = numberIn(r, "max_attempts", 1, 32767); err != nil {
		return a, err
	}
	if a.RunAt, err = timeIn(r, "run_at"); err != nil {
		return a, err
	}
	for f := range strings.SplitSeq(field(r, "flags"), ",") {
		if f = strings.TrimSpace(f); f != "" {
			a.Flags = append(a.Flags, f)
		}
	}
	return a, nil
}

// onceKey is the same for a form that is sent twice, by a double click or because the answer was lost, and another one when something else has been
// written into it meanwhile, or another action is asked for. "": the form has no key.
func onceKey(r *http.Request) string {
	key := field(r, "once")
	if key == "" || len(key) > 100 {
		return ""
	}
	sum := sha256.Sum256([]byte(r.URL.EscapedPath() + "\n" + r.PostForm.Encode()))
	return "form-" + key + "-" + hex.EncodeToString(sum[:16])
}

func invalid(text, next string) error {
	return refuse(http.StatusUnprocessableEntity, "This cannot be done", text, next)
}

func field(r *http.Request, name string) string { return strings.TrimSpace(r.PostFormValue(name)) }

func ifGiven(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}

func numberIn(r *http.Request, name string, from, to int) (*int, error) {
	text := field(r, name)
	if text == "" {
		return nil, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < from || n > to {
		return nil, invalid(fmt.Sprintf("%s is %q.", strings.ReplaceAll(name, "_", " "), short(40, text)), fmt.Sprintf("Write a whole number from %d to %d, or nothing.", from, to))
	}
	return &n, nil
}

// timeIn is a time of UTC, as a field of the type datetime-local sends it, or any that says its zone.
func timeIn(r *http.Request, name string) (*time.Time, error) {
	text := field(r, name)
	if text == "" {
		return nil, nil
	}
	for _, layout := range []string{"2006-01-02T15:04", "2006-01-02T15:04:05", time.RFC3339Nano, "2006-01-02 15:04", "2006-01-02 15:04:05"} {
		if t, err := time.Parse(layout, text); err == nil {
			return &t, nil
		}
	}
	return nil, invalid(fmt.Sprintf("%q is no time.", short(40, text)), "Write it like 2026-01-31T09:00, in UTC.")
}
