//go:build soak

package soak_test

import "syscall"

// dieWithTest ends a process with the test binary, however that ends.
func dieWithTest() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
