package cli

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/internal/pgtest"
)

func TestAdd(t *testing.T) {
	s := newStage(t)
	if out := s.want(Done, "add", "plain").out; out != "1\n" {
		t.Errorf("%q", out)
	}
	if got := decode[map[string]string](t, s.want(Done, "add", "plain", `[1, 2]`, "--json")); got["id"] != "2" {
		t.Errorf("%v", got)
	}
	begin := time.Now()
	s.want(Done, "add", "full", `{"big": 12345678901234567890, "b": 1, "a": 2}`, "--queue", "q", "--in", "2d", "--max-attempts", "3", "--key", "k",
		"--key-mode", "preserve_run_at", "--priority", "-5", "--flag", "x,y", "--flag", "z", "--timeout", "90s")
	j, err := s.client.Get(t.Context(), 3)
	if err != nil {
		t.Fatal(err)
	}
	if string(j.Payload) != `{"big": 12345678901234567890, "b": 1, "a": 2}` || j.Queue != "q" || j.MaxAttempts != 3 || j.Key != "k" || j.Priority != -5 ||
		j.RunAt.Sub(begin.Add(48*time.Hour)).Abs() > time.Minute {
		t.Errorf("%+v", j)
	}
	d := decode[jobDetail](t, s.want(Done, "jobs", "get", "3", "--json"))
	if !slices.Equal(d.Flags, []string{"x,y", "z"}) || d.ID != "3" {
		t.Errorf("%+v", d)
	}
	s.want(Done, "add", "later", "{}", "--run-at", "2040-02-03T04:05:06+01:00")
	if j, err = s.client.Get(t.Context(), 4); err != nil || !j.RunAt.Equal(time.Date(2040, 2, 3, 3, 5, 6, 0, time.UTC)) {
		t.Errorf("%v %v", j.RunAt, err)
	}
	s.edit = func(m *Main) { m.Stdin = strings.NewReader("{\"from\": \"stdin\"}\n") }
	s.want(Done, "add", "piped", "-")
	if j, err = s.client.Get(t.Context(), 5); err != nil || strings.TrimSpace(string(j.Payload)) != `{"from": "stdin"}` {
		t.Errorf("%s %v", j.Payload, err)
	}
	s.edit = func(m *Main) { m.Stdin = strings.NewReader("{\n  \"a\": 1,\n  oops\n}") }
	s.want(Usage, "add", "piped", "-").says(t, "the payload on stdin is not JSON", "in line 3, column 3\n    oops\n    ^")
	s.want(Failed, "add", strings.Repeat("x", 129)).says(t, "at most 128")
}

func TestAddAndWait(t *testing.T) {
	s := newStage(t)
	s.script("double.sh", "#!/bin/sh\ncat > /dev/null\necho '{\"ok\": true}' > \"$OFFSTAGE_RESULT\"\n")
	s.script("quiet.sh", "#!/bin/sh\n")
	s.script("bad.sh", "#!/bin/sh\necho broken >&2; exit 7\n")
	s.start("worker", "--poll-interval", "100")
	if out := s.want(Done, "add", "double", "--wait").out; strings.TrimSpace(out) != `{"ok": true}` {
		t.Errorf("%q", out)
	}
	if out := s.want(Done, "add", "quiet", "--wait").out; out != "null\n" {
		t.Errorf("%q", out)
	}
	s.want(Failed, "add", "bad", "--max-attempts", "1", "--wait").says(t, "job 3 failed: exit status 7: broken", "offstage jobs get 3")
	s.want(Done, "jobs", "get", "1", "--wait").says(t, "job 1  double  succeeded", `"ok": true`)
	s.want(Failed, "jobs", "get", "3", "--wait").says(t, "exit status 7", "job 3 failed: exit status 7: broken")
	s.want(NotFound, "jobs", "get", "404", "--wait").says(t, "no job with this id is known")
	got := decode[map[string]any](t, s.want(Failed, "add", "bad", "--max-attempts", "1", "--wait", "--json"))
	if got["id"] != "4" || got["outcome"] != "failed" || got["error"] != "exit status 7: broken" || got["result"] != nil {
		t.Errorf("%v", got)
	}
}

