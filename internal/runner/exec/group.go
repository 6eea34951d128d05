//go:build unix

package exec

import (
	osexec "os/exec"
	"runtime"
	"syscall"
	"time"
)

// group is the process group of one attempt. Its id is the leader's process id, which cannot be given to another
// process before the leader is reaped; clear does that, and nothing but signal 0 is sent afterwards.
type group struct {
	id     int
	cmd    *osexec.Cmd
	exited chan struct{} // closed when the leader has ended
}

// start starts cmd as the leader of a group. The goroutine that does so keeps its thread until the leader has ended,
// because Linux takes the end of the thread that forked for the end of the parent and sends the death signal; a
// thread of Go's ends when a goroutine returns without unlocking it. The thread is not wasted: it waits for the leader.
func start(cmd *osexec.Cmd) (*group, error) {
	g := &group{cmd: cmd, exited: make(chan struct{})}
	started := make(chan error)
	go func() {
		defer close(g.exited)
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			awaitExit(cmd)
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	g.id = cmd.Process.Pid
	return g, nil
}

// terminate asks the group to end. A stopped process would not take notice, so it is continued.
func (g *group) terminate() {
	_ = syscall.Kill(-g.id, syscall.SIGTERM)
	_ = syscall.Kill(-g.id, syscall.SIGCONT)
}

func (g *group) kill() { _ = syscall.Kill(-g.id, syscall.SIGKILL) }

// clear kills what is left of the group, reaps the leader and waits until all are gone. It says whether they are.
func (g *group) clear() bool {
	select {
	case <-g.exited:
	default:
		// The leader cannot be killed. Whenever it does end, it is reaped.
		go func() {
			<-g.exited
			g.kill()
			reap(g.cmd)
		}()
		return false
	}
	g.kill()
	reap(g.cmd)
	return g.awaitGone(time.Now().Add(unkillable / 5))
}

// awaitGone waits until no process of the group runs. They have been killed, so that is a matter of scheduling.
func (g *group) awaitGone(deadline time.Time) bool {
	for pause := 100 * time.Microsecond; ; pause = min(2*pause, 20*time.Millisecond) {
		// Orphans become children of process 1, which is the worker itself in a container without an init.
		for {
			if pid, err := syscall.Wait4(-g.id, nil, syscall.WNOHANG, nil); err != nil || pid <= 0 {
				break
			}
		}
		if syscall.Kill(-g.id, 0) == syscall.ESRCH {
			return true
		}
		// Where process 1 does not reap them, they have ended nevertheless. Looking is dear, hence not at once.
		if pause > 2*time.Millisecond && allEnded(g.id) {
			return true
		}
		if time.Now().After(deadline) {
			return false
		}
		time.Sleep(pause)
	}
}
