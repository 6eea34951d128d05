package browser

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/internal/pgtest"
	"github.com/offstage-dev/offstage/internal/web"
	"github.com/offstage-dev/offstage/internal/web/guard"
	"github.com/offstage-dev/offstage/worker"
)

var screenshots = flag.String("screenshots", "", "write a picture of every page into this directory")

func TestMain(m *testing.M) {
	flag.Parse()
	pgtest.Main(quitAfter{m})
}

// quitAfter ends the browser before anybody looks for what is left behind.
type quitAfter struct{ m *testing.M }

func (q quitAfter) Run() int {
	defer func() { quit() }()
	return q.m.Run()
}

// chromium is one browser for all tests; each has a tab with cookies of its own.
var chromium = sync.OnceValues(func() (context.Context, error) {
	profile, err := os.MkdirTemp("", "offstage-chromium-")
	if err != nil {
		return nil, err
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.UserDataDir(profile), chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true), chromedp.Flag("lang", "en-US"))
	if path := os.Getenv("OFFSTAGE_CHROMIUM"); path != "" {
		options = append(options, chromedp.ExecPath(path))
	}
	ctx, stop := chromedp.NewExecAllocator(context.Background(), options...)
	ctx, _ = chromedp.NewContext(ctx)
	if err := chromedp.Do(ctx); err != nil {
		stop()
		return nil, fmt.Errorf("start Chromium (./dev test installs it): %w", err)
	}
	quit = func() {
		_ = chromedp.Cancel(ctx) // waits until it has ended
		stop()
		_ = os.RemoveAll(profile)
	}
	return ctx, nil
})

var quit = func() {}

// stage is an installation with a worker and the pages.
type stage struct {
	t      *testing.T
	db     *pgtest.DB
	pool   *pgxpool.Pool
	client *offstage.Client
	url    string // of the pages, without a slash at its end
	hold   chan struct{}
}

type order struct {
	N     int    `json:"n,omitempty"`
	Email string `json:"email,omitempty"`
	Fail  string `json:"fail,omitempty"`
	Hold  bool   `json:"hold,omitempty"`
}

// newStage starts it; the base path is where a proxy has it, "" for none.
func newStage(t *testing.T, base string, g guard.Config) *stage {
	t.Helper()
	return newStageOn(t, web.Config{BasePath: base, Guard: g})
}

func newStageOn(t *testing.T, cfg web.Config, on ...pgtest.Option) *stage {
	t.Helper()
	db := pgtest.New(t, on...)
	s := &stage{t: t, db: db, pool: db.Pool(t), hold: make(chan struct{})}
	var err error
	if s.client, err = offstage.New(s.pool, offstage.Config{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.client.Close)
	cfg.Log = slog.New(slog.DiscardHandler)
	server, err := web.New(s.pool, cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	site := httptest.NewServer(server.Handler())
	s.url = site.URL + cfg.BasePath
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		site.Close()
		server.Close()
	})
	return s
}

// add puts a job in.
func (s *stage) add(task string, o offstage.Options) int64 {
	s.t.Helper()
	id, err := s.client.Add(s.t.Context(), task, map[string]any{"name": "Ada"}, o)
	if err != nil {
		s.t.Fatal(err)
	}
	return id
}

func inHours(n int) time.Time { return time.Now().Add(time.Duration(n) * time.Hour) }

// work runs a worker until the test ends.
func (s *stage) work() {
	s.t.Helper()
	w, err := worker.New(s.pool, worker.Config{Log: slog.New(slog.DiscardHandler), Jobs: 20, StopGrace: time.Second})
	if err != nil {
		s.t.Fatal(err)
	}
	handle := func(ctx context.Context, job *worker.Job[order]) (map[string]any, error) {
		worker.Log(ctx).Info("looking at it", "n", job.Payload.N)
		switch {
		case job.Payload.Hold:
			if err := worker.Progress(ctx, 40, "two of five pages"); err != nil {
				return nil, err
			}
			select {
			case <-s.hold:
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
		case job.Payload.Fail != "":
			worker.Log(ctx).Warn("this will not go well")
			return nil, offstage.Fail(errors.New(job.Payload.Fail))
		}
		return map[string]any{"pages": job.Payload.N, "sent_to": job.Payload.Email}, nil
	}
	for _, task := range []string{"hello", "send_email", "render_pdf", "sync_customer"} {
		worker.Handle(w, task, handle, worker.MaxAttempts(3))
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	s.t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			s.t.Error(err)
		}
	})
}

