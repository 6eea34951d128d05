package guard

import (
	"context"
	"crypto/hmac"
	"net"
	"net/http"
	"net/netip"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// tokenPrefix begins every token, so that they can be told from passwords and found in leaked text.
const (
	tokenPrefix = "ost_"
	tokenLength = len(tokenPrefix) + 64
)

// What people and programs are told; not which of the two it is, nor whether there is such a user.
const (
	wrongPassword = "Name or password is wrong."
	wrongToken    = "This token is not known, has expired or was revoked."
)

// Middleware lets those pass who may do what they ask for, with their Identity in the context. It stands behind whatever takes
// the base path off, and before everything that answers with data. Whoever has the role of a viewer cannot send unsafe
// methods; what needs more than an operator is for the handlers to say, by Require or Allow.
//
// Without authentication pass: the login page, and what stands under /assets/, /livez and /readyz.
func (g *Guard) Middleware(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r = g.strip(r)
		safe := r.Method == http.MethodGet || r.Method == http.MethodHead || r.Method == http.MethodOptions
		login := r.URL.Path == "/login" || r.URL.Path == "/logout"
		if !g.here(w, r) {
			return
		}
		if err := g.origin.Check(r); err != nil {
			g.refuse(w, r, Refusal{http.StatusForbidden, "This was sent by a page of another site, and not done. If it was this site's own page: " +
				"the proxy in front must pass the header Host on as the browser sent it."})
			return
		}
		if g.cfg.ReadOnly && !safe && !login {
			g.refuse(w, r, Refusal{http.StatusForbidden, "This server is read-only: nothing can be changed here. Use another one, or the command line."})
			return
		}
		if login || safe && public(r.URL.Path) {
			next.ServeHTTP(w, r)
			return
		}
		id, ok := g.identify(w, r)
		if !ok {
			return
		}
		r = r.WithContext(g.withStill(r, id))
		if !safe && id.Role < Operator {
			g.refuse(w, r, *Allow(r.Context(), Operator).(*Refusal))
			return
		}
		if w.Header().Get("Cache-Control") == "" {
			w.Header().Set("Cache-Control", "no-store") // payloads stay in no cache, and no page comes back after the logout
		}
		next.ServeHTTP(w, r)
	})
}

// public says what is there for everybody. A path that is not clean could lead elsewhere.
func public(p string) bool {
	return path.Clean(p) == p && (strings.HasPrefix(p, "/assets/") || p == "/livez" || p == "/readyz" || p == "/favicon.ico")
}

// here refuses, without authentication, whoever is not on this machine, and pages of other sites that have taken its address
// for their name (DNS rebinding): those look to the browser like our own.
func (g *Guard) here(w http.ResponseWriter, r *http.Request) bool {
	if !g.cfg.Open {
		return true
	}
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	if from, err := netip.ParseAddrPort(r.RemoteAddr); local(host) && (err != nil || from.Addr().Unmap().IsLoopback()) { // no address: a socket
		return true
	}
	g.refuse(w, r, Refusal{http.StatusForbidden, "Without authentication this server is for its own machine alone, under the name localhost. " +
		"To use it from elsewhere, start it with --users, --tokens or --proxy-header."})
	return false
}

// strip takes what only a trusted proxy may say out of the requests of others.
func (g *Guard) strip(r *http.Request) *http.Request {
	if g.cfg.ProxyHeader == "" || g.trusted(r) {
		return r
	}
	_, named := r.Header[http.CanonicalHeaderKey(g.cfg.ProxyHeader)]
	_, given := r.Header[http.CanonicalHeaderKey(g.cfg.ProxyRoleHeader)]
	if !named && !given {
		return r
	}
	r = r.WithContext(r.Context())
	r.Header = r.Header.Clone()
	r.Header.Del(g.cfg.ProxyHeader)
	r.Header.Del(g.cfg.ProxyRoleHeader)
	return r
}

