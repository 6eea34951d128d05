package web

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"maps"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/offstage-dev/offstage/internal/view"
)

// funcs are what templates can call. Links are made here only, so that the base path is in all of them.
func (s *Server) funcs() template.FuncMap {
	all := template.FuncMap{
		"base":     func() string { return s.base },
		"asset":    func(name string) string { return s.base + s.assets.path(name) },
		"url":      s.url,      // {{url "queues" name "pause"}}: /base/queues/<name>/pause
		"query":    query,      // {{query "state" "failed" "task" name}}: ?state=failed&task=…
		"ago":      ago,        // when something was, or will be
		"at":       moment,     // the same, as a date and time
		"num":      number,     // 12,345
		"count":    countOf,    // 10,000+, ≈ 5,480
		"secs":     seconds,    // 1.5 ms, 3 min 20 s
		"percent":  percent,    // of a part and a whole
		"state":    state,      // a state or outcome, with its colour
		"short":    short,      // the first n characters
		"json":     prettyJSON, // indented
		"redact":   func(v json.RawMessage) json.RawMessage { return s.guard.Redact(v) },
		"sql":      s.sqlText, // {{sql "select offstage.pause_queue(%s)" name}}
		"cli":      s.cliText, // {{cli "offstage queues pause %s" name}}
		"dict":     dict,
		"link":     func(path string) template.URL { return template.URL(s.base + path) }, // a path made by jobsURL and its likes
		"line":     func(v any) string { return firstLine(fmt.Sprint(v)) },
		"took":     took,
		"bytes":    bytesOf,
		"clock":    clockTag,
		"local":    localInput,
		"sentence": sentence,
		"rows":     textRows,
		"list":     func(v ...any) []any { return v },
		"plural":   plural,
		"deref":    deref,
		"join":     strings.Join,
		"contains": strings.Contains,
		"in":       inZone, // a time in a zone of its own
		"zero":     zero,   // a number that is pale when it is 0
		"success":  success,
		"pick": func(yes bool, a, b any) any {
			if yes {
				return a
			}
			return b
		},
		"total": func(list []int64) (sum int64) {
			for _, n := range list {
				sum += n
			}
			return sum
		},
		"problemPage": s.problemPage,
		"stepWords":   stepWords,
		"age":         age, // how long something has lasted
		"once":        once,
		"remedy":      remedyLines,
		"live": func(topic string, pairs ...any) (string, error) {
			q, err := query(pairs...)
			return topic + string(q), err
		},
	}
	maps.Copy(all, chartFuncs())
	return all
}

// remedyLine is a part of what is to be done: words, or a command to be copied.
type remedyLine struct{ Text, Kind string } // Kind is SQL, CLI, or "" for words

// remedyLines are the parts of a remedy: the words between commands without the punctuation that held them together.
func remedyLines(remedy string) (lines []remedyLine) {
	parts := view.RemedyParts(remedy)
	for i, p := range parts {
		switch {
		case p.Code && strings.HasPrefix(p.Text, "offstage "):
			lines = append(lines, remedyLine{p.Text, "CLI"})
			continue
		case p.Code:
			lines = append(lines, remedyLine{p.Text, "SQL"})
			continue
		}
		text := p.Text
		if i > 0 {
			text = strings.TrimLeft(text, " ;,.")
		}
		if i == len(parts)-1 {
			text = sentence(text)
		} else if first, size := utf8.DecodeRuneInString(text); i == 0 && size > 0 {
			text = string(unicode.ToUpper(first)) + text[size:]
		}
		if text = strings.TrimSpace(text); text != "" {
			lines = append(lines, remedyLine{text, ""})
		}
	}
	return lines
}

// once is the key of a form that adds something: however often it is sent, it adds that once.
func once() string {
	key := make([]byte, 16)
	rand.Read(key) // never fails
	return hex.EncodeToString(key)
}

