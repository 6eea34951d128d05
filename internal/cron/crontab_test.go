package cron

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"
)

func pointer[T any](v T) *T { return &v }

// same compares what JSON says: keys may come in another order.
func same(a, b json.RawMessage) bool {
	var x, y any
	return (a == nil) == (b == nil) && (a == nil || json.Unmarshal(a, &x) == nil && json.Unmarshal(b, &y) == nil && reflect.DeepEqual(x, y))
}

func TestCrontab(t *testing.T) {
	t.Parallel()
	berlin, date := zone(t, "Europe/Berlin"), time.Date
	sao := zone(t, "America/Sao_Paulo")
	for _, c := range []struct {
		line string
		want Item
	}{
		{"* * * * * task", Item{}},
		{"\ufeff*/5\t1-3  *  *  0,7   task  ", Item{Expression: "*/5 1-3 * * 0,7"}},
		{"* * * * * task {}", Item{Payload: json.RawMessage(`{}`)}},
		{"* * * * * task ?id=other { a: 'b {', c: [1,], }", Item{Name: "other", Payload: json.RawMessage(`{"a":"b {","c":[1]}`)}},
		{"* * * * * task ?id=a-1&fill=1w2d3h4m5s&max=3&queue=q:-_1&jobKey=k%20%2Bx+y&priority=-7",
			Item{Name: "a-1", Fill: 9*24*time.Hour + 3*time.Hour + 4*time.Minute + 5*time.Second, MaxAttempts: pointer(3), Queue: pointer("q:-_1"),
				JobKey: pointer("k +x y"), JobKeyMode: "replace", Priority: pointer(-7)}},
		{"* * * * * task ?jobKey=a=b&jobKeyMode=preserve_run_at", Item{JobKey: pointer("a=b"), JobKeyMode: "preserve_run_at"}},
		// What Graphile Worker does not know.
		{"0 30 2 * * MON-FRI task", Item{Expression: "0 30 2 * * MON-FRI"}},
		{"30 2 * JAN,FEB 1-5/2 task {x: 1, y: 2}", Item{Expression: "30 2 * JAN,FEB 1-5/2", Payload: json.RawMessage(`{"x":1,"y":2}`)}},
		{"* * * * * mon", Item{Task: "mon", Name: "mon"}},
		{"* * * * * mon task", Item{Expression: "* * * * * mon"}},
		{"@daily task ?tz=Europe/Berlin", Item{Expression: "@daily", Zone: "Europe/Berlin"}},
		{"@Hourly task ?tz=Etc/GMT+5", Item{Expression: "@Hourly", Zone: "Etc/GMT+5"}},
		{"* * * * * task ?jitter=90s&overlap=skip&catchup=17", Item{Jitter: 90 * time.Second, Overlap: "skip", Catchup: "17"}},
		{"* * * * * task ?catchup=all&overlap=allow", Item{Catchup: "all"}},
		{"* * * * * task ?from=2030-01-01&until=2030-12-31&tz=Europe/Berlin",
			Item{Zone: "Europe/Berlin", From: date(2030, 1, 1, 0, 0, 0, 0, berlin), Until: date(2030, 12, 31, 23, 59, 59, 0, berlin)}},
		{"* * * * * task ?from=2030-01-01T10:00:00+02:00&until=2030-01-01T10:00:00.5Z",
			Item{From: date(2030, 1, 1, 8, 0, 0, 0, time.UTC), Until: date(2030, 1, 1, 10, 0, 0, 5e8, time.UTC)}},
		// That day had no midnight.
		{"* * * * * task ?from=2018-11-04&until=2018-11-03&tz=America/Sao_Paulo", Item{Zone: "-"}},
		{"* * * * * task ?from=2018-11-04&until=2018-11-04&tz=America/Sao_Paulo",
			Item{Zone: "America/Sao_Paulo", From: date(2018, 11, 4, 1, 0, 0, 0, sao), Until: date(2018, 11, 4, 23, 59, 59, 0, sao)}},
	} {
		items, err := ParseCrontab("# a comment\r\n\n" + c.line + "\r\n#")
		if c.want.Zone == "-" {
			if err == nil {
				t.Errorf("%s: until before from is taken", c.line)
			}
			continue
		}
		if err != nil || len(items) != 1 {
			t.Errorf("%s: %v, %v", c.line, items, err)
			continue
		}
		got, want := items[0], c.want
		want.Line = 3
		for to, value := range map[*string]string{&want.Name: "task", &want.Task: "task", &want.Expression: "* * * * *", &want.Zone: "UTC", &want.Overlap: "allow"} {
			if *to == "" {
				*to = value
			}
		}
		if !same(got.Payload, want.Payload) || !got.From.Equal(want.From) || !got.Until.Equal(want.Until) {
			t.Errorf("%s: %s, from %v to %v", c.line, got.Payload, got.From, got.Until)
		}
		got.Payload, got.From, got.Until = want.Payload, want.From, want.Until
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s:\n%+v\n%+v", c.line, got, want)
		}
	}
	if items, err := ParseCrontab("* * * * * a\n#\n\n0 0 * * * b"); err != nil || len(items) != 2 || items[1].Line != 4 {
		t.Error(items, err)
	}
}