// story fills the pages: jobs in every state, failures of several kinds, queues, a schedule, what people have done.
func (s *stage) story() (running, failed, ended int64) {
	s.t.Helper()
	s.work()
	in := s.t.Context()
	add := func(task string, payload order, o offstage.Options) int64 {
		id, err := s.client.Add(in, task, payload, o)
		if err != nil {
			s.t.Fatal(err)
		}
		return id
	}
	for n := range 40 {
		ended = add([]string{"hello", "send_email", "render_pdf"}[n%3], order{N: n, Email: fmt.Sprintf("user%d@example.com", n)}, offstage.Options{})
	}
	failures := []string{
		"connect ECONNREFUSED 10.0.0.7:25", "TypeError: Cannot read properties of undefined (reading 'total')\n    at render (/app/tasks/render_pdf.js:12:9)\n    at run (/app/worker.js:40:3)",
		"template \"invoice-8812\" not found", "exit status 3: disk full",
	}
	for n := range 12 {
		failed = add([]string{"send_email", "render_pdf"}[n%2], order{N: 100 + n, Fail: failures[n%4]}, offstage.Options{})
	}
	running = add("render_pdf", order{N: 7, Hold: true}, offstage.Options{Queue: "reports"})
	for n := range 5 {
		add("render_pdf", order{N: n}, offstage.Options{Queue: "reports"})
	}
	later := time.Now().Add(3 * time.Hour)
	for n := range 4 {
		add("sync_customer", order{N: n}, offstage.Options{RunAt: later, Key: fmt.Sprintf("customer-%d", n)})
	}
	for n := range 3 {
		add("import_nobody_knows", order{N: n}, offstage.Options{})
	}
	if err := s.client.PauseQueue(in, "imports"); err != nil {
		s.t.Fatal(err)
	}
	add("hello", order{N: 1}, offstage.Options{Queue: "imports"})
	err := s.client.AddSchedule(in, offstage.Schedule{Name: "nightly-report", Task: "render_pdf", Expression: "30 4 * * MON-FRI", TimeZone: "Europe/Berlin"})
	if err != nil {
		s.t.Fatal(err)
	}
	s.eventually(`select (select count(*) from offstage.jobs where state = 'failed') >= 12 and (select state = 'running' from offstage.jobs where id = $1)
		and (select count(*) from offstage.history(ended_as => 'succeeded')) >= 40`, running)
	return running, failed, ended
}

func (s *stage) eventually(sql string, args ...any) {
	s.t.Helper()
	deadline := time.After(30 * time.Second)
	for tick := time.NewTicker(20 * time.Millisecond); !pgtest.One[bool](s.t, s.pool, "select coalesce(("+sql+"), false)", args...); {
		select {
		case <-tick.C:
		case <-deadline:
			s.t.Fatalf("not true after 30 s: %s", sql)
		}
	}
}

// tab is a window of the browser with cookies of its own, and its console.
type tab struct {
	s   *stage
	ctx context.Context
	mu  sync.Mutex
	bad []string // what scripts and the content security policy have complained about
}

// open makes a tab; dark is the colours that its user prefers.
func (s *stage) open(width, height int64, dark bool) *tab {
	s.t.Helper()
	browser, err := chromium()
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, stop := chromedp.NewContext(browser, chromedp.WithNewBrowserContext())
	ctx, giveUp := context.WithTimeout(ctx, 4*time.Minute)
	s.t.Cleanup(func() { giveUp(); stop() })
	b := &tab{s: s, ctx: ctx}
	console := chromedp.Console(ctx)
	go func() {
		for m, err := range console {
			if err != nil {
				return
			}
			if m.IsException() || m.Type == "error" {
				b.mu.Lock()
				b.bad = append(b.bad, m.Text+" "+m.URL)
				b.mu.Unlock()
			}
		}
	}()
	scheme := "light"
	if dark {
		scheme = "dark"
	}
	b.do(chromedp.EmulateViewport(width, height), chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{
			{Name: "prefers-color-scheme", Value: scheme}, {Name: "prefers-reduced-motion", Value: "reduce"},
		}})
		return err
	}))
	return b
}

