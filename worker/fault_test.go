package worker_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/internal/pgtest"
	"github.com/offstage-dev/offstage/worker"
)

// ledger counts how often each job ran.
type ledger struct {
	mu   sync.Mutex
	runs map[int64]int
}

func (l *ledger) handle(w *worker.Worker, task string) {
	worker.Handle(w, task, func(ctx context.Context, job *worker.Job[none]) (none, error) {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.runs == nil {
			l.runs = map[int64]int{}
		}
		l.runs[job.ID]++
		return none{}, nil
	})
}

// check says that every job ran, and succeeded, and twice only where a rescue or release is on record.
func (l *ledger) check(s *stage, ids []int64) {
	s.t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, id := range ids {
		history := s.history(id)
		succeeded := slices.DeleteFunc(slices.Clone(history), func(o string) bool { return o != "succeeded" })
		if len(succeeded) != 1 {
			s.t.Errorf("job %d: history is %v", id, history)
		}
		if n := l.runs[id]; n < 1 || n > 1 && !slices.ContainsFunc(history, func(o string) bool { return o == "rescued" || o == "released" }) {
			s.t.Errorf("job %d ran %d times, history is %v", id, n, history)
		}
	}
}

// Every session of the worker is terminated, again and again, while it works.
func TestBackendsTerminated(t *testing.T) {
	s := newStage(t)
	super := s.db.SuperPool(t)
	var l ledger
	w := s.worker(worker.Config{PollInterval: 200 * time.Millisecond})
	l.handle(w, "work")
	s.run(w)
	ids := []int64{s.add("work", nil)}
	s.outcome(ids[0]) // a worker that finds no database when it starts gives up
	for round := range 6 {
		for range 50 {
			specs := make([]offstage.Spec, 20)
			for i := range specs {
				specs[i].Task = "work"
			}
			added, err := s.client.AddMany(s.ctx(), specs)
			if err != nil {
				continue // our own pool's sessions are terminated, too
			}
			ids = append(ids, added...)
		}
		_, err := super.Exec(s.ctx(), `select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid() and usename = 'owner'`)
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
	}
	s.pool.Reset()
	s.eventually(func() bool {
		var n int
		return super.QueryRow(s.ctx(), "select count(*) from offstage_private.job").Scan(&n) == nil && n == 0
	}, "jobs are left")
	l.check(s, ids)
	s.empty()
}

