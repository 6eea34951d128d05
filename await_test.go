package offstage_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/internal/pgtest"
	"github.com/offstage-dev/offstage/worker"
)

// awaiting are the connections that listen for "offstage:settled", and look.
const awaiting = `datname = current_database() and pid <> pg_catalog.pg_backend_pid()
	and (query = 'listen "offstage:settled"' or query like 'select % from offstage.job_outcomes%' or query like 'select offstage.await_jobs%')`

func (s *stage) listening() int {
	return one[int](s, `select count(*) from pg_catalog.pg_stat_activity where `+awaiting)
}

// awaited waits until somebody is known to wait for the job.
func (s *stage) awaited(id int64) {
	s.t.Helper()
	pgtest.Eventually(s.t, 20*time.Second, func() bool {
		return s.listening() > 0 && one[bool](s, "select exists (select from offstage_private.waiter where job_id = $1)", id)
	})
}

// Who need not wait makes no connection.
func TestAwaitWhatHasEndedDoesNotListen(t *testing.T) {
	var connections atomic.Int32
	s := newStage(t, func(c *pgxpool.Config) {
		c.MaxConns = 1
		c.BeforeConnect = func(context.Context, *pgx.ConnConfig) error { connections.Add(1); return nil }
	})
	id := s.add("t", nil)
	s.exec("select offstage.complete_jobs(array[$1::bigint])", id)
	for range 20 {
		var ended *offstage.EndedError
		if _, err := offstage.Await[any](s.ctx(), s.client, id); !errors.As(err, &ended) {
			t.Fatal(err)
		}
	}
	if n := connections.Load(); n != 1 {
		t.Errorf("%d connections were made, expected the pool's only", n)
	}
}

type answer[T any] struct {
	result T
	err    error
	at     time.Time
}

func await[T any](s *stage, id int64) <-chan answer[T] {
	ch := make(chan answer[T], 1)
	ctx := s.ctx()
	go func() {
		result, err := offstage.Await[T](ctx, s.client, id)
		ch <- answer[T]{result, err, time.Now()}
	}()
	return ch
}

func TestAwaitWhatHasEnded(t *testing.T) {
	s := newStage(t)
	h := s.hands("t")
	type sum struct{ Total int }
	id, without := s.add("t", nil), s.add("t", nil)
	h.claim(9)
	h.succeed(id, `{"Total":7}`)
	h.succeed(without, "")
	if got, err := offstage.Await[sum](s.ctx(), s.client, id); err != nil || got.Total != 7 {
		t.Errorf("await answered %+v, %v", got, err)
	}
	if got, err := offstage.Await[*sum](s.ctx(), s.client, without); err != nil || got != nil {
		t.Errorf("a job without a result: %+v, %v", got, err)
	}
	if got, err := offstage.Await[json.RawMessage](s.ctx(), s.client, id); err != nil || string(got) != `{"Total":7}` {
		t.Errorf("as it stands: %s, %v", got, err)
	}
	var misfit *json.UnmarshalTypeError
	if _, err := offstage.Await[[]string](s.ctx(), s.client, id); !errors.As(err, &misfit) || !strings.Contains(err.Error(), "does not fit []string") {
		t.Errorf("another type: %v", err)
	}
}

func TestAwaitWhatEndsMeanwhile(t *testing.T) {
	s := newStage(t)
	h := s.hands("t")
	id := s.add("t", nil)
	got := await[string](s, id)
	s.awaited(id)
	h.claim(1)
	ended := time.Now()
	h.succeed(id, `"done"`)
	a := <-got
	if a.err != nil || a.result != "done" {
		t.Errorf("await answered %q, %v", a.result, a.err)
	}
	if late := a.at.Sub(ended); late > 2*time.Second {
		t.Errorf("it was told %v after the end", late)
	}
}

