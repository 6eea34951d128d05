package worker_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/worker"
)

type none = struct{}

func TestResult(t *testing.T) {
	s := newStage(t)
	w := s.worker(worker.Config{})
	type sum struct{ A, B int }
	worker.Handle(w, "add", func(ctx context.Context, job *worker.Job[sum]) (map[string]int, error) {
		if job.Attempt != 1 || job.Task != "add" || job.MaxAttempts != 25 || job.Queue != "numbers" || job.Key != "k" || job.Priority != -3 {
			return nil, fmt.Errorf("job is %+v", job.Job)
		}
		worker.Log(ctx).Info("adding", "a", job.Payload.A)
		return map[string]int{"sum": job.Payload.A + job.Payload.B}, nil
	})
	s.run(w)
	id := s.add("add", sum{3, 4}, offstage.Options{Queue: "numbers", Key: "k", Priority: -3})
	got, err := offstage.Await[map[string]int](s.ctx(), s.client, id)
	if err != nil || got["sum"] != 7 {
		t.Fatalf("await answered %v, %v", got, err)
	}
	if got := s.log(id); !slices.Equal(got, []string{`1 info adding {"a":3}`}) {
		t.Errorf("the log is %q", got)
	}
	s.empty()
}

func TestEndings(t *testing.T) {
	s := newStage(t)
	boom := errors.New("boom")
	cases := map[string]struct {
		end      func(attempt int) error
		outcome  offstage.Outcome
		attempts int
		text     string
		history  []string
	}{
		"retries and succeeds": {func(n int) error {
			if n < 3 {
				return boom
			}
			return nil
		}, offstage.OutcomeSucceeded, 3, "", []string{"retried", "retried", "succeeded"}},
		"runs out of attempts": {func(int) error { return boom }, offstage.OutcomeFailed, 4, "boom", []string{"retried", "retried", "retried", "failed"}},
		"fails for good":       {func(int) error { return offstage.Fail(boom) }, offstage.OutcomeFailed, 1, "boom", []string{"failed"}},
		"cancels":              {func(int) error { return fmt.Errorf("wrapped: %w", offstage.Cancel(boom)) }, offstage.OutcomeCancelled, 1, "boom", []string{"cancelled"}},
		"retries when it says": {func(n int) error {
			if n == 1 {
				return offstage.RetryIn(0, boom)
			}
			return nil
		}, offstage.OutcomeSucceeded, 2, "", []string{"retried", "succeeded"}},
		"panics":           {func(int) error { panic("at the disco") }, offstage.OutcomeFailed, 4, "panic: at the disco", nil},
		"exits":            {func(int) error { runtime.Goexit(); return nil }, offstage.OutcomeFailed, 4, "Goexit", nil},
		"panics with nil":  {func(int) error { panic(nil) }, offstage.OutcomeFailed, 4, "panic", nil},
		"says odd things":  {func(int) error { return errors.New("nul \x00, bad \xff utf-8") }, offstage.OutcomeFailed, 4, "nul \uFFFD, bad \uFFFD utf-8", nil},
		"says very much":   {func(int) error { return errors.New(strings.Repeat("ä", 1<<20)) }, offstage.OutcomeFailed, 4, "ääää", nil},
		"joins its errors": {func(int) error { return errors.Join(boom, offstage.Fail(errors.New("worse"))) }, offstage.OutcomeFailed, 1, "worse", nil},
	}
	w := s.worker(worker.Config{Jobs: 3})
	for name, c := range cases {
		worker.Handle(w, name, func(ctx context.Context, job *worker.Job[none]) (none, error) { return none{}, c.end(job.Attempt) },
			worker.MaxAttempts(4), worker.Retry(worker.Fixed(time.Millisecond)))
	}
	s.run(w)
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			id := s.add(name, nil)
			st := s.outcome(id)
			if st.Outcome != c.outcome || st.Attempt != c.attempts || !strings.Contains(st.Error, c.text) || len(st.Error) > 17<<10 {
				t.Errorf("ended as %s after %d attempts with %.200q, expected %s after %d with %q", st.Outcome, st.Attempt, st.Error, c.outcome, c.attempts, c.text)
			}
			if got := s.history(id); c.history != nil && !slices.Equal(got, c.history) {
				t.Errorf("history is %v, expected %v", got, c.history)
			}
		})
	}
}