// The session over which a worker was to sign off is lost when it is told to stop: it signs off all the same.
func TestSignOffAfterLostSessions(t *testing.T) {
	s := newStage(t)
	super := s.db.SuperPool(t)
	var l ledger
	w := s.worker(worker.Config{Jobs: 1}) // no offer to take back, nor lease to delete, which would find the loss out
	l.handle(w, "work")
	stop := s.run(w)
	s.eventually(func() bool {
		return one[int](s, "select count(*) from pg_locks where locktype = 'advisory' and mode = 'ShareLock' and database = (select oid from pg_database where datname = current_database())") == 2
	}, "the worker does not sleep")
	if _, err := super.Exec(s.ctx(), `select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid() and usename = 'owner'`); err != nil {
		t.Fatal(err)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	var n int
	if err := super.QueryRow(s.ctx(), "select count(*) from offstage_private.worker").Scan(&n); err != nil || n != 0 {
		t.Errorf("%d workers have not signed off; %v", n, err)
	}
	s.pool.Reset()
}

// PostgreSQL crashes and comes back while the worker works.
func TestServerCrash(t *testing.T) {
	t.Parallel()
	server := pgtest.Server(t, map[string]string{"fsync": "on"})
	s := onStage(t, pgtest.New(t, pgtest.On(server)))
	var l ledger
	w := s.worker(worker.Config{PollInterval: 200 * time.Millisecond})
	l.handle(w, "work")
	s.run(w)
	ids := []int64{s.add("work", nil)}
	s.outcome(ids[0]) // a worker that finds no database when it starts gives up
	add := func() {
		specs := make([]offstage.Spec, 500)
		for i := range specs {
			specs[i].Task = "work"
		}
		if added, err := s.client.AddMany(s.ctx(), specs); err == nil {
			ids = append(ids, added...)
		}
	}
	for range 3 {
		for range 5 {
			add()
		}
		if err := server.StopImmediate(); err != nil {
			t.Fatal(err)
		}
		if err := server.StartAgain(s.ctx()); err != nil {
			t.Fatal(err)
		}
	}
	s.eventually(func() bool {
		var n int
		return s.pool.QueryRow(s.ctx(), "select count(*) from offstage_private.job").Scan(&n) == nil && n == 0
	}, "jobs are left")
	l.check(s, ids)
	s.empty()
}

// With every NOTIFY lost, jobs still run, at poll latency.
func TestWithoutWakes(t *testing.T) {
	s := newStage(t)
	s.exec(`create or replace function offstage_private.is_locked(key integer) returns boolean language sql as 'select false'`) // nobody seems to sleep, so nobody is told, and no offer is taken
	var ran atomic.Int32
	w := s.worker(worker.Config{PollInterval: time.Second})
	worker.Handle(w, "quiet", func(context.Context, *worker.Job[none]) (none, error) {
		ran.Add(1)
		return none{}, nil
	})
	s.run(w)
	for i := range 3 {
		s.asleep()
		s.add("quiet", nil)
		s.eventually(func() bool { return ran.Load() == int32(i+1) }, "job %d did not run", i)
	}
}

// A worker that others have declared dead is told so: its late result is refused and on record, its attempts are
// cancelled, and it goes on under a new name.
func TestDeclaredDead(t *testing.T) {
	s := newStage(t)
	started := make(chan context.Context, 2)
	w := s.worker(worker.Config{Jobs: 1})
	worker.Handle(w, "stuck", func(ctx context.Context, job *worker.Job[none]) (int, error) {
		started <- ctx
		if job.Attempt == 1 {
			<-ctx.Done()
		}
		return job.Attempt, nil // a success, although the claim is gone
	})
	s.run(w)
	id := s.add("stuck", nil)
	first := <-started
	s.claimed(id)
	s.exec("select offstage.force_unlock_workers(array(select locked_by from offstage.jobs where id = $1))", id)
	<-first.Done()
	if cause := context.Cause(first); cause == nil || !strings.Contains(cause.Error(), "claim lost") {
		t.Errorf("the cause is %v", cause)
	}
	if got, err := offstage.Await[int](s.ctx(), s.client, id); err != nil || got != 2 {
		t.Errorf("await answered %v, %v: the result of the second attempt was expected", got, err)
	}
	s.eventually(func() bool { return slices.Contains(s.history(id), "refused") }, "the refused result is not on record: %v", s.history(id))
	if got := s.history(id); !slices.Contains(got, "rescued") || !slices.Contains(got, "succeeded") {
		t.Errorf("history is %v", got)
	}
}

// A dead worker's jobs are run by another one in seconds; a live one's are left alone.
func TestRescue(t *testing.T) {
	s := newStage(t)
	var l ledger
	w := s.worker(worker.Config{})
	l.handle(w, "work")
	s.run(w)
	// A worker that registers, claims through SQL alone, and is never heard of again.
	dead := s.db.Conn(t)
	var id int32
	if err := dead.QueryRow(s.ctx(), `select worker_id from offstage.register('gone', 1, 'x', 10, '[{"name": "other"}]')`).Scan(&id); err != nil {
		t.Fatal(err)
	}
	var ids []int64
	for range 20 {
		ids = append(ids, s.add("other", nil))
	}
	queued := s.add("other", nil, offstage.Options{Queue: "q"})
	if _, err := dead.Exec(s.ctx(), `select offstage.claim($1, 100, (select tasks from offstage_private.worker where id = $1))`, id); err != nil {
		t.Fatal(err)
	}
	if n := one[int](s, "select count(*) from offstage.jobs where state = 'running'"); n != 21 {
		t.Fatalf("%d jobs are running, expected 21", n)
	}
	second := s.worker(worker.Config{})
	l.handle(second, "other")
	s.run(second)
	for _, id := range append(ids, queued) {
		if st := s.outcome(id); st.Outcome != offstage.OutcomeSucceeded || st.Attempt != 2 {
			t.Errorf("job %d ended as %+v", id, st)
		}
		if got := s.history(id); !slices.Equal(got, []string{"rescued", "succeeded"}) {
			t.Errorf("history of job %d is %v", id, got)
		}
	}
	s.empty()
}

// A job that kills its worker three times in a row is set aside; those that were only there when it happened are not.
func TestSetAside(t *testing.T) {
	s := newStage(t)
	killer, innocent := s.add("both", "killer"), s.add("both", "innocent")
	for round := range 3 {
		conn := s.db.Conn(t)
		var w int32
		if err := conn.QueryRow(s.ctx(), `select worker_id from offstage.register('gone', 1, 'x', 10, '[{"name": "both"}]')`).Scan(&w); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Exec(s.ctx(), `select offstage.claim($1, 100, (select tasks from offstage_private.worker where id = $1))`, w); err != nil {
			t.Fatal(err)
		}
		if round > 1 { // both are suspects now; the worker starts one at a time, and dies with the killer
			if _, err := conn.Exec(s.ctx(), `select offstage.start_suspect($1, l.claim + array_position(l.job_ids, $2), $2) from offstage_private.lease l where l.worker_id = $1`, w, killer); err != nil {
				t.Fatal(err)
			}
		}
		s.exec(`update offstage_private.worker set dead_at = now() where id = $1`, w)
		s.exec(`select offstage_private.give_back(array(select w from offstage_private.worker w where w.id = $1), true)`, w)
	}
	st, err := s.client.Status(s.ctx(), killer)
	if err != nil || st.State != offstage.Failed || !strings.Contains(st.Error, "third in a row") {
		t.Errorf("the killer is %+v, %v", st, err)
	}
	w := s.worker(worker.Config{})
	worker.Handle(w, "both", func(context.Context, *worker.Job[string]) (none, error) { return none{}, nil })
	s.run(w)
	if st := s.outcome(innocent); st.Outcome != offstage.OutcomeSucceeded {
		t.Errorf("the innocent job ended as %+v", st)
	}
}

// A caller's transaction holds the row of a running keyed job; settling it is put off, nothing else waits.
func TestCallerHoldsTheRow(t *testing.T) {
	s := newStage(t)
	started, finish := make(chan none), make(chan none)
	w := s.worker(worker.Config{})
	worker.Handle(w, "keyed", func(ctx context.Context, job *worker.Job[string]) (none, error) {
		if job.Payload == "first" {
			close(started)
			<-finish
		}
		return none{}, nil
	})
	s.run(w)
	first := s.add("keyed", "first", offstage.Options{Key: "k"})
	<-started
	tx, err := s.pool.BeginTx(s.ctx(), pgx.TxOptions{})
	if err != nil {
		t.Fatal(err)
	}
	second, err := s.client.With(tx).Add(s.ctx(), "keyed", "second", offstage.Options{Key: "k"})
	if err != nil || second == first {
		t.Fatalf("add answered %d, %v", second, err)
	}
	close(finish)
	for i := range 20 { // meanwhile others come and go
		s.outcome(s.add("keyed", fmt.Sprint("other ", i)))
	}
	if st, err := s.client.Status(s.ctx(), first); err != nil || st.State != offstage.Running {
		t.Errorf("the held job is %+v, %v", st, err)
	}
	if err := tx.Commit(s.ctx()); err != nil {
		t.Fatal(err)
	}
	for _, id := range []int64{first, second} {
		if st := s.outcome(id); st.Outcome != offstage.OutcomeSucceeded {
			t.Errorf("job %d ended as %+v", id, st)
		}
	}
	s.empty()
}
