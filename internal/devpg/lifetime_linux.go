package devpg

import (
	"os"
	"syscall"
)

// diesWithParent makes the kernel send a signal to the child when the thread that forked it ends, be it
// by kill -9. That thread must therefore live as long as the child is wanted.
func diesWithParent(attr *syscall.SysProcAttr, signal os.Signal) {
	attr.Pdeathsig = signal.(syscall.Signal)
}

// watchParent has nothing to do: the kernel watches.
func watchParent(int) (stop func(), err error) {
	return func() {}, nil
}
