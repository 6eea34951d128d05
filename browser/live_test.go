package browser

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"
	"golang.org/x/crypto/bcrypt"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/internal/pgtest"
	"github.com/offstage-dev/offstage/internal/web"
	"github.com/offstage-dev/offstage/internal/web/guard"
)

// What changes shows by itself, and takes nothing away from who is typing or has chosen rows.
func TestLive(t *testing.T) {
	t.Parallel()
	s := newStage(t, "", guard.Config{Open: true})
	b := s.open(1280, 860, false)
	for range 3 {
		s.add("hello", offstage.Options{RunAt: inHours(1)})
	}
	b.visit("/jobs")
	b.until(`document.querySelectorAll('[data-rows] [data-key]').length === 3`)

	// Typing goes on while rows come.
	js[any](b, `(() => { const f = document.querySelector('#find'); f.focus(); f.value = 'hel'; f.setSelectionRange(1, 2) })()`)
	s.add("welcome", offstage.Options{RunAt: inHours(3)})
	b.until(`document.querySelectorAll('[data-rows] [data-key]').length === 4`)
	if got := js[string](b, `document.activeElement.id + document.querySelector('#find').value + document.querySelector('#find').selectionStart`); got != "findhel1" {
		t.Errorf("who types is left with %q", got)
	}

	// Chosen rows stay where they are, and new ones wait until asked for.
	js[any](b, `document.querySelector('[data-rows] [data-key] input[type=checkbox]').click()`)
	chosen := js[string](b, `document.querySelector('[data-rows] [data-key]:has(input:checked)').dataset.key`)
	s.add("welcome", offstage.Options{RunAt: inHours(3)})
	b.text("1 newer")
	if n := js[int](b, `document.querySelectorAll('[data-rows] [data-key]').length`); n != 4 {
		t.Errorf("%d rows, want the 4 that were there", n)
	}
	b.press("body", "1 newer")
	b.until(`document.querySelectorAll('[data-rows] [data-key]').length === 5`)
	if !js[bool](b, fmt.Sprintf(`document.querySelector('[data-key=%q] input').checked`, chosen)) {
		t.Error("the chosen row is not chosen any more")
	}
	b.calm()
}

// Times are said as the server says them, also near borders, and go on by themselves.
func TestTimes(t *testing.T) {
	t.Parallel()
	s := newStage(t, "", guard.Config{Open: true})
	b := s.open(1280, 860, false)
	b.visit("/jobs")
	for _, x := range []struct {
		ms   int // ago, and then a second or two more
		want string
	}{
		{-(2*3600 + 1) * 1000, "in 2 h"}, {-(2*3600 - 3) * 1000, "in 2 h"}, {(2*3600 - 5) * 1000, "2 h ago"}, {100 * 60 * 1000, "1 h 40 min ago"}, {-(3*60 - 1) * 1000, "in 3 min"},
		{47 * 3600 * 1000, "47 h ago"}, {71 * 3600 * 1000, "2 days 23 h ago"}, {30 * 86400 * 1000, "30 days ago"}, {1000 * 86400 * 1000, "2.7 years ago"},
	} {
		js[any](b, fmt.Sprintf(`(() => {
			const t = document.createElement('time')
			t.dateTime = new Date(Date.now() - %d).toISOString(); t.dataset.time = 'ago'; t.id = 'probe'
			document.querySelector('#probe')?.remove(); document.body.append(t)
		})()`, x.ms))
		b.until(`document.querySelector('#probe').textContent`)
		if got := js[string](b, `document.querySelector('#probe').textContent`); got != x.want {
			t.Errorf("%d ms ago: %q instead of %q", x.ms, got, x.want)
		}
	}
	b.calm()
}

// All of it can be done with the keys that "?" lists, and the colours that somebody has chosen stay.
func TestKeys(t *testing.T) {
	t.Parallel()
	s := newStage(t, "", guard.Config{Open: true})
	for range 3 {
		s.add("hello", offstage.Options{RunAt: inHours(1)})
	}
	b := s.open(1280, 860, false)
	key := func(keys string) { b.do(chromedp.KeyEvent(keys)) }
	b.visit("/")

	key("?")
	b.until(`document.querySelector('#keys').open`)
	b.press("#keys", "Close")
	b.until(`!document.querySelector('#keys').open`)

	key("/")
	b.until(`document.activeElement.id === 'find'`)
	key("gjd") // letters, while typing
	b.until(`document.querySelector('#find').value.endsWith('gjd') && !document.documentElement.dataset.theme`)
	key("\x1b")
	b.until(`document.activeElement === document.body`)

	key("gj")
	b.until(`location.pathname === '/jobs' && document.readyState === 'complete' && document.querySelectorAll('[data-rows] [data-key]').length === 3`)
	second := js[string](b, `document.querySelectorAll('[data-rows] [data-key]')[1].dataset.key`)
	key("jjx")
	b.until(fmt.Sprintf(`document.querySelector('[data-rows] [data-key]:has(input:checked)')?.dataset.key === %q`, second))
	b.text("1 selected")
	key("x")
	b.until(`!document.querySelector('[data-rows] input:checked')`)
	key("jk\r")
	b.until(fmt.Sprintf(`location.pathname === '/jobs/' + %q && document.readyState === 'complete'`, second))

	key("l")
	b.until(`document.querySelector('#live').getAttribute('aria-pressed') === 'false'`)
	key("l")
	b.until(`document.querySelector('#live').getAttribute('aria-pressed') === 'true'`)

	const ground = `getComputedStyle(document.body).backgroundColor`
	light := js[string](b, ground)
	key("dd")
	b.until(`document.documentElement.dataset.theme === 'dark'`)
	dark := js[string](b, ground)
	if dark == light {
		t.Errorf("dark is as light: %s", dark)
	}
	b.visit("/errors")
	if got := js[string](b, ground+` + document.querySelector('.theme-word').innerText`); got != dark+"Dark" {
		t.Errorf("the next page is %s, want %s", got, dark+"Dark")
	}
	b.press(".tools", "Dark")
	b.until(fmt.Sprintf(`%s === %q && document.querySelector('.theme-word').innerText === 'Auto'`, ground, light))
	b.calm()
}

