package guard

import (
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

var testKey = []byte(strings.Repeat("k", 32))

func TestLogin(t *testing.T) {
	t.Parallel()
	for _, base := range []string{"", "/offstage", "/a/b/"} {
		cfg := everything(t)
		cfg.BasePath = base
		s := newStage(t, cfg)
		base = strings.TrimSuffix(base, "/")
		s.want(s.do("GET", base+"/login?next="+base+"/jobs", browser), 200, "Action:"+base+"/login Next:"+base+"/jobs Name: Error: Users:true Tokens:true")
		s.want(s.do("GET", base+"/jobs/7", browser), 303, base+"/login?next=")
		s.want(s.do("POST", base+"/login", form("name", "ua", "password", "nonsense", "next", base+"/jobs")), 401,
			"Next:"+base+"/jobs Name:ua Error:Name or password is wrong.")
		r := s.want(s.do("POST", base+"/login", form("name", "ua", "password", "uaua", "next", base+"/jobs?a=b")), 303, base+"/jobs?a=b")
		c := sessionOf(r)
		if c == nil || c.Path != base+"/" || !c.HttpOnly || c.SameSite != http.SameSiteLaxMode || c.Secure || c.MaxAge != 12*3600 || strings.Contains(c.Value, "uaua") {
			t.Fatalf("%+v", c)
		}
		s.want(s.do("GET", base+"/jobs", browser, cookie(c)), 200, "ua admin 192.0.2.1 session")
		s.want(s.do("GET", base+"/login?next="+base+"/jobs", browser, cookie(c)), 303, base+"/jobs")
		// With TLS, here or at the proxy.
		for _, how := range []how{header("X-Forwarded-Proto", "https"), func(r *http.Request) { r.TLS = &tls.ConnectionState{} }} {
			if c := sessionOf(s.do("POST", base+"/login", form("name", "ua", "password", "uaua"), how)); c == nil || !c.Secure {
				t.Errorf("the cookie goes over plain HTTP: %+v", c)
			}
		}
		s.want(s.do("GET", base+"/logout", cookie(c)), 405, "POST")
		s.want(s.do("PUT", base+"/login", cookie(c)), 405, "GET, HEAD, POST")
		r = s.want(s.do("POST", base+"/logout", cookie(c)), 303, base+"/login")
		if gone := sessionOf(r); gone == nil || gone.MaxAge >= 0 || gone.Value != "" || gone.Path != base+"/" {
			t.Errorf("%+v", gone)
		}
		s.want(s.do("GET", base+"/jobs", cookie(c)), 401, "") // whoever has copied it
	}
	s := newStage(t, everything(t))
	s.want(s.do("POST", "/login", browser, func(r *http.Request) {
		form()(r)
		r.Body = io.NopCloser(strings.NewReader("name=" + strings.Repeat("x", 20_000)))
	}), 400, "cannot be read")
	s.want(s.do("POST", "/login", form("name", "ua")), 401, "wrong")
	s.want(s.do("POST", "/login?name=ua&password=uaua", form()), 401, "wrong") // not out of the URL, which is in logs
	cfg := everything(t)
	cfg.SecureCookies = true
	if c := newStage(t, cfg).login("ua", "uaua"); !c.Secure {
		t.Error("the cookie goes over plain HTTP")
	}
}

func TestNext(t *testing.T) {
	t.Parallel()
	for _, base := range []string{"", "/offstage"} {
		g, err := New(Config{BasePath: base}, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{"/", "/jobs", "/jobs?state=failed&x=//evil.example", "/queues/a%2Fb", "/jobs/7#log", "/queues/%2Fx", "/q/x:y@z", "/jobs?next=https://evil.example"} {
			if got := g.next(base + path); got != base+path {
				t.Errorf("%q leads to %q", base+path, got)
			}
		}
		for _, to := range []string{
			"", "jobs", "http://evil.example/", "https:evil.example", "//evil.example", "///evil.example", `/\evil.example`, `\\evil.example`, "/\t/evil.example", "/\n/evil.example",
			" //evil.example", "\x00//evil.example", "javascript:alert(1)", "data:text/html,x", "/..//evil.example", "/%2e%2e//evil.example", "/./jobs", "/a/../b", "/login", "/login?next=/x", "/logout",
			"/live/jobs", "/assets/x", "/%zz", "/\u2028x", "/\xff", "/ /x", "/" + strings.Repeat("x", 2001), "?x", "#x", "//user@evil.example/", "http:///evil.example",
		} {
			for _, front := range []string{"", base} {
				if got := g.next(front + to); got != base+"/" && !(front == "" && base != "" && strings.HasPrefix(to, base+"/")) {
					t.Errorf("%q leads to %q", front+to, got)
				}
			}
		}
		if base != "" {
			for _, to := range []string{"/", "/jobs", "/offstage", "/offstagex/jobs", "/offstage//evil.example", "/offstage/../x"} {
				if got := g.next(to); got != base+"/" {
					t.Errorf("%q leads to %q", to, got)
				}
			}
		}
	}
	s := newStage(t, everything(t))
	for _, next := range []string{"//evil.example", `/\evil.example`, "https://evil.example"} {
		r := s.do("POST", "/login", form("name", "ua", "password", "uaua", "next", next))
		if r.Header.Get("Location") != "/" {
			t.Errorf("%q leads to %s", next, r.Header.Get("Location"))
		}
	}
}

func TestCookiesThatAreNotOurs(t *testing.T) {
	t.Parallel()
	cfg := everything(t)
	cfg.SessionKey = testKey
	s := newStage(t, cfg)
	good := s.login("uv", "uvuv").Value
	session := func(value string) how { return cookie(&http.Cookie{Name: cookieName, Value: value}) }
	s.want(s.do("GET", "/", session(good)), 200, "uv viewer")
	text, mark, _ := strings.Cut(good, ".")
	for i := range len(good) {
		for _, c := range []byte("Az0-.") {
			if changed := good[:i] + string(c) + good[i+1:]; changed != good {
				if r := s.do("GET", "/", session(changed)); r.StatusCode != 401 {
					t.Errorf("%s passes, changed at %d", changed, i)
				}
			}
		}
	}
	body, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	admin := base64.RawURLEncoding.EncodeToString([]byte(strings.Replace(string(body), `"uv"`, `"ua"`, 1)))
	for _, value := range []string{"", ".", text, text + ".", "." + mark, admin + "." + mark, good + ".x", good + "x", good + "=", mark + "." + text, strings.Repeat("x", 5000)} {
		s.want(s.do("GET", "/", session(value)), 401, "")
	}
	// Ours beside one that a page of the same host has set.
	s.want(s.do("GET", "/", session("nonsense"), session(good)), 200, "uv viewer")

	// The same key elsewhere: the user must be there, with the same password.
	s.want(newStage(t, cfg).do("GET", "/", session(good)), 200, "uv viewer")
	changed := everything(t) // with other salts, as if all had new passwords
	changed.SessionKey = testKey
	s.want(newStage(t, changed).do("GET", "/", session(good)), 401, "")
	again := cfg
	again.Users = append([]User{}, cfg.Users...)
	again.Users[0].Role = Admin
	same := newStage(t, Config{Users: cfg.Users, SessionKey: testKey})
	same.want(same.do("GET", "/", session(same.login("uv", "uvuv").Value)), 200, "uv viewer")
	raised := newStage(t, again)
	raised.want(raised.do("GET", "/", session(same.login("uv", "uvuv").Value)), 200, "uv admin") // the role of now
	gone := newStage(t, Config{Users: cfg.Users[1:], SessionKey: testKey})
	gone.want(gone.do("GET", "/", session(good)), 401, "")
	again.SessionKey = []byte(strings.Repeat("K", 32))
	other := newStage(t, again)
	other.want(other.do("GET", "/", session(good)), 401, "")
	random := newStage(t, Config{Users: cfg.Users})
	random.want(random.do("GET", "/", session(good)), 401, "")
}

func TestSessionsEnd(t *testing.T) {
	cfg := everything(t)
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, cfg)
		c := s.login("uo", "uouo")
		pass := func(d time.Duration) { time.Sleep(d) } // of the bubble's clock
		pass(9 * time.Minute)
		if r := s.want(s.do("POST", "/jobs", cookie(c)), 200, "uo"); sessionOf(r) != nil {
			t.Error("a new cookie with every request")
		}
		pass(11 * time.Hour)
		r := s.want(s.do("GET", "/jobs", cookie(c)), 200, "uo")
		newer := sessionOf(r)
		if newer == nil || newer.MaxAge != 12*3600 || newer.Value == c.Value {
			t.Fatalf("%+v", newer)
		}
		pass(time.Hour)
		s.want(s.do("GET", "/jobs", cookie(c)), 401, "") // the old one
		s.want(s.do("GET", "/jobs", cookie(newer)), 200, "uo")
		pass(11*time.Hour - time.Second)
		s.want(s.do("GET", "/jobs", cookie(newer)), 200, "uo")
		pass(time.Second)
		s.want(s.do("GET", "/jobs", cookie(newer)), 401, "")

		// In use all the time, it ends after a week.
		begin := time.Now()
		c = s.login("uo", "uouo")
		for time.Since(begin) < sessionMost {
			r := s.want(s.do("GET", "/jobs", cookie(c)), 200, "uo")
			if next := sessionOf(r); next != nil {
				c = next
			}
			pass(time.Hour)
		}
		s.want(s.do("GET", "/jobs", cookie(c)), 401, "")

		// The logout ends all cookies of a session, also those of later.
		first := s.login("uo", "uouo")
		pass(time.Hour)
		second := sessionOf(s.do("GET", "/jobs", cookie(first)))
		s.do("POST", "/logout", cookie(first))
		s.want(s.do("GET", "/jobs", cookie(second)), 401, "")
		s.want(s.do("GET", "/jobs", cookie(first)), 401, "")
		// A login ends the session that was there.
		first = s.login("uo", "uouo")
		s.want(s.do("POST", "/login", form("name", "uv", "password", "uvuv"), cookie(first)), 303, "/")
		s.want(s.do("GET", "/jobs", cookie(first)), 401, "")
	})
}

