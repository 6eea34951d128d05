package cli

import (
	"context"
	"fmt"
	"io"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/internal/pgtest"
)

// busy makes something to be seen: tasks that have run, and jobs in every state.
func (s *stage) busy() {
	s.exec(`select offstage.register('host', 1, 'test', 7, '[{"name": "send"}, {"name": "make"}]')`)
	s.exec(`select offstage_private.queue_id('mail')`)
	s.exec(`select offstage_private.count_ended(offstage_private.clock(), array[1, 2, 2], array[null, 1, 1]::integer[], array[o], array[3, null, 0.001], array[0.1, 2, 2])
		from unnest(array['succeeded', 'retried']) o`)
	for range 3 {
		s.add("send", nil)
	}
	s.add("make", nil, offstage.Options{RunAt: time.Now().Add(time.Hour)})
	s.fail(s.add("make", nil), "no")
}

func TestTopOnce(t *testing.T) {
	s := newStage(t)
	s.want(Done, "top").says(t, "waiting 0", "workers  none")
	s.busy()
	r := s.want(Done, "top", "--once").says(t, "workers  1 with 7 slots", "waiting 3   oldest ", "scheduled 1", "failed 1", "4.0 s", "124 ms", "QUEUE", "mail")
	if strings.Contains(r.out, "\x1b") {
		t.Errorf("there is no terminal:\n%q", r.out)
	}
	got := decode[snapshot](t, s.want(Done, "top", "--json"))
	if got.Waiting != 3 || got.Scheduled != 1 || got.Failed != 1 || got.Workers != 1 || got.Slots != 7 || got.Oldest == nil || got.Done != 3 || got.Failures != 4 {
		t.Errorf("got %+v", got) // the job that was failed by hand counts as well
	}
	if len(got.Tasks) != 2 || got.Tasks[1].Name != "send" || got.Tasks[1].Waiting != 3 || got.Tasks[1].Done != 2 || got.Tasks[0].WaitP50 == nil || *got.Tasks[0].WaitP50 < 2.048 {
		t.Errorf("tasks: %+v", got.Tasks)
	}
	if len(got.Queues) != 1 || got.Queues[0].Done != 2 || got.Queues[0].Failures != 2 || got.Queues[0].Limit != 1 {
		t.Errorf("queues: %+v", got.Queues)
	}
	s.want(Usage, "top", "--every", "1ms").says(t, "--every is 1ms")
}

// newest is the last picture that was drawn, without what moves and colours.
func newest(out *text) string {
	pages := strings.Split(out.String(), "\x1b[H")
	return regexp.MustCompile(`\x1b\[[0-9;?]*[A-Za-z]`).ReplaceAllString(pages[len(pages)-1], "")
}

// On a terminal it draws anew, obeys keys, survives a lost database, and gives the terminal back.
func TestTopLive(t *testing.T) {
	s := newStage(t)
	s.busy()
	in, keys := io.Pipe()
	s.edit = func(m *Main) { m.Stdin, m.OutTerminal, m.Keys = in, true, true }
	m, out, errs := s.call("top", "--every", "100ms")
	ended := make(chan int, 1)
	go func() { ended <- m.Run(t.Context()) }()
	until := func(what string) {
		t.Helper()
		pgtest.Eventually(t, 30*time.Second, func() error {
			if !strings.Contains(newest(out), what) {
				return fmt.Errorf("%q is not on the screen:\n%s%s", what, newest(out), errs)
			}
			return nil
		})
	}
	press := func(key string) {
		t.Helper()
		if _, err := io.WriteString(keys, key); err != nil {
			t.Fatal(err)
		}
	}
	until("waiting 3 ")
	s.add("send", nil)
	until("waiting 4 ")
	press("s")
	until("*FAILED/MIN")
	press("p")
	until("PAUSED")
	s.add("send", nil)
	press("p")
	until("waiting 5 ")

	super := s.db.SuperPool(t)
	locked, err := super.Begin(t.Context())
	defer func() { _ = locked.Rollback(context.WithoutCancel(t.Context())) }()
	if err == nil {
		_, err = locked.Exec(t.Context(), `lock table offstage_private.ticket`) // no answer comes
	}
	if err != nil {
		t.Fatal(err)
	}
	until("NO ANSWER: ERROR: canceling statement due to statement timeout")
	until("waiting 5 ")
	if err := locked.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	until("every 100ms")
	if _, err := super.Exec(t.Context(), `select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and application_name = 'offstage'`); err != nil {
		t.Fatal(err)
	}
	s.add("send", nil)
	until("waiting 6 ")

	press("q")
	if exit := <-ended; exit != Done {
		t.Errorf("exit code %d: %s", exit, errs)
	}
	if !strings.HasPrefix(out.String(), enterScreen) || !strings.HasSuffix(out.String(), leaveScreen) {
		t.Errorf("the terminal was not given back: %q", out.String())
	}
	in.Close()

	for key, want := range map[string]int{"\x03": Interrupted, "": Interrupted} {
		in, keys = io.Pipe()
		ctx, cancel := context.WithCancel(t.Context())
		m, out, _ := s.call("top")
		go func() { ended <- m.Run(ctx) }()
		pgtest.Eventually(t, 30*time.Second, func() bool { return strings.Contains(out.String(), "waiting 6 ") })
		if key == "" {
			cancel() // a signal
		} else {
			press(key)
		}
		if exit := <-ended; exit != want || !strings.HasSuffix(out.String(), leaveScreen) {
			t.Errorf("key %q: exit code %d", key, exit)
		}
		cancel()
		in.Close()
	}
}

