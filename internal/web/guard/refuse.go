package guard

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Refusal is a request that is not served.
type Refusal struct {
	Status int
	Text   string // in sentences, with what to do; no secrets
}

func (r *Refusal) Error() string { return r.Text }

func (g *Guard) refuse(w http.ResponseWriter, r *http.Request, why Refusal) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	if page(r) {
		if g.cfg.Refuse != nil {
			g.cfg.Refuse(w, r, why)
			return
		}
		h.Set("Content-Type", "text/plain; charset=utf-8")
		h.Set("X-Content-Type-Options", "nosniff")
		w.WriteHeader(why.Status)
		fmt.Fprintln(w, why.Text)
		return
	}
	body, _ := json.Marshal(map[string]any{"type": problemType(why.Status), "title": http.StatusText(why.Status), "status": why.Status, "detail": why.Text})
	h.Set("Content-Type", "application/problem+json")
	w.WriteHeader(why.Status)
	w.Write(append(body, '\n'))
}

// problemType is what programs compare: the types of the HTTP API.
func problemType(status int) string {
	switch status {
	case http.StatusUnauthorized:
		return "urn:offstage:unauthenticated"
	case http.StatusForbidden:
		return "urn:offstage:forbidden"
	case http.StatusTooManyRequests:
		return "urn:offstage:too-many"
	case http.StatusServiceUnavailable:
		return "urn:offstage:database-unreachable"
	}
	return "about:blank"
}

// tooMany refuses until more may be tried.
func (g *Guard) tooMany(w http.ResponseWriter, r *http.Request, wait time.Duration) {
	g.refuse(w, r, tooMany(w, wait))
}

func tooMany(w http.ResponseWriter, wait time.Duration) Refusal {
	seconds := int(math.Ceil(wait.Seconds()))
	w.Header().Set("Retry-After", strconv.Itoa(seconds))
	return Refusal{http.StatusTooManyRequests, fmt.Sprintf("There were too many failed attempts to log in. Wait %d seconds, then try again.", seconds)}
}

// unauthenticated sends people to the login page and tells programs why, and how to authenticate.
func (g *Guard) unauthenticated(w http.ResponseWriter, r *http.Request, why string) {
	if page(r) && (len(g.users) > 0 || g.cfg.Tokens) {
		w.Header().Set("Cache-Control", "no-store")
		http.Redirect(w, r, g.loginURL(r), http.StatusSeeOther)
		return
	}
	h := w.Header()
	text := "The proxy in front of this server says who somebody is, and did not for this request."
	if g.cfg.ProxyHeader == "" {
		text = "The program that serves this says who somebody is, and does not know who sent this request. Log in there."
	}
	if r.Header.Get("Sec-Fetch-Mode") != "" || !acceptsAnything(r) { // a script in a browser, which would show its own dialog for Basic
		h.Add("WWW-Authenticate", `Session realm="offstage"`)
		text = "Nobody is logged in, or the session has ended. Log in again."
	} else {
		var ways []string
		if g.cfg.Tokens {
			h.Add("WWW-Authenticate", `Bearer realm="offstage"`)
			ways = append(ways, "a token (Authorization: Bearer ost_…; offstage tokens add makes one)")
		}
		if len(g.users) > 0 {
			h.Add("WWW-Authenticate", `Basic realm="offstage", charset="UTF-8"`)
			ways = append(ways, "a user and a password with basic authentication")
		}
		if len(ways) > 0 {
			text = "Send " + strings.Join(ways, ", or ") + "."
		} else {
			h.Add("WWW-Authenticate", `Proxy realm="offstage"`)
		}
	}
	if why != "" {
		text = why
	}
	g.refuse(w, r, Refusal{http.StatusUnauthorized, text})
}

// page says whether a request is for a page that a person looks at: the API and the live module never ask for HTML.
func page(r *http.Request) bool {
	if strings.HasPrefix(r.URL.Path, "/api/") {
		return false
	}
	for _, accept := range r.Header.Values("Accept") {
		for kind := range strings.SplitSeq(accept, ",") {
			kind, _, _ = strings.Cut(kind, ";")
			switch strings.ToLower(strings.TrimSpace(kind)) {
			case "text/html", "application/xhtml+xml":
				return true
			}
		}
	}
	return false
}

// acceptsAnything is false for the fragments and streams that pages ask for.
func acceptsAnything(r *http.Request) bool {
	accept := r.Header.Get("Accept")
	return !strings.Contains(accept, "text/event-stream") && !strings.Contains(accept, "vnd.offstage.fragment")
}