func (b *tab) do(steps ...chromedp.Action[chromedp.Void]) {
	b.s.t.Helper()
	if err := chromedp.Do(b.ctx, steps...); err != nil {
		b.s.t.Fatal(err)
	}
}

// visit loads a page and waits until it is there.
func (b *tab) visit(path string) {
	b.s.t.Helper()
	b.do(chromedp.Navigate(b.s.url+path), chromedp.WaitReady("#main"))
}

// js is what an expression is on the page.
func js[T any](b *tab, expression string) T {
	b.s.t.Helper()
	v, err := chromedp.Run(b.ctx, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
	if err != nil {
		b.s.t.Fatalf("%s: %v", expression, err)
	}
	return v
}

// until waits for an expression to be true on the page. Asked from here: the page's policy forbids what would ask there.
func (b *tab) until(expression string) {
	b.s.t.Helper()
	deadline := time.After(20 * time.Second)
	for tick := time.NewTicker(30 * time.Millisecond); ; {
		ok, err := chromedp.Run(b.ctx, chromedp.Evaluate[bool]("Boolean("+expression+")"))
		if ok && err == nil { // while a page is being loaded there may be nothing to ask
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			b.s.t.Fatalf("after 20 s still not: %s; the page: %s", expression, short(js[string](b, "location.href + ' ' + document.body.innerText")))
		}
	}
}

// text waits until the page has it.
func (b *tab) text(want string) {
	b.s.t.Helper()
	b.until(fmt.Sprintf("document.body?.innerText.toLowerCase().includes(%q)", strings.ToLower(want)))
}

// press clicks on the one button or link inside of the selector that has one of these labels, as soon as it is there.
func (b *tab) press(within string, labels ...string) {
	b.s.t.Helper()
	list, err := json.Marshal(labels)
	if err != nil {
		b.s.t.Fatal(err)
	}
	// offsetParent: not one that is hidden.
	b.until(fmt.Sprintf(`(() => {
		const found = [...document.querySelectorAll(%q + ' :is(button, a, summary)')].filter((e) => e.offsetParent && %s.includes(e.innerText.trim()))
		if (found.length === 1) found[0].click()
		return found.length === 1
	})()`, within, list))
}

// calm reports what scripts and the content security policy complained about.
func (b *tab) calm() {
	b.s.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range b.bad {
		b.s.t.Errorf("the browser reports: %s", e)
	}
	b.bad = nil
}

func short(text string) string {
	if len(text) > 1500 {
		text = text[:1500] + "…"
	}
	return text
}

// axe says what people with disabilities cannot use on the page, as far as a program can tell: serious and critical alone. It looks at
// everything, or at the colours alone.
func (b *tab) axe(colours bool) []string {
	b.s.t.Helper()
	source, err := os.ReadFile(filepath.Join("node_modules", "axe-core", "axe.min.js"))
	if err != nil {
		b.s.t.Fatalf("%v; ./dev test installs it", err)
	}
	js[any](b, string(source)+"; null")
	only := ""
	if colours {
		only = ", runOnly: ['color-contrast', 'link-in-text-block']"
	}
	return js[[]string](b, `axe.run(document, {resultTypes: ['violations']`+only+`}).then((r) => r.violations
		.filter((v) => v.impact === 'serious' || v.impact === 'critical')
		.map((v) => v.id + ': ' + v.help + ': ' + v.nodes.slice(0, 3).map((n) => n.html.slice(0, 200) + ' (' + (n.any[0]?.message ?? n.all[0]?.message ?? '') + ')').join(' | ')))`)
}
