package guard

import (
	"context"
	"fmt"
	"net/http"
)

// Role is what somebody may do.
type Role int

// The roles, from less to more: each may do what those before it may.
const (
	None     Role = iota
	Viewer        // sees everything but what is redacted
	Operator      // acts on jobs, queues, tasks, schedules
	Admin         // everything
)

var roleNames = [...]string{None: "none", Viewer: "viewer", Operator: "operator", Admin: "admin"}

func (r Role) String() string {
	if r < None || r > Admin {
		return "none"
	}
	return roleNames[r]
}

func (r Role) valid() bool { return Viewer <= r && r <= Admin }

// MarshalText makes it a word in JSON.
func (r Role) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// ParseRole reads viewer, operator or admin.
func ParseRole(word string) (Role, error) {
	for r := Viewer; r <= Admin; r++ {
		if roleNames[r] == word {
			return r, nil
		}
	}
	return None, fmt.Errorf("the role %.40q is not known: use viewer, operator or admin", word)
}

// Ways in which somebody has shown who they are.
const (
	ViaNothing = ""        // Open
	ViaSession = "session" // has logged in by the page: can log out
	ViaBasic   = "basic"
	ViaToken   = "token"
	ViaProxy   = "proxy"
	ViaProgram = "program" // Config.Authenticate
)

// Identity is who asks.
type Identity struct {
	Name string // of tokens with token: in front; "anonymous" without authentication
	Role Role   // Viewer in a guard that is read-only
	From string // address
	Via  string
}

type key struct{}

// FromContext is who asks, as Middleware found out. Nobody has the role None.
func FromContext(ctx context.Context) Identity {
	id, _ := ctx.Value(key{}).(Identity)
	return id
}

// With is for tests of what stands behind Middleware.
func With(ctx context.Context, id Identity) context.Context { return context.WithValue(ctx, key{}, id) }

// Allow is nil for those who have at least this role, else an error to be shown, which is a *Refusal.
func Allow(ctx context.Context, least Role) error {
	if id := FromContext(ctx); id.Role < least {
		return &Refusal{http.StatusForbidden, fmt.Sprintf("This needs the role %s; %s has the role %s. Ask an administrator.", least, id.Name, id.Role)}
	}
	return nil
}

// Require lets those pass who have at least this role.
func (g *Guard) Require(least Role, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := Allow(r.Context(), least); err != nil {
			g.refuse(w, r, *err.(*Refusal))
			return
		}
		next.ServeHTTP(w, r)
	})
}