// Every end that is not a success is an error that says which, told to those who wait and to those who come later.
func TestAwaitWhatDoesNotSucceed(t *testing.T) {
	s := newStage(t)
	h := s.hands("t")
	for _, c := range []struct {
		outcome offstage.Outcome
		reason  string
		end     func(id int64)
	}{
		{offstage.OutcomeFailed, "it broke", func(id int64) { h.claim(1); h.end(id, "fail", "it broke") }},
		{offstage.OutcomeFailed, "by hand", func(id int64) {
			s.exec("select offstage.permanently_fail_jobs(array[$1::bigint], 'by hand')", id)
		}},
		{offstage.OutcomeCancelled, "by its handler", func(id int64) { h.claim(1); h.end(id, "cancel", "by its handler") }},
		{offstage.OutcomeCancelled, "not needed", func(id int64) {
			if _, _, err := s.client.Cancel(s.ctx(), "not needed", id); err != nil {
				t.Error(err)
			}
		}},
		{offstage.OutcomeRemoved, "", func(id int64) { s.exec("select offstage.remove_job('key')") }},
		{offstage.OutcomeCompleted, "", func(id int64) { s.exec("select offstage.complete_jobs(array[$1::bigint])", id) }},
	} {
		id := s.add("t", nil, offstage.Options{Key: "key", Keep: "none"})
		waits := await[string](s, id)
		s.awaited(id)
		c.end(id)
		during := (<-waits).err
		_, after := offstage.Await[string](s.ctx(), s.client, id)
		for when, err := range map[string]error{"during": during, "after": after} {
			var ended *offstage.EndedError
			if !errors.As(err, &ended) || ended.JobID != id || ended.Outcome != c.outcome || ended.Reason != c.reason {
				t.Errorf("%s, awaited %s: %v", c.outcome, when, err)
				continue
			}
			if want := strings.TrimSuffix(fmt.Sprintf("job %d %s: %s", id, c.outcome, c.reason), ": "); err.Error() != want {
				t.Errorf("the error reads %q, expected %q", err, want)
			}
		}
	}
}

func TestAwaitUnknown(t *testing.T) {
	s := newStage(t)
	if _, err := offstage.Await[any](s.ctx(), s.client, 404); !errors.Is(err, offstage.ErrNotFound) || !strings.Contains(err.Error(), "job 404") {
		t.Errorf("await: %v", err)
	}
	// Also when the job goes without a trace while somebody has been waiting.
	id := s.add("t", nil)
	waits := await[any](s, id)
	s.awaited(id)
	s.exec("with j as (delete from offstage_private.job where id = $1 returning 1) delete from offstage_private.ticket using j where job_id = $1", id)
	if a := <-waits; !errors.Is(a.err, offstage.ErrNotFound) {
		t.Errorf("await: %v", a.err)
	}
}

func TestAwaitGivesUpWithItsContext(t *testing.T) {
	s := newStage(t)
	id := s.add("t", nil)
	ctx, cancel := context.WithCancel(s.ctx())
	defer cancel()
	waits := make(chan error, 1)
	go func() {
		_, err := offstage.Await[any](ctx, s.client, id)
		waits <- err
	}()
	s.awaited(id)
	cancel()
	if err := <-waits; !errors.Is(err, context.Canceled) {
		t.Errorf("await: %v", err)
	}
	if _, err := offstage.Await[any](ctx, s.client, id); !errors.Is(err, context.Canceled) {
		t.Errorf("with an ended context: %v", err)
	}
	short, end := context.WithTimeout(s.ctx(), time.Millisecond)
	defer end()
	if _, err := offstage.Await[any](short, s.client, id); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("with a deadline: %v", err)
	}
	pgtest.Eventually(t, 20*time.Second, func() bool { return s.listening() == 0 })
}