func (g *Guard) trusted(r *http.Request) bool {
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	return err == nil && g.trusts(from.Addr())
}

func (g *Guard) trusts(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	return slices.ContainsFunc(g.cfg.TrustedProxies, func(p netip.Prefix) bool { return unmapped(p).Contains(a) })
}

func unmapped(p netip.Prefix) netip.Prefix {
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		return netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p
}

// from is the address of the client: the last one in X-Forwarded-For that is not a trusted proxy's, if one of those has sent it.
func (g *Guard) from(r *http.Request) netip.Addr {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	at := peer.Addr().Unmap()
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(hops) - 1; i >= 0 && g.trusts(at); i-- {
		hop, err := netip.ParseAddr(strings.TrimSpace(hops[i]))
		if err != nil {
			break
		}
		at = hop.Unmap()
	}
	return at.WithZone("")
}

// place is what the attempts of an address are counted by: who has one IPv6 address has 2⁶⁴.
func place(a netip.Addr) string {
	if a.Is6() {
		if p, err := a.Prefix(64); err == nil {
			return p.String()
		}
	}
	return a.String()
}

func addressText(a netip.Addr) string {
	if !a.IsValid() {
		return "local"
	}
	return a.String()
}

// identify finds out who asks, or answers the request itself. The first of these counts that is there: what the program or the
// proxy says, a token, a session, a password.
func (g *Guard) identify(w http.ResponseWriter, r *http.Request) (Identity, bool) {
	from := g.from(r)
	as := func(name string, role Role, via string) (Identity, bool) {
		if g.cfg.ReadOnly {
			role = Viewer
		}
		return Identity{name, role, addressText(from), via}, true
	}
	if g.cfg.Open {
		return as("anonymous", Admin, ViaNothing)
	}
	if g.cfg.Authenticate != nil {
		if name, role, ok := g.cfg.Authenticate(r); ok && role.valid() {
			return as(name, role, ViaProgram)
		}
	}
	if name, role, ok := g.proxied(r); ok {
		return as(name, role, ViaProxy)
	}
	secret, bearer := g.bearer(r)
	if strings.HasPrefix(secret, tokenPrefix) {
		name, role, ok := g.token(w, r, secret, place(from))
		if !ok {
			return Identity{}, false
		}
		return as(tokenName(name), role, ViaToken)
	}
	name, role, ok, err := g.session(w, r)
	if err != nil {
		g.unavailable(w, r, err)
		return Identity{}, false
	}
	if ok {
		return as(name, role, ViaSession)
	}
	why := ""
	if name, password, ok := r.BasicAuth(); ok && len(g.users) > 0 {
		role, wait, ok := g.password(r.Context(), name, password, place(from))
		switch {
		case wait > 0:
			g.tooMany(w, r, wait)
			return Identity{}, false
		case ok:
			return as(name, role, ViaBasic)
		}
		why = wrongPassword
	}
	if bearer { // of another program, or nonsense
		if wait := g.strangers.take(place(from)); wait > 0 {
			g.tooMany(w, r, wait)
			return Identity{}, false
		}
		why = wrongToken
	}
	g.unauthenticated(w, r, why)
	return Identity{}, false
}

// tokenName keeps tokens from passing for users, whose names have no colon.
func tokenName(name string) string { return "token:" + name }

// proxied is whom a trusted proxy names. A header that comes twice was not written by the proxy alone.
func (g *Guard) proxied(r *http.Request) (name string, role Role, ok bool) {
	if g.cfg.ProxyHeader == "" || !g.trusted(r) {
		return "", None, false
	}
	names := r.Header.Values(g.cfg.ProxyHeader)
	if len(names) > 1 {
		g.log.Warn("the proxy has let a second header pass: it must overwrite what clients send", "header", g.cfg.ProxyHeader)
	}
	if len(names) != 1 || checkName(names[0]) != nil {
		return "", None, false
	}
	if g.cfg.ProxyRoleHeader != "" {
		given := r.Header.Values(g.cfg.ProxyRoleHeader)
		if len(given) > 1 {
			g.log.Warn("the proxy has let a second header pass: it must overwrite what clients send", "header", g.cfg.ProxyRoleHeader)
			return "", None, false
		}
		for word := range strings.SplitSeq(strings.Join(given, ","), ",") {
			if one, err := ParseRole(strings.ToLower(strings.TrimSpace(word))); err == nil {
				role = max(role, one)
			}
		}
	}
	if role == None {
		role = g.cfg.ProxyRoles[names[0]]
	}
	if role == None {
		role = g.cfg.ProxyRole
	}
	return names[0], role, true
}

