package main

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// memory is the most that the process has had resident, in MB; 0 where /proc does not say. What the system tells about
// processes that have ended does not serve: it begins with the memory of whoever started them.
func (a *agent) memory() float64 {
	file, err := os.Open(fmt.Sprintf("/proc/%d/status", a.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if text, ok := strings.CutPrefix(lines.Text(), "VmHWM:"); ok {
			kB, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(text), " kB"), 64)
			if err != nil {
				return 0
			}
			return kB / 1024
		}
	}
	return 0
}
