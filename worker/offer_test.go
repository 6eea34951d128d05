package worker_test

import (
	"context"
	"encoding/json"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/internal/pgtest"
	"github.com/offstage-dev/offstage/worker"
)

// offered waits until so many workers offer a slot.
func (s *stage) offered(n int) {
	s.t.Helper()
	s.eventually(func() bool { return one[int](s, "select count(*) from offstage_private.offer where open") == n }, "the worker offers nothing")
}

// A job that is added while the worker sleeps is claimed by who adds it, and its handler cannot tell.
func TestOffer(t *testing.T) {
	s := newStage(t)
	type told struct {
		offstage.Job
		Deadline time.Duration
	}
	ran := make(chan told, 10)
	w := s.worker(worker.Config{Jobs: 2, PollInterval: time.Hour})
	worker.Handle(w, "a", func(ctx context.Context, job *worker.Job[json.RawMessage]) (none, error) {
		deadline, _ := ctx.Deadline()
		ran <- told{*job.Job, time.Until(deadline).Round(time.Second)}
		return none{}, nil
	}, worker.MaxAttempts(3))
	s.run(w)
	s.exec("create table public.by_adder (job_id bigint)")
	s.exec(`create function public.note() returns trigger language plpgsql as $$
		begin
		  if pg_catalog.current_setting('test.adds', true) = 'yes' then insert into public.by_adder values (new.job_ids[1]); end if;
		  return null;
		end $$`)
	s.exec("create trigger note after insert on offstage_private.lease for each row execute function public.note()")
	for _, options := range []offstage.Options{{}, {Timeout: time.Minute, MaxAttempts: 7, Priority: -5, RunAt: time.Now().Add(-time.Hour).Round(time.Microsecond), Traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}} {
		var seen []string
		for i := range 6 {
			s.offered(1)
			tx, err := s.pool.Begin(s.ctx())
			if err != nil {
				t.Fatal(err)
			}
			offer := i%2 == 0
			if !offer { // somebody else has it
				pgtest.Do(t, tx, "update offstage_private.offer set open = false, job_id = null")
			}
			pgtest.Do(t, tx, "set local test.adds = 'yes'")
			id, err := s.client.With(tx).Add(s.ctx(), "a", map[string]any{"text": "it's \"odd\": ü\n\t\\", "n": 1.5}, options)
			if err == nil {
				err = tx.Commit(s.ctx())
			}
			if err != nil {
				t.Fatal(err)
			}
			got := <-ran
			if st := s.outcome(id); st.Outcome != offstage.OutcomeSucceeded || got.ID != id {
				t.Fatalf("job %d: %+v", id, st)
			}
			if taken := one[int](s, "select count(*) from public.by_adder where job_id = $1", id) == 1; taken != offer {
				t.Errorf("job %d was claimed by who added it: %t", id, taken)
			}
			if !offer {
				s.exec("update offstage_private.offer set open = true, job_id = null")
			}
			if age := time.Since(got.AddedAt); age < 0 || age > time.Minute || options.RunAt.IsZero() && !got.RunAt.Equal(got.AddedAt) {
				t.Errorf("added at %v, to be run at %v", got.AddedAt, got.RunAt)
			}
			got.ID, got.AddedAt = 0, time.Time{}
			if options.RunAt.IsZero() {
				got.RunAt = time.Time{}
			}
			got.RunAt = got.RunAt.UTC()
			text, err := json.Marshal(got)
			if err != nil {
				t.Fatal(err)
			}
			seen = append(seen, string(text))
		}
		if slices.Sort(seen); seen[0] != seen[5] {
			t.Errorf("handlers are told\n%s\nand\n%s", seen[0], seen[5])
		}
	}
	if n := one[int](s, "select count(*) from offstage_private.history where outcome <> 'succeeded'"); n != 0 {
		t.Errorf("%d jobs did not succeed at once", n)
	}
}