// Who waits is told once how far the job is.
func TestAddAndWaitTellsProgress(t *testing.T) {
	s := newStage(t)
	gate := filepath.Join(s.dir, "go on")
	s.script("slow.sh", "#!/bin/sh\necho '10 begun' > \"$OFFSTAGE_PROGRESS\"\nwhile [ ! -e '"+gate+"' ]; do sleep 0.02; done\n")
	s.start("worker", "--poll-interval", "100")
	m, _, errs := s.call("add", "slow", "--wait")
	m.ErrTerminal = true
	ended := make(chan int, 1)
	go func() { ended <- m.Run(t.Context()) }()
	s.eventually(func() bool { return strings.Contains(errs.String(), "begun") })
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if exit := <-ended; exit != Done {
		t.Errorf("exit code %d\n%s", exit, errs)
	}
	for line := range strings.SplitSeq(errs.String(), "\r") {
		if strings.Count(line, "begun") > 1 {
			t.Errorf("%q", line)
		}
	}
}

func TestJobsList(t *testing.T) {
	s := newStage(t)
	s.want(Done, "jobs").says(t, "no jobs")
	if out := s.want(Done, "jobs", "--json").out; out != "[]\n" {
		t.Errorf("%q", out)
	}
	s.add("mail", nil, offstage.Options{Queue: "q", Key: "k"})
	s.add("mail", nil, offstage.Options{RunAt: time.Now().Add(time.Hour + time.Minute), Priority: 7})
	s.add("report", nil)
	s.fail(3, "no paper\nin the tray")
	want := `ID  STATE      TASK    QUEUE  KEY  PRIORITY  ATTEMPT  RUN AT     LAST ERROR
 1  waiting    mail    q      k           0     0/25  now
 2  scheduled  mail    -      -           7     0/25  in 61 min
 3  failed     report  -      -           0    25/25  -          no paper …
`
	got := s.want(Done, "jobs", "list").out
	got = strings.ReplaceAll(got, "in 60 min", "in 61 min")
	if j, err := s.client.Get(t.Context(), 3); err == nil && j.Attempt != 25 {
		want = strings.Replace(want, "25/25", fmt.Sprintf("%2d/25", j.Attempt), 1)
	}
	if squeeze(got) != squeeze(want) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	for args, ids := range map[string]string{
		"--state failed": "3", "--task mail": "1 2", "--queue q": "1", "--key k": "1", "--after 1": "2 3", "--state running": "", "--task mail --state scheduled": "2",
	} {
		for _, command := range []string{"jobs --json ", "jobs list --json "} {
			var found []string
			for _, j := range decode[[]jobJSON](t, s.want(Done, strings.Split(command+args, " ")...)) {
				found = append(found, j.ID)
			}
			if strings.Join(found, " ") != ids {
				t.Errorf("%s%s: %v", command, args, found)
			}
		}
	}
	s.want(Done, "jobs", "list", "--limit", "2").says(t, "there are more: --after 2")
	if r := s.want(Done, "jobs", "list", "--limit", "3"); strings.Contains(r.errs, "more") {
		t.Error(r.errs)
	}
	fields := decode[[]map[string]any](t, s.want(Done, "jobs", "--json"))[0]
	if names := strings.Join(slices.Sorted(maps.Keys(fields)), " "); names !=
		"added_at attempt flags id key last_error max_attempts priority queue run_at state task" {
		t.Errorf("fields: %s", names)
	}
	if fields["id"] != "1" {
		t.Errorf("ids are text: %v", fields["id"])
	}
}

