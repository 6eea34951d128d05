//go:build unix

package e2e_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/internal/pgtest"
)

// stopped checks what a worker leaves that was asked to stop in a burst: what ran is settled with its result, what did
// not run waits with no attempt spent.
func (s *stage) stopped(ran, added int) {
	s.t.Helper()
	succeeded := one[int](s, `select count(distinct job_id) from offstage_private.history where outcome = 'succeeded'`)
	results := one[int](s, `select count(*) from offstage_private.history where outcome = 'succeeded' and result::text = job_id::text`)
	waiting := one[int](s, `select count(*) from offstage.jobs where state = 'waiting' and attempts = 0`)
	if ran == 0 || ran == added || succeeded != ran || results != ran || waiting != added-ran {
		s.t.Errorf("%d of %d jobs ran: %d succeeded, %d with their result, %d wait", ran, added, succeeded, results, waiting)
	}
	for _, table := range []string{"lease", "worker"} {
		if n := one[int](s, `select count(*) from offstage_private.`+table); n != 0 {
			s.t.Errorf("%d rows are left in %s", n, table)
		}
	}
}

// SIGTERM while tens of thousands of jobs rush through a worker.
func TestTerminateInBurst(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	const n = 30000
	for range n / 5000 {
		s.add(many(5000, offstage.Spec{Task: "log"})...)
	}
	w := s.goWorker(role{})
	s.ranMore(1000)
	w.leave()
	runs := s.ran()
	for id, times := range runs {
		if times != 1 {
			t.Errorf("job %d ran %d times", id, times)
		}
	}
	s.stopped(len(runs), n)
}

// The same with scripts. One of them runs when the signal comes, and is waited for.
func TestTerminateScripts(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	gate := s.fifo("gate")
	s.script("quick", `echo $GRAPHILE_WORKER_JOB_ID >> DIR/ran; echo $GRAPHILE_WORKER_JOB_ID > "$OFFSTAGE_RESULT"`+"\n")
	s.script("long", `echo started > DIR/long; read line < DIR/gate; echo $GRAPHILE_WORKER_JOB_ID >> DIR/ran; echo $GRAPHILE_WORKER_JOB_ID > "$OFFSTAGE_RESULT"`+"\n")
	ran := func() int {
		b, err := os.ReadFile(filepath.Join(s.dir, "ran"))
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		return strings.Count(string(b), "\n")
	}
	const n = 3000
	s.add(offstage.Spec{Task: "long", Options: offstage.Options{Priority: -1}})
	s.add(many(n, offstage.Spec{Task: "quick"})...)
	w := s.cliWorker(4)
	pgtest.Eventually(t, 30*time.Second, func() error {
		if k := ran(); k < 20 || len(s.files("long")) == 0 {
			return fmt.Errorf("%d scripts have run", k)
		}
		return nil
	})
	w.signal(syscall.SIGTERM)
	s.reaches(10*time.Second, 1, `select count(*) from offstage.workers where state = 'draining'`)
	s.reaches(10*time.Second, n-ran(), `select count(*) from offstage.jobs where state = 'waiting'`)
	if !w.running() {
		t.Error("the worker did not wait for the script that runs")
	}
	if err := os.WriteFile(gate, []byte("go\n"), 0); err != nil {
		t.Fatal(err)
	}
	if code := w.exit(20 * time.Second); code != 0 {
		t.Errorf("the worker ended with code %d, expected 0", code)
	}
	s.stopped(ran(), n+1)
}

// A second signal, later than as an echo of the first, forces the worker to end at once. Its job is not lost.
func TestTerminateTwice(t *testing.T) {
	t.Parallel()
	for _, second := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(second.String(), func(t *testing.T) {
			t.Parallel()
			s := newStage(t)
			s.fifo("never")
			s.script("stuck", "echo $$ > DIR/new && mv DIR/new DIR/stuck\nread line < DIR/never\n")
			s.add(offstage.Spec{Task: "stuck"})
			w := s.cliWorker(1)
			pgtest.Eventually(t, 30*time.Second, func() bool { return len(s.files("stuck")) == 1 })
			w.signal(syscall.SIGTERM)
			s.reaches(10*time.Second, 1, `select count(*) from offstage.workers where state = 'draining'`)
			pgtest.Eventually(t, 10*time.Second, func() bool { w.signal(second); return !w.running() })
			if code := w.exit(10 * time.Second); code != 130 {
				t.Errorf("the worker ended with code %d, expected 130", code)
			}
			if n := one[int](s, `select count(*) from offstage.jobs where state in ('running', 'waiting')`); n != 1 {
				t.Error("the job is gone")
			}
		})
	}
}