// A notification that is lost delays its job by two heartbeats; one that comes too late starts nothing.
func TestOfferOfWhichNobodyHears(t *testing.T) {
	s := newStage(t)
	var ran atomic.Int32
	w := s.worker(worker.Config{Jobs: 2, PollInterval: time.Hour})
	worker.Handle(w, "a", func(context.Context, *worker.Job[none]) (none, error) { ran.Add(1); return none{}, nil })
	s.run(w)
	s.offered(1)
	channel := one[string](s, "select channel from offstage_private.offer")
	s.exec("update offstage_private.offer set channel = 'nobody'")
	other := s.db.Conn(t)
	if _, err := other.Exec(s.ctx(), "listen nobody"); err != nil {
		t.Fatal(err)
	}
	id := s.add("a", nil)
	late, err := other.WaitForNotification(s.ctx())
	if err != nil {
		t.Fatal(err)
	}
	if st := s.outcome(id); st.Outcome != offstage.OutcomeSucceeded || st.Attempt != 1 {
		t.Errorf("the job: %+v", st)
	}
	s.offered(1)
	s.exec("select pg_catalog.pg_notify($1, $2)", channel, late.Payload)
	s.outcome(s.add("a", nil))
	if n := ran.Load(); n != 2 {
		t.Errorf("two jobs ran %d times", n)
	}
	for _, bad := range []string{"", "{}", `{"claim": "x"}`, `{"claim": 1, "job_id": 1, "task_id": 1, "payload": {}}`} {
		s.exec("select pg_catalog.pg_notify($1, $2)", channel, bad)
	}
	s.outcome(s.add("a", nil))
}

// A worker whose slots are taken offers none: the next job runs elsewhere at once.
func TestOfferNeedsSlot(t *testing.T) {
	s := newStage(t)
	started := make(chan int, 10)
	letGo := make(chan none)
	for i := range 2 {
		w := s.worker(worker.Config{Jobs: 2, PollInterval: time.Hour})
		worker.Handle(w, "a", func(context.Context, *worker.Job[none]) (none, error) {
			started <- i
			<-letGo
			return none{}, nil
		})
		s.run(w)
	}
	count := map[int]int{}
	s.offered(2)
	var ids []int64
	for range 4 {
		ids = append(ids, s.add("a", nil))
		count[<-started]++
	}
	if count[0] != 2 || count[1] != 2 {
		t.Errorf("of four jobs the workers run %v", count)
	}
	s.offered(0)
	waiting := s.add("a", nil)
	// An offer that was just being made is taken back; what it has brought is given back.
	s.eventually(func() bool {
		return one[int](s, "select count(*) from offstage_private.ticket where job_id = $1", waiting) == 1
	},
		"a job was given to a worker that has no slot")
	close(letGo)
	for _, id := range append(ids, waiting) {
		if st := s.outcome(id); st.Attempt != 1 {
			t.Errorf("job %d: %+v", id, st)
		}
	}
}

// A worker stops while a transaction that has taken its offer is open, commits, or has just committed: the job is run once, by this
// worker or by the next.
func TestOfferWhileStopping(t *testing.T) {
	s := newStage(t)
	var runs [15]atomic.Int32
	start := func() (stop func() error) {
		w := s.worker(worker.Config{PollInterval: time.Hour})
		worker.Handle(w, "a", func(_ context.Context, job *worker.Job[struct{ N int }]) (none, error) {
			runs[job.Payload.N].Add(1)
			return none{}, nil
		})
		stop = s.run(w)
		s.offered(1)
		return stop
	}
	for n := range runs {
		stop := start()
		tx, err := s.pool.Begin(s.ctx())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.client.With(tx).Add(s.ctx(), "a", map[string]int{"N": n}); err != nil {
			t.Fatal(err)
		}
		var took bool
		if err := tx.QueryRow(s.ctx(), "select bool_or(job_id is not null and not open) from offstage_private.offer").Scan(&took); err != nil || !took {
			t.Fatalf("the transaction has not taken the offer: %v", err)
		}
		committed := make(chan error, 1)
		commit := func() { committed <- tx.Commit(s.ctx()) }
		if n%3 == 1 {
			go commit()
		} else if n%3 == 2 {
			commit()
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		if n%3 == 0 {
			commit()
		}
		if err := <-committed; err != nil {
			t.Fatal(err)
		}
	}
	start()
	s.eventually(func() bool { return one[int](s, "select count(*) from offstage_private.job") == 0 }, "jobs are left")
	for i := range runs {
		if r := runs[i].Load(); r != 1 {
			t.Errorf("job %d ran %d times", i, r)
		}
	}
	if n := one[int](s, "select count(*) from offstage_private.history where outcome not in ('succeeded', 'released')"); n != 0 {
		t.Errorf("%d entries tell of something else", n)
	}
}