func TestTooManyAttempts(t *testing.T) {
	cfg := everything(t)
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, cfg)
		session := cookie(s.login("ua", "uaua"))
		known := basic("ua", "uaua")
		attempts := func(hows ...how) (n int) {
			t.Helper()
			for ; n < 100; n++ {
				r := s.do("GET", "/", hows...)
				if r.StatusCode == http.StatusTooManyRequests {
					if after, err := strconv.Atoi(r.Header.Get("Retry-After")); err != nil || after < 1 || after > 10 {
						t.Errorf("Retry-After: %q", r.Header.Get("Retry-After"))
					}
					s.want(r, 429, "Wait")
					return n
				}
			}
			return n
		}
		wrong := basic("uo", "nonsense")
		if n := attempts(wrong); n != 10 {
			t.Errorf("an address has %d attempts", n)
		}
		// The right password is no way around, nor another user, another way or another port; but who is in, stays in.
		s.want(s.do("GET", "/", basic("uo", "uouo")), 429, "")
		s.want(s.do("GET", "/", basic("uv", "nonsense"), from("192.0.2.1:4")), 429, "")
		s.want(s.do("POST", "/login", form("name", "uo", "password", "uouo"), browser), 429, "Error:There were too many failed attempts")
		s.want(s.do("GET", "/", session), 200, "ua")
		s.want(s.do("GET", "/", known), 200, "ua")
		s.want(s.do("GET", "/", bearer(secretOf("tv"))), 200, "tv")
		s.want(s.do("GET", "/", from("192.0.2.2:1"), basic("uo", "uouo")), 200, "uo")
		time.Sleep(6 * time.Second)
		if n := attempts(wrong); n != 1 {
			t.Errorf("%d attempts after 6 seconds", n)
		}
		time.Sleep(time.Hour)
		if n := attempts(wrong); n != 10 {
			t.Errorf("%d attempts after an hour", n)
		}
		time.Sleep(time.Hour)
		// Right ones are not counted.
		for i := range 50 {
			s.want(s.do("POST", "/login", form("name", "uv", "password", "uvuv")), 303, "/")
			if i < 9 {
				s.want(s.do("GET", "/", wrong), 401, "")
			}
		}
		time.Sleep(time.Hour)
		// From many addresses for one user, who may not be there.
		for _, name := range []string{"uv", "nobody"} {
			n := 0
			for ; n < 100; n++ {
				if s.do("GET", "/", from(fmt.Sprintf("198.51.100.%d:1", n)), basic(name, "nonsense")).StatusCode == 429 {
					break
				}
			}
			if n != 20 {
				t.Errorf("%s has %d attempts", name, n)
			}
		}
		// One network of IPv6 is one.
		n := 0
		for ; n < 100; n++ {
			if s.do("GET", "/", from(fmt.Sprintf("[2001:db8::%x]:1", n)), basic(fmt.Sprint("u", n), "nonsense")).StatusCode == 429 {
				break
			}
		}
		if n != 10 {
			t.Errorf("a network has %d attempts", n)
		}
		// Tokens.
		if n := attempts(bearer(secretOf("other")), from("203.0.113.1:1")); n != 60 {
			t.Errorf("%d wrong tokens", n)
		}
		if n := attempts(bearer("nonsense"), from("203.0.113.2:1")); n != 60 {
			t.Errorf("%d wrong tokens", n)
		}
		s.want(s.do("GET", "/", bearer(secretOf("tv")), from("203.0.113.1:1")), 429, "") // was not seen for hours
		s.want(s.do("GET", "/", bearer(secretOf("tv"))), 200, "tv")
		s.want(s.do("GET", "/", bearer(secretOf("tv")), from("203.0.113.1:1")), 200, "tv") // and now it was
		s.want(s.do("POST", "/login", form("password", secretOf("other")), from("203.0.113.1:1")), 429, "too many")
	})
}

