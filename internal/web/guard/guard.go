// Package guard stands in front of the web UI and the HTTP API: it says who asks, refuses what they may not do, and hides
// what nobody is to see. It knows nothing of pages and of jobs.
package guard

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// Config of a Guard. The zero value is Open.
type Config struct {
	// Open: no authentication. Everybody on this machine is an admin, named anonymous; requests from elsewhere, or for a
	// host name that is not this machine's, are refused. It is what holds when no way to log in is configured.
	Open bool
	// Users log in by the page, or by basic authentication. ParseUsers reads them from a file.
	Users []User
	// Tokens: bearer tokens are looked up in what New gets.
	Tokens bool
	// ProxyHeader is where a proxy that has authenticated somebody writes the name, such as X-Forwarded-User. It counts
	// only from TrustedProxies; from everybody else it is taken out of the request.
	ProxyHeader string
	// ProxyRole is the role of those whom the proxy names. Default: Viewer.
	ProxyRole Role
	// ProxyRoles are other roles, by name.
	ProxyRoles map[string]Role
	// ProxyRoleHeader is where the proxy writes the role, and overrides the two above: viewer, operator, admin, or several
	// with commas, of which the highest counts; other words are ignored. "": the proxy does not.
	ProxyRoleHeader string
	// TrustedProxies are the addresses of proxies: what they say in ProxyHeader and X-Forwarded-For is believed.
	TrustedProxies []netip.Prefix
	// Authenticate, for programs that serve the UI inside their own, says who asks; false is nobody, and the other ways
	// are tried then.
	Authenticate func(*http.Request) (name string, role Role, ok bool)
	// ReadOnly: everybody is a viewer, and nothing can be changed, whoever asks.
	ReadOnly bool

	// Redact are more rules of what Redact hides; see there.
	Redact []string
	// ShowSecrets leaves out the rules that hold otherwise: for passwords, secrets, tokens and the like.
	ShowSecrets bool

	// SessionKey signs the cookies, at least 32 bytes. Processes that share it share their sessions. Default: random, so
	// that everybody logs in again after a restart.
	SessionKey []byte
	// SecureCookies: cookies are for HTTPS alone. Without it, they are when the request came by TLS, or when a proxy says so in
	// X-Forwarded-Proto.
	SecureCookies bool

	// BasePath is where the UI is mounted, such as /offstage, for links and cookies. The requests that Middleware and
	// LoginHandler get have it taken off their path.
	BasePath string
	// Refuse shows a refusal to a person. Default: as text. Programs always get application/problem+json.
	Refuse func(http.ResponseWriter, *http.Request, Refusal)
	// Log gets who logs in, and who tries to; no password, token or cookie. Default: nobody.
	Log *slog.Logger
}

// Tokens finds bearer tokens.
type Tokens interface {
	// Lookup answers whose token has this SHA-256. An unknown, expired or revoked one is no error and has no name.
	Lookup(ctx context.Context, hash []byte) (name string, role Role, err error)
}

// TokenFunc is a function as Tokens; its roles are words.
type TokenFunc func(ctx context.Context, hash []byte) (name, role string, err error)

// Lookup calls the function.
func (f TokenFunc) Lookup(ctx context.Context, hash []byte) (string, Role, error) {
	name, word, err := f(ctx, hash)
	if err != nil || name == "" {
		return "", None, err
	}
	role, err := ParseRole(word)
	return name, role, err
}

// Guard is a Config at work.
type Guard struct {
	cfg    Config
	base   string // BasePath without its last slash
	log    *slog.Logger
	tokens Tokens
	users  map[string]*user
	nobody []byte // the hash that the password of an unknown user is compared with, so that it takes as long
	origin *http.CrossOriginProtection
	rules  *rules
	within *rules        // the same, beginning at every key
	key    []byte        // signs cookies
	secret []byte        // of this process: for what is remembered of passwords
	turns  chan struct{} // passwords are compared by so many at a time

	addresses *limiter // what an address may still try
	names     *limiter // what may still be tried for a user
	strangers *limiter // how many wrong tokens an address may still send
	known     *memory  // hashes of tokens that were good a moment ago
	ended     *memory  // ids of sessions that have logged out
}

type user struct {
	User
	mu   sync.Mutex // guards seen
	seen []byte     // a keyed hash of the password that was right the last time: bcrypt is too slow for every request
}

