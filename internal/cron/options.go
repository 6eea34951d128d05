package cron

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

const (
	maxName   = 128 // bytes of a task's or a queue's name: a job could not be added with a longer one
	maxPeriod = 100 * 365 * 24 * time.Hour
)

// settings are the options of one item while they are read.
type settings struct {
	*Item
	zone        *time.Location
	from, until string // read when the zone is known
}

// option is one that a line may have: a value has its shape, and set takes it or says what is wrong with it. Graphile
// Worker accepts some values with which no job can be added, and fails at every tick; here the file is refused.
type option struct {
	key   string
	shape *regexp.Regexp
	set   func(s *settings, value string) (wrong string)
}

var periodShape = regexp.MustCompile(`^(?:[0-9]+[smhdw])+$`)

// options are Graphile Worker's, in its order, and ours.
var options = []option{
	{"id", regexp.MustCompile(`^[_a-zA-Z][-_a-zA-Z0-9]*$`), func(s *settings, v string) string {
		s.Name = v
		return ""
	}},
	{"fill", periodShape, func(s *settings, v string) string { return parsePeriod(v, &s.Fill) }},
	{"max", regexp.MustCompile(`^[0-9]+$`), func(s *settings, v string) string { return parseInt(v, 1, 32767, &s.MaxAttempts) }},
	{"queue", regexp.MustCompile(`^[-a-zA-Z0-9_:]+$`), func(s *settings, v string) string {
		s.Queue = &v
		if len(v) > maxName {
			return fmt.Sprintf("use at most %d characters", maxName)
		}
		return ""
	}},
	{"jobKey", regexp.MustCompile(`^[^\n\r\x{2028}\x{2029}]*$`), func(s *settings, v string) string {
		s.JobKey = &v
		if n := utf8.RuneCountInString(v); n < 1 || n > 512 || strings.ContainsRune(v, 0) {
			return "use 1 to 512 characters, none of them NUL"
		}
		return ""
	}},
	{"jobKeyMode", regexp.MustCompile(`^(?:replace|preserve_run_at)$`), func(s *settings, v string) string {
		s.JobKeyMode = v
		return ""
	}},
	{"priority", regexp.MustCompile(`^-?[0-9]+$`), func(s *settings, v string) string { return parseInt(v, -32768, 32767, &s.Priority) }},

	{"tz", regexp.MustCompile(`^[-+ _/A-Za-z0-9]+$`), func(s *settings, v string) string {
		v = plus(v)
		zone, err := time.LoadLocation(v)
		if err != nil || v == "Local" {
			return "use a name of the time zone database, such as Europe/Berlin, or UTC"
		}
		s.Zone, s.zone = v, zone
		return ""
	}},
	{"jitter", periodShape, func(s *settings, v string) string { return parsePeriod(v, &s.Jitter) }},
	{"from", regexp.MustCompile(`^`), func(s *settings, v string) string {
		s.from = v
		return ""
	}},
	{"until", regexp.MustCompile(`^`), func(s *settings, v string) string {
		s.until = v
		return ""
	}},
	{"overlap", regexp.MustCompile(`^(?:allow|skip)$`), func(s *settings, v string) string {
		s.Overlap = v
		return ""
	}},
	{"catchup", regexp.MustCompile(`^(?:none|one|all|[1-9][0-9]{0,2}|1000)$`), func(s *settings, v string) string {
		s.Catchup = v
		return ""
	}},
}

// options reads what stands behind the question mark.
func (it *Item) options(query string) error {
	s := &settings{Item: it, zone: time.UTC}
	given := map[string]bool{}
	for _, p := range parseQuery(query) {
		if p.twice {
			return it.complain("contains invalid value for '%s', did you specify it more than once?", p.key)
		}
		if err := s.take(p); err != nil {
			return err
		}
		given[p.key] = true
	}
	if given["fill"] && given["catchup"] {
		return it.complain("contains both 'fill' and 'catchup', which say the same in two ways: use one of them.")
	}
	if it.JobKey != nil && it.JobKeyMode == "" {
		it.JobKeyMode = "replace"
	}
	return s.bounds(given["from"], given["until"])
}

