package cli

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/internal/pgtest"
)

func (s *stage) eventually(ok func() bool) {
	s.t.Helper()
	pgtest.Eventually(s.t, 30*time.Second, ok)
}

func TestWorkerOnce(t *testing.T) {
	s := newStage(t)
	s.script("users/hello.sh", "#!/bin/sh\necho from the task\n")
	s.script("bad.sh", "#!/bin/sh\nexit 1\n")
	a, b := s.add("users/hello", nil), s.add("bad", nil)
	r := s.want(Done, "worker", "--once", "--jobs", "2", "--poll-interval", "50", "--log-format", "json", "-v")
	outcomes := map[string]int{}
	for line := range strings.Lines(r.errs) {
		var rec struct {
			Msg   string `json:"msg"`
			JobID int64  `json:"job_id"`
		}
		if err := json.Unmarshal([]byte(line), &rec); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if rec.JobID != 0 {
			outcomes[rec.Msg]++
		}
	}
	if outcomes["started"] != 2 || outcomes["succeeded"] != 1 || outcomes["failed"] != 1 || outcomes["from the task"] != 1 {
		t.Errorf("%v\n%s", outcomes, r.errs)
	}
	if st, err := s.client.Status(t.Context(), a); err != nil || st.Outcome != offstage.OutcomeSucceeded {
		t.Errorf("%+v %v", st, err)
	}
	if st, err := s.client.Status(t.Context(), b); err != nil || st.State != offstage.Scheduled {
		t.Errorf("%+v %v", st, err)
	}
	s.want(Done, "worker", "--once") // nothing to do
}

// A log that is kept does not tell of every job, unless asked to.
func TestWorkerIsQuiet(t *testing.T) {
	s := newStage(t)
	s.script("hello.sh", "#!/bin/sh\n")
	s.add("hello", nil)
	if r := s.want(Done, "worker", "--once"); strings.Contains(r.errs, "started") {
		t.Error(r.errs)
	}
	s.edit = func(m *Main) { m.ErrTerminal = true }
	s.env["NO_COLOR"] = "1"
	s.add("hello", nil)
	s.want(Done, "worker", "--once").says(t, " started   #2 hello, attempt 1\n", " succeeded #2 hello, attempt 1 in ")
}

func TestWorkerFlags(t *testing.T) {
	s := newStage(t)
	s.script("hello.sh", "#!/bin/sh\n")
	id := s.add("hello", nil, offstage.Options{Flags: []string{"heavy"}})
	s.want(Done, "worker", "--once", "--forbid-flag", "heavy")
	s.stateOf(id, offstage.Waiting)
	s.want(Done, "worker", "--once", "--forbid-flag", "light")
	if st, err := s.client.Status(t.Context(), id); err != nil || st.Outcome != offstage.OutcomeSucceeded {
		t.Errorf("%+v %v", st, err)
	}
}

func TestWorkerJavaScript(t *testing.T) {
	s := newStage(t)
	s.script("users/hello.js", "module.exports = async ({ name }, { addJob, logger }) => { logger.info(`Hello, ${name}`); return (await addJob('bye', { name }, { priority: -1 })).task_identifier }\n")
	s.script("bye.cjs", "module.exports = ({ name }) => `Bye, ${name}`\n")
	s.script("sh.sh", "#!/bin/sh\n")
	s.script("broken.js", "throw new Error('no key')\n")
	a, b, c := s.add("users/hello", map[string]string{"name": "Bobby Tables"}), s.add("sh", nil), s.add("broken", nil)
	r := s.want(Done, "worker", "--once", "--node-processes", "1")
	r.says(t, "Hello, Bobby Tables", "a task does not run; its jobs wait", "broken.js does not load: no key")
	for id, want := range map[int64]string{a: `"bye"`, b: "", c + 1: `"Bye, Bobby Tables"`} {
		if st, err := s.client.Status(t.Context(), id); err != nil || st.Outcome != offstage.OutcomeSucceeded || string(st.Result) != want {
			t.Errorf("%d: %+v %v", id, st, err)
		}
	}
	s.stateOf(c, offstage.Waiting)
}