// url is a path below the base path. Each part is one segment, whatever it is made of.
func (s *Server) url(parts ...any) template.URL {
	var b strings.Builder
	b.WriteString(s.base)
	for _, p := range parts {
		b.WriteString("/")
		b.WriteString(segment(fmt.Sprint(deref(p))))
	}
	if len(parts) == 0 {
		b.WriteString("/")
	}
	return template.URL(b.String())
}

// segment writes a name so that it is one segment of a path for everybody: browsers take . and .. away, also escaped, "" would be
// none, and the mux takes a slash alone for the end of the path.
func segment(name string) string {
	if name == "" || name == "." || name == ".." || name == "/" || strings.HasPrefix(name, "~") {
		name = "~" + name
	}
	return url.PathEscape(name)
}

// named is the name in the path of a request: see segment.
func named(r *http.Request, part string) string {
	return strings.TrimPrefix(r.PathValue(part), "~")
}

func query(pairs ...any) (template.URL, error) {
	if len(pairs)%2 != 0 {
		return "", errors.New("query needs pairs")
	}
	v := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		if text := fmt.Sprint(deref(pairs[i+1])); text != "" {
			v.Set(fmt.Sprint(pairs[i]), text)
		}
	}
	if len(v) == 0 {
		return "?", nil
	}
	return template.URL("?" + v.Encode()), nil
}

func dict(pairs ...any) (map[string]any, error) {
	if len(pairs)%2 != 0 {
		return nil, errors.New("dict needs pairs")
	}
	m := map[string]any{}
	for i := 0; i < len(pairs); i += 2 {
		m[fmt.Sprint(pairs[i])] = pairs[i+1]
	}
	return m, nil
}

// deref is what a pointer points to, "" for nil.
func deref(v any) any {
	switch p := v.(type) {
	case *string:
		if p == nil {
			return ""
		}
		return *p
	case *int:
		if p == nil {
			return ""
		}
		return *p
	case *int64:
		if p == nil {
			return ""
		}
		return *p
	case *float64:
		if p == nil {
			return ""
		}
		return *p
	case *float32:
		if p == nil {
			return ""
		}
		return *p
	}
	return v
}

func timeOf(v any) (time.Time, bool) {
	switch t := v.(type) {
	case time.Time:
		return t, !t.IsZero()
	case *time.Time:
		if t != nil {
			return *t, !t.IsZero()
		}
	}
	return time.Time{}, false
}

// ago is a <time> that the module keeps fresh: "3 min ago", "in 2 h"; the exact time is its title.
func ago(v any) template.HTML {
	t, ok := timeOf(v)
	if !ok {
		return `<span class="none">never</span>`
	}
	return timeTag(t, relative(time.Since(t)), "ago")
}

// age is how long something has lasted: "3 min".
func age(v any) template.HTML {
	t, ok := timeOf(v)
	if !ok {
		return `<span class="none">–</span>`
	}
	text := relative(time.Since(t))
	if text == "just now" || text == "now" {
		text = "0 s"
	}
	return timeTag(t, strings.TrimSuffix(text, " ago"), "age")
}

// moment is a <time> with date and time of UTC, which the module writes in the zone of the reader.
func moment(v any) template.HTML {
	t, ok := timeOf(v)
	if !ok {
		return `<span class="none">–</span>`
	}
	return timeTag(t, t.UTC().Format("2006-01-02 15:04:05"), "at")
}

func timeTag(t time.Time, text, kind string) template.HTML {
	t = t.UTC()
	return template.HTML(fmt.Sprintf(`<time datetime="%s" title="%s UTC" data-time="%s">%s</time>`,
		t.Format("2006-01-02T15:04:05.000Z"), t.Format("2006-01-02 15:04:05.000"), kind, text))
}

