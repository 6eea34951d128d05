package exec

import (
	"io"
	"log/slog"
	"os"
	osexec "os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/offstage-dev/offstage/internal/pgtest"
	"github.com/offstage-dev/offstage/worker"
)

// adoptOrphans makes the tests the process that orphans below it fall to, as process 1 of a container is: whatever
// init the tests run under, what a runner leaves behind shows.
func adoptOrphans() {
	const setChildSubreaper = 36 // PR_SET_CHILD_SUBREAPER
	if _, _, errno := syscall.RawSyscall(syscall.SYS_PRCTL, setChildSubreaper, 1, 0); errno != 0 {
		panic(errno)
	}
}

// TestOrphansThatNobodyReaps runs a worker below an init that does not reap: these tests, which do so for the groups
// of their own attempts only.
func TestOrphansThatNobodyReaps(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	pgtest.Program(t, filepath.Join(dir, "task"), "#!/bin/sh\nsleep 60 &\nsleep 60 >/dev/null 2>&1 &\nexit 0\n")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	w := osexec.Command(self)
	w.Env = append(os.Environ(), workerVariable+"="+dir, "TMPDIR="+t.TempDir())
	out, err := w.CombinedOutput()
	if err != nil || strings.Contains(string(out), "left") {
		t.Errorf("%v: %s", err, out)
	}
}

// TestTaskDiesWithItsWorker kills a worker, and sees the task's end of a named pipe close. What it leaves behind, the next
// worker sweeps up.
func TestTaskDiesWithItsWorker(t *testing.T) {
	t.Parallel()
	dir, temp := t.TempDir(), t.TempDir()
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	pgtest.Program(t, filepath.Join(dir, "task"), "#!/bin/sh\nexec >"+pipe+"\necho ready\nexec sleep 60\n")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	w := osexec.Command(self)
	w.Env = append(os.Environ(), workerVariable+"="+dir, "TMPDIR="+temp)
	w.Stderr = os.Stderr
	if err := w.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = w.Wait() }()
	defer func() { _ = w.Process.Kill() }()

	// Both ends: opening does not wait for the task then. Our writing end is closed once the task has its own.
	both, err := os.OpenFile(pipe, os.O_RDWR|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	reader, err := os.OpenFile(pipe, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	if err := reader.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	ready := make([]byte, len("ready\n"))
	if _, err := io.ReadFull(reader, ready); err != nil {
		t.Fatal(err)
	}
	if err := both.Close(); err != nil {
		t.Fatal(err)
	}
	if err := w.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(reader); err != nil || len(rest) > 0 {
		t.Errorf("the task lives on: %q, %v", rest, err)
	}
	_ = w.Wait()

	left := func() []string {
		t.Helper()
		dirs, err := filepath.Glob(filepath.Join(temp, resultDirs))
		if err != nil {
			t.Fatal(err)
		}
		return dirs
	}
	if dirs := left(); len(dirs) != 1 {
		t.Fatalf("the dead worker left %q, expected one directory", dirs)
	}
	running, err := newResult(temp)
	if err != nil {
		t.Fatal(err)
	}
	foreign := filepath.Join(temp, "offstage-attempt-of-somebody-else")
	if err := os.Mkdir(foreign, 0o700); err != nil {
		t.Fatal(err)
	}
	with(t, "exit 0", func(c *Config) { c.TempDir = temp }).succeed(t.Context(), job(`{}`))
	if dirs := left(); len(dirs) != 2 || !slices.Contains(dirs, running.dir) || !slices.Contains(dirs, foreign) {
		t.Errorf("%q are there, expected %q of a running attempt, and %q, which is none of ours", dirs, running.dir, foreign)
	}
	if err := running.remove(); err != nil {
		t.Error(err)
	}
}

// TestTaskSurvivesThreads ends threads while tasks start, as a program may that embeds a worker: a goroutine that does
// not unlock its thread takes the thread along. A task whose thread that was would be killed.
func TestTaskSurvivesThreads(t *testing.T) {
	t.Parallel()
	b := with(t, `sleep 0.2`)
	stop := make(chan struct{})
	var churn, all sync.WaitGroup
	churn.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			var few sync.WaitGroup
			for range 4 {
				few.Go(func() { runtime.LockOSThread() })
			}
			few.Wait()
		}
	})
	for range 40 {
		all.Go(func() {
			if _, err := b.Run(worker.WithLog(t.Context(), slog.New(b.log)), job(`{}`)); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	close(stop)
	churn.Wait()
}

// TestTaskLeadsASession reads what the task is told about itself: name, state, parent, group, session.
func TestTaskLeadsASession(t *testing.T) {
	t.Parallel()
	b := with(t, `echo "pid $$"; cut -d' ' -f5,6 /proc/$$/stat`)
	b.succeed(t.Context(), job(`{}`))
	all := strings.Split(b.log.text("INFO"), "\n")
	pid := strings.TrimPrefix(all[0], "pid ")
	if all[1] != pid+" "+pid {
		t.Errorf("log %q", all)
	}
}
