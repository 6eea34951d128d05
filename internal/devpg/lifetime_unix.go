//go:build unix && !linux

package devpg

import (
	"os"
	"syscall"
)

// diesWithParent has no counterpart in these kernels; watchParent does its work for the server, and
// initdb ends by itself within a second.
func diesWithParent(*syscall.SysProcAttr, os.Signal) {}

func watchParent(pid int) (stop func(), err error) { return startWatchdog(pid) }
