// Package metrics tells Prometheus how a worker and the database are doing. A worker's process exports what it did itself
// (Worker); what is in the database, for all workers together, is exported where somebody asks for it (Database): by offstage serve,
// or by a worker with --metrics-database. docs/deploy.md says what each metric means.
package metrics

import (
	"log/slog"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/offstage-dev/offstage"
)

// Registry holds the metrics of a process: those of Go and of the process itself, to begin with.
type Registry struct{ *prometheus.Registry }

// NewRegistry makes one.
func NewRegistry() Registry {
	r := Registry{prometheus.NewRegistry()}
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "offstage_build_info", Help: "1; the label has the version of the program.", ConstLabels: prometheus.Labels{"version": offstage.Version},
	})
	info.Set(1)
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), info)
	return r
}

// Handler prints the metrics. What cannot be read is left out, and logged.
func (r Registry) Handler(log *slog.Logger) http.Handler {
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{
		ErrorHandling: promhttp.ContinueOnError, MaxRequestsInFlight: 4, ErrorLog: logger{log}, EnableOpenMetrics: true,
	})
}

type logger struct{ *slog.Logger }

func (l logger) Println(v ...any) {
	for _, x := range v {
		if err, ok := x.(error); ok {
			l.Warn("metrics could not be read", "error", err)
		}
	}
}
