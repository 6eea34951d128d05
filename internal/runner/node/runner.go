// Package node performs the JavaScript and TypeScript tasks of a directory, in a few long-lived Node processes that all
// attempts share. What a task gets and may do is what Graphile Worker gives it: (payload, helpers).
//
//	runner.go    Start, Run, Close: which process performs an attempt, and how an attempt is stopped
//	keeper.go    keeps the processes running, replaces those that died or were given up
//	process.go   one process: its calls, what it says, its end
//	protocol.go  what goes over the private connection
//	calls.go     what helpers ask of the worker: addJob, progress
//	find.go      which node, and what it can do
//	js/          the other side
//
// What becomes of an attempt:
//
//   - what the task returns is its result, if it is JSON; what it throws is its error, with stack and causes.
//   - what it prints and logs is its log. What is printed by nobody's attempt goes to the worker's log.
//   - when its context ends, its abortSignal fires. If it has not ended after Config.AbortGrace, its process is replaced.
//   - when a process dies, the attempt that is known to be at fault fails, and the others are released without being
//     spent. If nobody can know which it was (out of memory, a signal), all are released as worker.Crashed, and the
//     second time in a row each runs next in a process of its own.
//   - a file that does not load is no task of this runner; see Unable.
package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/internal/runner/tasks"
	"github.com/offstage-dev/offstage/internal/store"
	"github.com/offstage-dev/offstage/worker"
)

// Config adjusts a Runner. Pool must be set; the rest works as it is.
type Config struct {
	// Node is the program. Default: node, in a directory of Path.
	Node string

	// Path is where node is looked for. Default: the PATH of this process.
	Path string

	// Processes is how many there are. Default: one for each core, but no more than Jobs.
	Processes int

	// Jobs is how many attempts the worker runs at a time.
	Jobs int

	// Pool and Schema are the worker's; helpers.addJob uses them.
	Pool   *pgxpool.Pool
	Schema string

	// URL is the database for helpers.query and helpers.withPgClient. "": what PG* variables say.
	URL string

	// AbortGrace is how long a task may go on after its abortSignal has fired; then its process is replaced. Default 5 s.
	AbortGrace time.Duration

	// DrainGrace is how long the other attempts of a process may go on when it is to be replaced because one of them did
	// not stop; then they are released. Default 10 s.
	DrainGrace time.Duration

	// LoadTimeout is how long the tasks may take to load, all together. Default 30 s.
	LoadTimeout time.Duration

	// Env is the environment of the processes. Default os.Environ().
	Env []string

	// Dir is their working directory. Default: the worker's.
	Dir string

	// Log gets what belongs to no attempt. Default: slog.Default().
	Log *slog.Logger
}

// Runner performs the Node tasks of a directory. It is safe for concurrent use.
type Runner struct {
	config  Config
	program program
	store   *store.Store
	root    string         // the task directory
	files   []tasks.Task   // in the order that the processes know
	index   map[string]int // of a task in files
	took    []atomic.Int64 // an attempt of each task in files, on average, in ns; 0: nobody knows
	names   []string       // of those that can be performed
	unable  map[string]string
	scripts scripts
	seq     atomic.Int64 // numbers attempts
	closed  chan struct{}
	keepers sync.WaitGroup // everything that runs

	mu      sync.Mutex
	ready   []*process    // that take attempts; guarded by mu
	changed chan struct{} // closed, and replaced, when ready grows; guarded by mu
}

var _ worker.Runner = (*Runner)(nil)

