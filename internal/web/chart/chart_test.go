package chart

import (
	"encoding/xml"
	"fmt"
	"io"
	"math"
	"regexp"
	"strings"
	"testing"
	"time"
)

// wellFormed fails unless it is XML that needs no style of its own.
func wellFormed(t *testing.T, svg string) {
	t.Helper()
	d := xml.NewDecoder(strings.NewReader(svg))
	for {
		token, err := d.Token()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatalf("%v in %s", err, svg)
		}
		if e, ok := token.(xml.StartElement); ok {
			for _, a := range e.Attr {
				if a.Name.Local == "style" || strings.HasPrefix(a.Name.Local, "on") {
					t.Errorf("<%s> has the attribute %s", e.Name.Local, a.Name.Local)
				}
				if strings.Contains(a.Value, "NaN") || strings.Contains(a.Value, "Inf") {
					t.Errorf("<%s %s=%q>", e.Name.Local, a.Name.Local, a.Value)
				}
				if (a.Name.Local == "height" || a.Name.Local == "width") && strings.HasPrefix(a.Value, "-") {
					t.Errorf("<%s> has a %s of %s", e.Name.Local, a.Name.Local, a.Value)
				}
			}
		}
	}
}

func bars(step time.Duration, values ...float64) Bars {
	b := Bars{Title: `What <b>ended</b> & "more"`, Unit: "jobs", Step: step, ID: "x", Series: []Series{{"succeeded", "c-ok", values}, {"failed", "c-bad", make([]float64, len(values))}}}
	at := time.Date(2026, 11, 26, 9, 2, 0, 0, time.UTC).Truncate(step)
	for i := range values {
		b.Starts = append(b.Starts, at.Add(time.Duration(i)*step))
	}
	return b
}

func TestBars(t *testing.T) {
	values := make([]float64, 60)
	for i := range values {
		values[i] = float64(i * 10)
	}
	b := bars(time.Minute, values...)
	svg := string(b.SVG())
	wellFormed(t, svg)
	for _, has := range []string{`role="img"`, `aria-labelledby="x-title x-desc"`, `<title id="x-title">What &lt;b&gt;ended&lt;/b&gt;`, "<desc id=\"x-desc\">18k succeeded", "at 10:01 UTC", ">09:05<", ">10:00<", ">600<", ">0<"} {
		if !strings.Contains(svg, has) {
			t.Errorf("it does not have %s: %s", has, svg[:1000])
		}
	}
	if n := strings.Count(svg, `class="c-ok"`); n != 59 {
		t.Errorf("%d bars, expected 59", n)
	}
	if table := string(b.Table()); !strings.Contains(table, "<td>2026-11-26 10:01</td><td class=\"num\">590</td>") || strings.Count(table, "<tr>") != 60 {
		t.Errorf("the table is %s", table[:500])
	}
	for _, none := range []Bars{bars(time.Minute), bars(time.Minute, 0, 0, 0), {}} {
		wellFormed(t, string(none.SVG()))
		if !strings.Contains(string(none.SVG()), "There is nothing in this time.") || !strings.Contains(string(none.Table()), "nothing in this time") {
			t.Error("an empty chart does not say so")
		}
	}
}

// The least of something must be seen beside the most.
func TestSmallBarsAreSeen(t *testing.T) {
	svg := string(bars(time.Minute, 1, 1e6).SVG())
	m := regexp.MustCompile(`class="c-ok"[^>]* height="([^"]*)"`).FindStringSubmatch(svg)
	if m == nil || m[1] != "1" {
		t.Errorf("the bar is %v high", m)
	}
}

func TestTimeTicks(t *testing.T) {
	for _, c := range []struct {
		step time.Duration
		n    int
		want string
	}{{time.Minute, 60, "09:05"}, {15 * time.Minute, 96, "10:00"}, {2 * time.Hour, 84, "27 Nov"}} {
		b := bars(c.step, make([]float64, c.n)...)
		ticks := timeTicks(b.Starts, c.step, 12)
		if len(ticks) < 4 || len(ticks) > 13 {
			t.Errorf("%s: %d labels", c.step, len(ticks))
		}
		if got := clock(b.Starts[ticks[0]], c.step); got != c.want {
			t.Errorf("%s: the first label is %s, expected %s", c.step, got, c.want)
		}
	}
}

func TestScale(t *testing.T) {
	for _, highest := range []float64{0, 1, 2, 3, 7, 10, 11, 99, 100, 101, 999, 12345, 1e9, math.SmallestNonzeroFloat64} {
		ticks := scale(highest)
		if len(ticks) < 2 || len(ticks) > 7 || ticks[0] != 0 || ticks[len(ticks)-1] < highest {
			t.Errorf("the scale of %v is %v", highest, ticks)
		}
		seen := map[string]bool{}
		for _, v := range ticks {
			if seen[Short(v)] {
				t.Errorf("the scale of %v says %s twice", highest, Short(v))
			}
			seen[Short(v)] = true
		}
	}
}

func TestShort(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 950: "950", 999.9: "1k", 1000: "1k", 1500: "1.5k", 10000: "10k", 1234567: "1.2M", 2e9: "2G"} {
		if got := Short(v); got != want {
			t.Errorf("%v is %s, expected %s", v, got, want)
		}
	}
}

func TestHistogram(t *testing.T) {
	h := Histogram{Title: "How long", ID: "h", Labels: []string{"1 ms", "2 ms", "4 ms"}, Series: []Series{{"waited", "a", []float64{1, 0, 3}}, {"ran", "b", []float64{0, 5, 0}}}}
	svg := string(h.SVG())
	wellFormed(t, svg)
	for _, has := range []string{"waited: the most were below 4 ms; ran: the most were below 2 ms.", ">4 ms<"} {
		if !strings.Contains(svg, has) {
			t.Errorf("it does not have %s", has)
		}
	}
	if !strings.Contains(string(h.Table()), "<td>4 ms</td><td class=\"num\">3</td><td class=\"num\">0</td>") {
		t.Errorf("the table is %s", h.Table())
	}
	wellFormed(t, string(Histogram{}.SVG()))
}

func TestSparkAndBar(t *testing.T) {
	for _, values := range [][]float64{nil, {1}, {0, 0}, {1, 5, 2}} {
		wellFormed(t, string(Spark(values, `<&">`)))
	}
	for _, c := range [][2]float64{{0, 0}, {1, 10}, {20, 10}} {
		bar := string(Bar(c[0], c[1], fmt.Sprint(c)))
		wellFormed(t, bar)
	}
}
