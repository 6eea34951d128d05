//go:build unix

package devpg

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"
)

// startWatchdog stops the server when this process ends, for kernels that do not offer that. A shell
// reads from a pipe whose other end only this process has: however we end, the shell sees the end of
// the file and passes a fast shutdown on.
func startWatchdog(pid int) (stop func(), err error) {
	read, write, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start a watchdog: %w", err)
	}
	defer read.Close()
	cmd := exec.Command("/bin/sh", "-c", `read -r line; kill -INT "$1"`, "sh", strconv.Itoa(pid))
	cmd.Stdin = read
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C must not reach it
	if err := cmd.Start(); err != nil {
		write.Close()
		return nil, fmt.Errorf("start a watchdog: %w", err)
	}
	return func() {
		// In this order: once the server has ended, its process id may belong to somebody else.
		cmd.Process.Kill()
		cmd.Wait()
		write.Close()
	}, nil
}
