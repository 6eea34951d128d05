package exec

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/internal/pgtest"
	"github.com/offstage-dev/offstage/internal/runner/tasks"
	"github.com/offstage-dev/offstage/worker"
)

func TestMain(m *testing.M) {
	if worker := os.Getenv(workerVariable); worker != "" {
		os.Exit(runAsWorker(worker))
	}
	adoptOrphans()
	goleak.VerifyTestMain(m)
}

// logged is a slog.Handler that keeps what is written to it as "LEVEL text", and passes each on to seen.
type logged struct {
	mu    sync.Mutex
	lines []string
	seen  chan string
}

func (l *logged) Enabled(context.Context, slog.Level) bool { return true }
func (l *logged) WithAttrs([]slog.Attr) slog.Handler       { return l }
func (l *logged) WithGroup(string) slog.Handler            { return l }
func (l *logged) Handle(_ context.Context, r slog.Record) error {
	line := r.Level.String() + " " + r.Message
	l.mu.Lock()
	l.lines = append(l.lines, line)
	l.mu.Unlock()
	select {
	case l.seen <- line:
	default:
	}
	return nil
}

func (l *logged) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.lines)
}

// text is what was logged by one level, joined.
func (l *logged) text(level string) string {
	var of []string
	for _, line := range l.all() {
		if text, ok := strings.CutPrefix(line, level+" "); ok {
			of = append(of, text)
		}
	}
	return strings.Join(of, "\n")
}

// await returns when a line with this text is logged, and gives its words.
func (l *logged) await(t *testing.T, text string) []string {
	t.Helper()
	late := time.NewTimer(20 * time.Second)
	defer late.Stop()
	for {
		select {
		case line := <-l.seen:
			if strings.Contains(line, text) {
				return strings.Fields(line)
			}
		case <-late.C:
			t.Fatalf("nothing with %q was logged: %q", text, l.all())
		}
	}
}

type bench struct {
	*Runner
	t    *testing.T
	dir  string
	temp string
	log  *logged
}

// with makes a runner for a directory that holds one task, "task", with this text after a #! line.
func with(t *testing.T, text string, adjust ...func(*Config)) *bench {
	t.Helper()
	return withFile(t, "#!/bin/sh\n"+text, adjust...)
}

func withFile(t *testing.T, text string, adjust ...func(*Config)) *bench {
	t.Helper()
	b := &bench{t: t, dir: t.TempDir(), temp: t.TempDir(), log: &logged{seen: make(chan string, 1000)}}
	pgtest.Program(t, filepath.Join(b.dir, "task"), text)
	config := Config{TempDir: b.temp}
	for _, f := range adjust {
		f(&config)
	}
	dir, err := tasks.Read(b.dir)
	if err != nil {
		t.Fatal(err)
	}
	if b.Runner, err = New(dir, config); err != nil {
		t.Fatal(err)
	}
	return b
}

func job(payload string) *offstage.Job {
	return &offstage.Job{ID: 7, Task: "task", Payload: json.RawMessage(payload), Attempt: 1, MaxAttempts: 25}
}

// run performs one attempt, and checks that nothing of it is left.
func (b *bench) run(ctx context.Context, job *offstage.Job) (string, error) {
	b.t.Helper()
	result, err := b.Run(worker.WithLog(ctx, slog.New(b.log)), job)
	left, readErr := os.ReadDir(b.temp)
	if readErr != nil || len(left) != 0 {
		b.t.Errorf("left in the temporary directory: %v, %v", left, readErr)
	}
	for _, line := range b.log.all() {
		if text, ok := strings.CutPrefix(line, "INFO pid "); ok {
			pid, err := strconv.Atoi(text)
			if err != nil {
				b.t.Fatal(err)
			}
			gone(b.t, pid)
		}
	}
	return string(result), err
}

// gone checks that no process of the group is left.
func gone(t *testing.T, group int) {
	t.Helper()
	if err := syscall.Kill(-group, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("process group %d is still there: %v", group, err)
	}
}

func (b *bench) succeed(ctx context.Context, job *offstage.Job) string {
	b.t.Helper()
	result, err := b.run(ctx, job)
	if err != nil {
		b.t.Fatalf("%v, log %q", err, b.log.all())
	}
	return result
}

