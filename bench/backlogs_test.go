package main

import (
	"encoding/xml"
	"errors"
	"io"
	"math"
	"slices"
	"strings"
	"testing"
)

func TestParseBacklogs(t *testing.T) {
	o, err := parseBacklogs([]string{"--only", "queues, future", "--peer-processes", "1,4"})
	if err != nil {
		t.Fatal(err)
	}
	names := chosen(o)
	if !slices.Equal(names, []string{"future", "queues"}) || !slices.Equal(o.peerProcesses, []int{1, 4}) || o.backlog != 1_000_000 {
		t.Errorf("%v, %+v", names, o)
	}
	for _, wrong := range [][]string{{"--only", "work"}, {"--keep", "some"}, {"--backlog", "9"}, {"--minutes", "0"}, {"more"}} {
		if _, err := parseBacklogs(wrong); err == nil {
			t.Errorf("%q is accepted", wrong)
		}
	}
}

func TestTenths(t *testing.T) {
	x := tenths{jobs: 1000}
	x.see(0, 1_000_000)
	for i := range 10 { // 100 jobs each 0.1 s, and the last ones take 0.2 s
		x.see(1+100*i, int64(2_000_000+100_000*i))
	}
	x.see(1000, 3_100_000)
	s := sample{}
	x.into(s)
	if x.begun != 1_000_000 || math.Abs(s[firstTenth]-1000) > 1 || math.Abs(s[lastTenth]-495) > 1 || math.Abs(s[bothTenths]-0.495) > 0.01 {
		t.Errorf("%+v gives %v", x, s)
	}
	cut := tenths{jobs: 1000}
	cut.see(1, 1)
	cut.see(950, 2)
	s = sample{}
	if cut.into(s); len(s) > 0 {
		t.Errorf("what was cut short gives %v", s)
	}
}

func TestTimelineComparesWithWhatComesAfterTheBeginning(t *testing.T) {
	l := timeline{name: "a & b", rate: 100, long: 600e9}
	for i := range 600 {
		l.points = append(l.points, point{at: float64(i), jobs: 90 * i, tables: min(float64(i), 80), indexes: 20 + float64(i/540)*10})
	}
	s := l.sample()
	if s[steadySize] != 100 || s[steadyEnd] != 110 || math.Abs(s[steadyGrows]-1.1) > 1e-9 || s[steadyRate] != 90 || s[steadyKeeps] != 0.9 {
		t.Errorf("%v", s)
	}
	text := draw([]*timeline{&l})
	for d := xml.NewDecoder(strings.NewReader(text)); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if strings.Contains(text, "NaN") || strings.Contains(text, "Inf") || !strings.Contains(text, ">500<") {
		t.Errorf("a picture without its ticks, or beyond all numbers: %.500s", text)
	}
	draw([]*timeline{{name: "nothing"}}) // must not loop
}

// A goal without peers is about a figure, and one that was not measured is left out.
func TestFiguresOfTheirOwn(t *testing.T) {
	s := scenario{
		metrics:  []metric{{name: "parked/s"}, {name: "MB", lower: true, digits: 1}, {name: "none"}},
		variants: []variant{{title: "a"}},
		goals:    []goal{{metric: "parked/s", ours: "a", atBest: 50_000}, {metric: "MB", ours: "a", atBest: 48}, {metric: "none", ours: "a", atBest: 1}},
	}
	r := summarize(s, [][]sample{{{"parked/s": 60_000, "MB": 50}}, {{"parked/s": 70_000, "MB": 49}}})
	var text strings.Builder
	r.writeText(&text)
	for _, want := range []string{"65,000 (60,000–70,000) parked/s: a; goal ≥ 50,000: HOLDS", "49.5 (49.0–50.0) MB: a; goal ≤ 48.0: MISSED"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("no %q in\n%s", want, text.String())
		}
	}
	if len(r.Comparisons) != 2 {
		t.Errorf("comparisons: %+v", r.Comparisons)
	}
	text.Reset()
	report{Scenarios: []result{r}}.writeGoals(&text)
	if want := ", parked/s: a   65,000 (60,000–70,000)   ≥ 50,000: HOLDS"; !strings.Contains(text.String(), want) {
		t.Errorf("no %q in\n%s", want, text.String())
	}
}
