package compat_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/offstage-dev/offstage/internal/cron"
)

// crontab is one that both sides read, with moments (in ms) at which its items are compared: their ticks from start on,
// and those that we found (per item).
type crontab struct {
	Text   string    `json:"text"`
	Start  int64     `json:"start"`
	Probes [][]int64 `json:"probes"`
	items  []cron.Item
	err    error
}

type graphileItems struct {
	Error string
	Items []struct {
		Task, Identifier string
		Payload          json.RawMessage
		BackfillPeriod   float64
		MaxAttempts      *int
		QueueName        *string
		JobKey           *string
		JobKeyMode       string
		Priority         *int
		Ticks            []int64
		Probes           []bool
	}
}

// TestCrontab: crontabs mean the same here and in Graphile Worker, or are refused with the same words. Where we differ,
// the differences below say how.
func TestCrontab(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(20, 26))
	var given []*crontab
	for _, text := range crontabs {
		given = append(given, &crontab{Text: text})
	}
	for range 8_000 {
		given = append(given, &crontab{Text: randomCrontab(random)})
	}
	for _, c := range given {
		c.Start = time.Date(2000+random.IntN(120), time.Month(1+random.IntN(12)), 1+random.IntN(31), random.IntN(24), random.IntN(60), 0, 0, time.UTC).UnixMilli()
		if c.items, c.err = cron.ParseCrontab(c.Text); c.err == nil {
			for _, item := range c.items {
				c.Probes = append(c.Probes, ticks(t, item, c.Start, 3, 1<<62))
			}
		}
	}
	input, err := json.Marshal(given)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "crontabs.json")
	if err := os.WriteFile(file, input, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, version := range versions {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			var answers []graphileItems
			if err := json.Unmarshal(node(t, "crontab.mjs", version, file), &answers); err != nil {
				t.Fatal(err)
			}
			counts := map[string]int{}
			for i, c := range given {
				what, problem := c.compare(t, answers[i])
				counts[what]++
				if problem != "" {
					t.Errorf("%q: %s", c.Text, problem)
				}
			}
			t.Logf("%v", counts)
			if counts["equal"] < 3000 || counts["same error"] < 2000 {
				t.Errorf("too few crontabs are like each other for this to mean something: %v", counts)
			}
		})
	}
}

// ticks returns when we are due from start on, before end: some ticks of one item, in ms.
func ticks(t *testing.T, item cron.Item, start int64, most int, end int64) []int64 {
	t.Helper()
	e, err := cron.Parse(item.Expression, time.UTC)
	if err != nil {
		t.Fatal(err)
	}
	list := []int64{}
	at := time.UnixMilli(start - 1)
	for len(list) < most {
		next, ok := e.Next(at)
		if !ok || next.UnixMilli() >= end {
			break
		}
		list, at = append(list, next.UnixMilli()), next
	}
	return list
}

// Differences we want: an error of Graphile Worker's need not be ours where its line uses what only we know, and an error
// of ours need not be its where we refuse what it would accept and then fail on, tick by tick.
var (
	crontabExtensions = []*regexp.Regexp{
		regexp.MustCompile(`(?i)^Could not process line '\d+' of crontab: '.*(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec|sun|mon|tue|wed|thu|fri|sat)`),
		regexp.MustCompile(`^Could not process line '\d+' of crontab: '@`),
		regexp.MustCompile(`^Unsupported syntax '\d+-\d+/\d+' in `),
		regexp.MustCompile(`^Options on line \d+ of crontab contains unsupported key '\d+'`), // JavaScript looks at numbers first
		regexp.MustCompile(`^Options on line \d+ of crontab contains unsupported key '(?:tz|jitter|from|until|overlap|catchup)';`),
	}
	// sixFields is a line with seconds. Graphile Worker takes its first five fields for all, and refuses the line for one
	// of them, or for the command that begins with the sixth.
	sixFields = regexp.MustCompile(strings.ReplaceAll(
		`(?im)^ *(?:[0-9*/,-]+ +){4}(?:[0-9*/,-]|jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)+ +(?:[0-9*/,-]|sun|mon|tue|wed|thu|fri|sat)+ +[_a-z]`,
		" ", `[\t\v\f\r \x{a0}\x{2028}]`))
	crontabRefusals = []*regexp.Regexp{
		regexp.MustCompile(`is not compatible with this option: use `), // max=0, an empty job key, what no column holds
		regexp.MustCompile(`^Failed to parse JSON5 payload on line \d+ of crontab: (?:JSON has no (?:Infinity|NaN)|a number is too large|a hexadecimal number has more than 64 bits|more than 100 levels), at `),
		regexp.MustCompile(`^the task on line \d+ of crontab has a name of \d+ bytes`),
		regexp.MustCompile(`^too long in line \d+ of crontab: `),
		regexp.MustCompile(`^line \d+ of crontab has \d+ bytes`),
	}
)

func (c *crontab) compare(t *testing.T, g graphileItems) (what, problem string) {
	t.Helper()
	// The list of keys is longer here.
	theirError := strings.Replace(g.Error, "'jobKeyMode', 'priority'.", "'jobKeyMode', 'priority', 'tz', 'jitter', 'from', 'until', 'overlap', 'catchup'.", 1)
	switch {
	case g.Error == "" && c.err == nil:
		return "equal", c.compareItems(t, g)
	case c.err != nil && c.err.Error() == theirError:
		return "same error", ""
	case c.err != nil && matches(crontabRefusals, c.err.Error()):
		return "refused by us", ""
	case g.Error != "" && (matches(crontabExtensions, g.Error) || sixFields.MatchString(c.Text)):
		return "known to us", ""
	}
	return "different", fmt.Sprintf("Graphile Worker says %q, and we %v", g.Error, c.err)
}

func matches(list []*regexp.Regexp, text string) bool {
	for _, r := range list {
		if r.MatchString(text) {
			return true
		}
	}
	return false
}

func (c *crontab) compareItems(t *testing.T, g graphileItems) string {
	t.Helper()
	if len(c.items) != len(g.Items) {
		return fmt.Sprintf("%d items with Graphile Worker, %d with us", len(g.Items), len(c.items))
	}
	for i, want := range g.Items {
		item := c.items[i]
		payload := item.Payload
		if payload == nil {
			payload = json.RawMessage("null")
		}
		got := graphileItems{}.Items
		got = append(got, want)
		got[0].Task, got[0].Identifier, got[0].BackfillPeriod = item.Task, item.Name, float64(item.Fill.Milliseconds())
		got[0].MaxAttempts, got[0].QueueName, got[0].JobKey, got[0].Priority = item.MaxAttempts, item.Queue, item.JobKey, item.Priority
		got[0].JobKeyMode = item.JobKeyMode
		got[0].Ticks = ticks(t, item, c.Start, 10, c.Start+(2*24*time.Hour).Milliseconds())
		if x, y := value(t, payload), value(t, want.Payload); !reflect.DeepEqual(x, y) {
			return fmt.Sprintf("payload %s with Graphile Worker, %s with us", want.Payload, payload)
		}
		if !reflect.DeepEqual(got[0], want) {
			return fmt.Sprintf("Graphile Worker reads %+v, we %+v", want, got[0])
		}
		for n, due := range want.Probes {
			if !due {
				return fmt.Sprintf("Graphile Worker is not due at %v", time.UnixMilli(c.Probes[i][n]).UTC())
			}
		}
	}
	return ""
}

func value(t *testing.T, text json.RawMessage) (v any) {
	t.Helper()
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return v
}
