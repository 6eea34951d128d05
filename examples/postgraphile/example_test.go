//go:build unix

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	_ "github.com/offstage-dev/offstage/internal/cli" // what the programs are made of: the test cache sees its changes
	"github.com/offstage-dev/offstage/internal/pgtest"
)

// kinds are what the task is written in.
var kinds = []string{"go", "js"}

// scratch holds the programs; it goes away with the run.
var scratch string

func TestMain(m *testing.M) {
	var err error
	if scratch, err = os.MkdirTemp("", "offstage-example-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	pgtest.Main(m, goleak.Cleanup(func(code int) {
		os.RemoveAll(scratch)
		os.Exit(code)
	}))
}

var build = sync.OnceValue(func() error {
	out, err := exec.Command("go", "build", "-o", scratch, "../../cmd/offstage", ".", "./goworker").CombinedOutput()
	if err != nil {
		return fmt.Errorf("build the example's programs: %w\n%s", err, out)
	}
	return nil
})

// testStage is a stage with a server of its own: roles belong to a whole server.
type testStage struct {
	*testing.T
	*stage
}

func newStage(t *testing.T, v4 bool) testStage {
	t.Helper()
	if err := build(); err != nil {
		t.Fatal(err)
	}
	// The test cache sees what this process looks at, not what its children read.
	for _, file := range []string{
		"client.mjs", "graphile.config.mjs", "package-lock.json", "tasks/sales_report.js", "goworker/main.go", "v4/server.js", "v4/package-lock.json",
	} {
		if _, err := os.Stat(file); err != nil {
			t.Fatal(err)
		}
	}
	server := pgtest.Server(t, nil)
	s := &stage{dir: ".", bin: scratch, v4: v4}
	t.Cleanup(func() {
		if err := s.close(); err != nil {
			t.Error(err)
		}
	})
	if err := s.open(t.Context(), server); err != nil {
		t.Fatal(err)
	}
	return testStage{t, s}
}

// in is the stage for a subtest.
func (s testStage) in(t *testing.T, kind string) testStage {
	s.kind = kind
	return testStage{t, s.stage}
}

func must[V any](t *testing.T) func(V, error) V {
	return func(v V, err error) V {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func (s testStage) worker() *child { s.Helper(); return must[*child](s.T)(s.startWorker(s.Context())) }

func (s testStage) asks(c *client, city string) report {
	s.Helper()
	return must[report](s.T)(c.ask(s.Context(), city))
}

func (s testStage) hears(c *client) event { s.Helper(); return must[event](s.T)(c.event(s.Context())) }

// becomes waits until the database answers yes.
func (s testStage) becomes(question string, args ...any) {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), patience)
	defer cancel()
	if err := s.until(ctx, s.server, question, args...); err != nil {
		s.Fatal(err)
	}
}

// The whole way, from a mutation to a client that has the result, with both versions of PostGraphile.
func TestPostGraphile(t *testing.T) {
	t.Parallel()
	for _, v4 := range []bool{false, true} {
		t.Run(map[bool]string{false: "v5", true: "v4"}[v4], func(t *testing.T) {
			t.Parallel()
			s := newStage(t, v4)
			t.Run("without a worker", func(t *testing.T) { s.in(t, "").ended() })
			for _, kind := range kinds {
				t.Run("story "+kind, func(t *testing.T) { s.in(t, kind).story() })
				t.Run("kill "+kind, func(t *testing.T) { s.in(t, kind).kill() })
			}
		})
	}
}

func (s testStage) story() {
	w := s.worker()
	var out bytes.Buffer
	if err := s.tell(s.Context(), &out); err != nil {
		s.Fatalf("%v\n%s", err, out.String())
	}
	if err := w.stop(); err != nil || !w.cmd.ProcessState.Success() {
		s.Errorf("the worker ended with %v, %v", w.cmd.ProcessState, err)
	}
}

// ended: every final outcome is told, also when no worker had a part in it.
func (s testStage) ended() {
	hers := must[*client](s.T)(s.join(s.Context(), ada, adasTopic))
	for _, c := range []struct{ outcome, sql string }{
		{"cancelled", `select graphile_worker.cancel_jobs(array[$1::bigint], 'not wanted')`},
		{"failed", `select graphile_worker.permanently_fail_jobs(array[$1::bigint], 'no')`},
		{"completed", `select graphile_worker.complete_jobs(array[$1::bigint])`},
	} {
		asked := s.asks(hers, "Oslo")
		if asked.Status != "waiting" {
			s.Errorf("the report that was asked for is %s, expected waiting", asked.Status)
		}
		var job int64
		if err := s.super.QueryRow(s.Context(), `select job_id from app_public.report where id = $1::text::bigint`, asked.ID).Scan(&job); err != nil {
			s.Fatal(err)
		}
		if _, err := s.super.Exec(s.Context(), c.sql, job); err != nil {
			s.Fatal(err)
		}
		if e := s.hears(hers); e.RelatedNode == nil || e.RelatedNode.ID != asked.ID || e.RelatedNode.Status != c.outcome {
			s.Errorf("after %s the event brings %+v", c.sql, e.RelatedNode)
		}
	}
}

// kill: a worker that is killed in the middle of the job is replaced, and the client hears of the end once.
func (s testStage) kill() {
	hers := must[*client](s.T)(s.join(s.Context(), ada, adasTopic))
	first := s.worker()

	// The job stops in the middle, because the sales are locked.
	tx, err := s.super.Begin(s.Context())
	if err == nil {
		_, err = tx.Exec(s.Context(), `lock table app_private.sale in access exclusive mode`)
	}
	if err != nil {
		s.Fatal(err)
	}
	defer tx.Rollback(context.WithoutCancel(s.Context()))
	asked := s.asks(hers, "Kyoto")
	s.becomes(`select exists (select from pg_catalog.pg_locks where relation = 'app_private.sale'::regclass and not granted)`)
	second := s.worker()
	first.kill()
	s.becomes(`select state = 'running' and attempt = 2 from app_public.report r, graphile_worker.job_status(r.job_id) where r.id = $1::text::bigint`, asked.ID)
	if n := len(hers.events); n > 0 {
		s.Errorf("%d events came before the job had ended", n)
	}
	if err := tx.Rollback(s.Context()); err != nil {
		s.Fatal(err)
	}
	if err := s.hears(hers).fulfils(asked); err != nil {
		s.Error(err)
	}

	// Whatever else there were to tell of the first report would come before this one's event.
	asked = s.asks(hers, "Oslo")
	if err := s.hears(hers).fulfils(asked); err != nil {
		s.Error(err)
	}
	if n := len(hers.events); n > 0 {
		s.Errorf("%d events came besides the two", n)
	}
	if err := second.stop(); err != nil || !second.cmd.ProcessState.Success() {
		s.Errorf("the second worker ended with %v, %v", second.cmd.ProcessState, err)
	}
}

func TestInterrupted(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, c := range []struct {
		args []string
		exit int
	}{{[]string{"--once"}, interrupted}, {nil, done}} {
		var errs bytes.Buffer
		if exit := (call{dir: ".", bin: scratch, out: &errs, errs: &errs}).run(ctx, c.args); exit != c.exit {
			t.Errorf("%v: exit code %d\n%s", c.args, exit, errs.String())
		}
	}
}

func TestUsage(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"--v6"}, {"now"}} {
		var errs bytes.Buffer
		if exit := (call{errs: &errs}).run(t.Context(), args); exit != usage || !strings.Contains(errs.String(), "--v4") {
			t.Errorf("%v: exit code %d\n%s", args, exit, errs.String())
		}
	}
}
