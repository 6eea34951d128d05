//go:build soak && unix

package soak_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"
)

// slot is the place of one worker process, which is killed, stopped and restarted.
type slot struct {
	s      *soak
	rng    *rand.Rand
	forbid bool // it leaves jobs with a flag to others
	n      int  // processes so far
	cmd    *exec.Cmd
	log    string
	logs   []string
	done   chan struct{} // closed when the process has ended
}

// start starts the test binary as a worker. The caller owns the slot.
func (w *slot) start() {
	w.n++
	w.log = filepath.Join(w.s.dir, fmt.Sprintf("worker-%d-%d.log", w.rng.Uint32(), w.n))
	w.logs = append(w.logs, w.log)
	out, err := os.Create(w.log)
	if err != nil {
		panic(err) // the directory is ours
	}
	self, err := os.Executable()
	if err != nil {
		panic(err)
	}
	cmd, done := exec.Command(self), make(chan struct{})
	cmd.Env = append(os.Environ(), urlVariable+"="+w.s.db.URL)
	if w.forbid {
		cmd.Env = append(cmd.Env, forbidVariable+"=old")
	}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = dieWithTest()
	started := make(chan error, 1)
	go func() {
		// The death signal comes when the thread that forked ends, not the process: it is kept as long as the child.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer out.Close()
		err := cmd.Start()
		started <- err
		if err == nil {
			cmd.Wait()
			close(done)
		}
	}()
	if err := <-started; err != nil {
		panic(err)
	}
	w.cmd, w.done = cmd, done
	w.s.t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGKILL) // fails when it has ended
		<-done
	})
}

func (w *slot) signal(sig syscall.Signal) {
	_ = w.cmd.Process.Signal(sig) // fails only when it has ended
}

// torment lasts until ctx ends; then the worker runs.
func (w *slot) torment(ctx context.Context) {
	for {
		life := time.NewTimer(between(w.rng, 2*time.Second, 14*time.Second))
		select {
		case <-ctx.Done():
			life.Stop()
			return
		case <-w.done:
			life.Stop()
			w.s.complain("worker %d ended by itself: %s\n%s", w.cmd.Process.Pid, w.cmd.ProcessState, tail(w.log))
		case <-life.C:
			switch n := w.rng.IntN(10); {
			case n < 4:
				w.s.kills.Add(1)
				w.signal(syscall.SIGKILL)
				<-w.done
			case n < 8:
				w.s.stops.Add(1)
				w.signal(syscall.SIGSTOP)
				pause(ctx, between(w.rng, time.Second, 8*time.Second))
				w.signal(syscall.SIGCONT)
				continue
			default:
				w.s.restarts.Add(1)
				w.leave()
			}
		}
		pause(ctx, between(w.rng, 0, 3*time.Second))
		w.start()
	}
}

// leave asks the worker to stop, and expects it to do so in peace.
func (w *slot) leave() {
	w.signal(syscall.SIGTERM)
	timer := time.NewTimer(time.Minute)
	defer timer.Stop()
	select {
	case <-w.done:
		if code := w.cmd.ProcessState.ExitCode(); code != 0 {
			w.s.complain("worker %d ended with code %d after SIGTERM:\n%s", w.cmd.Process.Pid, code, tail(w.log))
		}
	case <-timer.C:
		w.signal(syscall.SIGQUIT) // it tells where its goroutines are
		<-w.done
		w.s.complain("worker %d did not end within a minute after SIGTERM:\n%s", w.cmd.Process.Pid, tail(w.log))
	}
}

func tail(path string) string {
	b, _ := os.ReadFile(path) // a file that cannot be read says nothing
	return string(b[max(0, len(b)-8000):])
}

// checkLogs looks for what nobody may ever see: data races, panics of ours, deadlocks.
func (s *soak) checkLogs(workers []*slot) {
	for _, w := range workers {
		for _, path := range w.logs {
			b, err := os.ReadFile(path)
			if err != nil {
				s.complain("%v", err)
			}
			for _, word := range []string{"DATA RACE", "fatal error:", "goroutine 1 ["} {
				if i := bytes.Index(b, []byte(word)); i >= 0 {
					s.complain("%s in the log of a worker:\n%s", word, b[i:min(i+4000, len(b))])
				}
			}
		}
	}
	b, err := os.ReadFile(s.log)
	if err != nil {
		s.complain("%v", err)
	}
	for rest := b; ; {
		i := bytes.Index(rest, []byte("deadlock detected"))
		if i < 0 {
			break
		}
		s.complain("the server says:\n%s", rest[i:min(i+3000, len(rest))])
		rest = rest[min(i+3000, len(rest)):]
	}
}
