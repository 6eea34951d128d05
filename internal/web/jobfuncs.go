package web

import (
	"fmt"
	"html/template"
	"strings"
	"time"
)

// took is the time between two moments that may be unknown.
func took(from, to any) string {
	a, ok := timeOf(from)
	b, also := timeOf(to)
	if !ok || !also {
		return "–"
	}
	return seconds(b.Sub(a))
}

// clockTag is a time of day with milliseconds, for lines of a log; its title is the whole.
func clockTag(t time.Time) template.HTML {
	t = t.UTC()
	return template.HTML(fmt.Sprintf(`<time datetime="%s" title="%s UTC">%s</time>`, t.Format("2006-01-02T15:04:05.000Z"), t.Format("2006-01-02 15:04:05.000"), t.Format("15:04:05.000")))
}

// localInput is a moment as an input for date and time has it: in the zone of this server.
func localInput(v any) string {
	t, ok := timeOf(v)
	if !ok {
		return ""
	}
	return t.Local().Format("2006-01-02T15:04:05")
}

// textRows is how high a field for a text should be.
func textRows(text string) int { return min(max(strings.Count(text, "\n")+2, 8), 32) }
