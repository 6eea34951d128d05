package cron

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

func FuzzParse(f *testing.F) {
	for _, text := range []string{"* * * * *", "*/5 1-3 1,15 JAN-mar/2 FRI-SUN", "0 0 0 29 2 *", "@daily", "99999999999999999999-1 * * * *", "*/18446744073709551617 * * * *"} {
		f.Add(text, int64(1_772_000_000))
	}
	f.Add("30 2 * * *", int64(-1<<63))
	zones := []*time.Location{time.UTC, zone(f, "Africa/Casablanca"), zone(f, "Australia/Lord_Howe")}
	f.Fuzz(func(t *testing.T, text string, after int64) {
		steps := 0
		if _, err := parse(strings.Fields(text), nil, "", &steps); err != nil && strings.Contains(err.Error(), "\n") && !strings.Contains(text, "\n") {
			t.Errorf("%q: %v", text, err)
		}
		if steps > 10_000 {
			t.Errorf("%q: %d steps", text, steps)
		}
		for _, z := range zones {
			e, err := Parse(text, z)
			if err != nil {
				return
			}
			again, err := Parse(e.String(), z)
			if err != nil || *again != *e {
				t.Fatalf("%q is read as %q and then as %v, %v", text, e, again, err)
			}
			if e.Describe() == "" {
				t.Errorf("%q: no description", text)
			}
			s := search{Expression: e}
			next, ok := s.next(after)
			if s.steps > 10_000 {
				t.Errorf("%q: %d steps after %d", text, s.steps, after)
			}
			// No tick lies between.
			if between, sooner := e.Next(time.Unix(next-1, 0)); ok && next > earliest && (!sooner || between.Unix() != next || next <= after) {
				t.Errorf("%q: %d after %d, %v after one second less", text, next, after, between)
			}
		}
	})
}

func FuzzCrontab(f *testing.F) {
	for _, text := range []string{
		"# c\n* * * * * task ?id=a&fill=1d&max=3&tz=Europe/Berlin&from=2030-01-01 {a: 1}\r\n@daily x", "0 * * * * MON t", "* * * * * t ?jobKey=%41%zz+", "* * * * * t\u2028", "* * * * * t ?until=9999-12-31&tz=Etc/GMT-14",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		items, err := ParseCrontab(text)
		if err != nil && (items != nil || err.Error() == "") {
			t.Errorf("%q: %v, %v", text, items, err)
		}
		names := map[string]bool{}
		for _, item := range items {
			z, err := time.LoadLocation(item.Zone)
			if err != nil {
				t.Errorf("%q: %v", text, err)
			}
			if _, err := Parse(item.Expression, z); err != nil {
				t.Errorf("%q: %v", text, err)
			}
			if item.Task == "" || item.Name == "" || names[item.Name] || item.Overlap == "" || item.Payload != nil && !json.Valid(item.Payload) {
				t.Errorf("%q: %+v", text, item)
			}
			names[item.Name] = true
		}
	})
}

func FuzzJSON5(f *testing.F) {
	for _, text := range []string{
		`{a: [1, .5, 0x1f, -Infinity, 'x\u00e9\'', "\ud83d\ude00"], /* c */ $b: null,}`, `{"a": {"b": [true, false, 1e-7, {}]}}`, `[`, `{a:1}//`, `{\u0061:1}`, `"\`, `.`, `-`, `/*`,
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		out, err := parseJSON5(text)
		if err == nil {
			again, err := parseJSON5(string(out))
			if !json.Valid(out) || err != nil || string(again) != string(out) {
				t.Errorf("%q is %s, and then %s, %v", text, out, again, err)
			}
		}
		// JSON is JSON5, unless it nests too deep or has numbers that JavaScript has not.
		if json.Valid([]byte(text)) && err != nil && !strings.Contains(err.Error(), " levels, at ") && !strings.Contains(err.Error(), "too large, at ") {
			t.Errorf("%q: %v", text, err)
		}
	})
}
