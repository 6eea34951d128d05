package main

import "syscall"

// endsWithUs keeps Ctrl-C in our terminal from a process, because we stop it ourselves, and kills it when we are killed.
func endsWithUs() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