func (b *bench) fail(ctx context.Context, job *offstage.Job, part string) error {
	b.t.Helper()
	result, err := b.run(ctx, job)
	if err == nil || !strings.Contains(err.Error(), part) || result != "" {
		b.t.Fatalf("result %q, error %v, want one with %q", result, err, part)
	}
	return err
}

func TestRunTellsTheTaskItsJob(t *testing.T) {
	t.Parallel()
	b := with(t, `
echo "pid $$"
env | grep '^GRAPHILE_WORKER\|^INHERITED\|^TRACEPARENT' | LC_ALL=C sort
pwd -P
echo "args $#"
cat
`, func(c *Config) {
		c.Env = append(os.Environ(), "INHERITED=yes", "GRAPHILE_WORKER_JOB_KEY=stale", "GRAPHILE_WORKER_JOB_ID=stale", "GRAPHILE_WORKER_DEBUG=1", "TRACEPARENT=stale")
	})
	cwd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	cwd, err = filepath.EvalSymlinks(cwd)
	if err != nil {
		t.Fatal(err)
	}
	j := &offstage.Job{
		ID: 9007199254740993, Task: "task", Key: "a key", Payload: json.RawMessage("{ \"n\":\n 12345678901234567890, \"s\": \"a  b\" }"),
		Priority: -3, RunAt: time.Date(2026, 3, 1, 1, 2, 3, 45_999_999, time.FixedZone("", 3600)), Attempt: 2, MaxAttempts: 5,
		Traceparent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
	}
	want := func(key, trace string) string {
		return `GRAPHILE_WORKER_DEBUG=1
GRAPHILE_WORKER_JOB_ATTEMPTS=2
GRAPHILE_WORKER_JOB_ID=9007199254740993
` + key + `GRAPHILE_WORKER_JOB_MAX_ATTEMPTS=5
GRAPHILE_WORKER_JOB_PRIORITY=-3
GRAPHILE_WORKER_JOB_RUN_AT=2026-03-01T00:02:03.045Z
GRAPHILE_WORKER_PAYLOAD_FORMAT=json
GRAPHILE_WORKER_TASK_IDENTIFIER=task
INHERITED=yes
` + trace + cwd + `
args 0
{"payload":{"n":12345678901234567890,"s":"a  b"}}`
	}
	if result := b.succeed(t.Context(), j); result != "" {
		t.Errorf("result %q", result)
	}
	_, got, _ := strings.Cut(b.log.text("INFO"), "\n")
	if got != want("GRAPHILE_WORKER_JOB_KEY=a key\n", "TRACEPARENT=00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\n") {
		t.Errorf("got\n%s", got)
	}

	b.log.lines = nil
	j.Key, j.Traceparent = "", ""
	b.succeed(t.Context(), j)
	_, got, _ = strings.Cut(b.log.text("INFO"), "\n")
	if got != want("", "") {
		t.Errorf("without a key, got\n%s", got)
	}
}

func TestInputEndsWithoutALineEnd(t *testing.T) {
	t.Parallel()
	b := with(t, `wc -c | tr -d ' '`)
	b.succeed(t.Context(), job(`{}`))
	if got := b.log.text("INFO"); got != fmt.Sprint(len(`{"payload":{}}`)) {
		t.Errorf("%s bytes", got)
	}
}

func TestRunLogsLines(t *testing.T) {
	t.Parallel()
	b := with(t, `
printf 'one\r\n\ntwo\000\377\nunterminated'
printf 'bad\nworse' >&2
`)
	b.succeed(t.Context(), job(`{}`))
	if got := b.log.text("INFO"); got != "one\n\ntwo\uFFFD\nunterminated" {
		t.Errorf("stdout %q", got)
	}
	if got := b.log.text("ERROR"); got != "bad\nworse" {
		t.Errorf("stderr %q", got)
	}
}

