package browser

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/internal/web/guard"
)

// Every page, in both colours and on a phone: it is there whole, no script fails, nothing hangs over the edge, and axe-core finds
// nothing serious. With -screenshots, a picture of each.
func TestPages(t *testing.T) {
	t.Parallel()
	s := newStage(t, "", guard.Config{Open: true})
	running, failed, ended := s.story()
	fingerprint := s.fingerprint()
	pages := []shown{
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
	s.look(pages, looks...)
}

// A fresh installation says what to do first.
func TestEmptyPages(t *testing.T) {
	t.Parallel()
	s := newStage(t, "", guard.Config{Open: true})
	s.look([]shown{
		{"overview-empty", "/", "Start here"},
		{"jobs-empty", "/jobs", "No jobs are here"},
		{"errors-empty", "/errors", "No errors"},
		{"tasks-empty", "/tasks", "no tasks yet"},
		{"queues-empty", "/queues", "no queues yet"},
		{"schedules-empty", "/schedules", "no schedules yet"},
		{"workers-empty", "/workers", "No worker is running"},
		{"audit-empty", "/audit", "Nothing has been changed"},
	}, looks...)
}

// Names as long as they may be, without a place to break them, and letters that are read from the right: also at twice the size.
func TestLongNames(t *testing.T) {
	t.Parallel()
	s := newStage(t, "", guard.Config{Open: true})
	s.work()
	in := t.Context()
	task, queue, arabic := strings.Repeat("a_very_long_name", 8), strings.Repeat("Q", 128), "إرسال البريد"
	id := s.add(task, offstage.Options{Queue: queue, Key: strings.Repeat("k", 400), Flags: []string{strings.Repeat("f", 128)}})
	s.add(arabic, offstage.Options{Queue: "قائمة"})
	failed, err := s.client.Add(in, "hello", order{Email: strings.Repeat("x", 900), Fail: "ValueError: " + strings.Repeat("w", 900) + " لم يعمل\n" + strings.Repeat("s", 2000)}, offstage.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.client.PauseQueue(in, queue); err != nil {
		t.Fatal(err)
	}
	if err := s.client.AddSchedule(in, offstage.Schedule{Name: strings.Repeat("s", 128), Task: task, Expression: "1,2,3,5,7,11,13,17,19,23,29,31,37,41,43,47,53,59 * * * *"}); err != nil {
		t.Fatal(err)
	}
	s.eventually(`select state = 'failed' from offstage.jobs where id = $1`, failed)
	var group string
	if err := s.pool.QueryRow(in, `select fingerprint from offstage.errors()`).Scan(&group); err != nil {
		t.Fatal(err)
	}
	s.look([]shown{
		{"overview-long", "/", "Problems"},
		{"jobs-long", "/jobs", "ValueError"},
		{"jobs-filtered-long", "/jobs?task=" + task + "&queue=" + queue, "a_very_long_name"},
		{"job-long", fmt.Sprintf("/jobs/%d", id), "a_very_long_name"},
		{"job-failed-long", fmt.Sprintf("/jobs/%d", failed), "ValueError"},
		{"errors-long", "/errors", "ValueError"},
		{"error-long", "/errors/" + group, "ValueError"},
		{"tasks-long", "/tasks", "إرسال"},
		{"task-long", "/tasks/" + task, "a_very_long_name"},
		{"task-arabic", "/tasks/" + url.PathEscape(arabic), "إرسال"},
		{"queues-long", "/queues", "QQQQ"},
		{"queue-long", "/queues/" + queue, "QQQQ"},
		{"schedules-long", "/schedules", "ssss"},
		{"schedule-long", "/schedules/" + strings.Repeat("s", 128), "ssss"},
		{"workers-long", "/workers", "worker-1"},
		{"audit-long", "/audit", "QQQQ"},
	}, looks[0], looks[2], look{"zoomed", 640, 430, false})
}

// shown is a page, and a text that it must have.
type shown struct{ name, path, has string }

type look struct {
	name          string
	width, height int64
	dark          bool
}

var looks = []look{{"light", 1280, 860, false}, {"dark", 1280, 860, true}, {"narrow", 390, 844, false}, {"narrow-dark", 390, 844, true}}

// look opens each of the pages in each of the looks. Narrow and dark together is for the pictures: what can be wrong with either, the
// others show.
func (s *stage) look(pages []shown, looks ...look) {
	s.t.Helper()
	if *screenshots != "" {
		if err := os.MkdirAll(*screenshots, 0o755); err != nil {
			s.t.Fatal(err)
		}
	}
	for _, look := range looks {
		if look.dark && look.width < 1000 && *screenshots == "" {
			continue
		}
		s.t.Run(look.name, func(t *testing.T) {
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
				if look.width > 1000 { // a phone has the same elements, and so has the dark, in other colours
					for _, violation := range b.axe(look.dark) {
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
