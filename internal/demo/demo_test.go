package main

import (
	"bytes"
	"context"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/offstage-dev/offstage/internal/cli"
	"github.com/offstage-dev/offstage/internal/pgtest"
)

// The demo's shell finds "offstage" in its PATH, and that is the program it runs in: here, this test.
func TestMain(m *testing.M) {
	if calledAsOffstage() {
		os.Exit(cli.OS().Run(context.Background()))
	}
	pgtest.Main(m)
}

// text is a buffer that the demo's goroutines may write to at once.
type text struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (t *text) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.b.Write(p)
}

func (t *text) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.b.String()
}

func call(t *testing.T, args ...string) (m cli.Main, out, errs *text) {
	out, errs = &text{}, &text{}
	return cli.Main{
		Args: args, Stdin: strings.NewReader(""), Stdout: out, Stderr: errs, Getenv: func(string) string { return "" },
		Project: t.TempDir(), Notes: t.TempDir(),
	}, out, errs
}

func TestOnce(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	m, out, errs := call(t, "--once")
	if exit := run(ctx, m); exit != cli.Done {
		t.Fatalf("exit code %d\n%s\n%s", exit, out, errs)
	}
	for _, want := range []string{
		"Go      client.Add", "SQL     select", "trigger insert", "shell   offstage add",
		"retried, retried, succeeded", `{"words":5}`, "'Bobby Tables'", "Everything came out as told.", "have stopped",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the story lacks %q:\n%s", want, out)
		}
	}
}

func TestInterrupted(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	m, _, errs := call(t, "--once")
	if exit := run(ctx, m); exit != cli.Interrupted {
		t.Errorf("exit code %d\n%s", exit, errs)
	}
	m, _, errs = call(t)
	if exit := run(ctx, m); exit != cli.Done {
		t.Errorf("exit code %d\n%s", exit, errs)
	}
}

func TestUsage(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"--twice"}, {"now"}} {
		m, _, errs := call(t, args...)
		if exit := run(t.Context(), m); exit != cli.Usage || !strings.Contains(errs.String(), "--once") {
			t.Errorf("%v: exit code %d\n%s", args, exit, errs)
		}
	}
}

// What is told and does not happen is an error.
func TestJudge(t *testing.T) {
	t.Parallel()
	now := time.Now()
	good := func() *role {
		return &role{id: 1, task: "remind", path: "succeeded", result: "1", gotPath: "succeeded", gotResult: "1", added: now, started: now.Add(remindAfter), settled: now.Add(remindAfter)}
	}
	if err := (&stage{}).judge([]*role{good()}); err != nil {
		t.Error(err)
	}
	for name, spoil := range map[string]func(*role){
		"path":   func(r *role) { r.gotPath = "retried, succeeded" },
		"result": func(r *role) { r.gotResult = "2" },
		"log":    func(r *role) { r.says = "Hello" },
		"early":  func(r *role) { r.started = now },
	} {
		r := good()
		spoil(r)
		if (&stage{}).judge([]*role{r}) == nil {
			t.Errorf("%s: no error", name)
		}
	}
	s := &stage{}
	s.crowd.Store(true)
	if s.judge(nil) == nil {
		t.Error("crowd: no error")
	}
	first, second := good(), good()
	first.task, second.task = "invoice", "invoice"
	second.settled = now
	if (&stage{}).judge([]*role{first, second}) == nil {
		t.Error("order: no error")
	}
}
