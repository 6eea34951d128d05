//go:build unix

package devpg

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// The test binary runs itself as another process. The child prints one line and lives until its
// standard input ends, or until it is killed.
const (
	childMode = "OFFSTAGE_DEVPG_CHILD"
	childDir  = "OFFSTAGE_DEVPG_DIR"

	// longSleep is an argument by which the process can be recognised.
	longSleep = "3599.25"
)

func beChild(mode string) {
	fail := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	switch mode {
	case "server":
		s, err := Start(context.Background(), Config{Dir: os.Getenv(childDir), InMemory: true})
		fail(err)
		pid, port := s.Pid(), s.port
		fmt.Println(pid, port, s.home.data())
		io.Copy(io.Discard, os.Stdin)
		fail(s.Stop())
	case "watchdog":
		cmd := exec.Command("sleep", longSleep)
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		fail(cmd.Start())
		_, err := startWatchdog(cmd.Process.Pid)
		fail(err)
		fmt.Println(cmd.Process.Pid, 0, longSleep)
		io.Copy(io.Discard, os.Stdin)
	}
}

type child struct {
	cmd       *exec.Cmd
	stdin     io.Closer
	pid, port int
	marker    string // by which the process can be told from another with its id
}

func startChild(t *testing.T, mode, dir string) *child {
	t.Helper()
	c, err := newChild(mode, dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.stdin.Close()
		c.cmd.Wait()
	})
	return c
}

func newChild(mode, dir string) (*child, error) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childMode+"="+mode, childDir+"="+dir)
	cmd.Stderr = os.Stderr
	stdin, err1 := cmd.StdinPipe()
	stdout, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	c := &child{cmd: cmd, stdin: stdin}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err == nil {
		_, err = fmt.Sscan(line, &c.pid, &c.port, &c.marker)
	}
	if err != nil {
		stdin.Close()
		return nil, fmt.Errorf("the child says %q: %w (%v)", line, err, cmd.Wait())
	}
	return c, nil
}

func (c *child) kill(t *testing.T) {
	t.Helper()
	if err := c.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	c.cmd.Wait()
}

func TestKilledParentLeavesNoServer(t *testing.T) {
	t.Parallel()
	for _, kept := range []bool{true, false} {
		dir := ""
		if kept {
			dir = keptDir(t)
		}
		c := startChild(t, "server", dir)
		if !runsOn(c.pid, c.marker) {
			t.Fatalf("process %d is no PostgreSQL on %s", c.pid, c.marker)
		}
		c.kill(t)
		if kept {
			// At once, while the old server may still be ending: the new one waits for that.
			s := mustStart(t, Config{Dir: dir})
			if s.Reused() {
				t.Error("the server of a killed process was reused")
			}
		}
		eventually(t, "the server ends", func() bool { return !runsOn(c.pid, c.marker) })
		if !kept {
			os.RemoveAll(filepath.Dir(c.marker)) // nobody else's work before a minute has passed
		}
	}
}

func TestWatchdog(t *testing.T) {
	t.Parallel()
	c := startChild(t, "watchdog", "")
	eventually(t, "the process is the sleep", func() bool { return runsOn(c.pid, c.marker) }) // for a moment after its start it has no arguments
	c.kill(t)
	eventually(t, "the process ends", func() bool { return !runsOn(c.pid, c.marker) })
}

func TestWatchdogDoesNothingAfterStop(t *testing.T) {
	t.Parallel()
	cmd := exec.Command("sleep", longSleep)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the process is the sleep", func() bool { return runsOn(cmd.Process.Pid, longSleep) })
	stop, err := startWatchdog(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	stop()
	if !runsOn(cmd.Process.Pid, longSleep) {
		t.Error("the process was ended by a watchdog that had been stopped")
	}
	cmd.Process.Kill()
	cmd.Wait()
}

func TestProcessesThatStartAtOnceShareOneServer(t *testing.T) {
	t.Parallel()
	const n = 3
	dir := keptDir(t)
	type result struct {
		c   *child
		err error
	}
	results := make(chan result, n)
	for range n {
		go func() {
			c, err := newChild("server", dir)
			results <- result{c, err}
		}()
	}
	var children []*child
	for range n {
		r := <-results
		if r.err != nil {
			t.Error(r.err)
			continue
		}
		children = append(children, r.c)
	}
	starters, port := 0, 0
	for _, c := range children {
		if c.pid != 0 {
			starters++
		}
		if port == 0 {
			port = c.port
		}
		if c.port != port {
			t.Errorf("servers on ports %d and %d", port, c.port)
		}
		c.stdin.Close()
	}
	for _, c := range children {
		if err := c.cmd.Wait(); err != nil {
			t.Error(err)
		}
	}
	if starters != 1 {
		t.Errorf("%d processes started a server, want 1", starters)
	}
}

// TestOrdinaryUser repeats the tests as a user without rights, when root runs them. For an ordinary
// user the others have done that already.
func TestOrdinaryUser(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		return
	}
	nobody, err := user.Lookup("nobody")
	if err != nil {
		t.Fatal(err)
	}
	uid, err1 := strconv.ParseUint(nobody.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(nobody.Gid, 10, 32)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Dir(keptDir(t))
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(dir, "devpg.test")
	// By another process: while this one has a file open for writing, a child that it forks holds it too, and it is "text file busy".
	if out, err := exec.Command("install", "-m", "755", os.Args[0], binary).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	cmd := exec.Command(binary, "-test.v", "-test.run=^(TestTemporary|TestKilledParentLeavesNoServer)$")
	cmd.Dir = "/"
	cmd.Env = append(cleanEnv(), "HOME=/nonexistent", "TMPDIR=/tmp")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	out, err := cmd.CombinedOutput()
	if err != nil || strings.Count(string(out), "\n--- PASS") != 2 {
		t.Errorf("as user nobody: %v\n%s", err, out)
	}
}
