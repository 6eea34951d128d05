package guard

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"net/http"
	"time"
)

const (
	cookieName  = "offstage_session"
	sessionIdle = 12 * time.Hour     // without a request
	sessionMost = 7 * 24 * time.Hour // since the login
	sessionTurn = 10 * time.Minute   // a cookie that is older is replaced by the next request
	maxCookie   = 1000
)

// session is what a cookie holds, signed. It names who has logged in and not what they may do: that is looked up with every
// request, so that a user who was taken out, a changed password and a revoked token end it.
type session struct {
	ID    []byte `json:"i"`
	User  string `json:"u,omitempty"`
	Print []byte `json:"p,omitempty"` // of the user's hash
	Token []byte `json:"t,omitempty"` // hash of a token, instead
	Login int64  `json:"l"`           // seconds
	Made  int64  `json:"m"`
}

// sign is a keyed hash of a list of texts.
func sign(key []byte, parts ...string) []byte {
	mac := hmac.New(sha256.New, key)
	for _, p := range parts {
		mac.Write(binary.AppendUvarint(nil, uint64(len(p))))
		mac.Write([]byte(p))
	}
	return mac.Sum(nil)
}

// printOf ties a session to the password that it began with.
func (g *Guard) printOf(u *user) []byte { return sign(g.key, "user", u.Name, u.PasswordHash)[:16] }

func (g *Guard) seal(s session) string {
	body, _ := json.Marshal(s)
	text := base64.RawURLEncoding.EncodeToString(body)
	return text + "." + base64.RawURLEncoding.EncodeToString(sign(g.key, "cookie", text))
}

// unseal answers a session that we have signed, and that has not ended.
func (g *Guard) unseal(cookie string) (s session, ok bool) {
	if len(cookie) > maxCookie {
		return s, false
	}
	text, mark, ok := bytes.Cut([]byte(cookie), []byte("."))
	if !ok {
		return s, false
	}
	given, err := base64.RawURLEncoding.Strict().DecodeString(string(mark))
	if err != nil || !hmac.Equal(given, sign(g.key, "cookie", string(text))) {
		return s, false
	}
	body, err := base64.RawURLEncoding.DecodeString(string(text))
	if err != nil || json.Unmarshal(body, &s) != nil {
		return s, false
	}
	now := time.Now()
	return s, now.Before(time.Unix(s.Made, 0).Add(sessionIdle)) && now.Before(time.Unix(s.Login, 0).Add(sessionMost)) && !g.ended.has(string(s.ID))
}

// session answers who has logged in, and puts the end of the session off. An error is one of the database.
func (g *Guard) session(w http.ResponseWriter, r *http.Request) (name string, role Role, ok bool, err error) {
	for _, c := range r.CookiesNamed(cookieName) { // a page on another path may have set one, too
		s, ok := g.unseal(c.Value)
		if !ok {
			continue
		}
		if name, role, err = g.owner(r, s); err != nil {
			return "", None, false, err
		}
		if name == "" {
			continue
		}
		if now := time.Now(); now.Sub(time.Unix(s.Made, 0)) > sessionTurn {
			s.Made = now.Unix()
			g.setCookie(w, r, g.seal(s), sessionIdle)
		}
		return name, role, true, nil
	}
	return "", None, false, nil
}

// owner is whose session it still is; "" nobody's.
func (g *Guard) owner(r *http.Request, s session) (string, Role, error) {
	if len(s.Token) > 0 {
		if !g.cfg.Tokens {
			return "", None, nil
		}
		name, role, err := g.tokens.Lookup(r.Context(), s.Token)
		if err != nil || name == "" || !role.valid() {
			return "", None, err
		}
		return tokenName(name), role, nil
	}
	u := g.users[s.User]
	if u == nil || !hmac.Equal(s.Print, g.printOf(u)) {
		return "", None, nil
	}
	return u.Name, u.Role, nil
}

func (g *Guard) begin(w http.ResponseWriter, r *http.Request, s session) {
	s.ID, s.Login = random(16), time.Now().Unix()
	s.Made = s.Login
	g.setCookie(w, r, g.seal(s), sessionIdle)
}

// end forgets the sessions of a request; who has copied a cookie cannot go on with it.
func (g *Guard) end(r *http.Request) {
	for _, c := range r.CookiesNamed(cookieName) {
		if s, ok := g.unseal(c.Value); ok {
			g.ended.add(string(s.ID), time.Unix(s.Login, 0).Add(sessionMost))
		}
	}
}

func (g *Guard) setCookie(w http.ResponseWriter, r *http.Request, value string, life time.Duration) {
	seconds := int(life / time.Second)
	if value == "" {
		seconds = -1 // take it out
	}
	http.SetCookie(w, &http.Cookie{
		Name: cookieName, Value: value, Path: g.base + "/", MaxAge: seconds, HttpOnly: true, SameSite: http.SameSiteLaxMode,
		Secure: g.cfg.SecureCookies || r.TLS != nil || r.Header.Get("X-Forwarded-Proto") == "https",
	})
}
