// Package chart draws small charts as SVG, as wide as there is room: what is across is in percent, what is up in pixels, so that
// letters and lines stay as they are on a phone and on a wall. What they look like is for the stylesheet: a chart has classes and no colours. Each has
// a title and a description for those who do not see it, and Table has the same numbers.
package chart

import (
	"fmt"
	"html/template"
	"math"
	"strconv"
	"strings"
	"time"
)

// Series is one of the things that a chart shows of each step.
type Series struct {
	Name   string
	Class  string // of its bars
	Values []float64
}

// Bars are stacked bars, one for each step of time.
type Bars struct {
	Title  string
	Unit   string      // what is counted: "jobs"
	Starts []time.Time // of the steps
	Step   time.Duration
	Series []Series // from the bottom up
	Height int      // in pixels; default 200
	ID     string   // of this chart on the page: for its title
}

// The labels of the values stand left of the drawing, in the padding that the stylesheet gives it.
const (
	bottom = 22 // for the labels of the times
	top    = 8
)

// SVG is the drawing.
func (b Bars) SVG() template.HTML {
	height := orElse(b.Height, 200)
	n := len(b.Starts)
	sums := make([]float64, n)
	for _, s := range b.Series {
		for i, v := range s.Values {
			sums[i] += v
		}
	}
	highest := 0.0
	total := 0.0
	for _, v := range sums {
		highest = max(highest, v)
		total += v
	}
	ticks := scale(highest)
	ceiling := ticks[len(ticks)-1]
	plot := float64(height - top - bottom)
	y := func(v float64) float64 { return float64(top) + plot*(1-v/ceiling) }
	var w strings.Builder
	open(&w, height, b.ID, b.Title, b.describe(sums, total))
	lines(&w, ticks, y)
	if total == 0 {
		nothing(&w, plot)
	}
	if n > 0 {
		slot := 100 / float64(n)
		gap := slot * 0.16
		for i, start := range b.Starts {
			x := slot * float64(i)
			base := 0.0
			var parts []string
			for _, s := range b.Series {
				v := s.Values[i]
				if v <= 0 {
					continue
				}
				h := max(plot*v/ceiling, 1) // the least of it must be seen
				from := y(base) - h
				base += v
				fmt.Fprintf(&w, `<rect class="%s" x="%s%%" y="%s" width="%s%%" height="%s"/>`, s.Class, px(x+gap/2), px(max(from, 0)), px(slot-gap), px(h))
				parts = append(parts, fmt.Sprintf("%s %s", Short(v), s.Name))
			}
			if len(parts) > 0 {
				fmt.Fprintf(&w, `<rect class="hit" x="%s%%" y="%d" width="%s%%" height="%s"><title>%s: %s</title></rect>`, px(x), top, px(slot), px(plot),
					template.HTMLEscapeString(clock(start, b.Step)), template.HTMLEscapeString(strings.Join(parts, ", ")))
			}
		}
		for k, i := range timeTicks(b.Starts, b.Step, 12) {
			x := slot * float64(i)
			fmt.Fprintf(&w, `<text class="%s" x="%s%%" y="%d" text-anchor="%s">%s</text>`, pick(k%2 == 0, "tick", "tick odd"), px(x), height-6,
				pick(x > 97, "end", "middle"), clock(b.Starts[i], b.Step))
		}
	}
	w.WriteString("</svg>")
	return template.HTML(w.String())
}

func (b Bars) describe(sums []float64, total float64) string {
	if total == 0 || len(sums) == 0 {
		return "There is nothing in this time."
	}
	at := 0
	for i, v := range sums {
		if v > sums[at] {
			at = i
		}
	}
	var parts []string
	for _, s := range b.Series {
		sum := 0.0
		for _, v := range s.Values {
			sum += v
		}
		parts = append(parts, fmt.Sprintf("%s %s", Short(sum), s.Name))
	}
	return fmt.Sprintf("%s. The most were %s %s at %s UTC.", strings.Join(parts, ", "), Short(sums[at]), b.Unit, clock(b.Starts[at], b.Step))
}

// Table is the same as rows, the newest first, without the steps in which nothing was.
func (b Bars) Table() template.HTML {
	var w strings.Builder
	w.WriteString(`<table><thead><tr><th>Time (UTC)</th>`)
	for _, s := range b.Series {
		fmt.Fprintf(&w, `<th class="num">%s</th>`, template.HTMLEscapeString(s.Name))
	}
	w.WriteString(`</tr></thead><tbody>`)
	rows := 0
	for i := len(b.Starts) - 1; i >= 0; i-- {
		sum := 0.0
		for _, s := range b.Series {
			sum += s.Values[i]
		}
		if sum == 0 {
			continue
		}
		rows++
		fmt.Fprintf(&w, `<tr><td>%s</td>`, b.Starts[i].UTC().Format("2006-01-02 15:04"))
		for _, s := range b.Series {
			fmt.Fprintf(&w, `<td class="num">%s</td>`, strconv.FormatFloat(s.Values[i], 'f', -1, 64))
		}
		w.WriteString(`</tr>`)
	}
	if rows == 0 {
		fmt.Fprintf(&w, `<tr><td colspan="%d">nothing in this time</td></tr>`, len(b.Series)+1)
	}
	w.WriteString(`</tbody></table>`)
	return template.HTML(w.String())
}

