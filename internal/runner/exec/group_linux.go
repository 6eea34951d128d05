package exec

import (
	"bytes"
	"os"
	osexec "os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"unsafe"
)

// attributes make the process the leader of a session, hence of a group, and without a terminal: what asks for a
// password there fails at once instead of waiting for one. The death signal ends it with the worker, whose job may
// be running elsewhere soon.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
}

// awaitExit returns when the process has ended, and leaves it to be reaped.
func awaitExit(cmd *osexec.Cmd) {
	const byPID = 1     // P_PID
	var info [16]uint64 // siginfo_t has 128 bytes; they are not looked at
	for {
		_, _, errno := syscall.Syscall6(syscall.SYS_WAITID, byPID, uintptr(cmd.Process.Pid), uintptr(unsafe.Pointer(&info)),
			syscall.WEXITED|syscall.WNOWAIT, 0, 0)
		if errno != syscall.EINTR {
			return
		}
	}
}

// reap takes the status of the process, after which its id is free.
func reap(cmd *osexec.Cmd) {
	_ = cmd.Wait() // the status is in cmd.ProcessState
}

// allEnded says whether the processes of a group are known to have ended, all of them, and only wait to be reaped by
// another process, which inherited them.
func allEnded(group int) bool {
	proc, err := os.Open("/proc")
	if err != nil {
		return false
	}
	defer proc.Close()
	names, err := proc.Readdirnames(-1)
	if err != nil {
		return false
	}
	id := strconv.Itoa(group)
	var members, parents []string
	for _, name := range names {
		if name[0] < '0' || name[0] > '9' {
			continue
		}
		stat, err := os.ReadFile("/proc/" + name + "/stat")
		if err != nil {
			continue // reaped meanwhile
		}
		// pid (name) state parent group …, where the name may hold anything.
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		if len(fields) < 3 || fields[2] != id {
			continue
		}
		if state := fields[0]; state != "Z" && state != "X" {
			return false
		}
		members, parents = append(members, name), append(parents, fields[1])
	}
	// Those that are ours to reap, or were about to be inherited, are for the next look.
	self := strconv.Itoa(os.Getpid())
	for _, parent := range parents {
		if parent == self || slices.Contains(members, parent) {
			return false
		}
	}
	return len(members) > 0
}
