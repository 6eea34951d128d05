package exec

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/internal/pgtest"
)

func TestInputThatNobodyReads(t *testing.T) {
	t.Parallel()
	payload := `"` + strings.Repeat("x", 5<<20) + `"`
	t.Run("exits at once", func(t *testing.T) {
		t.Parallel()
		with(t, `echo "pid $$"`).succeed(t.Context(), job(payload))
	})
	t.Run("closes it", func(t *testing.T) {
		t.Parallel()
		with(t, `echo "pid $$"; exec <&-; sleep 0.1`).succeed(t.Context(), job(payload))
	})
	t.Run("reads some of it", func(t *testing.T) {
		t.Parallel()
		with(t, `echo "pid $$"; head -c 100000 >/dev/null`).succeed(t.Context(), job(payload))
	})
	t.Run("a child keeps it open", func(t *testing.T) {
		t.Parallel()
		with(t, `echo "pid $$"; sleep 60 & exit 0`).succeed(t.Context(), job(payload))
	})
	t.Run("all of it is read", func(t *testing.T) {
		t.Parallel()
		b := with(t, `echo "pid $$"; wc -c | tr -d ' '`)
		b.succeed(t.Context(), job(payload))
		if got := b.log.text("INFO"); !strings.HasSuffix(got, fmt.Sprintf("\n%d", len(payload)+len(`{"payload":}`))) {
			t.Errorf("log %q", got)
		}
	})
}

func TestFloodedOutput(t *testing.T) {
	t.Parallel()
	const total = 200_000
	line := strings.Repeat("y", 99)
	b := with(t, fmt.Sprintf(`
echo "pid $$"
yes %s | head -n %d
echo "the end"
`, line, total), func(c *Config) { c.MaxOutput, c.KeptOutput = 100_000, 10_000 })
	b.succeed(t.Context(), job(`{}`))

	all := b.log.all()
	dropped := 0
	for _, l := range all {
		if m := regexp.MustCompile(`^WARN (\d+) lines \((\d+) bytes\) of the task's output were dropped here$`).FindStringSubmatch(l); m != nil {
			n, _ := strconv.Atoi(m[1])
			if m[2] != strconv.Itoa(n*len(line)) {
				t.Errorf("%q", l)
			}
			dropped += n
		}
	}
	printed := total + 2
	if warnings := 2; len(all)-warnings+dropped != printed {
		t.Errorf("%d lines logged, %d dropped, %d printed", len(all)-warnings, dropped, printed)
	}
	if len(all) > 800 {
		t.Errorf("%d lines logged", len(all))
	}
	if last := all[len(all)-1]; last != "INFO the end" {
		t.Errorf("the last line is %q", last)
	}
	if warned := b.log.text("WARN"); !strings.Contains(warned, "prints much") {
		t.Errorf("warned %q", warned)
	}
}

func TestFloodWithoutLines(t *testing.T) {
	t.Parallel()
	b := with(t, `echo "pid $$"; head -c 20000000 /dev/zero | tr '\0' x; echo; echo done`)
	b.succeed(t.Context(), job(`{}`))
	all := b.log.all()
	if len(all) != 3 || len(all[1]) > 17<<10 || !strings.HasSuffix(all[1], "x … [cut: 20000000 bytes in all]") || all[2] != "INFO done" {
		t.Errorf("%d lines, the last %q", len(all), all[len(all)-1])
	}
}

func TestChildrenDoNotOutliveTheTask(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"holding the output":  `sleep 60 &`,
		"without the output":  `sleep 60 >/dev/null 2>&1 </dev/null &`,
		"ignoring signals":    `(trap '' TERM HUP INT; sleep 60) & (trap '' TERM; while :; do sleep 1; done) &`,
		"grandchildren":       `sh -c 'sleep 60 & sleep 60 & wait' & sh -c 'sh -c "sleep 60" &' &`,
		"with nohup":          `nohup sleep 60 >/dev/null 2>&1 &`,
		"stopped":             `sleep 60 & kill -STOP $!`,
		"printing for ever":   `yes 2>/dev/null &`,
		"the task has failed": `sleep 60 & trap 'exit 0' EXIT; exit 0`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := with(t, "echo \"pid $$\"\n"+text+"\nexit 0\n")
			begin := time.Now()
			b.succeed(t.Context(), job(`{}`))
			if took := time.Since(begin); took > 10*time.Second {
				t.Errorf("took %v", took)
			}
			if warned := b.log.text("WARN"); strings.Contains(warned, "left") {
				t.Errorf("warned %q", warned)
			}
		})
	}
}

