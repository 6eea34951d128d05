package main

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// What Linux tells of processes in /proc. Elsewhere there is no such directory, and these figures are left out.

// clockTicks is how many a second the kernel counts in /proc; every Linux that Go runs on says 100.
const clockTicks = 100

// process is what /proc/<pid>/stat says.
type process struct {
	pid, parent int
	cpu         int64 // ticks of itself
	ended       int64 // ticks of its children that have ended, and of theirs
}

// readProcess reads /proc/<pid>/stat.
func readProcess(pid int) (process, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return process{}, err
	}
	return parseStat(string(data))
}

// parseStat parses a line of /proc/<pid>/stat: the name, in parentheses, may contain anything.
func parseStat(text string) (p process, err error) {
	before, name, ok := strings.Cut(text, "(")
	end := strings.LastIndex(name, ")")
	if !ok || end < 0 {
		return p, fmt.Errorf("stat of a process: no name in %q", text)
	}
	fields := strings.Fields(name[end+1:]) // from the third, the state, on
	if len(fields) < 15 {
		return p, fmt.Errorf("stat of a process: %d fields after the name in %q", len(fields), text)
	}
	number := func(s string) int64 {
		n, e := strconv.ParseInt(s, 10, 64)
		err = errors.Join(err, e)
		return n
	}
	p.pid, p.parent = int(number(strings.TrimSpace(before))), int(number(fields[1]))
	p.cpu = number(fields[11]) + number(fields[12])
	p.ended = number(fields[13]) + number(fields[14])
	return p, err
}

// processList lists all that run.
func processList() ([]process, error) {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	var all []process
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			continue
		}
		if p, err := readProcess(pid); err == nil { // it may have ended meanwhile
			all = append(all, p)
		}
	}
	return all, nil
}

// tree is the process root and all that descend from it.
func tree(all []process, root int) []process {
	var found []process
	for _, p := range all {
		if p.pid == root {
			found = append(found, p)
		}
	}
	for i := 0; i < len(found); i++ {
		for _, p := range all {
			if p.parent == found[i].pid && p.pid != root {
				found = append(found, p)
			}
		}
	}
	return found
}

// cpu is the time that all processes of the server have used so far, those that have ended included, in microseconds;
// NaN where it is not known.
func (s *server) cpu() float64 {
	if s.private == nil {
		return math.NaN()
	}
	root := s.private.Pid()
	for range 10 {
		before, err := readProcess(root)
		if err != nil {
			return math.NaN()
		}
		all, err := processList()
		if err != nil {
			return math.NaN()
		}
		if after, err := readProcess(root); err != nil || after.ended != before.ended {
			continue // one has ended meanwhile, and would be counted twice or not at all
		}
		ticks := before.ended
		for _, p := range tree(all, root) {
			ticks += p.cpu
		}
		return float64(ticks) * 1e6 / clockTicks
	}
	return math.NaN()
}

// peakMemory is the most memory in bytes that a process and those that descend from it have had in RAM, each at its own
// time; NaN where it is not known.
func peakMemory(root int) float64 {
	all, err := processList()
	if err != nil {
		return math.NaN()
	}
	sum := math.NaN()
	for _, p := range tree(all, root) {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.pid))
		if err != nil {
			continue
		}
		if kb, ok := parsePeak(string(data)); ok {
			if math.IsNaN(sum) {
				sum = 0
			}
			sum += float64(kb) * 1024
		}
	}
	return sum
}

// parsePeak finds VmHWM in /proc/<pid>/status, in KiB.
func parsePeak(status string) (kb int64, ok bool) {
	for line := range strings.Lines(status) {
		if rest, found := strings.CutPrefix(line, "VmHWM:"); found {
			kb, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			return kb, err == nil
		}
	}
	return 0, false
}
