package cron

import (
	"math/rand/v2"
	"strings"
	"testing"
)

func TestDescribe(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ expression, want string }{
		{"* * * * *", "every minute"},
		{"*/5 * * * *", "every 5 minutes"},
		{"*/7 * * * *", "every 7 minutes from minute 0 to 56 of every hour"},
		{"10-50/10 * * * *", "every 10 minutes from minute 10 to 50 of every hour"},
		{"0 * * * *", "every hour"},
		{"1 * * * *", "at 1 minute past every hour"},
		{"15 * * * *", "at 15 minutes past every hour"},
		{"5,20,35 * * * *", "at 5, 20 and 35 minutes past every hour"},
		{"0-29 * * * *", "at 0 to 29 minutes past every hour"},
		{"30 2 * * *", "at 02:30 every day"},
		{"0 9,17 * * *", "at 09:00 and 17:00 every day"},
		{"30 2 * * MON-FRI", "at 02:30 on Monday to Friday"},
		{"0,30 9,17 * * 6,7", "at 09:00, 09:30, 17:00 and 17:30 on Saturday and Sunday"},
		{"*/20 5 * * *", "at 05:00, 05:20 and 05:40 every day"},
		{"0 */12 * * *", "at 00:00 and 12:00 every day"},
		{"0 */2 * * *", "every 2 hours"},
		{"15 */2 * * *", "at 15 minutes past every 2nd hour"},
		{"*/10 */3 * * *", "every 10 minutes of every 3rd hour"},
		{"* */6 * * *", "every minute of every 6th hour"},
		{"0 9-17 * * *", "every hour from 09:00 to 17:00"},
		{"15 9-17 * * *", "at 15 minutes past every hour from 09:15 to 17:15"},
		{"5,10,40 9-17 * * *", "at 5, 10 and 40 minutes past every hour from 09:05 to 17:40"},
		{"*/5 9-17 * * MON-FRI", "every 5 minutes from 09:00 to 17:55 on Monday to Friday"},
		{"* 9-17 * * *", "every minute from 09:00 to 17:59"},
		{"* 5 * * *", "every minute from 05:00 to 05:59"},
		{"*/5 3,7-9,12 * * *", "every 5 minutes during hours 3, 7 to 9 and 12"},
		{"0 22-23,0-6 * * *", "every hour during hours 0 to 6, 22 and 23"},
		{"*/7 5,8 * * *", "every 7 minutes from minute 0 to 56 of every hour during hours 5 and 8"},
		{"0 0 1 * *", "at 00:00 on the 1st of every month"},
		{"0 0 1,15 * *", "at 00:00 on the 1st and 15th of every month"},
		{"0 0 1-7,22,23 * *", "at 00:00 on the 1st to 7th, 22nd and 23rd of every month"},
		{"0 0 11,12,13 * *", "at 00:00 on the 11th to 13th of every month"},
		{"0 0 */2 * *", "at 00:00 on every 2nd day from the 1st to the 31st of every month"},
		{"0 0 1 1 *", "at 00:00 on the 1st of January"},
		{"0 0 29 2 *", "at 00:00 on the 29th of February"},
		{"0 0 30 2 *", "at 00:00 on the 30th of February, which never comes"},
		{"0 0 13 * FRI", "at 00:00 on the 13th of every month, or on Friday"},
		{"0 0 13 1,7 FRI", "at 00:00 on the 13th or on Friday, in January and July"},
		{"0 0 * 1 *", "at 00:00 every day in January"},
		{"*/5 * * 1-3 *", "every 5 minutes in January to March"},
		{"*/5 * 1 * *", "every 5 minutes on the 1st of every month"},
		{"* * * * SUN", "every minute on Sunday"},
		{"* * * * 5-7", "every minute on Friday to Sunday"},
		{"0 0 * */3 MON,WED", "at 00:00 on Monday and Wednesday in January, April, July and October"},
		{"* * * * * *", "every second"},
		{"*/10 * * * * *", "every 10 seconds"},
		{"*/7 * * * * *", "every 7 seconds from second 0 to 56 of every minute"},
		{"30 * * * * *", "at second 30 of every minute"},
		{"15,45 * * * * *", "at seconds 15 and 45 of every minute"},
		{"30 * 9-17 * * *", "at second 30 of every minute of hours 9 to 17"},
		{"* * 3 * * *", "every second of hour 3"},
		{"0-5 0 * * * *", "at seconds 0 to 5 of minute 0 of every hour"},
		{"*/15 0-29 9-17 * * 1-5", "every 15 seconds of minutes 0 to 29 of hours 9 to 17 on Monday to Friday"},
		{"30 15 2 * * *", "at 02:15:30 every day"},
		{"0 2 * * * *", "at 2 minutes past every hour"},
		{"0 */2 * * * *", "every 2 minutes"},
		{"@hourly", "every hour"},
		{"@daily", "at 00:00 every day"},
		{"@weekly", "at 00:00 on Sunday"},
		{"@monthly", "at 00:00 on the 1st of every month"},
		{"@yearly", "at 00:00 on the 1st of January"},
	} {
		e, err := Parse(c.expression, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := e.Describe(); got != c.want {
			t.Errorf("%s: %s; want %s", c.expression, got, c.want)
		}
	}
}

// TestDescribeTellsApart: what is due at other times reads differently.
func TestDescribeTellsApart(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	seen := map[string]Expression{}
	for range 20_000 {
		e, err := Parse(randomExpression(random, true), nil)
		if err != nil {
			t.Fatal(err)
		}
		text := e.Describe()
		if strings.Contains(text, "  ") || text == "" {
			t.Errorf("%s: %q", e, text)
		}
		same := *e
		same.text = ""
		if other, ok := seen[text]; ok && other != same {
			t.Fatalf("%s: %q is said of something else, too", e, text)
		}
		seen[text] = same
	}
}
