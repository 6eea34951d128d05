package cron

import (
	"fmt"
	"math/bits"
	"strconv"
	"strings"
	"time"
)

// Describe says in English when the expression is due: "at 02:30 on Monday to Friday". The zone is not part of it.
func (e *Expression) Describe() string {
	clock, daily := e.describeClock()
	dates := e.describeDates()
	switch {
	case dates == "" && daily:
		dates = "every day"
	case strings.HasPrefix(dates, "in ") && daily:
		dates = "every day " + dates
	}
	text := strings.TrimSpace(clock + " " + dates)
	if _, ever := e.Next(time.Time{}); !ever {
		text += ", which never comes"
	}
	return text
}

// describeClock describes the time of day; daily: as times, of which there are few, so that the days must be said.
func (e *Expression) describeClock() (text string, daily bool) {
	if e.hours != allHours && e.hours.count()*e.minutes.count()*e.seconds.count() <= 6 {
		return "at " + and(e.times()), true
	}
	if e.seconds != 1 {
		return e.describeSeconds(), false
	}
	every, rest := "", ""
	from, to, step, regular := e.hours.regular()
	switch {
	case e.hours == allHours:
		every = "hour"
	case regular && from == 0 && 24%step == 0 && to == 24-step: // the last hour is the one before midnight
		every = ordinal(step) + " hour"
		if single, _ := e.minutes.next(0); e.minutes.count() == 1 && single == 0 {
			return fmt.Sprintf("every %d hours", step), false
		}
	case regular && step == 1:
		first, _ := e.minutes.next(0)
		last := 63 - bits.LeadingZeros64(uint64(e.minutes))
		every, rest = "hour", fmt.Sprintf(" from %02d:%02d to %02d:%02d", from, first, to, last)
	default:
		every, rest = "hour", " during "+plural("hour", e.hours)
	}
	return e.describeMinutes(every, rest), false
}

// describeMinutes says which minutes of every such hour.
func (e *Expression) describeMinutes(every, rest string) string {
	from, to, step, regular := e.minutes.regular()
	plain := every == "hour"
	within := rest
	if !plain {
		within = " of every " + every
	}
	switch {
	case e.minutes == allSixty:
		return "every minute" + within
	case e.minutes == 1 && plain:
		return "every hour" + rest
	case regular && step > 1 && from == 0 && 60%step == 0 && to == 60-step:
		return fmt.Sprintf("every %d minutes", step) + within
	case regular && step > 1 && e.minutes.count() > 4:
		return fmt.Sprintf("every %d minutes from minute %d to %d of every %s%s", step, from, to, every, rest)
	case e.minutes == 2:
		return fmt.Sprintf("at 1 minute past every %s%s", every, rest)
	}
	return fmt.Sprintf("at %s minutes past every %s%s", list(e.minutes, strconv.Itoa), every, rest)
}

// describeSeconds describes six fields: every 10 seconds of minutes 0 to 29 of hours 9 to 17.
func (e *Expression) describeSeconds() string {
	var text, within string
	from, to, step, regular := e.seconds.regular()
	switch {
	case e.seconds == allSixty:
		text = "every second"
	case regular && step > 1 && from == 0 && 60%step == 0 && to == 60-step:
		text = fmt.Sprintf("every %d seconds", step)
	case regular && step > 1 && e.seconds.count() > 4:
		text, within = fmt.Sprintf("every %d seconds from second %d to %d", step, from, to), " of every minute"
	default:
		text, within = "at "+plural("second", e.seconds), " of every minute"
	}
	if e.minutes != allSixty {
		within = " of " + plural("minute", e.minutes)
		if e.hours == allHours {
			within += " of every hour"
		}
	}
	if e.hours != allHours {
		within += " of " + plural("hour", e.hours)
	}
	return text + within
}

// times lists the times of day.
func (e *Expression) times() []string {
	var all []string
	for at, ok := e.clock(0, 0, 0); ok; {
		h, m, s := int(at/3600), int(at/60%60), int(at%60)
		if e.seconds == 1 {
			all = append(all, fmt.Sprintf("%02d:%02d", h, m))
		} else {
			all = append(all, fmt.Sprintf("%02d:%02d:%02d", h, m, s))
		}
		at, ok = e.clock(h, m, s+1)
	}
	return all
}

func (e *Expression) describeDates() string {
	months := list(e.months, func(n int) string { return time.Month(n).String() })
	// The week begins on Monday, so that a weekend is a range.
	days := list(e.wdays>>1|e.wdays&1<<6, func(n int) string { return time.Weekday((n + 1) % 7).String() })
	if e.wdays == allWdays {
		days = ""
	}
	dates := ""
	if e.dates != allDates {
		dates = e.describeDate()
	}
	switch {
	case e.months == allMonths && dates == "" && days == "":
		return ""
	case dates == "" && days == "":
		return "in " + months
	case e.months == allMonths && dates == "":
		return "on " + days
	case dates == "":
		return "on " + days + " in " + months
	case days != "" && e.months == allMonths:
		return "on " + dates + " of every month, or on " + days
	case days != "":
		return "on " + dates + " or on " + days + ", in " + months
	case e.months == allMonths:
		return "on " + dates + " of every month"
	}
	return "on " + dates + " of " + months
}

func (e *Expression) describeDate() string {
	if from, to, step, regular := e.dates.regular(); regular && step > 1 && e.dates.count() > 4 {
		return fmt.Sprintf("every %s day from the %s to the %s", ordinal(step), ordinal(from), ordinal(to))
	}
	return "the " + list(e.dates, ordinal)
}

// regular says whether a set is its first, its last and every step-th value between.
func (s set) regular() (from, to, step int, ok bool) {
	from, _ = s.next(0)
	to, step = from, 1
	for n, more := s.next(from + 1); more; n, more = s.next(n + 1) {
		if to == from {
			step = n - from
		} else if n-to != step {
			return 0, 0, 0, false
		}
		to = n
	}
	return from, to, step, true
}

// list writes a set out: 1, 5 to 9 and 12.
func list(s set, name func(int) string) string {
	var parts []string
	for n, ok := s.next(0); ok; {
		to := n
		for s.has(to + 1) {
			to++
		}
		switch to - n {
		case 0:
			parts = append(parts, name(n))
		case 1:
			parts = append(parts, name(n), name(to))
		default:
			parts = append(parts, name(n)+" to "+name(to))
		}
		n, ok = s.next(to + 1)
	}
	return and(parts)
}

func and(parts []string) string {
	last := len(parts) - 1
	if last < 1 {
		return strings.Join(parts, "")
	}
	return strings.Join(parts[:last], ", ") + " and " + parts[last]
}

// plural writes a set with its noun: hour 3, hours 3 to 5.
func plural(noun string, s set) string {
	if s.count() > 1 {
		noun += "s"
	}
	return noun + " " + list(s, strconv.Itoa)
}

func ordinal(n int) string {
	suffix := "th"
	if n/10 != 1 {
		switch n % 10 {
		case 1:
			suffix = "st"
		case 2:
			suffix = "nd"
		case 3:
			suffix = "rd"
		}
	}
	return strconv.Itoa(n) + suffix
}
