// Package ui is the web UI and the HTTP API of Offstage, to be mounted in a program of one's own. The program offstage has the
// same as "offstage serve".
//
//	jobs, err := ui.Handler(pool, ui.Config{BasePath: "/jobs", Authenticate: whoAsks})
//	if err != nil {
//		return err
//	}
//	defer jobs.Close()
//	go jobs.Run(ctx) // works on what people ask for in bulk
//	mux.Handle("/jobs/", jobs)
package ui

import (
	"context"
	"log/slog"
	"net/http"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/offstage-dev/offstage/internal/web"
	"github.com/offstage-dev/offstage/internal/web/guard"
)

// Role is what somebody may do.
type Role string

// The roles; each may do what those before it may.
const (
	Viewer   Role = "viewer"   // sees everything but what is redacted
	Operator Role = "operator" // acts on jobs, queues, tasks and schedules
	Admin    Role = "admin"    // changes settings, too
)

// Config of the UI. The zero value serves this machine alone: whoever asks from elsewhere is refused.
type Config struct {
	// Schema is where Offstage is installed. Default: "offstage".
	Schema string
	// BasePath is where the UI is mounted, such as "/jobs". Default: at the root.
	BasePath string
	// Authenticate says who asks; false is nobody, who is refused. It is called for each request but those for assets.
	Authenticate func(*http.Request) (name string, role Role, ok bool)
	// Tokens lets those in, too, who send a bearer token that "offstage tokens add" has made.
	Tokens bool
	// ReadOnly makes everybody a viewer: nothing can be changed.
	ReadOnly bool
	// Redact are rules of what is not shown of payloads, results and logs, besides those for passwords, tokens and the like:
	// "iban", "*.email", "card.number".
	Redact []string
	// ShowSecrets leaves out the rules that hold by themselves.
	ShowSecrets bool
	// Log takes what goes wrong, and who logs in. Default: nothing is logged.
	Log *slog.Logger
}

// UI is an http.Handler.
type UI struct{ server *web.Server }

// Handler makes the UI of an installation. The pool stays the caller's; reads have a small pool of their own beside it. It connects
// only when it is used.
func Handler(pool *pgxpool.Pool, cfg Config) (*UI, error) {
	who := guard.Config{Tokens: cfg.Tokens, ReadOnly: cfg.ReadOnly, Redact: cfg.Redact, ShowSecrets: cfg.ShowSecrets}
	if cfg.Authenticate != nil {
		who.Authenticate = func(r *http.Request) (string, guard.Role, bool) {
			name, role, ok := cfg.Authenticate(r)
			if !ok {
				return "", guard.None, false
			}
			known, err := guard.ParseRole(string(role))
			return name, known, err == nil
		}
	}
	server, err := web.New(pool, web.Config{Schema: cfg.Schema, BasePath: cfg.BasePath, Guard: who, Log: cfg.Log})
	if err != nil {
		return nil, err
	}
	return &UI{server}, nil
}

// ServeHTTP serves pages and API under the base path.
func (u *UI) ServeHTTP(w http.ResponseWriter, r *http.Request) { u.server.Handler().ServeHTTP(w, r) }

// Close ends the streams of open pages, and the pool for reads. The handler is of no use afterwards.
func (u *UI) Close() { u.server.Close() }

// Run works on what people ask for in bulk (delete all jobs that match), until ctx ends, and then ends the streams of open pages, so
// that the HTTP server can shut down. Without it the pages work, and actions on many jobs wait for a process that runs.
func (u *UI) Run(ctx context.Context) error { return u.server.Run(ctx) }
