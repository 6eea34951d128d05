package node

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/internal/pgtest"
	"github.com/offstage-dev/offstage/internal/runner/tasks"
	"github.com/offstage-dev/offstage/worker"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// logged is a slog.Handler that keeps what is written to it as "LEVEL text key=value".
type logged struct {
	mu    sync.Mutex
	lines []string
}

func (l *logged) Enabled(context.Context, slog.Level) bool { return true }
func (l *logged) WithAttrs([]slog.Attr) slog.Handler       { return l }
func (l *logged) WithGroup(string) slog.Handler            { return l }
func (l *logged) Handle(_ context.Context, r slog.Record) error {
	line := r.Level.String() + " " + r.Message
	r.Attrs(func(a slog.Attr) bool {
		if a.Key != "node" {
			line += " " + a.String()
		}
		return true
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, line)
	return nil
}

func (l *logged) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.lines)
}

func (l *logged) has(text string) bool {
	return slices.ContainsFunc(l.all(), func(line string) bool { return strings.Contains(line, text) })
}

// bench is a runner with a directory of tasks.
type bench struct {
	*Runner
	t   testing.TB
	dir string
	log *logged // of the worker
}

// write makes a task directory.
func write(t testing.TB, dir string, files map[string]string) *tasks.Dir {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	found, err := tasks.Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// open starts a runner for these files. No database is needed, unless a task asks for it.
func open(t testing.TB, files map[string]string, adjust ...func(*Config)) *bench {
	t.Helper()
	b := &bench{t: t, dir: t.TempDir(), log: &logged{}}
	config := Config{Processes: 1, Log: slog.New(b.log)}
	for _, f := range adjust {
		f(&config)
	}
	if config.Pool == nil {
		pool, err := pgxpool.New(t.Context(), "postgres://nobody@127.0.0.1:1/none")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(pool.Close)
		config.Pool = pool
	}
	var err error
	if b.Runner, err = Start(t.Context(), write(t, b.dir, files), config); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}

// run performs an attempt of a task, and gives its result, its error and its log.
func (b *bench) run(task, payload string, adjust ...func(*offstage.Job)) (string, []string, error) {
	b.t.Helper()
	return b.runIn(b.t.Context(), task, payload, adjust...)
}

func (b *bench) runIn(ctx context.Context, task, payload string, adjust ...func(*offstage.Job)) (string, []string, error) {
	job := &offstage.Job{ID: 17, Task: task, Payload: []byte(payload), Attempt: 1, MaxAttempts: 25}
	for _, f := range adjust {
		f(job)
	}
	log := &logged{}
	result, err := b.Run(worker.WithLog(ctx, slog.New(log)), job)
	return string(result), log.all(), err
}

// first is the first line of an error.
func first(err error) string {
	if err == nil {
		return ""
	}
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}

func (b *bench) eventually(ok func() bool) {
	b.t.Helper()
	pgtest.Eventually(b.t.(*testing.T), 20*time.Second, ok)
}
