package web

import (
	"context"
	"fmt"
	"net/http"
	"net/url"

	"github.com/offstage-dev/offstage/internal/view"
	"github.com/offstage-dev/offstage/internal/web/guard"
)

// queueList is what the page shows.
type queueList struct {
	view.QueuePage
	Search, After string
	Busy          bool
}

func (s *Server) queuesRoutes(mux *http.ServeMux) {
	s.live.register("queues", func(ctx context.Context, args url.Values) (any, error) {
		return s.db.Queues(ctx, args.Get("q"), args.Get("after"), args.Get("show") == "busy")
	})
	s.live.register("queue", func(ctx context.Context, args url.Values) (any, error) {
		return s.db.QueueDetail(ctx, args.Get("name"), windowOf(args))
	})
	mux.HandleFunc("GET /queues", func(w http.ResponseWriter, r *http.Request) {
		args := url.Values{}
		for _, name := range []string{"q", "after", "show"} {
			if v := r.URL.Query().Get(name); v != "" {
				args.Set(name, v)
			}
		}
		got, err := read[view.QueuePage](r.Context(), s, "queues", args)
		if err != nil {
			s.fail(w, r, err)
			return
		}
		s.render(w, r, "queues", page{Title: "Queues", Nav: "queues", Live: "queues?" + args.Encode(),
			Data: queueList{got, args.Get("q"), args.Get("after"), args.Get("show") == "busy"}})
	})
	mux.HandleFunc("GET /queues/{name}", func(w http.ResponseWriter, r *http.Request) {
		args := url.Values{"name": {named(r, "name")}, "window": {windowOf(r.URL.Query())}}
		q, err := read[view.QueueDetail](r.Context(), s, "queue", args)
		if err != nil {
			s.fail(w, r, err)
			return
		}
		s.render(w, r, "queue", page{Title: "Queue " + short(60, q.Name), Nav: "queues", Live: "queue?" + args.Encode(), Data: q})
	})
	mux.HandleFunc("POST /queues/{name}/pause", func(w http.ResponseWriter, r *http.Request) {
		name := named(r, "name")
		s.act(w, r, guard.Operator, func(by view.Actor) (string, error) {
			return fmt.Sprintf("The queue %s is paused: its jobs wait, running ones finish.", name), s.db.PauseQueue(r.Context(), by, name)
		}, pathTo("queues", name))
	})
	mux.HandleFunc("POST /queues/{name}/resume", func(w http.ResponseWriter, r *http.Request) {
		name := named(r, "name")
		s.act(w, r, guard.Operator, func(by view.Actor) (string, error) {
			return fmt.Sprintf("The queue %s goes on.", name), s.db.ResumeQueue(r.Context(), by, name)
		}, pathTo("queues", name))
	})
	mux.HandleFunc("POST /queues/{name}/configure", func(w http.ResponseWriter, r *http.Request) {
		name := named(r, "name")
		s.act(w, r, guard.Admin, func(by view.Actor) (string, error) {
			n, err := numberIn(r, "concurrency", 1, 1<<31-1)
			if err != nil {
				return "", err
			}
			if n == nil {
				return "", invalid("How many jobs may run at a time?", "Write a whole number from 1; to stop the queue, pause it.")
			}
			return fmt.Sprintf("The queue %s runs %s at a time.", name, plural(*n, "job", "jobs")), s.db.ConfigureQueue(r.Context(), by, name, *n)
		}, pathTo("queues", name))
	})
	mux.HandleFunc("POST /queues/{name}/purge", func(w http.ResponseWriter, r *http.Request) {
		name := named(r, "name")
		s.actThen(w, r, guard.Operator, func(by view.Actor) (flash, error) {
			switch {
			case name == "": // a filter without a queue means all jobs
				return flash{}, invalid("A queue without a name cannot be purged here.", "Delete its jobs with the command line: offstage jobs delete --queue ''")
			case r.PostFormValue("confirm") != name:
				return flash{}, invalid("Nothing is deleted: what you have typed is not the name of the queue.", "Type "+name+" to delete all jobs of it that are not running.")
			}
			b, err := s.db.StartBulk(r.Context(), by, view.Action{Do: "delete", Filter: &view.JobFilter{Queue: name}}, onceKey(r))
			return flash{Text: fmt.Sprintf("The jobs of %s that are not running are being deleted.", short(60, name)), Bulk: b.ID.String()}, err
		}, pathTo("queues", name))
	})
}
