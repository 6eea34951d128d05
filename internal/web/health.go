package web

import (
	"context"
	"errors"
	"net/http"

	"github.com/offstage-dev/offstage/internal/health"
	"github.com/offstage-dev/offstage/internal/metrics"
)

// healthRoutes are /livez and /readyz, which the guard lets everybody ask, and /metrics, for viewers: of the database, for all workers
// together. What a worker itself measures it serves itself (offstage worker --listen).
func (s *Server) healthRoutes(mux *http.ServeMux) {
	registry := metrics.NewRegistry()
	metrics.NewDatabase(registry, s.db.Reads(), s.cfg.Schema, metrics.DatabaseOptions{Totals: true})
	h := health.Handler(health.Config{
		Ready:   []health.Check{s.serves, health.Database(s.db.Reads(), s.cfg.Schema)},
		Metrics: registry.Handler(s.log), Log: s.log,
	})
	for _, path := range []string{"/livez", "/readyz", "/metrics"} {
		mux.Handle("GET "+path, h)
	}
}

// serves checks that the server is not about to end.
func (s *Server) serves(context.Context) error {
	select {
	case <-s.stopping:
		return errors.New("server: is stopping")
	default:
		return nil
	}
}