// Inside a transaction Await would wait for itself; it looks from outside instead.
func TestAwaitIsOutsideOfTransactions(t *testing.T) {
	s := newStage(t)
	h := s.hands("t")
	id := s.add("t", nil)
	h.claim(1)
	tx, err := s.pool.Begin(s.ctx())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(s.ctx())
	h.succeed(id, `1`)
	if got, err := offstage.Await[int](s.ctx(), s.client.With(tx), id); err != nil || got != 1 {
		t.Errorf("await answered %d, %v", got, err)
	}
	inside, err := s.client.With(tx).Add(s.ctx(), "t", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := offstage.Await[any](s.ctx(), s.client.With(tx), inside); !errors.Is(err, offstage.ErrNotFound) {
		t.Errorf("a job that is not committed: %v", err)
	}
}

// A hundred awaits of one client have one connection, which is gone when the last of them is.
func TestAwaitsShareAConnection(t *testing.T) {
	s := newStage(t, func(c *pgxpool.Config) { c.MaxConns = 5 })
	h := s.hands("t")
	const n = 100
	var waits []<-chan answer[int]
	var ids []int64
	for range n / 2 {
		id := s.add("t", nil)
		ids = append(ids, id)
		waits = append(waits, await[int](s, id), await[int](s, id)) // two for each job
	}
	pgtest.Eventually(t, 20*time.Second, func() error {
		if got := one[int](s, "select count(*) from offstage_private.waiter"); got != n/2 {
			return fmt.Errorf("%d jobs are awaited, expected %d", got, n/2)
		}
		if got := s.listening(); got != 1 {
			return fmt.Errorf("%d connections listen", got)
		}
		return nil
	})
	if got := h.claim(n); len(got) != n/2 {
		t.Fatalf("claimed %d jobs", len(got))
	}
	for i, id := range ids {
		h.succeed(id, fmt.Sprint(i))
	}
	for i, w := range waits {
		if a := <-w; a.err != nil || a.result != i/2 {
			t.Errorf("await %d answered %d, %v", i, a.result, a.err)
		}
	}
	pgtest.Eventually(t, 20*time.Second, func() bool { return s.listening() == 0 })
}

// History does not keep the job, except for whom it concerns.
func TestAwaitWithoutHistory(t *testing.T) {
	s := newStage(t)
	h := s.hands("t")
	awaited, other := s.add("t", nil, offstage.Options{Keep: "none"}), s.add("t", nil, offstage.Options{Keep: "none"})
	got := await[string](s, awaited)
	s.awaited(awaited)
	h.claim(2)
	h.succeed(other, `"lost"`)
	h.succeed(awaited, `"kept"`)
	if a := <-got; a.err != nil || a.result != "kept" {
		t.Errorf("await answered %q, %v", a.result, a.err)
	}
	if _, err := offstage.Await[string](s.ctx(), s.client, other); !errors.Is(err, offstage.ErrNotFound) || !strings.Contains(err.Error(), `add it with keep "all"`) {
		t.Errorf("the other one: %v", err)
	}
	// The same when the handler's own transaction has ended it.
	gone := s.add("t", nil, offstage.Options{Keep: "none"})
	h.claim(1)
	if ok := one[bool](s, "select offstage.finish($1, $2, $3)", h.worker, h.claims[gone], gone); !ok {
		t.Fatal("the claim is gone")
	}
	if _, err := offstage.Await[string](s.ctx(), s.client, gone); !errors.Is(err, offstage.ErrNotFound) || !strings.Contains(err.Error(), `add it with keep "all"`) {
		t.Errorf("the one that its handler ended: %v", err)
	}
}

func TestAwaitOutlivesItsConnection(t *testing.T) {
	s := newStage(t)
	h := s.hands("t")
	ids := []int64{s.add("t", nil), s.add("t", nil)}
	first, second := await[int](s, ids[0]), await[int](s, ids[1])
	s.awaited(ids[0])
	h.claim(2)
	super := s.db.SuperPool(t)
	if _, err := super.Exec(s.ctx(), `select pg_catalog.pg_terminate_backend(pid) from pg_catalog.pg_stat_activity
		where `+awaiting); err != nil {
		t.Fatal(err)
	}
	h.succeed(ids[0], "1") // perhaps nobody listens just now
	if a := <-first; a.err != nil || a.result != 1 {
		t.Errorf("await answered %d, %v", a.result, a.err)
	}
	pgtest.Eventually(t, 20*time.Second, func() bool { return s.listening() == 1 })
	h.succeed(ids[1], "2")
	ended := time.Now()
	if a := <-second; a.err != nil || a.result != 2 || a.at.Sub(ended) > 2*time.Second {
		t.Errorf("await answered %d, %v, %v after the end", a.result, a.err, a.at.Sub(ended))
	}
}

// Close ends the connection under those who still wait: they look by themselves.
func TestAwaitOutlivesClose(t *testing.T) {
	s := newStage(t)
	h := s.hands("t")
	id := s.add("t", nil)
	got := await[int](s, id)
	s.awaited(id)
	s.client.Close()
	pgtest.Eventually(t, 20*time.Second, func() bool { // no connection but the pool's
		return one[int](s, "select count(*) from pg_catalog.pg_stat_activity where datname = current_database() and application_name = $1", t.Name()) == int(s.pool.Stat().TotalConns())
	})
	h.claim(1)
	h.succeed(id, "3")
	if a := <-got; a.err != nil || a.result != 3 {
		t.Errorf("await answered %d, %v", a.result, a.err)
	}
}

// All clients of a pool have one connection, until the last one is closed.
func TestAwaitThroughSeveralClients(t *testing.T) {
	s := newStage(t)
	h := s.hands("t")
	second, err := offstage.New(s.pool, offstage.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	ids := []int64{s.add("t", nil), s.add("t", nil)}
	first := await[int](s, ids[0])
	s.awaited(ids[0])
	other := *s
	other.client = second
	also := await[int](&other, ids[1])
	s.awaited(ids[1])
	if n := s.listening(); n != 1 {
		t.Errorf("%d connections listen, expected one", n)
	}
	second.Close()
	second.Close() // does nothing more
	h.claim(9)
	h.succeed(ids[0], "1")
	h.succeed(ids[1], "2")
	for i, a := range []answer[int]{<-first, <-also} {
		if a.err != nil || a.result != i+1 {
			t.Errorf("await answered %d, %v", a.result, a.err)
		}
	}
	id := s.add("t", nil)
	again := await[int](s, id)
	s.awaited(id) // listening still
	h.claim(9)
	h.succeed(id, "3")
	if a := <-again; a.err != nil || a.result != 3 {
		t.Errorf("await answered %d, %v", a.result, a.err)
	}
}

// Who awaits one job after another keeps one connection.
func TestAwaitOneAfterAnother(t *testing.T) {
	s := newStage(t)
	h := s.hands("t")
	first := 0
	for i, began := 0, time.Now(); i < 3 || time.Since(began) < 2*time.Second; i++ {
		id := s.add("t", nil)
		got := await[int](s, id)
		s.awaited(id)
		h.claim(1)
		h.succeed(id, "1")
		if a := <-got; a.err != nil {
			t.Fatal(a.err)
		}
		pid := one[int](s, `select coalesce(min(pid), 0) from pg_catalog.pg_stat_activity where `+awaiting)
		if first == 0 {
			first = pid
		}
		if pid != first || pid == 0 {
			t.Fatalf("connection %d listens after await %d, and %d did after the first", pid, i+1, first)
		}
	}
}

// Jobs end at random moments around those at which somebody begins to wait: at every one of them the end must be
// either seen or told.
func TestNoAwaitHangs(t *testing.T) {
	s := newStage(t, func(c *pgxpool.Config) { c.MaxConns = 12 })
	w, err := worker.New(s.pool, worker.Config{Jobs: 100})
	if err != nil {
		t.Fatal(err)
	}
	const n, jobs = 2000, 200
	var mu sync.Mutex
	ended := map[int64]time.Time{}
	worker.Handle(w, "t", func(ctx context.Context, job *worker.Job[time.Duration]) (int64, error) {
		timer := time.NewTimer(job.Payload)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
		mu.Lock()
		defer mu.Unlock()
		ended[job.ID] = time.Now()
		return job.ID, nil
	})
	ctx, stop := context.WithCancel(s.ctx())
	ran := make(chan error)
	go func() { ran <- w.Run(ctx) }()

	var late []time.Duration
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for round := range n / jobs {
		specs := make([]offstage.Spec, jobs)
		for i := range specs {
			specs[i] = offstage.Spec{Task: "t", Payload: time.Duration(random.Int64N(int64(100 * time.Millisecond)))}
			if i%2 == 0 {
				specs[i].Key = fmt.Sprint("key ", round, i) // settled in another way
			}
		}
		ids, err := s.client.AddMany(s.ctx(), specs)
		if err != nil {
			t.Fatal(err)
		}
		var waits []<-chan answer[int64]
		for _, id := range ids {
			waits = append(waits, await[int64](s, id))
		}
		for i, w := range waits {
			a := <-w
			if a.err != nil || a.result != ids[i] {
				t.Fatalf("job %d: await answered %d, %v", ids[i], a.result, a.err)
			}
			mu.Lock()
			late = append(late, a.at.Sub(ended[a.result]))
			mu.Unlock()
		}
	}
	slices.Sort(late)
	t.Logf("told after %v (median), %v (p99), %v (worst)", late[n/2], late[n*99/100], late[n-1])
	if late[n-1] > 2*time.Second {
		t.Errorf("somebody was told %v after the end of his job", late[n-1])
	}
	stop()
	if err := <-ran; err != nil {
		t.Error(err)
	}
}