// However many come, so many are remembered; who has tried too often is not forgotten for those who have tried once.
func TestLimitersAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter(10, time.Minute)
		l.max = 100
		for range 10 {
			l.take("busy")
		}
		for i := range 10_000 {
			l.take(strconv.Itoa(i))
		}
		if len(l.buckets) > 100 {
			t.Errorf("%d keys", len(l.buckets))
		}
		if l.look("busy") == 0 {
			t.Error("the busy one is forgotten")
		}
		if l.look("new") != 0 {
			t.Error("a new one must wait")
		}
		time.Sleep(time.Minute)
		if l.look("busy") != 0 || l.take("busy") != 0 || l.take("busy") != time.Minute {
			t.Error("not one attempt after a minute")
		}
		m := newMemory(100)
		for i := range 1000 {
			m.add(strconv.Itoa(i), time.Now().Add(time.Duration(i)*time.Second))
		}
		if len(m.until) > 100 || !m.has("999") || m.has("5") || m.has("unknown") {
			t.Errorf("%d keys", len(m.until))
		}
		time.Sleep(time.Hour)
		if m.has("999") {
			t.Error("it is remembered for ever")
		}
	})
}

// The password of nobody takes as long as that of somebody: the same work is done.
func TestUnknownUsersCostAsMuch(t *testing.T) {
	t.Parallel()
	g, err := New(everything(t), &ledger{})
	if err != nil {
		t.Fatal(err)
	}
	// The machine may be busy with other tests, so the least of many counts, in turns. Without the work it would be a thousandth.
	known, unknown := time.Hour, time.Hour
	spent := func(name string, i int) time.Duration {
		begin := time.Now()
		g.password(t.Context(), name, "nonsense", strconv.Itoa(i))
		return time.Since(begin)
	}
	for i := range 20 {
		known, unknown = min(known, spent("ua", i)), min(unknown, spent("nobody", i))
	}
	if unknown < known/10 || known < unknown/10 {
		t.Errorf("a known user takes %v, an unknown one %v", known, unknown)
	}
	if _, _, ok := g.password(t.Context(), "ua", "uaua"+strings.Repeat("\x00", 80), "long"); ok {
		t.Error("a password of more than 72 bytes passes")
	}
}

