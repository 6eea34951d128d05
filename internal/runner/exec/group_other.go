//go:build unix && !linux

package exec

import (
	osexec "os/exec"
	"syscall"
)

// attributes make the process the leader of a session, hence of a group, and without a terminal: what asks for a
// password there fails at once instead of waiting for one.
func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setsid: true} }

// awaitExit returns when the process has ended, and reaps it: waiting without doing so is not reliable here. Its group
// is signalled shortly after; the id would have to go round within that time to meet another group.
func awaitExit(cmd *osexec.Cmd) {
	_ = cmd.Wait() // the status is in cmd.ProcessState
}

func reap(*osexec.Cmd) {}

// allEnded would say whether a group's processes only wait to be reaped; here, process 1 always does that.
func allEnded(int) bool { return false }