func (s *settings) take(p pair) error {
	for _, o := range options {
		if o.key != p.key {
			continue
		}
		if !o.shape.MatchString(p.value) {
			return s.incompatible(p.key, p.value, "")
		}
		if wrong := o.set(s, p.value); wrong != "" {
			return s.incompatible(p.key, p.value, ": "+wrong)
		}
		return nil
	}
	return s.complain("contains unsupported key '%s'; supported keys are: %s.", p.key, supported)
}

var supported = func() string {
	keys := make([]string, len(options))
	for i, o := range options {
		keys[i] = "'" + o.key + "'"
	}
	return strings.Join(keys, ", ")
}()

func (it *Item) complain(format string, args ...any) error {
	return failf("Options on line %d of crontab %s", it.Line, fmt.Sprintf(format, args...))
}

func (it *Item) incompatible(key, value, why string) error {
	return it.complain("contains invalid value for '%s', value '%s' is not compatible with this option%s.", key, value, why)
}

// bounds reads from and until: moments, or dates in the item's zone.
func (s *settings) bounds(from, until bool) error {
	const wrong = ": use a date, 2030-12-31, or a time, 2030-12-31T18:00:00Z"
	var ok bool
	if s.From, ok = s.moment(s.from, 0); from && !ok {
		return s.incompatible("from", s.from, wrong)
	}
	if s.Until, ok = s.moment(s.until, 1); until && !ok {
		return s.incompatible("until", s.until, wrong)
	}
	if from && until && s.Until.Before(s.From) {
		return s.incompatible("until", s.until, ": it is before 'from'")
	}
	return nil
}

// moment reads a time, or a date: its first moment, or its last second when days is 1.
func (s *settings) moment(text string, days int64) (time.Time, bool) {
	if date, err := time.Parse(time.DateOnly, text); err == nil {
		look := search{Expression: &Expression{zone: s.zone}}
		return time.Unix(look.moment(date.Unix()+days*day)-days, 0).In(s.zone), true
	}
	at, err := time.Parse(time.RFC3339, plus(text))
	return at, err == nil
}

// plus undoes what query strings do to the signs in 18:00:00+02:00 and Etc/GMT+5, which hold no spaces.
func plus(text string) string { return strings.ReplaceAll(text, " ", "+") }

func parseInt(text string, least, most int, to **int) string {
	n, err := strconv.Atoi(text)
	*to = &n
	if err != nil || n < least || n > most {
		return fmt.Sprintf("use %d to %d", least, most)
	}
	return ""
}

// parsePeriod adds up a period such as 4w3d2h1m5s.
func parsePeriod(text string, to *time.Duration) string {
	const tooLong = "use at most 36500d"
	units := map[byte]time.Duration{'s': time.Second, 'm': time.Minute, 'h': time.Hour, 'd': 24 * time.Hour, 'w': 7 * 24 * time.Hour}
	for text != "" {
		i := strings.IndexAny(text, "smhdw")
		n, err := strconv.ParseInt(text[:i], 10, 64)
		unit := units[text[i]]
		if err != nil || n > int64(maxPeriod/unit) {
			return tooLong
		}
		if *to += time.Duration(n) * unit; *to > maxPeriod {
			return tooLong
		}
		text = text[i+1:]
	}
	return ""
}

// pair is a key of a query string with its value.
type pair struct {
	key, value string
	twice      bool
}

// parseQuery reads a query string as Node does, keys in the order in which they come first.
func parseQuery(query string) []pair {
	var pairs []pair
next:
	for text := range strings.SplitSeq(query, "&") {
		if text == "" {
			continue
		}
		key, value, _ := strings.Cut(text, "=")
		p := pair{key: unescape(key), value: unescape(value)}
		for i := range pairs {
			if pairs[i].key == p.key {
				pairs[i].twice = true
				continue next
			}
		}
		pairs = append(pairs, p)
	}
	return pairs
}

// unescape decodes %41 and +, and leaves what is no such sequence as it is.
func unescape(text string) string {
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		c := text[i]
		if c == '+' {
			c = ' '
		} else if c == '%' && i+2 < len(text) {
			if n, err := strconv.ParseUint(text[i+1:i+3], 16, 8); err == nil {
				c = byte(n)
				i += 2
			}
		}
		b.WriteByte(c)
	}
	return strings.ToValidUTF8(b.String(), "\uFFFD")
}
