package cli

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/internal/health"
	"github.com/offstage-dev/offstage/internal/pgtest"
	"github.com/offstage-dev/offstage/schema"
	"github.com/offstage-dev/offstage/worker"
)

var servedAt = regexp.MustCompile(`are served"? address=(\S+)`)

// listening starts a worker with --listen, and says where it does.
func (s *stage) listening(args ...string) (address string, stop func()) {
	s.t.Helper()
	s.env["NO_COLOR"] = "1"
	errs, stop := s.start(append([]string{"worker", "--listen", "127.0.0.1:0"}, args...)...)
	s.eventually(func() bool {
		if m := servedAt.FindStringSubmatch(errs.String()); m != nil {
			address = m[1]
		}
		return address != ""
	})
	return address, stop
}

// get asks once; status 0: no answer.
func get(address, path string) (status int, body string) {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 20 * time.Second}
	answer, err := client.Get("http://" + address + path)
	if err != nil {
		return 0, err.Error()
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return 0, err.Error()
	}
	return answer.StatusCode, string(text)
}

// answers waits for a status, and for a text in the body.
func (s *stage) answers(address, path string, status int, text string) {
	s.t.Helper()
	pgtest.Eventually(s.t, 30*time.Second, func() error {
		if got, body := get(address, path); got != status || !strings.Contains(body, text) {
			return fmt.Errorf("%s: %d %q, want %d %q", path, got, body, status, text)
		}
		return nil
	})
}

