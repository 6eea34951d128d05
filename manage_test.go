package offstage_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/offstage-dev/offstage"
)

// every is one job in every state, all of task t.
type every struct {
	*hands
	jobs map[offstage.State]int64
}

func (s *stage) everyState() *every {
	s.t.Helper()
	e := &every{s.hands("t"), map[offstage.State]int64{}}
	failed := s.add("t", nil, offstage.Options{MaxAttempts: 1, Key: "f"})
	e.claim(1)
	e.end(failed, "retry", "it broke")
	running := s.add("t", nil, offstage.Options{Queue: "line", Key: "r"})
	parked := s.add("t", nil, offstage.Options{Queue: "line", Key: "p"})
	if got := e.claim(9); !slices.Equal(got, []int64{running}) {
		s.t.Fatalf("claimed %v, expected job %d alone", got, running)
	}
	scheduled := s.add("t", nil, offstage.Options{RunAt: time.Now().Add(time.Hour), Key: "s", Flags: []string{"two", "one, with \"all\" of it"}})
	paused := s.add("t", json.RawMessage(`{"n": 1.0}`), offstage.Options{Queue: "halt", Key: "h"})
	waiting := s.add("t", nil, offstage.Options{Key: "w", Priority: -7})
	if err := s.client.PauseQueue(s.ctx(), "halt"); err != nil {
		s.t.Fatal(err)
	}
	e.jobs = map[offstage.State]int64{
		offstage.Failed: failed, offstage.Running: running, offstage.Parked: parked,
		offstage.Scheduled: scheduled, offstage.Paused: paused, offstage.Waiting: waiting,
	}
	return e
}

func TestStatusListGetExplain(t *testing.T) {
	s := newStage(t)
	e := s.everyState()
	because := map[offstage.State]string{
		offstage.Failed:    "it broke. Mend the cause, then try it again: `select offstage.retry_jobs(",
		offstage.Running:   fmt.Sprintf("attempt 1 is running on worker %d (pid 1 on host)", e.worker),
		offstage.Parked:    "its queue 'line' runs 1 job at a time and is busy with job ",
		offstage.Scheduled: "scheduled for 2",
		offstage.Paused:    "resume_queue('halt')",
		offstage.Waiting:   "waiting",
	}
	for state, id := range e.jobs {
		st, err := s.client.Status(s.ctx(), id)
		if err != nil || st.State != state || st.RunAt.IsZero() {
			t.Errorf("%s: status is %+v, %v", state, st, err)
		}
		failed := state == offstage.Failed
		if (st.Outcome == offstage.OutcomeFailed) != failed || (st.Error == "it broke") != failed || st.SettledAt.IsZero() == failed {
			t.Errorf("%s: status is %+v", state, st)
		}
		if ran := failed || state == offstage.Running; (st.Attempt == 1) != ran {
			t.Errorf("%s: it is in attempt %d", state, st.Attempt)
		}
		job, err := s.client.Get(s.ctx(), id)
		if err != nil || job.ID != id || job.State != state || job.Attempt != st.Attempt || job.LastError != st.Error ||
			job.Task != "t" || job.AddedAt.IsZero() || !job.RunAt.Equal(st.RunAt) || job.Payload == nil {
			t.Errorf("%s: get answered %+v, %v", state, job, err)
		}
		list, err := s.client.List(s.ctx(), offstage.Filter{State: state})
		if err != nil || len(list) != 1 || list[0].ID != id || list[0].State != state || list[0].Key != job.Key || list[0].Payload != nil {
			t.Errorf("%s: list answered %+v, %v", state, list, err)
		}
		if text, err := s.client.Explain(s.ctx(), id); err != nil || !strings.Contains(text, because[state]) {
			t.Errorf("%s: explained as %q, %v; expected %q", state, text, err, because[state])
		}
	}
	paused, err := s.client.Get(s.ctx(), e.jobs[offstage.Paused])
	if err != nil || !paused.HasQueue || paused.Queue != "halt" || string(paused.Payload) != `{"n": 1.0}` || paused.MaxAttempts != 25 {
		t.Errorf("get answered %+v, %v", paused, err)
	}
	waiting, err := s.client.Get(s.ctx(), e.jobs[offstage.Waiting])
	if err != nil || waiting.HasQueue || waiting.Priority != -7 || waiting.Flags != nil {
		t.Errorf("get answered %+v, %v", waiting, err)
	}
	flagged, err := s.client.Get(s.ctx(), e.jobs[offstage.Scheduled])
	if want := []string{"one, with \"all\" of it", "two"}; err != nil || !slices.Equal(flagged.Flags, want) {
		t.Errorf("flags are %q, %v; expected %q", flagged.Flags, err, want)
	}
	all := slices.Sorted(mapValues(e.jobs))
	for name, c := range map[string]struct {
		f    offstage.Filter
		want []int64
	}{
		"all":      {offstage.Filter{}, all},
		"task":     {offstage.Filter{Task: "t"}, all},
		"no task":  {offstage.Filter{Task: "u"}, nil},
		"queue":    {offstage.Filter{Queue: "line"}, []int64{e.jobs[offstage.Running], e.jobs[offstage.Parked]}},
		"key":      {offstage.Filter{Key: "w"}, []int64{e.jobs[offstage.Waiting]}},
		"limit":    {offstage.Filter{Limit: 2}, all[:2]},
		"page two": {offstage.Filter{Limit: 2, After: all[1]}, all[2:4]},
		"all of":   {offstage.Filter{State: offstage.Parked, Task: "t", Queue: "line", Key: "p", Limit: 1 << 30}, []int64{e.jobs[offstage.Parked]}},
		"quote":    {offstage.Filter{Key: "' or true --"}, nil},
	} {
		list, err := s.client.List(s.ctx(), c.f)
		var ids []int64
		for _, j := range list {
			ids = append(ids, j.ID)
		}
		if err != nil || !slices.Equal(ids, c.want) {
			t.Errorf("list %s answered %v, %v; expected %v", name, ids, err, c.want)
		}
	}
}