// relative is how long ago something was; negative: how far it is ahead. It is rounded to what it says, not cut off, and says two units where one
// would be far from true: an hour and 59 minutes are not one hour. The module's function of the same name agrees.
func relative(d time.Duration) string {
	ahead := d < 0
	if ahead {
		d = -d
	}
	in := func(unit time.Duration) int { return int((d + unit/2) / unit) }
	two := func(n, per int, a, b string) string {
		if n%per == 0 {
			return fmt.Sprintf("%d %s", n/per, a)
		}
		return fmt.Sprintf("%d %s %d %s", n/per, a, n%per, b)
	}
	const day = 24 * time.Hour
	var text string
	switch {
	case d < time.Second && ahead:
		return "now"
	case d < time.Second:
		return "just now"
	case in(time.Second) < 100:
		text = fmt.Sprintf("%d s", in(time.Second))
	case in(time.Minute) < 100:
		text = fmt.Sprintf("%d min", in(time.Minute))
	case in(time.Minute) < 10*60:
		text = two(in(time.Minute), 60, "h", "min")
	case in(time.Hour) < 48:
		text = fmt.Sprintf("%d h", in(time.Hour))
	case in(time.Hour) < 10*24:
		text = two(in(time.Hour), 24, "days", "h")
	case in(day) < 1000:
		text = fmt.Sprintf("%d days", in(day))
	default:
		text = fmt.Sprintf("%.1f years", d.Hours()/24/365.25)
	}
	if ahead {
		return "in " + text
	}
	return text + " ago"
}

// seconds is a duration, to two or three digits.
func seconds(v any) string {
	var s float64
	switch n := v.(type) {
	case float64:
		s = n
	case int:
		s = float64(n)
	case *float64:
		if n == nil {
			return "–"
		}
		s = *n
	case time.Duration:
		s = n.Seconds()
	default:
		return "–"
	}
	digits := func(x float64, unit string) string {
		if x < 9.95 {
			return strings.TrimSuffix(strconv.FormatFloat(x, 'f', 1, 64), ".0") + " " + unit
		}
		return strconv.FormatFloat(math.Round(x), 'f', 0, 64) + " " + unit
	}
	two := func(whole, rest int, a, b string) string {
		if rest == 0 {
			return fmt.Sprintf("%d %s", whole, a)
		}
		return fmt.Sprintf("%d %s %d %s", whole, a, rest, b)
	}
	n := int(math.Round(s))
	switch {
	case s < 0:
		return "0 ms"
	case s < 0.9995:
		return digits(s*1000, "ms")
	case s < 99.5:
		return digits(s, "s")
	case n < 3600:
		return two(n/60, n%60, "min", "s")
	case n < 48*3600:
		return two(n/3600, n%3600/60, "h", "min")
	}
	return two(n/86400, n%86400/3600, "days", "h")
}

// number groups the digits of a whole number.
func number(v any) string {
	var n int64
	switch x := deref(v).(type) {
	case int:
		n = int64(x)
	case int64:
		n = x
	case view.ID:
		n = int64(x)
	case float64:
		n = int64(math.Round(x))
	default:
		return fmt.Sprint(x)
	}
	text := strconv.FormatInt(n, 10)
	sign := ""
	if n < 0 {
		sign, text = "-", text[1:]
	}
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return sign + text
}

func countOf(c view.Count) string {
	switch {
	case c.More:
		return number(c.N) + "+"
	case c.About:
		return "≈ " + number(c.N)
	}
	return number(c.N)
}

func percent(part, whole int64) string {
	switch {
	case whole == 0:
		return "–"
	case part == whole:
		return "100 %"
	}
	p := 100 * float64(part) / float64(whole)
	if p > 99.9 {
		p = 99.9 // not all of them
	}
	if p < 10 || p > 90 {
		return strconv.FormatFloat(p, 'f', 1, 64) + " %"
	}
	return strconv.FormatFloat(p, 'f', 0, 64) + " %"
}

// words with a colour of their own; all else looks neutral.
var stateWords = map[string]bool{
	"scheduled": true, "waiting": true, "parked": true, "paused": true, "running": true, "failed": true,
	"succeeded": true, "cancelled": true, "removed": true, "completed": true,
	"retried": true, "snoozed": true, "released": true, "rescued": true, "refused": true,
	"alive": true, "silent": true, "draining": true, "stopping": true, "gone": true, "open": true, "active": true, "overdue": true, "critical": true, "warning": true,
}

