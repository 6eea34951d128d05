package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// text is a buffer that several goroutines may write to.
type text struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (t *text) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.b.Write(p)
}

func (t *text) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.b.String()
}

// stage is a database and how the program is called for it.
type stage struct {
	t      *testing.T
	db     *pgtest.DB
	pool   *pgxpool.Pool
	client *offstage.Client
	env    map[string]string
	edit   func(*Main)
	dir    string // the project
	notes  string
}

func newStage(t *testing.T) *stage {
	t.Helper()
	t.Parallel()
	db := pgtest.New(t)
	s := onStage(t, db.URL)
	s.db = db
	s.pool = db.Pool(t)
	var err error
	if s.client, err = offstage.New(s.pool, offstage.Config{}); err != nil {
		t.Fatal(err)
	}
	return s
}

func onStage(t *testing.T, url string) *stage {
	return &stage{t: t, env: map[string]string{"DATABASE_URL": url}, dir: t.TempDir(), notes: t.TempDir()}
}

// said is what a call wrote, and its exit code.
type said struct {
	exit int
	out  string
	errs string
}

// call is one call of the program; Out and Errs may be read while it runs.
func (s *stage) call(args ...string) (m Main, out, errs *text) {
	out, errs = &text{}, &text{}
	env := maps.Clone(s.env) // what the test changes later is for later calls
	m = Main{
		Args: args, Stdin: strings.NewReader(""), Stdout: out, Stderr: errs, Project: s.dir, Notes: s.notes,
		Getenv: func(name string) string { return env[name] },
	}
	if s.edit != nil {
		s.edit(&m)
	}
	return m, out, errs
}

func (s *stage) run(args ...string) said {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	m, out, errs := s.call(args...)
	exit := m.Run(ctx)
	if ctx.Err() != nil {
		s.t.Fatalf("offstage %v did not end within a minute\n%s", args, errs)
	}
	return said{exit, out.String(), errs.String()}
}

// want runs and checks the exit code.
func (s *stage) want(exit int, args ...string) said {
	s.t.Helper()
	r := s.run(args...)
	if r.exit != exit {
		s.t.Fatalf("offstage %s: exit code %d instead of %d\n%s%s", strings.Join(args, " "), r.exit, exit, r.out, r.errs)
	}
	if strings.Contains(r.errs, "goroutine ") || strings.Contains(r.errs, "panic") {
		s.t.Errorf("offstage %v shows a stack:\n%s", args, r.errs)
	}
	return r
}

func (r said) says(t *testing.T, parts ...string) said {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(r.out+"\n"+r.errs, part) {
			t.Errorf("%q is missing in\n%s%s", part, r.out, r.errs)
		}
	}
	return r
}

// decode reads what was printed with --json.
func decode[T any](t *testing.T, r said) (v T) {
	t.Helper()
	dec := json.NewDecoder(strings.NewReader(r.out))
	if err := dec.Decode(&v); err != nil || dec.More() {
		t.Fatalf("not one JSON value (%v):\n%s", err, r.out)
	}
	return v
}

func (s *stage) add(task string, payload any, opts ...offstage.Options) int64 {
	s.t.Helper()
	id, err := s.client.Add(s.t.Context(), task, payload, opts...)
	if err != nil {
		s.t.Fatal(err)
	}
	return id
}

func (s *stage) exec(sql string, args ...any) {
	s.t.Helper()
	pgtest.Do(s.t, s.pool, sql, args...)
}

// fail makes a job a failed one.
func (s *stage) fail(id int64, message string) {
	s.t.Helper()
	s.exec(`select offstage.permanently_fail_jobs(array[$1::bigint], $2)`, id, message)
}

// script makes an executable task.
func (s *stage) script(name, source string) {
	s.t.Helper()
	path := filepath.Join(s.dir, "tasks", name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		s.t.Fatal(err)
	}
	pgtest.Program(s.t, path, source)
}

// start runs a server until stop is called, which checks that it ends with exit code 0.
func (s *stage) start(args ...string) (errs *text, stop func()) {
	s.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	m, _, errs := s.call(args...)
	ended := make(chan int, 1)
	go func() { ended <- m.Run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			select {
			case exit := <-ended:
				if exit != Done {
					s.t.Errorf("offstage %v: exit code %d\n%s", args, exit, errs)
				}
			case <-time.After(time.Minute):
				s.t.Errorf("offstage %v did not stop within a minute\n%s", args, errs)
			}
		})
	}
	s.t.Cleanup(stop)
	return errs, stop
}

