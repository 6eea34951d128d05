// Package cron says when a cron expression is due, and reads crontab files as Graphile Worker does. It has no clock
// and no database: whoever asks brings the time.
//
// # Expressions
//
// Five fields (minute, hour, day of month, month, day of week), six with seconds in front, or @hourly, @daily,
// @midnight, @weekly, @monthly, @yearly, @annually. A field is a list, separated by commas, of numbers, a-b, a-b/n, *
// and */n; steps count from a or from the field's least value. Months may be called JAN to DEC, days of the week SUN to
// SAT, in any case; 7 is Sunday, too, and so is SUN at the end of a range. Where the day of month and the day of week
// both leave something out, either will do. At most 768 bytes.
//
// # Time zones
//
// A tick is a local time of the expression's zone. It is due at the first moment at which the local clock shows that
// time or a later one. So a time that a clock skips when it is put forward is due right after the gap, once, with
// whatever else is due then; and a time that comes twice when the clock is put back is due the first time only.
//
// An expression whose hours are all of them (* or 0-23) means "again and again", not a time of day, and is due whenever
// the local clock shows a time of it: in both passes of a repeated hour, and never within a gap.
package cron

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Expression is a parsed cron expression in a time zone. It does not change and may be shared.
type Expression struct {
	text                                          string
	zone                                          *time.Location
	seconds, minutes, hours, dates, months, wdays set
}

// maxExpression leaves room for every value of six fields, written out, and keeps an Expression below a kilobyte.
const maxExpression = 768

var macros = map[string]string{
	"@hourly":   "0 * * * *",
	"@daily":    "0 0 * * *",
	"@midnight": "0 0 * * *",
	"@weekly":   "0 0 * * 0",
	"@monthly":  "0 0 1 * *",
	"@yearly":   "0 0 1 1 *",
	"@annually": "0 0 1 1 *",
}

// Parse reads a cron expression whose times are those of zone (nil: UTC).
func Parse(expression string, zone *time.Location) (*Expression, error) {
	source := "'" + expression + "'"
	if len(expression) > maxExpression {
		source = fmt.Sprintf("%.40q…", expression)
	}
	e, err := parse(strings.FieldsFunc(expression, space), zone, source, new(int))
	if err != nil {
		return nil, fmt.Errorf("cron expression: %w", err)
	}
	return e, nil
}

// parse reads the fields of an expression; source says in errors where they stand, and steps counts the work.
func parse(fields []string, zone *time.Location, source string, steps *int) (*Expression, error) {
	e := &Expression{text: strings.Join(fields, " "), zone: zone}
	if len(e.text) > maxExpression {
		return nil, fmt.Errorf("too long in %s: %d bytes, and %d are allowed, so write lists as ranges", source, len(e.text), maxExpression)
	}
	if zone == nil {
		e.zone = time.UTC
	}
	if len(fields) == 1 && strings.HasPrefix(e.text, "@") {
		expansion, err := macro(e.text)
		if err != nil {
			return nil, err
		}
		fields = strings.Fields(expansion)
	}
	sets := []*set{&e.seconds, &e.minutes, &e.hours, &e.dates, &e.months, &e.wdays}
	switch len(fields) {
	case 5:
		e.seconds = 1
	case 6:
	default:
		return nil, fmt.Errorf("%s has %d fields: use five (minute, hour, day of month, month, day of week), or six with seconds in front",
			source, len(fields))
	}
	of := kinds[6-len(fields):]
	sets = sets[6-len(fields):]
	for i, f := range fields {
		s, err := of[i].parse(f, source, steps)
		if err != nil {
			return nil, err
		}
		*sets[i] = s
	}
	return e, nil
}

func macro(name string) (string, error) {
	if expansion, ok := macros[strings.ToLower(name)]; ok {
		return expansion, nil
	}
	if strings.EqualFold(name, "@reboot") {
		return "", errors.New("@reboot has no meaning here, where many workers come and go: add the job from what starts your program")
	}
	return "", fmt.Errorf("'%s' is unknown: use @hourly, @daily, @midnight, @weekly, @monthly, @yearly, @annually, or five fields", name)
}

// String returns the expression as it was written, with single spaces.
func (e *Expression) String() string { return e.text }

// space is what JavaScript takes for white space: Graphile Worker's files are separated by it.
func space(r rune) bool {
	switch {
	case r >= '\t' && r <= '\r', r == ' ', r == 0xa0, r == 0x1680, r >= 0x2000 && r <= 0x200a,
		r == 0x2028, r == 0x2029, r == 0x202f, r == 0x205f, r == 0x3000, r == 0xfeff:
		return true
	}
	return false
}
