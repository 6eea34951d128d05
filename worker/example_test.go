package worker_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/internal/pgtest"
	"github.com/offstage-dev/offstage/worker"
)

// Payload and result are types of yours. They are stored as JSON.
func ExampleHandle() {
	ctx := context.Background()
	pool, client, done := connect() // yours: pgxpool.New and offstage.New
	defer done()

	type Order struct {
		Items []string
	}
	type Receipt struct {
		Number int
		Text   string
	}
	w, err := worker.New(pool, worker.Config{Jobs: 20})
	if err != nil {
		panic(err)
	}
	worker.Handle(w, "bill", func(ctx context.Context, job *worker.Job[Order]) (Receipt, error) {
		worker.Log(ctx).Info("billing", "items", len(job.Payload.Items)) // kept with the attempt, in history
		return Receipt{Number: 17, Text: strings.Join(job.Payload.Items, " and ")}, nil
	}, worker.Timeout(time.Minute), worker.MaxAttempts(5))

	id, err := client.Add(ctx, "bill", Order{Items: []string{"tea", "milk"}})
	if err != nil {
		panic(err)
	}
	if err := w.RunOnce(ctx); err != nil {
		panic(err)
	}
	receipt, err := offstage.Await[Receipt](ctx, client, id)
	if err != nil {
		panic(err)
	}
	fmt.Printf("%d: %s\n", receipt.Number, receipt.Text)
	// Output: 17: tea and milk
}

// The money is moved and the job is done, or neither: a crash between the two cannot move it twice.
func ExampleComplete() {
	ctx := context.Background()
	pool, client, done := connect()
	defer done()
	if _, err := pool.Exec(ctx, "create table public.account (owner text, balance int)"); err != nil {
		panic(err)
	}
	if _, err := pool.Exec(ctx, "insert into public.account values ('ada', 100)"); err != nil {
		panic(err)
	}

	type Deposit struct {
		Owner  string
		Amount int
	}
	w, err := worker.New(pool, worker.Config{})
	if err != nil {
		panic(err)
	}
	worker.Handle(w, "deposit", func(ctx context.Context, job *worker.Job[Deposit]) (struct{}, error) {
		tx, err := pool.Begin(ctx)
		if err != nil {
			return struct{}{}, err
		}
		defer tx.Rollback(ctx)
		var balance int
		err = tx.QueryRow(ctx, "update public.account set balance = balance + $2 where owner = $1 returning balance",
			job.Payload.Owner, job.Payload.Amount).Scan(&balance)
		if err != nil {
			return struct{}{}, err
		}
		if err := worker.Complete(ctx, tx, balance); err != nil {
			return struct{}{}, err // the claim is lost: somebody else does the job, and nothing has happened here
		}
		return struct{}{}, tx.Commit(ctx)
	})

	id, err := client.Add(ctx, "deposit", Deposit{"ada", 20})
	if err != nil {
		panic(err)
	}
	if err := w.RunOnce(ctx); err != nil {
		panic(err)
	}
	balance, err := offstage.Await[int](ctx, client, id)
	if err != nil {
		panic(err)
	}
	fmt.Println("the balance is", balance)
	// Output: the balance is 120
}

// A batch job answers for each of its elements. Those that failed are its payload when it is tried again.
func ExampleHandleBatch() {
	ctx := context.Background()
	pool, client, done := connect()
	defer done()

	w, err := worker.New(pool, worker.Config{})
	if err != nil {
		panic(err)
	}
	worker.HandleBatch(w, "send_emails", func(ctx context.Context, job *worker.Job[[]string]) ([]error, error) {
		errs := make([]error, len(job.Payload))
		for i, to := range job.Payload {
			if to == "busy@example.com" && job.Attempt == 1 {
				errs[i] = errors.New(to + ": mailbox is busy")
				continue
			}
			fmt.Printf("attempt %d: %s\n", job.Attempt, to)
		}
		return errs, nil
	}, worker.Retry(worker.Fixed(0)))

	if _, err := client.Add(ctx, "send_emails", []string{"ada@example.com", "busy@example.com", "bob@example.com"}); err != nil {
		panic(err)
	}
	if err := w.RunOnce(ctx); err != nil {
		panic(err)
	}
	// Output:
	// attempt 1: ada@example.com
	// attempt 1: bob@example.com
	// attempt 2: busy@example.com
}

// Middleware sees every attempt of every task: the place for traces, metrics, and values in the context.
func ExampleConfig_middleware() {
	ctx := context.Background()
	pool, client, done := connect()
	defer done()

	report := func(next worker.Handler) worker.Handler {
		return func(ctx context.Context, job *offstage.Job) (json.RawMessage, error) {
			fmt.Printf("%s, attempt %d of %d\n", job.Task, job.Attempt, job.MaxAttempts)
			result, err := next(ctx, job)
			fmt.Printf("%s, result %s, error %v\n", job.Task, result, err)
			return result, err
		}
	}
	w, err := worker.New(pool, worker.Config{Middleware: []func(worker.Handler) worker.Handler{report}})
	if err != nil {
		panic(err)
	}
	worker.Handle(w, "double", func(ctx context.Context, job *worker.Job[int]) (int, error) {
		return 2 * job.Payload, nil
	})

	if _, err := client.Add(ctx, "double", 21, offstage.Options{MaxAttempts: 3}); err != nil {
		panic(err)
	}
	if err := w.RunOnce(ctx); err != nil {
		panic(err)
	}
	// Output:
	// double, attempt 1 of 3
	// double, result 42, error <nil>
}