func TestJobsHistory(t *testing.T) {
	s := newStage(t)
	s.want(Done, "jobs", "history").says(t, "nothing has ended")
	if out := s.want(Done, "jobs", "history", "--json").out; out != "[]\n" {
		t.Errorf("%q", out)
	}
	s.add("mail", nil, offstage.Options{Queue: "q", Key: "k"})
	s.add("report", nil)
	s.want(Done, "jobs", "cancel", "1", "--reason", "not needed", "--yes")
	s.fail(2, "no paper")
	out := s.want(Done, "jobs", "history").out
	lines := strings.Split(squeeze(out), "\n")
	if len(lines) < 3 || !strings.HasSuffix(lines[0], "ID TASK OUTCOME ATTEMPT TOOK WORKER ERROR") || !strings.Contains(lines[1], " 2 report failed ") || !strings.HasSuffix(lines[1], "no paper") ||
		!strings.Contains(lines[2], " 1 mail cancelled 0 - - not needed") {
		t.Errorf("got\n%s", out)
	}
	for args, ids := range map[string]string{
		"--task mail": "1", "--outcome failed": "2", "--since 1h": "2 1", "--before 2020-01-01": "", "--outcome succeeded": "",
	} {
		var found []string
		for _, e := range decode[[]entryJSON](t, s.want(Done, append([]string{"jobs", "history", "--json"}, strings.Split(args, " ")...)...)) {
			found = append(found, e.ID)
		}
		if strings.Join(found, " ") != ids {
			t.Errorf("%s: %v", args, found)
		}
	}
	_, page, _ := strings.Cut(s.want(Done, "jobs", "history", "--limit", "1").errs, "there is more: --before ")
	s.want(Done, "jobs", "history", "--before", strings.TrimSpace(page)).says(t, "cancelled")
	s.want(Usage, "jobs", "history", "--outcome", "done").says(t, "use one of succeeded, failed")
	s.want(Usage, "jobs", "history", "--before", "yesterday").says(t, "is no time")
	s.want(Usage, "jobs", "list", "--state", "succeeded").says(t, "offstage jobs history --outcome succeeded")
}