// A frame fits the terminal, whatever that is, and what does not fit is said.
func TestTopFrame(t *testing.T) {
	t.Parallel()
	second := 1.5
	snap := &snapshot{At: time.Now(), Waiting: 10000, Oldest: &second, Done: 123456, Failures: 3}
	for i := range 40 {
		snap.Tasks = append(snap.Tasks, topTask{Name: fmt.Sprintf("a/task/with/a/rather/long/name/%d\x1b[31m", i), Done: float64(i), WaitP50: &second, RunP95: &second, Waiting: 1000})
		snap.Queues = append(snap.Queues, topQue{Name: fmt.Sprintf("queue %d", i), Parked: i, Limit: 1})
	}
	for _, size := range [][2]int{{80, 24}, {200, 60}, {60, 12}, {40, 10}, {20, 5}, {80, 0}} {
		f := frame{width: size[0], height: size[1], live: true}
		f.draw(snap, "postgres://somebody@a.host.with.a.long.name.example.com:5432/database", "every 1s")
		if size[1] > 0 && len(f.lines) > size[1] {
			t.Errorf("%v: %d lines", size, len(f.lines))
		}
		for n, line := range f.lines {
			if w := utf8.RuneCountInString(line); w > max(size[0], 66) || size[0] >= 80 && w > size[0] {
				t.Errorf("%v: line %d has %d columns: %s", size, n, w, line)
			}
			if strings.Contains(line, "\x1b") {
				t.Errorf("%v: a name moves the cursor: %q", size, line)
			}
		}
		text := strings.Join(f.lines, "\n")
		if size[0] >= 80 && (!strings.Contains(text, "waiting 10000+   oldest 1.5 s") || !strings.Contains(text, "123k/min") || !strings.Contains(text, "1000+")) {
			t.Errorf("%v:\n%s", size, text)
		}
		if size[1] == 24 && (!strings.Contains(text, "(+") || !strings.Contains(text, "QUEUE")) {
			t.Errorf("%v:\n%s", size, text)
		}
	}
}

// How many a second is what has come since the last look, whatever minute it is counted in.
func TestTopPerSecond(t *testing.T) {
	t.Parallel()
	at := time.Date(2030, 1, 1, 12, 0, 59, 0, time.UTC)
	minute := at.Truncate(time.Minute)
	a := &snapshot{At: at, Done: 600, minutes: map[minuteOf]int64{{minute.Add(-time.Minute), true}: 500, {minute, true}: 100, {minute, false}: 1}}
	b := &snapshot{At: at.Add(2 * time.Second), minutes: map[minuteOf]int64{{minute, true}: 120, {minute, false}: 1, {minute.Add(time.Minute), true}: 30}}
	if got := b.perSecond(a, true); got != 25 {
		t.Errorf("%v a second", got)
	}
	if got := b.perSecond(a, false); got != 0 {
		t.Errorf("%v failures a second", got)
	}
	if got := a.perSecond(nil, true); got != 10 {
		t.Errorf("%v a second, in the last minute", got)
	}
	if done, failures := a.lastMinute(minute.Add(-time.Minute), "succeeded", 600); done < 9 || done > 11 || failures != 0 {
		t.Errorf("of the minute before, %v and %v are in the last 60 seconds", done, failures)
	}
}
