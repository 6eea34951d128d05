// Package exec runs executable files as tasks. What an executable is told is what Graphile Worker tells it:
//
//   - it is started without arguments in the worker's working directory, with the worker's environment and
//     GRAPHILE_WORKER_PAYLOAD_FORMAT (json), _TASK_IDENTIFIER, _JOB_ID, _JOB_KEY (absent if the job has none),
//     _JOB_ATTEMPTS (the running one counted), _JOB_MAX_ATTEMPTS, _JOB_PRIORITY and _JOB_RUN_AT; besides, TRACEPARENT
//     (absent if the job is in no trace);
//   - stdin is {"payload":…} on one line without a line end, then the end of file. It need not be read.
//
// What becomes of it:
//
//   - exit status 0 is success, any other and any signal fails the attempt; the error quotes the last lines of stderr.
//     A result, if there is one, is JSON in the file that OFFSTAGE_RESULT names; it counts with exit status 0 only.
//   - lines of stdout go to the attempt's log as info, lines of stderr as error.
//   - lines such as "50 half of it", written to what OFFSTAGE_PROGRESS names, say how far it is, in percent.
//   - it leads a session and a process group of its own, without a terminal. The attempt is over when it ends:
//     processes of the group that are still there are killed. What must outlive the job needs a session of its own
//     (setsid); it is not waited for, and its output is not read any further.
//   - when the attempt's context ends, the group gets SIGTERM, and after Config.KillGrace SIGKILL; sooner if others take its
//     job or the worker leaves: see worker.Grace.
//   - on Linux, it is killed when the worker process dies. Processes that it has started itself are not, and a program
//     with the set-user-ID bit is not.
package exec

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/internal/runner/tasks"
	"github.com/offstage-dev/offstage/worker"
)

// Config adjusts a Runner. The zero value works.
type Config struct {
	// KillGrace is the time between SIGTERM and SIGKILL when an attempt is stopped. Default 5 s; negative means
	// SIGKILL at once.
	KillGrace time.Duration

	// Linger is how long the output is read on after the executable has ended, while another process holds it open, so
	// that the "tee" of a script can finish. Then the group is killed. Default 200 ms.
	Linger time.Duration

	// MaxLine is how many bytes of a line are logged; longer ones are cut and say so. Default 16 KiB.
	MaxLine int

	// MaxOutput is how much of an attempt's output is logged as it comes, in bytes, 64 more for each line; after that
	// it is read and held back. Default 1 MiB. Raise it for tasks whose whole output is wanted.
	MaxOutput int

	// KeptOutput is how much of the end of the output that was held back is logged when the attempt is over, counted
	// as in MaxOutput. What lies between is dropped, and one line says how many lines that were. Default 12 KiB: with that
	// line it fits into what is stored of the end of a log.
	KeptOutput int

	// ErrorTail is how many bytes of the end of stderr, in whole lines, the error of a failed attempt quotes.
	// Default 2 KiB.
	ErrorTail int

	// MaxResult is how many bytes a result may have; a larger one fails the job for good. Default, and at most,
	// worker.MaxResult.
	MaxResult int

	// TempDir holds a directory for the result of each running attempt; those that a killed worker has left there are
	// removed before the first attempt. Default os.TempDir(). Where none can be made
	// (a read-only file system), attempts run without OFFSTAGE_RESULT and OFFSTAGE_PROGRESS, and their log says so.
	TempDir string

	// Env is the environment that tasks inherit. Default os.Environ(), read for every attempt. Set it to keep the
	// worker's secrets from its tasks.
	Env []string
}

// Runner performs the executable tasks of a directory. It is safe for concurrent use.
type Runner struct {
	config Config
	names  []string
	paths  map[string]string // by task; never changed after New
	sweep  sync.Once         // before the first attempt
}

var _ worker.Runner = (*Runner)(nil)

// New makes a runner for the executables in dir. Tasks of other kinds are left to other runners.
func New(dir *tasks.Dir, config Config) (*Runner, error) {
	if dir == nil {
		return nil, errors.New("exec runner: no task directory")
	}
	if config.Linger < 0 || config.MaxLine < 0 || config.MaxOutput < 0 || config.KeptOutput < 0 || config.ErrorTail < 0 || config.MaxResult < 0 {
		return nil, errors.New("exec runner: a limit is negative")
	}
	orDefault(&config.KillGrace, 5*time.Second)
	orDefault(&config.Linger, 200*time.Millisecond)
	orDefault(&config.MaxLine, 16<<10)
	orDefault(&config.MaxOutput, 1<<20)
	orDefault(&config.KeptOutput, 12<<10)
	orDefault(&config.ErrorTail, 2<<10)
	orDefault(&config.MaxResult, worker.MaxResult)
	config.MaxResult = min(config.MaxResult, worker.MaxResult)
	orDefault(&config.TempDir, os.TempDir())

	r := &Runner{config: config, paths: map[string]string{}}
	for _, task := range dir.Of(tasks.Exec) {
		r.names = append(r.names, task.Name)
		r.paths[task.Name] = task.File.Path
	}
	return r, nil
}

func orDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Tasks are the names of the executable tasks, ordered.
func (r *Runner) Tasks() []string { return append([]string(nil), r.names...) }

// Run performs one attempt. It returns when the executable and all processes of its group are gone, or cannot be
// killed (then the log says so).
func (r *Runner) Run(ctx context.Context, job *offstage.Job) (json.RawMessage, error) {
	path, ok := r.paths[job.Task]
	if !ok {
		return nil, fmt.Errorf("no executable for task %q", job.Task)
	}
	stdin, err := input(job)
	if err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, stopFailure(ctx, "it was not started", "")
	}
	log := worker.Log(ctx)
	r.sweep.Do(func() {
		if err := sweep(r.config.TempDir); err != nil {
			log.Warn("what a killed worker left in the temporary directory stays: " + err.Error())
		}
	})
	result, err := newResult(r.config.TempDir)
	if err != nil {
		log.Warn("the task runs without " + resultVariable + " and " + progressVariable + ": " + err.Error())
	}
	defer func() {
		if err := result.remove(); err != nil {
			log.Warn("the attempt's temporary directory stays: " + err.Error())
		}
	}()
	progressPath := ""
	if result.dir != "" {
		if p, err := followProgress(ctx, result.dir, log); err != nil {
			log.Warn("the task runs without " + progressVariable + ": " + err.Error())
		} else {
			progressPath = p.path
			defer p.end() // before the directory goes
		}
	}
	inherited := r.config.Env
	if inherited == nil {
		inherited = os.Environ()
	}

	a := attempt{
		config: r.config,
		path:   path,
		env:    environment(inherited, job, result.path, progressPath),
		stdin:  stdin,
		log:    log,
		output: newOutput(log, r.config),
	}
	if err := a.run(ctx); err != nil {
		return nil, err
	}
	return result.read(r.config.MaxResult)
}
