// Package health answers whether a process lives and whether it is ready, for systemd, Docker, Kubernetes and load balancers:
// /livez says whether to restart it, /readyz whether to count on it. Both answer in plain text.
package health

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/offstage-dev/offstage/schema"
)

// Check says what is wrong, in a few words for whoever reads the answer: anybody may, so it must not tell secrets. nil: nothing is.
type Check func(ctx context.Context) error

// Config of a Handler.
type Config struct {
	// Live are the checks of /livez: what only a restart mends. Never the database: restarting does not bring it back.
	Live []Check
	// Ready are those of /readyz.
	Ready []Check
	// Metrics is what /metrics answers; nil: there are none.
	Metrics http.Handler
	// Log gets what changes. Default: slog.Default().
	Log *slog.Logger
}

const (
	patience = 3 * time.Second // for all checks; probes often wait no longer than a few seconds, if not one
	fresh    = time.Second     // an answer is given again for so long: whoever asks often costs nothing
)

// Handler serves /livez, /readyz and /metrics.
func Handler(cfg Config) http.Handler {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	mux := http.NewServeMux()
	mux.Handle("GET /livez", &probe{name: "live", checks: cfg.Live, log: cfg.Log})
	mux.Handle("GET /readyz", &probe{name: "ready", checks: cfg.Ready, log: cfg.Log})
	if cfg.Metrics != nil {
		mux.Handle("GET /metrics", cfg.Metrics)
	}
	return mux
}

// probe answers what its checks say.
type probe struct {
	name   string
	checks []Check
	log    *slog.Logger

	mu    sync.Mutex // guards what is below, and lets one look at a time
	at    time.Time
	wrong []string
	said  string // what was logged last
}

func (p *probe) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	wrong := p.look()
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	if len(wrong) == 0 {
		fmt.Fprintln(w, "ok")
		return
	}
	w.WriteHeader(http.StatusServiceUnavailable)
	fmt.Fprintln(w, strings.Join(wrong, "\n"))
}

// look asks the checks, all at once, or remembers. One that does not answer in time is wrong.
func (p *probe) look() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.at.IsZero() && time.Since(p.at) < fresh {
		return p.wrong
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience) // not the request's: others wait for the answer, too
	defer cancel()
	answers := make([]chan error, len(p.checks))
	for i, check := range p.checks {
		answers[i] = make(chan error, 1)
		go func() { answers[i] <- check(ctx) }()
	}
	p.wrong = nil
	over, end := context.WithTimeout(context.Background(), patience+time.Second) // for a check that does not heed ctx
	defer end()
	for _, answer := range answers {
		var err error
		select {
		case err = <-answer:
		case <-over.Done():
			select {
			case err = <-answer: // it came while another one was waited for
			default:
				err = errors.New("a check does not come to its end")
			}
		}
		if err != nil {
			p.wrong = append(p.wrong, err.Error())
		}
	}
	p.at = time.Now()
	if now := strings.Join(p.wrong, "; "); now != p.said {
		switch {
		case now == "":
			p.log.Info("health: " + p.name + " again")
		case p.said == "":
			p.log.Warn("health: not "+p.name, "reason", now)
		}
		p.said = now
	}
	return p.wrong
}

// Database checks that the database answers, and that its schema fits this program.
func Database(pool *pgxpool.Pool, name string) Check {
	return func(ctx context.Context) error {
		err := pool.AcquireFunc(ctx, func(conn *pgxpool.Conn) error { return schema.Check(ctx, conn.Conn(), name) })
		switch {
		case err == nil:
			return nil
		case errors.Is(err, schema.ErrOlder), errors.Is(err, schema.ErrNewer), errors.Is(err, schema.ErrGraphile):
			return fmt.Errorf("schema: %w", err)
		case ctx.Err() != nil:
			return fmt.Errorf("database: no answer within %v", patience)
		}
		return errors.New("database: cannot be reached") // why may name hosts and users
	}
}