func TestWorkerListens(t *testing.T) {
	s := newStage(t)
	s.script("hello.sh", "#!/bin/sh\n")
	s.script("bad.sh", "#!/bin/sh\nexit 1\n")
	s.script("slow.sh", "#!/bin/sh\nwhile [ ! -e '"+filepath.Join(s.dir, "go on")+"' ]; do sleep 0.02; done\n")
	address, stop := s.listening("--jobs", "2", "--metrics-database")
	s.answers(address, "/readyz", 200, "ok\n")
	s.answers(address, "/livez", 200, "ok\n")
	s.answers(address, "/nothing", 404, "")
	if status, _ := get(address, "/metrics"); status != 200 {
		t.Error(status)
	}
	url := "http://" + address + "/readyz"
	s.want(Done, "healthcheck", "--url", url)
	s.want(Done, "healthcheck") // by the database
	s.want(Done, "healthcheck", "--host", "any")
	s.want(Failed, "healthcheck", "--host", "elsewhere").says(t, "no worker of host elsewhere lives; of other hosts, 1")
	s.env["OFFSTAGE_LISTEN"] = address
	s.want(Done, "healthcheck", "-v").says(t, "healthy")

	for range 3 {
		s.add("hello", nil)
	}
	s.add("bad", nil, offstage.Options{MaxAttempts: 1})
	s.add("slow", nil)
	s.add("nobody", nil)
	s.eventually(func() bool {
		_, body := get(address, "/metrics")
		return strings.Contains(body, `offstage_jobs_total{outcome="succeeded",task="hello"} 3`) && strings.Contains(body, `offstage_jobs_total{outcome="failed",task="bad"} 1`) &&
			strings.Contains(body, `offstage_slots{state="busy"} 1`) && strings.Contains(body, `offstage_slots{state="free"} 1`)
	})
	s.eventually(func() bool { // read every five seconds
		_, body := get(address, "/metrics")
		return strings.Contains(body, `offstage_queue_depth{state="waiting",task="nobody"} 1`) && strings.Contains(body, `offstage_queue_depth{state="running",task="slow"} 1`) &&
			strings.Contains(body, `offstage_queue_depth{state="failed",task="bad"} 1`)
	})

	// While it drains it is not ready, but alive, and still tells its metrics.
	stopped := make(chan struct{})
	go func() { defer close(stopped); stop() }()
	s.answers(address, "/readyz", 503, "worker: is stopping, 1 job still running")
	s.answers(address, "/livez", 200, "ok")
	s.want(Failed, "healthcheck").says(t, "503 Service Unavailable", "is stopping")
	if _, body := get(address, "/metrics"); !strings.Contains(body, `offstage_slots{state="free"} 0`) {
		t.Error("slots of a worker that stops are free")
	}
	if err := os.WriteFile(filepath.Join(s.dir, "go on"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	<-stopped
	if status, _ := get(address, "/livez"); status != 0 {
		t.Error("it still listens")
	}
	s.want(Failed, "healthcheck", "--timeout", "3s").says(t, "refused")
	delete(s.env, "OFFSTAGE_LISTEN")
	s.want(Failed, "healthcheck").says(t, "no worker lives")
	s.want(Failed, "healthcheck", "-c", "postgres://nobody@127.0.0.1:1/none")
}

// The address can also be given by the environment; one that is taken is told.
func TestWorkerListenAddress(t *testing.T) {
	s := newStage(t)
	s.script("hello.sh", "#!/bin/sh\n")
	address, stop := s.listening()
	s.env["OFFSTAGE_LISTEN"] = address
	s.want(Failed, "worker", "--once").says(t, "address already in use", "choose another address with --listen or OFFSTAGE_LISTEN")
	s.want(Done, "worker", "--once", "--listen", "")
	stop()
	s.want(Done, "worker", "--once").says(t, "are served")
	s.want(Usage, "worker", "--listen", "", "--metrics-database").says(t, "goes with --listen")
	s.want(Usage, "healthcheck", "--url", "127.0.0.1:9464").says(t, "write http://127.0.0.1:9464/readyz")
}

// The database goes away and comes back, and its schema becomes too old: the worker is not ready, but never to be restarted.
func TestReadiness(t *testing.T) {
	t.Parallel()
	server := pgtest.Server(t, map[string]string{"fsync": "on"})
	db := pgtest.New(t, pgtest.On(server))
	s := onStage(t, db.URL)
	s.script("hello.sh", "#!/bin/sh\n")
	address, stop := s.listening("--metrics-database")
	s.answers(address, "/readyz", 200, "ok")
	if err := server.StopImmediate(); err != nil {
		t.Fatal(err)
	}
	s.answers(address, "/readyz", 503, "database: cannot be reached")
	s.answers(address, "/readyz", 503, "worker: no heartbeat has landed for ")
	s.answers(address, "/livez", 200, "ok")
	if _, body := get(address, "/readyz"); strings.Contains(body, "owner") || strings.Contains(body, "127.0.0.1") {
		t.Errorf("it tells who connects where: %s", body)
	}
	s.eventually(func() bool {
		status, body := get(address, "/metrics")
		return status == 200 && regexp.MustCompile(`offstage_db_errors_total [1-9]`).MatchString(body) && !strings.Contains(body, "offstage_queue_depth{")
	})
	if err := server.StartAgain(pgtest.Context(t)); err != nil {
		t.Fatal(err)
	}
	s.answers(address, "/readyz", 200, "ok")

	conn, err := pgx.Connect(t.Context(), db.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	version := schema.Version()
	if _, err := conn.Exec(t.Context(), `update offstage_private.migration set version = version + 100 where version = $1`, version); err != nil {
		t.Fatal(err)
	}
	s.answers(address, "/readyz", 200, "ok") // newer, and nothing that breaks
	if _, err := conn.Exec(t.Context(), `delete from offstage_private.migration where version = $1 + 100`, version); err != nil {
		t.Fatal(err)
	}
	s.answers(address, "/readyz", 503, "schema: schema \"offstage\" has version")
	s.answers(address, "/readyz", 503, "run offstage migrate")
	s.answers(address, "/livez", 200, "ok")
	stop()
}

// A worker whose loops do not come round is to be restarted; one that waits for its database is not.
func TestChecks(t *testing.T) {
	t.Parallel()
	now := time.Now()
	ok := worker.Status{State: worker.Working, LastBeat: now, Period: time.Second, Round: now}
	for _, c := range []struct {
		change      func(*worker.Status)
		live, ready string
	}{
		{func(*worker.Status) {}, "", ""},
		{func(s *worker.Status) { s.Round = now.Add(-time.Minute) }, "", ""},
		{func(s *worker.Status) { s.Round = now.Add(-3 * time.Minute) }, "a loop has not moved for ", ""},
		{func(s *worker.Status) { s.Round, s.Period = now.Add(-3*time.Minute), time.Minute }, "", ""},
		{func(s *worker.Status) { s.LastBeat = now.Add(-4 * time.Second) }, "", "no heartbeat has landed for 4.0 s"},
		{func(s *worker.Status) { s.State, s.Busy = worker.Stopping, 2 }, "", "is stopping, 2 jobs still running"},
		{func(s *worker.Status) { s.State, s.Busy = worker.Draining, 1 }, "", "is draining, 1 job still running"},
		{func(s *worker.Status) { *s = worker.Status{State: worker.Starting, Round: now} }, "", "is starting"},
		{func(s *worker.Status) { *s = worker.Status{State: worker.Stopped, Round: now} }, "", "is stopped"},
	} {
		st := ok
		c.change(&st)
		status := func() worker.Status { return st }
		for want, check := range map[string]health.Check{"live " + c.live: moves(status), "ready " + c.ready: works(status)} {
			_, want, _ = strings.Cut(want, " ")
			if err := check(t.Context()); (err != nil) != (want != "") || err != nil && !strings.Contains(err.Error(), want) {
				t.Errorf("%+v: %v instead of %q", st, err, want)
			}
		}
	}
}

// The web UI's server answers the same questions, and tells the metrics of the database.
func TestServeIsHealthy(t *testing.T) {
	s := newStage(t)
	s.env["NO_COLOR"] = "1"
	s.add("nobody", nil)
	errs, stop := s.start("serve", "--listen", "127.0.0.1:0")
	var address string
	s.eventually(func() bool {
		if m := regexp.MustCompile(`the web UI is at http://([^/]+)/`).FindStringSubmatch(errs.String()); m != nil {
			address = m[1]
		}
		return address != ""
	})
	s.answers(address, "/readyz", 200, "ok")
	s.answers(address, "/livez", 200, "ok")
	s.answers(address, "/metrics", 200, `offstage_queue_depth{state="waiting",task="nobody"} 1`)
	s.answers(address, "/metrics", 200, `offstage_slots{source="database",state="busy"} 0`)
	s.want(Done, "healthcheck", "--url", "http://"+address+"/readyz")
	stop()
}
