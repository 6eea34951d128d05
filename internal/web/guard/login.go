package guard

import (
	"net/http"
	"net/url"
	"strings"
	"unicode"
)

// LoginPage is what the login page shows: a form that posts name, password and next to Action.
type LoginPage struct {
	Action string // where the form goes
	Next   string // where to go afterwards: a hidden field
	Name   string // what was typed
	Error  string // why the last attempt has failed; "" for the first
	Users  bool   // users can log in with a password,
	Tokens bool   // and with a token, in the place of the password and without a name
}

// LoginHandler serves GET and POST /login and POST /logout; render shows the page, whose status is set by then.
func (g *Guard) LoginHandler(render func(http.ResponseWriter, *http.Request, LoginPage)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		switch {
		case r.URL.Path == "/logout" && r.Method == http.MethodPost:
			g.end(r)
			g.setCookie(w, r, "", 0)
			g.log.Info("logged out", "from", addressText(g.from(r)))
			http.Redirect(w, r, g.base+"/login", http.StatusSeeOther)
		case r.URL.Path == "/login" && (r.Method == http.MethodGet || r.Method == http.MethodHead):
			g.loginPage(w, r, render)
		case r.URL.Path == "/login" && r.Method == http.MethodPost:
			g.login(w, r, render)
		default:
			allow := "POST"
			if r.URL.Path == "/login" {
				allow = "GET, HEAD, POST"
			}
			w.Header().Set("Allow", allow)
			g.refuse(w, r, Refusal{http.StatusMethodNotAllowed, "This address takes " + allow + "."})
		}
	})
}

func (g *Guard) loginPage(w http.ResponseWriter, r *http.Request, render func(http.ResponseWriter, *http.Request, LoginPage)) {
	next := g.next(r.URL.Query().Get("next"))
	if len(g.users) == 0 && !g.cfg.Tokens { // somebody else authenticates, or nobody
		http.Redirect(w, r, next, http.StatusSeeOther)
		return
	}
	if _, _, ok, err := g.session(w, r); ok && err == nil {
		http.Redirect(w, r, next, http.StatusSeeOther)
		return
	}
	render(w, r, g.form(next, "", ""))
}

func (g *Guard) form(next, name, problem string) LoginPage {
	return LoginPage{Action: g.base + "/login", Next: next, Name: name, Error: problem, Users: len(g.users) > 0, Tokens: g.cfg.Tokens}
}

func (g *Guard) login(w http.ResponseWriter, r *http.Request, render func(http.ResponseWriter, *http.Request, LoginPage)) {
	r.Body = http.MaxBytesReader(w, r.Body, 16<<10)
	if err := r.ParseForm(); err != nil {
		g.refuse(w, r, Refusal{http.StatusBadRequest, "The form cannot be read. Go back, and send it again."})
		return
	}
	name, password, next := r.PostForm.Get("name"), r.PostForm.Get("password"), g.next(r.PostForm.Get("next"))
	from := g.from(r)
	again := func(status int, problem string) {
		render(&withStatus{ResponseWriter: w, status: status}, r, g.form(next, name, problem))
	}
	if secret := strings.TrimSpace(password); g.cfg.Tokens && wellFormed(secret) {
		wait := g.strangers.look(place(from))
		if wait > 0 {
			why := tooMany(w, wait)
			again(why.Status, why.Text)
			return
		}
		hash := hashOf(secret)
		owner, role, err := g.tokens.Lookup(r.Context(), hash)
		switch {
		case err != nil:
			g.unavailable(w, r, err)
		case owner == "" || !role.valid():
			g.strangers.take(place(from))
			g.log.Warn("a token was refused", "from", addressText(from))
			again(http.StatusUnauthorized, wrongToken)
		default:
			g.enter(w, r, session{Token: hash}, tokenName(owner), next)
		}
		return
	}
	_, wait, ok := g.password(r.Context(), name, password, place(from))
	switch {
	case wait > 0:
		why := tooMany(w, wait)
		again(why.Status, why.Text)
	case !ok:
		again(http.StatusUnauthorized, wrongPassword)
	default:
		g.enter(w, r, session{User: name, Print: g.printOf(g.users[name])}, name, next)
	}
}

// enter ends the sessions that the browser had, and begins a new one.
func (g *Guard) enter(w http.ResponseWriter, r *http.Request, s session, name, next string) {
	g.end(r)
	g.begin(w, r, s)
	g.log.Info("logged in", "user", name, "from", addressText(g.from(r)))
	http.Redirect(w, r, next, http.StatusSeeOther)
}

// withStatus is a ResponseWriter whose status is known.
type withStatus struct {
	http.ResponseWriter
	status  int
	written bool
}

func (w *withStatus) WriteHeader(int) {
	if !w.written {
		w.written = true
		w.ResponseWriter.WriteHeader(w.status)
	}
}

func (w *withStatus) Write(p []byte) (int, error) {
	w.WriteHeader(0)
	return w.ResponseWriter.Write(p)
}

func (w *withStatus) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// loginURL is the login page, which leads back here; after a form, whose content is lost, to the page that it was on.
func (g *Guard) loginURL(r *http.Request) string {
	at := r.URL
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		at = &url.URL{Path: "/"}
		if page, err := url.Parse(r.Referer()); err == nil && page.Host == r.Host && g.next(page.RequestURI()) == page.RequestURI() {
			at = &url.URL{Path: strings.TrimPrefix(page.Path, g.base), RawPath: strings.TrimPrefix(page.RawPath, g.base), RawQuery: page.RawQuery}
		}
	}
	next := g.next(g.base + at.RequestURI())
	if next == g.base+"/" {
		return g.base + "/login"
	}
	return g.base + "/login?next=" + url.QueryEscape(next)
}

// next is where to go after the login: a path of this site and under the base path, else the overview. A browser takes
// backslashes for slashes, and two slashes in front for another site.
func (g *Guard) next(to string) string {
	home := g.base + "/"
	if len(to) > 2000 || !strings.HasPrefix(to, home) || strings.HasPrefix(to, "//") || strings.HasPrefix(to[len(g.base):], "//") ||
		strings.ContainsFunc(to, func(r rune) bool {
			return r == '\\' || r == unicode.ReplacementChar || unicode.IsControl(r) || unicode.IsSpace(r)
		}) {
		return home
	}
	u, err := url.Parse(to)
	if err != nil || u.Scheme != "" || u.Host != "" || u.User != nil || u.Opaque != "" {
		return home
	}
	for part := range strings.SplitSeq(u.Path, "/") {
		if part == ".." || part == "." {
			return home
		}
	}
	switch rest := strings.TrimPrefix(u.Path, g.base); {
	case rest == "/login", rest == "/logout", strings.HasPrefix(rest, "/live/"), strings.HasPrefix(rest, "/assets/"):
		return home
	}
	return to
}
