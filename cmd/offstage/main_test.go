package main

import (
	"bufio"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/offstage-dev/offstage/internal/cli"
	"github.com/offstage-dev/offstage/internal/pgtest"
)

// The test's own program is the command, when it is started with this variable.
const asCommand = "OFFSTAGE_TEST_AS_COMMAND"

func TestMain(m *testing.M) {
	if os.Getenv(asCommand) != "" {
		main()
	}
	pgtest.Main(m)
}

// process is a worker that runs one job, which does not stop by itself.
type process struct {
	t   *testing.T
	cmd *exec.Cmd
	log *bufio.Reader
}

func start(t *testing.T, args ...string) *process {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, cmd: exec.Command(program, args...)}
	p.cmd.Env = append(os.Environ(), asCommand+"=1")
	p.cmd.Dir = t.TempDir()
	errs, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.log = bufio.NewReader(errs)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	over := time.AfterFunc(time.Minute, func() { p.cmd.Process.Kill() })
	t.Cleanup(func() { over.Stop(); p.cmd.Process.Kill(); p.cmd.Wait() })
	return p
}

// until reads the log up to a line that has this.
func (p *process) until(text string) {
	p.t.Helper()
	var all strings.Builder
	for {
		line, err := p.log.ReadString('\n')
		all.WriteString(line)
		if strings.Contains(line, text) {
			return
		}
		if err != nil {
			p.t.Fatalf("%q does not come:\n%s", text, all.String())
		}
	}
}

func (p *process) signal(s os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// insist sends a signal until the process has ended: one that follows another at once counts as the same.
func (p *process) insist(s os.Signal) {
	p.t.Helper()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		io.Copy(io.Discard, p.log)
	}()
	pgtest.Eventually(p.t, 30*time.Second, func() bool {
		p.signal(s)
		select {
		case <-ended:
			return true
		default:
			return false
		}
	})
}

// exit waits for the end.
func (p *process) exit() int {
	p.t.Helper()
	if _, err := io.Copy(io.Discard, p.log); err != nil {
		p.t.Fatal(err)
	}
	err := p.cmd.Wait()
	var status *exec.ExitError
	if err != nil && !errors.As(err, &status) {
		p.t.Fatal(err)
	}
	return p.cmd.ProcessState.ExitCode()
}

func TestSignals(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	if _, err := db.Pool(t).Exec(t.Context(), `select offstage.add_job('stubborn')`); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	script := "#!/bin/sh\ntrap '' TERM\necho begun\nexec sleep 50\n"
	pgtest.Program(t, filepath.Join(dir, "stubborn.sh"), script)
	// The second signal does not wait for anybody.
	p := start(t, "worker", "-c", db.URL, "--tasks", dir, "-v")
	p.until("begun")
	p.signal(syscall.SIGINT)
	p.until("worker is stopping")
	p.insist(syscall.SIGTERM)
	if exit := p.exit(); exit != cli.Interrupted {
		t.Errorf("exit code %d after the second signal", exit)
	}
	// The first one is a proper end for a server, also where it comes twice, as from timeout.
	p = start(t, "worker", "-c", db.URL, "--tasks", dir, "--forbid-flag", "none", "--grace", "1ms")
	p.until("worker is ready")
	p.signal(syscall.SIGINT)
	p.signal(syscall.SIGTERM)
	if exit := p.exit(); exit != cli.Done {
		t.Errorf("exit code %d after SIGTERM", exit)
	}
}

func TestExitCode(t *testing.T) {
	t.Parallel()
	p := start(t, "jobs", "-c", "postgres://nobody@127.0.0.1:1/none")
	if exit := p.exit(); exit != cli.Unreachable {
		t.Errorf("exit code %d", exit)
	}
}