// Run ends with its context. What runs then may finish; only when all results are written does Run return.
func ExampleWorker_Run() {
	pool, client, done := connect()
	defer done()
	// Yours: signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	ctx, stop := context.WithCancel(context.Background())

	w, err := worker.New(pool, worker.Config{StopGrace: 20 * time.Second})
	if err != nil {
		panic(err)
	}
	worker.Handle(w, "shut_down", func(context.Context, *worker.Job[struct{}]) (string, error) {
		stop() // as if somebody had pressed Ctrl-C while we are at it
		return "done nevertheless", nil
	})

	id, err := client.Add(ctx, "shut_down", nil)
	if err != nil {
		panic(err)
	}
	fmt.Println("stopped with", w.Run(ctx))
	status, err := client.Status(context.Background(), id)
	if err != nil {
		panic(err)
	}
	fmt.Println(status.Outcome, string(status.Result))
	// Output:
	// stopped with <nil>
	// succeeded "done nevertheless"
}

func ExampleRetry() {
	ctx := context.Background()
	pool, client, done := connect()
	defer done()

	w, err := worker.New(pool, worker.Config{})
	if err != nil {
		panic(err)
	}
	fails := func(context.Context, *worker.Job[struct{}]) (struct{}, error) {
		return struct{}{}, errors.New("no answer")
	}
	// 10 s, 30 s, 90 s … at most an hour, each less up to a tenth, by chance.
	worker.Handle(w, "call", fails, worker.Retry(worker.Exponential(10*time.Second, 3, time.Hour).Jitter(0.1)))
	// Every five minutes.
	worker.Handle(w, "poll", fails, worker.Retry(worker.Fixed(5*time.Minute)))
	// After a minute, after an hour, then every day; four times in all.
	worker.Handle(w, "remind", fails, worker.Retry(worker.Delays(time.Minute, time.Hour, 24*time.Hour)), worker.MaxAttempts(4))

	id, err := client.Add(ctx, "remind", nil)
	if err != nil {
		panic(err)
	}
	if err := w.RunOnce(ctx); err != nil {
		panic(err)
	}
	job, err := client.Get(ctx, id)
	if err != nil {
		panic(err)
	}
	fmt.Printf("%s, again in %v; attempt %d of %d\n", job.LastError, time.Until(job.RunAt).Round(time.Minute), job.Attempt, job.MaxAttempts)
	// Output: no answer, again in 1m0s; attempt 1 of 4
}

// Whoever asks for the job's status sees how far it is.
func ExampleProgress() {
	ctx := context.Background()
	pool, client, done := connect()
	defer done()

	w, err := worker.New(pool, worker.Config{})
	if err != nil {
		panic(err)
	}
	seen := make(chan bool)
	worker.Handle(w, "import", func(ctx context.Context, job *worker.Job[[]string]) (struct{}, error) {
		for i, file := range job.Payload {
			percent := 100 * float32(i) / float32(len(job.Payload))
			if err := worker.Progress(ctx, percent, "reading "+file); err != nil {
				return struct{}{}, err
			}
			<-seen
		}
		return struct{}{}, nil
	})

	id, err := client.Add(ctx, "import", []string{"a.csv", "b.csv"})
	if err != nil {
		panic(err)
	}
	go func() { // anybody, anywhere, sees it within half a second
		for _, message := range []string{"reading a.csv", "reading b.csv"} {
			var status offstage.Status
			for status.Message != message {
				var err error
				if status, err = client.Status(ctx, id); err != nil {
					panic(err)
				}
			}
			fmt.Printf("%s: %v %%, %s\n", status.State, *status.Progress, status.Message)
			seen <- true
		}
	}()
	if err := w.RunOnce(ctx); err != nil {
		panic(err)
	}
	// Output:
	// running: 0 %, reading a.csv
	// running: 50 %, reading b.csv
}

// connect is a new database with the schema installed, and a client of it.
func connect() (pool *pgxpool.Pool, client *offstage.Client, done func()) {
	e := &exampleTB{}
	pool = pgtest.New(e).Pool(e)
	client, err := offstage.New(pool, offstage.Config{})
	if err != nil {
		panic(err)
	}
	e.Cleanup(client.Close)
	return pool, client, e.done
}

// exampleTB is as much of a testing.TB as a database needs; examples have none.
type exampleTB struct {
	testing.TB
	cleanups []func()
}

func (*exampleTB) Helper()                           {}
func (*exampleTB) Name() string                      { return "Example" }
func (*exampleTB) Errorf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }
func (*exampleTB) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }
func (e *exampleTB) Cleanup(f func())                { e.cleanups = append(e.cleanups, f) }

func (e *exampleTB) done() {
	for i := len(e.cleanups) - 1; i >= 0; i-- {
		e.cleanups[i]()
	}
}
