//go:build unix

package e2e_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/internal/pgtest"
)

// A worker with fifty jobs is killed: another one runs all of them again, within 20 s, all at the same time, and history names each as rescued
// once. The scripts of the dead worker are dead, too.
func TestKill(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.fifo("never")
	gate := s.fifo("gate")
	s.script("block", `
echo $$ > "DIR/new-$GRAPHILE_WORKER_JOB_ID" && mv "DIR/new-$GRAPHILE_WORKER_JOB_ID" "DIR/run-$GRAPHILE_WORKER_JOB_ID-$GRAPHILE_WORKER_JOB_ATTEMPTS-$$"
if [ "$GRAPHILE_WORKER_JOB_ATTEMPTS" = 1 ]; then read line < DIR/never; else read line < DIR/gate; fi
`)
	const n = 50
	ids := s.add(many(n, offstage.Spec{Task: "block"})...)
	first := s.cliWorker(n)
	started := func(attempt string) (pids map[string]int) {
		pids = map[string]int{}
		for _, f := range s.files("run-") {
			if id, rest, _ := strings.Cut(f, "-"); strings.HasPrefix(rest, attempt+"-") {
				pids[id], _ = strconv.Atoi(strings.TrimPrefix(rest, attempt+"-")) // "$$" is a number
			}
		}
		return pids
	}
	all := func(attempt string) func() error {
		return func() error {
			if k := len(started(attempt)); k < n {
				return fmt.Errorf("%d of %d jobs have begun attempt %s", k, n, attempt)
			}
			return nil
		}
	}
	pgtest.Eventually(t, 30*time.Second, all("1"))
	s.reaches(10*time.Second, n, `select count(*) from offstage.jobs where state = 'running' and attempts = 1`)
	second := s.cliWorker(n)
	s.reaches(20*time.Second, 2, `select count(*) from offstage.workers where state = 'alive'`)

	first.signal(syscall.SIGKILL)
	killed := time.Now()
	first.exit(10 * time.Second)
	pgtest.Eventually(t, 20*time.Second, all("2"))
	t.Logf("all run again after %v", time.Since(killed))
	s.reaches(10*time.Second, n, `select count(*) from offstage.jobs where state = 'running' and attempts = 2`)
	open, err := os.OpenFile(gate, os.O_RDWR, 0) // all of them read from it, and one line is enough for each
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	if _, err := open.WriteString(strings.Repeat("\n", n)); err != nil {
		t.Fatal(err)
	}
	s.drained(20 * time.Second)
	if runtime.GOOS == "linux" { // elsewhere nothing ends a process with its parent
		for id, pid := range started("1") {
			if alive(pid) {
				t.Errorf("the script of job %s that the dead worker started is still there, pid %d", id, pid)
			}
		}
	}
	for id, h := range s.histories() {
		if !slices.Equal(h, []string{"rescued", "succeeded"}) {
			t.Errorf("history of job %d is %v", id, h)
		}
	}
	if k := len(s.histories()); k != len(ids) {
		t.Errorf("history has %d jobs, %d were added", k, len(ids))
	}
	if others := one[int](s, `select count(*) from offstage_private.history h join offstage_private.worker w on w.id = h.worker_id
		where h.outcome = 'rescued' and w.pid <> $1`, first.pid); others != 0 {
		t.Errorf("%d jobs were rescued from a worker that was not killed", others)
	}
	second.leave()
}