func mapValues[K comparable, V any](m map[K]V) func(func(V) bool) {
	return func(yield func(V) bool) {
		for _, v := range m {
			if !yield(v) {
				return
			}
		}
	}
}

func TestUnknownJob(t *testing.T) {
	s := newStage(t)
	if st, err := s.client.Status(s.ctx(), 404); !errors.Is(err, offstage.ErrNotFound) || !strings.Contains(err.Error(), "job 404") {
		t.Errorf("status answered %+v, %v", st, err)
	}
	if _, err := s.client.Get(s.ctx(), 404); !errors.Is(err, offstage.ErrNotFound) {
		t.Errorf("get: %v", err)
	}
	if text, err := s.client.Explain(s.ctx(), 404); err != nil || !strings.HasPrefix(text, "unknown") {
		t.Errorf("explain answered %q, %v", text, err)
	}
	for _, ids := range [][]int64{nil, {}, {404, -1, 1 << 62}} {
		cancelled, requested, err := s.client.Cancel(s.ctx(), "", ids...)
		if err != nil || cancelled != nil || requested != nil {
			t.Errorf("cancel answered %v, %v, %v", cancelled, requested, err)
		}
		if done, err := s.client.Retry(s.ctx(), ids...); err != nil || done != nil {
			t.Errorf("retry answered %v, %v", done, err)
		}
		if done, err := s.client.Delete(s.ctx(), ids...); err != nil || done != nil {
			t.Errorf("delete answered %v, %v", done, err)
		}
	}
}

