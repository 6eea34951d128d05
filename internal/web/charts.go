package web

import (
	"html/template"
	"net/url"
	"time"

	"github.com/offstage-dev/offstage/internal/view"
	"github.com/offstage-dev/offstage/internal/web/chart"
)

// chartFuncs draw what the statistics say.
func chartFuncs() template.FuncMap {
	return template.FuncMap{
		"ended":    endedChart,
		"times":    timesChart,
		"quantile": func(h view.Histogram, q float64) *float64 { return h.Quantile(q) },
		"pair": func(h view.Histogram) template.HTML { // p50 · p95
			if h.Total() == 0 {
				return `<span class="none">–</span>`
			}
			return template.HTML(template.HTMLEscapeString(seconds(h.Quantile(0.5)) + " · " + seconds(h.Quantile(0.95))))
		},
		"spark": sparkOf,
		"bar": func(part int64, whole int, about string) template.HTML {
			return chart.Bar(float64(part), float64(whole), about)
		},
	}
}

// endedChart is what ended in each step.
func endedChart(s view.Statistics, title, id string) chart.Bars {
	b := chart.Bars{Title: title, Unit: "attempts", Step: s.Step, ID: id, Series: []chart.Series{
		{Name: "succeeded", Class: "c-ok"}, {Name: "to be retried", Class: "c-retried"}, {Name: "failed", Class: "c-bad"}, {Name: "other", Class: "c-other"},
	}}
	for _, p := range s.Points {
		b.Starts = append(b.Starts, p.At)
		for i, n := range []int64{p.Succeeded, p.Retried, p.Failed, p.Other} {
			b.Series[i].Values = append(b.Series[i].Values, float64(n))
		}
	}
	return b
}

// timesChart is how waiting and running are spread, without the buckets at both ends that nothing is in.
func timesChart(s view.Statistics, title, id string) chart.Histogram {
	h := chart.Histogram{Title: title, Unit: "jobs", ID: id, Series: []chart.Series{{Name: "waited", Class: "c-second"}, {Name: "ran", Class: "c-accent"}}}
	at := func(h view.Histogram, i int) int64 {
		if i < len(h) {
			return h[i]
		}
		return 0
	}
	first, last := -1, -1
	for i := range max(len(s.Waits), len(s.Runs)) {
		if at(s.Waits, i)+at(s.Runs, i) > 0 {
			if first < 0 {
				first = i
			}
			last = i
		}
	}
	if first < 0 {
		return h
	}
	// A few more, so that one bucket does not fill the whole width.
	for last-first < 7 {
		if last < 28 {
			last++
		}
		if first > 0 {
			first--
		}
	}
	for i := first; i <= last; i++ {
		h.Labels = append(h.Labels, bound(i))
		h.Series[0].Values = append(h.Series[0].Values, float64(at(s.Waits, i)))
		h.Series[1].Values = append(h.Series[1].Values, float64(at(s.Runs, i)))
	}
	return h
}

// bound is where a bucket ends, in few letters. Bounds are powers of two of a millisecond; nobody minds 1024 ms being called 1 s.
func bound(bucket int) string {
	if bucket >= 28 {
		return "more"
	}
	s := view.Bound(bucket)
	switch {
	case s < 1:
		return seconds(s)
	case s < 60:
		return seconds(time.Duration(s * float64(time.Second)).Round(time.Second))
	case s < 3600:
		return seconds(time.Duration(s * float64(time.Second)).Round(time.Minute))
	}
	return seconds(time.Duration(s * float64(time.Second)).Round(time.Hour))
}

func sparkOf(values []int64, about string) template.HTML {
	list := make([]float64, len(values))
	for i, v := range values {
		list[i] = float64(v)
	}
	return chart.Spark(list, about)
}

// windowOf is the window of time that a page is asked for, as arguments of its topic.
func windowOf(args url.Values) string { return view.Window(args.Get("window")) }
