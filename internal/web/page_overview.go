package web

import (
	"context"
	"net/http"
	"net/url"

	"github.com/offstage-dev/offstage/internal/view"
)

func (s *Server) overviewRoutes(mux *http.ServeMux) {
	s.live.register("overview", func(ctx context.Context, args url.Values) (any, error) { return s.db.Overview(ctx, windowOf(args)) })
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		args := url.Values{"window": {windowOf(r.URL.Query())}}
		o, err := read[view.Overview](r.Context(), s, "overview", args)
		if err != nil {
			s.fail(w, r, err)
			return
		}
		s.render(w, r, "overview", page{Title: "Overview", Nav: "overview", Live: "overview?" + args.Encode(), Data: o})
	})
}
