package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/internal/cron"
	"github.com/offstage-dev/offstage/internal/view"
	"github.com/offstage-dev/offstage/internal/web/guard"
)

// schedule is one with what its expression means.
type schedule struct {
	offstage.ScheduleStatus
	Words  string // plain English
	State  string // active, paused, overdue, or failed
	Coming []time.Time
	Zone   string
	Body   json.RawMessage // its payload
	Own    bool            // defined in the database, so that it can be changed here
}

// plain reads the expression; five times to come at most.
func plain(st offstage.ScheduleStatus, now time.Time) schedule {
	s := schedule{ScheduleStatus: st, State: "active", Zone: st.TimeZone, Own: st.Source == "database"}
	if s.Zone == "" {
		s.Zone = "UTC"
	}
	switch {
	case st.Paused:
		s.State = "paused"
	case st.Error != "":
		s.State = "failed"
	case st.Overdue:
		s.State = "overdue"
	}
	switch p := st.Payload.(type) {
	case json.RawMessage:
		s.Body = p
	}
	zone, err := time.LoadLocation(s.Zone)
	if err != nil {
		s.Words = fmt.Sprintf("the time zone %s is not known here", s.Zone)
		return s
	}
	e, err := cron.Parse(st.Expression, zone)
	if err != nil {
		s.Words = err.Error()
		return s
	}
	s.Words = e.Describe()
	at := now
	if st.From.After(at) {
		at = st.From.Add(-time.Nanosecond)
	}
	for len(s.Coming) < 5 {
		next, ok := e.Next(at)
		if !ok || !st.Until.IsZero() && next.After(st.Until) {
			break
		}
		s.Coming = append(s.Coming, next)
		at = next
	}
	return s
}

// shown is a schedule as its topic has it: its JSON tells whether the page has changed. That of a status is the schedule's alone.
type shown struct {
	status    offstage.ScheduleStatus
	Schedule  offstage.Schedule
	Source    string
	Paused    bool
	Overdue   bool
	Next      time.Time
	LastTick  time.Time
	LastState string
	Ticks     int64
	Skipped   int64
	Error     string
}

func shownOf(list []offstage.ScheduleStatus) []shown {
	all := make([]shown, len(list))
	for i, s := range list {
		all[i] = shown{s, s.Schedule, s.Source, s.Paused, s.Overdue, s.Next, s.LastTick, s.LastState, s.Ticks, s.Skipped, s.Error}
	}
	return all
}