// Without Node everything else works, and jobs of JavaScript tasks say why they wait.
func TestWorkerWithoutNode(t *testing.T) {
	s := newStage(t)
	s.script("page.js", "module.exports = async () => {}\n")
	s.want(Usage, "worker", "--node", s.dir+"/none").says(t, "install Node 18 or newer")
	old := s.dir + "/old-node"
	pgtest.Program(t, old, "#!/bin/sh\necho v14.0.0\n")
	s.want(Usage, "worker", "--node", old).says(t, "is v14.0.0: install Node 18 or newer")
	s.script("hello.sh", "#!/bin/sh\n")
	s.env["PATH"] = "/nowhere"
	id := s.add("page", nil)
	s.add("hello", nil)
	errs, stop := s.start("worker", "--tasks", s.dir+"/tasks")
	s.eventually(func() bool { return strings.Contains(errs.String(), "worker is ready") })
	s.eventually(func() bool {
		var why string
		err := s.pool.QueryRow(t.Context(), `select offstage.explain($1)`, id).Scan(&why)
		return err == nil && strings.Contains(why, "has it, but: no usable Node: there is no node on the PATH: install Node 18 or newer")
	})
	s.eventually(func() bool {
		st, err := s.client.Status(t.Context(), id+1)
		return err == nil && st.Outcome == offstage.OutcomeSucceeded
	})
	stop()
	said{errs: errs.String()}.says(t, "JavaScript tasks do not run; their jobs wait")
}

// dev loads what has changed, and lets what runs finish.
func TestDevReloads(t *testing.T) {
	s := newStage(t)
	errs, stop := s.start("dev", "--node-processes", "1")
	s.eventually(func() bool { return strings.Contains(errs.String(), "there is no directory ./tasks") })
	// However many looks a change takes, and whoever of the two workers takes the first jobs.
	answers := func(task, want string) {
		t.Helper()
		id := s.add(task, nil)
		s.eventually(func() bool {
			st, err := s.client.Status(t.Context(), id)
			if err != nil || st.Outcome != offstage.OutcomeSucceeded {
				return false
			}
			if string(st.Result) == want {
				return true
			}
			id = s.add(task, nil)
			return false
		})
	}
	s.script("hello.js", "module.exports = () => 'one'\n")
	answers("hello", `"one"`)
	s.script("hello.js", "module.exports = () => 'two'\n")
	s.eventually(func() bool {
		return strings.Count(errs.String(), "loaded anew") == 2 && strings.Count(errs.String(), "worker is ready") == 2
	})
	answers("hello", `"two"`)
	s.script("hello.js", "module.exports = (\n")
	s.eventually(func() bool { return strings.Contains(errs.String(), "hello.js does not load") })
	s.script("hello.js", "module.exports = () => 'three'\n")
	answers("hello", `"three"`)
	stop()
}

func TestWorkerStops(t *testing.T) {
	s := newStage(t)
	s.script("hello.sh", "#!/bin/sh\n")
	errs, stop := s.start("worker", "--tasks", s.dir+"/tasks")
	s.eventually(func() bool { return strings.Contains(errs.String(), "worker is ready") })
	stop()
	if !strings.Contains(errs.String(), "worker has stopped") {
		t.Errorf("log:\n%s", errs)
	}
	// A signal that comes before it has connected ends it the same way.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	m, _, _ := s.call("worker")
	if exit := m.Run(ctx); exit != Done {
		t.Errorf("exit code %d", exit)
	}
}

// Where a database is named, dev starts none.
func TestDevWithDatabase(t *testing.T) {
	t.Parallel()
	db := pgtest.Bare(t)
	s := onStage(t, db.URL)
	errs, stop := s.start("dev")
	s.eventually(func() bool { return strings.Contains(errs.String(), "no worker runs: there is no directory ./tasks") })
	s.want(Done, "jobs")
	s.want(NotFound, "dev", "url").says(t, "start it: offstage dev")
	stop()
	if strings.Contains(errs.String(), "initialising") {
		t.Error(errs)
	}
}

// The private server is found by the other commands of the project, and gone at the end.
func TestDevPrivate(t *testing.T) {
	t.Parallel()
	s := onStage(t, "")
	s.script("hello.sh", "#!/bin/sh\noffstage_url=${DATABASE_URL:+set}\necho \"\\\"$offstage_url\\\"\" > \"$OFFSTAGE_RESULT\"\n")
	errs, stop := s.start("dev", "--temporary")
	s.eventually(func() bool { return strings.Contains(errs.String(), "worker is ready") })
	if out := s.want(Done, "add", "hello", "--wait").out; strings.TrimSpace(out) != `"set"` {
		t.Errorf("%q", out)
	}
	if status, body := visit(t, errs, "web UI", "/tasks"); status != 200 || !strings.Contains(body, "/tasks/hello") {
		t.Errorf("the web UI answers %d: %s", status, body)
	}
	url := strings.TrimSpace(s.want(Done, "dev", "url").out)
	said{errs: errs.String()}.says(t, "offstage add hello", `psql "$(offstage dev url)"`)
	if strings.Contains(errs.String(), url) || !strings.Contains(url, ":") {
		t.Errorf("the banner shows the password, or dev url none: %s\n%s", url, errs)
	}
	stop()
	said{errs: errs.String()}.says(t, "PostgreSQL has stopped")
	s.want(NotFound, "dev", "url")
	s.want(Unreachable, "jobs", "-c", url)
	// A dev that was killed leaves its note.
	forget, err := Main{Project: s.dir, Notes: s.notes}.ShareURL(url)
	if err != nil {
		t.Fatal(err)
	}
	s.want(Unreachable, "jobs").says(t, "start it again: offstage dev")
	forget()
	s.want(NotFound, "dev", "url")
}

