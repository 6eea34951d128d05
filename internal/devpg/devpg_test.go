//go:build unix

package devpg

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if mode := os.Getenv(childMode); mode != "" {
		beChild(mode)
		return
	}
	goleak.VerifyTestMain(m)
}

// keptDir is a directory that the server's user can reach; those of t.TempDir are closed to others.
func keptDir(t *testing.T) string {
	t.Helper()
	root := memoryRoot()
	if root == "" {
		root = "/tmp"
	}
	dir, err := os.MkdirTemp(root, "devpg-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "kept")
}

func mustStart(t *testing.T, cfg Config) *Server {
	t.Helper()
	s, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(t, s) })
	return s
}

func stop(t *testing.T, s *Server) {
	t.Helper()
	if err := s.Stop(); err != nil {
		t.Error(err)
	}
}

func query(t *testing.T, s *Server, sql string) string {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	conn, err := connect(ctx, s.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	var answer string
	if err := conn.QueryRow(ctx, sql).Scan(&answer); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return answer
}

// eventually polls; the deadline is only reached when something is broken.
func eventually(t *testing.T, what string, check func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 30*time.Second)
	defer cancel()
	for !check() {
		if pause(ctx, 10*time.Millisecond) != nil {
			t.Fatalf("not within 30 s: %s", what)
		}
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

func TestTemporary(t *testing.T) {
	// The environment of a developer must reach neither the server nor our connections to it.
	t.Setenv("PGPORT", "1")
	t.Setenv("PGDATA", "/nowhere")
	t.Setenv("PGOPTIONS", "-c statement_timeout=1")
	s := mustStart(t, Config{InMemory: true, Settings: map[string]string{"max_connections": "37"}})
	if got := query(t, s, "select current_setting('max_connections')"); got != "37" {
		t.Errorf("max_connections is %s, want 37", got)
	}
	if got := query(t, s, "select current_setting('listen_addresses') || current_setting('unix_socket_directories')"); got != host {
		t.Errorf("it listens on %s, want %s", got, host)
	}
	if got := query(t, s, "select (current_setting('server_version_num')::int / 10000)::text"); got != strconv.Itoa(s.Major()) {
		t.Errorf("the server is PostgreSQL %s, Major says %d", got, s.Major())
	}
	pid, data := s.Pid(), s.home.data()
	stop(t, s)
	if exists(s.Dir()) {
		t.Errorf("%s is still there after Stop", s.Dir())
	}
	if runsOn(pid, data) {
		t.Errorf("process %d still runs after Stop", pid)
	}
	stop(t, s)
	if err := s.StartAgain(t.Context()); err == nil {
		t.Error("StartAgain after Stop gives no error")
	}
}

func TestAPasswordIsNeeded(t *testing.T) {
	t.Parallel()
	s := mustStart(t, Config{InMemory: true})
	for _, password := range []string{"", "postgres"} {
		if conn, err := connect(t.Context(), s.URLFor(superuser, password, "postgres")); err == nil {
			conn.Close(t.Context())
			t.Errorf("the password %q opens the server", password)
		}
	}
}

func TestKept(t *testing.T) {
	t.Parallel()
	dir := keptDir(t)
	var log strings.Builder
	first := mustStart(t, Config{Dir: dir, Log: &log})
	if !strings.HasPrefix(log.String(), "initialising a private PostgreSQL ") {
		t.Errorf("the first start says %q", log.String())
	}
	query(t, first, "select set_config('x.y', pg_catalog.lo_create(4711)::text, false)")

	second := mustStart(t, Config{Dir: dir})
	if !second.Reused() || second.URL("a") != first.URL("a") || second.Pid() != 0 {
		t.Errorf("the second start made a server of its own: reused %v, pid %d", second.Reused(), second.Pid())
	}
	if err := second.StopImmediate(); err == nil {
		t.Error("StopImmediate stops the server of another process")
	}
	stop(t, second)
	query(t, first, "select 'still there'")
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if err := second.AwaitEnd(over); !errors.Is(err, context.Canceled) {
		t.Errorf("the end of a server that runs: %v", err)
	}

	stop(t, first)
	if err := second.AwaitEnd(t.Context()); err != nil {
		t.Error(err)
	}
	if exists(filepath.Join(first.home.data(), "postmaster.pid")) {
		t.Error("postmaster.pid is still there: the server was not stopped in good order")
	}
	log.Reset()
	again := mustStart(t, Config{Dir: dir, Log: &log})
	if again.Reused() || strings.Contains(log.String(), "initialising") {
		t.Errorf("the start after Stop says %q, reused %v", log.String(), again.Reused())
	}
	if got := query(t, again, "select count(*)::text from pg_largeobject_metadata where oid = 4711"); got != "1" {
		t.Error("the data has not been kept")
	}
}

func TestCrashAndStartAgain(t *testing.T) {
	t.Parallel()
	s := mustStart(t, Config{InMemory: true})
	port := s.port
	query(t, s, "select pg_catalog.lo_create(4711)::text")
	if err := s.StopImmediate(); err != nil {
		t.Fatal(err)
	}
	if s.Pid() != 0 {
		t.Errorf("pid %d after StopImmediate, want 0", s.Pid())
	}
	if err := s.StartAgain(t.Context()); err != nil {
		t.Fatal(err)
	}
	// Worse than any crash of its own: the postmaster is gone at once, its children a moment later.
	process, err := os.FindProcess(s.Pid())
	if err != nil {
		t.Fatal(err)
	}
	if err := process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := s.StartAgain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := query(t, s, "select count(*)::text from pg_largeobject_metadata where oid = 4711"); got != "1" {
		t.Error("a committed row is gone after the crash")
	}
	if s.port != port {
		t.Errorf("port %d after the crash, %d before", s.port, port)
	}
}

func TestStalePidFile(t *testing.T) {
	t.Parallel()
	dir := keptDir(t)
	s := mustStart(t, Config{Dir: dir})
	pidFile := filepath.Join(s.home.data(), "postmaster.pid")
	text, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	stop(t, s)
	// The process id of the dead server has been given to another program: this one. Another server
	// may even listen on its port.
	_, rest, _ := strings.Cut(string(text), "\n")
	for _, stale := range []string{strconv.Itoa(os.Getpid()) + "\n" + rest, ""} {
		if err := os.WriteFile(pidFile, []byte(stale), 0o600); err != nil {
			t.Fatal(err)
		}
		again, err := Start(t.Context(), Config{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		if again.Reused() {
			t.Error("a stale postmaster.pid was taken for a running server")
		}
		stop(t, again)
	}
}

func TestDataOfAnotherMajorVersion(t *testing.T) {
	t.Parallel()
	bin, err := Find(t.Context(), FindOptions{})
	if err != nil {
		t.Fatal(err)
	}
	dir := keptDir(t)
	data := filepath.Join(dir, "data")
	if err := os.MkdirAll(data, 0o711); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(data, "PG_VERSION"), []byte("9\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err = Start(t.Context(), Config{Dir: dir, Binaries: bin})
	if err == nil || !strings.Contains(err.Error(), "holds data of PostgreSQL 9, and the binaries in "+bin.Dir) {
		t.Errorf("with other binaries: %v", err)
	}
	_, err = Start(t.Context(), Config{Dir: dir})
	if !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "remove that directory to begin anew") {
		t.Errorf("without binaries: %v", err)
	}
}

func TestAServerThatCannotStartSaysWhy(t *testing.T) {
	t.Parallel()
	_, err := Start(t.Context(), Config{InMemory: true, Settings: map[string]string{"max_connections": "many"}})
	if err == nil || !strings.Contains(err.Error(), "max_connections") {
		t.Errorf("error %v, want the server's own words", err)
	}
}

func TestLeftoversAreRemoved(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	old := time.Now().Add(-time.Hour)
	leftover := func(name string) string {
		dir := filepath.Join(root, temporaryPrefix+name)
		if err := errors.Join(os.Mkdir(dir, 0o711), os.WriteFile(filepath.Join(dir, "lock"), nil, 0o600), os.Chtimes(dir, old, old)); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	dead, alive, young := leftover("dead"), leftover("alive"), leftover("young")
	if err := os.Chtimes(young, time.Time{}, time.Now()); err != nil {
		t.Fatal(err)
	}
	lock, err := openLock(filepath.Join(alive, "lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if ok, err := tryLock(lock); !ok || err != nil {
		t.Fatalf("lock: %v %v", ok, err)
	}
	removeLeftovers(root)
	if exists(dead) || !exists(alive) || !exists(young) {
		t.Errorf("dead is there: %v, want false; alive: %v, young: %v, want true", exists(dead), exists(alive), exists(young))
	}
}

func TestKeptDirDependsOnTheProject(t *testing.T) {
	t.Setenv("HOME", "/home/somebody")
	one, err1 := KeptDir("/src/one/app")
	two, err2 := KeptDir("/src/two/app")
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	if one == two || !strings.HasPrefix(filepath.Base(one), "app-") {
		t.Errorf("%s and %s", one, two)
	}
}
