package cron

import "time"

// Next returns the first tick after a moment; false: there is none, as on 30 February.
func (e *Expression) Next(after time.Time) (time.Time, bool) {
	s := search{Expression: e}
	at, ok := s.next(after.Unix())
	if !ok {
		return time.Time{}, false
	}
	return time.Unix(at, 0).In(e.zone), true
}

// Ticks are those of the years 1 to 9999, which every format of a time can hold.
const (
	lastYear = 9999
	earliest = -62135596800
	latest   = 253402300800
)

// search looks for one tick. Moments are Unix seconds; local times are written as the Unix seconds of a clock in UTC that
// shows the same.
type search struct {
	*Expression
	steps int
}

func (s *search) next(after int64) (int64, bool) {
	after = min(max(after, earliest), latest)
	if s.hours == allHours {
		return s.nextShown(after)
	}
	// The first moment that shows a local time or a later one comes after this one exactly if no such time has been shown.
	local, ok := s.match(s.shown(after) + 1)
	if !ok {
		return 0, false
	}
	return s.moment(local), true
}

// nextShown returns the first moment after the given one whose local time matches. Days with a tick are eight years apart
// at most, and no zone has more than a few changes a year, so that the loop ends soon.
func (s *search) nextShown(after int64) (int64, bool) {
	for from := after + 1; ; {
		p := s.period(from)
		local, ok := s.match(from + p.offset)
		if !ok {
			return 0, false
		}
		if at := local - p.offset; at < p.end {
			return at, true
		}
		from = p.end
	}
}

const (
	day  = 24 * 60 * 60
	week = 7 * day // longer than any clock has ever been put forward or back, which is a day
)

// shown returns the latest time that the local clock has shown up to a moment.
func (s *search) shown(at int64) int64 {
	p := s.period(at)
	most := at + p.offset
	for p.start > at-week {
		end := p.start - 1
		p = s.period(end)
		most = max(most, end+p.offset)
	}
	return most
}

// moment returns when the local clock first shows a time or a later one.
func (s *search) moment(local int64) int64 {
	p := s.period(local - week)
	for p.end <= local-p.offset {
		p = s.period(p.end)
	}
	return max(p.start, local-p.offset) // the start, when the clock was put forward over that time
}

// period is a time, from start to before end, during which the local clock is the same offset ahead of UTC.
type period struct{ start, end, offset int64 }

const forever = 1 << 60

func (s *search) period(at int64) period {
	s.steps++
	t := time.Unix(at, 0).In(s.zone)
	start, end := t.ZoneBounds()
	_, offset := t.Zone()
	p := period{-forever, forever, int64(offset)}
	if !start.IsZero() {
		p.start = start.Unix()
	}
	if !end.IsZero() {
		p.end = end.Unix()
	}
	if p.end <= at { // package time has every year end after 365 days, where it computes the changes of far years
		p.end = at - at%day + day
	}
	return p
}

// match returns the first local time of the expression from the given one on.
func (s *search) match(from int64) (int64, bool) {
	t := time.Unix(from, 0).UTC()
	year, month, date := t.Date()
	hour, minute, second := t.Clock()
	if _, today := s.clock(hour, minute, second); !today {
		date++
	}
	// 29 February is the rarest day, and eight years from the next one around 2100.
	for range 8*12 + 2 {
		s.steps++
		if found, ok := s.days(year, month).next(date); ok && year <= lastYear {
			midnight := time.Date(year, month, found, 0, 0, 0, 0, time.UTC).Unix()
			if midnight > from {
				hour, minute, second = 0, 0, 0
			}
			clock, _ := s.clock(hour, minute, second)
			return midnight + clock, true
		}
		date = 1
		if month++; month > time.December {
			year, month = year+1, time.January
		}
	}
	return 0, false
}

// clock returns the first time of day from the given one on, in seconds.
func (e *Expression) clock(hour, minute, second int) (int64, bool) {
	at := func(h, m, s int) (int64, bool) { return int64(h*3600 + m*60 + s), true }
	firstMinute, _ := e.minutes.next(0)
	firstSecond, _ := e.seconds.next(0)
	if e.hours.has(hour) {
		if e.minutes.has(minute) {
			if s, ok := e.seconds.next(second); ok {
				return at(hour, minute, s)
			}
		}
		if m, ok := e.minutes.next(minute + 1); ok {
			return at(hour, m, firstSecond)
		}
	}
	if h, ok := e.hours.next(hour + 1); ok {
		return at(h, firstMinute, firstSecond)
	}
	return 0, false
}

// days is the set of the days of a month that match.
func (e *Expression) days(year int, month time.Month) set {
	if !e.months.has(int(month)) {
		return 0
	}
	first := time.Date(year, month, 1, 0, 0, 0, 0, time.UTC).Weekday()
	last := time.Date(year, month+1, 0, 0, 0, 0, 0, time.UTC).Day()
	week := (e.wdays>>first | e.wdays<<(7-first)) & allWdays // bit 0: the day of the week of the 1st
	byWeek := week * (1 | 1<<7 | 1<<14 | 1<<21 | 1<<28) << 1
	days := e.dates & byWeek
	if e.dates != allDates && e.wdays != allWdays {
		days = e.dates | byWeek
	}
	return days & (1<<(last+1) - 2)
}