func TestRunResult(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ text, result, err string }{
		"none":               {`exit 0`, "", ""},
		"an object":          {`echo '{"a": 1}' >"$OFFSTAGE_RESULT"`, `{"a": 1}`, ""},
		"null":               {`printf null >"$OFFSTAGE_RESULT"`, `null`, ""},
		"white space":        {`echo >"$OFFSTAGE_RESULT"`, "", ""},
		"renamed":            {`echo 5 >"$OFFSTAGE_RESULT.new"; mv "$OFFSTAGE_RESULT.new" "$OFFSTAGE_RESULT"`, "5", ""},
		"from a child":       {`(echo 6 >"$OFFSTAGE_RESULT"); rm -f "$OFFSTAGE_RESULT"; sh -c 'echo 7 >"$OFFSTAGE_RESULT"'`, "7", ""},
		"as large as may":    {`printf '"%1022s"' "" >"$OFFSTAGE_RESULT"`, `"` + strings.Repeat(" ", 1022) + `"`, ""},
		"too large":          {`printf '"%1023s"' "" >"$OFFSTAGE_RESULT"`, "", "larger than 1024 bytes"},
		"endless":            {`rm -f "$OFFSTAGE_RESULT"; ln -s /dev/zero "$OFFSTAGE_RESULT"`, "", "not a file"},
		"not JSON":           {`echo "{a:1}" >"$OFFSTAGE_RESULT"`, "", "$OFFSTAGE_RESULT is not JSON: invalid character 'a'"},
		"two values":         {`echo "1 2" >"$OFFSTAGE_RESULT"`, "", "is not JSON"},
		"not UTF-8":          {`printf '"\377"' >"$OFFSTAGE_RESULT"`, "", "not valid UTF-8"},
		"a pipe":             {`mkfifo "$OFFSTAGE_RESULT"`, "", "not a file"},
		"a directory":        {`mkdir "$OFFSTAGE_RESULT"`, "", "not a file"},
		"of a failed one":    {`echo 1 >"$OFFSTAGE_RESULT"; exit 4`, "", "exit status 4"},
		"beside other files": {`d=$(dirname "$OFFSTAGE_RESULT"); mkdir -p "$d/x/y"; echo 1 >"$d/x/y/z"`, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := with(t, c.text, func(c *Config) { c.MaxResult = 1024 })
			if c.err != "" {
				err := b.fail(t.Context(), job(`{}`), c.err)
				var control *offstage.Control
				if forGood := errors.As(err, &control) && control.Verb == "fail"; forGood != (name == "too large") {
					t.Errorf("failed for good: %t", forGood)
				}
			} else if got := b.succeed(t.Context(), job(`{}`)); got != c.result {
				t.Errorf("result %q", got)
			}
		})
	}
}

func TestRunWithoutATemporaryDirectory(t *testing.T) {
	t.Parallel()
	b := with(t, `echo "${OFFSTAGE_RESULT-none}"`, func(c *Config) {
		c.TempDir = filepath.Join(c.TempDir, "missing")
		c.Env = append(os.Environ(), "OFFSTAGE_RESULT=stale")
	})
	b.succeed(t.Context(), job(`{}`))
	if got := b.log.text("INFO"); got != "none" {
		t.Errorf("OFFSTAGE_RESULT is %q", got)
	}
	if got := b.log.text("WARN"); !strings.Contains(got, "without OFFSTAGE_RESULT") {
		t.Errorf("warned %q", got)
	}
}

func TestRunFails(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ text, err string }{
		"silently":        {`exit 3`, "exit status 3"},
		"with a reason":   {`echo out; echo one >&2; echo >&2; printf two >&2; exit 75`, "exit status 75: one\ntwo"},
		"with many lines": {`i=0; while [ $i -lt 50 ]; do echo line $i >&2; i=$((i+1)); done; exit 1`, "exit status 1: line 48\nline 49"},
		"with a long one": {`printf '%100s' x >&2; exit 1`, "exit status 1: " + strings.Repeat(" ", 16) + "…"},
		"by a signal":     {`echo reason >&2; kill -USR1 $$`, "killed by SIGUSR1: reason"},
		"killed":          {`kill -KILL $$`, "killed by SIGKILL (not by its worker; the system may have been out of memory)"},
		"terminated":      {`kill -TERM $$`, "killed by SIGTERM"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := with(t, c.text, func(c *Config) { c.ErrorTail = 20 })
			if err := b.fail(t.Context(), job(`{}`), ""); err.Error() != c.err {
				t.Errorf("got %q, want %q", err, c.err)
			}
		})
	}
}

