//go:build unix

package e2e_test

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/internal/pgtest"
)

// log are the lines of a job, in order.
func (s *stage) log(id int64) (all []string) {
	s.t.Helper()
	var last *offstage.LogLine
	for {
		lines, err := s.client.Log(s.ctx(), id, last)
		if err != nil {
			s.t.Fatal(err)
		}
		if len(lines) == 0 {
			return all
		}
		for _, l := range lines {
			all = append(all, fmt.Sprintf("%d %s %s", l.Attempt, l.Level, l.Message))
		}
		last = &lines[len(lines)-1]
	}
}

// What an attempt has told is there when its worker is killed, and stays when the job runs again elsewhere.
func TestLogOfKilledWorker(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.fifo("never")
	s.script("talk", `
echo "attempt $GRAPHILE_WORKER_JOB_ATTEMPTS"
echo "25 a quarter" > "$OFFSTAGE_PROGRESS"
echo "trouble" >&2
if [ "$GRAPHILE_WORKER_JOB_ATTEMPTS" = 1 ]; then read line < DIR/never; fi
echo "done"
`)
	first := s.cliWorker(1)
	id := s.add(offstage.Spec{Task: "talk"})[0]
	s.reaches(20*time.Second, 2, `select count(*) from offstage.job_log($1)`, id)
	pgtest.Eventually(t, 10*time.Second, func() error {
		st, err := s.client.Status(s.ctx(), id)
		if err == nil && (st.Progress == nil || *st.Progress != 25 || st.Message != "a quarter") {
			err = fmt.Errorf("status is %+v", st)
		}
		return err
	})
	first.signal(syscall.SIGKILL)
	first.exit(10 * time.Second)
	second := s.cliWorker(1)
	s.drained(30 * time.Second)
	want := []string{"1 error trouble", "1 info attempt 1", "2 error trouble", "2 info attempt 2", "2 info done"}
	got := s.log(id)
	slices.Sort(got) // stdout and stderr are two pipes
	if !slices.Equal(got, want) {
		t.Errorf("the log is %q, expected %q", got, want)
	}
	if h := s.histories()[id]; !slices.Equal(h, []string{"rescued", "succeeded"}) {
		t.Errorf("history is %v", h)
	}
	second.leave()
}

// A script that prints millions of lines takes neither the worker's memory nor the database.
func TestFloodOfLines(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	const n = 3_000_000
	s.script("flood", fmt.Sprintf("seq %d\n", n))
	w := s.cliWorker(1)
	id := s.add(offstage.Spec{Task: "flood"})[0]
	s.drained(60 * time.Second)
	got := s.log(id)
	if len(got) < 900 || len(got) > 1500 || got[0] != "1 info 1" || got[len(got)-1] != fmt.Sprintf("1 info %d", n) {
		t.Fatalf("%d lines, from %q to %q", len(got), got[0], got[len(got)-1])
	}
	lost, told := 0, 0
	for _, line := range got {
		var k int
		if _, err := fmt.Sscanf(line, "1 info … %d lines", &k); err == nil && strings.Contains(line, "left out") {
			lost += k
			told++
		}
		if _, err := fmt.Sscanf(line, "1 warn %d lines", &k); err == nil && strings.Contains(line, "were dropped here") {
			lost += k
			told++
		}
	}
	// One of the lines that are left out says that only the last ones are logged.
	if told != 2 || lost+len(got)-told-1 != n {
		t.Errorf("%d lines, %d said to be left out by %d lines, of %d", len(got), lost, told, n)
	}
	status, err := os.ReadFile("/proc/" + strconv.Itoa(w.pid) + "/status")
	if err != nil {
		t.Logf("this system does not tell how much memory was used: %v", err)
	}
	if _, peak, ok := strings.Cut(string(status), "VmHWM:"); ok {
		kb, err := strconv.Atoi(strings.Fields(peak)[0])
		if err != nil || kb > 150_000 {
			t.Errorf("the worker took %d kB of memory, %v", kb, err)
		}
		t.Logf("the worker took %d kB at most", kb)
	}
	w.leave()
}
