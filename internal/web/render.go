package web

import (
	"bytes"
	"context"
	"embed"
	"encoding/base64"
	"encoding/json"
	"errors"
	"html/template"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/internal/view"
	"github.com/offstage-dev/offstage/internal/web/guard"
)

//go:embed templates/*.html
var templateFiles embed.FS

// page is what a handler gives to render.
type page struct {
	Title string // of the window, before "· Offstage"
	Nav   string // which entry of the navigation is current: overview, jobs, errors, tasks, queues, schedules, workers, audit
	Live  string // the topic that tells when it has changed, with its parameters: jobs?state=failed; "": it does not
	Data  any
}

// scene is what templates see: "." everywhere in a page's "main".
type scene struct {
	page
	Me       guard.Identity
	Operator bool // may act
	Admin    bool // may change settings
	Flash    *flash
	Path     string // of this page, with its query, below the base path
	Now      time.Time
	Version  string
	Refresh  int // seconds after which the page loads itself again; 0: it does not
}

type flash struct {
	Text string
	Bad  bool
	Bulk string `json:",omitempty"` // the id of what goes on meanwhile: a link to how far it is
}

const fragmentType = "text/vnd.offstage.fragment"

// parse makes a template of each page: the layout, the parts (files that begin with _), and the page's own "main".
func (s *Server) parse() (map[string]*template.Template, error) {
	common, err := template.New("").Funcs(s.funcs()).ParseFS(templateFiles, "templates/layout.html", "templates/_*.html")
	if err != nil {
		return nil, err
	}
	files, err := fs.Glob(templateFiles, "templates/*.html")
	if err != nil {
		return nil, err
	}
	all := map[string]*template.Template{}
	for _, file := range files {
		name := strings.TrimSuffix(path.Base(file), ".html")
		if name == "layout" || strings.HasPrefix(name, "_") {
			continue
		}
		t, err := common.Clone()
		if err == nil {
			t, err = t.ParseFS(templateFiles, file)
		}
		if err != nil {
			return nil, err
		}
		all[name] = t
	}
	return all, nil
}

// render writes a page: templates/<name>.html in the layout, or, for the module that keeps pages live, <main> alone.
func (s *Server) render(w http.ResponseWriter, r *http.Request, name string, p page) {
	s.renderStatus(w, r, http.StatusOK, name, p, 0)
}

func (s *Server) renderStatus(w http.ResponseWriter, r *http.Request, status int, name string, p page, refresh int) {
	me := guard.FromContext(r.Context())
	v := scene{
		page: p, Me: me, Operator: me.Role >= guard.Operator, Admin: me.Role >= guard.Admin,
		Path: r.URL.RequestURI(), Now: time.Now(), Version: s.cfg.Version, Refresh: refresh,
	}
	part := "layout"
	if isFragment(r) {
		part = "content"
	} else {
		v.Flash = s.takeFlash(w, r)
	}
	t := s.templates[name]
	if t == nil {
		s.log.Error("web: no such template", "name", name)
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	var body bytes.Buffer
	if err := t.ExecuteTemplate(&body, part, v); err != nil {
		s.log.Error("web: render", "page", name, "error", err)
		http.Error(w, "This page could not be made; the log of the server says why.", http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Add("Vary", "Accept, Cookie")
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(body.Bytes()) // whoever has gone needs no answer
	}
}

func isFragment(r *http.Request) bool {
	return strings.Contains(r.Header.Get("Accept"), fragmentType) || r.URL.Query().Get("fragment") == "1"
}

// act does what a form asks for: it checks the role, runs fn, and leads to the page back (below the base path), which shows the
// flash message. An error is shown instead.
func (s *Server) act(w http.ResponseWriter, r *http.Request, min guard.Role, fn func(by view.Actor) (string, error), back string) {
	s.actThen(w, r, min, func(by view.Actor) (flash, error) {
		text, err := fn(by)
		return flash{Text: text}, err
	}, back)
}

// actThen is act with a message that may have more to it.
func (s *Server) actThen(w http.ResponseWriter, r *http.Request, min guard.Role, fn func(by view.Actor) (flash, error), back string) {
	if err := guard.Allow(r.Context(), min); err != nil {
		s.fail(w, r, err)
		return
	}
	me := guard.FromContext(r.Context())
	message, err := fn(view.Actor{Name: me.Name, Source: "ui", From: me.From})
	s.live.forget()
	if err != nil {
		s.fail(w, r, err)
		return
	}
	s.setFlash(w, message)
	http.Redirect(w, r, s.base+back, http.StatusSeeOther)
}

func refusedTitle(status int) string {
	switch status {
	case http.StatusForbidden:
		return "You may not do this"
	case http.StatusTooManyRequests:
		return "Too many attempts"
	case http.StatusServiceUnavailable:
		return "The database does not answer"
	}
	return http.StatusText(status)
}

// loginPage shows the form of the guard. Its status has been set, if it is not 200.
func (s *Server) loginPage(w http.ResponseWriter, r *http.Request, p guard.LoginPage) {
	s.render(w, r, "login", page{Title: "Log in", Data: p})
}

const flashCookie = "offstage_flash"

// setFlash keeps a message for the next page that is shown.
func (s *Server) setFlash(w http.ResponseWriter, f flash) {
	if f.Text == "" {
		return
	}
	if len(f.Text) > 1000 {
		f.Text = strings.ToValidUTF8(f.Text[:1000], "") + "…"
	}
	body, err := json.Marshal(f)
	if err != nil {
		return
	}
	http.SetCookie(w, &http.Cookie{
		Name: flashCookie, Value: base64.RawURLEncoding.EncodeToString(body), Path: s.base + "/", MaxAge: 60, HttpOnly: true, SameSite: http.SameSiteLaxMode,
	})
}

func (s *Server) takeFlash(w http.ResponseWriter, r *http.Request) *flash {
	c, err := r.Cookie(flashCookie)
	if err != nil {
		return nil
	}
	http.SetCookie(w, &http.Cookie{Name: flashCookie, Path: s.base + "/", MaxAge: -1, HttpOnly: true, SameSite: http.SameSiteLaxMode})
	body, err := base64.RawURLEncoding.DecodeString(c.Value)
	var f flash
	if err != nil || json.Unmarshal(body, &f) != nil || f.Text == "" {
		return nil
	}
	return &f
}

// refusal is an error with the words for the page that shows it.
type refusal struct {
	Status int
	Title  string
	Text   string
	Next   string // what to do
}

func (e *refusal) Error() string { return e.Title + ": " + e.Text }

// refuse is an error that fail shows as it stands.
func refuse(status int, title, text, next string) error { return &refusal{status, title, text, next} }

// fail shows what went wrong, and what to do. A page whose database is gone loads itself again until it is back.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	f := explain(err)
	if f.Status >= 500 && r.Context().Err() == nil {
		s.log.Error("web: "+strings.ToLower(f.Title), "method", r.Method, "path", r.URL.Path, "error", err)
	}
	refresh := 0
	if f.Status == http.StatusTooManyRequests && w.Header().Get("Retry-After") == "" {
		w.Header().Set("Retry-After", "2")
	}
	if f.Status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "5")
		if r.Method == http.MethodGet {
			refresh = 5
		}
	}
	s.renderStatus(w, r, f.Status, "fail", page{Title: f.Title, Data: f}, refresh)
}

