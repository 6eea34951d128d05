package cron

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestDaylightSaving: what follows each moment, in words of the local clock and how far it is ahead of UTC.
func TestDaylightSaving(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ zone, expression, after, want string }{
		// Berlin skips 02:00 to 03:00 on 29 March, and has it twice on 25 October.
		{"Europe/Berlin", "30 2 * * *", "2026-03-28T12:00:00Z", "Mar-29 03:00:00 +0200, Mar-30 02:30:00 +0200"},
		{"Europe/Berlin", "0,30 2,3 * * *", "2026-03-28T22:00:00Z", "Mar-29 03:00:00 +0200, Mar-29 03:30:00 +0200, Mar-30 02:00:00 +0200"},
		{"Europe/Berlin", "*/20 1-3 * * *", "2026-03-29T00:30:00Z", "Mar-29 01:40:00 +0100, Mar-29 03:00:00 +0200, Mar-29 03:20:00 +0200"},
		{"Europe/Berlin", "*/20 * 2 * * *", "2026-03-29T00:00:00Z", "Mar-29 03:00:00 +0200, Mar-30 02:00:00 +0200, Mar-30 02:00:20 +0200"},
		{"Europe/Berlin", "0 */2 * * *", "2026-03-28T22:10:00Z", "Mar-29 00:00:00 +0100, Mar-29 03:00:00 +0200, Mar-29 04:00:00 +0200"},
		{"Europe/Berlin", "*/30 * * * *", "2026-03-29T00:10:00Z", "Mar-29 01:30:00 +0100, Mar-29 03:00:00 +0200, Mar-29 03:30:00 +0200"},
		{"Europe/Berlin", "30 * * * *", "2026-03-29T00:10:00Z", "Mar-29 01:30:00 +0100, Mar-29 03:30:00 +0200"},
		{"Europe/Berlin", "30 2 * * *", "2026-10-24T12:00:00Z", "Oct-25 02:30:00 +0200, Oct-26 02:30:00 +0100"},
		{"Europe/Berlin", "30 1-3 * * *", "2026-10-24T22:00:00Z", "Oct-25 01:30:00 +0200, Oct-25 02:30:00 +0200, Oct-25 03:30:00 +0100"},
		{"Europe/Berlin", "0 3 * * *", "2026-10-24T12:00:00Z", "Oct-25 03:00:00 +0100, Oct-26 03:00:00 +0100"},
		{"Europe/Berlin", "*/30 * * * *", "2026-10-24T23:50:00Z", "Oct-25 02:00:00 +0200, Oct-25 02:30:00 +0200, Oct-25 02:00:00 +0100, Oct-25 02:30:00 +0100, Oct-25 03:00:00 +0100"},
		{"Europe/Berlin", "30 */1 * * *", "2026-10-24T23:50:00Z", "Oct-25 02:30:00 +0200, Oct-25 02:30:00 +0100, Oct-25 03:30:00 +0100"},
		{"Europe/Berlin", "30 0-23 25 10 *", "2026-10-24T23:50:00Z", "Oct-25 02:30:00 +0200, Oct-25 02:30:00 +0100, Oct-25 03:30:00 +0100"},
		// In the second pass of the hour, too, what was due in the first is over.
		{"Europe/Berlin", "30 2 * * *", "2026-10-25T01:10:00Z", "Oct-26 02:30:00 +0100"},

		// New York: 8 March and 1 November.
		{"America/New_York", "30 2 * * *", "2026-03-07T12:00:00Z", "Mar-8 03:00:00 -0400, Mar-9 02:30:00 -0400"},
		{"America/New_York", "0 3 * * *", "2026-03-07T12:00:00Z", "Mar-8 03:00:00 -0400, Mar-9 03:00:00 -0400"},
		{"America/New_York", "15,45 1-3 * * *", "2026-03-08T06:30:00Z", "Mar-8 01:45:00 -0500, Mar-8 03:00:00 -0400, Mar-8 03:15:00 -0400"},
		{"America/New_York", "30 1 * * *", "2026-10-31T12:00:00Z", "Nov-1 01:30:00 -0400, Nov-2 01:30:00 -0500"},
		{"America/New_York", "0 * * * *", "2026-11-01T04:30:00Z", "Nov-1 01:00:00 -0400, Nov-1 01:00:00 -0500, Nov-1 02:00:00 -0500"},

		// Lord Howe moves by half an hour: 01:30 to 02:00 comes twice on 5 April, 02:00 to 02:30 never on 4 October.
		{"Australia/Lord_Howe", "45 1 * * *", "2026-04-04T00:00:00Z", "Apr-5 01:45:00 +1100, Apr-6 01:45:00 +1030"},
		{"Australia/Lord_Howe", "*/15 1 * * *", "2026-04-04T14:20:00Z", "Apr-5 01:30:00 +1100, Apr-5 01:45:00 +1100, Apr-6 01:00:00 +1030"},
		{"Australia/Lord_Howe", "*/15 * * * *", "2026-04-04T14:20:00Z", "Apr-5 01:30:00 +1100, Apr-5 01:45:00 +1100, Apr-5 01:30:00 +1030, Apr-5 01:45:00 +1030, Apr-5 02:00:00 +1030"},
		{"Australia/Lord_Howe", "15 2 * * *", "2026-10-02T20:00:00Z", "Oct-4 02:30:00 +1100, Oct-5 02:15:00 +1100"},
		{"Australia/Lord_Howe", "0,15,45 2 * * *", "2026-10-03T00:00:00Z", "Oct-4 02:30:00 +1100, Oct-4 02:45:00 +1100, Oct-5 02:00:00 +1100"},
		{"Australia/Lord_Howe", "*/15 * * * *", "2026-10-03T15:10:00Z", "Oct-4 01:45:00 +1030, Oct-4 02:30:00 +1100"},

		// Casablanca is put back for Ramadan, 15 February to 22 March in that year.
		{"Africa/Casablanca", "30 2 * * *", "2026-02-14T12:00:00Z", "Feb-15 02:30:00 +0100, Feb-16 02:30:00 +0000"},
		{"Africa/Casablanca", "30 * * * *", "2026-02-15T00:40:00Z", "Feb-15 02:30:00 +0100, Feb-15 02:30:00 +0000, Feb-15 03:30:00 +0000"},
		{"Africa/Casablanca", "30 2 * * *", "2026-03-21T12:00:00Z", "Mar-22 03:00:00 +0100, Mar-23 02:30:00 +0100"},
		{"Africa/Casablanca", "30 * * * *", "2026-03-22T00:40:00Z", "Mar-22 01:30:00 +0000, Mar-22 03:30:00 +0100"},

		// Midnight, and a whole day.
		{"America/Sao_Paulo", "@daily", "2018-11-02T12:00:00Z", "Nov-3 00:00:00 -0300, Nov-4 01:00:00 -0200, Nov-5 00:00:00 -0200"},
		{"America/Sao_Paulo", "@daily", "2018-02-16T12:00:00Z", "Feb-17 00:00:00 -0200, Feb-18 00:00:00 -0300"},
		{"America/Sao_Paulo", "59 23 * * SAT", "2018-02-16T12:00:00Z", "Feb-17 23:59:00 -0200, Feb-24 23:59:00 -0300"},
		{"America/Havana", "30 0 * * SUN", "2026-03-02T12:00:00Z", "Mar-8 01:00:00 -0400, Mar-15 00:30:00 -0400"},
		{"Pacific/Apia", "0 12 * * *", "2011-12-29T12:00:00Z", "Dec-29 12:00:00 -1000, Dec-31 00:00:00 +1400, Dec-31 12:00:00 +1400"},
		{"Pacific/Apia", "0 * 30 12 *", "2011-12-01T12:00:00Z", "Dec-30 00:00:00 +1400"}, // of 2012
	} {
		e, err := Parse(c.expression, zone(t, c.zone))
		if err != nil {
			t.Fatal(err)
		}
		at, err := time.Parse(time.RFC3339, c.after)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for range strings.Count(c.want, ",") + 1 {
			at, _ = e.Next(at)
			got = append(got, at.Format("Jan-2 15:04:05 -0700"))
		}
		if text := strings.Join(got, ", "); text != c.want {
			t.Errorf("%s in %s:\n%s\n%s", c.expression, c.zone, text, c.want)
		}
	}
}

