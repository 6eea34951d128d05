package browser

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"

	"github.com/offstage-dev/offstage/internal/web/guard"
)

// Every page, in both colours and on a phone: it is there whole, no script fails, nothing hangs over the edge, and axe-core finds
// nothing serious. With -screenshots, a picture of each.
func TestPages(t *testing.T) {
	t.Parallel()
	s := newStage(t, "", guard.Config{Open: true})
	running, failed, ended := s.story()
	fingerprint := s.fingerprint()
	pages := []struct{ name, path, has string }{
		{"overview", "/", "Overview"},
		{"jobs", "/jobs", "Jobs"},
		{"jobs-failed", "/jobs?state=failed", "send_email"},
		{"jobs-nothing", "/jobs?task=hello&state=failed", "hello"},
		{"job-running", fmt.Sprintf("/jobs/%d", running), "two of five pages"},
		{"job-failed", fmt.Sprintf("/jobs/%d", failed), "exit status 3"},
		{"job-ended", fmt.Sprintf("/jobs/%d", ended), "sent_to"},
		{"errors", "/errors", "ECONNREFUSED"},
		{"error", "/errors/" + fingerprint, "render_pdf"},
		{"tasks", "/tasks", "send_email"},
		{"task", "/tasks/render_pdf", "render_pdf"},
		{"queues", "/queues", "reports"},
		{"queue", "/queues/reports", "reports"},
		{"schedules", "/schedules", "nightly-report"},
		{"schedule", "/schedules/nightly-report", "Europe/Berlin"},
		{"workers", "/workers", "worker-1"},
		{"audit", "/audit", "imports"},
		{"not-found", "/jobs/999999999", "There is no job"},
	}
	if *screenshots != "" {
		if err := os.MkdirAll(*screenshots, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, look := range []struct {
		name          string
		width, height int64
		dark          bool
	}{{"light", 1280, 860, false}, {"dark", 1280, 860, true}, {"narrow", 390, 844, false}, {"narrow-dark", 390, 844, true}} {
		t.Run(look.name, func(t *testing.T) {
			on := *s
			on.t = t
			b := on.open(look.width, look.height, look.dark)
			for _, p := range pages {
				b.visit(p.path)
				b.text(p.has)
				if over := js[int](b, "document.documentElement.scrollWidth - document.documentElement.clientWidth"); over > 0 {
					t.Errorf("%s: %d pixels hang over the edge of %d: %v", p.name, over, look.width,
						js[[]string](b, `[...document.querySelectorAll('body *')].filter((e) => e.getBoundingClientRect().right > innerWidth + 1).slice(0, 5).map((e) => e.tagName + '.' + e.className + ' ' + e.innerText?.slice(0, 40))`))
				}
				if look.width > 1000 { // in both colours; a phone has the same elements
					for _, violation := range b.axe() {
						t.Errorf("%s, %s: %s", p.name, look.name, violation)
					}
				}
				if *screenshots != "" {
					b.picture(filepath.Join(*screenshots, p.name+"-"+look.name+".png"))
				}
				if p.name != "not-found" {
					b.calm()
				}
			}
		})
	}
}

func (s *stage) fingerprint() (f string) {
	s.t.Helper()
	if err := s.pool.QueryRow(s.t.Context(), `select fingerprint from offstage.errors() where task_identifier = 'render_pdf' order by last_seen desc limit 1`).Scan(&f); err != nil {
		s.t.Fatal(err)
	}
	return f
}

// picture is the whole page, and not more than three windows high.
func (b *tab) picture(path string) {
	b.s.t.Helper()
	png, err := chromedp.Run(b.ctx, func(ctx context.Context, t *chromedp.Target) ([]byte, error) {
		size, err := cdp.Call(ctx, t, page.GetLayoutMetrics, cdp.Empty{})
		if err != nil {
			return nil, err
		}
		shot, err := cdp.Call(ctx, t, page.CaptureScreenshot, page.CaptureScreenshotParams{
			CaptureBeyondViewport: new(true),
			Clip:                  &page.Viewport{Width: size.CSSContentSize.Width, Height: min(size.CSSContentSize.Height, 2600), Scale: 1},
		})
		return shot.Data, err
	})
	if err == nil {
		err = os.WriteFile(path, png, 0o644)
	}
	if err != nil {
		b.s.t.Fatal(err)
	}
}
