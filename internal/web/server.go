package web

import (
	"context"
	"fmt"
	"html/template"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/internal/view"
	"github.com/offstage-dev/offstage/internal/web/guard"
)

// Config of a Server. The zero value is a UI without authentication, for a program that listens on loopback alone.
type Config struct {
	// Schema is where Offstage is installed. Default: "offstage".
	Schema string
	// BasePath is where the UI is mounted, such as "/offstage"; "" is the root. The handler takes it off by itself, and also
	// serves requests from which a proxy has taken it off already.
	BasePath string
	// Guard says who may do what.
	Guard guard.Config
	// TraceURL leads to the trace of a job, with {trace_id} and {span_id} in it: https://traces.example/trace/{trace_id}.
	// Default: traces are named, and lead nowhere.
	TraceURL string
	// Log takes what goes wrong. Default: nothing is logged.
	Log *slog.Logger
	// MaxBody is how large a request to the HTTP API may be that brings a payload, in bytes. Default: 1 MB.
	MaxBody int64
	// Version is shown at the foot of the pages. Default: offstage.Version.
	Version string
}

// Server is the web UI and the HTTP API of one installation.
type Server struct {
	db        *view.DB
	client    *offstage.Client
	guard     *guard.Guard
	cfg       Config
	log       *slog.Logger
	base      string // BasePath without its last slash
	assets    *assets
	templates map[string]*template.Template
	live      *live
	handler   http.Handler

	stop     sync.Once
	stopping chan struct{} // closed when the streams must end
}

// New makes a server over a pool, which stays the caller's. It connects only when it is used.
func New(pool *pgxpool.Pool, cfg Config) (*Server, error) {
	if cfg.Schema == "" {
		cfg.Schema = "offstage"
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Version == "" {
		cfg.Version = offstage.Version
	}
	base := strings.TrimRight(cfg.BasePath, "/")
	if base != "" && (!strings.HasPrefix(base, "/") || strings.ContainsAny(base, "?#\"'<> \\") || strings.Contains(base, "//")) {
		return nil, fmt.Errorf("the base path %q is not allowed: write it like /offstage", cfg.BasePath)
	}
	client, err := offstage.New(pool, offstage.Config{Schema: cfg.Schema})
	if err != nil {
		return nil, err
	}
	db, err := view.Open(context.Background(), pool, cfg.Schema)
	if err != nil {
		return nil, err
	}
	s := &Server{
		db: db, client: client, cfg: cfg, log: cfg.Log, base: base, live: newLive(time.Second),
		stopping: make(chan struct{}),
	}
	s.live.enter, s.live.enterStream = db.Enter, db.EnterStream
	cfg.Guard.BasePath, cfg.Guard.Log = base, cfg.Log
	cfg.Guard.Refuse = func(w http.ResponseWriter, r *http.Request, why guard.Refusal) { s.fail(w, r, &why) }
	if s.guard, err = guard.New(cfg.Guard, guard.TokenFunc(db.Token)); err != nil {
		db.Close()
		return nil, err
	}
	if s.assets, err = readAssets(); err != nil {
		return nil, err
	}
	if s.templates, err = s.parse(); err != nil {
		return nil, err
	}
	s.handler = s.routes()
	return s, nil
}

// Check connects, and says what keeps this server from reading the database.
func (s *Server) Check(ctx context.Context) error { return s.db.Check(ctx) }

// Handler serves the UI and the API under the base path.
func (s *Server) Handler() http.Handler { return s.handler }

// Run works on what people have asked for in bulk, until ctx ends; then it ends the live streams, so that the HTTP server
// can shut down.
func (s *Server) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, s.endStreams)
	defer stop()
	return s.db.RunBulks(ctx)
}

// Close ends the live streams and the pool for reads.
func (s *Server) Close() {
	s.endStreams()
	s.client.Close()
	s.db.Close()
}

func (s *Server) endStreams() { s.stop.Do(func() { close(s.stopping) }) }

// routes is the whole handler: each page registers itself in its own file.
func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /assets/{name}", s.assets.serve)
	mux.HandleFunc("GET /live/{topic}", s.stream)
	mux.HandleFunc("GET /find", s.find)
	login := s.guard.LoginHandler(s.loginPage)
	mux.Handle("/login", login)
	mux.Handle("/logout", login)
	for _, register := range []func(*http.ServeMux){
		s.overviewRoutes, s.jobsRoutes, s.jobRoutes, s.errorsRoutes, s.tasksRoutes, s.queuesRoutes, s.schedulesRoutes, s.workersRoutes,
		s.auditRoutes, s.apiRoutes, s.healthRoutes,
	} {
		register(mux)
	}
	var h http.Handler = s.methods(mux)
	h = forClient(h)
	h = s.guard.Middleware(h)
	h = compress(h)
	h = headers(h)
	h = s.recovered(h)
	return s.based(h)
}

// based takes the base path off. A request that does not have it came through a proxy that took it off.
func (s *Server) based(next http.Handler) http.Handler {
	if s.base == "" {
		return next
	}
	strip := http.StripPrefix(s.base, next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == s.base:
			to := s.base + "/"
			if r.URL.RawQuery != "" {
				to += "?" + r.URL.RawQuery
			}
			http.Redirect(w, r, to, http.StatusMovedPermanently)
		case strings.HasPrefix(r.URL.Path, s.base+"/"):
			strip.ServeHTTP(w, r)
		default:
			next.ServeHTTP(w, r)
		}
	})
}