// TestZones: around each change of the clocks of many zones, random expressions are due exactly when somebody finds who
// looks at the local clock every minute, and remembers the latest time it has shown.
func TestZones(t *testing.T) {
	t.Parallel()
	for _, name := range []string{
		"Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Casablanca", "Africa/El_Aaiun", "Europe/Dublin", "America/Sao_Paulo",
		"America/Havana", "Africa/Cairo", "Asia/Beirut", "Asia/Tehran", "Antarctica/Troll", "America/Nuuk", "Pacific/Apia", "Asia/Pyongyang", "Europe/Istanbul", "UTC",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			z := zone(t, name)
			random := rand.New(rand.NewPCG(3, uint64(len(name))))
			for at := time.Date(2005, 1, 1, 0, 0, 0, 0, z); at.Year() < 2043; {
				_, end := at.ZoneBounds()
				if !end.After(at) { // also the last one
					end = at.AddDate(1, 0, 0)
				}
				e, err := Parse(randomTime(random), z)
				if err != nil {
					t.Fatal(err)
				}
				from := end.Add(-time.Duration(random.IntN(24*60)) * time.Minute).Truncate(time.Minute)
				until := from.Add(36 * time.Hour)
				var got []time.Time
				for next, ok := e.Next(from); ok && next.Before(until); next, ok = e.Next(next) {
					got = append(got, next)
				}
				if want := watch(e, from, until); !slices.EqualFunc(got, want, time.Time.Equal) {
					t.Fatalf("%s after %v:\n%v\n%v", e, from, got, want)
				}
				at = end
			}
		})
	}
}

// randomTime returns an expression that is due on most days.
func randomTime(random *rand.Rand) string {
	days := []string{"* * *", "* * *", "*/2 * *", "* * 0,6", "1-15 * 2"}
	return randomField(random, kinds[1], true) + " " + randomField(random, kinds[2], true) + " " + days[random.IntN(len(days))]
}

func watch(e *Expression, from, until time.Time) (ticks []time.Time) {
	local := func(at time.Time) time.Time { // the same clock in UTC
		y, mo, d := at.In(e.zone).Date()
		h, mi, s := at.In(e.zone).Clock()
		return time.Date(y, mo, d, h, mi, s, 0, time.UTC)
	}
	matches := func(at time.Time) bool {
		if !e.minutes.has(at.Minute()) || !e.hours.has(at.Hour()) || !e.months.has(int(at.Month())) {
			return false
		}
		date, wday := e.dates.has(at.Day()), e.wdays.has(int(at.Weekday()))
		if e.dates.count() < 31 && e.wdays.count() < 7 {
			return date || wday
		}
		return date && wday
	}
	start := from.Add(-48 * time.Hour)
	shown := local(start)
	for at := start; at.Before(until); at = at.Add(time.Minute) {
		now, due := local(at), false
		if e.hours.count() == 24 {
			due = matches(now)
		}
		for ; shown.Before(now); shown = shown.Add(time.Minute) {
			due = due || e.hours.count() < 24 && matches(shown.Add(time.Minute))
		}
		if due && at.After(from) {
			ticks = append(ticks, at)
		}
	}
	return ticks
}
