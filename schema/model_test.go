package schema_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/offstage-dev/offstage/internal/pgtest"
)

var modelSeed = flag.Uint64("model.seed", 0, "seed of TestModel; 0 takes one at random")

// TestModel does random things in one session, while another one holds places now and then, and compares, after each of
// them, every job with a small model of what it should be.
func TestModel(t *testing.T) {
	t.Parallel()
	for range 3 {
		seed := *modelSeed
		if seed == 0 {
			seed = rand.Uint64()
		}
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			t.Parallel()
			m := &model{
				t: t, r: rand.New(rand.NewPCG(seed, 0)), now: time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC),
				jobs: map[int64]*modelJob{}, queues: map[string]*modelQueue{}, tasks: map[string]bool{},
			}
			db := pgtest.New(t)
			m.conn, m.other = db.Conn(t), db.Conn(t)
			pgtest.Do(t, m.conn, setting)
			m.names, m.few = []string{"a", "b", "c"}, 20
			if m.r.IntN(3) == 0 { // more tasks wait in a queue than a hand-over serves
				m.names, m.few = strings.Split("abcdefghijkl", ""), 2
			}
			m.register()
			for range 250 {
				m.step()
				m.compare()
				if t.Failed() {
					t.Logf("what was done:\n%s", strings.Join(m.said[max(len(m.said)-30, 0):], "\n"))
					t.FailNow()
				}
				if m.r.IntN(20) == 0 {
					pgtest.Do(t, m.conn, "select offstage.roll_up($1)", 1+m.r.IntN(20))
				}
			}
			checkCounted(t, m.conn)
		})
	}
}

type modelJob struct {
	id               int64
	task, queue, key string
	priority         int
	runAt            time.Time
	state            string // scheduled, ready (has a ticket, or is parked), running or failed
	attempts, max    int
	claim            int64
	crashes          int
}

// urgent says whether j comes before o.
func (j *modelJob) urgent(o *modelJob) bool {
	if j.priority != o.priority {
		return j.priority < o.priority
	}
	if !j.runAt.Equal(o.runAt) {
		return j.runAt.Before(o.runAt)
	}
	return j.id < o.id
}

type modelQueue struct {
	concurrency int
	paused      bool
}

type model struct {
	t      *testing.T
	r      *rand.Rand
	conn   *pgx.Conn
	other  *pgx.Conn
	held   []int64 // jobs whose places other has locked
	now    time.Time
	jobs   map[int64]*modelJob
	queues map[string]*modelQueue
	names  []string        // of the tasks
	few    int             // of so many jobs that are added together, one has a queue, and one another task
	tasks  map[string]bool // paused
	worker int32
	said   []string
}

func (m *model) say(format string, args ...any) {
	m.said = append(m.said, fmt.Sprintf(format, args...))
}

func (m *model) register() {
	m.worker = pgtest.One[int32](m.t, m.conn, "select t.worker(variadic $1)", m.names)
}

func (m *model) queue(name string) *modelQueue {
	if m.queues[name] == nil {
		m.queues[name] = &modelQueue{concurrency: 1}
	}
	return m.queues[name]
}