// TestCrontabErrors has the texts that are ours; those of Graphile Worker are compared with it in compat.
func TestCrontabErrors(t *testing.T) {
	t.Parallel()
	const options = "Options on line 1 of crontab "
	invalid := func(key, value, why string) string {
		return options + "contains invalid value for '" + key + "', value '" + value + "' is not compatible with this option: " + why + "."
	}
	for _, c := range []struct{ text, want string }{
		{"@reboot task", "Could not process line '1' of crontab: '@reboot task': @reboot has no meaning here, where many workers come and go: add the job from what starts your program"},
		{"@often task", "Could not process line '1' of crontab: '@often task': '@often' is unknown: use @hourly, @daily, @midnight, @weekly, @monthly, @yearly, @annually, or five fields"},
		{"@daily", "Could not process line '1' of crontab: '@daily'"},
		{"@daily 5", "Invalid command specification in line 1 of crontab."},
		{"60 * * * * * task", "Too large value '60' in seconds range in line 1 of crontab: expected values in the range 0-59."},
		{"* * * JAN-8-9 * task", "Unsupported syntax 'JAN-8-9' in months range in line 1 of crontab: this doesn't appear to be a number, range or wildcard"},
		{"* * * * * task ?max=0", invalid("max", "0", "use 1 to 32767")},
		{"* * * * * task ?max=99999999999999999999", invalid("max", "99999999999999999999", "use 1 to 32767")},
		{"* * * * * task ?priority=32768", invalid("priority", "32768", "use -32768 to 32767")},
		{"* * * * * task ?jobKey=", invalid("jobKey", "", "use 1 to 512 characters, none of them NUL")},
		{"* * * * * task ?jobKey=a%00", invalid("jobKey", "a\x00", "use 1 to 512 characters, none of them NUL")},
		{"* * * * * task ?fill=99999999999999999999s", invalid("fill", "99999999999999999999s", "use at most 36500d")},
		{"* * * * * task ?fill=36500d1s", invalid("fill", "36500d1s", "use at most 36500d")},
		{"* * * * * task ?tz=Mars/Olympus", invalid("tz", "Mars/Olympus", "use a name of the time zone database, such as Europe/Berlin, or UTC")},
		{"* * * * * task ?tz=Local", invalid("tz", "Local", "use a name of the time zone database, such as Europe/Berlin, or UTC")},
		{"* * * * * task ?tz=../etc/passwd", options + "contains invalid value for 'tz', value '../etc/passwd' is not compatible with this option."},
		{"* * * * * task ?from=tomorrow", invalid("from", "tomorrow", "use a date, 2030-12-31, or a time, 2030-12-31T18:00:00Z")},
		{"* * * * * task ?until=", invalid("until", "", "use a date, 2030-12-31, or a time, 2030-12-31T18:00:00Z")},
		{"* * * * * task ?from=2030-01-02&until=2030-01-01", invalid("until", "2030-01-01", "it is before 'from'")},
		{"* * * * * task ?overlap=never", options + "contains invalid value for 'overlap', value 'never' is not compatible with this option."},
		{"* * * * * task ?catchup=0", options + "contains invalid value for 'catchup', value '0' is not compatible with this option."},
		{"* * * * * task ?catchup=1001", options + "contains invalid value for 'catchup', value '1001' is not compatible with this option."},
		{"* * * * * task ?fill=0s&catchup=none", options + "contains both 'fill' and 'catchup', which say the same in two ways: use one of them."},
		{"* * * * * task ?flags=x", options + "contains unsupported key 'flags'; supported keys are: 'id', 'fill', 'max', 'queue', 'jobKey', 'jobKeyMode', 'priority', " +
			"'tz', 'jitter', 'from', 'until', 'overlap', 'catchup'."},
		{"#\n0" + strings.Repeat(",0", 400) + " * * * * t", "too long in line 2 of crontab: 809 bytes, and 768 are allowed, so write lists as ranges"},
		{"* * * * * t" + strings.Repeat("a", 128), "the task on line 1 of crontab has a name of 129 bytes: use at most 128"},
		{"* * * * * task {a: '\xff'}", "line 1 of crontab is not UTF-8: save the file in that encoding"},
		{"* * * * * task {a: '" + strings.Repeat("x", 64<<10) + "'}", "line 1 of crontab has 65558 bytes, and 65536 are allowed: keep large data where the task finds it"},
		{"* * * * * task {a: [1, -Infinity]}", "Failed to parse JSON5 payload on line 1 of crontab: JSON has no Infinity, at 1:17"},
		{"* * * * * task {a: NaN}", "Failed to parse JSON5 payload on line 1 of crontab: JSON has no NaN, at 1:7"},
		{"* * * * * task {a: 1e999}", "Failed to parse JSON5 payload on line 1 of crontab: a number is too large, at 1:9"},
		{"* * * * * task {a: 0x10000000000000000}", "Failed to parse JSON5 payload on line 1 of crontab: a hexadecimal number has more than 64 bits, at 1:23"},
		{"* * * * * task {a:" + strings.Repeat("[", 200) + "}", "Failed to parse JSON5 payload on line 1 of crontab: more than 100 levels, at 1:103"},
	} {
		if items, err := ParseCrontab(c.text); err == nil || err.Error() != c.want {
			t.Errorf("%.80s: %v\n%v\n%s", c.text, items, err, c.want)
		}
	}
}

