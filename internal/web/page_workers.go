package web

import (
	"context"
	"net/http"
	"net/url"

	"github.com/offstage-dev/offstage/internal/view"
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
}
