package web

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/offstage-dev/offstage/internal/view"
	"github.com/offstage-dev/offstage/internal/web/guard"
)

func (s *Server) workersRoutes(mux *http.ServeMux) {
	s.live.register("workers", func(ctx context.Context, _ url.Values) (any, error) { return s.db.Workers(ctx) })
	mux.HandleFunc("GET /workers", func(w http.ResponseWriter, r *http.Request) {
		workers, err := read[[]view.Worker](r.Context(), s, "workers", nil)
		if err != nil {
			s.fail(w, r, err)
			return
		}
		s.render(w, r, "workers", page{Title: "Workers", Nav: "workers", Live: "workers", Data: workers})
	})
	tell := func(verb, said string, do func(context.Context, view.Actor, int) error) {
		mux.HandleFunc("POST /workers/{name}/"+verb, func(w http.ResponseWriter, r *http.Request) {
			s.act(w, r, guard.Operator, func(by view.Actor) (string, error) {
				id, err := strconv.ParseInt(strings.TrimPrefix(r.PathValue("name"), "worker-"), 10, 32)
				if err != nil {
					return "", fmt.Errorf("the worker %q is %w", short(100, r.PathValue("name")), view.ErrUnknown)
				}
				return fmt.Sprintf(said, id), do(r.Context(), by, int(id))
			}, pathTo("workers"))
		})
	}
	tell("drain", "The worker %d is drained: it takes no more jobs, and what it runs finishes.", s.db.DrainWorker)
	tell("resume", "The worker %d goes on.", s.db.ResumeWorker)
	tell("stop", "The worker %d stops: what it runs may finish within its grace period, then its process ends.", s.db.StopWorker)
}
