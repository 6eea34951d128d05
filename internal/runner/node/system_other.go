//go:build unix && !linux

package node

import "syscall"

// attributes make the process the leader of a group, so that a Ctrl-C at the terminal is the worker's alone. It ends with
// the worker when its event loop turns the next time.
func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