// bearer is a token in the request. It may be another program's: a proxy may have its own.
func (g *Guard) bearer(r *http.Request) (secret string, ok bool) {
	if !g.cfg.Tokens {
		return "", false
	}
	scheme, secret, ok := strings.Cut(r.Header.Get("Authorization"), " ")
	return strings.TrimSpace(secret), ok && strings.EqualFold(scheme, "Bearer")
}

// token answers whose it is, or the request. Wrong ones are counted by the address; right ones are never held up by others'
// wrong ones while they are known.
func (g *Guard) token(w http.ResponseWriter, r *http.Request, secret, place string) (name string, role Role, ok bool) {
	hash := hashOf(secret)
	if !g.known.has(string(hash)) {
		if wait := g.strangers.look(place); wait > 0 {
			g.tooMany(w, r, wait)
			return "", None, false
		}
	}
	if wellFormed(secret) {
		var err error
		if name, role, err = g.tokens.Lookup(r.Context(), hash); err != nil {
			g.unavailable(w, r, err)
			return "", None, false
		}
	}
	if name == "" || !role.valid() {
		g.strangers.take(place)
		g.log.Warn("a token was refused", "from", place)
		g.unauthenticated(w, r, wrongToken)
		return "", None, false
	}
	g.known.add(string(hash), time.Now().Add(time.Minute))
	return name, role, true
}

func wellFormed(secret string) bool {
	return len(secret) == tokenLength && strings.HasPrefix(secret, tokenPrefix)
}

func (g *Guard) unavailable(w http.ResponseWriter, r *http.Request, err error) {
	g.log.Error("tokens cannot be looked up", "error", err)
	g.refuse(w, r, Refusal{http.StatusServiceUnavailable, "The database cannot be asked for the token. Try again in a moment."})
}

// password answers the role of a user whose password is right. Attempts are counted by address and by user, before they are
// made, so that many at once are no way around; wait says that there were too many.
func (g *Guard) password(ctx context.Context, name, password, place string) (role Role, wait time.Duration, ok bool) {
	u := g.users[name]
	print := sign(g.secret, name, password)
	if u != nil && u.remembers(print) {
		return u.Role, 0, true
	}
	if wait := g.addresses.take(place); wait > 0 {
		return None, wait, false
	}
	key := string(hashOf(name)) // names may be of any length
	if wait := g.names.take(key); wait > 0 {
		return None, wait, false
	}
	hash := g.nobody
	if u != nil {
		hash = []byte(u.PasswordHash)
	}
	select {
	case g.turns <- struct{}{}:
	case <-ctx.Done():
		return None, 0, false
	}
	// bcrypt would not look at what is behind the 72nd byte.
	right := bcrypt.CompareHashAndPassword(hash, []byte(password[:min(len(password), maxPassword)])) == nil && len(password) <= maxPassword
	<-g.turns
	if u == nil || !right {
		if u == nil {
			name = "(unknown)" // it may be a password that was typed into the wrong field
		}
		g.log.Warn("a password was refused", "user", name, "from", place)
		return None, 0, false
	}
	g.addresses.back(place)
	g.names.back(key)
	u.remember(print)
	return u.Role, 0, true
}

func (u *user) remembers(print []byte) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return hmac.Equal(u.seen, print)
}

func (u *user) remember(print []byte) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.seen = print
}