// A page that does not run scripts has everything: it is read, and forms act.
func TestWithoutScripts(t *testing.T) {
	t.Parallel()
	s := newStage(t, "", guard.Config{Open: true})
	id := s.add("hello", offstage.Options{Queue: "mail"})
	b := s.open(1280, 860, false)
	b.do(chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true})
		return err
	}))
	b.visit("/queues/mail")
	b.press("#main", "Pause")
	b.text("paused")
	s.eventually(`select paused from offstage.queues where queue_name = 'mail'`)
	b.visit(fmt.Sprintf("/jobs/%d", id))
	b.text("resume_queue")
	b.visit("/queues/mail")
	b.press("#main", "Resume")
	s.eventually(`select not paused from offstage.queues where queue_name = 'mail'`)
	b.calm()
}

// Behind a proxy, under a path, whether the proxy takes the path off or not.
func TestSubPath(t *testing.T) {
	t.Parallel()
	for name, strip := range map[string]bool{"kept": false, "taken off": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStage(t, "/ops/offstage", guard.Config{Open: true})
			id := s.add("hello", offstage.Options{Queue: "a/b & c"})
			behind, err := url.Parse(strings.TrimSuffix(s.url, "/ops/offstage"))
			if err != nil {
				t.Fatal(err)
			}
			var h http.Handler = &httputil.ReverseProxy{
				FlushInterval: -1, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0),
				Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(behind); r.Out.Host = r.In.Host },
			}
			if strip {
				h = http.StripPrefix("/ops/offstage", h)
			}
			proxy := httptest.NewServer(h)
			t.Cleanup(proxy.Close)
			s.url = proxy.URL + "/ops/offstage"
			b := s.open(1280, 860, false)
			b.visit("/")
			b.press("nav", "Queues")
			b.text("a/b & c")
			b.press("#main", "a/b & c")
			b.until(`location.pathname.startsWith('/ops/offstage/queues/a')`)
			b.press("#main", "Pause")
			s.eventually(`select paused from offstage.queues where queue_name = 'a/b & c'`)
			b.text("its jobs wait") // the answer is there: nothing else is being loaded
			b.visit(fmt.Sprintf("/jobs/%d", id))
			b.text("resume_queue")
			if err := s.client.ResumeQueue(t.Context(), "a/b & c"); err != nil {
				t.Fatal(err)
			}
			b.until(`!document.querySelector('#main').innerText.includes('resume_queue')`) // live, over the proxy
			b.calm()
		})
	}
}

// Who is logged out while a page is open is told, and comes back to that page.
func TestSessionExpires(t *testing.T) {
	t.Parallel()
	hash, err := bcrypt.GenerateFromPassword([]byte("correct horse"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	s := newStage(t, "", guard.Config{Users: []guard.User{{Name: "ada", PasswordHash: string(hash), Role: guard.Operator}}})
	s.add("hello", offstage.Options{RunAt: inHours(1)})
	b := s.open(1280, 860, false)
	b.visit("/jobs?state=scheduled")
	login := func(password string) {
		b.until(`document.querySelector('#main input[type=password]')`)
		js[any](b, fmt.Sprintf(`(() => {
			document.querySelector('#main input:not([type=password]):not([type=hidden])').value = 'ada'
			document.querySelector('#main input[type=password]').value = %q
			document.querySelector('#main form').requestSubmit()
		})()`, password))
	}
	login("wrong horse")
	b.text("wrong")
	login("correct horse")
	b.until(`location.pathname + location.search === '/jobs?state=scheduled' && document.querySelector('[data-rows] [data-key]')`)

	b.do(chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, network.ClearBrowserCookies, cdp.Empty{})
		return err
	}))
	s.add("welcome", offstage.Options{RunAt: inHours(1)})
	b.text("session has ended")
	js[any](b, `document.querySelector('#banner a').click()`)
	login("correct horse")
	b.until(`location.pathname + location.search === '/jobs?state=scheduled' && document.querySelectorAll('[data-rows] [data-key]').length === 2`)
}

// The database goes away and comes back; so do the pages, by themselves.
func TestDatabaseGone(t *testing.T) {
	t.Parallel()
	server := pgtest.Server(t, nil)
	s := newStageOn(t, web.Config{Guard: guard.Config{Open: true}}, pgtest.On(server))
	s.add("hello", offstage.Options{RunAt: inHours(1)})
	b := s.open(1280, 860, false)
	b.visit("/jobs")
	b.text("hello")
	if err := server.StopImmediate(); err != nil {
		t.Fatal(err)
	}
	b.until(`!document.querySelector('#banner').hidden`)
	b.text("hello") // what was there stays
	other := s.open(1280, 860, false)
	other.visit("/queues")
	other.text("does not answer")
	if err := server.StartAgain(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.until(`document.querySelector('#banner').hidden`)
	other.until(`!document.body.innerText.includes('does not answer')`)
}