// explain finds the words for an error.
func explain(err error) *refusal {
	var f *refusal
	var denied *guard.Refusal
	var pg *pgconn.PgError
	var connect *pgconn.ConnectError
	var network net.Error
	switch {
	case errors.As(err, &f):
		return f
	case errors.As(err, &denied):
		return &refusal{Status: denied.Status, Title: refusedTitle(denied.Status), Text: denied.Text}
	case errors.Is(err, offstage.ErrNotFound), errors.Is(err, view.ErrUnknown), errors.Is(err, offstage.ErrNoSchedule):
		return &refusal{http.StatusNotFound, "Not found", sentence(err.Error()), "It may have ended and its history is not kept, or its name is written differently."}
	case errors.Is(err, offstage.ErrNotInstalled):
		return &refusal{http.StatusServiceUnavailable, "The schema is not installed, or is too old", "The database answers, and does not have what this page reads.",
			"Run: offstage migrate. This page loads itself again."}
	case errors.Is(err, view.ErrCrowded):
		return &refusal{http.StatusTooManyRequests, "You ask for too much at a time", "What you have asked for before still keeps the database busy: each user has two reads at a time, so that nobody keeps others waiting.",
			"Wait a moment, and load this page again; or choose less with a filter, or a shorter time."}
	case errors.Is(err, view.ErrLent):
		return &refusal{http.StatusServiceUnavailable, "A pooler is in between", sentence(view.ErrLent.Error()), "Then start the UI anew."}
	case errors.Is(err, view.ErrInvalid):
		return &refusal{http.StatusBadRequest, "This cannot be read", sentence(err.Error()), "Go back, and start again from the list."}
	case errors.As(err, &pg):
		return ofSQL(pg)
	case errors.As(err, &connect), errors.As(err, &network), errors.Is(err, context.DeadlineExceeded), pgconn.SafeToRetry(err), pgconn.Timeout(err):
		return gone
	case strings.Contains(err.Error(), "conn closed"), strings.Contains(err.Error(), "closed pool"), strings.Contains(err.Error(), "unexpected EOF"):
		return gone
	}
	return &refusal{http.StatusInternalServerError, "Something went wrong", sentence(err.Error()), "The log of the server has more. Try again; if it stays, please report it."}
}

var gone = &refusal{http.StatusServiceUnavailable, "The database does not answer", "Jobs are safe where they are; workers go on by themselves when it is back.",
	"This page loads itself again every few seconds. Check that PostgreSQL runs, and: offstage doctor"}