// New checks the configuration. tokens may be nil without Config.Tokens.
func New(cfg Config, tokens Tokens) (*Guard, error) {
	g := &Guard{
		cfg: cfg, base: strings.TrimRight(cfg.BasePath, "/"), log: cfg.Log, tokens: tokens, users: map[string]*user{}, origin: http.NewCrossOriginProtection(),
		turns: make(chan struct{}, 2), secret: random(32),
		addresses: newLimiter(10, 6*time.Second), names: newLimiter(20, 6*time.Second), strangers: newLimiter(60, time.Second),
		known: newMemory(1000), ended: newMemory(10_000),
	}
	if g.log == nil {
		g.log = slog.New(slog.DiscardHandler)
	}
	authenticated := cfg.authenticated()
	if cfg.Open && authenticated {
		return nil, errors.New("guard.Config.Open lets everybody in, so that users, tokens and proxies would mean nothing: leave it out, or them")
	}
	g.cfg.Open = !authenticated
	if g.base != "" && !strings.HasPrefix(g.base, "/") {
		return nil, fmt.Errorf("the base path %q does not begin with a slash: write it like /offstage", cfg.BasePath)
	}
	if cfg.Tokens && tokens == nil {
		return nil, errors.New("tokens are wanted, and there is nothing to look them up in")
	}
	if err := g.checkProxies(); err != nil {
		return nil, err
	}
	cost := bcrypt.DefaultCost
	for i, u := range cfg.Users {
		if err := u.check(); err != nil {
			return nil, err
		}
		if g.users[u.Name] != nil {
			return nil, fmt.Errorf("there are two users %q: leave one out", u.Name)
		}
		g.users[u.Name] = &user{User: u}
		if c, _ := bcrypt.Cost([]byte(u.PasswordHash)); i == 0 || c > cost {
			cost = c
		}
	}
	if len(cfg.Users) > 0 {
		var err error
		if g.nobody, err = bcrypt.GenerateFromPassword(random(16), cost); err != nil {
			return nil, err
		}
	}
	key := cfg.SessionKey
	switch {
	case len(key) == 0:
		key = random(32)
	case len(key) < 32:
		return nil, fmt.Errorf("the session key has %d bytes, at least 32 are needed: openssl rand -hex 32", len(key))
	}
	g.key = sign(key, "offstage session")
	var err error
	if g.rules, err = newRules(cfg.Redact, !cfg.ShowSecrets); err != nil {
		return nil, err
	}
	g.within = g.rules.everywhere()
	return g, nil
}

func (g *Guard) checkProxies() error {
	cfg := &g.cfg
	if cfg.ProxyHeader == "" && (cfg.ProxyRoleHeader != "" || len(cfg.ProxyRoles) > 0 || cfg.ProxyRole != None) {
		return errors.New("roles are given to those whom a proxy names, and no header in which it does: set ProxyHeader (--proxy-header)")
	}
	if cfg.ProxyHeader != "" && len(cfg.TrustedProxies) == 0 {
		return fmt.Errorf("everybody could send the header %s: say which proxy is to be believed (--trusted-proxy 10.0.0.7)", cfg.ProxyHeader)
	}
	for _, name := range []string{cfg.ProxyHeader, cfg.ProxyRoleHeader} {
		switch http.CanonicalHeaderKey(name) {
		case "Authorization", "Cookie", "Host", "X-Forwarded-For", "X-Forwarded-Proto":
			return fmt.Errorf("the header %s has a meaning of its own: use another one, such as X-Forwarded-User", name)
		}
		if strings.ContainsFunc(name, func(r rune) bool {
			return r != '-' && r != '_' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
		}) {
			return fmt.Errorf("%q is no name of a header: write one like X-Forwarded-User", name)
		}
	}
	if cfg.ProxyHeader != "" && strings.EqualFold(cfg.ProxyHeader, cfg.ProxyRoleHeader) {
		return fmt.Errorf("name and role cannot be in the same header, %s", cfg.ProxyHeader)
	}
	for _, p := range cfg.TrustedProxies {
		if !p.IsValid() || p.Bits() == 0 {
			return fmt.Errorf("the trusted proxy %s is everybody: write the address of the proxy, or its network", p)
		}
	}
	if cfg.ProxyRole == None {
		cfg.ProxyRole = Viewer
	}
	for name, role := range cfg.ProxyRoles {
		if !role.valid() {
			return fmt.Errorf("%q has no role: use viewer, operator or admin", name)
		}
	}
	if !cfg.ProxyRole.valid() {
		return errors.New("those whom the proxy names have no role: use viewer, operator or admin")
	}
	return nil
}

func (c *Config) authenticated() bool {
	return len(c.Users) > 0 || c.Tokens || c.ProxyHeader != "" || c.Authenticate != nil
}

// CheckAddress refuses to serve without authentication where others than this machine can reach it.
func CheckAddress(addr string, cfg Config) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("%q is no address to listen on: write host:port, such as 127.0.0.1:8080", addr)
	}
	if cfg.authenticated() || local(host) {
		return nil
	}
	where := "on " + addr
	if host == "" {
		where = "on all addresses of this machine"
	}
	return fmt.Errorf("refused to listen %s without authentication: whoever can reach it could see and change all jobs; "+
		"add --users FILE (offstage password makes its lines), --tokens, or --proxy-header with --trusted-proxy; or listen on 127.0.0.1:%s", where, port)
}

// local says whether a host, without its port, is this machine and nothing else.
func local(host string) bool {
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	addr, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil && addr.Unmap().IsLoopback()
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b) // never fails
	return b
}

func hashOf(secret string) []byte {
	sum := sha256.Sum256([]byte(secret))
	return sum[:]
}
