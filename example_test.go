package offstage_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/internal/pgtest"
	"github.com/offstage-dev/offstage/worker"
)

func Example() {
	ctx := context.Background()
	pool, done := database() // yours: pgxpool.New(ctx, os.Getenv("DATABASE_URL"))
	defer done()

	// Wherever something is to be done later …
	client, err := offstage.New(pool, offstage.Config{})
	if err != nil {
		panic(err)
	}
	defer client.Close()
	id, err := client.Add(ctx, "greet", "Ada")
	if err != nil {
		panic(err)
	}

	// … and wherever it is done: in the same program or in another.
	w, err := worker.New(pool, worker.Config{})
	if err != nil {
		panic(err)
	}
	worker.Handle(w, "greet", func(ctx context.Context, job *worker.Job[string]) (string, error) {
		return "Hello, " + job.Payload + "!", nil
	})
	if err := w.RunOnce(ctx); err != nil { // a server calls Run instead
		panic(err)
	}

	greeting, err := offstage.Await[string](ctx, client, id)
	if err != nil {
		panic(err)
	}
	fmt.Println(greeting)
	// Output: Hello, Ada!
}

func ExampleClient_Add() {
	ctx := context.Background()
	client, done := connect()
	defer done()

	type Email struct {
		To, Subject string
	}
	id, err := client.Add(ctx, "send_email", Email{"ada@example.com", "Your report"}, offstage.Options{
		RunAt:       time.Now().Add(time.Hour),
		Queue:       "mail of example.com", // one at a time
		MaxAttempts: 5,
		Timeout:     30 * time.Second, // of each attempt
	})
	if err != nil {
		panic(err)
	}

	job, err := client.Get(ctx, id)
	if err != nil {
		panic(err)
	}
	fmt.Println(job.Task, "is", job.State)
	fmt.Println(string(job.Payload))
	// Output:
	// send_email is scheduled
	// {"To":"ada@example.com","Subject":"Your report"}
}

// A key names what a job is about. While such a job waits, adding another one changes it instead: however often a
// document is saved, it is indexed once, ten seconds after the last time.
func ExampleOptions_key() {
	ctx := context.Background()
	client, done := connect()
	defer done()

	for revision := range 3 {
		_, err := client.Add(ctx, "index", map[string]int{"document": 7, "revision": revision}, offstage.Options{
			Key:   "index document 7",
			RunAt: time.Now().Add(10 * time.Second),
		})
		if err != nil {
			panic(err)
		}
	}

	jobs, err := client.List(ctx, offstage.Filter{Task: "index"})
	if err != nil {
		panic(err)
	}
	job, err := client.Get(ctx, jobs[0].ID)
	if err != nil {
		panic(err)
	}
	fmt.Println(len(jobs), "job:", string(job.Payload))
	// Output: 1 job: {"document":7,"revision":2}
}

// The job is added in the transaction that makes it necessary: both happen, or neither.
func ExampleClient_With() {
	ctx := context.Background()
	pool, done := database()
	defer done()
	client, err := offstage.New(pool, offstage.Config{})
	if err != nil {
		panic(err)
	}
	defer client.Close()
	if _, err := pool.Exec(ctx, "create table public.account (email text)"); err != nil {
		panic(err)
	}

	signUp := func(email string, valid bool) error {
		tx, err := pool.Begin(ctx)
		if err != nil {
			return err
		}
		defer tx.Rollback(ctx)
		if _, err := tx.Exec(ctx, "insert into public.account values ($1)", email); err != nil {
			return err
		}
		if _, err := client.With(tx).Add(ctx, "welcome", map[string]string{"email": email}); err != nil {
			return err
		}
		if !valid {
			return errors.New(email + " is not an address")
		}
		return tx.Commit(ctx)
	}

	fmt.Println(signUp("ada@example.com", true))
	fmt.Println(signUp("nobody", false))
	jobs, err := client.List(ctx, offstage.Filter{Task: "welcome"})
	if err != nil {
		panic(err)
	}
	fmt.Println(len(jobs), "job")
	// Output:
	// <nil>
	// nobody is not an address
	// 1 job
}

// With database/sql any driver will do; this one is pgx's own.
func ExampleClient_WithSQL() {
	ctx := context.Background()
	pool, done := database()
	defer done()
	db := stdlib.OpenDBFromPool(pool) // yours: sql.Open("pgx", os.Getenv("DATABASE_URL"))
	defer db.Close()
	client, err := offstage.New(nil, offstage.Config{}) // a client that only adds needs no pool
	if err != nil {
		panic(err)
	}

	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		panic(err)
	}
	defer tx.Rollback()
	id, err := client.WithSQL(tx).Add(ctx, "welcome", map[string]string{"email": "ada@example.com"})
	if err != nil {
		panic(err)
	}
	status, err := client.WithSQL(tx).Status(ctx, id)
	if err != nil {
		panic(err)
	}
	if err := tx.Commit(); err != nil {
		panic(err)
	}
	fmt.Println(status.State)
	// Output: waiting
}

