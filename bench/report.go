package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// report is what a run found; --json prints it as it is.
type report struct {
	Command    string      `json:"command"`
	Conditions []condition `json:"conditions"`
	Scenarios  []result    `json:"scenarios"`
}

type condition struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// result is one scenario after all rounds.
type result struct {
	Name        string       `json:"name"`
	About       string       `json:"about"`
	Rows        []row        `json:"rows"`
	Comparisons []comparison `json:"comparisons"`
	metrics     []metric
}

// row is one variant; the values of a metric stand in the order of the rounds.
type row struct {
	Title   string               `json:"title"`
	Rounds  map[string][]float64 `json:"rounds"`
	Medians map[string]float64   `json:"medians"`
	Lowest  map[string]float64   `json:"lowest"`
	Highest map[string]float64   `json:"highest"`
}

// comparison is a variant's median divided by that of the peer whose median is best, and the same round by round; without
// peers, the value.
type comparison struct {
	Metric string    `json:"metric"`
	Ours   string    `json:"ours"`
	Peers  []string  `json:"peers"` // none: the figures are values
	Best   string    `json:"best,omitempty"`
	Ratio  float64   `json:"ratio"`
	Rounds []float64 `json:"rounds"`
	Goal   float64   `json:"goal,omitempty"` // 0: none set
	Lower  bool      `json:"lower_is_better"`
	Holds  *bool     `json:"holds,omitempty"`
	digits int       // of values
}

// summarize turns the samples of a scenario, by round and variant, into medians and ratios.
func summarize(s scenario, rounds [][]sample) result {
	r := result{Name: s.name, About: s.about, metrics: s.metrics}
	value := func(title, metric string, round int) (float64, bool) { // not everything is measured in every round
		i := slices.IndexFunc(s.variants, func(v variant) bool { return v.title == title })
		x, ok := rounds[round][i][metric]
		return x, ok
	}
	for i, v := range s.variants {
		one := row{Title: v.title, Rounds: map[string][]float64{}, Medians: map[string]float64{}, Lowest: map[string]float64{}, Highest: map[string]float64{}}
		for _, m := range s.metrics {
			for _, round := range rounds {
				if x, ok := round[i][m.name]; ok {
					one.Rounds[m.name] = append(one.Rounds[m.name], x)
				}
			}
			if all := one.Rounds[m.name]; len(all) > 0 {
				one.Medians[m.name], one.Lowest[m.name], one.Highest[m.name] = median(all), slices.Min(all), slices.Max(all)
			}
		}
		r.Rows = append(r.Rows, one)
	}
	for _, g := range s.goals {
		m := s.metrics[slices.IndexFunc(s.metrics, func(m metric) bool { return m.name == g.metric })]
		c := comparison{Metric: g.metric, Ours: g.ours, Peers: g.peers, Goal: g.atBest, Lower: m.lower, digits: m.digits}
		mine := r.row(g.ours)
		if mine.Rounds[g.metric] == nil {
			continue // what was not measured, such as what this server does not tell
		}
		c.Ratio = mine.Medians[g.metric]
		for _, p := range g.peers {
			better := c.Best == "" || m.lower == (r.row(p).Medians[g.metric] < r.row(c.Best).Medians[g.metric])
			if r.row(p).Rounds[g.metric] != nil && better {
				c.Best = p
			}
		}
		if c.Best == "" && len(g.peers) > 0 {
			continue
		}
		if c.Best != "" {
			c.Ratio /= r.row(c.Best).Medians[g.metric]
		}
		for round := range rounds {
			x, ok := value(g.ours, g.metric, round)
			y, both := 1.0, true
			if c.Best != "" {
				y, both = value(c.Best, g.metric, round)
			}
			if ok && both {
				c.Rounds = append(c.Rounds, x/y)
			}
		}
		if g.atBest != 0 {
			holds := c.Ratio >= g.atBest
			if m.lower {
				holds = c.Ratio <= g.atBest
			}
			c.Holds = &holds
		}
		r.Comparisons = append(r.Comparisons, c)
	}
	return r
}

func (r result) row(title string) row {
	return r.Rows[slices.IndexFunc(r.Rows, func(o row) bool { return o.Title == title })]
}

func (r report) writeJSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(r)
}

func (r report) writeText(w io.Writer) {
	for _, s := range r.Scenarios {
		s.writeText(w)
	}
	fmt.Fprintln(w, "Conditions")
	width := 0
	for _, c := range r.Conditions {
		width = max(width, len(c.Name))
	}
	for _, c := range r.Conditions {
		fmt.Fprintf(w, "  %-*s  %s\n", width, c.Name, c.Value)
	}
}