func TestStartFailures(t *testing.T) {
	t.Parallel()
	sh := "#!/bin/sh\n"
	for name, c := range map[string]struct {
		text   string
		change func(path string) error
		err    string
		is     error
	}{
		"file gone":             {sh, os.Remove, "the file is gone", fs.ErrNotExist},
		"directory gone":        {sh, func(p string) error { return os.RemoveAll(filepath.Dir(p)) }, "the file is gone", fs.ErrNotExist},
		"not executable":        {sh, func(p string) error { return os.Chmod(p, 0o644) }, "not executable; use chmod +x", fs.ErrPermission},
		"a directory":           {sh, func(p string) error { return errors.Join(os.Remove(p), os.Mkdir(p, 0o755)) }, "not a file any more", nil},
		"interpreter missing":   {"#! /no/such/interpreter -x\n", nil, "the interpreter of its #! line, /no/such/interpreter, does not exist", fs.ErrNotExist},
		"Windows line ends":     {"#!/bin/sh\r\necho\r\n", nil, "save it with Unix line ends", fs.ErrNotExist},
		"interpreter forbidden": {"#!/etc/passwd\n", nil, "or not its interpreter /etc/passwd", fs.ErrPermission},
		"no #! line":            {"echo hello\n", nil, "has no #! line", syscall.ENOEXEC},
		"empty #! line":         {"#!\necho\n", nil, "names no program", syscall.ENOEXEC},
		"empty":                 {"", nil, "the file is empty", syscall.ENOEXEC},
		"another system":        {"\x7fELF\x00\x00\x00\x00\x00\x00\x00", nil, "another system", syscall.ENOEXEC},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := withFile(t, c.text)
			path := filepath.Join(b.dir, "task")
			if c.change != nil {
				if err := c.change(path); err != nil {
					t.Fatal(err)
				}
			}
			err := b.fail(t.Context(), job(`{}`), c.err)
			if c.is != nil && !errors.Is(err, c.is) {
				t.Errorf("error %v is not %v", err, c.is)
			}
			if !strings.HasPrefix(err.Error(), "start ") || strings.Count(err.Error(), "start ") != 1 {
				t.Errorf("error %q", err)
			}
		})
	}
}

func TestRunRefuses(t *testing.T) {
	t.Parallel()
	b := with(t, `echo started`)
	b.fail(t.Context(), &offstage.Job{Task: "other"}, `no executable for task "other"`)
	b.fail(t.Context(), job(`{`), "payload: ")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(offstage.ErrCancelled)
	if err := b.fail(ctx, job(`{}`), "not started"); !errors.Is(err, offstage.ErrCancelled) {
		t.Errorf("error %v", err)
	}
	if got := b.log.all(); len(got) != 0 {
		t.Errorf("log %q", got)
	}
}

func TestNew(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	pgtest.Program(t, filepath.Join(dir, "b.sh"), "#!/bin/sh\n")
	pgtest.Program(t, filepath.Join(dir, "a"), "#!/bin/sh\n")
	pgtest.Program(t, filepath.Join(dir, "c.js"), "export default () => {}\n")
	d, err := tasks.Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	r, err := New(d, Config{})
	if err != nil {
		t.Fatal(err)
	}
	if got := r.Tasks(); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("tasks %q", got)
	}
	if _, err := New(nil, Config{}); err == nil {
		t.Error("took no directory")
	}
	if _, err := New(d, Config{MaxLine: -1}); err == nil {
		t.Error("took a negative limit")
	}
}

func TestConcurrentRuns(t *testing.T) {
	t.Parallel()
	b := with(t, `cat >"$OFFSTAGE_RESULT"`)
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			payload := fmt.Sprintf(`{"payload":%d}`, i)
			result, err := b.Run(worker.WithLog(t.Context(), slog.New(b.log)), job(strconv.Itoa(i)))
			if err != nil || string(result) != payload {
				t.Errorf("%d: %s, %v", i, result, err)
			}
		})
	}
	all.Wait()
}