// Histogram compares how two things are spread over the same buckets, side by side.
type Histogram struct {
	Title  string
	Unit   string
	Labels []string // of where each bucket ends
	Series []Series
	Height int // in pixels; default 180
	ID     string
}

// SVG is the drawing.
func (h Histogram) SVG() template.HTML {
	height := orElse(h.Height, 180)
	highest := 0.0
	for _, s := range h.Series {
		for _, v := range s.Values {
			highest = max(highest, v)
		}
	}
	ticks := scale(highest)
	ceiling := ticks[len(ticks)-1]
	plot := float64(height - top - bottom)
	var parts []string
	for _, s := range h.Series {
		most, at := 0.0, 0
		for i, v := range s.Values {
			if v > most {
				most, at = v, i
			}
		}
		if most > 0 {
			parts = append(parts, fmt.Sprintf("%s: the most were below %s", s.Name, h.Labels[at]))
		}
	}
	about := "There is nothing in this time."
	if len(parts) > 0 {
		about = strings.Join(parts, "; ") + "."
	}
	var w strings.Builder
	open(&w, height, h.ID, h.Title, about)
	lines(&w, ticks, func(v float64) float64 { return float64(top) + plot*(1-v/ceiling) })
	if highest == 0 {
		nothing(&w, plot)
	}
	if n := len(h.Labels); n > 0 {
		slot := 100 / float64(n)
		bar := slot * 0.8 / float64(max(len(h.Series), 1))
		every := int(math.Ceil(float64(n) / 8))
		for i, label := range h.Labels {
			x := slot * float64(i)
			for k, s := range h.Series {
				if v := s.Values[i]; v > 0 {
					height := max(plot*v/ceiling, 1)
					fmt.Fprintf(&w, `<rect class="%s" x="%s%%" y="%s" width="%s%%" height="%s"><title>%s: %s below %s</title></rect>`, s.Class,
						px(x+slot*0.1+bar*float64(k)), px(float64(top)+plot-height), px(bar), px(height), template.HTMLEscapeString(s.Name), Short(v), template.HTMLEscapeString(label))
				}
			}
			if (n-1-i)%every == 0 { // where the bucket ends
				fmt.Fprintf(&w, `<text class="%s" x="%s%%" y="%d" text-anchor="%s">%s</text>`, pick((n-1-i)/every%2 == 0, "tick", "tick odd"), px(x+slot), height-6,
					pick(i == n-1, "end", "middle"), template.HTMLEscapeString(label))
			}
		}
	}
	w.WriteString("</svg>")
	return template.HTML(w.String())
}

// nothing says that a chart is empty, and not broken.
func nothing(w *strings.Builder, plot float64) {
	fmt.Fprintf(w, `<text class="nothing" x="50%%" y="%s" text-anchor="middle" aria-hidden="true">nothing in this time</text>`, px(float64(top)+plot/2+4))
}

// Table is the same as rows.
func (h Histogram) Table() template.HTML {
	var w strings.Builder
	w.WriteString(`<table><thead><tr><th>Below</th>`)
	for _, s := range h.Series {
		fmt.Fprintf(&w, `<th class="num">%s</th>`, template.HTMLEscapeString(s.Name))
	}
	w.WriteString(`</tr></thead><tbody>`)
	for i, label := range h.Labels {
		fmt.Fprintf(&w, `<tr><td>%s</td>`, template.HTMLEscapeString(label))
		for _, s := range h.Series {
			fmt.Fprintf(&w, `<td class="num">%s</td>`, strconv.FormatFloat(s.Values[i], 'f', -1, 64))
		}
		w.WriteString(`</tr>`)
	}
	w.WriteString(`</tbody></table>`)
	return template.HTML(w.String())
}

// Spark is a line without axes, for a row of a table. about says in words what it shows.
func Spark(values []float64, about string) template.HTML {
	const width, height = 120.0, 24.0
	highest := 0.0
	for _, v := range values {
		highest = max(highest, v)
	}
	var w strings.Builder
	fmt.Fprintf(&w, `<svg class="spark" viewBox="0 0 %d %d" width="%d" height="%d" preserveAspectRatio="none" role="img" aria-label="%s"><title>%s</title>`,
		int(width), int(height), int(width), int(height), template.HTMLEscapeString(about), template.HTMLEscapeString(about))
	if n := len(values); n > 1 {
		var line strings.Builder
		for i, v := range values {
			y := height - 1.5
			if highest > 0 {
				y = 1.5 + (height-3)*(1-v/highest)
			}
			fmt.Fprintf(&line, "%s%s %s", pick(i == 0, "M", "L"), px(width*float64(i)/float64(n-1)), px(y))
		}
		fmt.Fprintf(&w, `<path class="area" d="%sL%s %sL0 %sZ"/><path class="line" d="%s"/>`, line.String(), px(width), px(height), px(height), line.String())
	}
	w.WriteString("</svg>")
	return template.HTML(w.String())
}

