package guard

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/crypto/bcrypt"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The passwords of the tests' users are their names, twice: adaada.
func testUser(t testing.TB, name string, role Role) User {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(name+name), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	return User{name, string(hash), role}
}

// secretOf is a token of the tests.
func secretOf(name string) string { return tokenPrefix + fmt.Sprintf("%064x", name) }

// ledger is Tokens in memory.
type ledger struct {
	mu     sync.Mutex // guards the rest
	tokens map[string]Role
	broken error
	asked  int
}

func (l *ledger) Lookup(_ context.Context, hash []byte) (string, Role, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked++
	for name, role := range l.tokens {
		if bytes.Equal(hash, hashOf(secretOf(name))) {
			return name, role, l.broken
		}
	}
	return "", None, l.broken
}

// stage is a guard in front of a page that says who asks.
type stage struct {
	t       *testing.T
	guard   *Guard
	handler http.Handler
	log     *bytes.Buffer
	tokens  *ledger
	peer    string
	host    string
}

func newStage(t *testing.T, cfg Config) *stage {
	t.Helper()
	s := &stage{t: t, log: &bytes.Buffer{}, peer: "192.0.2.1:1234", host: "offstage.example"}
	s.tokens = &ledger{tokens: map[string]Role{"tv": Viewer, "to": Operator, "ta": Admin}}
	cfg.Log = slog.New(slog.NewTextHandler(s.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	var err error
	if s.guard, err = New(cfg, s.tokens); err != nil {
		t.Fatal(err)
	}
	login := s.guard.LoginHandler(func(w http.ResponseWriter, r *http.Request, p LoginPage) {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(w, "%+v", p)
	})
	mux := http.NewServeMux()
	mux.Handle("/login", login)
	mux.Handle("/logout", login)
	mux.Handle("/admin", s.guard.Require(Admin, http.HandlerFunc(s.page)))
	mux.HandleFunc("/", s.page)
	s.handler = http.StripPrefix(s.guard.base, s.guard.Middleware(mux))
	return s
}

func (s *stage) page(w http.ResponseWriter, r *http.Request) {
	id := FromContext(r.Context())
	fmt.Fprintf(w, "%s %s %s %s", id.Name, id.Role, id.From, id.Via)
	for name := range r.Header {
		if strings.HasPrefix(name, "X-Forwarded-User") || strings.HasPrefix(name, "X-Forwarded-Role") {
			fmt.Fprintf(w, " %s=%s", name, r.Header.Get(name))
		}
	}
}

// how changes a request.
type how func(*http.Request)

func header(name, value string) how { return func(r *http.Request) { r.Header.Add(name, value) } }
func basic(name, password string) how {
	return func(r *http.Request) { r.SetBasicAuth(name, password) }
}
func bearer(secret string) how { return header("Authorization", "Bearer "+secret) }
func from(peer string) how     { return func(r *http.Request) { r.RemoteAddr = peer } }
func cookie(c *http.Cookie) how {
	return func(r *http.Request) {
		if c != nil {
			r.AddCookie(c)
		}
	}
}

func form(pairs ...string) how {
	v := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		v.Set(pairs[i], pairs[i+1])
	}
	return func(r *http.Request) {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Body = io.NopCloser(strings.NewReader(v.Encode()))
	}
}

var browser = header("Accept", "text/html,application/xhtml+xml,*/*;q=0.8")

func (s *stage) do(method, target string, hows ...how) *http.Response {
	s.t.Helper()
	r := httptest.NewRequest(method, target, nil)
	r.RemoteAddr, r.Host = s.peer, s.host
	for _, change := range hows {
		change(r)
	}
	w := httptest.NewRecorder()
	s.handler.ServeHTTP(w, r)
	return w.Result()
}

func body(r *http.Response) string {
	b, _ := io.ReadAll(r.Body)
	r.Body = io.NopCloser(bytes.NewReader(b))
	return string(b)
}

// want checks status and a part of the body, or of the place that it leads to.
func (s *stage) want(r *http.Response, status int, part string) *http.Response {
	s.t.Helper()
	if text := body(r) + " " + r.Header.Get("Location"); r.StatusCode != status || !strings.Contains(text, part) {
		s.t.Errorf("%d %s instead of %d %s", r.StatusCode, text, status, part)
	}
	if r.StatusCode >= 400 && r.Header.Get("Content-Type") == "application/problem+json" {
		var p struct {
			Title, Detail string
			Status        int
		}
		if err := json.Unmarshal([]byte(body(r)), &p); err != nil || p.Status != r.StatusCode || p.Title == "" || p.Detail == "" {
			s.t.Errorf("not a problem: %s", body(r))
		}
	}
	return r
}

func sessionOf(r *http.Response) *http.Cookie {
	for _, c := range r.Cookies() {
		if c.Name == cookieName {
			return c
		}
	}
	return nil
}

func (s *stage) login(name, password string) *http.Cookie {
	s.t.Helper()
	r := s.do("POST", s.guard.base+"/login", form("name", name, "password", password))
	c := sessionOf(r)
	if r.StatusCode != http.StatusSeeOther || c == nil {
		s.t.Fatalf("%s cannot log in: %d %s", name, r.StatusCode, body(r))
	}
	return c
}

// everything is a guard that people can pass in every way.
func everything(t *testing.T) Config {
	return Config{
		Users:  []User{testUser(t, "uv", Viewer), testUser(t, "uo", Operator), testUser(t, "ua", Admin)},
		Tokens: true, ProxyHeader: "X-Forwarded-User", ProxyRoleHeader: "X-Forwarded-Role", ProxyRoles: map[string]Role{"po": Operator, "pa": Admin},
		TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24")},
	}
}

// TestWhoMayWhat goes through all methods, roles and credentials, writable and read-only.
func TestWhoMayWhat(t *testing.T) {
	t.Parallel()
	for _, readOnly := range []bool{false, true} {
		cfg := everything(t)
		cfg.ReadOnly = readOnly
		s := newStage(t, cfg)
		s.guard.addresses, s.guard.names, s.guard.strangers = newLimiter(1e6, 1), newLimiter(1e6, 1), newLimiter(1e6, 1)
		proxy := from("10.0.0.7:1")
		for _, c := range []struct {
			name, via string
			role      Role // None: not let in
			how       how
		}{
			{"uv", "session", Viewer, cookie(s.login("uv", "uvuv"))},
			{"uo", "session", Operator, cookie(s.login("uo", "uouo"))},
			{"ua", "session", Admin, cookie(s.login("ua", "uaua"))},
			{"token:ta", "session", Admin, cookie(s.login("", secretOf("ta")))},
			{"uv", "basic", Viewer, basic("uv", "uvuv")},
			{"uo", "basic", Operator, basic("uo", "uouo")},
			{"ua", "basic", Admin, basic("ua", "uaua")},
			{"token:tv", "token", Viewer, bearer(secretOf("tv"))},
			{"token:to", "token", Operator, bearer(secretOf("to"))},
			{"token:ta", "token", Admin, bearer(secretOf("ta"))},
			{"pv", "proxy", Viewer, func(r *http.Request) { proxy(r); r.Header.Set("X-Forwarded-User", "pv") }},
			{"po", "proxy", Operator, func(r *http.Request) { proxy(r); r.Header.Set("X-Forwarded-User", "po") }},
			{"pa", "proxy", Admin, func(r *http.Request) { proxy(r); r.Header.Set("X-Forwarded-User", "pa") }},
			{"px", "proxy", Operator, func(r *http.Request) {
				proxy(r)
				r.Header.Set("X-Forwarded-User", "px")
				r.Header.Set("X-Forwarded-Role", "staff, Operator,viewer")
			}},
			{"", "nothing", None, func(*http.Request) {}},
			{"", "wrong password", None, basic("ua", "uaub")},
			{"", "unknown user", None, basic("nobody", "x")},
			{"", "wrong token", None, bearer(secretOf("other"))},
			{"", "no token", None, bearer("hello")},
			{"", "other scheme", None, header("Authorization", "Digest x")},
			{"", "header from nowhere", None, header("X-Forwarded-User", "pa")},
			{"", "role alone", None, header("X-Forwarded-Role", "admin")},
			{"", "proxy without a name", None, proxy},
			{"", "made-up cookie", None, cookie(&http.Cookie{Name: cookieName, Value: "e30.e30"})},
		} {
			for _, method := range []string{"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "get", "WEIRD"} {
				for _, path := range []string{"/jobs", "/api/v1/jobs", "/admin"} {
					r := s.do(method, path, c.how)
					safe := method == "GET" || method == "HEAD" || method == "OPTIONS"
					role := c.role
					if readOnly && role != None {
						role = Viewer
					}
					status, part := http.StatusOK, c.name+" "+role.String()
					switch {
					case readOnly && !safe:
						status, part = http.StatusForbidden, "read-only"
					case role == None:
						status, part = http.StatusUnauthorized, map[string]string{
							"wrong password": wrongPassword, "unknown user": wrongPassword, "wrong token": wrongToken, "no token": wrongToken,
						}[c.via]
						if part == "" {
							part = "Send a token (Authorization: Bearer ost_…; offstage tokens add makes one), or a user"
						}
					case !safe && role < Operator:
						status, part = http.StatusForbidden, "needs the role operator"
					case path == "/admin" && role < Admin:
						status, part = http.StatusForbidden, "needs the role admin"
					}
					if text := body(r); r.StatusCode != status || !strings.Contains(text, part) {
						t.Errorf("%s %s as %s by %s, read-only %t: %d %s instead of %d %s", method, path, c.role, c.via, readOnly, r.StatusCode, text, status, part)
					}
					if r.StatusCode == http.StatusOK && !strings.HasSuffix(strings.Fields(body(r) + " ")[3], c.via) {
						t.Errorf("by %s: %s", c.via, body(r))
					}
					if status == http.StatusUnauthorized && len(r.Header.Values("WWW-Authenticate")) != 2 {
						t.Errorf("%s: challenges %q", c.via, r.Header.Values("WWW-Authenticate"))
					}
				}
			}
		}
	}
}

func TestPeopleAndPrograms(t *testing.T) {
	t.Parallel()
	s := newStage(t, everything(t))
	s.want(s.do("GET", "/jobs?state=failed&x=%2F", browser), 303, "/login?next=%2Fjobs%3Fstate%3Dfailed%26x%3D%252F")
	s.want(s.do("GET", "/", browser), 303, "/login")
	s.want(s.do("GET", "/jobs", browser, basic("ua", "wrong")), 303, "/login?next=%2Fjobs")
	s.want(s.do("GET", "/api/v1/jobs", browser), 401, "Bearer")
	s.want(s.do("POST", "/jobs/7/retry", browser, header("Referer", "http://offstage.example/jobs/7?x=1")), 303, "/login?next=%2Fjobs%2F7%3Fx%3D1")
	for _, referer := range []string{"", "http://evil.example/jobs/7", "::", "http://offstage.example/login"} {
		if r := s.do("POST", "/jobs/7/retry", browser, header("Referer", referer)); r.Header.Get("Location") != "/login" {
			t.Errorf("%q leads to %s", referer, r.Header.Get("Location"))
		}
	}
	// Scripts of the pages must not make the browser ask for a password.
	for _, accept := range []string{"text/event-stream", "text/vnd.offstage.fragment"} {
		r := s.want(s.do("GET", "/live/jobs", header("Accept", accept)), 401, "Log in again")
		if r.Header.Get("WWW-Authenticate") != `Session realm="offstage"` {
			t.Errorf("%q", r.Header.Values("WWW-Authenticate"))
		}
	}
	r := s.do("GET", "/api/v1/jobs", header("Sec-Fetch-Mode", "cors"), header("Accept", "*/*"))
	if r.Header.Get("WWW-Authenticate") != `Session realm="offstage"` {
		t.Errorf("%q", r.Header.Values("WWW-Authenticate"))
	}
	// What is there for everybody, and not more.
	for _, path := range []string{"/assets/app-1234.css", "/livez", "/readyz"} {
		s.want(s.do("GET", path), 200, " none ")
		s.want(s.do("POST", path), 401, "")
	}
	for _, path := range []string{"/assets", "/assets/../jobs", "/assets//x", "/livez/x", "/metrics", "/assets/%2e%2e/jobs", "//login", "/login/"} {
		s.want(s.do("GET", "http://x"+path), 401, "")
	}
	if cache := s.do("GET", "/jobs", basic("ua", "uaua")).Header.Get("Cache-Control"); cache != "no-store" {
		t.Errorf("Cache-Control: %s", cache)
	}
	// Refusals may have a page.
	cfg := everything(t)
	cfg.Refuse = func(w http.ResponseWriter, _ *http.Request, why Refusal) {
		w.WriteHeader(why.Status)
		io.WriteString(w, "<h1>"+why.Text)
	}
	s = newStage(t, cfg)
	s.want(s.do("POST", "/jobs", browser, basic("uv", "uvuv")), 403, "<h1>This needs the role operator; uv has the role viewer.")
	s.want(s.do("POST", "/jobs", basic("uv", "uvuv")), 403, `"detail":"This needs`)
}

func TestOtherOrigins(t *testing.T) {
	t.Parallel()
	s := newStage(t, everything(t))
	session := cookie(s.login("ua", "uaua"))
	for _, x := range []struct {
		hows []how
		ok   bool
	}{
		{nil, true}, // no browser
		{[]how{header("Sec-Fetch-Site", "same-origin")}, true},
		{[]how{header("Sec-Fetch-Site", "none")}, true},
		{[]how{header("Sec-Fetch-Site", "same-site")}, false},
		{[]how{header("Sec-Fetch-Site", "cross-site")}, false},
		{[]how{header("Origin", "http://offstage.example")}, true},
		{[]how{header("Origin", "https://offstage.example")}, true},
		{[]how{header("Origin", "http://evil.example")}, false},
		{[]how{header("Origin", "null")}, false},
	} {
		for _, target := range []string{"/jobs/7/retry", "/login", "/logout", "/api/v1/jobs", "/assets/x"} {
			for _, method := range []string{"POST", "PUT", "DELETE"} {
				r := s.do(method, target, append(x.hows, session)...)
				if refused := r.StatusCode == 403 && strings.Contains(body(r), "page of another site"); refused == x.ok {
					t.Errorf("%s %s, %v: %d %s", method, target, x.ok, r.StatusCode, body(r))
				}
			}
			s.want(s.do("GET", target, append(x.hows, session)...), s.do("GET", target, session).StatusCode, "") // reading is no change
		}
		session = cookie(s.login("ua", "uaua")) // it has logged out
	}
}

func TestOpen(t *testing.T) {
	t.Parallel()
	for _, readOnly := range []bool{false, true} {
		s := newStage(t, Config{ReadOnly: readOnly})
		s.peer, s.host = "127.0.0.1:999", "localhost:8080"
		role := "admin"
		if readOnly {
			role = "viewer"
		}
		s.want(s.do("GET", "/jobs"), 200, "anonymous "+role+" 127.0.0.1")
		if readOnly {
			s.want(s.do("POST", "/jobs", browser), 403, "read-only")
			s.want(s.do("POST", "/logout", browser), 303, "/login")
		} else {
			s.want(s.do("POST", "/jobs"), 200, "anonymous admin")
		}
		s.want(s.do("GET", "/login?next=/jobs", browser), 303, "/jobs")
		for _, host := range []string{"localhost", "127.0.0.1:8080", "[::1]:8080", "[::1]", "127.8.8.8", "LOCALHOST:1", "x.localhost"} {
			s.host = host
			s.want(s.do("GET", "/"), 200, "anonymous")
		}
		// A page of another site that calls itself by our address, and who asks from elsewhere.
		for _, host := range []string{"evil.example", "evil.example:8080", "localhost.evil.example", "10.0.0.1", "", "127.0.0.1.evil.example", "0.0.0.0"} {
			s.host = host
			s.want(s.do("GET", "/"), 403, "for its own machine alone")
			s.want(s.do("GET", "/assets/x"), 403, "for its own machine alone")
		}
		s.host = "localhost"
		for peer, status := range map[string]int{"[::1]:7": 200, "[::ffff:127.0.0.1]:7": 200, "@": 200, "": 200, "192.0.2.1:7": 403, "[2001:db8::1]:7": 403} {
			s.want(s.do("GET", "/", from(peer)), status, "")
		}
	}
}

func TestProxies(t *testing.T) {
	t.Parallel()
	cfg := everything(t)
	cfg.TrustedProxies = append(cfg.TrustedProxies, netip.MustParsePrefix("2001:db8::/64"), netip.MustParsePrefix("::ffff:172.16.0.0/108"))
	s := newStage(t, cfg)
	user := header("X-Forwarded-User", "pa")
	for _, peer := range []string{"10.0.0.1:5", "[::ffff:10.0.0.1]:5", "[2001:db8::7]:5", "172.16.9.9:5"} {
		s.want(s.do("GET", "/", from(peer), user), 200, "pa admin")
	}
	for _, peer := range []string{"10.0.1.1:5", "[2001:db8:0:1::7]:5", "172.32.0.1:5", "127.0.0.1:5", "@", "", "10.0.0.1"} {
		s.want(s.do("GET", "/", from(peer), user), 401, "")
		// It is not even seen.
		if text := body(s.do("GET", "/", from(peer), user, header("x-forwarded-role", "admin"), basic("uv", "uvuv"))); !strings.HasPrefix(text, "uv viewer") || strings.Contains(text, "X-Forwarded") {
			t.Errorf("%s: %s", peer, text)
		}
	}
	proxy := from("10.0.0.1:5")
	s.want(s.do("GET", "/", proxy, header("X-Forwarded-User", "ua"), user), 401, "") // the client's, and the proxy's
	s.want(s.do("GET", "/", proxy, user, header("X-Forwarded-Role", "viewer"), header("X-Forwarded-Role", "admin")), 401, "")
	s.want(s.do("GET", "/", proxy, header("X-Forwarded-User", "")), 401, "")
	s.want(s.do("GET", "/", proxy, header("X-Forwarded-User", "token:ta")), 401, "")
	s.want(s.do("GET", "/", proxy, user, header("X-Forwarded-Role", "viewer")), 200, "pa viewer") // the role that it gives
	s.want(s.do("GET", "/", proxy, user, header("X-Forwarded-Role", "none,root")), 200, "pa admin")
	s.want(s.do("GET", "/", proxy, user, basic("uv", "uvuv"), bearer("of the proxy")), 200, "pa admin")

	for hops, want := range map[string]string{
		"": "10.0.0.1", "203.0.113.9": "203.0.113.9", "1.1.1.1, 203.0.113.9": "203.0.113.9", "203.0.113.9, 10.0.0.2": "203.0.113.9", "x, 10.0.0.2": "10.0.0.2",
		"203.0.113.9,": "10.0.0.1", "::ffff:203.0.113.9": "203.0.113.9", "fe80::1%eth0": "fe80::1",
	} {
		s.want(s.do("GET", "/", proxy, user, header("X-Forwarded-For", hops)), 200, "pa admin "+want+" proxy")
	}
	s.want(s.do("GET", "/", basic("uv", "uvuv"), header("X-Forwarded-For", "203.0.113.9")), 200, "uv viewer 192.0.2.1")
}

func TestProxyAlone(t *testing.T) {
	t.Parallel()
	s := newStage(t, Config{ProxyHeader: "X-Forwarded-User", TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.7/32")}})
	r := s.want(s.do("GET", "/jobs", browser), 401, "The proxy in front of this server")
	if r.Header.Get("WWW-Authenticate") == "" {
		t.Error("no challenge")
	}
	s.want(s.do("GET", "/login", browser), 303, "/")
	s.want(s.do("GET", "/jobs", from("10.0.0.7:1"), header("X-Forwarded-User", "x")), 200, "x viewer")
}

func TestAuthenticate(t *testing.T) {
	t.Parallel()
	s := newStage(t, Config{Authenticate: func(r *http.Request) (string, Role, bool) {
		return r.Header.Get("Me"), Operator, r.Header.Get("Me") != ""
	}})
	s.want(s.do("POST", "/jobs", header("Me", "ada")), 200, "ada operator 192.0.2.1 program")
	s.want(s.do("POST", "/jobs"), 401, "")
}

func TestTokensAtWork(t *testing.T) {
	t.Parallel()
	s := newStage(t, Config{Tokens: true})
	session := cookie(s.login("", " "+secretOf("to")+"\n"))
	s.want(s.do("POST", "/jobs", session), 200, "token:to operator")
	delete(s.tokens.tokens, "to") // revoked
	s.want(s.do("GET", "/jobs", session), 401, "")
	s.want(s.do("GET", "/jobs", session, bearer(secretOf("tv"))), 200, "token:tv viewer")
	s.want(s.do("POST", "/login", form("password", secretOf("to"))), 401, "was revoked")
	asked := s.tokens.asked
	for _, secret := range []string{"", "ost_", "ost_short", secretOf("tv") + "0", strings.Repeat("x", 10_000)} {
		s.want(s.do("GET", "/jobs", bearer(secret)), 401, "")
	}
	if s.tokens.asked != asked {
		t.Error("the database is asked for what is no token")
	}
	s.tokens.broken = errors.New("gone: password=geheim")
	s.want(s.do("GET", "/jobs", bearer(secretOf("tv"))), 503, "Try again")
	s.want(s.do("POST", "/login", form("password", secretOf("tv"))), 503, "Try again")

	find := TokenFunc(func(_ context.Context, hash []byte) (string, string, error) { return string(hash), "admin", nil })
	if name, role, err := find.Lookup(t.Context(), []byte("x")); name != "x" || role != Admin || err != nil {
		t.Error(name, role, err)
	}
	none := TokenFunc(func(context.Context, []byte) (string, string, error) { return "", "", nil })
	if name, role, err := none.Lookup(t.Context(), nil); name != "" || role != None || err != nil {
		t.Error(name, role, err)
	}
}

// Nothing that somebody could log in with is in a log, an answer or an error.
func TestNoSecrets(t *testing.T) {
	t.Parallel()
	s := newStage(t, everything(t))
	c := s.login("ua", "uaua")
	secrets := []string{"uaua", "geheim1", "geheim2", secretOf("tv"), secretOf("other"), c.Value, s.guard.users["ua"].PasswordHash}
	said := &strings.Builder{}
	for _, hows := range [][]how{
		{basic("ua", "geheim1")}, {basic("geheim2", "geheim1")}, {bearer(secretOf("other"))}, {bearer(secretOf("tv"))}, {cookie(c)}, {bearer("geheim1")},
		{cookie(&http.Cookie{Name: cookieName, Value: c.Value[:len(c.Value)-5] + "AAAAA"})},
	} {
		for _, accept := range []string{"*/*", "text/html"} {
			for _, method := range []string{"GET", "POST"} {
				r := s.do(method, "/jobs", append(hows, header("Accept", accept))...)
				fmt.Fprint(said, body(r), r.Header)
			}
		}
	}
	for _, f := range []how{form("name", "ua", "password", "geheim1"), form("name", "", "password", secretOf("other"))} {
		fmt.Fprint(said, body(s.do("POST", "/login", f, browser)))
	}
	s.do("POST", "/login", form("name", "geheim2", "password", "geheim1")) // what was typed comes back into the form, and nowhere else
	s.tokens.broken = errors.New("gone")
	s.do("GET", "/", bearer(secretOf("tv")))
	for _, secret := range secrets {
		for what, text := range map[string]string{"log": s.log.String(), "answers": said.String()} {
			if strings.Contains(text, secret) {
				t.Errorf("%q is in the %s:\n%s", secret, what, text)
			}
		}
	}
	for _, word := range []string{"logged in", "user=ua", "user=(unknown)", "a token was refused", "cannot be looked up"} {
		if !strings.Contains(s.log.String(), word) {
			t.Errorf("%q is not in the log:\n%s", word, s.log)
		}
	}
}

func TestNew(t *testing.T) {
	t.Parallel()
	u := testUser(t, "ada", Viewer)
	anybody := []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}
	one := []netip.Prefix{netip.MustParsePrefix("10.0.0.7/32")}
	for want, cfg := range map[string]Config{
		"leave it out, or them":             {Open: true, Users: []User{u}},
		"two users \"ada\"":                 {Users: []User{u, u}},
		"offstage password ada":             {Users: []User{{"ada", "geheim", Viewer}}},
		"has no role":                       {Users: []User{{"ada", u.PasswordHash, None}}},
		"has a colon":                       {Users: []User{{"a:b", u.PasswordHash, Viewer}}},
		"nothing to look them up in":        {Tokens: true},
		"--trusted-proxy":                   {ProxyHeader: "X-User"},
		"is everybody":                      {ProxyHeader: "X-User", TrustedProxies: anybody},
		"a meaning of its own":              {ProxyHeader: "authorization", TrustedProxies: one},
		"is no name of a header":            {ProxyHeader: "X User", TrustedProxies: one},
		"same header":                       {ProxyHeader: "X-User", ProxyRoleHeader: "x-user", TrustedProxies: one},
		"no header in which it does":        {ProxyRole: Admin},
		`"bob" has no role`:                 {ProxyHeader: "X-User", TrustedProxies: one, ProxyRoles: map[string]Role{"bob": 7}},
		"whom the proxy names have no role": {ProxyHeader: "X-User", TrustedProxies: one, ProxyRole: 7},
		"openssl rand":                      {SessionKey: []byte("short")},
		"write it like /offstage":           {BasePath: "offstage"},
	} {
		if _, err := New(cfg, nil); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "geheim") {
			t.Errorf("%s: %v", want, err)
		}
	}
}

func TestCheckAddress(t *testing.T) {
	t.Parallel()
	locked := Config{Tokens: true}
	for addr, ok := range map[string]bool{
		"127.0.0.1:8080": true, "localhost:0": true, "[::1]:80": true, "127.1.2.3:1": true, "[::ffff:127.0.0.1]:1": true,
		":8080": false, "0.0.0.0:80": false, "[::]:80": false, "10.0.0.1:80": false, "example.com:80": false, "localhost.example.com:80": false,
	} {
		err := CheckAddress(addr, Config{})
		if (err == nil) != ok {
			t.Errorf("%s: %v", addr, err)
		}
		if err != nil {
			for _, part := range []string{"--users", "--tokens", "--proxy-header", "--trusted-proxy", "127.0.0.1:" + addr[strings.LastIndex(addr, ":")+1:]} {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%s: %v lacks %s", addr, err, part)
				}
			}
		}
		if err := CheckAddress(addr, Config{ReadOnly: true, Open: true}); (err == nil) != ok {
			t.Errorf("%s, read-only: %v", addr, err)
		}
		if err := CheckAddress(addr, locked); err != nil {
			t.Errorf("%s with authentication: %v", addr, err)
		}
	}
	for _, addr := range []string{"", "8080", "localhost", "1:2:3"} {
		if err := CheckAddress(addr, locked); err == nil || !strings.Contains(err.Error(), "host:port") {
			t.Errorf("%q: %v", addr, err)
		}
	}
}

func TestRoles(t *testing.T) {
	t.Parallel()
	for r := None; r <= Admin; r++ {
		got, err := ParseRole(r.String())
		if (err == nil) != (r != None) || got != r {
			t.Errorf("%s: %v, %v", r, got, err)
		}
		ctx := With(t.Context(), Identity{Name: "x", Role: r})
		for least := Viewer; least <= Admin; least++ {
			if err := Allow(ctx, least); (err == nil) != (r >= least) {
				t.Errorf("%s as %s: %v", least, r, err)
			}
		}
	}
	if Role(7).String() != "none" || Role(-1).String() != "none" || Allow(t.Context(), Viewer) == nil {
		t.Error("a role that is none")
	}
	if text, err := json.Marshal(Operator); err != nil || string(text) != `"operator"` {
		t.Error(text, err)
	}
}