func TestOutputIsCompleteWhenAttemptEnds(t *testing.T) {
	t.Parallel()
	// A full pipe, nobody who has read it yet, and a child that holds it open until it is killed.
	b := with(t, `
echo "pid $$"
sleep 60 &
yes | head -n 30000
echo last
exit 0
`, func(c *Config) { c.Linger, c.MaxOutput = time.Nanosecond, 1<<30 })
	b.succeed(t.Context(), job(`{}`))
	if all := b.log.all(); len(all) != 30002 || all[30001] != "INFO last" {
		t.Errorf("%d lines, the last is %q", len(all), all[len(all)-1])
	}
}

func TestChildrenMayFinishTheirOutput(t *testing.T) {
	t.Parallel()
	// As with bash's >(…): the filter gets its end of file when the task ends, and has the last lines still to write.
	b := with(t, `
echo "pid $$"
mkfifo "$(dirname "$OFFSTAGE_RESULT")/pipe"
sed 's/^/filtered /' <"$(dirname "$OFFSTAGE_RESULT")/pipe" &
exec >"$(dirname "$OFFSTAGE_RESULT")/pipe"
echo last
`, func(c *Config) { c.Linger = 20 * time.Second })
	b.succeed(t.Context(), job(`{}`))
	if got := b.log.text("INFO"); !strings.HasSuffix(got, "filtered last") {
		t.Errorf("log %q", got)
	}
}

// stop runs the task until it has logged "ready", then ends its context with cause.
func (b *bench) stop(cause error) (words []string, err error) {
	b.t.Helper()
	ctx, cancel := context.WithCancelCause(b.t.Context())
	defer cancel(nil)
	done := make(chan error, 1)
	go func() {
		_, err := b.run(ctx, job(`{}`))
		done <- err
	}()
	words = b.log.await(b.t, "ready")
	cancel(cause)
	return words, <-done
}

func TestStop(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		text  string
		grace time.Duration
		err   string
		cause error // default: ErrTimeout
	}{
		"it obeys": {`echo ready; while :; do sleep 0.05; done`, time.Minute, "attempt timed out; it was ended by SIGTERM", nil},
		// Shells that live on may tell of the child that did not.
		"it clears up":           {`exec 3>&2 2>/dev/null; trap 'echo cleaned >&3; exit 9' TERM; echo ready; while :; do sleep 0.05; done`, time.Minute, "attempt timed out; it was ended by SIGTERM: cleaned", nil},
		"it ends with success":   {`exec 2>/dev/null; trap 'exit 0' TERM; echo ready; while :; do sleep 0.05; done`, time.Minute, "attempt timed out; it was ended by SIGTERM", nil},
		"it was stopped":         {`echo ready; kill -STOP $$`, time.Minute, "attempt timed out; it was ended by SIGTERM", nil},
		"it ignores SIGTERM":     {`trap '' TERM; echo ready; while :; do sleep 0.05; done`, 100 * time.Millisecond, "attempt timed out; it was killed, 100ms after SIGTERM", nil},
		"its child ignores it":   {`(trap '' TERM; echo ready; while :; do sleep 0.05; done) & wait`, 100 * time.Millisecond, "attempt timed out; it was ended by SIGTERM", nil},
		"there is no grace":      {`trap 'echo cleaned' TERM; echo ready; while :; do sleep 0.05; done`, -1, "attempt timed out; it was killed", nil},
		"it prints all the time": {`echo ready; exec yes`, time.Minute, "attempt timed out; it was ended by SIGTERM", nil},
		"others take its job":    {`trap '' TERM; echo ready; while :; do sleep 0.05; done`, time.Minute, "claim lost; it was killed, 500ms after SIGTERM", offstage.ErrLost},
		"the worker leaves":      {`trap '' TERM; echo ready; while :; do sleep 0.05; done`, time.Minute, "worker is stopping; it was killed, 1s after SIGTERM", offstage.ErrStopping},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := with(t, "echo \"pid $$\"\n"+c.text, func(config *Config) { config.KillGrace = c.grace })
			cause := cmp.Or(c.cause, offstage.ErrTimeout)
			_, err := b.stop(cause)
			if !errors.Is(err, cause) || err.Error() != c.err {
				t.Errorf("error %v, want %s", err, c.err)
			}
		})
	}
}

