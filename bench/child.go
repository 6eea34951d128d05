package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// childArgument, as the only argument, makes this program an agent.
const childArgument = "__agent"

// child is the agent side of the protocol in Go. What it drives is in ours.go, but for sqlBulk.
type child struct {
	config agentConfig
	pool   *pgxpool.Pool

	outMu sync.Mutex // guards out
	out   *json.Encoder
}

// role is what a child does between go and stop. start must not block.
type role interface {
	start(ctx context.Context)
	last() []string
	stop() (n int, err error)
}

func runChild(ctx context.Context) error {
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 1<<20)
	c := &child{out: json.NewEncoder(os.Stdout)}
	if !in.Scan() {
		return in.Err()
	}
	if err := json.Unmarshal(in.Bytes(), &c.config); err != nil {
		return err
	}
	var err error
	if c.pool, err = c.connect(ctx); err != nil {
		return err
	}
	defer c.pool.Close()
	r, err := c.role()
	if err != nil {
		return err
	}
	c.say(event{Event: "ready"})

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for in.Scan() {
		var cmd command
		if err := json.Unmarshal(in.Bytes(), &cmd); err != nil {
			return err
		}
		switch cmd.Do {
		case "ping":
			c.say(event{Event: "pong", T: wall()})
		case "go":
			c.say(event{Event: "started", T: wall(), CPU: cpuUsed()})
			r.start(ctx)
		case "last":
			c.say(event{Event: "last", IDs: r.last()})
		case "stop":
			n, err := r.stop()
			if err != nil {
				return err
			}
			e := event{Event: "stopped", N: n, CPU: cpuUsed()}
			if w, ok := r.(*working); ok {
				e.Waits = w.waited()
			}
			c.say(e)
			return nil
		}
	}
	return in.Err()
}

func (c *child) say(e event) {
	c.outMu.Lock()
	defer c.outMu.Unlock()
	_ = c.out.Encode(e) // the harness is gone: standard input ends, too
}

// connect opens the connections before the clock runs, as peer.mjs does.
func (c *child) connect(ctx context.Context) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig(c.config.URL)
	if err != nil {
		return nil, err
	}
	if c.config.Pool > 0 {
		config.MaxConns = int32(c.config.Pool)
	}
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	held := make([]*pgxpool.Conn, max(1, c.config.Writers))
	for i := range held {
		if held[i], err = pool.Acquire(ctx); err != nil {
			return nil, err
		}
		if err := held[i].Ping(ctx); err != nil {
			return nil, err
		}
	}
	for _, conn := range held {
		conn.Release()
	}
	return pool, nil
}

func (c *child) role() (role, error) {
	if c.config.Role == "sqlbulk" {
		return &adding{child: c, add: sqlBulk}, nil
	}
	if c.config.System != "offstage" {
		return nil, fmt.Errorf("no role %q for system %q", c.config.Role, c.config.System)
	}
	switch c.config.Role {
	case "worker":
		return newWorking(c)
	case "ugly":
		return newUgly(c)
	case "beside", "holder":
		return newBeside(c)
	case "single":
		add, err := ourSingle(c)
		return &adding{child: c, add: add}, err
	case "bulk":
		add, err := ourBulk(c)
		return &adding{child: c, add: add}, err
	}
	return nil, fmt.Errorf("no role %q", c.config.Role)
}

// adding runs add once, from go on.
type adding struct {
	child *child
	add   func(ctx context.Context, c *child) (int, error)
	n     int // owned by the goroutine of start until it has told that it is done
}

func (a *adding) start(ctx context.Context) {
	go func() {
		n, err := a.add(ctx, a.child)
		if ctx.Err() != nil {
			return // told to stop before the end
		}
		if err != nil {
			fatal(err)
		}
		a.n = n
		a.child.say(event{Event: "added", N: n, T: wall(), CPU: cpuUsed()})
	}()
}

func (a *adding) last() []string     { return nil }
func (a *adding) stop() (int, error) { return a.n, nil }

// inParallel runs add in c.config.Writers goroutines until c.config.Millis are over.
func inParallel(ctx context.Context, c *child, add func(ctx context.Context, id int) error) (int, error) {
	until := time.Now().Add(time.Duration(c.config.Millis) * time.Millisecond)
	var ids atomic.Int64
	var wg sync.WaitGroup
	failed := make(chan error, c.config.Writers)
	for range c.config.Writers {
		wg.Go(func() {
			for time.Now().Before(until) {
				if err := add(ctx, int(ids.Add(1))); err != nil {
					failed <- err
					return
				}
			}
		})
	}
	wg.Wait()
	select {
	case err := <-failed:
		return 0, err
	default:
		return int(ids.Load()), nil
	}
}

