package web

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/internal/pgtest"
	"github.com/offstage-dev/offstage/internal/view"
	"github.com/offstage-dev/offstage/internal/web/guard"
	"github.com/offstage-dev/offstage/worker"
)

// hardNames need escaping somewhere.
var hardNames = []string{"mail", "a/b", "a//b", "..", ".", "~x", "ä ö?#%&=", "<script>alert(1)</script>", `"'\`, "مرحبا\u202e", "a\tb", strings.Repeat("x", 128)}

func TestQueuesAndTasks(t *testing.T) {
	t.Parallel()
	s := newAPISite(t, Config{})
	for _, name := range hardNames {
		s.add(name, nil, offstage.Options{Queue: name})
		path := segment(name)
		q := bodyOf[QueueFacts](s.call("POST /queues/"+path+"/pause"), 200)
		if q.Name != name || !q.Paused {
			t.Errorf("queue %q: pause answered %+v", name, q)
		}
		if q = bodyOf[QueueFacts](s.call("POST /queues/"+path+"/resume"), 200); q.Paused {
			t.Errorf("queue %q: resume answered %+v", name, q)
		}
		if q = bodyOf[QueueFacts](s.call("PATCH /queues/"+path+` {"concurrency": 7}`), 200); q.Concurrency != 7 {
			t.Errorf("queue %q: configure answered %+v", name, q)
		}
		if d := bodyOf[queueDetail](s.call("GET /queues/"+path+"?window=24h"), 200); d.Name != name || d.Concurrency != 7 || d.Statistics == nil || d.Statistics.Window != "24h" || d.Statistics.StepSeconds == 0 {
			t.Errorf("queue %q: it is %+v", name, d)
		}
		k := bodyOf[TaskFacts](s.call("POST /tasks/"+path+"/pause"), 200)
		if k.Name != name || !k.Paused {
			t.Errorf("task %q: pause answered %+v", name, k)
		}
		if k = bodyOf[TaskFacts](s.call("POST /tasks/"+path+"/resume"), 200); k.Paused {
			t.Errorf("task %q: resume answered %+v", name, k)
		}
		k = bodyOf[TaskFacts](s.call("PATCH /tasks/"+path+` {"max_attempts": 3, "timeout": "30 s", "keep": "failures", "retry": {"policy": "fixed", "delay": "10 s"}}`), 200)
		if *k.MaxAttempts != 3 || *k.Timeout != "00:00:30" || k.Keep != "failures" || !strings.Contains(string(k.Retry), "fixed") {
			t.Errorf("task %q: configure answered %+v", name, k)
		}
		if k = bodyOf[TaskFacts](s.call("PATCH /tasks/"+path+` {"max_attempts": null, "timeout": null}`), 200); k.MaxAttempts != nil || k.Timeout != nil || k.Keep != "failures" {
			t.Errorf("task %q: configure answered %+v", name, k)
		}
		if d := bodyOf[taskDetail](s.call("GET /tasks/"+path+"?window=7d"), 200); d.Name != name || d.Statistics.Window != "7d" {
			t.Errorf("task %q: it is %+v", name, d)
		}
	}
	if list := bodyOf[apiQueueList](s.call("GET /queues"), 200); len(list.Queues) != len(hardNames) || list.After != "" {
		t.Errorf("the queues are %+v", list)
	}
	if list := bodyOf[apiQueueList](s.call("GET /queues?search=mai"), 200); len(list.Queues) != 1 || list.Queues[0].Name != "mail" {
		t.Errorf("the queues that begin with mai are %+v", list)
	}
	if list := bodyOf[taskList](s.call("GET /tasks"), 200); len(list.Tasks) != len(hardNames) {
		t.Errorf("the tasks are %+v", list)
	}
	for _, kind := range []string{"queues", "tasks"} {
		s.call("GET /"+kind+"/unknown").problem(404, isNotFound, "unknown")
		s.call("POST /"+kind+"/unknown/pause").problem(404, isNotFound)
		s.call("GET /"+kind+"/a%00b").problem(422, isInvalid, "NUL")
		s.call("POST /"+kind+"/a%FFb/pause").problem(422, isInvalid, "UTF-8")
	}
	if n := pgtest.One[int](t, s.pool, `select count(*) from offstage_private.queue`); n != len(hardNames) {
		t.Errorf("there are %d queues: a mistyped name made one", n)
	}
	s.call(`PATCH /queues/mail {"concurrency": 0}`).problem(422, isInvalid, "body.concurrency")
	s.call(`PATCH /tasks/mail {}`).problem(422, isInvalid, "names nothing")
	s.call(`PATCH /tasks/mail {"max_attempts": 0}`).problem(422, isInvalid)
	s.call(`PATCH /tasks/mail {"retry": {"policy": "never"}}`).problem(422, isInvalid)
	s.call(`PATCH /tasks/mail {"paused": true}`).problem(422, isInvalid, "body.paused")
	s.call("GET /queues/mail?window=2h").problem(422, isInvalid, "query.window")
}

// Queues come a hundred at a time.
func TestQueueCursor(t *testing.T) {
	t.Parallel()
	s := newAPISite(t, Config{})
	pgtest.Do(t, s.pool, `select offstage.pause_queue(format('customer %s', lpad(i::text, 3, '0'))) from generate_series(1, 250) i`)
	seen, cursor := map[string]bool{}, ""
	for {
		page := bodyOf[apiQueueList](s.call("GET /queues?busy=true&cursor="+url.QueryEscape(cursor)), 200)
		for _, q := range page.Queues {
			if seen[q.Name] {
				t.Fatalf("%s came twice", q.Name)
			}
			seen[q.Name] = true
		}
		if cursor = page.After; cursor == "" {
			break
		}
	}
	if len(seen) != 250 {
		t.Errorf("%d queues came", len(seen))
	}
}

func TestScheduleOperations(t *testing.T) {
	t.Parallel()
	s := newAPISite(t, Config{})
	for _, name := range hardNames {
		path := segment(name)
		got := bodyOf[apiSchedule](s.call("PUT /schedules/"+path+` {"task": "report", "expression": "30 2 * * mon-fri", "time_zone": "Europe/Berlin", "payload": {"a": 1}, "queue": "q", "key": "k",
			"key_mode": "preserve_run_at", "priority": 5, "max_attempts": 3, "jitter": 1.5, "from": "2000-01-01T00:00:00Z", "until": "2100-01-01T00:00:00Z", "overlap": "skip", "catchup": "one"}`), 200)
		if got.Name != name || got.Task != "report" || got.Plain != "at 02:30 on Monday to Friday" || got.TimeZone != "Europe/Berlin" || string(got.Payload) != `{"a":1}` || *got.Queue != "q" ||
			*got.Key != "k" || *got.KeyMode != "preserve_run_at" || got.Priority != 5 || *got.MaxAttempts != 3 || got.Jitter != 1.5 || got.From.Year() != 2000 || got.Until.Year() != 2100 ||
			got.Overlap != "skip" || *got.Catchup != "one" || got.Source != "database" || len(got.Next) != 5 || got.Next[0].Before(time.Now()) {
			t.Errorf("schedule %q: %+v", name, got)
		}
		if got = bodyOf[apiSchedule](s.call("POST /schedules/"+path+"/pause"), 200); !got.Paused || len(got.Next) != 0 {
			t.Errorf("schedule %q: pause answered %+v", name, got)
		}
		if got = bodyOf[apiSchedule](s.call("POST /schedules/"+path+"/resume"), 200); got.Paused {
			t.Errorf("schedule %q: resume answered %+v", name, got)
		}
		id := bodyOf[addedBody](s.call("POST /schedules/"+path+"/run"), 201).ID
		if got = bodyOf[apiSchedule](s.call("GET /schedules/"+path), 200); got.LastJob == nil || *got.LastJob != id {
			t.Errorf("schedule %q: after its run it is %+v", name, got)
		}
	}
	if list := bodyOf[scheduleList](s.call("GET /schedules"), 200); len(list.Schedules) != len(hardNames) {
		t.Errorf("there are %d schedules", len(list.Schedules))
	}
	for _, name := range hardNames {
		s.call("DELETE /schedules/" + segment(name)).is(204)
		s.call("DELETE /schedules/"+segment(name)).problem(404, isNotFound)
	}
	for body, says := range map[string]string{
		`{"task": "x", "expression": "every day"}`: "body.expression", `{"task": "x", "expression": "* * * * *", "time_zone": "Mars/Olympus"}`: "body.time_zone",
		`{"task": "", "expression": "* * * * *"}`: "body.task", `{"expression": "* * * * *"}`: "task", `{"task": "x", "expression": "* * * * *", "payload": [1]}`: "",
		`{"task": "x", "expression": "* * * * *", "catchup": "one", "fill": 60}`: "", `{"task": "x", "expression": "* * * * *", "payload": {"a": "\u0000"}}`: "body.payload",
		`{"task": "x", "expression": "* * * * *", "overlap": "maybe"}`: "body.overlap", `{"task": "x", "expression": "* * * * *", "jitter": -1}`: "body.jitter",
	} {
		s.call("PUT /schedules/x "+body).problem(422, isInvalid, says)
	}
	for _, verb := range []string{"pause", "resume", "run"} {
		s.call("POST /schedules/unknown/"+verb).problem(404, isNotFound)
	}
	s.call("GET /schedules/unknown").problem(404, isNotFound)
}

// A schedule of a program cannot be removed while a worker has it.
func TestSchedulesOfPrograms(t *testing.T) {
	t.Parallel()
	s := newAPISite(t, Config{})
	s.work(func(w *worker.Worker) {
		worker.Handle(w, "report", func(ctx context.Context, job *worker.Job[any]) (struct{}, error) { return struct{}{}, nil })
		if err := w.SetSchedules([]offstage.Schedule{{Task: "report", Expression: "@daily"}}); err != nil {
			t.Fatal(err)
		}
	})
	pgtest.Eventually(t, 20*time.Second, func() bool { return pgtest.One[int](t, s.pool, `select count(*) from offstage.schedules`) == 1 })
	if got := bodyOf[apiSchedule](s.call("GET /schedules/report"), 200); got.Source != "program" || got.SeenAt == nil {
		t.Errorf("it is %+v", got)
	}
	s.call("DELETE /schedules/report").problem(409, isConflict, "pause it")
}

func TestOverviewErrorsAndWorkers(t *testing.T) {
	t.Parallel()
	s := newAPISite(t, Config{})
	gate := make(chan struct{})
	s.work(func(w *worker.Worker) {
		worker.Handle(w, "fail", func(ctx context.Context, job *worker.Job[int]) (struct{}, error) {
			return struct{}{}, offstage.Fail(fmt.Errorf("user %d is unknown", job.Payload))
		})
		worker.Handle(w, "wait", func(ctx context.Context, job *worker.Job[any]) (struct{}, error) {
			<-gate
			return struct{}{}, nil
		})
	})
	t.Cleanup(func() { close(gate) })
	var ids []int64
	for i := range 3 {
		ids = append(ids, s.add("fail", 1000+i))
	}
	for _, id := range ids {
		s.call(fmt.Sprintf("GET /jobs/%d/wait?timeout=1m", id)).is(200)
	}
	s.add("wait", nil)
	s.add("nobody", nil, offstage.Options{Queue: "lonely"})

	groups := bodyOf[errorList](s.call("GET /errors?task=fail"), 200).Groups
	if len(groups) != 1 || groups[0].Failed.N != 3 || groups[0].Task != "fail" {
		t.Fatalf("the groups are %+v", groups)
	}
	g := bodyOf[view.ErrorGroup](s.call("GET /errors/"+groups[0].Fingerprint), 200)
	if g.Failed.N != 3 {
		t.Errorf("the group is %+v", g)
	}
	if page := bodyOf[view.JobPage](s.call("GET /jobs?state=failed&fingerprint="+g.Fingerprint), 200); len(page.Jobs) != 3 {
		t.Errorf("%d jobs have this error", len(page.Jobs))
	}
	if dry := bodyOf[bulkStarted](s.call(`POST /bulk?dry_run=true {"action": "retry", "filter": {"state": "failed", "fingerprint": "`+g.Fingerprint+`"}}`), 200); dry.Matched.N != 3 {
		t.Errorf("a retry would be of %+v", dry)
	}
	s.call("GET /errors/unknown").problem(404, isNotFound, "fingerprint")

	var o overview
	pgtest.Eventually(t, 20*time.Second, func() bool {
		o = bodyOf[overview](s.call("GET /overview"), 200)
		return o.Running.N == 1
	})
	if o.Failed.N != 3 || o.Waiting.N != 1 || o.Workers != 1 || o.Slots == 0 || o.Oldest == nil || len(o.Statistics.Points) == 0 {
		t.Errorf("the overview is %+v", o)
	}
	if got := bodyOf[depth](s.call("GET /depth"), 200); got.Depth != 1 {
		t.Errorf("the depth is %+v", got)
	}
	if got := bodyOf[depth](s.call("GET /depth?task=wait"), 200); got.Depth != 0 {
		t.Errorf("the depth of wait is %+v", got)
	}
	if got := bodyOf[depth](s.call("GET /depth?queue=lonely&task=nobody"), 200); got.Depth != 1 {
		t.Errorf("the depth of lonely is %+v", got)
	}
	found := false
	for _, p := range bodyOf[problemList](s.call("GET /problems"), 200).Problems {
		found = found || p.Subject == "nobody" && p.Kind != "" && p.Remedy != ""
	}
	if !found {
		t.Error("that nobody has the task is no problem")
	}
	list := bodyOf[workerList](s.call("GET /workers"), 200).Workers
	if len(list) != 1 || list[0].State != "alive" || list[0].Running.N != 1 || len(list[0].Jobs) != 1 || list[0].Jobs[0].Task != "wait" || len(list[0].Tasks) != 2 {
		t.Errorf("the workers are %+v", list)
	}
}

// Of a payload of 5 MB the audit keeps the beginning, in which secrets stay hidden.
func TestAuditOfLargePayload(t *testing.T) {
	t.Parallel()
	s := newAPISite(t, Config{})
	payload := `{"to": "%s", "token": "s3cret", "text": "` + strings.Repeat("x", 5<<20) + `", "card": {"number": 4711}}`
	id := pgtest.One[int64](t, s.pool, `select id from offstage.add_job('a', $1::text::json)`, fmt.Sprintf(payload, "ada"))
	pgtest.Do(t, s.pool, `select offstage.edit_job($1, $2::text::json)`, id, fmt.Sprintf(payload, "bo"))
	if n := pgtest.One[int](t, s.pool, `select max(octet_length(before::text) + octet_length(after::text)) from offstage_private.audit`); n > 32<<10 {
		t.Errorf("the audit keeps %d bytes", n)
	}
	list := bodyOf[auditList](s.call("GET /audit"), 200).Entries
	if len(list) != 1 {
		t.Fatalf("%d entries", len(list))
	}
	for who, got := range map[string]string{"ada": string(list[0].Before), "bo": string(list[0].After)} {
		if !strings.Contains(got, who) || !strings.Contains(got, "bytes were cut") || !strings.Contains(got, guard.Hidden) || strings.Contains(got, "s3cret") {
			t.Errorf("of %s: %.200s … %s", who, got, got[max(0, len(got)-200):])
		}
	}
}

// A worker in the database, and what a heartbeat would tell it.
func TestWorkerOperations(t *testing.T) {
	t.Parallel()
	s := newAPISite(t, Config{})
	id := pgtest.One[int](t, s.pool, `select worker_id from offstage.register('host', 7, 'v1', 3, '[{"name": "a"}]')`)
	path := fmt.Sprintf("POST /workers/%d/", id)
	wanted := func() string {
		t.Helper()
		return pgtest.One[string](t, s.pool, `select coalesce(wanted, '') from offstage.heartbeat($1)`, id)
	}
	for range 2 {
		if w := bodyOf[workerRow](s.call(path+"drain"), 200); w.ID != id || w.Wanted != "drain" || wanted() != "drain" {
			t.Errorf("drain answered %+v", w)
		}
	}
	pgtest.Do(t, s.pool, `select offstage.heartbeat($1, true, '2 min')`, id)
	s.server.live.forget()
	if w := bodyOf[workerList](s.call("GET /workers"), 200).Workers[0]; w.DeafSince == nil || time.Since(*w.DeafSince) < 2*time.Minute {
		t.Errorf("the worker has heard nothing since %v", w.DeafSince)
	}
	pgtest.Do(t, s.pool, `select offstage.heartbeat($1, true)`, id)
	if w := bodyOf[workerRow](s.call(path+"resume"), 200); w.Wanted != "" || wanted() != "" {
		t.Errorf("resume answered %+v", w)
	}
	if w := bodyOf[workerRow](s.call(path+"stop"), 200); w.Wanted != "stop" || wanted() != "stop" {
		t.Errorf("stop answered %+v", w)
	}
	s.call(path+"resume").problem(409, isConflict, "was told to stop")
	pgtest.Do(t, s.pool, `select offstage.sign_off($1)`, id)
	for _, verb := range []string{"drain", "resume", "stop"} {
		s.call(path+verb).problem(404, isNotFound, "none of this id lives")
		s.call("POST /workers/0/"+verb).problem(422, isInvalid)
		s.call("POST /workers/x/"+verb).problem(422, isInvalid)
	}
	if n := pgtest.One[int](t, s.pool, `select count(*) from offstage.audit(of_target => 'worker ' || $1::integer) where source = 'api'`, id); n != 3 {
		t.Errorf("the audit has %d entries", n)
	}
}

func TestAuditOperation(t *testing.T) {
	t.Parallel()
	s := newAPISite(t, Config{})
	var ids []int64
	for range 3 {
		ids = append(ids, s.add("x", map[string]string{"password": "hunter2"}, offstage.Options{Queue: "q", RunAt: time.Now().Add(time.Hour)}))
	}
	for _, id := range ids {
		s.call(fmt.Sprintf(`POST /jobs/%d/cancel {"reason": "no more"}`, id)).is(200)
	}
	s.call("POST /queues/q/pause").is(200)
	s.call(`POST /jobs {"task": "x", "payload": {"password": "hunter2"}}`).is(201)
	page := bodyOf[auditList](s.call("GET /audit?limit=2"), 200)
	if len(page.Entries) != 2 || page.Older == "" || page.Entries[1].Action != "pause" || page.Entries[1].Target != "queue q" || page.Entries[1].Who != "anonymous" || page.Entries[1].Source != "api" {
		t.Errorf("the audit is %+v", page)
	}
	older := bodyOf[auditList](s.call("GET /audit?limit=500&cursor="+page.Older), 200)
	if len(older.Entries) != 3 || older.Older != "" || *older.Entries[0].Reason != "no more" {
		t.Errorf("the older part is %+v", older)
	}
	s.call("GET /audit?action=paws").problem(422, isInvalid, "bulk retry, cancel")
	if got := bodyOf[auditList](s.call("GET /audit?action=pause&who=anonymous&target=queue%20q"), 200); len(got.Entries) != 1 {
		t.Errorf("the filter found %+v", got)
	}
	if a := s.call("GET /audit"); strings.Contains(string(a.body), "hunter2") {
		t.Errorf("it shows %s", a.body)
	}
	s.call("GET /audit?cursor=x").problem(422, isInvalid, "query.cursor")
}