func TestHelpAndVersion(t *testing.T) {
	t.Parallel()
	s := onStage(t, "")
	s.want(Done).says(t, "Exit codes:", "5    the database cannot be reached", "130  interrupted", "doctor", "bench")
	s.want(Done, "--help").says(t, "Exit codes:")
	s.want(Done, "worker", "--help").says(t, "--poll-interval", "--jobs", "milliseconds")
	s.want(Done, "jobs", "--help").says(t, "Lists jobs that have not ended", "--state")
	s.want(Done, "version").says(t, "offstage "+offstage.Version)
	s.want(Done, "--version").says(t, "offstage "+offstage.Version)
	v := decode[map[string]any](t, s.want(Done, "version", "--json"))
	if v["version"] != offstage.Version || v["schema"] == nil || v["platform"] == nil {
		t.Errorf("%v", v)
	}
}

// A wrong command line is told before anything connects: the URL leads nowhere.
func TestUsage(t *testing.T) {
	t.Parallel()
	s := onStage(t, "postgres://nobody:secret@127.0.0.1:1/none")
	for _, c := range []struct{ args, say string }{
		{"jbos", `no command "jbos"; did you mean jobs?`},
		{"jobs gte", `offstage jobs has no command "gte"; did you mean get?`},
		{"--nonsense", "unknown flag"},
		{"jobs list --nonsense", "see offstage jobs list --help"},
		{"add", "accepts between 1 and 2 arg"},
		{"add t {} more", "accepts between 1 and 2 arg"},
		{"add t {a:1}", "taken the quotes away"},
		{`add t [1,2`, "unexpected end of JSON input, in line 1, column 5"},
		{"add t {} --in 5", `"5" is no duration`},
		{"add t {} --in -5s", "no duration"},
		{"add t {} --run-at tomorrow", `"tomorrow" is no time`},
		{"add t {} --in 5m --run-at 2030-01-01", "none of the others can be"},
		{"add t {} --key-mode replace", "--key-mode goes with --key"},
		{"add t {} --key k --key-mode merge", "unsafe_dedupe"},
		{"add t {} --max-attempts 0", "use 1 to 32767"},
		{"add t {} --max-attempts 99999", "use 1 to 32767"},
		{"add t {} --timeout 0s", "more than nothing"},
		{"schedules add s t @daily --max-attempts 99999", "use 1 to 32767"},
		{"schedules add s t @daily --priority 99999", "use -32768 to 32767"},
		{"add t {} --priority 40000", "32767"},
		{"jobs list --state done", "use one of scheduled, waiting"},
		{"jobs list --state succeeded", "jobs get ID"},
		{"jobs --state done", "use one of scheduled, waiting"},
		{"jobs list --limit 0", "1 to 9999"},
		{"jobs get", "accepts 1 arg"},
		{"jobs get seven", "not the id of a job"},
		{"jobs delete", "which jobs?"},
		{"jobs delete 1 --task t", "not two of them"},
		{"jobs delete --all --task t", "not two of them"},
		{"jobs cancel 0", "numbers from 1"},
		{"queues configure q", "--concurrency is needed"},
		{"queues configure q --concurrency 0", "at least 1"},
		{"tasks configure t", "nothing to set"},
		{"tasks configure t --keep some", "none of all"},
		{"tasks configure t --max-attempts none", "not a number"},
		{"tasks configure t --timeout 0s", "more than nothing"},
		{"tasks configure t --retry {", "unexpected end"},
		{"worker --jobs 0", "use 1 to 10000"},
		{"worker --jobs abc", `invalid argument "abc" for "-j, --jobs" flag: write a whole number`},
		{"queues configure q --concurrency 99999999999999999999", "the number is too large"},
		{"jobs --json=maybe", "write true or false"},
		{"worker --poll-interval 0", "too short"},
		{"worker --poll-interval soon", "no duration"},
		{"worker --log-format xml", "text or json"},
		{"worker --log-level loud", "debug, info"},
		{"worker --grace 0s", "--grace"},
		{"worker extra", "unknown command"},
		{"worker", "no directory ./tasks"},
		{"worker --tasks missing", "does not exist"},
		{"migrate --from 3", "--from goes with --sql"},
		{"migrate --sql --dry-run", "none of the others can be"},
		{"bench --only speed", "use add, work, latency"},
		{"bench --count 0", "--count"},
		{"completion", "accepts 1 arg"},
		{"completion tcsh", "invalid argument"},
		{"version --schema Bad", "not allowed"},
		{"jobs --schema public", "not allowed"},
	} {
		if r := s.want(Usage, strings.Split(c.args, " ")...).says(t, c.say); strings.Contains(r.errs, "strconv") {
			t.Errorf("%s: %s", c.args, r.errs)
		}
	}
	// What a script has not set is not left out.
	for _, args := range []string{
		"add t --key", "add t --queue", "add t --run-at", "add t --key k --key-mode", "schedules add s t @daily --key", "jobs --task", "jobs delete --task t --key",
		"jobs history --outcome",
	} {
		words := strings.Split(args, " ")
		s.want(Usage, append(words, "")...).says(t, words[len(words)-1]+" is empty")
	}
	s.want(Usage, "add", "t", "").says(t, "leave it out for {}")
	s.want(Usage, "add", "t", "\"\xff\"").says(t, "not UTF-8")
	s.want(Usage, "add", "", "{}").says(t, "empty")
	s.want(Usage, "jobs", "--database-url", "").says(t, "--database-url is empty")
	s.env["OFFSTAGE_SCHEMA"] = "No"
	s.want(Usage, "jobs").says(t, "not allowed")
}

