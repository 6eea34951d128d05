package node

import "syscall"

// attributes make the process the leader of a group, so that a Ctrl-C at the terminal is the worker's alone, and end it
// with the worker, even while its event loop does not turn.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