// Ten thousand jobs are one statement, and come in as one: all or none.
func ExampleClient_AddMany() {
	ctx := context.Background()
	client, done := connect()
	defer done()

	specs := make([]offstage.Spec, 10_000)
	for i := range specs {
		specs[i] = offstage.Spec{Task: "resize", Payload: map[string]int{"image": i}}
		specs[i].Priority = i % 3 // options of each
	}
	ids, err := client.AddMany(ctx, specs)
	if err != nil {
		panic(err)
	}

	last, err := client.Get(ctx, ids[9_999])
	if err != nil {
		panic(err)
	}
	fmt.Println(len(ids), "jobs, the last one is", string(last.Payload))
	// Output: 10000 jobs, the last one is {"image":9999}
}

// Await waits for the result, wherever the job runs.
func ExampleAwait() {
	ctx := context.Background()
	pool, done := database()
	defer done()
	client, err := offstage.New(pool, offstage.Config{})
	if err != nil {
		panic(err)
	}
	defer client.Close()
	type Sum struct{ Total int }
	defer serve(pool, func(w *worker.Worker) {
		worker.Handle(w, "sum", func(ctx context.Context, job *worker.Job[[]int]) (Sum, error) {
			var s Sum
			for _, n := range job.Payload {
				s.Total += n
			}
			return s, nil
		})
	})()

	id, err := client.Add(ctx, "sum", []int{1, 2, 3, 4})
	if err != nil {
		panic(err)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	sum, err := offstage.Await[Sum](ctx, client, id)
	if err != nil {
		panic(err)
	}
	fmt.Println(sum.Total)
	// Output: 10
}

// A job that did not succeed has an outcome, and the reason for it.
func ExampleEndedError() {
	ctx := context.Background()
	client, done := connect()
	defer done()

	id, err := client.Add(ctx, "report", nil)
	if err != nil {
		panic(err)
	}
	if _, _, err := client.Cancel(ctx, "nobody reads it", id); err != nil {
		panic(err)
	}

	_, err = offstage.Await[any](ctx, client, id)
	var ended *offstage.EndedError
	if errors.As(err, &ended) {
		fmt.Println(ended.Outcome, "because", ended.Reason)
	}
	// Output: cancelled because nobody reads it
}

// Waiting jobs are gone at once; a running one has its context cancelled, and ends when its handler returns.
func ExampleClient_Cancel() {
	ctx := context.Background()
	client, done := connect()
	defer done()

	id, err := client.Add(ctx, "report", nil, offstage.Options{RunAt: time.Now().Add(24 * time.Hour)})
	if err != nil {
		panic(err)
	}
	cancelled, requested, err := client.Cancel(ctx, "the customer has left", id)
	if err != nil {
		panic(err)
	}
	fmt.Println(len(cancelled), "cancelled,", len(requested), "asked to stop")

	status, err := client.Status(ctx, id)
	if err != nil {
		panic(err)
	}
	fmt.Printf("%s: %s\n", status.Outcome, status.Error)
	// Output:
	// 1 cancelled, 0 asked to stop
	// cancelled: the customer has left
}

func ExampleClient_List() {
	ctx := context.Background()
	client, done := connect()
	defer done()

	for _, name := range []string{"first", "second", "third"} {
		if _, err := client.Add(ctx, "report", name, offstage.Options{Key: name}); err != nil {
			panic(err)
		}
	}
	if _, err := client.Add(ctx, "report", nil, offstage.Options{RunAt: time.Now().Add(time.Hour)}); err != nil {
		panic(err)
	}

	// Page by page: After is the last id of the page before.
	page := offstage.Filter{State: offstage.Waiting, Task: "report", Limit: 2}
	for {
		jobs, err := client.List(ctx, page)
		if err != nil {
			panic(err)
		}
		if len(jobs) == 0 {
			break
		}
		for _, job := range jobs {
			fmt.Println(job.Key, "is", job.State)
		}
		page.After = jobs[len(jobs)-1].ID
	}
	// Output:
	// first is waiting
	// second is waiting
	// third is waiting
}

// What has ended lately? Page by page, the latest first.
func ExampleClient_ListHistory() {
	ctx := context.Background()
	client, done := connect()
	defer done()

	for _, name := range []string{"first", "second", "third"} {
		id, err := client.Add(ctx, "report", name, offstage.Options{Key: name})
		if err != nil {
			panic(err)
		}
		if _, _, err := client.Cancel(ctx, "nobody wants it", id); err != nil {
			panic(err)
		}
	}

	next := &offstage.HistoryFilter{Task: "report", Outcome: offstage.OutcomeCancelled, Limit: 2}
	for next != nil {
		var page []offstage.Entry
		var err error
		if page, next, err = client.ListHistory(ctx, *next); err != nil {
			panic(err)
		}
		for _, e := range page {
			fmt.Printf("%s %s: %s\n", e.Key, e.Outcome, e.Error)
		}
	}
	// Output:
	// third cancelled: nobody wants it
	// second cancelled: nobody wants it
	// first cancelled: nobody wants it
}

// Why does nothing happen?
func ExampleClient_Explain() {
	ctx := context.Background()
	client, done := connect()
	defer done()

	id, err := client.Add(ctx, "invoice", nil, offstage.Options{Queue: "billing"})
	if err != nil {
		panic(err)
	}
	if err := client.PauseQueue(ctx, "billing"); err != nil {
		panic(err)
	}
	why, err := client.Explain(ctx, id)
	if err != nil {
		panic(err)
	}
	_, remedy, _ := strings.Cut(why, ". ") // before it, since when and by whom
	fmt.Println(remedy)
	// Output: Let it go on: `select offstage.resume_queue('billing');` or: `offstage queues resume billing`
}

// What has become pointless is cancelled: it is no failure, and not tried again.
func ExampleCancel() {
	attempt(func(ctx context.Context, job *worker.Job[struct{}]) (struct{}, error) {
		return struct{}{}, offstage.Cancel(errors.New("the account was closed"))
	})
	// Output: ended as cancelled: the account was closed
}

// What cannot succeed fails for good, whatever attempts are left.
func ExampleFail() {
	attempt(func(ctx context.Context, job *worker.Job[struct{}]) (struct{}, error) {
		return struct{}{}, offstage.Fail(errors.New("there is no such address"))
	})
	// Output: failed: there is no such address
}

// What is not ready yet is looked at again later; that spends no attempt.
func ExampleSnooze() {
	attempt(func(ctx context.Context, job *worker.Job[struct{}]) (struct{}, error) {
		return struct{}{}, offstage.Snooze(15 * time.Minute)
	})
	// Output: scheduled in 15m0s, 0 attempts spent
}

// The other side knows best when to come again.
func ExampleRetryIn() {
	attempt(func(ctx context.Context, job *worker.Job[struct{}]) (struct{}, error) {
		err := errors.New("too many requests")
		return struct{}{}, offstage.RetryIn(2*time.Minute, fmt.Errorf("upload: %w", err))
	})
	// Output: scheduled in 2m0s, 1 attempts spent: upload: too many requests
}

// attempt runs one attempt of a job with the handler, and prints where the job is then.
func attempt(handler func(context.Context, *worker.Job[struct{}]) (struct{}, error)) {
	ctx := context.Background()
	pool, done := database()
	defer done()
	client, err := offstage.New(pool, offstage.Config{})
	if err != nil {
		panic(err)
	}
	id, err := client.Add(ctx, "job", nil)
	if err != nil {
		panic(err)
	}
	w, err := worker.New(pool, worker.Config{})
	if err != nil {
		panic(err)
	}
	worker.Handle(w, "job", handler)
	if err := w.RunOnce(ctx); err != nil {
		panic(err)
	}
	status, err := client.Status(ctx, id)
	if err != nil {
		panic(err)
	}
	switch {
	case status.State == "":
		fmt.Printf("ended as %s: %s\n", status.Outcome, status.Error)
	case status.State == offstage.Scheduled:
		fmt.Printf("%s in %v, %d attempts spent", status.State, time.Until(status.RunAt).Round(time.Minute), status.Attempt)
		if status.Error != "" {
			fmt.Print(": ", status.Error)
		}
	default:
		fmt.Printf("%s: %s\n", status.State, status.Error)
	}
}

// database is a new one, with the schema installed.
func database() (pool *pgxpool.Pool, done func()) {
	e := &exampleTB{}
	return pgtest.New(e).Pool(e), e.done
}

// connect is a client of a new database.
func connect() (client *offstage.Client, done func()) {
	e := &exampleTB{}
	client, err := offstage.New(pgtest.New(e).Pool(e), offstage.Config{})
	if err != nil {
		panic(err)
	}
	e.Cleanup(client.Close)
	return client, e.done
}

// serve runs a worker until stop is called.
func serve(pool *pgxpool.Pool, handlers func(*worker.Worker)) (stop func()) {
	w, err := worker.New(pool, worker.Config{})
	if err != nil {
		panic(err)
	}
	handlers(w)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- w.Run(ctx) }()
	return func() {
		cancel()
		if err := <-ended; err != nil {
			panic(err)
		}
	}
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