// Bar is how much of something is taken.
func Bar(part, whole float64, about string) template.HTML {
	share := 0.0
	if whole > 0 {
		share = min(part/whole, 1)
	}
	return template.HTML(fmt.Sprintf(`<svg class="bar" viewBox="0 0 96 6" preserveAspectRatio="none" role="img" aria-label="%s"><title>%s</title><rect class="whole" width="96" height="6" rx="3"/><rect class="part" width="%s" height="6" rx="3"/></svg>`,
		template.HTMLEscapeString(about), template.HTMLEscapeString(about), px(96*share)))
}

func open(w *strings.Builder, height int, id, title, about string) {
	if id == "" {
		id = "chart"
	}
	id = template.HTMLEscapeString(id)
	fmt.Fprintf(w, `<svg class="chart" width="100%%" height="%d" role="img" aria-labelledby="%s-title %s-desc"><title id="%s-title">%s</title><desc id="%s-desc">%s</desc>`,
		height, id, id, id, template.HTMLEscapeString(title), id, template.HTMLEscapeString(about))
}

// lines are those across, with the values that they stand for.
func lines(w *strings.Builder, ticks []float64, y func(float64) float64) {
	for _, t := range ticks {
		fmt.Fprintf(w, `<line class="%s" x1="0" x2="100%%" y1="%s" y2="%s"/>`, pick(t == 0, "axis", "grid-line"), px(y(t)), px(y(t)))
		fmt.Fprintf(w, `<text x="-8" y="%s" text-anchor="end">%s</text>`, px(y(t)+4), Short(t))
	}
}

// scale is where the lines of the values are: 0 and two to five round numbers, the last one above or at the highest.
func scale(highest float64) []float64 {
	if highest <= 0 {
		return []float64{0, 1}
	}
	raw := highest / 3
	unit := math.Pow(10, math.Floor(math.Log10(raw)))
	step := unit
	for _, m := range []float64{1, 2, 5, 10} {
		if step = unit * m; step >= raw {
			break
		}
	}
	step = max(step, 1) // whole things are counted
	ticks := []float64{0}
	for v := step; ; v += step {
		ticks = append(ticks, v)
		if v >= highest {
			return ticks
		}
	}
}

// timeTicks are the steps that get a label: at round times, at most so many.
func timeTicks(starts []time.Time, step time.Duration, most int) []int {
	round := []time.Duration{time.Minute, 5 * time.Minute, 10 * time.Minute, 15 * time.Minute, 30 * time.Minute, time.Hour, 2 * time.Hour, 3 * time.Hour,
		4 * time.Hour, 6 * time.Hour, 12 * time.Hour, 24 * time.Hour, 48 * time.Hour, 7 * 24 * time.Hour}
	for _, r := range round {
		if r < step || int(time.Duration(len(starts))*step/r) > most {
			continue
		}
		var at []int
		for i, s := range starts {
			if s.UTC().Truncate(r).Equal(s.UTC()) {
				at = append(at, i)
			}
		}
		return at
	}
	return nil
}

// clock names a step: 12:05, or, where steps are long, 24 Nov 12:00.
func clock(t time.Time, step time.Duration) string {
	t = t.UTC()
	if step >= time.Hour {
		if t.Hour() == 0 {
			return t.Format("2 Jan")
		}
		return t.Format("2 Jan 15:04")
	}
	return t.Format("15:04")
}

// Short writes a number in few letters: 950, 1.5k, 10k, 2M.
func Short(v float64) string {
	for _, u := range []struct {
		of   float64
		name string
	}{{1e9, "G"}, {1e6, "M"}, {1e3, "k"}} {
		if v >= u.of*0.9995 {
			x := v / u.of
			if x < 9.95 {
				return strings.TrimSuffix(strconv.FormatFloat(x, 'f', 1, 64), ".0") + u.name
			}
			return strconv.FormatFloat(x, 'f', 0, 64) + u.name
		}
	}
	return strconv.FormatFloat(v, 'f', -1, 64)
}

func px(v float64) string {
	return strings.TrimSuffix(strings.TrimRight(strconv.FormatFloat(v, 'f', 2, 64), "0"), ".")
}

func pick(yes bool, a, b string) string {
	if yes {
		return a
	}
	return b
}

func orElse(n, otherwise int) int {
	if n == 0 {
		return otherwise
	}
	return n
}
