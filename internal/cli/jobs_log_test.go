package cli

import (
	"context"
	"encoding/json"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The lines of a running job can be read and followed, to its end.
func TestJobsLog(t *testing.T) {
	s := newStage(t)
	wait := filepath.Join(s.dir, "go-on")
	s.script("talk.sh", `#!/bin/sh
echo "attempt $GRAPHILE_WORKER_JOB_ATTEMPTS begins"
while [ ! -e '`+wait+`' ]; do sleep 0.02; done
if [ $GRAPHILE_WORKER_JOB_ATTEMPTS = 1 ]; then echo "no luck" >&2; exit 1; fi
printf 'the \033[31mend'
`)
	s.exec(`select offstage.configure_task('talk', '{"retry": {"policy": "fixed", "delay": "1 ms"}}')`)
	s.add("talk", nil)
	s.want(Done, "jobs", "log", "1").says(t, "no lines")
	s.want(NotFound, "jobs", "log", "4711").says(t, "job 4711: job not found")
	s.want(NotFound, "jobs", "log", "4711", "--follow")
	s.want(Usage, "jobs", "log", "seven").says(t, "not the id of a job")
	s.start("worker", "--poll-interval", "50")

	m, out, errs := s.call("jobs", "log", "1", "--follow")
	ended := make(chan int, 1)
	go func() { ended <- m.Run(context.WithoutCancel(t.Context())) }()
	s.eventually(func() bool { return strings.Contains(out.String(), "attempt 1 begins") })
	s.want(Done, "jobs", "get", "1").says(t, "Log of attempt 1", "attempt 1 begins")
	s.script("../go-on", "")
	if exit := <-ended; exit != Done {
		t.Errorf("it ended with %d: %s", exit, errs)
	}
	clock := regexp.MustCompile(`\d\d:\d\d:\d\d\.\d{3}|\d{4}-\d\d-\d\d`)
	want := "attempt 1, T\nT attempt 1 begins\nT ERROR no luck\nattempt 2, T\nT attempt 2 begins\nT the \uFFFD[31mend\n"
	if got := clock.ReplaceAllString(out.String(), "T"); got != want {
		t.Errorf("it said\n%s\nexpected\n%s", got, want)
	}
	if got := clock.ReplaceAllString(s.want(Done, "jobs", "log", "1").out, "T"); got != want {
		t.Errorf("afterwards it says\n%s", got)
	}
	var all []logLine
	for line := range strings.Lines(s.want(Done, "jobs", "log", "1", "--json").out) {
		var l logLine
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		all = append(all, l)
	}
	if len(all) != 4 || all[1].Level != "error" || all[1].Message != "no luck" || all[3].Attempt != 2 || all[3].Message != "the \x1b[31mend" {
		t.Errorf("%+v", all)
	}
	if d := decode[jobDetail](t, s.want(Done, "jobs", "get", "1", "--json")); len(d.Log) != 4 || d.Log[0].Message != "attempt 1 begins" {
		t.Errorf("%+v", d.Log)
	}

	// What is interrupted says so.
	s.exec(`select offstage.pause_task('talk')`)
	s.add("talk", nil)
	ctx, cancel := context.WithCancel(t.Context())
	m, _, _ = s.call("jobs", "log", "2", "-f")
	go func() { ended <- m.Run(ctx) }()
	cancel()
	if exit := <-ended; exit != Interrupted {
		t.Errorf("an interrupted one ended with %d", exit)
	}
}