// A result of a megabyte is stored; what is larger fails the job at once, for it would be as large the next time.
func TestResultsHaveASize(t *testing.T) {
	s := newStage(t)
	w := s.worker(worker.Config{})
	worker.Handle(w, "returns", func(ctx context.Context, job *worker.Job[int]) (string, error) {
		return strings.Repeat("x", job.Payload-2), nil // and the quotes
	})
	worker.Handle(w, "completes", func(ctx context.Context, job *worker.Job[int]) (none, error) {
		tx, err := s.pool.Begin(ctx)
		if err != nil {
			return none{}, err
		}
		defer tx.Rollback(context.WithoutCancel(ctx))
		if err := worker.Complete(ctx, tx, strings.Repeat("x", job.Payload-2)); err != nil {
			return none{}, err
		}
		return none{}, tx.Commit(ctx)
	})
	s.run(w)
	for _, task := range []string{"returns", "completes"} {
		if st := s.outcome(s.add(task, worker.MaxResult)); st.Outcome != offstage.OutcomeSucceeded || len(st.Result) != worker.MaxResult {
			t.Errorf("%s: as large as may be: %s with %d bytes, %s", task, st.Outcome, len(st.Result), st.Error)
		}
		st := s.outcome(s.add(task, worker.MaxResult+1))
		if st.Outcome != offstage.OutcomeFailed || st.Attempt != 1 || !strings.Contains(st.Error, "the result has 1048577 bytes, and 1048576 are the most") {
			t.Errorf("%s: too large: %s after %d attempts, %s", task, st.Outcome, st.Attempt, st.Error)
		}
	}
}

func TestSnoozeSpendsNoAttempt(t *testing.T) {
	s := newStage(t)
	w := s.worker(worker.Config{})
	calls := make(chan int, 10)
	worker.Handle(w, "nap", func(ctx context.Context, job *worker.Job[none]) (none, error) {
		calls <- job.Attempt
		if len(calls) < 3 {
			return none{}, offstage.Snooze(10 * time.Millisecond)
		}
		return none{}, nil
	})
	s.run(w)
	id := s.add("nap", nil, offstage.Options{MaxAttempts: 1})
	if st := s.outcome(id); st.Outcome != offstage.OutcomeSucceeded || st.Attempt != 1 {
		t.Errorf("ended as %s in attempt %d", st.Outcome, st.Attempt)
	}
	if got := s.history(id); !slices.Equal(got, []string{"snoozed", "snoozed", "succeeded"}) {
		t.Errorf("history is %v", got)
	}
}

// A retry that is due starts on time, though the poll interval is long and nobody adds anything. The least late of some counts, for
// any of them may be held up by what else the machine does.
func TestRetryIsOnTime(t *testing.T) {
	s := newStage(t)
	w := s.worker(worker.Config{PollInterval: time.Hour})
	const delay = 700 * time.Millisecond
	times := make(chan time.Time, 2)
	worker.Handle(w, "late", func(ctx context.Context, job *worker.Job[none]) (none, error) {
		times <- time.Now()
		if job.Attempt == 1 {
			return none{}, errors.New("again")
		}
		return none{}, nil
	}, worker.Retry(worker.Fixed(delay)))
	s.run(w)
	least := time.Hour
	for range 5 {
		s.outcome(s.add("late", nil))
		first := <-times
		waited := (<-times).Sub(first)
		if waited < delay {
			t.Errorf("the second attempt started %v after the first, %v were asked for", waited, delay)
		}
		if least = min(least, waited); least < delay*2 {
			return
		}
	}
	t.Errorf("second attempts started %v after the first ones, or later; %v were asked for", least, delay)
}

func TestTimeout(t *testing.T) {
	s := newStage(t)
	w := s.worker(worker.Config{})
	worker.Handle(w, "slow", func(ctx context.Context, job *worker.Job[none]) (none, error) {
		<-ctx.Done()
		return none{}, ctx.Err()
	}, worker.Timeout(30*time.Millisecond), worker.MaxAttempts(1))
	s.run(w)
	byTask, byJob := s.add("slow", nil), s.add("slow", nil, offstage.Options{Timeout: 60 * time.Millisecond})
	for id, limit := range map[int64]string{byTask: "30ms", byJob: "60ms"} {
		if st := s.outcome(id); st.Outcome != offstage.OutcomeFailed || !strings.Contains(st.Error, "timed out after "+limit) {
			t.Errorf("ended as %s with %q", st.Outcome, st.Error)
		}
	}
}