func ofSQL(pg *pgconn.PgError) *refusal {
	next := pg.Hint
	switch {
	case pg.Code == "42883" || pg.Code == "42P01" || pg.Code == "3F000" || pg.Code == "42703":
		return &refusal{http.StatusServiceUnavailable, "The schema is not installed, or is too old", sentence(pg.Message), "Run: offstage migrate. This page loads itself again."}
	case pg.Code == "57014":
		return &refusal{http.StatusGatewayTimeout, "This took too long", "A page may ask the database for two seconds, so that looking never harms the jobs.", "Choose less with a filter, or a shorter time."}
	case pg.Code == "25006":
		return &refusal{http.StatusServiceUnavailable, "The database takes no writes", "It is a standby, or has been made read-only: everything can be looked at, and nothing changed.",
			"Change it where the UI leads to the primary. With offstage serve --read-only nobody is offered what cannot be done."}
	case pg.Code == "42501":
		return &refusal{http.StatusForbidden, "The database refuses this", sentence(pg.Message), "The role that the UI connects as needs more rights."}
	case pg.Code[:2] == "08" || pg.Code[:2] == "53" || pg.Code[:3] == "57P":
		return gone
	case pg.Code[:2] == "22" || pg.Code[:2] == "23":
		if next == "" {
			next = "Go back, and change what you have written."
		}
		return &refusal{http.StatusUnprocessableEntity, "This cannot be done", sentence(pg.Message), next}
	case pg.Code[:2] == "OS" || pg.Code[:2] == "55" || pg.Code[:2] == "40":
		return &refusal{http.StatusConflict, "This cannot be done now", sentence(pg.Message), next}
	}
	return &refusal{http.StatusInternalServerError, "The database reports an error", sentence(pg.Message), next}
}

// sentence begins with a capital letter, and ends with a full stop.
func sentence(text string) string {
	text = strings.TrimSpace(text)
	if text == "" {
		return ""
	}
	if last, _ := utf8.DecodeLastRuneInString(text); !strings.ContainsRune(".!?…", last) {
		text += "."
	}
	first, size := utf8.DecodeRuneInString(text)
	return string(unicode.ToUpper(first)) + text[size:]
}

func (s *Server) notFound(w http.ResponseWriter, r *http.Request) {
	s.fail(w, r, refuse(http.StatusNotFound, "There is no such page", "Nothing is at "+r.URL.Path+".", "The navigation above leads to all that there is."))
}

// methods shows our own page where the mux finds none, or not for this method.
func (s *Server) methods(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead && !strings.HasPrefix(r.URL.Path, "/api/") {
			after, err := formOf(w, r)
			defer after()
			if err != nil {
				s.fail(w, r, unfit("The form cannot be read: %v.", err))
				return
			}
		}
		h, pattern := mux.Handler(r)
		if pattern != "" {
			mux.ServeHTTP(w, r)
			return
		}
		verdict := &verdict{header: http.Header{}}
		h.ServeHTTP(verdict, r)
		if verdict.status == http.StatusMethodNotAllowed {
			allow := verdict.header.Get("Allow")
			w.Header().Set("Allow", allow)
			s.fail(w, r, refuse(http.StatusMethodNotAllowed, "This page does not do that", r.Method+" is not allowed here, but "+allow+".", "Go back, or take a link of the navigation."))
			return
		}
		s.notFound(w, r)
	})
}

// formOf reads a form, as a whole or not at all: one that was cut would have fields that are empty. It has so many bytes, which come within
// half a minute. The login reads its own. after must be called: the connection may serve other requests.
func formOf(w http.ResponseWriter, r *http.Request) (after func(), err error) {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	c := http.NewResponseController(w)
	_ = c.SetReadDeadline(time.Now().Add(formTime)) // not every connection can
	if r.URL.Path != "/login" {
		if err = r.ParseForm(); err == nil { // the other one keeps its errors to itself
			err = r.ParseMultipartForm(maxForm)
		}
		if errors.Is(err, http.ErrNotMultipart) {
			err = nil
		}
	}
	return func() { _ = c.SetReadDeadline(time.Time{}) }, err
}

// verdict keeps what the mux would have answered.
type verdict struct {
	header http.Header
	status int
}

func (v *verdict) Header() http.Header         { return v.header }
func (v *verdict) Write(b []byte) (int, error) { return len(b), nil }
func (v *verdict) WriteHeader(status int)      { v.status = status }

// find is the search field: it leads to the job with this id, the task or queue with this name, or to the jobs whose error has
// this text in it.
func (s *Server) find(w http.ResponseWriter, r *http.Request) {
	q := strings.TrimSpace(r.URL.Query().Get("q"))
	to := "/jobs"
	if id, err := strconv.ParseInt(strings.TrimPrefix(q, "#"), 10, 64); err == nil && id > 0 {
		to = "/jobs/" + strconv.FormatInt(id, 10)
	} else if q != "" {
		kind, err := s.db.KindOf(r.Context(), q)
		switch {
		case err != nil:
			s.fail(w, r, err)
			return
		case kind != "":
			to = "/" + kind + "/" + segment(q)
		default:
			to = jobsURL(url.Values{"error": {q}})
			if f, id, err := search(view.JobFilter{}, q); err != nil { // the list of jobs says what is wrong
				to = jobsURL(url.Values{"q": {q}})
			} else if id == "" {
				to = jobsURL(filterValues(f))
			}
		}
	}
	http.Redirect(w, r, s.base+to, http.StatusSeeOther)
}
