package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/offstage-dev/offstage/internal/health"
	"github.com/offstage-dev/offstage/internal/metrics"
	"github.com/offstage-dev/offstage/worker"
)

// listener serves /livez, /readyz and /metrics of a worker process.
type listener struct {
	socket   net.Listener
	registry metrics.Registry
	metrics  *metrics.Worker
	server   *http.Server
	done     chan struct{} // closed when nothing is served any more; nil: nothing was
}

// listen takes the address, so that a mistake is told before any job runs. nil: nobody asked for it.
func (a *app) listen(flags *workerFlags) (*listener, error) {
	if flags.listen == "" {
		return nil, nil
	}
	socket, err := net.Listen("tcp", flags.listen)
	if err != nil {
		return nil, failed(Failed, "choose another address with --listen or OFFSTAGE_LISTEN", "%w", err)
	}
	l := &listener{socket: socket, registry: metrics.NewRegistry()}
	l.metrics = metrics.NewWorker(l.registry)
	return l, nil
}

// serve answers for w until close: also while it lets its last jobs finish.
func (l *listener) serve(db *database, w *worker.Worker, flags *workerFlags, log *slog.Logger) {
	if l == nil {
		return
	}
	l.metrics.Know(w.Tasks())
	l.metrics.Follow(l.registry, w.Status)
	if flags.metricsDatabase {
		metrics.NewDatabase(l.registry, db.pool, db.schema, metrics.DatabaseOptions{Failed: l.metrics.Failed})
	}
	l.server = &http.Server{
		Handler: health.Handler(health.Config{
			Live:    []health.Check{moves(w.Status)},
			Ready:   []health.Check{works(w.Status), health.Database(db.pool, db.schema)},
			Metrics: l.registry.Handler(log), Log: log,
		}),
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	l.done = make(chan struct{})
	go func() {
		defer close(l.done)
		if err := l.server.Serve(l.socket); !errors.Is(err, http.ErrServerClosed) {
			log.Error("health and metrics are not served any more", "error", err)
		}
	}()
	log.Info("health and metrics are served", "address", l.socket.Addr().String())
}

// close ends it.
func (l *listener) close() {
	switch {
	case l == nil:
	case l.done == nil:
		l.socket.Close()
	default:
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if l.server.Shutdown(ctx) != nil {
			l.server.Close()
		}
		<-l.done
	}
}

// moves checks that the worker's loops come round. What they wait for at most is the database, for half a minute a call.
func moves(status func() worker.Status) health.Check {
	return func(context.Context) error {
		st := status()
		if still := time.Since(st.Round); still > stuckAfter+5*st.Period {
			return fmt.Errorf("worker: a loop has not moved for %s", span(still))
		}
		return nil
	}
}

const stuckAfter = 2 * time.Minute

// works checks that the worker takes jobs.
func works(status func() worker.Status) health.Check {
	return func(context.Context) error {
		st := status()
		switch silent := time.Since(st.LastBeat); {
		case st.State == worker.Stopping:
			return fmt.Errorf("worker: is stopping, %s still running", plural(st.Busy, "job"))
		case st.State == worker.Draining:
			return fmt.Errorf("worker: is draining, %s still running", plural(st.Busy, "job"))
		case st.State != worker.Working:
			return fmt.Errorf("worker: is %s", st.State)
		case silent > 3*st.Period:
			return fmt.Errorf("worker: no heartbeat has landed for %s", span(silent))
		}
		return nil
	}
}