func TestBatchKeepsWhatFailed(t *testing.T) {
	s := newStage(t)
	w := s.worker(worker.Config{})
	var seen []string
	worker.HandleBatch(w, "mails", func(ctx context.Context, job *worker.Job[[]string]) ([]error, error) {
		seen = append(seen, strings.Join(job.Payload, ","))
		errs := make([]error, len(job.Payload))
		for i, to := range job.Payload {
			if strings.HasPrefix(to, "bad") && job.Attempt == 1 {
				errs[i] = errors.New("no such address: " + to)
			}
		}
		return errs, nil
	}, worker.Retry(worker.Fixed(0)))
	s.run(w)
	id := s.add("mails", []string{"a", "bad1", "b", "bad2"})
	if st := s.outcome(id); st.Outcome != offstage.OutcomeSucceeded || st.Attempt != 2 {
		t.Errorf("ended as %+v", st)
	}
	if want := []string{"a,bad1,b,bad2", "bad1,bad2"}; !slices.Equal(seen, want) {
		t.Errorf("payloads were %q, expected %q", seen, want)
	}
	if got := one[string](s, "select error from offstage_private.history where job_id = $1 and outcome = 'retried'", id); got != "Batch failures:\nno such address: bad1\nno such address: bad2" {
		t.Errorf("error was %q", got)
	}
}

func TestCancelRunning(t *testing.T) {
	s := newStage(t)
	w := s.worker(worker.Config{})
	started := make(chan none)
	worker.Handle(w, "endless", func(ctx context.Context, job *worker.Job[none]) (none, error) {
		close(started)
		<-ctx.Done()
		if !errors.Is(context.Cause(ctx), offstage.ErrCancelled) {
			t.Errorf("the cause is %v", context.Cause(ctx))
		}
		return none{}, ctx.Err()
	})
	s.run(w)
	id := s.add("endless", nil)
	<-started
	cancelled, requested, err := s.client.Cancel(s.ctx(), "not needed any more", id)
	if err != nil || len(cancelled) != 0 || !slices.Equal(requested, []int64{id}) {
		t.Fatalf("cancel answered %v, %v, %v", cancelled, requested, err)
	}
	if st := s.outcome(id); st.Outcome != offstage.OutcomeCancelled || !strings.Contains(st.Error, "not needed any more") {
		t.Errorf("ended as %s with %q", st.Outcome, st.Error)
	}
	s.empty()
}

func TestExpiredIsNotStarted(t *testing.T) {
	s := newStage(t)
	id := s.add("old", nil, offstage.Options{ExpiresAt: time.Now().Add(-time.Second)})
	w := s.worker(worker.Config{})
	worker.Handle(w, "old", func(context.Context, *worker.Job[none]) (none, error) {
		t.Error("an expired job was started")
		return none{}, nil
	})
	s.run(w)
	if st := s.outcome(id); st.Outcome != offstage.OutcomeCancelled || !strings.Contains(st.Error, "expired") {
		t.Errorf("ended as %s with %q", st.Outcome, st.Error)
	}
}

func TestPayloadThatDoesNotFit(t *testing.T) {
	s := newStage(t)
	w := s.worker(worker.Config{})
	worker.Handle(w, "typed", func(context.Context, *worker.Job[struct{ N int }]) (none, error) { return none{}, nil }, worker.MaxAttempts(1))
	s.run(w)
	id := s.add("typed", json.RawMessage(`{"N":"text"}`))
	if st := s.outcome(id); st.Outcome != offstage.OutcomeFailed || !strings.Contains(st.Error, "does not fit") {
		t.Errorf("ended as %s with %q", st.Outcome, st.Error)
	}
}