// state is a word with a coloured dot.
func state(word any) template.HTML {
	text := fmt.Sprint(deref(word))
	class := "other"
	if stateWords[text] {
		class = text
	}
	return template.HTML(`<span class="state s-` + class + `">` + template.HTMLEscapeString(text) + `</span>`)
}

func short(n int, v any) string {
	text := fmt.Sprint(deref(v))
	if len(text) <= n {
		return text
	}
	runes := []rune(text)
	if len(runes) <= n {
		return text
	}
	return string(runes[:n]) + "…"
}

func prettyJSON(v any) string {
	raw, ok := v.(json.RawMessage)
	if ok && len(raw) == 0 {
		return ""
	}
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return string(raw)
	}
	return string(text)
}

func plural(n any, one, many string) string {
	if number(n) == "1" {
		return "1 " + one
	}
	return number(n) + " " + many
}

func inZone(t time.Time, zone string) template.HTML {
	at, err := time.LoadLocation(zone)
	if err != nil {
		at = time.UTC
	}
	return template.HTML(fmt.Sprintf(`<time datetime="%s" title="%s UTC">%s</time>`, t.UTC().Format("2006-01-02T15:04:05.000Z"), t.UTC().Format("2006-01-02 15:04:05"),
		t.In(at).Format("Mon 2 Jan 2006 15:04:05 -07:00")))
}

func zero(v any) template.HTML {
	text := number(v)
	if text == "0" {
		return `<span class="none">0</span>`
	}
	return template.HTML(template.HTMLEscapeString(text))
}

// success is the share of attempts that did what they should, of those that had a say in it.
func success(p view.Point) string { return percent(p.Succeeded, p.Succeeded+p.Retried+p.Failed) }

func stepWords(st view.Statistics) string {
	switch st.Step {
	case time.Minute:
		return "by the minute, UTC"
	case time.Hour:
		return "by the hour, UTC"
	}
	return "by two hours, UTC"
}

// problemPage is where to look at a problem.
func (s *Server) problemPage(p view.Problem) template.URL {
	switch p.Page {
	case "tasks", "queues", "schedules":
		if p.Subject != "" {
			return s.url(p.Page, p.Subject)
		}
		return s.url(p.Page)
	case "errors":
		if p.Subject != "" {
			q, _ := query("task", p.Subject) // pairs are pairs
			return s.url("errors") + q
		}
		return s.url("errors")
	case "jobs", "workers":
		return s.url(p.Page)
	}
	return ""
}

// sqlText is a statement for psql: each %s is a quoted literal. The schema's name is put in before the names are.
func (s *Server) sqlText(format string, args ...any) string {
	if s.cfg.Schema != "offstage" {
		format = strings.NewReplacer("offstage_private.", s.cfg.Schema+"_private.", "offstage.", s.cfg.Schema+".").Replace(format)
	}
	for i, a := range args {
		args[i] = sqlLiteral(fmt.Sprint(deref(a)))
	}
	return fmt.Sprintf(format, args...)
}

func sqlLiteral(text string) string {
	quoted := "'" + strings.ReplaceAll(text, "'", "''") + "'"
	if strings.Contains(text, `\`) {
		quoted = "E" + strings.ReplaceAll(quoted, `\`, `\\`)
	}
	return quoted
}

// cliText is a command for a shell: each %s is one word of it.
func (s *Server) cliText(format string, args ...any) string {
	for i, a := range args {
		args[i] = shellWord(fmt.Sprint(deref(a)))
	}
	text := fmt.Sprintf(format, args...)
	if s.cfg.Schema != "offstage" {
		text += " --schema " + s.cfg.Schema
	}
	return text
}

func shellWord(text string) string {
	plain := text != "" && !strings.HasPrefix(text, "-")
	for _, c := range text {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("_-./:@%+,", c)) {
			plain = false
		}
	}
	if plain {
		return text
	}
	quoted := "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
	return quoted
}

// pathTo is url without the base path: where act leads back to.
func pathTo(parts ...string) string {
	var b strings.Builder
	for _, p := range parts {
		b.WriteString("/" + segment(p))
	}
	return b.String()
}