// Start starts the processes for the Node tasks of dir, and returns when the tasks have loaded. The error says what is
// wrong with Node; a file that does not load is none. End it with Close.
func Start(ctx context.Context, dir *tasks.Dir, config Config) (*Runner, error) {
	if config.Pool == nil {
		return nil, errors.New("node runner: the pool is nil")
	}
	if config.Processes < 0 {
		return nil, fmt.Errorf("node runner: %d processes", config.Processes)
	}
	config.Processes = orDefault(config.Processes, max(1, min(runtime.GOMAXPROCS(0), config.Jobs)))
	config.AbortGrace = orDefault(config.AbortGrace, 5*time.Second)
	config.DrainGrace = orDefault(config.DrainGrace, 10*time.Second)
	config.LoadTimeout = orDefault(config.LoadTimeout, 30*time.Second)
	config.Schema = orDefault(config.Schema, "offstage")
	config.Log = orDefault(config.Log, slog.Default())
	if config.Env == nil {
		config.Env = os.Environ()
	}
	found, err := find(ctx, config.Node, config.Path)
	if err != nil {
		return nil, err
	}
	r := &Runner{
		config: config, program: found, store: store.New(config.Schema), root: dir.Path, index: map[string]int{}, unable: map[string]string{},
		closed: make(chan struct{}), changed: make(chan struct{}),
	}
	for _, task := range dir.Of(tasks.Node) {
		if reason := found.cannot(task.File); reason != "" {
			r.unable[task.Name] = reason
			continue
		}
		r.index[task.Name] = len(r.files)
		r.files = append(r.files, task)
	}
	if len(r.files) == 0 {
		return r, nil
	}
	r.took = make([]atomic.Int64, len(r.files))
	if err := r.scripts.write(); err != nil {
		return nil, err
	}
	if err := r.open(ctx); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

func orDefault[T comparable](value, otherwise T) T {
	var zero T
	if value == zero {
		return otherwise
	}
	return value
}

// open starts the first process, learns from it what loads, and starts the others.
func (r *Runner) open(ctx context.Context) error {
	first, err := r.start()
	if err != nil {
		return err
	}
	late := time.NewTimer(r.config.LoadTimeout)
	defer late.Stop()
	select {
	case <-first.ready:
	case <-first.exited:
		return fmt.Errorf("node runner: the Node process ended before the tasks were loaded: %s", first.how())
	case <-late.C:
		err = fmt.Errorf("node runner: the tasks have not loaded within %s: does one of them work for long when it is loaded?", r.config.LoadTimeout)
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		first.kill()
		<-first.exited
		return err
	}
	for _, task := range r.files {
		if reason, bad := first.failed[task.Name]; bad {
			r.unable[task.Name] = task.File.Path + " does not load: " + reason
			continue
		}
		r.names = append(r.names, task.Name)
	}
	r.keepers.Go(func() { r.keep(first) })
	for range r.config.Processes - 1 {
		r.keepers.Go(func() { r.keep(nil) })
	}
	return nil
}

// Tasks are the names of the tasks whose files have loaded, ordered.
func (r *Runner) Tasks() []string { return append([]string(nil), r.names...) }

// Unable are the tasks of the directory that this runner cannot perform, with the reason of each. Their jobs wait.
func (r *Runner) Unable() map[string]string { return r.unable }

// Close ends the processes. Attempts that still run are released.
func (r *Runner) Close() {
	close(r.closed)
	r.keepers.Wait()
	r.scripts.remove()
}

// Run performs one attempt.
func (r *Runner) Run(ctx context.Context, job *offstage.Job) (json.RawMessage, error) {
	index, ok := r.index[job.Task]
	if !ok {
		return nil, fmt.Errorf("no file for task %q", job.Task)
	}
	claim, _ := worker.ClaimOf(ctx)
	if claim.Alone {
		return r.alone(ctx, index, job, claim)
	}
	for {
		average := r.took[index].Load()
		p, err := r.take(ctx, job.Task, time.Duration(average))
		if err != nil {
			return nil, err
		}
		began := time.Now()
		if c := p.begin(ctx, r.seq.Add(1), index, time.Duration(average), job, claim); c != nil {
			result, err := p.await(ctx, c)
			took := int64(time.Since(began))
			if average != 0 {
				took = average + (took-average)/8
			}
			r.took[index].Store(took)
			return result, err
		}
	}
}

// alone performs an attempt in a process of its own: its job was there when two in a row died, or two workers.
func (r *Runner) alone(ctx context.Context, index int, job *offstage.Job, claim worker.Claim) (json.RawMessage, error) {
	p, err := r.start()
	if err != nil {
		return nil, putOff(ctx, err)
	}
	defer func() {
		p.end()
		<-p.exited
	}()
	late := time.NewTimer(r.config.LoadTimeout)
	defer late.Stop()
	select {
	case <-p.ready:
	case <-late.C:
		return nil, putOff(ctx, fmt.Errorf("the tasks have not loaded within %s in a Node process of its own", r.config.LoadTimeout))
	case <-p.exited:
		return nil, putOff(ctx, fmt.Errorf("a Node process of its own ended before the tasks were loaded: %s", p.how()))
	case <-ctx.Done():
		return nil, worker.Released(context.Cause(ctx))
	case <-r.closed:
		return nil, worker.Released(errClosed)
	}
	worker.Log(ctx).Info("runs in a Node process of its own, because two processes in a row, workers or Node's, died while they had this job")
	if c := p.begin(ctx, r.seq.Add(1), index, 0, job, claim); c != nil {
		return p.await(ctx, c)
	}
	return nil, putOff(ctx, errors.New("a Node process of its own was given up"))
}

// putOff is for attempts that cannot be made now, through no fault of the job.
func putOff(ctx context.Context, err error) error {
	worker.Log(ctx).Warn("put off for 10 s", "error", err)
	return &offstage.Control{Verb: "release", Delay: 10 * time.Second} // a snooze would forget the crashes
}

var errClosed = errors.New("the Node processes are ending")

// take is the process that is best for an attempt of a task that takes so long: those last whose event loop does not turn, and those in
// which the task did not load. It waits for one.
func (r *Runner) take(ctx context.Context, task string, took time.Duration) (*process, error) {
	for {
		r.mu.Lock()
		var best *process
		var least int64
		for _, p := range r.ready {
			if weight := p.weight(task, took); best == nil || weight < least {
				best, least = p, weight
			}
		}
		changed := r.changed
		r.mu.Unlock()
		if best != nil {
			return best, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, worker.Released(context.Cause(ctx))
		case <-r.closed:
			return nil, worker.Released(errClosed)
		}
	}
}
