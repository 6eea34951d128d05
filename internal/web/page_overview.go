package web

import (
	"context"
	"net/http"
	"net/url"

	"github.com/offstage-dev/offstage/internal/view"
)

func (s *Server) overviewRoutes(mux *http.ServeMux) {
	s.live.register("overview", s.readOverview)
	s.live.register("rates", func(ctx context.Context, args url.Values) (any, error) { return s.db.Rates(ctx, windowOf(args)) })
	s.live.register("problems", func(ctx context.Context, _ url.Values) (any, error) { return s.db.Problems(ctx) })
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

// readOverview reads what there is now; rates and problems are topics of their own, which are read more rarely where they take longer.
func (s *Server) readOverview(ctx context.Context, args url.Values) (any, error) {
	var o view.Overview
	var err error
	if o.Standing, err = s.db.Standing(ctx); err == nil {
		o.Rates, err = read[view.Rates](ctx, s, "rates", url.Values{"window": {windowOf(args)}})
	}
	if err == nil {
		o.Problems, err = read[[]view.Problem](ctx, s, "problems", nil)
	}
	return o, err
}
