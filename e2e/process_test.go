//go:build unix

package e2e_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/offstage-dev/offstage/internal/pgtest"
)

// process is a program that runs, with its output in a file. It is killed when its test ends.
type process struct {
	t    *testing.T
	name string
	pid  int
	cmd  *exec.Cmd
	log  string
	done chan struct{} // closed when it has ended
}

var processes atomic.Int32

// start starts a program; extra is added to the environment.
func (s *stage) start(name string, extra []string, path string, args ...string) *process {
	s.t.Helper()
	p := &process{t: s.t, name: name, done: make(chan struct{})}
	p.log = filepath.Join(s.dir, "process-"+strconv.Itoa(int(processes.Add(1)))+".log")
	out, err := os.Create(p.log)
	if err != nil {
		s.t.Fatal(err)
	}
	p.cmd = exec.Command(path, args...)
	p.cmd.Env = append(append(os.Environ(), "TMPDIR="+s.dir), extra...) // what a killed worker leaves there
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.cmd.SysProcAttr = dieWithTest()
	started := make(chan error, 1)
	go func() {
		// The death signal comes when the thread that forked ends, not the process: it is kept as long as the child.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer out.Close()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			p.cmd.Wait()
			close(p.done)
		}
	}()
	if err := <-started; err != nil {
		s.t.Fatalf("start %s: %v", name, err)
	}
	p.pid = p.cmd.Process.Pid
	s.t.Cleanup(func() {
		p.signal(syscall.SIGKILL)
		<-p.done
		if s.t.Failed() {
			s.t.Logf("%s (pid %d) %s and said:\n%s", name, p.pid, p.cmd.ProcessState, p.output())
		}
	})
	return p
}

func (p *process) signal(sig syscall.Signal) {
	_ = p.cmd.Process.Signal(sig) // fails only when it has ended
}

func (p *process) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// exit waits for the end of the process and answers its exit code, -1 if a signal ended it.
func (p *process) exit(within time.Duration) int {
	p.t.Helper()
	timer := time.NewTimer(within)
	defer timer.Stop()
	select {
	case <-p.done:
	case <-timer.C:
		p.t.Fatalf("%s (pid %d) has not ended within %v", p.name, p.pid, within)
	}
	return p.cmd.ProcessState.ExitCode()
}

// leave asks the process to stop, and expects it to do so in peace.
func (p *process) leave() {
	p.t.Helper()
	p.signal(syscall.SIGTERM)
	if code := p.exit(20 * time.Second); code != 0 {
		p.t.Errorf("%s (pid %d) ended with code %d after SIGTERM, expected 0", p.name, p.pid, code)
	}
}

// output is what the process has printed, the end of it where it is long.
func (p *process) output() string {
	b, _ := os.ReadFile(p.log) // a file that cannot be read says nothing
	return string(b[max(0, len(b)-6000):])
}

// goWorker starts the test binary as a worker.
func (s *stage) goWorker(r role) *process {
	s.t.Helper()
	if r.Database == "" {
		r.Database = s.db.URL
	}
	r.App = s.db.URL
	if r.Log == "" {
		r.Log = filepath.Join(s.dir, "ran-"+strconv.Itoa(int(processes.Add(1))))
	}
	s.logs = append(s.logs, r.Log)
	text, err := json.Marshal(r)
	if err != nil {
		s.t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		s.t.Fatal(err)
	}
	return s.start("worker in Go", []string{roleVariable + "=" + string(text)}, self)
}

// cliWorker starts the binary as a worker, with the scripts in the directory that tasks answers.
func (s *stage) cliWorker(jobs int, more ...string) *process {
	s.t.Helper()
	args := []string{"worker", "--database-url", s.db.URL, "--schema", "offstage", "--tasks", s.tasks(), "--jobs", strconv.Itoa(jobs)}
	return s.start("offstage worker", nil, offstageBinary(s.t), append(args, more...)...)
}

// script writes an executable task. In its text, DIR stands for a directory that belongs to the test.
func (s *stage) script(task, text string) {
	s.t.Helper()
	text = "#!/bin/sh\n" + strings.ReplaceAll(text, "DIR", s.dir)
	pgtest.Program(s.t, filepath.Join(s.tasks(), task), text)
}

func (s *stage) tasks() string {
	dir := filepath.Join(s.dir, "tasks")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		s.t.Fatal(err)
	}
	return dir
}

// fifo makes a pipe in the test's directory: who reads from it waits until somebody writes.
func (s *stage) fifo(name string) string {
	s.t.Helper()
	path := filepath.Join(s.dir, name)
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		s.t.Fatal(err)
	}
	return path
}

// files are the test's files whose names begin so, without that beginning.
func (s *stage) files(prefix string) []string {
	s.t.Helper()
	found, err := filepath.Glob(filepath.Join(s.dir, prefix+"*"))
	if err != nil {
		s.t.Fatal(err)
	}
	for i, f := range found {
		found[i] = strings.TrimPrefix(filepath.Base(f), prefix)
	}
	return found
}

// alive says whether a process that is not ours still runs.
func alive(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return !os.IsNotExist(err) || runtime.GOOS != "linux"
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(rest, "Z") // ended, and not yet reaped by whoever inherited it
}