// squeeze makes runs of spaces one.
func squeeze(text string) string {
	var lines []string
	for line := range strings.Lines(text) {
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	return strings.Join(lines, "\n")
}

func TestJobsGet(t *testing.T) {
	s := newStage(t)
	s.script("work.sh", "#!/bin/sh\necho a line\nif [ $GRAPHILE_WORKER_JOB_ATTEMPTS = 1 ]; then echo no luck >&2; echo at all >&2; exit 1; fi\necho '[1]' > \"$OFFSTAGE_RESULT\"\n")
	s.exec(`select offstage.configure_task('work', '{"retry": {"policy": "fixed", "delay": "1 ms"}}')`)
	id := s.add("work", json.RawMessage(`{"z": 1, "a": "<b>"}`), offstage.Options{Queue: "q"})
	text := strconv.FormatInt(id, 10)
	s.want(Done, "jobs", "get", text).says(t, "job 1  work  waiting", "no worker is running", `"z": 1`)
	errs, stop := s.start("worker", "-v")
	s.want(Done, "jobs", "get", "#1") // as people copy it
	defer stop()
	s.waitEnded(id)
	r := s.want(Done, "jobs", "get", text).says(t, "succeeded", "ended at", "retried", "Error of attempt 1\n  exit status 1: ", "no luck\n", "at all", "a line", "Log of attempt 2", "worker-1", `"z": 1,`+"\n    \"a\": \"<b>\"")
	if !strings.Contains(errs.String(), "msg=failed job_id=1 task=work attempt=1") {
		t.Errorf("log:\n%s", errs)
	}
	d := decode[jobDetail](t, s.want(Done, "jobs", "get", text, "--json"))
	if d.State != nil || *d.Outcome != "succeeded" || string(d.Result) != "[\n    1\n  ]" || len(d.History) != 2 || d.History[0].Outcome != "retried" ||
		d.Task != "work" || *d.Queue != "q" || d.SettledAt == nil || d.Attempt != 2 {
		t.Errorf("%+v\n%s", d, r.out)
	}
	s.want(NotFound, "jobs", "get", "4711").says(t, "job 4711: job not found")

	// The time of a retry that will not come.
	id = s.add("work", nil, offstage.Options{RunAt: time.Now().Add(time.Hour)})
	s.want(Done, "jobs", "get", "2").says(t, "run at        20", "(in 60 min)")
	s.fail(id, "no")
	s.want(Done, "jobs", "get", "2").says(t, "run at        -\n")
	s.want(Done, "jobs", "cancel", strconv.FormatInt(s.add("work", nil, offstage.Options{RunAt: time.Now().Add(time.Hour)}), 10), "--yes")
	s.want(Done, "jobs", "get", "3").says(t, "cancelled", "run at        -\n")
}

func (s *stage) waitEnded(id int64) {
	s.t.Helper()
	if _, err := offstage.Await[json.RawMessage](s.t.Context(), s.client, id); err != nil {
		s.t.Fatal(err)
	}
	s.client.Close()
}

func TestActOnIDs(t *testing.T) {
	s := newStage(t)
	s.fail(s.add("t", nil), "x")
	s.add("t", nil)
	s.want(Usage, "jobs", "retry", "1").says(t, "add --yes", "not a terminal")
	s.want(Done, "jobs", "retry", "1", "--dry-run").says(t, "would retry 1 job")
	s.stateOf(1, offstage.Failed)
	s.want(Done, "jobs", "retry", "1", "1", "--yes").says(t, "retried 1 job\n")
	s.stateOf(1, offstage.Waiting)

	s.edit = func(m *Main) { m.Ask, m.Stdin = true, strings.NewReader("n\n") }
	s.want(Failed, "jobs", "cancel", "1").says(t, "cancel 1 job? [y/N]", "nothing was changed")
	s.edit = func(m *Main) { m.Ask, m.Stdin = true, strings.NewReader("") }
	s.want(Failed, "jobs", "cancel", "1")
	s.stateOf(1, offstage.Waiting)
	s.edit = func(m *Main) { m.Ask, m.Stdin = true, strings.NewReader("y\n") }
	s.want(Done, "jobs", "cancel", "1", "--reason", "not needed").says(t, "cancelled 1 job")
	s.edit = nil
	s.want(Done, "jobs", "get", "1").says(t, "cancelled", "not needed")

	s.want(Refused, "jobs", "retry", "1", "--yes").says(t, "job 1 has ended: cancelled")
	s.want(NotFound, "jobs", "delete", "4711", "--yes").says(t, "job 4711 is not known")
	got := decode[actResult](t, s.want(NotFound, "jobs", "delete", "1", "2", "4711", "--yes", "--json"))
	if fmt.Sprint(got) != "{1 false [2] [] [1] [4711]}" {
		t.Errorf("%v", got)
	}
	s.fail(s.add("t", nil), "x")
	s.want(Refused, "jobs", "cancel", "3", "--yes").says(t, "failed already")
	s.want(Done, "jobs", "delete", "3", "-y").says(t, "deleted 1 job")
}

func (s *stage) stateOf(id int64, want offstage.State) {
	s.t.Helper()
	j, err := s.client.Get(s.t.Context(), id)
	if err != nil || j.State != want {
		s.t.Errorf("job %d: %s instead of %s (%v)", id, j.State, want, err)
	}
}

// What runs can be asked to stop, but neither retried nor deleted.
func TestActOnRunning(t *testing.T) {
	s := newStage(t)
	s.script("long.sh", "#!/bin/sh\nexec sleep 60\n")
	s.script("other.sh", "#!/bin/sh\nexec sleep 60\n")
	id := s.add("long", nil)
	s.start("worker", "--grace", "1ms")
	s.eventually(func() bool { j, err := s.client.Get(t.Context(), id); return err == nil && j.State == offstage.Running })
	s.want(Refused, "jobs", "delete", "1", "--yes").says(t, "it is running; cancel it", "deleted 0 jobs")
	s.want(Refused, "jobs", "retry", "1", "--yes").says(t, "it is running")
	s.want(Done, "jobs", "delete", "--task", "long", "--yes").says(t, "deleted 0 jobs")
	s.want(Done, "workers").says(t, "alive", "1/10", "long other")
	s.want(Done, "jobs", "get", "1").says(t, "is running on worker", "running     ")
	s.want(Done, "jobs", "cancel", "1", "--yes").says(t, "asked 1 running job to stop")
	s.eventually(func() bool {
		st, err := s.client.Status(t.Context(), id)
		return err == nil && st.Outcome == offstage.OutcomeCancelled
	})
}

func TestActOnFilter(t *testing.T) {
	s := newStage(t)
	for i := range 2*page + 10 {
		task := "a"
		if i%2 == 1 {
			task = "b"
		}
		if i == 0 {
			task = "c"
		}
		s.add(task, nil)
	}
	s.want(Done, "jobs", "delete", "--task", "b", "--dry-run").says(t, fmt.Sprintf("would delete %d jobs", page+5))
	if got := decode[actResult](t, s.want(Done, "jobs", "delete", "--task", "b", "--dry-run", "--json")); got.Matched != page+5 || !got.DryRun || len(got.Done) != 0 {
		t.Errorf("%+v", got)
	}
	s.want(Usage, "jobs", "delete", "--task", "b")
	s.want(Done, "jobs", "delete", "--task", "b", "--yes").says(t, fmt.Sprintf("deleted %d jobs", page+5))
	s.want(Done, "jobs", "cancel", "--state", "waiting", "--task", "a", "--yes").says(t, fmt.Sprintf("cancelled %d jobs", page+4))
	s.stateOf(1, offstage.Waiting)
	s.fail(1, "x")
	s.want(Done, "jobs", "retry", "--state", "failed", "--yes").says(t, "retried 1 job")
	s.want(Done, "jobs", "retry", "--state", "failed", "--yes").says(t, "retried 0 jobs")
	s.want(Done, "jobs", "delete", "--all", "--yes").says(t, "deleted 1 job\n")
}

func TestQueues(t *testing.T) {
	s := newStage(t)
	s.want(Done, "queues").says(t, "no queues")
	s.want(NotFound, "queues", "pause", "q").says(t, "there are none yet")
	s.add("t", nil, offstage.Options{Queue: "q"})
	s.add("t", nil, offstage.Options{Queue: "q"})
	s.want(NotFound, "queues", "pause", "p").says(t, `no queue "p"`, "there are: q")
	s.want(Done, "queues", "configure", "p", "--concurrency", "1", "--create").says(t, "1 job at a time")
	s.want(Done, "queues", "pause", "p").says(t, "queue p is paused", "offstage queues resume p")
	s.want(Done, "queues", "configure", "q", "--concurrency", "3").says(t, "3 jobs at a time")
	want := `NAME  STATE   RUNNING  CONCURRENCY  PARKED
p     paused        0            1       0
q     open          0            3       0
`
	if got := s.want(Done, "queues").out; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	s.want(Done, "queues", "resume", "p").says(t, "goes on")
	got := decode[[]map[string]any](t, s.want(Done, "queues", "list", "--json"))
	if fmt.Sprint(got) != "[map[concurrency:1 name:p parked:0 paused:false running:0] map[concurrency:3 name:q parked:0 paused:false running:0]]" {
		t.Errorf("%v", got)
	}
}

func TestTasks(t *testing.T) {
	s := newStage(t)
	s.want(Done, "tasks").says(t, "no tasks")
	s.add("mail", nil)
	s.want(NotFound, "tasks", "pause", "male").says(t, "there are: mail")
	s.want(Done, "tasks", "pause", "mail").says(t, "offstage tasks resume mail")
	s.want(Done, "jobs").says(t, "paused")
	s.want(Done, "tasks", "configure", "mail", "--max-attempts", "5", "--timeout", "90s", "--keep", "failures", "--retry", `{"policy": "fixed", "delay": "10 s"}`)
	want := `NAME  STATE   WORKERS  MAX ATTEMPTS  TIMEOUT   KEEP      RETRY
mail  paused        0             5  00:01:30  failures  {"delay": "10 s", "policy": "fixed"}
`
	if got := s.want(Done, "tasks").out; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	s.want(Failed, "tasks", "configure", "mail", "--retry", `{"policy": "never"}`).says(t, "not known")
	s.want(Done, "tasks", "configure", "mail", "--max-attempts", "default", "--retry", "default")
	s.want(Done, "tasks", "resume", "mail")
	got := decode[[]taskRow](t, s.want(Done, "tasks", "--json"))
	if len(got) != 1 || got[0].MaxAttempts != nil || string(got[0].Retry) != "null" && got[0].Retry != nil || got[0].Paused || *got[0].Timeout != "00:01:30" {
		t.Errorf("%+v", got)
	}
}

func TestWorkersList(t *testing.T) {
	s := newStage(t)
	s.want(Done, "workers").says(t, "no workers", "offstage worker --tasks")
	s.script("hello.sh", "#!/bin/sh\n")
	_, stop := s.start("worker", "--jobs", "3")
	s.eventually(func() bool { return strings.Contains(s.run("workers").out, "alive") })
	got := decode[[]workerRow](t, s.want(Done, "workers", "--json"))
	if len(got) != 1 || got[0].ID != "1" || got[0].Slots != 3 || got[0].Version != offstage.Version || fmt.Sprint(got[0].Tasks) != "[hello]" {
		t.Errorf("%+v", got)
	}
	stop()
	s.want(Done, "workers").says(t, "no workers")
	s.want(Done, "workers", "--dead").says(t, "no workers")
	s.want(Done, "workers", "--help").says(t, "one that stops in good order is gone at once")
}

func TestWorkersDrain(t *testing.T) {
	s := newStage(t)
	s.script("hello.sh", "#!/bin/sh\n")
	for _, verb := range []string{"drain", "resume", "stop"} {
		s.want(Usage, "workers", verb)
		s.want(Usage, "workers", verb, "all").says(t, `"all" is no id of a worker`, "offstage workers")
		s.want(Usage, "workers", verb, "99999999999").says(t, "is no id of a worker")
		s.want(NotFound, "workers", verb, "7").says(t, "no worker of the id 7 lives", "offstage workers")
	}
	m, _, errs := s.call("worker", "--tasks", s.dir+"/tasks")
	ended := make(chan int, 1)
	go func() { ended <- m.Run(t.Context()) }()
	list := func(word string) func() bool {
		return func() bool { return strings.Contains(s.run("workers").out, word) }
	}
	s.eventually(list("alive"))
	if out := s.want(Done, "__complete", "workers", "drain", "").out; !strings.HasPrefix(out, "1\n") {
		t.Errorf("completion: %q", out)
	}
	s.want(Done, "workers", "resume", "1").says(t, "worker 1 was not drained")
	s.want(Done, "workers", "drain", "worker-1").says(t, "worker 1 is drained", "(0 jobs)", "offstage workers resume 1")
	s.eventually(list("draining"))
	s.want(Done, "workers", "drain", "1").says(t, "worker 1 is drained")
	s.want(Done, "add", "hello")
	if why := pgtest.One[string](t, s.pool, `select offstage.explain(1)`); !strings.Contains(why, " was drained since ") || !strings.Contains(why, "(cli, ") || !strings.Contains(why, "offstage workers resume 1") {
		t.Errorf("explain: %s", why)
	}
	s.want(Done, "workers", "resume", "1").says(t, "worker 1 goes on")
	s.eventually(func() bool {
		return pgtest.One[int](t, s.pool, `select count(*) from offstage_private.history where outcome = 'succeeded'`) == 1
	})
	s.want(Usage, "workers", "stop", "1").says(t, "stop worker 1 (process ", "--yes")
	s.want(Done, "workers", "stop", "1", "--dry-run").says(t, "would stop worker 1")
	s.want(Done, "workers", "stop", "1", "--yes").says(t, "worker 1 stops")
	select {
	case exit := <-ended:
		if exit != Done || !strings.Contains(errs.String(), "worker was told to stop") {
			t.Errorf("exit %d:\n%s", exit, errs)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("the worker does not end")
	}
	s.want(NotFound, "workers", "resume", "1").says(t, "no worker of the id 1 lives")
	s.want(Done, "audit", "--target", "worker 1").says(t, "drain", "resume", "stop")

	// One that does not answer any more.
	s.exec(`insert into offstage_private.worker (host, pid, version, slots, tasks, started_at, beat_at, period)
		values ('far', 7, 'v1', 1, '{1}', now() - interval '1 h', now() - interval '1 h', '1 s')`)
	s.want(Done, "workers", "stop", "2", "--yes").says(t, "worker 2 stops", "it has been silent since")
	s.want(Done, "workers").says(t, "silent, told to stop")
	s.want(Done, "workers", "drain", "2").says(t, "worker 2 was told to stop already")
	s.want(Refused, "workers", "resume", "2").says(t, "worker 2 was told to stop", "start another one")
}
