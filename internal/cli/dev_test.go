package cli

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// keptData is a directory that the private server's user can reach; those of t.TempDir are closed to others.
func keptData(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "offstage-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "data")
}

// A second dev in the same directory leaves the server to the first one, however it ends, and ends with it.
func TestDevTwice(t *testing.T) {
	t.Parallel()
	s := onStage(t, "")
	s.script("hello.sh", "#!/bin/sh\n")
	dev := []string{"dev", "--data", keptData(t), "--no-ui"}
	ready := func(errs *text) {
		t.Helper()
		s.eventually(func() bool { return strings.Contains(errs.String(), "worker is ready") })
	}
	first, stopFirst := s.start(dev...)
	ready(first)
	url := s.want(Done, "dev", "url").out
	goesOn := func(joined string) {
		t.Helper()
		said{errs: joined}.says(t, "that already runs")
		if strings.Contains(joined, "PostgreSQL has stopped") {
			t.Errorf("it has not:\n%s", joined)
		}
		if out := s.want(Done, "dev", "url").out; out != url {
			t.Errorf("%q instead of %q", out, url)
		}
		s.want(Done, "jobs")
	}

	second, stopSecond := s.start(dev...)
	ready(second)
	stopSecond()
	goesOn(second.String())

	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	goesOn(s.want(Failed, "dev", "--data", dev[2], "--listen", taken.Addr().String()).says(t, "choose another address").errs)

	// Without a worker, which may wait for its database until its process ends.
	if err := os.RemoveAll(filepath.Join(s.dir, "tasks")); err != nil {
		t.Fatal(err)
	}
	m, _, third := s.call(dev...)
	ended := make(chan int, 1)
	go func() { ended <- m.Run(t.Context()) }()
	s.eventually(func() bool { return strings.Contains(third.String(), "no worker runs") })
	stopFirst()
	said{errs: first.String()}.says(t, "PostgreSQL has stopped\n")
	select {
	case exit := <-ended:
		if exit != Unreachable {
			t.Errorf("exit code %d\n%s", exit, third)
		}
	case <-time.After(time.Minute):
		t.Fatalf("it goes on without a server:\n%s", third)
	}
	said{errs: third.String()}.says(t, "offstage: PostgreSQL has stopped, with the offstage dev that had started it\n  type it again: offstage dev\n")
	s.want(NotFound, "dev", "url")
}

// What dev says to type works as it stands.
func TestDevSaysWhatToType(t *testing.T) {
	t.Parallel()
	s := onStage(t, "")
	s.script("../chores/tidy.sh", "#!/bin/sh\n")
	errs, stop := s.start("dev", "--temporary", "--no-ui", "--schema", "graphile_worker", "--tasks", "chores")
	s.eventually(func() bool { return strings.Contains(errs.String(), "worker is ready") })
	for line := range strings.Lines(errs.String()) {
		_, args, found := strings.Cut(line, " offstage ")
		if !found || strings.Contains(line, "offstage dev") {
			continue
		}
		s.want(Done, strings.Fields(strings.NewReplacer(`'{"hello": "world"}'`, `{"hello":"world"}`).Replace(args))...)
	}
	said{errs: errs.String()}.says(t, "offstage add tidy '", "offstage jobs --schema graphile_worker\n")
	stop()
}

// A mistake in --tasks is told before anything is started.
func TestDevChecksTasks(t *testing.T) {
	t.Parallel()
	s := onStage(t, "")
	if err := os.Mkdir(filepath.Join(s.dir, "empty"), 0o755); err != nil {
		t.Fatal(err)
	}
	for dir, c := range map[string]struct {
		exit int
		say  string
	}{"missing": {Usage, "does not exist"}, "empty": {Failed, "holds no task"}} {
		r := s.want(c.exit, "dev", "--temporary", "--tasks", dir).says(t, c.say)
		if strings.Contains(r.errs, "PostgreSQL") {
			t.Errorf("it has started something:\n%s", r.errs)
		}
	}
	s.want(Done, "dev", "--help").says(t, "without this flag, another port where that one is taken")
}