func TestVerdict(t *testing.T) {
	t.Parallel()
	boom := errors.New("boom")
	with := func(cause error) context.Context {
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(cause)
		return ctx
	}
	for _, c := range []struct {
		ctx  context.Context
		err  error
		want string
	}{
		{t.Context(), boom, "failed; tries again"},
		{t.Context(), offstage.RetryIn(2*time.Second, boom), "failed; tries again in 2.0 s"},
		{t.Context(), offstage.Fail(boom), "failed; for good"},
		{t.Context(), offstage.Snooze(time.Second), "snoozed"},
		{t.Context(), offstage.Cancel(boom), "cancelled"},
		{with(offstage.ErrCancelled), boom, "cancelled"},
		{with(offstage.ErrStopping), boom, "released"},
		{with(offstage.ErrLost), boom, "released"},
	} {
		outcome, next := verdict(c.ctx, &offstage.Job{Attempt: 1, MaxAttempts: 2}, c.err)
		if outcome+next != c.want {
			t.Errorf("%v: %q instead of %q", c.err, outcome+next, c.want)
		}
	}
	if outcome, next := verdict(t.Context(), &offstage.Job{Attempt: 2, MaxAttempts: 2}, boom); outcome+next != "failed; no attempt is left" {
		t.Errorf("%q", outcome+next)
	}
}

func TestReadableLog(t *testing.T) {
	t.Parallel()
	var b text
	log := slog.New(&readable{out: &output{w: &b}, level: slog.LevelInfo}).With("worker", 3).WithGroup("g")
	log.Info("worker is ready", "slots", 10)
	log.Debug("hidden")
	log.Warn("failed", "job_id", 4, "task", "t", "attempt", 2, "took", "1 s", "error", "first\nsecond\x1b[0m")
	log.Error("a line", "job_id", 4, "task", "t", "attempt", 2)
	want := "worker is ready g.worker=3 g.slots=10\nfailed #4 t, attempt 2 in 1 s: first\nsecond\ufffd[0m g.worker=3\n#4 t | a line g.worker=3"
	var lines []string
	for line := range strings.Lines(b.String()) {
		line = strings.TrimRight(line, "\n")
		if len(line) > 13 && line[2] == ':' {
			line = line[13:]
		}
		lines = append(lines, line)
	}
	if got := squeeze(strings.Join(lines, "\n")); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestDurations(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]time.Duration{"2d": 48 * time.Hour, "1d12h": 36 * time.Hour, "90s": 90 * time.Second, "500ms": 500 * time.Millisecond, "0s": 0} {
		if got, err := parseDuration(text); err != nil || got != want {
			t.Errorf("%s: %v %v", text, got, err)
		}
	}
	for _, text := range []string{"", "5", "-2s", "xd", "d", "1d-2h", "99999d", "1 day"} {
		if got, err := parseDuration(text); err == nil {
			t.Errorf("%q: %v", text, got)
		}
	}
	for text, want := range map[string]time.Duration{"250": 250 * time.Millisecond, "2s": 2 * time.Second} {
		var d pollFlag
		if err := d.Set(text); err != nil || time.Duration(d) != want {
			t.Errorf("%s: %v %v", text, d, err)
		}
	}
	for d, want := range map[time.Duration]string{
		42 * time.Microsecond: "42 us", 1500 * time.Microsecond: "1.5 ms", 90 * time.Millisecond: "90 ms", 1200 * time.Millisecond: "1.2 s",
		65 * time.Second: "65 s", 5 * time.Minute: "5 min", 5 * time.Hour: "5 h", 3*time.Hour - 2*time.Second: "3 h", 3*time.Hour - time.Minute: "2 h 59 min",
		119*time.Second + 600*time.Millisecond: "2 min", 2*time.Hour - 2*time.Second: "2 h", 2*time.Hour - time.Minute: "119 min", 71 * time.Hour: "2 days 23 h", 20*24*time.Hour - time.Hour: "20 days", 72 * time.Hour: "3 days", -time.Second: "-1.0 s",
	} {
		if got := span(d); got != want {
			t.Errorf("%v: %q instead of %q", d, got, want)
		}
	}
}
