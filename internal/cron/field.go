package cron

import (
	"math"
	"math/bits"
	"regexp"
	"strconv"
	"strings"
)

// set holds the values of a field, one bit each.
type set uint64

func (s set) has(n int) bool { return s>>n&1 == 1 }

func (s set) count() int { return bits.OnesCount64(uint64(s)) }

// next returns the least value from n on.
func (s set) next(n int) (int, bool) {
	if n > 63 || s>>n == 0 {
		return 0, false
	}
	return n + bits.TrailingZeros64(uint64(s>>n)), true
}

// kind is what a field may hold: its name in errors, its least and greatest value, and its values' names.
type kind struct {
	name     string
	min, max int
	names    []string
	wrap     bool // max+1 is min: Sunday
}

var (
	monthNames = []string{"jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"}
	dayNames   = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}

	// kinds are those of six fields. Their names stand in Graphile Worker's errors.
	kinds = [6]kind{
		{name: "seconds", max: 59},
		{name: "minutes", max: 59},
		{name: "hours", max: 23},
		{name: "dates", min: 1, max: 31},
		{name: "months", min: 1, max: 12, names: monthNames},
		{name: "days of week", max: 6, names: dayNames, wrap: true},
	}
)

// The sets of fields that leave nothing out.
const (
	allSixty  set = 1<<60 - 1 // seconds, minutes
	allHours  set = 1<<24 - 1
	allDates  set = 1<<32 - 2
	allMonths set = 1<<13 - 2
	allWdays  set = 1<<7 - 1
)

// A part is *, */n, a, a-b or a-b/n. Values are numbers or three letters.
var partShape = regexp.MustCompile(`^(?:(\*)|([0-9]+|[A-Za-z]{3})(?:-([0-9]+|[A-Za-z]{3}))?)(?:/([0-9]+))?$`)

// parse reads a field. The texts of its errors are Graphile Worker's.
func (k kind) parse(field, source string, steps *int) (set, error) {
	var s set
	for part := range strings.SplitSeq(field, ",") {
		*steps++
		one, err := k.part(part, source, steps)
		if err != nil {
			return 0, err
		}
		s |= one
	}
	return s, nil
}

func (k kind) part(part, source string, steps *int) (set, error) {
	fail := func(what, why string) (set, error) {
		return 0, failf("%s '%s' in %s range in %s: %s", what, part, k.name, source, why)
	}
	unsupported := func() (set, error) {
		return fail("Unsupported syntax", "this doesn't appear to be a number, range or wildcard")
	}
	m := partShape.FindStringSubmatch(part)
	if m == nil {
		return unsupported()
	}
	star, from, to, divisor := m[1] != "", m[2], m[3], m[4]
	if !star && to == "" && divisor != "" { // 5/10: from 5 on in some crons, 5 alone in others
		return unsupported()
	}
	first, last := float64(k.min), float64(k.max)
	if !star {
		var known bool
		if first, known = k.value(from, false); !known {
			return unsupported()
		}
		last = first
	}
	if to != "" {
		var known bool
		if last, known = k.value(to, first > 0); !known {
			return unsupported()
		}
		if last <= first {
			return fail("Invalid range", "destination is not larger than source")
		}
	}
	step := 1.0
	if divisor != "" {
		if step = number(divisor); step < 1 {
			what := "Invalid wildcard expression"
			if !star {
				what = "Invalid range" // a-b/n is not in Graphile Worker's grammar
			}
			return fail(what, "divisor '"+divisor+"' expected to be greater than zero")
		}
	}
	return k.span(first, last, step, source, steps)
}

// span is the set of every step-th value. It ends at the first that is none, as Graphile Worker does, so that no range is
// too wide for it.
func (k kind) span(first, last, step float64, source string, steps *int) (set, error) {
	var s set
	for n := first; n <= last; n += step {
		*steps++
		size := ""
		switch {
		case n >= float64(k.min) && n <= float64(k.max):
			s |= 1 << int(n)
		case k.wrap && n == float64(k.max+1):
			s |= 1 << k.min
		case n > float64(k.max):
			size = "large"
		default:
			size = "small"
		}
		if size != "" {
			return 0, failf("Too %s value '%s' in %s range in %s: expected values in the range %d-%d.",
				size, formatNumber(n), k.name, source, k.min, k.max)
		}
	}
	return s, nil
}

// value returns the number that is written as text. SUN at the end of a range is the Sunday after.
func (k kind) value(text string, end bool) (float64, bool) {
	if text[0] <= '9' {
		return number(text), true
	}
	for i, name := range k.names {
		if strings.EqualFold(text, name) {
			if k.wrap && end && i == 0 {
				i = k.max + 1
			}
			return float64(i + k.min), true
		}
	}
	return 0, false
}

// number and formatNumber are JavaScript's: huge numbers must read the same in errors.
func number(digits string) float64 {
	n, _ := strconv.ParseFloat(digits, 64) // out of range: infinity
	return n
}

func formatNumber(n float64) string {
	switch {
	case math.IsInf(n, 1):
		return "Infinity"
	case n >= 1e21:
		return strconv.FormatFloat(n, 'e', -1, 64)
	}
	return strconv.FormatFloat(n, 'f', -1, 64)
}
