package web

import (
	"testing"
	"time"
)

func TestSentence(t *testing.T) {
	for text, want := range map[string]string{
		"":                     "",
		" a job waits ":        "A job waits.",
		"Is it there?":         "Is it there?",
		"écrit ailleurs":       "Écrit ailleurs.",
		"ошибка":               "Ошибка.",
		"لا يوجد":              "لا يوجد.",
		"3 jobs wait":          "3 jobs wait.",
		"it goes on…":          "It goes on…",
		"'x' is not known: 日本": "'x' is not known: 日本.",
	} {
		if got := sentence(text); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

func TestRelative(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	for _, x := range []struct {
		d    time.Duration
		want string
	}{
		{0, "just now"}, {999 * time.Millisecond, "just now"}, {-999 * time.Millisecond, "now"}, {time.Second, "1 s ago"}, {-1600 * time.Millisecond, "in 2 s"},
		{59600 * time.Millisecond, "60 s ago"}, {99400 * time.Millisecond, "99 s ago"}, {99500 * time.Millisecond, "2 min ago"}, {100 * time.Second, "2 min ago"},
		{-(3*time.Minute - 2*time.Second), "in 3 min"}, {99*time.Minute + 29*time.Second, "99 min ago"}, {99*time.Minute + 30*time.Second, "1 h 40 min ago"},
		{-(2*time.Hour - 2*time.Second), "in 2 h"}, {-2 * time.Hour, "in 2 h"}, {2*time.Hour + 29*time.Second, "2 h ago"}, {2*time.Hour + 31*time.Second, "2 h 1 min ago"},
		{-(3*time.Hour - time.Minute), "in 2 h 59 min"}, {9*time.Hour + 59*time.Minute + 29*time.Second, "9 h 59 min ago"}, {10*time.Hour - 20*time.Second, "10 h ago"},
		{-(24*time.Hour - 2*time.Second), "in 24 h"}, {47*time.Hour + 29*time.Minute, "47 h ago"}, {47*time.Hour + 31*time.Minute, "2 days ago"},
		{3*day - time.Hour, "2 days 23 h ago"}, {-(3*day - time.Second), "in 3 days"}, {10*day - time.Hour, "9 days 23 h ago"}, {10*day + 11*time.Hour, "10 days ago"},
		{10*day + 13*time.Hour, "11 days ago"}, {999 * day, "999 days ago"}, {1000 * day, "2.7 years ago"}, {-10 * 365 * day, "in 10.0 years"},
	} {
		if got := relative(x.d); got != x.want {
			t.Errorf("%v: %q instead of %q", x.d, got, x.want)
		}
	}
}