// writeGoals lists the goals of all scenarios and whether they hold.
func (r report) writeGoals(w io.Writer) {
	var table [][]string
	for _, s := range r.Scenarios {
		for _, c := range s.Comparisons {
			if c.Holds != nil {
				table = append(table, []string{s.Name + ", " + c.Metric + ": " + c.Ours + c.than(), c.figures(), strings.TrimPrefix(c.verdict(), "; goal ")})
			}
		}
	}
	if table == nil {
		return
	}
	fmt.Fprint(w, "Goals\n\n")
	writeTable(w, table)
	fmt.Fprintln(w)
}

func (s result) writeText(w io.Writer) {
	fmt.Fprintf(w, "%s: %s\n\n", s.Name, s.About)
	table := [][]string{{""}}
	for _, m := range s.metrics {
		table[0] = append(table[0], m.name)
	}
	for _, r := range s.Rows {
		line := []string{r.Title}
		for _, m := range s.metrics {
			line = append(line, spread(r.Medians[m.name], r.Rounds[m.name], m.digits))
		}
		table = append(table, line)
	}
	writeTable(w, table)
	fmt.Fprintln(w)
	for _, c := range s.Comparisons {
		in := " in"
		if len(c.Peers) == 0 {
			in = ""
		}
		fmt.Fprintf(w, "  %s%s %s: %s%s%s\n", c.figures(), in, c.Metric, c.Ours, c.than(), c.verdict())
	}
	fmt.Fprintln(w)
}

func (c comparison) figures() string {
	if len(c.Peers) == 0 {
		return spread(c.Ratio, c.Rounds, c.digits)
	}
	return spread(c.Ratio, c.Rounds, 2) + " ×"
}

func (c comparison) than() string {
	switch len(c.Peers) {
	case 0:
		return ""
	case 1:
		return " against " + c.Peers[0]
	}
	// What the titles have in common is said once.
	common := c.Peers[0][:strings.LastIndex(c.Peers[0], ", ")+1]
	than, text := " against the better of ", c.Peers[0]
	if len(c.Peers) > 2 {
		than = " against the best of "
	}
	for _, p := range c.Peers[1:] {
		if common != "" {
			p = strings.TrimPrefix(p, common+" ")
		}
		text += " / " + p
	}
	return than + text
}

func (c comparison) verdict() string {
	if c.Holds == nil {
		return ""
	}
	sign, answer := "≥", "HOLDS"
	if c.Lower {
		sign = "≤"
	}
	if !*c.Holds {
		answer = "MISSED"
	}
	if len(c.Peers) == 0 {
		return fmt.Sprintf("; goal %s %s: %s", sign, number(c.Goal, c.digits), answer)
	}
	return fmt.Sprintf("; goal %s %g ×: %s", sign, c.Goal, answer)
}

// spread is a figure with the lowest and the highest value of the rounds.
func spread(figure float64, values []float64, digits int) string {
	if len(values) == 0 {
		return "–"
	}
	text := number(figure, digits)
	if len(values) > 1 {
		text += " (" + number(slices.Min(values), digits) + "–" + number(slices.Max(values), digits) + ")"
	}
	return text
}

// number writes thousands with a separator.
func number(x float64, digits int) string {
	text := strconv.FormatFloat(x, 'f', digits, 64)
	whole, rest, _ := strings.Cut(text, ".")
	for i := len(whole) - 3; i > 0 && whole[i-1] != '-'; i -= 3 {
		whole = whole[:i] + "," + whole[i:]
	}
	if rest != "" {
		return whole + "." + rest
	}
	return whole
}

func writeTable(w io.Writer, table [][]string) {
	widths := make([]int, len(table[0]))
	for _, line := range table {
		for i, cell := range line {
			widths[i] = max(widths[i], len([]rune(cell)))
		}
	}
	for _, line := range table {
		var b strings.Builder
		for i, cell := range line {
			pad := strings.Repeat(" ", widths[i]-len([]rune(cell)))
			if i == 0 {
				b.WriteString("  " + cell + pad)
			} else {
				b.WriteString("   " + pad + cell)
			}
		}
		fmt.Fprintln(w, strings.TrimRight(b.String(), " "))
	}
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	if n%2 == 1 {
		return sorted[n/2]
	}
	return (sorted[n/2-1] + sorted[n/2]) / 2
}

// percentile is the smallest of the sorted values that p percent of them do not exceed.
func percentile[T cmp.Ordered](sorted []T, p int) T {
	return sorted[max(0, (len(sorted)*p+99)/100-1)]
}