func TestParseUsers(t *testing.T) {
	t.Parallel()
	hash := testUser(t, "x", Viewer).PasswordHash
	users, err := ParseUsers(strings.NewReader("\ufeff# people\n\nada:admin:" + hash + "\r\n  bob@x.y:viewer:$2y$" + hash[4:] + "  \nöz ü:operator:" + hash))
	if err != nil || len(users) != 3 || users[0].Name != "ada" || users[0].Role != Admin || users[1].Role != Viewer || users[2].Name != "öz ü" {
		t.Errorf("%+v, %v", users, err)
	}
	if _, err := New(Config{Users: users}, nil); err != nil {
		t.Error(err)
	}
	for want, text := range map[string]string{
		"there are no users in it":                  "# nobody\n",
		"line 2: it has 2 parts":                    "\nada:" + hash,
		"line 1: it has 4 parts":                    "a:b:admin:" + hash,
		"line 1: the role of \"ada\" is not known":  "ada:geheim:" + hash,
		"line 1: the user has no name":              ":admin:" + hash,
		"line 1: what the user \"ada\" has is no b": "ada:admin:geheim",
		"no bcrypt hash":                            "ada:admin:" + hash + "x",
		"has a cost of 20":                          "ada:admin:$2a$20" + hash[6:],
		"line 3: the user \"a\" is in line 1":       "a:admin:" + hash + "\n#\na:viewer:" + hash,
		"line 2: it has more than 1000 bytes":       "\n" + strings.Repeat("x", 2000),
		"has a colon, a quote":                      "a\x01b:admin:" + hash,
		"is no UTF-8":                               "\xff:admin:" + hash,
		"more than 64 characters":                   strings.Repeat("x", 65) + ":admin:" + hash,
	} {
		_, err := ParseUsers(strings.NewReader(text))
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "geheim") || strings.Contains(err.Error(), hash[7:]) {
			t.Errorf("%s: %v", want, err)
		}
	}
	for _, name := range []string{"", "#a", " a", "a:b", "a\"b"} {
		if _, err := UserLine(name, Admin, "correct horse"); err == nil {
			t.Errorf("the name %q passes", name)
		}
	}
	if _, err := UserLine("a", None, "correct horse"); err == nil {
		t.Error("no role passes")
	}
}