func TestStopLeavesChildrenTheirGrace(t *testing.T) {
	t.Parallel()
	// The task dies of SIGTERM at once; its child has something to clear up first.
	b := with(t, `
echo "pid $$"
sh -c 'trap "sleep 0.5; echo cleaned; exit" TERM; echo ready; while :; do sleep 0.05; done' &
wait
`, func(c *Config) { c.KillGrace, c.Linger = time.Minute, time.Millisecond })
	if _, err := b.stop(offstage.ErrCancelled); !errors.Is(err, offstage.ErrCancelled) {
		t.Errorf("error %v", err)
	}
	if got := b.log.text("INFO"); !strings.HasSuffix(got, "cleaned") {
		t.Errorf("log %q", got)
	}
}

// daemon starts a process in a session of its own that holds all descriptors, and waits until it is there.
const daemon = `
pipe="$(dirname "$OFFSTAGE_RESULT")/pipe"
mkfifo "$pipe"
"$SETSID" sh -c 'echo $$ >"$0"; exec sleep 60' "$pipe" &
read daemon <"$pipe"
echo "daemon $daemon ready"
`

// withDaemon makes a runner whose task starts a daemon, which is killed after the test.
func withDaemon(t *testing.T, text string, adjust ...func(*Config)) *bench {
	t.Helper()
	b := with(t, "echo \"pid $$\"\nSETSID="+setsid(t)+daemon+text, adjust...)
	t.Cleanup(func() {
		for _, line := range b.log.all() {
			if words := strings.Fields(line); len(words) == 4 && words[1] == "daemon" {
				if pid, err := strconv.Atoi(words[2]); err == nil {
					_ = syscall.Kill(pid, syscall.SIGKILL)
				}
			}
		}
	})
	return b
}

func (b *bench) daemonLives(words []string) {
	b.t.Helper()
	pid, err := strconv.Atoi(words[2])
	if err != nil {
		b.t.Fatal(err)
	}
	if err := syscall.Kill(pid, 0); err != nil {
		b.t.Errorf("the daemon: %v", err)
	}
	if got := b.log.text("WARN"); !strings.Contains(got, "another session") {
		b.t.Errorf("warned %q", got)
	}
}

func TestDaemonDoesNotHoldTheAttempt(t *testing.T) {
	t.Parallel()
	b := withDaemon(t, "exit 0\n")
	begin := time.Now()
	b.succeed(t.Context(), job(`"`+strings.Repeat("x", 1<<20)+`"`))
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("took %v", took)
	}
	b.daemonLives(b.log.await(t, "ready"))
}

func TestDaemonDoesNotHoldAStoppedAttempt(t *testing.T) {
	t.Parallel()
	b := withDaemon(t, "while :; do sleep 0.05; done\n", func(c *Config) { c.KillGrace = 100 * time.Millisecond })
	words, err := b.stop(offstage.ErrStopping)
	if !errors.Is(err, offstage.ErrStopping) {
		t.Errorf("error %v", err)
	}
	b.daemonLives(words)
}

func TestTaskHasNoTerminal(t *testing.T) {
	t.Parallel()
	b := with(t, `echo "pid $$"; if (: </dev/tty) 2>/dev/null; then echo terminal; fi`)
	b.succeed(t.Context(), job(`{}`))
	if got := b.log.text("INFO"); strings.Contains(got, "terminal") {
		t.Error("the task has a terminal")
	}
}

func TestTaskThroughALink(t *testing.T) {
	t.Parallel()
	// A script finds what lies beside the file that the link leads to.
	elsewhere := t.TempDir()
	pgtest.Program(t, filepath.Join(elsewhere, "helper"), "#!/bin/sh\necho helped\n")
	pgtest.Program(t, filepath.Join(elsewhere, "real"), "#!/bin/sh\nexec \"$(dirname \"$0\")/helper\"\n")
	b := linked(t, filepath.Join(elsewhere, "real"))
	b.succeed(t.Context(), job(`{}`))
	if got := b.log.text("INFO"); got != "helped" {
		t.Errorf("log %q", got)
	}
}