func (m *model) running(queue string) (n int) {
	for _, j := range m.jobs {
		if j.queue == queue && j.state == "running" {
			n++
		}
	}
	return n
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// place is where a job goes that may run.
func (m *model) place(j *modelJob) {
	if j.runAt.After(m.now) {
		j.state = "scheduled"
	} else {
		j.state = "ready"
	}
}

// some gives up to three jobs, of those states if there are any.
func (m *model) some(states ...string) []int64 {
	ids := m.all(states...)
	return ids[:min(len(ids), m.r.IntN(4))]
}

func (m *model) all(states ...string) []int64 {
	var ids []int64
	for id, j := range m.jobs {
		if len(states) == 0 || slices.Contains(states, j.state) {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	m.r.Shuffle(len(ids), func(i, k int) { ids[i], ids[k] = ids[k], ids[i] })
	return ids
}

func (m *model) byKey(key string) *modelJob {
	for _, j := range m.jobs {
		if j.key == key {
			return j
		}
	}
	return nil
}

func (m *model) step() {
	switch m.r.IntN(16) {
	case 0, 1, 2:
		m.add()
	case 3:
		m.addMany()
	case 4, 5, 6:
		if tasks := m.someTasks(); len(tasks) > 0 {
			release := m.hold("q1", "q2")
			m.claim(tasks)
			release()
		}
	case 7, 8, 9:
		m.settle()
	case 10, 11:
		m.pass()
	case 12:
		m.meddle()
	case 13:
		m.meddle()
	case 14:
		m.configure()
	case 15:
		m.die()
	}
}

func (m *model) add() {
	r := m.r
	task := pick(r, m.names)
	queue := pick(r, []string{"", "", "q1", "q2"})
	key := pick(r, []string{"", "", "k1", "k2", "k3"})
	mode := pick(r, []string{"replace", "preserve_run_at", "unsafe_dedupe"})
	runAt := m.now.Add(time.Duration(r.IntN(40)-25) * time.Second)
	priority, attempts := r.IntN(3)-1, 1+r.IntN(3)
	m.say("add_job(%s, queue %q, key %q %s, run_at %s, priority %d, max_attempts %d)", task, queue, key, mode, runAt.Format("15:04:05"), priority, attempts)
	id := one64(m.t, m.conn, `select id from offstage.add_job($1, queue_name => $2, job_key => $3, job_key_mode => $4, run_at => $5, priority => $6, max_attempts => $7)`,
		task, nilIfEmpty(queue), nilIfEmpty(key), mode, runAt, priority, attempts)
	if queue != "" {
		m.queue(queue)
	}
	if key != "" {
		if old := m.byKey(key); old != nil {
			switch {
			case mode == "unsafe_dedupe":
				if id != old.id {
					m.t.Errorf("unsafe_dedupe gave job %d, want %d", id, old.id)
				}
				return
			case old.state == "running":
				old.key, old.attempts = "", old.max-1
			case old.state == "failed":
				old.key, old.attempts = "", old.max
			default:
				if id != old.id {
					m.t.Errorf("%s gave job %d, want %d", mode, id, old.id)
				}
				if mode == "preserve_run_at" && old.attempts == 0 {
					runAt = old.runAt
				}
				old.task, old.queue, old.priority, old.runAt, old.attempts, old.max = task, queue, priority, runAt, 0, attempts
				m.place(old)
				return
			}
		}
	}
	j := &modelJob{id: id, task: task, queue: queue, key: key, priority: priority, runAt: runAt, max: attempts}
	m.place(j)
	m.jobs[id] = j
}

// addMany adds jobs that are mostly alike, and so share tickets.
func (m *model) addMany() {
	r := m.r
	runAt := m.now.Add(-time.Duration(r.IntN(3))*time.Second - time.Millisecond) // which nobody gets by hand: among those that share a ticket it would be out of order
	one := &modelJob{task: pick(r, m.names), runAt: runAt, max: 25}
	var jobs []*modelJob
	var tasks, queues []string
	var priorities []int
	for range 1 + r.IntN(12) {
		j := *one
		if r.IntN(m.few) == 0 {
			j.task = pick(r, m.names)
		}
		if r.IntN(m.few) == 0 {
			j.queue = pick(r, []string{"q1", "q2"})
			m.queue(j.queue)
		}
		j.priority = pick(r, []int{0, 0, 0, 0, 1, -1})
		jobs, tasks, queues, priorities = append(jobs, &j), append(tasks, j.task), append(queues, j.queue), append(priorities, j.priority)
	}
	m.say("add_jobs(%v, queues %q, run_at %s, priorities %v)", tasks, queues, runAt.Format("15:04:05.000"), priorities)
	for i, id := range pgtest.List[int64](m.t, m.conn, `select id from offstage.add_jobs(array(
			select row (u.task, null, nullif(u.queue, ''), $3, null, null, u.priority, null)::offstage.job_spec
			from unnest($1::text[], $2::text[], $4::smallint[]) with ordinality u (task, queue, priority, n) order by u.n))`,
		tasks, queues, runAt, priorities) {
		jobs[i].id = id
		m.place(jobs[i])
		m.jobs[id] = jobs[i]
	}
}

func (m *model) someTasks() []string {
	tasks := []string{}
	for _, task := range m.names {
		if m.r.IntN(3) > 0 {
			tasks = append(tasks, task)
		}
	}
	return tasks
}

// hold lets another session lock some jobs' places now and then, as callers and claims do, and one of these queues. The
// function it gives ends that.
func (m *model) hold(queues ...string) func() {
	if m.r.IntN(3) > 0 {
		return func() {}
	}
	pgtest.Do(m.t, m.other, "begin")
	m.held = pgtest.List[int64](m.t, m.other, `
		with t as (select * from offstage_private.ticket where coalesce(job_ids, array[job_id]) && $1 for update),
			p as (select job_id from offstage_private.parked where job_id = any ($1) for update)
		select i from t cross join unnest(coalesce(job_ids, array[job_id])) i
		where t.jobs = 1 or not exists (select from offstage_private.stub s where s.lane_id = t.lane_id and s.ticket = t.job_id and s.job_id = i)
		union all select job_id from p order by 1`, m.some("ready"))
	queue := ""
	if queues != nil && m.r.IntN(2) == 0 {
		queue = pick(m.r, queues)
		pgtest.Do(m.t, m.other, "select from offstage_private.queue where name = $1 for update", queue)
	}
	m.say("held: %v %s", m.held, queue)
	return func() {
		pgtest.Do(m.t, m.other, "rollback")
		m.held = nil
	}
}

// claim claims some jobs, or all that can run, and looks whether those were the right ones.
func (m *model) claim(tasks []string) {
	want := 1 + m.r.IntN(4)*m.r.IntN(15)
	all := m.r.IntN(3) == 0 && m.held == nil
	if all {
		want = 1000
		pgtest.Do(m.t, m.conn, "select * from offstage.promote()") // hands queues on
		m.promoted()
	}
	m.say("claim %d of %v", want, tasks)
	rows, err := m.conn.Query(m.t.Context(), "select job_id, claim, attempt from offstage.claim($1, $2, t.task(variadic $3)) where kind = 'job'", m.worker, want, tasks)
	if err != nil {
		m.t.Fatal(err)
	}
	type claimed struct {
		ID, Claim int64
		Attempt   int16
	}
	got, err := pgx.CollectRows(rows, pgx.RowToStructByPos[claimed])
	if err != nil {
		m.t.Fatal(err)
	}
	if len(got) > want {
		m.t.Errorf("got %d jobs", len(got))
	}
	can := func(j *modelJob) bool {
		return j.state == "ready" && slices.Contains(tasks, j.task) && !m.tasks[j.task]
	}
	for _, c := range got {
		j := m.jobs[c.ID]
		m.say("  job %d, attempt %d", c.ID, c.Attempt)
		switch {
		case j == nil:
			m.t.Fatalf("job %d is claimed, but has ended", c.ID)
		case !can(j) || slices.Contains(m.held, j.id):
			m.t.Errorf("job %d (%s, %s) is claimed", j.id, j.task, j.state)
		case int(c.Attempt) != j.attempts+1:
			m.t.Errorf("job %d is claimed for attempt %d, want %d", j.id, c.Attempt, j.attempts+1)
		}
		j.state, j.claim = "running", c.Claim
		if j.queue != "" {
			q := m.queues[j.queue]
			if q.paused || m.running(j.queue) > q.concurrency {
				m.t.Errorf("job %d is claimed: queue %s runs %d of %d, paused: %t", j.id, j.queue, m.running(j.queue), q.concurrency, q.paused)
			}
		}
	}
	// None that is more urgent was left behind.
	for _, c := range got {
		for _, o := range m.jobs {
			if j := m.jobs[c.ID]; o.queue == "" && can(o) && !slices.Contains(m.held, o.id) && o.urgent(j) {
				m.t.Errorf("job %d is claimed, but not job %d, which is more urgent", j.id, o.id)
			}
		}
	}
	// With room left, everything runs that can.
	if all {
		later := pgtest.List[string](m.t, m.conn, "select q.name from offstage_private.handover h join offstage_private.queue q on q.id = h.queue_id") // somebody held what it would have handed over
		for _, o := range m.jobs {
			if !can(o) || slices.Contains(later, o.queue) || o.queue != "" && (m.queues[o.queue].paused || m.running(o.queue) >= m.queues[o.queue].concurrency) {
				continue
			}
			m.t.Errorf("job %d could run, but was not claimed", o.id)
		}
	}
}

func (m *model) settle() {
	var endings []string
	ids := m.some("running")
	if m.r.IntN(3) == 0 {
		ids = m.all("running")
	}
	for _, id := range ids {
		j := m.jobs[id]
		ending := pick(m.r, []string{"succeed", "succeed", "retry", "fail", "cancel", "snooze", "release"})
		delay := m.r.IntN(20)
		atOnce := ending == "release" && m.r.IntN(2) == 0
		given := fmt.Sprint(delay)
		if atOnce {
			given = "null"
		}
		endings = append(endings, fmt.Sprintf(`{"claim": %d, "job_id": %d, "ending": %q, "delay": %s}`, j.claim, j.id, ending, given))
		later := m.now.Add(time.Duration(delay) * time.Second)
		if ending == "fail" || ending == "retry" && j.attempts+1 >= j.max {
			j.state, j.crashes = "failed", 0
			j.attempts++
			if ending == "retry" {
				j.runAt = latest(m.now, j.runAt).Add(time.Duration(delay) * time.Second)
			}
			continue
		}
		switch ending {
		case "succeed", "cancel":
			delete(m.jobs, id)
			continue
		case "retry":
			j.attempts++
			j.runAt = latest(m.now, j.runAt).Add(time.Duration(delay) * time.Second)
		case "snooze", "release":
			if !atOnce {
				j.runAt = later
			}
		}
		if ending != "release" {
			j.crashes = 0
		}
		m.place(j)
	}
	if endings == nil {
		return
	}
	call := "[" + strings.Join(endings, ", ") + "]"
	defer m.hold()()
	m.say("settle %s", call)
	if m.r.IntN(2) == 0 { // and leaves the queues to a claim
		m.say("  and, in the same transaction:")
		pgtest.Do(m.t, m.conn, "begin")
		if left := pgtest.List[string](m.t, m.conn, "select s::text from offstage.settle($1, null, null, endings => $2, turn => true) s", m.worker, call); len(left) > 0 {
			m.t.Errorf("not settled: %v", left)
		}
		m.claim(m.someTasks())
		pgtest.Do(m.t, m.conn, "commit")
		return
	}
	for range 1 + m.r.IntN(2) { // again, as if the answer had been lost
		if left := pgtest.List[string](m.t, m.conn, "select s::text from offstage.settle($1, null, null, endings => $2) s", m.worker, call); len(left) > 0 {
			m.t.Errorf("not settled: %v", left)
		}
	}
}

func (m *model) promoted() {
	for _, j := range m.jobs {
		if j.state == "scheduled" && !j.runAt.After(m.now) {
			j.state = "ready"
		}
	}
}

func (m *model) pass() {
	span := time.Duration(1+m.r.IntN(20)) * time.Second
	m.now = m.now.Add(span)
	m.say("%s pass, promote", span)
	pgtest.Do(m.t, m.conn, "select t.pass($1)", span)
	pgtest.Do(m.t, m.conn, "select * from offstage.promote()")
	m.promoted()
}

func (m *model) meddle() {
	r, conn := m.r, m.conn
	ids := m.some()
	free := func(f func(*modelJob)) {
		for _, id := range ids {
			if j := m.jobs[id]; j.state != "running" {
				f(j)
			}
		}
	}
	switch r.IntN(6) {
	case 0:
		m.say("complete_jobs %v", ids)
		pgtest.Do(m.t, conn, "select offstage.complete_jobs($1)", ids)
		free(func(j *modelJob) { delete(m.jobs, j.id) })
	case 1:
		m.say("permanently_fail_jobs %v", ids)
		pgtest.Do(m.t, conn, "select offstage.permanently_fail_jobs($1)", ids)
		free(func(j *modelJob) { j.state, j.attempts = "failed", j.max })
	case 2:
		runAt, attempts := m.now.Add(time.Duration(r.IntN(30)-15)*time.Second), r.IntN(4)
		m.say("reschedule_jobs %v run_at %s attempts %d", ids, runAt.Format("15:04:05"), attempts)
		pgtest.Do(m.t, conn, "select offstage.reschedule_jobs($1, run_at => $2, attempts => $3)", ids, runAt, attempts)
		free(func(j *modelJob) {
			j.runAt, j.attempts = runAt, attempts
			if j.attempts >= j.max {
				j.state = "failed"
				return
			}
			j.crashes = 0
			m.place(j)
		})
	case 3:
		m.say("retry_jobs %v", ids)
		pgtest.Do(m.t, conn, "select offstage.retry_jobs($1)", ids)
		now := pgtest.One[time.Time](m.t, conn, "select now()")
		free(func(j *modelJob) {
			if j.state == "failed" {
				j.attempts = 0
			}
			j.crashes, j.state = 0, "ready"
			if j.runAt.After(now) { // now() is not the clock of the test
				j.runAt = pgtest.One[time.Time](m.t, conn, "select run_at from offstage_private.job where id = $1", j.id)
			}
		})
	case 4:
		m.say("delete_jobs %v", ids)
		pgtest.Do(m.t, conn, "select offstage.delete_jobs($1)", ids)
		free(func(j *modelJob) { delete(m.jobs, j.id) })
	case 5:
		key := pick(r, []string{"k1", "k2", "k3"})
		m.say("remove_job %s", key)
		pgtest.Do(m.t, conn, "select offstage.remove_job($1)", key)
		if j := m.byKey(key); j != nil && j.state == "running" {
			j.key, j.attempts = "", j.max-1
		} else if j != nil {
			delete(m.jobs, j.id)
		}
	}
}

func (m *model) configure() {
	q := pick(m.r, []string{"q1", "q2"})
	task := pick(m.r, m.names)
	switch m.r.IntN(5) {
	case 0:
		m.say("pause_queue %s", q)
		pgtest.Do(m.t, m.conn, "select offstage.pause_queue($1)", q)
		m.queue(q).paused = true
	case 1, 2:
		m.say("resume_queue %s", q)
		pgtest.Do(m.t, m.conn, "select offstage.resume_queue($1)", q)
		m.queue(q).paused = false
	case 3:
		n := 1 + m.r.IntN(3)
		m.say("configure_queue %s %d", q, n)
		pgtest.Do(m.t, m.conn, "select offstage.configure_queue($1, $2)", q, n)
		m.queue(q).concurrency = n
	case 4:
		m.tasks[task] = !m.tasks[task]
		m.say("task %s paused: %t", task, m.tasks[task])
		pgtest.Do(m.t, m.conn, "select offstage."+map[bool]string{true: "pause", false: "resume"}[m.tasks[task]]+"_task($1)", task)
	}
}

// die lets the worker stop beating, and another one rescue its jobs.
func (m *model) die() {
	dead := m.worker
	m.register()
	m.say("worker %d dies", dead)
	pgtest.Do(m.t, m.conn, "select t.beat(6, $1)", m.worker)
	m.now = m.now.Add(6 * time.Second)
	pgtest.Do(m.t, m.conn, "select offstage.rescue($1)", m.worker)
	for _, j := range m.jobs {
		if j.state != "running" {
			continue
		}
		if j.crashes < 2 { // after that, only who was marked has begun
			j.crashes++
			j.attempts++
		}
		if j.attempts >= j.max {
			j.state = "failed"
		} else {
			j.state = "ready"
		}
	}
}

// compare looks at every job.
func (m *model) compare() {
	m.t.Helper()
	checkWhole(m.t, m.conn)
	rows, err := m.conn.Query(m.t.Context(), "select id, task, coalesce(queue, ''), coalesce(key, ''), state, attempts, crashes, run_at from t.jobs")
	if err != nil {
		m.t.Fatal(err)
	}
	type row struct {
		ID                      int64
		Task, Queue, Key, State string
		Attempts, Crashes       int
		RunAt                   time.Time
	}
	got, err := pgx.CollectRows(rows, pgx.RowToStructByPos[row])
	if err != nil {
		m.t.Fatal(err)
	}
	for _, g := range got {
		j := m.jobs[g.ID]
		if j == nil {
			m.t.Errorf("job %d is there (%s), should have ended", g.ID, g.State)
			continue
		}
		if g.State == "waiting" || g.State == "parked" || g.State == "paused" && j.state == "ready" {
			g.State = "ready"
		}
		if want := (row{j.id, j.task, j.queue, j.key, j.state, j.attempts, j.crashes, g.RunAt}); g != want || !g.RunAt.Equal(j.runAt) {
			m.t.Errorf("job %d is %+v, should be %+v at %s", g.ID, g, want, j.runAt)
		}
	}
	if len(got) != len(m.jobs) {
		m.t.Errorf("there are %d jobs, should be %d", len(got), len(m.jobs))
	}
}