func TestCancelInEveryState(t *testing.T) {
	s := newStage(t)
	e := s.everyState()
	running, failed := e.jobs[offstage.Running], e.jobs[offstage.Failed]
	cancelled, requested, err := s.client.Cancel(s.ctx(), "it's over", slices.Sorted(mapValues(e.jobs))...)
	if err != nil || len(cancelled) != 4 || !slices.Equal(requested, []int64{running}) || slices.Contains(cancelled, failed) {
		t.Fatalf("cancel answered %v, %v, %v", cancelled, requested, err)
	}
	for state, id := range e.jobs {
		st, err := s.client.Status(s.ctx(), id)
		switch state {
		case offstage.Running:
			if err != nil || st.State != offstage.Running {
				t.Errorf("running: %+v, %v", st, err)
			}
		case offstage.Failed:
			if err != nil || st.State != offstage.Failed {
				t.Errorf("failed: %+v, %v", st, err)
			}
		default:
			if err != nil || st.State != "" || st.Outcome != offstage.OutcomeCancelled || st.Error != "it's over" {
				t.Errorf("%s: %+v, %v", state, st, err)
			}
			if text, err := s.client.Explain(s.ctx(), id); err != nil || !strings.Contains(text, "as cancelled: it's over") {
				t.Errorf("%s: explained as %q, %v", state, text, err)
			}
		}
	}
	e.end(running, "retry", "stopped")
	if st, err := s.client.Status(s.ctx(), running); err != nil || st.Outcome != offstage.OutcomeCancelled || st.Error != "it's over" {
		t.Errorf("the running one ended as %+v, %v", st, err)
	}
	if again, asked, err := s.client.Cancel(s.ctx(), "", running, cancelled[0]); err != nil || again != nil || asked != nil {
		t.Errorf("cancelling what has ended answered %v, %v, %v", again, asked, err)
	}
	left := s.add("t", nil)
	if _, _, err := s.client.Cancel(s.ctx(), "", left); err != nil {
		t.Fatal(err)
	}
	if st, err := s.client.Status(s.ctx(), left); err != nil || st.Error == "" {
		t.Errorf("without a reason: %+v, %v", st, err)
	}
}

func TestRetryInEveryState(t *testing.T) {
	s := newStage(t)
	e := s.everyState()
	done, err := s.client.Retry(s.ctx(), slices.Sorted(mapValues(e.jobs))...)
	if err != nil || len(done) != 5 || slices.Contains(done, e.jobs[offstage.Running]) {
		t.Fatalf("retry answered %v, %v", done, err)
	}
	for state, want := range map[offstage.State]offstage.State{
		offstage.Failed: offstage.Waiting, offstage.Scheduled: offstage.Waiting, offstage.Waiting: offstage.Waiting,
		offstage.Running: offstage.Running, offstage.Paused: offstage.Paused,
	} {
		st, err := s.client.Status(s.ctx(), e.jobs[state])
		if err != nil || st.State != want || st.Outcome != "" || st.RunAt.After(time.Now().Add(time.Minute)) {
			t.Errorf("%s: status is %+v, %v; expected %s", state, st, err, want)
		}
	}
	// The failed one starts from its first attempt.
	job, err := s.client.Get(s.ctx(), e.jobs[offstage.Failed])
	if err != nil || job.Attempt != 0 {
		t.Errorf("the failed one is %+v, %v", job, err)
	}
	if got := e.claim(9); !slices.Contains(got, job.ID) {
		t.Errorf("claimed %v, without job %d", got, job.ID)
	}
	e.succeed(job.ID, `"at last"`)
	if got, err := offstage.Await[string](s.ctx(), s.client, job.ID); err != nil || got != "at last" {
		t.Errorf("await answered %q, %v", got, err)
	}
}

func TestDeleteInEveryState(t *testing.T) {
	s := newStage(t)
	e := s.everyState()
	running := e.jobs[offstage.Running]
	done, err := s.client.Delete(s.ctx(), slices.Sorted(mapValues(e.jobs))...)
	if err != nil || len(done) != 5 || slices.Contains(done, running) {
		t.Fatalf("delete answered %v, %v", done, err)
	}
	for _, id := range done {
		if st, err := s.client.Status(s.ctx(), id); err != nil || st.State != "" || st.Outcome != offstage.OutcomeRemoved {
			t.Errorf("status is %+v, %v", st, err)
		}
		if _, err := s.client.Get(s.ctx(), id); !errors.Is(err, offstage.ErrNotFound) {
			t.Errorf("get: %v", err)
		}
	}
	list, err := s.client.List(s.ctx(), offstage.Filter{})
	if err != nil || len(list) != 1 || list[0].ID != running {
		t.Errorf("%+v is left, %v", list, err)
	}
	if n := one[int](s, "select (select count(*) from offstage_private.ticket) + (select count(*) from offstage_private.scheduled) + (select count(*) from offstage_private.parked)"); n != 0 {
		t.Errorf("%d places are left", n)
	}
}

