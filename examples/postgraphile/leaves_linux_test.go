package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/offstage-dev/offstage/internal/pgtest"
)

// However the example ends, nothing of it is left.
func TestLeavesNothing(t *testing.T) {
	t.Parallel()
	if err := build(); err != nil {
		t.Fatal(err)
	}
	for name, end := range map[string]func(*child) error{
		"stop": (*child).stop,
		"kill": func(c *child) error { c.kill(); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			up := make(chan struct{})
			hear := func(line string) {
				if strings.HasPrefix(line, "It stays up") {
					close(up)
				}
			}
			c, err := start("postgraphile", "../..", []string{"TMPDIR=" + t.TempDir()}, hearing{out: hear}, scratch+"/postgraphile", "--v4", "--go")
			if err != nil {
				t.Fatal(err)
			}
			defer c.kill()
			timer := time.NewTimer(time.Minute)
			defer timer.Stop()
			select {
			case <-up:
			case <-c.done:
				t.Fatal(c.ended())
			case <-timer.C:
				t.Fatal("the example is not up after a minute")
			}
			mine := descendants(t, c.cmd.Process.Pid)
			if len(mine) < 5 { // PostGraphile, the worker, two clients, postgres
				t.Fatalf("the example has the processes %v", mine)
			}
			if err := end(c); err != nil {
				t.Fatal(err)
			}
			pgtest.Eventually(t, patience, func() error {
				if left := slices.DeleteFunc(slices.Clone(mine), gone); len(left) > 0 {
					return fmt.Errorf("still there: %v", left)
				}
				return nil
			})
			if name == "stop" && c.cmd.ProcessState.ExitCode() != done {
				t.Error(c.ended())
			}
		})
	}
}

// status is the state and the parent of a process.
func status(pid int) (state string, parent int, err error) {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return "", 0, err
	}
	_, rest, _ := strings.Cut(string(text), ") ") // before that is its name, whatever that is
	_, err = fmt.Sscan(rest, &state, &parent)
	return state, parent, err
}

// descendants are the processes that a process has started, and those that they have.
func descendants(t *testing.T, pid int) (list []int) {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	children := map[int][]int{}
	for _, entry := range entries {
		if n, err := strconv.Atoi(entry.Name()); err == nil {
			if _, parent, err := status(n); err == nil { // otherwise it has ended meanwhile
				children[parent] = append(children[parent], n)
			}
		}
	}
	var add func(int)
	add = func(parent int) {
		for _, c := range children[parent] {
			list = append(list, c)
			add(c)
		}
	}
	add(pid)
	return list
}

// gone says that a process has ended; whoever inherited it may still have to ask how.
func gone(pid int) bool {
	state, _, err := status(pid)
	return err != nil || state == "Z"
}
