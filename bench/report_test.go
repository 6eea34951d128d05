package main

import (
	"bytes"
	"slices"
	"strings"
	"testing"
)

func TestPercentile(t *testing.T) {
	values := make([]float64, 1000)
	for i := range values {
		values[i] = float64(i + 1)
	}
	for p, want := range map[int]float64{50: 500, 99: 990, 100: 1000} {
		if got := percentile(values, p); got != want {
			t.Errorf("p%d = %v, want %v", p, got, want)
		}
	}
	if got := percentile([]float64{7}, 99); got != 7 {
		t.Errorf("p99 of one value = %v", got)
	}
}

func TestNumber(t *testing.T) {
	for _, c := range []struct {
		x      float64
		digits int
		want   string
	}{{0, 0, "0"}, {999, 0, "999"}, {1000, 0, "1,000"}, {1234567.8, 1, "1,234,567.8"}, {-1234, 0, "-1,234"}, {-123, 0, "-123"}, {0.666, 2, "0.67"}} {
		if got := number(c.x, c.digits); got != c.want {
			t.Errorf("number(%v, %d) = %q, want %q", c.x, c.digits, got, c.want)
		}
	}
}

// A ratio is of medians, against the peer whose median is best, not against whichever happens to be best in each round.
func TestSummarizeComparesMedians(t *testing.T) {
	s := scenario{
		name:     "s",
		metrics:  []metric{{name: "rate"}, {name: "wait", lower: true, digits: 1}},
		variants: []variant{{title: "a"}, {title: "b"}, {title: "c"}},
		goals: []goal{
			{metric: "rate", ours: "a", peers: []string{"b", "c"}, atBest: 2.5},
			{metric: "wait", ours: "a", peers: []string{"b", "c"}, atBest: 0.7},
		},
	}
	rounds := [][]sample{
		{{"rate": 300, "wait": 1}, {"rate": 100, "wait": 2}, {"rate": 50, "wait": 4}},
		{{"rate": 150, "wait": 2}, {"rate": 40, "wait": 9}, {"rate": 50, "wait": 4}},
		{{"rate": 80, "wait": 8}, {"rate": 40, "wait": 10}, {"rate": 20, "wait": 16}},
	}
	r := summarize(s, rounds)
	rate, wait := r.Comparisons[0], r.Comparisons[1]
	if rate.Best != "c" || rate.Ratio != 3 || !*rate.Holds || !slices.Equal(rate.Rounds, []float64{6, 3, 4}) {
		t.Errorf("rate: %+v", rate)
	}
	if wait.Best != "c" || wait.Ratio != 0.5 || !*wait.Holds || !slices.Equal(wait.Rounds, []float64{0.25, 0.5, 0.5}) {
		t.Errorf("wait: %+v", wait)
	}
	if got := r.Rows[1].Medians["rate"]; got != 40 {
		t.Errorf("median of b = %v, want 40", got)
	}
	var text bytes.Buffer
	report{Scenarios: []result{r}}.writeText(&text)
	if want := "3.00 (3.00–6.00) × in rate: a against the better of b / c; goal ≥ 2.5 ×: HOLDS"; !strings.Contains(text.String(), want) {
		t.Errorf("no %q in:\n%s", want, text.String())
	}
}

// What a server does not tell, such as its CPU when it is not ours, is left out and not compared.
func TestSummarizeLeavesOutWhatIsNotKnown(t *testing.T) {
	s := scenario{
		name:     "s",
		metrics:  []metric{{name: "rate"}, {name: "cpu", lower: true}},
		variants: []variant{{title: "a, x"}, {title: "b, x"}, {title: "b, y"}, {title: "b, z"}},
	}
	a, b := entry{title: "a, x"}, []entry{{title: "b, x"}, {title: "b, y"}, {title: "b, z"}}
	s.compare("cpu", 0.4, a, b[0])
	s.compare("rate", 2, a, b...)
	r := summarize(s, [][]sample{{{"rate": 9}, {}, {"rate": 3}, {"rate": 2}}, {{"rate": 9}, {"rate": 1}, {}, {}}})
	if len(r.Comparisons) != 1 || r.Comparisons[0].Best != "b, y" || !slices.Equal(r.Comparisons[0].Rounds, []float64{3}) {
		t.Fatalf("comparisons: %+v", r.Comparisons)
	}
	if got := r.Rows[1].Rounds["cpu"]; got != nil {
		t.Errorf("cpu = %v", got)
	}
	if row := r.Rows[0]; row.Lowest["rate"] != 9 || row.Highest["rate"] != 9 {
		t.Errorf("row = %+v", row)
	}
	var text bytes.Buffer
	report{Scenarios: []result{r}}.writeGoals(&text)
	want := "s, rate: a, x against the best of b, x / y / z   3.00 ×   ≥ 2 ×: HOLDS"
	if !strings.Contains(text.String(), want) {
		t.Errorf("no %q in:\n%s", want, text.String())
	}
}

func TestAtLeast(t *testing.T) {
	for version, want := range map[string]bool{"v22.18.0": true, "v22.17.1": false, "v24.0.0": true, "v20.20.2": false, "nonsense": false} {
		if got := atLeast(version, 22, 18); got != want {
			t.Errorf("atLeast(%q, 22, 18) = %v", version, got)
		}
	}
}