func TestUnreachable(t *testing.T) {
	t.Parallel()
	s := onStage(t, "postgres://nobody:secret@127.0.0.1:1/none?sslmode=disable")
	s.script("hello.sh", "#!/bin/sh\n")
	for _, args := range [][]string{
		{"jobs"}, {"add", "t"}, {"queues"}, {"tasks"}, {"workers"}, {"doctor"}, {"migrate"}, {"worker"}, {"worker", "--once"}, {"bench", "--yes"}, {"dev"},
	} {
		r := s.want(Unreachable, args...).says(t, "postgres://nobody@127.0.0.1:1/none", "is PostgreSQL running")
		if strings.Contains(r.out+r.errs, "secret") {
			t.Errorf("%v shows the password:\n%s", args, r.errs)
		}
	}
	s.env["DATABASE_URL"] = ""
	s.want(Unreachable, "jobs", "-c", "postgres://nobody:secret@127.0.0.1:1/none?sslmode=disable").says(t, "connect to")

	for _, url := range []string{"postgres://u:sec ret@h:port/x", "postgres://u:se%zzcret@h/x", "host=h password=secret port=x", "nonsense://u:secret@h"} {
		r := s.want(Usage, "jobs", "-c", url).says(t, "the database URL cannot be read")
		if strings.Contains(r.errs, "cret") {
			t.Errorf("%q: the password shows:\n%s", url, r.errs)
		}
	}
}

// What the server answers to a connection says what is wrong with it.
func TestRefusedConnection(t *testing.T) {
	s := newStage(t)
	wrong := regexp.MustCompile(`:[^:@/]+@`).ReplaceAllString(s.db.URL, ":wrong@")
	s.want(Unreachable, "jobs", "-c", wrong).says(t, "check user and password")
	missing := strings.Replace(s.db.URL, s.db.Name, "no_such_database", 1)
	s.want(Unreachable, "jobs", "-c", missing).says(t, "no such database")
}

func TestMissingSchema(t *testing.T) {
	t.Parallel()
	db := pgtest.Bare(t)
	s := onStage(t, db.URL)
	s.script("hello.sh", "#!/bin/sh\n")
	for _, args := range [][]string{{"jobs"}, {"add", "t"}, {"queues"}, {"workers"}, {"worker"}, {"worker", "--once"}} {
		r := s.want(MigrationNeeded, args...).says(t, "type: offstage migrate\n")
		if strings.Contains(r.errs, "--database-url") {
			t.Errorf("%v: DATABASE_URL needs no flag:\n%s", args, r.errs)
		}
	}
	s.env["DATABASE_URL"] = ""
	s.want(MigrationNeeded, "jobs", "-c", db.URL, "-s", "other").says(t, "type: offstage migrate --database-url postgres://owner@", "/"+db.Name+" --schema other")
}