func TestJSON5(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ text, want string }{
		{`{}`, `{}`},
		{`{a: 1, "b": 'c', 'd': "e", $f_1: [ ], ünï: {}, }`, `{"a":1,"b":"c","d":"e","$f_1":[],"ünï":{}}`},
		{`{a: 1, b: 2, a: 3}`, `{"a":3,"b":2}`},
		{`{"😀": 1, "\ud83d\ude00": 2}`, `{"😀":2}`},
		{`{a: [+1, -1, .5, 5., -.5e3, 0x1F, -0XfF, 1e-7, 0, -0]}`, `{"a":[1,-1,0.5,5,-0.5e3,31,-255,1e-7,0,-0]}`},
		{`{a: 12345678901234567890, b: 1.10}`, `{"a":12345678901234567890,"b":1.10}`}, // JavaScript would round it
		{`{a: null, b: true, c: false /* d */, // e }`, ``},
		{`/* before */ {a /**/ : /***/ 1 /* / */} // after {}`, `{"a":1}`},
		{`{a: "\x41\u00e9\n\0\'\q\\", b: '"'}`, `{"a":"Aé\u000a\u0000'q\\","b":"\""}`},
		{`{a: "\ud83d", \u0061b: 'x'}`, `{"a":"\ud83d","ab":"x"}`},
		{"{a: 'line \\\r\n continued'}", `{"a":"line  continued"}`},
		{"{a: 'line \n'}", ``},
	} {
		out, err := parseJSON5(c.text)
		if got := string(out); got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%s: %s, %v", c.text, got, err)
		}
	}
}
