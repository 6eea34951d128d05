package web

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/offstage-dev/offstage/internal/view"
)

// liveStates and endedStates are what a job in a list can be.
var (
	liveStates  = []string{"scheduled", "waiting", "parked", "paused", "running", "failed"}
	endedStates = []string{"succeeded", "cancelled", "removed", "completed"}
)

// filterParams are the names of a filter in URLs, in the order in which their chips stand.
var filterParams = []string{
	"state", "task", "queue", "key", "flag", "worker", "error", "fingerprint", "added_after", "added_before", "payload_path", "payload_value",
}

// readFilter takes a filter from a URL or form.
func readFilter(v url.Values) (f view.JobFilter, err error) {
	get := func(name string) string { return strings.TrimSpace(v.Get(name)) }
	f = view.JobFilter{
		State: get("state"), Task: v.Get("task"), Queue: v.Get("queue"), Key: v.Get("key"), Flag: v.Get("flag"), Worker: get("worker"),
		Error: v.Get("error"), Fingerprint: get("fingerprint"), PayloadPath: get("payload_path"), PayloadIs: v.Get("payload_value"),
	}
	if f.State != "" && !slices.Contains(liveStates, f.State) && !slices.Contains(endedStates, f.State) {
		return f, fmt.Errorf("there is no state %q; use one of %s, or of those that have ended: %s", f.State, strings.Join(liveStates, ", "), strings.Join(endedStates, ", "))
	}
	if f.Worker != "" {
		if f.Worker, err = workerName(f.Worker); err != nil {
			return f, err
		}
	}
	if f.PayloadPath == "" && f.PayloadIs != "" {
		return f, errors.New("a payload's value needs a path: payload.user.id:7")
	}
	if f.AddedAfter, err = readTime(get("added_after"), time.Now()); err != nil {
		return f, err
	}
	f.AddedBefore, err = readTime(get("added_before"), time.Now())
	return f, err
}

func workerName(text string) (string, error) {
	id, err := strconv.ParseUint(strings.TrimPrefix(text, "worker-"), 10, 63)
	if err != nil {
		return "", fmt.Errorf("%q is not the name of a worker; write worker-7", text)
	}
	return "worker-" + strconv.FormatUint(id, 10), nil
}

// readTime understands a moment as forms and people write it: with a zone, or in the zone of this server, or how long ago.
func readTime(text string, now time.Time) (*time.Time, error) {
	if text == "" {
		return nil, nil
	}
	if t, err := time.Parse(time.RFC3339Nano, text); err == nil {
		return &t, nil
	}
	for _, layout := range []string{"2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02 15:04:05", "2006-01-02 15:04", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, text, now.Location()); err == nil {
			return &t, nil
		}
	}
	if d, err := howLongAgo(text); err == nil {
		t := now.Add(-d).Truncate(time.Second)
		return &t, nil
	}
	return nil, fmt.Errorf("%q is not a time; write 2026-01-31T15:04, or how long ago: 30m, 2h, 7d", text)
}

func howLongAgo(text string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(text, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		return time.Duration(n) * 24 * time.Hour, err
	}
	d, err := time.ParseDuration(text)
	if d < 0 {
		return 0, errors.New("not in the past")
	}
	return d, err
}

// filterValues is the filter as parameters of a URL; readFilter reads them back.
func filterValues(f view.JobFilter) url.Values {
	v := url.Values{}
	for _, p := range filterPairs(f) {
		v.Set(p[0], p[1])
	}
	return v
}

// filterPairs are the parameters that are set, with what people read.
func filterPairs(f view.JobFilter) (list [][2]string) {
	moment := func(t *time.Time) string {
		if t == nil {
			return ""
		}
		return t.UTC().Format(time.RFC3339Nano)
	}
	values := []string{f.State, f.Task, f.Queue, f.Key, f.Flag, f.Worker, f.Error, f.Fingerprint, moment(f.AddedAfter), moment(f.AddedBefore), f.PayloadPath, f.PayloadIs}
	for i, name := range filterParams {
		if values[i] != "" || name == "payload_value" && f.PayloadPath != "" {
			list = append(list, [2]string{name, values[i]})
		}
	}
	return list
}

// chip is a part of a filter that can be taken away.
type chip struct {
	Name, Value string
	Without     string // the URL without it, without the base path
}

// chips of a filter. The state has its tabs and is none.
func chips(f view.JobFilter) (list []chip) {
	for _, p := range filterPairs(f) {
		name, value := p[0], p[1]
		v := filterValues(f)
		v.Del(name)
		switch name {
		case "state", "payload_value":
			continue
		case "payload_path":
			name, value = "payload."+value, f.PayloadIs
			v.Del("payload_value")
		case "added_after":
			name, value = "added after", stamp(*f.AddedAfter)
		case "added_before":
			name, value = "added before", stamp(*f.AddedBefore)
		case "error":
			name = "error has"
		}
		list = append(list, chip{Name: name, Value: value, Without: jobsURL(v)})
	}
	return list
}

func jobsURL(v url.Values) string {
	if len(v) == 0 {
		return "/jobs"
	}
	return "/jobs?" + v.Encode()
}

// filterWords says a filter in a sentence: "failed jobs of task hello in queue x".
func filterWords(f view.JobFilter) string {
	words := "all jobs that have not ended"
	if f.State != "" {
		words = f.State + " jobs"
	} else if f != (view.JobFilter{}) {
		words = "jobs"
	}
	for _, p := range filterPairs(f) {
		switch p[0] {
		case "task":
			words += fmt.Sprintf(" of task %q", p[1])
		case "queue":
			words += fmt.Sprintf(" in queue %q", p[1])
		case "key":
			words += fmt.Sprintf(" with key %q", p[1])
		case "flag":
			words += fmt.Sprintf(" with flag %q", p[1])
		case "worker":
			words += " on " + p[1]
		case "error":
			words += fmt.Sprintf(" whose last error has %q", p[1])
		case "fingerprint":
			words += " that failed with error " + p[1]
		case "added_after":
			words += " added after " + stamp(*f.AddedAfter)
		case "added_before":
			words += " added before " + stamp(*f.AddedBefore)
		case "payload_path":
			words += fmt.Sprintf(" whose payload.%s is %q", p[1], f.PayloadIs)
		}
	}
	return words
}

// stamp is a moment for people: in the zone of this server, which it names.
func stamp(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05 MST") }
