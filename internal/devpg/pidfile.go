package devpg

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// running returns the process and the port of a server that already runs on the data and answers, 0 if there is none.
// One that is just starting or ending is waited for.
//
// After a kill -9 or a power failure postmaster.pid remains, and its process id may meanwhile belong to
// anything; postgres itself would then refuse to start. So the process must have our directory on its
// command line, otherwise the file is removed.
func (h *home) running(ctx context.Context, password string) (pid, port int, err error) {
	pidFile := filepath.Join(h.data(), "postmaster.pid")
	for {
		text, err := os.ReadFile(pidFile)
		if errors.Is(err, fs.ErrNotExist) {
			return 0, 0, nil
		}
		if err != nil {
			return 0, 0, fmt.Errorf("read postmaster.pid: %w", err)
		}
		pid, port := parsePidFile(string(text))
		if pid <= 0 || !runsOn(pid, h.data()) {
			if err := os.Remove(pidFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return 0, 0, fmt.Errorf("remove a stale postmaster.pid: %w", err)
			}
			return 0, 0, nil
		}
		if port != 0 {
			s := Server{port: port, password: password}
			if conn, err := connect(ctx, s.URL("postgres")); err == nil {
				return pid, port, conn.Close(ctx)
			}
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return 0, 0, fmt.Errorf("process %d runs PostgreSQL in %s and does not answer: %w; end it with: kill -INT %d", pid, h.dir, err, pid)
		}
	}
}

// parsePidFile reads the first and the fourth line. postgres writes them one by one while it starts, so
// that the port may be missing (0).
func parsePidFile(text string) (pid, port int) {
	lines := strings.Split(text, "\n")
	pid, _ = strconv.Atoi(strings.TrimSpace(lines[0]))
	if len(lines) > 4 { // complete only with the line's end
		port, _ = strconv.Atoi(strings.TrimSpace(lines[3]))
	}
	return pid, port
}

// runsOn says whether a process is alive and has the data directory among its arguments.
func runsOn(pid int, dataDir string) bool {
	if line, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline")); err == nil {
		for arg := range bytes.SplitSeq(line, []byte{0}) {
			if string(arg) == dataDir {
				return true
			}
		}
		return false
	} else if _, err := os.Stat("/proc/self/cmdline"); err == nil {
		return false // this system has /proc, and the process is not in it
	}
	out, err := exec.Command("ps", "-ww", "-o", "args=", "-p", strconv.Itoa(pid)).Output()
	return err == nil && strings.Contains(string(out), dataDir)
}
