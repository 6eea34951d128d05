package worker

import (
	"encoding/json"
	"math"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func FuzzStorable(f *testing.F) {
	for _, text := range []string{
		"", "plain", "nul \x00 inside", "bad \xff\xfe utf-8", "ä€🎭", "\xf0\x9f\x8e", strings.Repeat("ä", 100), strings.Repeat("\x00", 100),
		strings.Repeat("\x80", 100), strings.Repeat("a\xff", 50), "\xed\xa0\x80", // half of a surrogate pair
	} {
		for _, n := range []int{0, 1, 2, 3, 10, 1000} {
			f.Add(text, n)
		}
	}
	f.Fuzz(func(t *testing.T, text string, n int) {
		if n < 0 || n > 1<<20 {
			return
		}
		got := storable(text, n)
		if !utf8.ValidString(got) {
			t.Errorf("%q is not UTF-8", got)
		}
		if strings.Contains(got, "\x00") {
			t.Errorf("%q has a NUL", got)
		}
		if len(text) <= n && utf8.ValidString(text) && !strings.Contains(text, "\x00") && got != text {
			t.Errorf("%q fits and became %q", text, got)
		}
		// What PostgreSQL does not take is replaced, each byte by three at worst; and the mark of the cut.
		if most := 3*min(n, len(text)) + len("…"); len(got) > most {
			t.Errorf("%d bytes of at most %d became %d", len(text), n, len(got))
		}
		if utf8.ValidString(text) && !strings.Contains(text, "\x00") {
			if !strings.HasPrefix(text, strings.TrimSuffix(got, "…")) && !strings.HasPrefix(text, got) {
				t.Errorf("%q is not the beginning of %q", got, text)
			}
			if len(text) > n && len(got) < n-utf8.UTFMax+1 {
				t.Errorf("only %d bytes of the %d that are allowed are left of %d", len(got), n, len(text))
			}
		}
	})
}

func FuzzLines(f *testing.F) {
	f.Add("a\nb\n\nc", 1, 1)
	f.Add("", 0, 0)
	f.Add("some text of a line", 5000, 3)
	f.Add("x\nyy", 300, 150)
	f.Add("a long line", 1, 9000)
	f.Fuzz(func(t *testing.T, text string, times, wide int) {
		if !utf8.ValidString(text) || strings.ContainsAny(text, "\x00…") || times < 0 || wide < 0 || len(text)*(times+1)*(wide+1) > 4<<20 {
			return
		}
		text = strings.Map(func(r rune) rune {
			if r >= utf8.RuneSelf {
				return '?' // a cut through a rune leaves marks, which have tests of their own
			}
			return r
		}, text)
		var all []string
		for range times {
			for line := range strings.SplitSeq(text, "\n") {
				all = append(all, strings.Repeat(line, wide)[:min(len(line)*wide, longestLine)])
			}
		}
		checkLines(t, all)
	})
}

// The JSON of a policy says what the policy says, in the words that check_retry and retry_delay know.
func FuzzRetryPolicyJSON(f *testing.F) {
	for _, kind := range []uint8{0, 1, 2} {
		f.Add(kind, int64(time.Second), 2.5, int64(time.Hour), 0.0)
		f.Add(kind, int64(0), 1.0, int64(0), 1.0)
		f.Add(kind, int64(1500), math.E, int64(math.MaxInt64), 0.25)
		f.Add(kind, int64(-time.Second), 1e300, int64(-1), -1.0)
		f.Add(kind, int64(1), math.Inf(1), int64(1), math.NaN())
	}
	f.Fuzz(func(t *testing.T, kind uint8, base int64, factor float64, limit int64, jitter float64) {
		var p *RetryPolicy
		want := map[string]any{}
		switch kind % 3 {
		case 0:
			p = Exponential(time.Duration(base), factor, time.Duration(limit))
			want = map[string]any{"policy": "exponential", "base": base, "factor": factor}
			if limit > 0 {
				want["max"] = limit
			}
		case 1:
			p = Fixed(time.Duration(base))
			want = map[string]any{"policy": "fixed", "delay": base}
		case 2:
			p = Delays(time.Duration(base), time.Duration(limit))
			want = map[string]any{"policy": "list", "delays": []int64{base, limit}}
		}
		plain := *p
		p = p.Jitter(jitter)
		if plain.jitter != 0 {
			t.Fatal("Jitter changed the policy that it was asked of")
		}
		if jitter != 0 {
			want["jitter"] = jitter
		}
		text, err := json.Marshal(p)
		finite := func(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }
		if possible := finite(jitter) && (finite(factor) || kind%3 != 0); possible != (err == nil) {
			t.Fatalf("factor %v, jitter %v: %v", factor, jitter, err)
		} else if !possible {
			return
		}
		var got map[string]any
		if err := json.Unmarshal(text, &got); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if len(got) != len(want) {
			t.Errorf("%s has other keys than %v", text, want)
		}
		for key, w := range want {
			switch w := w.(type) {
			case int64:
				if !isInterval(t, got[key], w) {
					t.Errorf("%s: %s is not %d ns", text, key, w)
				}
			case []int64:
				list, _ := got[key].([]any)
				if len(list) != 2 || !isInterval(t, list[0], w[0]) || !isInterval(t, list[1], w[1]) {
					t.Errorf("%s: %s is not %d ns", text, key, w)
				}
			default:
				if got[key] != w {
					t.Errorf("%s: %s is not %v", text, key, w)
				}
			}
		}
	})
}

// isInterval says whether an interval of a policy is that many nanoseconds, to the microsecond (or to what a float holds).
func isInterval(t *testing.T, v any, ns int64) bool {
	t.Helper()
	s, _ := v.(string)
	number, unit, _ := strings.Cut(s, " ")
	n, err := strconv.ParseFloat(number, 64)
	if err != nil || unit != "us" && unit != "s" {
		t.Fatalf("%v is not a number of seconds or microseconds", v)
	}
	if unit == "s" {
		n *= 1e6
	}
	want := float64(ns) / 1e3
	return math.Abs(n-want) <= max(1, 1e-12*math.Abs(want))
}