func (s *Server) schedulesRoutes(mux *http.ServeMux) {
	s.live.register("schedules", func(ctx context.Context, _ url.Values) (any, error) {
		list, err := s.db.Schedules(ctx)
		return shownOf(list), err
	})
	s.live.register("schedule", func(ctx context.Context, args url.Values) (any, error) {
		one, err := s.db.Schedule(ctx, args.Get("name"))
		return shownOf([]offstage.ScheduleStatus{one}), err
	})
	mux.HandleFunc("GET /schedules", func(w http.ResponseWriter, r *http.Request) {
		all, err := read[[]shown](r.Context(), s, "schedules", nil)
		if err != nil {
			s.fail(w, r, err)
			return
		}
		list := make([]schedule, len(all))
		for i, one := range all {
			list[i] = plain(one.status, time.Now())
		}
		s.render(w, r, "schedules", page{Title: "Schedules", Nav: "schedules", Live: "schedules", Data: list})
	})
	mux.HandleFunc("POST /schedules", func(w http.ResponseWriter, r *http.Request) {
		name := field(r, "name")
		if name == "" {
			name = field(r, "task")
		}
		s.act(w, r, guard.Admin, func(by view.Actor) (string, error) {
			next := offstage.Schedule{Name: name}
			if err := scheduleOf(r, &next); err != nil {
				return "", err
			}
			err := s.db.NewSchedule(r.Context(), by, next, onceKey(r))
			if errors.Is(err, view.ErrTaken) {
				err = refuse(http.StatusConflict, "This name is taken", fmt.Sprintf("There is a schedule %q already.", name), "Choose another name, or edit that one.")
			}
			return fmt.Sprintf("The schedule %s is added.", name), err
		}, pathTo("schedules", name))
	})
	mux.HandleFunc("GET /schedules/{name}", func(w http.ResponseWriter, r *http.Request) {
		args := url.Values{"name": {named(r, "name")}}
		list, err := read[[]shown](r.Context(), s, "schedule", args)
		if err != nil {
			s.fail(w, r, err)
			return
		}
		one := plain(list[0].status, time.Now())
		s.render(w, r, "schedule", page{Title: "Schedule " + short(60, one.Name), Nav: "schedules", Live: "schedule?" + args.Encode(), Data: one})
	})
	for verb, v := range map[string]struct {
		role guard.Role
		do   func(ctx context.Context, by view.Actor, name, key string) (string, error)
	}{
		"pause": {guard.Operator, func(ctx context.Context, by view.Actor, name, _ string) (string, error) {
			return fmt.Sprintf("The schedule %s is paused.", name), s.db.PauseSchedule(ctx, by, name)
		}},
		"resume": {guard.Operator, func(ctx context.Context, by view.Actor, name, _ string) (string, error) {
			return fmt.Sprintf("The schedule %s goes on from now.", name), s.db.ResumeSchedule(ctx, by, name)
		}},
		"run": {guard.Operator, func(ctx context.Context, by view.Actor, name, key string) (string, error) {
			id, err := s.db.RunSchedule(ctx, by, name, key)
			return fmt.Sprintf("Job %s is added.", id), err
		}},
	} {
		mux.HandleFunc("POST /schedules/{name}/"+verb, func(w http.ResponseWriter, r *http.Request) {
			name := named(r, "name")
			s.act(w, r, v.role, func(by view.Actor) (string, error) { return v.do(r.Context(), by, name, onceKey(r)) }, pathTo("schedules", name))
		})
	}
	mux.HandleFunc("POST /schedules/{name}/remove", func(w http.ResponseWriter, r *http.Request) {
		name := named(r, "name")
		s.act(w, r, guard.Admin, func(by view.Actor) (string, error) {
			return fmt.Sprintf("The schedule %s is removed. Jobs that it has added stay.", name), s.db.RemoveSchedule(r.Context(), by, name)
		}, "/schedules")
	})
	mux.HandleFunc("POST /schedules/{name}/edit", func(w http.ResponseWriter, r *http.Request) {
		name := named(r, "name")
		s.act(w, r, guard.Admin, func(by view.Actor) (string, error) {
			now, err := s.db.Schedule(r.Context(), name)
			if err != nil {
				return "", err
			}
			if now.Source != "database" {
				return "", refuse(http.StatusConflict, "This schedule is not defined here", "It comes from a "+now.Source+", which would change it back.", "Change it there.")
			}
			next := now.Schedule
			if err := scheduleOf(r, &next); err != nil {
				return "", err
			}
			was, _ := now.Payload.(json.RawMessage)
			if body, ok := next.Payload.(json.RawMessage); ok && len(was) > 0 { // what was not shown stays
				if next.Payload, err = s.guard.Restore(body, was); err != nil {
					return "", invalid(sentence(err.Error()), "Write the whole payload, or leave the hidden values as they are.")
				}
			}
			return fmt.Sprintf("The schedule %s is changed.", name), s.db.AddSchedule(r.Context(), by, next)
		}, pathTo("schedules", name))
	})
}

// scheduleOf writes what the form says into s; what the form does not have stays.
func scheduleOf(r *http.Request, s *offstage.Schedule) error {
	s.Task, s.Expression, s.TimeZone = field(r, "task"), field(r, "expression"), field(r, "tz")
	s.Queue, s.Key, s.Catchup = field(r, "queue"), field(r, "key"), field(r, "catchup")
	s.SkipOverlap = field(r, "overlap") == "skip"
	if s.Key == "" {
		s.KeyMode = ""
	}
	if s.Catchup != "" {
		s.Fill = 0
	}
	if s.Task == "" {
		return invalid("Which task should it add jobs of?", "Write the name of a task.")
	}
	zone, err := time.LoadLocation(s.TimeZone)
	if err != nil || s.TimeZone == "Local" {
		return invalid(fmt.Sprintf("The time zone %q is not known.", short(60, s.TimeZone)), "Write a name such as Europe/Berlin, or nothing for UTC.")
	}
	if _, err := cron.Parse(s.Expression, zone); err != nil {
		return invalid(sentence(err.Error()), "Five fields: minute, hour, day of month, month, day of week. 30 2 * * MON-FRI is at 02:30 on working days.")
	}
	s.MaxAttempts, s.Priority = 0, 0
	for name, to := range map[string]*int{"max_attempts": &s.MaxAttempts, "priority": &s.Priority} {
		from := 1
		if name == "priority" {
			from = -32768
		}
		n, err := numberIn(r, name, from, 32767)
		if err != nil {
			return err
		}
		if n != nil {
			*to = *n
		}
	}
	s.Jitter = 0
	if text := field(r, "jitter"); text != "" {
		if s.Jitter, err = time.ParseDuration(text); err != nil || s.Jitter < 0 {
			return invalid(fmt.Sprintf("The jitter %q is no duration.", short(40, text)), "Write it like 30s or 5m.")
		}
	}
	s.Payload = nil
	if text := field(r, "payload"); text != "" {
		var object map[string]json.RawMessage
		if err := json.Unmarshal([]byte(text), &object); err != nil || object == nil {
			return invalid("The payload is no JSON object.", `Write it like {"kind": "sales"}.`)
		}
		s.Payload = json.RawMessage(text)
	}
	return nil
}