func TestQueues(t *testing.T) {
	s := newStage(t)
	h := s.hands("t")
	var ids []int64
	for range 5 {
		ids = append(ids, s.add("t", nil, offstage.Options{Queue: `a "q"`}))
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	claim := func() []int64 {
		t.Helper()
		s.exec("select offstage.promote()") // the chore that passes queues on
		return h.claim(5)
	}
	must(s.client.PauseQueue(s.ctx(), `a "q"`))
	if got := claim(); got != nil {
		t.Errorf("claimed %v of a paused queue", got)
	}
	must(s.client.ResumeQueue(s.ctx(), `a "q"`))
	if got := claim(); !slices.Equal(got, ids[:1]) {
		t.Errorf("claimed %v, expected the first", got)
	}
	must(s.client.ConfigureQueue(s.ctx(), `a "q"`, 3))
	if got := claim(); !slices.Equal(got, ids[1:3]) {
		t.Errorf("claimed %v, expected the second and third", got)
	}
	must(s.client.ConfigureQueue(s.ctx(), `a "q"`, 1))
	for _, id := range ids[:2] {
		h.succeed(id, "")
		if got := claim(); got != nil {
			t.Errorf("claimed %v while more than one still runs", got)
		}
	}
	h.succeed(ids[2], "")
	if got := claim(); !slices.Equal(got, ids[3:4]) {
		t.Errorf("claimed %v, expected the fourth", got)
	}
	for _, n := range []int{0, -1} {
		if err := s.client.ConfigureQueue(s.ctx(), `a "q"`, n); sqlState(err) != "23514" {
			t.Errorf("concurrency %d: %v", n, err)
		}
	}
	must(s.client.ConfigureQueue(s.ctx(), "new", 2))
	if n := one[int](s, "select concurrency from offstage.queues where queue_name = 'new'"); n != 2 {
		t.Errorf("the new queue has concurrency %d", n)
	}
}

func TestPauseTask(t *testing.T) {
	s := newStage(t)
	h := s.hands("t,u")
	id, other := s.add("t", nil), s.add("u", nil)
	if err := s.client.PauseTask(s.ctx(), "t"); err != nil {
		t.Fatal(err)
	}
	if got := h.claim(5); !slices.Equal(got, []int64{other}) {
		t.Errorf("claimed %v, expected %d alone", got, other)
	}
	if st, err := s.client.Status(s.ctx(), id); err != nil || st.State != offstage.Paused {
		t.Errorf("status is %+v, %v", st, err)
	}
	if text, err := s.client.Explain(s.ctx(), id); err != nil || !strings.Contains(text, "resume_task('t')") {
		t.Errorf("explained as %q, %v", text, err)
	}
	if err := s.client.ResumeTask(s.ctx(), "t"); err != nil {
		t.Fatal(err)
	}
	if got := h.claim(5); !slices.Equal(got, []int64{id}) {
		t.Errorf("claimed %v, expected %d", got, id)
	}
}

// A queue or task can be paused before its first job comes.
func TestPauseWhatIsNew(t *testing.T) {
	s := newStage(t)
	for range 2 { // the second time there are others
		queue, task := fmt.Sprint("q", one[int](s, "select count(*) from offstage_private.queue")), fmt.Sprint("t", one[int](s, "select count(*) from offstage_private.task"))
		if err := errors.Join(s.client.PauseQueue(s.ctx(), queue), s.client.PauseTask(s.ctx(), task)); err != nil {
			t.Fatal(err)
		}
		for _, id := range []int64{s.add(task, nil), s.add("other", nil, offstage.Options{Queue: queue})} {
			if st, err := s.client.Status(s.ctx(), id); err != nil || st.State != offstage.Paused {
				t.Errorf("status is %+v, %v", st, err)
			}
		}
	}
}

// What a caller has done in a transaction of its own is undone with it.
func TestManageInTransaction(t *testing.T) {
	s := newStage(t)
	id := s.add("t", nil)
	tx, err := s.pool.Begin(s.ctx())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(s.ctx())
	inside := s.client.With(tx)
	if cancelled, _, err := inside.Cancel(s.ctx(), "", id); err != nil || len(cancelled) != 1 {
		t.Fatalf("cancel answered %v, %v", cancelled, err)
	}
	if st, err := inside.Status(s.ctx(), id); err != nil || st.Outcome != offstage.OutcomeCancelled {
		t.Errorf("inside: %+v, %v", st, err)
	}
	if err := tx.Rollback(s.ctx()); err != nil {
		t.Fatal(err)
	}
	if st, err := s.client.Status(s.ctx(), id); err != nil || st.State != offstage.Waiting {
		t.Errorf("after the rollback: %+v, %v", st, err)
	}
}

// Progress of a running job can be seen by whoever asks.
func TestStatusShowsProgress(t *testing.T) {
	s := newStage(t)
	h := s.hands("t")
	id := s.add("t", nil)
	h.claim(1)
	s.exec("select offstage.report($1, json_build_array(json_build_object('claim', $2::bigint, 'job_id', $3::bigint, 'percent', 12.5, 'message', 'warming up')))", h.worker, h.claims[id], id)
	st, err := s.client.Status(s.ctx(), id)
	if err != nil || st.Progress == nil || *st.Progress != 12.5 || st.Message != "warming up" {
		t.Errorf("status is %+v, %v", st, err)
	}
}

// The lines of all attempts, a page at a time, before and after the job has ended.
func TestLog(t *testing.T) {
	s := newStage(t)
	h := s.hands("t")
	id := s.add("t", nil)
	h.claim(1)
	report := func(lines string) {
		t.Helper()
		s.exec("select offstage.report($1, json_build_array(json_build_object('claim', $2::bigint, 'job_id', $3::bigint, 'lines', $4::text::json)))",
			h.worker, h.claims[id], id, lines)
	}
	log := func(after *offstage.LogLine) []offstage.LogLine {
		t.Helper()
		lines, err := s.client.Log(s.ctx(), id, after)
		if err != nil {
			t.Fatal(err)
		}
		return lines
	}
	if lines := log(nil); len(lines) != 0 {
		t.Errorf("before anything: %+v", lines)
	}
	report(`[{"n": 1, "after": 0, "level": "warn", "message": "one", "attrs": {"b": 1, "a": "<x>"}}, {"n": 2, "after": 1.25, "level": "info+2", "message": "two"}]`)
	lines := log(nil)
	if len(lines) != 2 || lines[0].Message != "one" || lines[0].Level != "warn" || string(lines[0].Attrs) != `{"b": 1, "a": "<x>"}` || lines[0].Attempt != 1 ||
		lines[1].Level != "info+2" || lines[1].Attrs != nil || lines[1].At.Sub(lines[0].At) != 1250*time.Millisecond {
		t.Errorf("lines are %+v", lines)
	}
	if more := log(&lines[1]); len(more) != 0 {
		t.Errorf("after the last one: %+v", more)
	}
	h.end(id, "retry", "no")
	if _, err := s.client.Retry(s.ctx(), id); err != nil {
		t.Fatal(err)
	}
	h.claim(1)
	report(`[{"n": 1, "after": 0, "level": "info", "message": "again"}]`)
	h.succeed(id, "")
	more := log(&lines[0])
	if len(more) != 2 || more[0].Message != "two" || more[1].Message != "again" {
		t.Errorf("after the first one: %+v", more)
	}
	if all := log(nil); len(all) != 3 {
		t.Errorf("all of it: %+v", all)
	}
}
