//go:build unix

package e2e_test

import (
	"encoding/json"
	"fmt"
	"maps"
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

// A worker is killed while it has JavaScript tasks, one of which blocks its event loop. Its Node processes end with it, the
// jobs run again elsewhere, and the end of each is told once.
func TestKillWithNode(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	const task = `const fs = require("node:fs");
module.exports = (payload, { job }) => {
	fs.writeFileSync("DIR/new-" + job.id, "");
	fs.renameSync("DIR/new-" + job.id, ["DIR/run", job.id, job.attempts, process.pid].join("-"));
	if (job.attempts === 1) FIRST;
	return job.attempts;
};
`
	for name, first := range map[string]string{
		"waits":  `return new Promise(() => {})`,
		"blocks": `Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0)`,
	} {
		text := strings.NewReplacer("DIR", s.dir, "FIRST", first).Replace(task)
		if err := os.WriteFile(filepath.Join(s.tasks(), name+".js"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	// begun are the processes in which an attempt of each job has begun.
	begun := func(attempt string) map[string]int {
		pids := map[string]int{}
		for _, f := range s.files("run-") {
			if part := strings.Split(f, "-"); part[1] == attempt {
				pids[part[0]], _ = strconv.Atoi(part[2]) // process.pid is a number
			}
		}
		return pids
	}
	const channel = "the end"
	listener := s.db.Conn(t)
	if _, err := listener.Exec(s.ctx(), `listen "`+channel+`"`); err != nil {
		t.Fatal(err)
	}
	first := s.cliWorker(4, "--node-processes", "2")
	var ids []int64
	for i, name := range []string{"waits", "blocks"} { // one after the other: what shares a process with the second could not begin
		id, err := s.client.Add(s.ctx(), name, nil, offstage.Options{NotifyChannel: channel})
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
		pgtest.Eventually(t, 30*time.Second, func() error {
			if n := len(begun("1")); n <= i {
				return fmt.Errorf("%s has not begun", name)
			}
			return nil
		})
	}
	children := slices.Collect(maps.Values(begun("1")))
	if runtime.GOOS == "linux" {
		if children = childrenOf(t, first.pid); len(children) != 2 {
			t.Fatalf("the worker has the processes %v, expected 2", children)
		}
	}
	second := s.cliWorker(4, "--node-processes", "1")
	s.reaches(30*time.Second, 2, `select count(*) from offstage.workers where state = 'alive'`)

	first.signal(syscall.SIGKILL)
	first.exit(10 * time.Second)
	if runtime.GOOS == "linux" { // elsewhere they end when their event loops turn
		pgtest.Eventually(t, 10*time.Second, func() error {
			if left := slices.DeleteFunc(slices.Clone(children), func(pid int) bool { return !alive(pid) }); len(left) > 0 {
				return fmt.Errorf("of the killed worker's Node processes there are still %v", left)
			}
			return nil
		})
	}
	s.drained(30 * time.Second)
	for _, id := range ids {
		if h := s.histories()[id]; !slices.Equal(h, []string{"rescued", "succeeded"}) {
			t.Errorf("history of job %d is %v", id, h)
		}
		if st, err := s.client.Status(s.ctx(), id); err != nil || string(st.Result) != "2" {
			t.Errorf("job %d has the result %s, %v; expected 2, from the second attempt", id, st.Result, err)
		}
	}
	s.exec(`select pg_notify($1, 'nothing more')`, channel)
	told := map[string]int{}
	for {
		n, err := listener.WaitForNotification(s.ctx())
		if err != nil {
			t.Fatal(err)
		}
		if n.Payload == "nothing more" {
			break
		}
		var event struct{ ID, Outcome string }
		if err := json.Unmarshal([]byte(n.Payload), &event); err != nil {
			t.Fatalf("%v: %s", err, n.Payload)
		}
		told[event.ID+" "+event.Outcome]++
	}
	want := map[string]int{}
	for _, id := range ids {
		want[fmt.Sprint(id, " succeeded")] = 1
	}
	if !maps.Equal(told, want) {
		t.Errorf("the events were %v, expected %v", told, want)
	}
	second.leave()
}
