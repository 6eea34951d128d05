package exec

import (
	"context"
	"log/slog"
	"os"
	osexec "os/exec"
	"path/filepath"
	"testing"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/internal/pgtest"
	"github.com/offstage-dev/offstage/internal/runner/tasks"
)

// workerVariable makes this test binary a worker that runs "task" of the directory it names.
const workerVariable = "OFFSTAGE_TEST_EXEC_WORKER"

func runAsWorker(path string) int {
	dir, err := tasks.Read(path)
	if err != nil {
		return 2
	}
	r, err := New(dir, Config{})
	if err != nil {
		return 2
	}
	if _, err := r.Run(context.Background(), &offstage.Job{Task: "task"}); err != nil {
		slog.Error(err.Error())
		return 1
	}
	return 0
}

// linked makes a runner for a directory in which "task" is a symbolic link.
func linked(t *testing.T, target string) *bench {
	t.Helper()
	b := with(t, "")
	path := filepath.Join(b.dir, "task")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
	dir, err := tasks.Read(b.dir)
	if err != nil {
		t.Fatal(err)
	}
	if b.Runner, err = New(dir, b.config); err != nil {
		t.Fatal(err)
	}
	return b
}

// setsid finds a program that starts another in a session of its own. Where the system has none, perl stands in.
func setsid(t *testing.T) string {
	t.Helper()
	if path, err := osexec.LookPath("setsid"); err == nil {
		return path
	}
	path := filepath.Join(t.TempDir(), "setsid")
	pgtest.Program(t, path, "#!/usr/bin/perl\nuse POSIX;\nPOSIX::setsid();\nexec @ARGV;\n")
	return path
}