// A worker is stopped until its jobs have been rescued, and goes on: what it then wants to settle is refused, it cancels
// its attempts, takes a new name and works on.
func TestStopped(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	const n = 5
	stopped := s.goWorker(role{Jobs: n})
	ids := s.add(many(n, offstage.Spec{Task: "hold"})...)
	s.reaches(20*time.Second, n, `select count(*) from app.run where pid = $1`, stopped.pid)
	other := s.goWorker(role{Jobs: n})
	s.reaches(20*time.Second, 1, `select count(*) from offstage_private.worker where pid = $1`, other.pid)

	stopped.signal(syscall.SIGSTOP)
	s.reaches(20*time.Second, n, `select count(*) from app.run where pid = $1 and attempt = 2 and ending = 'done'`, other.pid)
	s.reaches(10*time.Second, n, `select count(*) from offstage_private.history where outcome = 'succeeded'`) // settled, too
	stopped.signal(syscall.SIGCONT)

	s.reaches(10*time.Second, n, `select count(*) from app.run where pid = $1 and attempt = 1 and ending like '%claim lost%'`, stopped.pid)
	s.reaches(10*time.Second, n, `select count(*) from offstage_private.history where outcome = 'refused'`)
	s.drained(10 * time.Second)
	for id, h := range s.histories() {
		if len(h) != 3 || count(h, "rescued") != 1 || count(h, "succeeded") != 1 || h[2] != "refused" {
			t.Errorf("history of job %d is %v", id, h)
		}
	}
	for _, id := range ids {
		if got, err := offstage.Await[int64](s.ctx(), s.client, id); err != nil || got != id {
			t.Errorf("await of job %d answered %v, %v: the result that came in time was expected", id, got, err)
		}
	}

	s.reaches(10*time.Second, 1, `select count(*) from offstage_private.worker where pid = $1 and dead_at is null`, stopped.pid)
	other.leave()
	last := s.add(offstage.Spec{Task: "record"})[0]
	s.reaches(10*time.Second, 1, `select count(*) from app.run where job_id = $1 and pid = $2 and ending = 'done'`, last, stopped.pid)
	stopped.leave()
}

// supervise keeps a worker running, as an init system would, until stop is called; that answers how many were started.
func supervise(t *testing.T, start func() *process) (stop func() int) {
	ctx, cancel := context.WithCancel(t.Context())
	answer := make(chan int, 1)
	starts := 0
	p := start()
	go func() {
		for {
			starts++
			select {
			case <-p.done:
			case <-ctx.Done():
				answer <- starts
				return
			}
			p = start()
		}
	}()
	return func() int {
		t.Helper()
		cancel()
		n := <-answer
		p.leave()
		return n
	}
}

// setAside checks that the killer failed after three crashes, and that the others succeeded.
func (s *stage) setAside(killer int64, innocent []int64) {
	s.t.Helper()
	s.reaches(60*time.Second, 1, `select count(*) from offstage.jobs where id = $1 and state = 'failed'`, killer)
	st, err := s.client.Status(s.ctx(), killer)
	if err != nil || !strings.Contains(st.Error, "third in a row") {
		s.t.Errorf("the killer is %+v, %v", st, err)
	}
	s.reaches(30*time.Second, len(innocent), `select count(*) from offstage_private.history where outcome = 'succeeded'`)
	h := s.histories()
	if got := h[killer]; len(got) != 4 || count(got, "rescued") != 3 || count(got, "failed") != 1 {
		s.t.Errorf("history of the killer is %v", got)
	}
	for _, id := range innocent {
		if got := h[id]; count(got, "succeeded") != 1 || count(got, "succeeded", "rescued", "released") != len(got) {
			s.t.Errorf("history of the innocent job %d is %v", id, got)
		}
	}
}

// A handler that ends its process is found out.
func TestKillerInGo(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	killer := s.add(offstage.Spec{Task: "crash", Options: offstage.Options{Priority: -1}})[0]
	innocent := s.add(many(30, offstage.Spec{Task: "record", Payload: payload{100}})...)
	witness := s.goWorker(role{Tasks: []string{"other"}})
	stop := supervise(t, func() *process { return s.goWorker(role{Jobs: 10}) })
	s.setAside(killer, innocent)
	if n := one[int](s, `select count(*) from app.run where job_id = $1`, killer); n != 3 {
		t.Errorf("the killer ran %d times, expected 3", n)
	}
	if n := stop(); n != 4 {
		t.Errorf("%d workers were started, expected 4", n)
	}
	witness.leave()
}

// A script that kills the worker is found out.
func TestKillerScript(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.script("killer", "echo run >> DIR/killed\nkill -9 $PPID\n")
	s.script("innocent", "exit 0\n")
	killer := s.add(offstage.Spec{Task: "killer", Options: offstage.Options{Priority: -1}})[0]
	innocent := s.add(many(30, offstage.Spec{Task: "innocent"})...)
	witness := s.goWorker(role{Tasks: []string{"other"}})
	stop := supervise(t, func() *process { return s.cliWorker(10) })
	s.setAside(killer, innocent)
	if b, err := os.ReadFile(filepath.Join(s.dir, "killed")); err != nil || strings.Count(string(b), "run") != 3 {
		t.Errorf("the killer ran %d times, expected 3 (%v)", strings.Count(string(b), "run"), err)
	}
	if n := stop(); n != 4 {
		t.Errorf("%d workers were started, expected 4", n)
	}
	witness.leave()
}
