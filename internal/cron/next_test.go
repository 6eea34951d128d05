package cron

import (
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/adhocore/gronx"
)

// TestGronx walks through years with random expressions, beside another implementation.
func TestGronx(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(5, 8))
	compared, gaveUp := 0, 0
	for compared < 10_000 {
		text := randomExpression(random, true)
		e, err := Parse(text, nil)
		if err != nil {
			t.Fatal(err)
		}
		fields := strings.Fields(text)
		date, wday := fields[len(fields)-3], fields[len(fields)-1]
		// Where day of month and day of the week are both given and one begins with a star, gronx wants both to match; crontab
		// of Vixie's does, too. Graphile Worker looks at the values instead: what leaves nothing out, as 0-6, does not count.
		if date != "*" && wday != "*" && (date[0] == '*' || wday[0] == '*' || e.dates == allDates || e.wdays == allWdays) {
			continue
		}
		at := time.Date(1990+random.IntN(120), time.Month(1+random.IntN(12)), 1+random.IntN(28), random.IntN(24), random.IntN(60), random.IntN(60), 0, time.UTC)
		for range 50 {
			want, err := gronx.NextTickAfter(text, at, false)
			if err != nil { // it looks at so many days only
				gaveUp++
				break
			}
			got, ok := e.Next(at)
			if !ok || !got.Equal(want) {
				t.Fatalf("%s after %v: %v, %v; want %v", text, at, got, ok, want)
			}
			compared, at = compared+1, got
		}
	}
	if t.Logf("%d ticks, %d times without an answer", compared, gaveUp); gaveUp > compared/50 {
		t.Error("too few answers")
	}
}

func TestNext(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ expression, after, want string }{
		{"* * * * *", "2026-12-31T23:59:00Z", "2027-01-01T00:00:00Z"},
		{"* * * * *", "2026-01-01T00:00:59.999Z", "2026-01-01T00:01:00Z"},
		{"* * * * * *", "2026-01-01T00:00:00.5Z", "2026-01-01T00:00:01Z"},
		{"30 5 * * * *", "2026-01-01T00:05:30Z", "2026-01-01T01:05:30Z"},
		{"0 0 29 2 *", "2096-02-29T00:00:00Z", "2104-02-29T00:00:00Z"}, // 2100 is no leap year
		{"* * 29 2 *", "2096-03-01T00:00:00Z", "2104-02-29T00:00:00Z"},
		{"59 23 31 12 *", "2026-12-31T23:59:00Z", "2027-12-31T23:59:00Z"},
		{"0 0 31 * *", "2026-08-31T00:00:00Z", "2026-10-31T00:00:00Z"},
		{"0 0 13 * FRI", "2026-02-06T00:00:00Z", "2026-02-13T00:00:00Z"},
		{"0 0 13 * FRI", "2026-02-28T00:00:00Z", "2026-03-06T00:00:00Z"},
		{"0 0 1 * 0-6", "2026-02-02T00:00:00Z", "2026-03-01T00:00:00Z"}, // every day of the week leaves nothing out
		{"0 0 */2 * SUN", "2026-02-01T00:00:00Z", "2026-02-03T00:00:00Z"},
		{"0 0 30 2 *", "2026-01-01T00:00:00Z", ""},
		{"* * 31 2,4,6,9,11 *", "2026-01-01T00:00:00Z", ""},
		{"@yearly", "9998-06-01T00:00:00Z", "9999-01-01T00:00:00Z"},
		{"@yearly", "9999-06-01T00:00:00Z", ""},
	} {
		e, err := Parse(c.expression, nil)
		if err != nil {
			t.Fatal(err)
		}
		after, err := time.Parse(time.RFC3339, c.after)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		if next, ok := e.Next(after); ok {
			got = next.Format(time.RFC3339Nano)
		}
		if got != c.want {
			t.Errorf("%s after %s: %s; want %s", c.expression, c.after, got, c.want)
		}
	}
}

// TestBounds: no expression costs more than 10,000 steps or a kilobyte, wherever it is asked.
func TestBounds(t *testing.T) {
	t.Parallel()
	const most = 10_000
	wide := strings.TrimSuffix(strings.Repeat("0-59,", 20), ",")
	long := strings.Repeat("1,", (maxExpression-11)/2)
	texts := []string{
		"* * * * * *", "0 0 29 2 *", "* * 29 2 *", "59 * 29 2 *", "59 59 23 29 2 *", "0 0 30 2 *", "* * 30 2 *", "* * 31 2,4,6,9,11 *", "59 23 31 12 *",
		wide + " " + wide + " * * * *", long + "1 * * * *", "*/1,*/1,*/1,*/1 0-23/1 1-31 1-12 0-7", "* " + strings.Repeat("*,", 360) + "* * * *",
	}
	random := rand.New(rand.NewPCG(13, 21))
	for range 1000 {
		texts = append(texts, randomExpression(random, true))
	}
	zones := []*time.Location{time.UTC, zone(t, "Europe/Berlin"), zone(t, "Africa/Casablanca"), zone(t, "Australia/Lord_Howe"), time.FixedZone("far", 400_000), time.FixedZone("", -50_000)}
	rare := time.Date(2096, time.March, 1, 0, 0, 0, 0, time.UTC).Unix() // eight years before a 29 February
	worst, worstText := 0, ""
	for i, text := range texts {
		steps := 0
		e, err := parse(strings.Fields(text), zones[i%len(zones)], "", &steps)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if steps > most {
			t.Errorf("%s takes %d steps to read", text, steps)
		}
		if size := int(unsafe.Sizeof(*e)) + len(e.text); size > 1024 {
			t.Errorf("%s takes %d bytes", text, size)
		}
		for _, z := range zones {
			e.zone = z
			for _, after := range []int64{math.MinInt64, -1 << 40, earliest, 0, 1_772_000_000, rare, latest - 1, math.MaxInt64} {
				s := search{Expression: e}
				s.next(after)
				if s.steps > worst {
					worst, worstText = s.steps, text
				}
			}
		}
	}
	if t.Logf("%s: %d steps", worstText, worst); worst > most {
		t.Errorf("%s takes %d steps", worstText, worst)
	}
	if _, err := Parse(strings.Repeat("0,", 500_000)+"0 * * * *", nil); err == nil {
		t.Error("a megabyte is taken")
	}
}
