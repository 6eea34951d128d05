package main

import (
	"os"
	"slices"
	"testing"
)

// The name of a process may contain spaces and parentheses.
func TestParseStat(t *testing.T) {
	const rest = " S 41 7 7 0 -1 4194560 100 200 3 4 11 22 333 4444 20 0 1 0 99 1000 50"
	for _, name := range []string{"(postgres)", "(postgres: a) b (c)", "()"} {
		got, err := parseStat("17 " + name + rest)
		if want := (process{pid: 17, parent: 41, cpu: 33, ended: 4777}); err != nil || got != want {
			t.Errorf("parseStat of %s = %+v, %v, want %+v", name, got, err, want)
		}
	}
	for _, text := range []string{"", "17 postgres S 1", "17 (postgres) S 41", "x (postgres)" + rest, "17 (postgres) S 41 7 7 0 -1 4194560 100 200 3 4 x 22 333 4444"} {
		if p, err := parseStat(text); err == nil {
			t.Errorf("parseStat(%q) = %+v", text, p)
		}
	}
}

func TestTreeHoldsDescendantsOnly(t *testing.T) {
	all := []process{{pid: 1}, {pid: 12, parent: 11}, {pid: 10, parent: 1}, {pid: 11, parent: 10}, {pid: 20, parent: 1}, {pid: 13, parent: 10}}
	var pids []int
	for _, p := range tree(all, 10) {
		pids = append(pids, p.pid)
	}
	slices.Sort(pids)
	if !slices.Equal(pids, []int{10, 11, 12, 13}) {
		t.Errorf("tree of 10 = %v", pids)
	}
	if got := tree(all, 99); got != nil {
		t.Errorf("tree of a process that is not there = %v", got)
	}
}

func TestParsePeak(t *testing.T) {
	if kb, ok := parsePeak("Name:\tx\nVmPeak:\t  99 kB\nVmHWM:\t   20512 kB\nVmRSS:\t  1 kB\n"); !ok || kb != 20512 {
		t.Errorf("parsePeak = %d, %v", kb, ok)
	}
	if _, ok := parsePeak("Name:\tkthreadd\n"); ok {
		t.Error("a process without memory has a peak")
	}
}

func TestOwnProcess(t *testing.T) {
	if _, err := os.Stat("/proc/self/stat"); err != nil {
		return // not Linux: these figures are left out
	}
	p, err := readProcess(os.Getpid())
	if err != nil || p.pid != os.Getpid() || p.parent != os.Getppid() {
		t.Errorf("readProcess = %+v, %v", p, err)
	}
	if got := peakMemory(os.Getpid()); !(got > 1e6 && got < 1e10) {
		t.Errorf("peakMemory = %v", got)
	}
}
