package cron

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// Item is one line of a crontab file: at which ticks which job is added.
type Item struct {
	Line       int    // in the file, from 1
	Name       string // of the schedule: ?id=, or the task's; no two items share one
	Task       string
	Expression string // as written, with single spaces
	Zone       string // ?tz=, or UTC
	Payload    json.RawMessage

	// What Graphile Worker knows. Nil and zero: not given.
	Fill        time.Duration
	MaxAttempts *int
	Queue       *string
	JobKey      *string
	JobKeyMode  string // replace (also when only a job key is given) or preserve_run_at
	Priority    *int

	// What it does not.
	Jitter  time.Duration
	From    time.Time // the first moment at which it may tick
	Until   time.Time // the last one: of a date, its last second
	Overlap string    // allow or skip
	Catchup string    // none, one, all or a number; empty when not given
}

// maxLine bounds a line of a crontab file, payload and all.
const maxLine = 64 << 10

// ParseCrontab reads a crontab file. A line is a comment (#), empty, or an expression, a task, options (?id=…&tz=…) and a
// payload in JSON5, the last two optional:
//
//	30 2 * * MON-FRI report ?id=nightly&tz=Europe/Berlin {kind: "sales"}
//
// It has six fields when its seventh word begins like the name of a task. The error is that of the first bad line, in
// the words of Graphile Worker where it refuses the line, too.
func ParseCrontab(text string) ([]Item, error) {
	var items []Item
	n := 0
	for line := range strings.SplitSeq(text, "\n") {
		n++
		line = strings.TrimFunc(line, space)
		if line == "" || line[0] == '#' {
			continue
		}
		item, err := parseLine(line, n)
		if err != nil {
			return nil, err
		}
		items = append(items, item)
	}
	if err := unique(items); err != nil {
		return nil, err
	}
	return items, nil
}

func unique(items []Item) error {
	names := make([]string, len(items))
	for i := range items {
		names[i] = items[i].Name
	}
	slices.Sort(names)
	var twice []string
	for i := 1; i < len(names); i++ {
		if names[i] == names[i-1] {
			twice = append(twice, names[i])
		}
	}
	if twice != nil {
		return failf("Invalid crontab; duplicate identifiers found: '%s' - please use '?id=...' to specify unique identifiers for your cron items",
			strings.Join(twice, "', '"))
	}
	return nil
}

func parseLine(line string, n int) (Item, error) {
	if len(line) > maxLine {
		return Item{}, fmt.Errorf("line %d of crontab has %d bytes, and %d are allowed: keep large data where the task finds it", n, len(line), maxLine)
	}
	if !utf8.ValidString(line) {
		return Item{}, fmt.Errorf("line %d of crontab is not UTF-8: save the file in that encoding", n)
	}
	reason := ""
	fields, command, ok := split(line)
	if ok && fields[0][0] == '@' {
		if _, err := macro(fields[0]); err != nil {
			ok, reason = false, ": "+err.Error()
		}
	}
	if !ok {
		return Item{}, failf("Could not process line '%d' of crontab: '%s'%s", n, line, reason)
	}
	e, err := parse(fields, nil, fmt.Sprintf("line %d of crontab", n), new(int))
	if err != nil {
		return Item{}, err
	}
	item := Item{Line: n, Expression: e.text, Zone: "UTC", Overlap: "allow"}
	return item, item.command(command)
}

// A command is a task, options and a payload.
var commandShape = regexp.MustCompile(`^([_a-zA-Z][_a-zA-Z0-9:/-]*)(?:` + white + `+\?([^` + white[1:] + `+))?(?:` + white + `+(\{.*\}))?$`)

// white is space as a class of a regular expression.
const white = `[\t-\r \x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}\x{feff}]`

func (it *Item) command(text string) error {
	m := commandShape.FindStringSubmatch(text)
	if m == nil {
		return failf("Invalid command specification in line %d of crontab.", it.Line)
	}
	it.Name, it.Task = m[1], m[1]
	if len(it.Task) > maxName {
		return fmt.Errorf("the task on line %d of crontab has a name of %d bytes: use at most %d", it.Line, len(it.Task), maxName)
	}
	if err := it.options(m[2]); err != nil {
		return err
	}
	if m[3] == "" {
		return nil
	}
	var err error
	if it.Payload, err = parseJSON5(m[3]); err != nil {
		return failf("Failed to parse JSON5 payload on line %d of crontab: %s", it.Line, err)
	}
	return nil
}

// split takes a line apart into the fields of its expression and its command.
func split(line string) (fields []string, command string, ok bool) {
	var words, rests []string
	for rest := line; rest != "" && len(words) < 7; {
		word := rest
		if i := strings.IndexFunc(rest, space); i >= 0 {
			word = rest[:i]
		}
		rest = strings.TrimLeftFunc(rest[len(word):], space)
		words, rests = append(words, word), append(rests, rest)
	}
	n := 0
	switch {
	case words[0][0] == '@':
		n = 1
	case len(words) == 7 && taskStart(words[6][0]) && written(kinds[:], words[:6]):
		n = 6
	case len(words) > 5 && written(kinds[1:], words[:5]):
		n = 5
	}
	if n == 0 || rests[n-1] == "" || strings.ContainsAny(rests[n-1], "\r\u2028\u2029") {
		return nil, "", false
	}
	return words[:n], rests[n-1], true
}

func taskStart(c byte) bool { return c == '_' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' }

// written says whether words look like fields; what they mean is checked later, as Graphile Worker does.
func written(of []kind, words []string) bool {
	for i, k := range of {
		for part := range strings.FieldsFuncSeq(words[i], func(r rune) bool { return strings.ContainsRune("0123456789*/,-", r) }) {
			if !slices.ContainsFunc(k.names, func(name string) bool { return strings.EqualFold(name, part) }) {
				return false
			}
		}
	}
	return true
}