// What a handler writes, and the end of its job, become true together.
func TestComplete(t *testing.T) {
	s := newStage(t)
	s.exec("create schema app")
	s.exec("create table app.done (job_id bigint)")
	w := s.worker(worker.Config{})
	worker.Handle(w, "transfer", func(ctx context.Context, job *worker.Job[string]) (none, error) {
		tx, err := s.pool.Begin(ctx)
		if err != nil {
			return none{}, err
		}
		defer tx.Rollback(ctx)
		if _, err := tx.Exec(ctx, "insert into app.done values ($1)", job.ID); err != nil {
			return none{}, err
		}
		if err := worker.Complete(ctx, tx, map[string]bool{"ok": true}); err != nil {
			return none{}, err
		}
		if job.Payload == "roll back" && job.Attempt == 1 {
			return none{}, errors.New("rolled back")
		}
		if err := tx.Commit(ctx); err != nil {
			return none{}, err
		}
		if job.Payload == "fail after commit" {
			return none{}, errors.New("too late to fail")
		}
		return none{}, nil
	}, worker.Retry(worker.Fixed(time.Millisecond)))
	s.run(w)
	for _, kind := range []string{"plain", "roll back", "fail after commit", "plain"} {
		id := s.add("transfer", kind, offstage.Options{Queue: "bank"})
		got, err := offstage.Await[map[string]bool](s.ctx(), s.client, id)
		if err != nil || !got["ok"] {
			t.Errorf("%s: await answered %v, %v", kind, got, err)
		}
		if n := one[int](s, "select count(*) from app.done where job_id = $1", id); n != 1 {
			t.Errorf("%s: %d rows were written", kind, n)
		}
	}
	s.eventually(func() bool {
		return one[int](s, "select coalesce(sum(cardinality(claims)), 0) from offstage_private.queue_state") == 0
	}, "the queue's slot was not freed")
	s.empty()
}

func TestMiddleware(t *testing.T) {
	s := newStage(t)
	var order []string
	wrap := func(name string) func(worker.Handler) worker.Handler {
		return func(next worker.Handler) worker.Handler {
			return func(ctx context.Context, job *offstage.Job) (json.RawMessage, error) {
				order = append(order, name)
				return next(ctx, job)
			}
		}
	}
	w := s.worker(worker.Config{Middleware: []func(worker.Handler) worker.Handler{wrap("outer"), wrap("inner")}})
	worker.Handle(w, "wrapped", func(context.Context, *worker.Job[none]) (none, error) {
		order = append(order, "handler")
		return none{}, nil
	})
	s.run(w)
	s.outcome(s.add("wrapped", nil))
	if want := []string{"outer", "inner", "handler"}; !slices.Equal(order, want) {
		t.Errorf("order was %v, expected %v", order, want)
	}
}

func TestProgress(t *testing.T) {
	s := newStage(t)
	w := s.worker(worker.Config{})
	reported, finish := make(chan none), make(chan none)
	worker.Handle(w, "long", func(ctx context.Context, job *worker.Job[none]) (none, error) {
		err := worker.Progress(ctx, 40, "two of five")
		close(reported)
		<-finish
		return none{}, err
	})
	s.run(w)
	id := s.add("long", nil)
	<-reported
	s.eventually(func() bool {
		st, err := s.client.Status(s.ctx(), id)
		return err == nil && st.State == offstage.Running && st.Progress != nil && *st.Progress == 40 && st.Message == "two of five"
	}, "the progress cannot be seen")
	close(finish)
	s.outcome(id)
}

func TestNotifyChannel(t *testing.T) {
	s := newStage(t)
	conn, err := pgx.Connect(s.ctx(), s.db.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(s.ctx())
	if _, err := conn.Exec(s.ctx(), `listen "postgraphile:job:1"`); err != nil {
		t.Fatal(err)
	}
	w := s.worker(worker.Config{})
	worker.Handle(w, "tell", func(context.Context, *worker.Job[none]) (none, error) { return none{}, nil })
	s.run(w)
	id := s.add("tell", nil, offstage.Options{NotifyChannel: "postgraphile:job:1", NotifyNode: []any{"JobRequest", 17}})
	n, err := conn.WaitForNotification(s.ctx())
	want := fmt.Sprintf(`{"event":"job:complete","subject":"%d","id":"%d","outcome":"succeeded","__node__":["JobRequest",17]}`, id, id)
	if err != nil || n.Payload != want {
		t.Errorf("the event is %v, %v; expected %s", n, err, want)
	}
}