// inChunks calls add for the ids 1 to c.config.Total, c.config.Chunk a call, one call after another, and not before
// c.config.Rate says so.
func inChunks(ctx context.Context, c *child, add func(ctx context.Context, from, to int) error) (int, error) {
	begun := time.Now()
	for n := 0; n < c.config.Total; {
		if c.config.Rate > 0 {
			time.Sleep(time.Until(begun.Add(time.Duration(float64(n) / float64(c.config.Rate) * float64(time.Second)))))
		}
		to := min(n+c.config.Chunk, c.config.Total)
		if err := add(ctx, n+1, to); err != nil {
			return n, err
		}
		n = to
	}
	return c.config.Total, nil
}

// sqlBulk calls the SQL function add_jobs, which has the same signature in both systems, with the same statement
// and driver, and reads back the ids.
func sqlBulk(ctx context.Context, c *child) (int, error) {
	type spec struct {
		Identifier string `json:"identifier"`
		Payload    any    `json:"payload"`
	}
	statement := fmt.Sprintf(
		`select id from %[1]s.add_jobs(array(select json_populate_recordset(null::%[1]s.job_spec, $1::json)))`, c.config.Schema)
	return inChunks(ctx, c, func(ctx context.Context, from, to int) error {
		specs := make([]spec, 0, to-from+1)
		for id := from; id <= to; id++ {
			specs = append(specs, spec{c.config.Task, c.payload(id)})
		}
		text, err := json.Marshal(specs)
		if err != nil {
			return err
		}
		rows, err := c.pool.Query(ctx, statement, string(text))
		if err != nil {
			return err
		}
		n := 0
		for rows.Next() {
			var id int64
			if err := rows.Scan(&id); err != nil {
				return err
			}
			n++
		}
		if n != len(specs) {
			return fmt.Errorf("add_jobs returned %d rows for %d jobs: %w", n, len(specs), rows.Err())
		}
		return rows.Err()
	})
}

// working is a worker whose task does nothing but count.
type working struct {
	child  *child
	run    func(ctx context.Context) error // set by newWorking in ours.go
	cancel context.CancelFunc
	done   chan error

	mu    sync.Mutex // guards what is below
	n     int
	first int64
	ids   [keptIDs]int64
	waits []int64 // of jobs that say when they were added
}

func (w *working) start(ctx context.Context) {
	ctx, w.cancel = context.WithCancel(ctx)
	w.done = make(chan error, 1)
	go func() {
		err := w.run(ctx)
		if err != nil && ctx.Err() == nil {
			fatal(err)
		}
		w.done <- nil
	}()
	if !w.child.config.Each {
		go w.tick(ctx)
	}
}

// handled is called by the task with the id of its job.
func (w *working) handled(id int64) {
	now := wall()
	w.mu.Lock()
	if w.n == 0 {
		w.first = now
	}
	w.ids[w.n%keptIDs] = id
	w.n++
	whole := w.n == w.child.config.Total
	e := event{Event: "count", N: w.n, First: w.first, T: now}
	w.mu.Unlock()
	if w.child.config.Each {
		w.child.say(event{Event: "ran", ID: strconv.FormatInt(id, 10), T: now})
	} else if whole {
		w.child.say(e)
	}
}

// handledStamped is handled, for a job that was added then (0: nobody knows).
func (w *working) handledStamped(id, added int64) {
	if added > 0 {
		wait := wall() - added
		w.mu.Lock()
		w.waits = append(w.waits, wait)
		w.mu.Unlock()
	}
	w.handled(id)
}

// waited is how long jobs waited, p50 and p99; nil: none said when it was added.
func (w *working) waited() []int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.waits) == 0 {
		return nil
	}
	slices.Sort(w.waits)
	return []int64{percentile(w.waits, 50), percentile(w.waits, 99)}
}

func (w *working) tick(ctx context.Context) {
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	said := 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		w.mu.Lock()
		e := event{Event: "count", N: w.n, First: w.first, T: wall()}
		w.mu.Unlock()
		if e.N != said {
			said = e.N
			w.child.say(e)
		}
	}
}

func (w *working) last() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	ids := make([]string, min(w.n, keptIDs))
	for i := range ids {
		ids[i] = strconv.FormatInt(w.ids[i], 10)
	}
	return ids
}

func (w *working) stop() (int, error) {
	if w.cancel != nil {
		w.cancel()
		<-w.done
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.n, nil
}

type payload struct {
	ID int `json:"id"`
}

// stamped says when the job was added, too.
type stamped struct {
	payload
	At int64 `json:"at,omitempty"`
}

// payload of a job that is added in bulk.
func (c *child) payload(id int) any {
	if c.config.Rate > 0 {
		return stamped{payload{id}, wall()}
	}
	return payload{id}
}

func cpuUsed() int64 {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return 0
	}
	return usage.Utime.Nano()/1000 + usage.Stime.Nano()/1000
}

func fatal(err error) {
	fmt.Fprintln(os.Stderr, "offstage:", err)
	os.Exit(1)
}
