package cli

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestBench(t *testing.T) {
	s := newStage(t)
	s.want(Usage, "bench").says(t, "add --yes", "which is dropped afterwards")
	s.want(Done, "bench", "--dry-run", "--only", "add,latency", "--count", "50").says(t, "would load ", "which is dropped afterwards:\n  add      one by one for 3.0 s, by 32 writers for 3.0 s, 50 in bulk\n  latency  of 300 jobs, with 1 worker with 10 slots\n")
	if got := decode[map[string]any](t, s.want(Done, "bench", "--dry-run", "--json", "--only", "work")); got["dry_run"] != true || got["schema"] != benchSchema || fmt.Sprint(got["parts"]) != "[work]" {
		t.Errorf("%v", got)
	}
	s.noBench()
	tiny := []string{"bench", "--yes", "--count", "50", "--time", "20ms", "--samples", "3"}
	r := s.want(Done, tiny...).says(t, "synchronous_commit", "add, one by one", "add, by 32 writers", "add, in bulk", "1 worker with 10 slots", "latency, to started", "p99")
	if lines := strings.Count(r.out, "\n"); lines != 8 {
		t.Errorf("%d lines:\n%s", lines, r.out)
	}
	got := decode[struct {
		Conditions map[string]any
		Figures    []figure
	}](t, s.want(Done, append(tiny, "--json")...))
	names := ""
	for _, f := range got.Figures {
		names += f.Name + " "
		if f.Value <= 0 || f.Jobs == 0 || f.Conditions == "" || (f.Unit != "jobs/s" && f.Unit != "ms") {
			t.Errorf("%+v", f)
		}
	}
	if names != "add_single add_writers add_bulk work latency_started latency_settled latency_result " || got.Conditions["postgresql"] == nil {
		t.Errorf("%s %v", names, got.Conditions)
	}
	if got := decode[struct{ Figures []figure }](t, s.want(Done, append(tiny, "--json", "--only", "latency")...)); len(got.Figures) != 3 {
		t.Errorf("%+v", got)
	}
	for _, f := range got.Figures {
		if log := f.WAL != nil && *f.WAL > 50; log != (f.Unit == "jobs/s") { // a job is written at least once
			t.Errorf("%s: WAL %v", f.Name, f.WAL)
		}
	}
	s.want(Usage, append(tiny, "--workers", "0")...).says(t, "--workers is 0")
	s.noBench()
}

// Several workers share what there is, and a handler that waits takes its time.
func TestBenchWorkers(t *testing.T) {
	s := newStage(t)
	got := decode[struct{ Figures []figure }](t, s.want(Done,
		"bench", "--yes", "--json", "--only", "work", "--workers", "3", "--jobs", "2", "--count", "60", "--takes", "20ms"))
	if len(got.Figures) != 1 || !strings.HasPrefix(got.Figures[0].Conditions, "3 workers with 2 slots each, handler waits for 20 ms") {
		t.Fatalf("%+v", got)
	}
	if f := got.Figures[0]; f.Jobs != 60 || f.Seconds < 0.2 { // 60 jobs, six at a time, 20 ms each
		t.Errorf("%d jobs in %v s", f.Jobs, f.Seconds)
	}
	s.noBench()
}

func (s *stage) noBench() {
	s.t.Helper()
	var left int
	err := s.pool.QueryRow(s.t.Context(), `select count(*) from pg_catalog.pg_namespace where nspname like 'offstage_bench%'`).Scan(&left)
	if err != nil || left != 0 {
		s.t.Errorf("%d schemas are left (%v)", left, err)
	}
}

// Ctrl-C leaves nothing behind.
func TestBenchInterrupted(t *testing.T) {
	s := newStage(t)
	ctx, cancel := context.WithCancel(t.Context())
	m, out, errs := s.call("bench", "--yes", "--time", "1h")
	ended := make(chan int, 1)
	go func() { ended <- m.Run(ctx) }()
	s.eventually(func() bool { return strings.Contains(errs.String(), "adding one by one …") })
	cancel()
	if exit := <-ended; exit != Interrupted {
		t.Errorf("exit code %d\n%s%s", exit, out, errs)
	}
	s.noBench()
}

// A schema of that name which is somebody's own is not touched.
func TestBenchSparesOthers(t *testing.T) {
	s := newStage(t)
	s.exec(`create schema offstage_bench`)
	s.want(Refused, "bench", "--dry-run").says(t, "that a measurement has not made")
	s.want(Refused, "bench", "--yes").says(t, "that a measurement has not made")
	s.exec(`drop schema offstage_bench`) // is there
}

func TestQuantile(t *testing.T) {
	t.Parallel()
	each := []time.Duration{4e6, 1e6, 3e6, 2e6}
	for q, want := range map[float64]float64{0: 1, 0.5: 2, 0.75: 3, 0.99: 4, 1: 4} {
		if got := quantile(each, q); got != want {
			t.Errorf("%v: %v instead of %v", q, got, want)
		}
	}
	if quantile(nil, 0.5) != 0 {
		t.Error("nothing has no median")
	}
}