// FuzzParseUsers: whatever is read can be used, and written and read again.
func FuzzParseUsers(f *testing.F) {
	hash := testUser(f, "x", Viewer).PasswordHash
	for _, seed := range []string{"", "#\n", "a:admin:" + hash, "a:admin:" + hash + "\nb:viewer:" + hash, ":::", "a:b", "\xff\x00", "a:admin:$2y$05$" + strings.Repeat(".", 53)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		users, err := ParseUsers(strings.NewReader(text))
		if err != nil {
			if len(users) > 0 {
				t.Error("an error, and users")
			}
			return
		}
		lines := ""
		for _, u := range users {
			if checkName(u.Name) != nil || !u.Role.valid() || len(u.PasswordHash) != 60 {
				t.Errorf("%+v", u)
			}
			lines += u.Name + ":" + u.Role.String() + ":" + u.PasswordHash + "\n"
		}
		again, err := ParseUsers(strings.NewReader(lines))
		if err != nil || fmt.Sprint(again) != fmt.Sprint(users) {
			t.Errorf("%q is read as %v, and that as %v, %v", text, users, again, err)
		}
	})
}

// FuzzSession: no cookie that was not made here passes.
func FuzzSession(f *testing.F) {
	g, err := New(Config{SessionKey: testKey}, nil)
	if err != nil {
		f.Fatal(err)
	}
	body, _ := json.Marshal(session{User: "ada"})
	f.Add(base64.RawURLEncoding.EncodeToString(body) + ".AAAA")
	f.Add(".")
	f.Fuzz(func(t *testing.T, value string) {
		if _, ok := g.unseal(value); ok {
			t.Errorf("%q passes", value)
		}
	})
}