func TestMigrate(t *testing.T) {
	t.Parallel()
	db := pgtest.Bare(t)
	s := onStage(t, db.URL)
	s.want(Done, "migrate", "--dry-run").says(t, "would go from version 0 to")
	s.want(MigrationNeeded, "jobs")
	s.want(Done, "migrate").says(t, "schema offstage went from version 0 to")
	s.want(Done, "migrate").says(t, "is up to date")
	s.want(Done, "jobs")
	s.env["OFFSTAGE_SCHEMA"] = "shop_jobs"
	res := decode[map[string]any](t, s.want(Done, "migrate", "--json"))
	if res["schema"] != "shop_jobs" || res["from"] != 0.0 || res["dry_run"] != false || len(res["applied"].([]any)) == 0 {
		t.Errorf("%v", res)
	}
	s.want(Done, "add", "t")
	s.want(Done, "jobs").says(t, "waiting")

	sql := onStage(t, "postgres://nobody@127.0.0.1:1/none").want(Done, "migrate", "--sql", "--schema", "by_hand").out
	if _, err := db.Conn(t).Exec(t.Context(), sql); err != nil {
		t.Fatal(err)
	}
	s.want(Done, "jobs", "--schema", "by_hand").says(t, "no jobs")
}

func TestColours(t *testing.T) {
	s := newStage(t)
	s.fail(s.add("t", nil), "\x1b[31mred\x1b[0m\r\nsecond line")
	plain := s.want(Done, "jobs").out
	if strings.ContainsAny(plain, "\x1b\r") {
		t.Errorf("control characters in a pipe:\n%q", plain)
	}
	s.edit = func(m *Main) { m.OutTerminal = true }
	coloured := s.want(Done, "jobs").out
	if !strings.Contains(coloured, "\x1b[31mfailed\x1b[0m") || strings.Contains(coloured, "\x1b[31mred") {
		t.Errorf("%q", coloured)
	}
	if stripped := regexp.MustCompile(`\x1b\[[0-9]*m`).ReplaceAllString(coloured, ""); stripped != plain {
		t.Errorf("the columns of a terminal differ:\n%s\n%s", stripped, plain)
	}
	for name, value := range map[string]string{"NO_COLOR": "1", "TERM": "dumb"} {
		s.env[name] = value
		if out := s.want(Done, "jobs").out; out != plain {
			t.Errorf("%s: %q", name, out)
		}
		delete(s.env, name)
	}
}

func TestInterrupted(t *testing.T) {
	s := newStage(t)
	ctx, cancel := context.WithCancel(t.Context())
	m, _, errs := s.call("add", "t", "--wait", "-v")
	ended := make(chan int, 1)
	go func() { ended <- m.Run(ctx) }()
	pgtest.Eventually(t, 20*time.Second, func() bool { return strings.Contains(errs.String(), "waiting: no worker is running") })
	cancel()
	if exit := <-ended; exit != Interrupted {
		t.Errorf("exit code %d\n%s", exit, errs)
	}
	said{errs: errs.String()}.says(t, "goes on without us", "interrupted")
}

func TestCompletion(t *testing.T) {
	s := newStage(t)
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		if out := s.want(Done, "completion", shell).out; !strings.Contains(out, "offstage") {
			t.Errorf("%s: %q", shell, out)
		}
	}
	s.add("send_email", nil, offstage.Options{Queue: "mails"})
	s.fail(s.add("report", nil), "no")
	for _, c := range []struct{ args, want string }{
		{"add ", "report\nsend_email\n"},
		{"add send_email ", ""},
		{"add t --queue ", "mails\n"},
		{"add t --key-mode ", "replace\npreserve_run_at\nunsafe_dedupe\n"},
		{"jobs list --task ", "report\nsend_email\n"},
		{"jobs --state ", "scheduled\nwaiting\nparked\npaused\nrunning\nfailed\n"},
		{"jobs list --state ", "scheduled\nwaiting\nparked\npaused\nrunning\nfailed\n"},
		{"jobs get ", "2\treport\n1\tsend_email\n"},
		{"jobs retry ", "2\treport\n"},
		{"queues pause ", "mails\n"},
		{"tasks pause ", "report\nsend_email\n"},
	} {
		r := s.want(Done, append([]string{"__complete"}, strings.Split(c.args, " ")...)...)
		if got, _, _ := strings.Cut(r.out, ":"); got != c.want {
			t.Errorf("%q: %q instead of %q", c.args, got, c.want)
		}
	}
	// Nobody who types wants to hear of a database that is down.
	s.env["DATABASE_URL"] = "postgres://nobody@127.0.0.1:1/none"
	if r := s.want(Done, "__complete", "add", ""); !strings.HasPrefix(r.out, ":") || strings.Contains(r.errs, "127.0.0.1") {
		t.Errorf("%q %q", r.out, r.errs)
	}
}
