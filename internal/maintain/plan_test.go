package maintain

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/offstage-dev/offstage/internal/cron"
	"github.com/offstage-dev/offstage/internal/store"
)

func must(t *testing.T, expression string) *cron.Expression {
	t.Helper()
	e, err := cron.Parse(expression, time.UTC)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// What becomes of ticks that are late.
func TestPlan(t *testing.T) {
	t.Parallel()
	clock := func(text string) time.Time {
		at, err := time.Parse("2006-01-02 15:04:05.999", "2030-01-02 "+text)
		if err != nil {
			t.Fatal(err)
		}
		return at
	}
	p := func(text string) *string { return &text }
	fill := func(d time.Duration) *time.Duration { return &d }
	for _, c := range []struct {
		title      string
		expression string
		nextAt     string // "": not computed
		known      string // ticks count from here
		at, lived  string
		catchup    *string
		fill       *time.Duration
		want       string // ticks; those behind * are backfilled
		next       string
		missed     bool
	}{
		{title: "on time", nextAt: "10:00:00", at: "10:00:00.004", lived: "09:00:00", want: "10:00", next: "10:01:00"},
		{title: "not yet", nextAt: "10:00:00", at: "09:59:59.999", lived: "09:00:00", want: "", next: "10:00:00"},
		{title: "first sight", known: "09:59:59.9", at: "10:00:00.004", lived: "10:00:00.004", want: "10:00", next: "10:01:00"},
		{title: "first sight, nothing yet", known: "10:00:00", at: "10:00:00", lived: "10:00:00", want: "", next: "10:01:00"},
		{title: "known for long, seen now", known: "05:00:00", at: "10:00:30", lived: "10:00:30", want: "10:00", next: "10:01:00", missed: true},
		{title: "a living worker was away", nextAt: "10:00:00", at: "10:05:30", lived: "09:00:00", want: "10:00 10:01 10:02 10:03 10:04 10:05", next: "10:06:00"},
		{title: "a new worker", nextAt: "10:00:00", at: "10:05:30", lived: "10:05:30", want: "10:05", next: "10:06:00", missed: true},
		{title: "a worker that came meanwhile", nextAt: "10:00:00", at: "10:05:30", lived: "10:03:30", want: "10:04 10:05", next: "10:06:00", missed: true},
		{title: "a minute late", nextAt: "10:00:00", at: "10:01:00", lived: "10:01:00", want: "10:00 10:01", next: "10:02:00"},
		{title: "none", catchup: p("none"), nextAt: "10:00:00", at: "10:05:30", lived: "09:00:00", want: "10:05", next: "10:06:00", missed: true},
		{title: "none, late", expression: "@daily", catchup: p("none"), nextAt: "00:00:00", at: "00:01:01", lived: "00:00:00", want: "", next: "24", missed: true},
		{title: "one", catchup: p("one"), nextAt: "10:00:00", at: "10:05:30", lived: "10:05:30", want: "10:05", next: "10:06:00", missed: true},
		{title: "one, late", expression: "*/10 * * * *", catchup: p("one"), nextAt: "10:00:00", at: "10:25:30", lived: "09:00:00", want: "*10:20", next: "10:30:00", missed: true},
		{title: "one of one", expression: "@hourly", catchup: p("one"), nextAt: "10:00:00", at: "10:25:30", lived: "10:25:30", want: "*10:00", next: "11:00:00"},
		{title: "three", catchup: p("3"), nextAt: "10:00:00", at: "10:05:30", lived: "10:05:30", want: "*10:03 *10:04 10:05", next: "10:06:00", missed: true},
		{title: "many of few", catchup: p("1000"), nextAt: "10:04:00", at: "10:05:30", lived: "10:05:30", want: "*10:04 10:05", next: "10:06:00"},
		{title: "all", catchup: p("all"), nextAt: "10:00:00", at: "10:03:30", lived: "10:05:30", want: "*10:00 *10:01 *10:02 10:03", next: "10:04:00"},
		{title: "all, too many at once", catchup: p("all"), nextAt: "00:00:00", at: "10:03:30", lived: "10:05:30", want: "*00:00 *00:01 *00:02 *00:03 *00:04 *00:05", next: "00:06:00"},
		{title: "fill", fill: fill(150 * time.Second), nextAt: "10:00:00", at: "10:05:00", lived: "10:05:00", want: "*10:03 10:04 10:05", next: "10:06:00", missed: true},
		{title: "fill of a living one", fill: fill(150 * time.Second), nextAt: "10:02:00", at: "10:05:00", lived: "10:02:00", want: "10:02 10:03 10:04 10:05", next: "10:06:00"},
		{title: "never", expression: "0 0 30 2 *", known: "10:00:00", at: "10:00:00", lived: "10:00:00"},
	} {
		if c.expression == "" {
			c.expression = "* * * * *"
		}
		s := store.DueSchedule{Catchup: c.catchup, Fill: c.fill}
		if c.nextAt != "" {
			next := clock(c.nextAt)
			s.NextAt = &next
		} else {
			s.Since = clock(c.known)
		}
		got := planOf(window{Expression: must(t, c.expression)}, s, clock(c.at), clock(c.lived), 6)
		var ticks []string
		for i, tick := range got.Ticks {
			text := tick.Format("15:04")
			if i < got.Backfilled {
				text = "*" + text
			}
			ticks = append(ticks, text)
		}
		next := ""
		if got.Next != nil {
			if next = got.Next.Format("15:04:05"); got.Next.Day() != 2 {
				next = "24"
			}
		}
		if strings.Join(ticks, " ") != c.want || next != c.next || (got.Missed != nil) != c.missed {
			t.Errorf("%s: ticks %v, next %s, missed %v; expected [%s], %s, %t", c.title, ticks, next, got.Missed, c.want, c.next, c.missed)
		}
	}
}

func TestBounds(t *testing.T) {
	t.Parallel()
	from, until := time.Date(2030, 1, 2, 10, 0, 0, 0, time.UTC), time.Date(2030, 1, 2, 10, 2, 0, 0, time.UTC)
	w := window{must(t, "* * * * *"), &from, &until}
	var got []string
	for next, ok := w.next(from.Add(-time.Hour)); ok; next, ok = w.next(next) {
		got = append(got, next.Format("15:04"))
	}
	if strings.Join(got, " ") != "10:00 10:01 10:02" {
		t.Errorf("ticks at %v", got)
	}
}

// The n-th last tick is found without looking at all of them.
func TestLatest(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	r := rand.New(rand.NewPCG(seed, 0))
	for _, text := range []string{"* * * * * *", "* * * * *", "*/7 * * * *", "5 4 * * *", "0 0 1 * *", "30 */3 * * * MON"} {
		w := window{Expression: must(t, text)}
		for range 50 {
			after := time.Unix(1893456000+r.Int64N(1e7), 0)
			first, _ := w.next(after)
			at := first.Add(time.Duration(r.Int64N(int64(time.Duration(1+r.IntN(100)) * 5 * time.Minute))))
			n := 1 + r.IntN(5)
			all := []time.Time{}
			for next, ok := first, true; ok && !next.After(at); next, ok = w.next(next) {
				all = append(all, next)
			}
			want := all[max(len(all)-n, 0)]
			if got := w.latest(first, at, n); !got.Equal(want) {
				t.Errorf("%s: the %d. last from %v to %v is %v, expected %v (seed %d)", text, n, first, at, got, want, seed)
			}
		}
	}
	// A month of seconds, and ten years of never.
	first := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	if got := (window{Expression: must(t, "* * * * * *")}).latest(first, first.AddDate(0, 1, 0), 1000); fmt.Sprint(got.UTC()) != "2030-01-31 23:43:21 +0000 UTC" {
		t.Error(got.UTC())
	}
}
