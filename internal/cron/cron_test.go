package cron

import (
	"strings"
	"testing"
	"time"
	_ "time/tzdata"
)

func zone(t testing.TB, name string) *time.Location {
	t.Helper()
	z, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return z
}

// values lists a set, for comparisons with what is written.
func values(s set) []int {
	var list []int
	for n, ok := s.next(0); ok; n, ok = s.next(n + 1) {
		list = append(list, n)
	}
	return list
}

// TestParse: two ways to write the same.
func TestParse(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ one, other string }{
		{"*/15 * * * *", "0,15,30,45 * * * *"},
		{"0 0 */10 * *", "0 0 1,11,21,31 * *"}, // steps count from the field's least value
		{"0 0 1 */5 *", "0 0 1 1,6,11 *"},
		{"*/100 * * * *", "0 * * * *"},
		{"10-40/10 * * * *", "10,20,30,40 * * * *"},
		{"10-39/10 * * * *", "10,20,30 * * * *"},
		{"0 0 * * 5-7", "0 0 * * 0,5,6"},
		{"0 0 * * FRI-SUN", "0 0 * * 0,5,6"},
		{"0 0 * * sun-Tue", "0 0 * * 0-2"},
		{"0 0 * * 7", "0 0 * * SUN"},
		{"0 0 * * 0-7", "0 0 * * *"},
		{"0 0 * JAN,mar-MAY *", "0 0 * 1,3,4,5 *"},
		{"0 0 * jan-dec/3 *", "0 0 * 1,4,7,10 *"},
		{"0 0 * * MON-FRI/2", "0 0 * * 1,3,5"},
		{"  5\t6  7 8 * ", "05 006 7 08 *"},
		{"0 5 * * * *", "5 * * * *"},
		{"@hourly", "0 * * * *"},
		{"@daily", "0 0 * * *"},
		{"@Midnight", "0 0 * * *"},
		{"@weekly", "0 0 * * 0"},
		{"@monthly", "0 0 1 * *"},
		{"@yearly", "0 0 1 1 *"},
		{"@annually", "0 0 1 1 *"},
	} {
		one, err := Parse(c.one, nil)
		if err != nil {
			t.Errorf("%q: %v", c.one, err)
			continue
		}
		other, err := Parse(c.other, time.UTC)
		if err != nil {
			t.Errorf("%q: %v", c.other, err)
			continue
		}
		if want := strings.Join(strings.Fields(c.one), " "); one.String() != want {
			t.Errorf("%q is written %q", c.one, one)
		}
		if one.text = other.text; *one != *other {
			t.Errorf("%q is not %q: %v", c.one, c.other, one)
		}
	}
	// A step over everything is still everything: then the day of month alone decides.
	if e, err := Parse("0 0 1 * */1", nil); err != nil || e.wdays != allWdays {
		t.Error(values(e.wdays), err)
	}
}

func TestParseErrors(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ expression, want string }{
		{"60 * * * *", "cron expression: Too large value '60' in minutes range in '60 * * * *': expected values in the range 0-59."},
		{"* 24 * * *", "cron expression: Too large value '24' in hours range in '* 24 * * *': expected values in the range 0-23."},
		{"* * 0 * *", "cron expression: Too small value '0' in dates range in '* * 0 * *': expected values in the range 1-31."},
		{"* * * 13 *", "cron expression: Too large value '13' in months range in '* * * 13 *': expected values in the range 1-12."},
		{"* * * * 6-9", "cron expression: Too large value '8' in days of week range in '* * * * 6-9': expected values in the range 0-6."},
		{"70 * * * * *", "cron expression: Too large value '70' in seconds range in '70 * * * * *': expected values in the range 0-59."},
		{"5-5 * * * *", "cron expression: Invalid range '5-5' in minutes range in '5-5 * * * *': destination is not larger than source"},
		{"* * * * SUN-SUN", "cron expression: Invalid range 'SUN-SUN' in days of week range in '* * * * SUN-SUN': destination is not larger than source"},
		{"* * * * SAT-MON", "cron expression: Invalid range 'SAT-MON' in days of week range in '* * * * SAT-MON': destination is not larger than source"},
		{"*/0 * * * *", "cron expression: Invalid wildcard expression '*/0' in minutes range in '*/0 * * * *': divisor '0' expected to be greater than zero"},
		{"1-9/0 * * * *", "cron expression: Invalid range '1-9/0' in minutes range in '1-9/0 * * * *': divisor '0' expected to be greater than zero"},
		{"5/10 * * * *", "cron expression: Unsupported syntax '5/10' in minutes range in '5/10 * * * *': this doesn't appear to be a number, range or wildcard"},
		{"MON * * * *", "cron expression: Unsupported syntax 'MON' in minutes range in 'MON * * * *': this doesn't appear to be a number, range or wildcard"},
		{"* * * MON *", "cron expression: Unsupported syntax 'MON' in months range in '* * * MON *': this doesn't appear to be a number, range or wildcard"},
		{"1,,2 * * * *", "cron expression: Unsupported syntax '' in minutes range in '1,,2 * * * *': this doesn't appear to be a number, range or wildcard"},
		{"* * L * *", "cron expression: Unsupported syntax 'L' in dates range in '* * L * *': this doesn't appear to be a number, range or wildcard"},
		{"", "cron expression: '' has 0 fields: use five (minute, hour, day of month, month, day of week), or six with seconds in front"},
		{"* * * *", "cron expression: '* * * *' has 4 fields: use five (minute, hour, day of month, month, day of week), or six with seconds in front"},
		{"@reboot", "cron expression: @reboot has no meaning here, where many workers come and go: add the job from what starts your program"},
		{"@often", "cron expression: '@often' is unknown: use @hourly, @daily, @midnight, @weekly, @monthly, @yearly, @annually, or five fields"},
		{"@daily *", "cron expression: '@daily *' has 2 fields: use five (minute, hour, day of month, month, day of week), or six with seconds in front"},
		{"1" + strings.Repeat(",1", 400) + " * * * *", `cron expression: too long in "1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,"…: 809 bytes, and 768 are allowed, so write lists as ranges`},
	} {
		if e, err := Parse(c.expression, nil); err == nil || err.Error() != c.want {
			t.Errorf("%q: %v, %v; want %s", c.expression, e, err, c.want)
		}
	}
}
