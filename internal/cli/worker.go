package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/offstage-dev/offstage/internal/runner/exec"
	"github.com/offstage-dev/offstage/internal/runner/tasks"
	"github.com/offstage-dev/offstage/worker"
)

// workerFlags are those of the commands that run jobs.
type workerFlags struct {
	tasks      string
	jobs       int
	once       bool
	poll       time.Duration
	grace      time.Duration
	refuse     []string
	format     string
	levelName  string
	level      slog.Level
	taskChosen bool
}

func (w *workerFlags) register(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&w.tasks, "tasks", "./tasks", "the directory of tasks: executables, named after the task")
	f.IntVarP(&w.jobs, "jobs", "j", 10, "how many jobs run at a time")
	f.Var((*pollFlag)(&w.poll), "poll-interval", "how often an idle worker looks by itself; a bare number is milliseconds (default 2s)")
	f.Var((*durationFlag)(&w.grace), "grace", "how long running jobs may go on after a signal to stop (default 30s)")
	f.StringArrayVar(&w.refuse, "forbid-flag", nil, "leave jobs with this flag to others; may be repeated")
	f.StringVar(&w.format, "log-format", "text", "text or json")
	f.StringVar(&w.levelName, "log-level", "info", "debug, info, warn or error")
	complete(c, "log-format", fixed("text", "json"))
	complete(c, "log-level", fixed("debug", "info", "warn", "error"))
	if err := c.MarkFlagDirname("tasks"); err != nil {
		panic(err)
	}
}

func (w *workerFlags) check(cmd *cobra.Command) error {
	w.taskChosen = cmd.Flags().Changed("tasks")
	switch {
	case w.jobs < 1 || w.jobs > 10000:
		return fmt.Errorf("--jobs is %d; use 1 to 10000", w.jobs)
	case w.format != "text" && w.format != "json":
		return fmt.Errorf("--log-format is %q; use text or json", w.format)
	case !slices.Contains([]string{"debug", "info", "warn", "error"}, w.levelName):
		return fmt.Errorf("--log-level is %q; use debug, info, warn or error", w.levelName)
	case cmd.Flags().Changed("grace") && w.grace < time.Millisecond:
		return errors.New("--grace must be more than nothing; 1ms stops at once")
	}
	return w.level.UnmarshalText([]byte(w.levelName))
}

func (a *app) workerCommand() *cobra.Command {
	var w workerFlags
	c := &cobra.Command{
		Use:   "worker",
		Short: "Run jobs with the tasks of a directory",
		Long: `Runs jobs with the tasks of a directory: an executable tasks/users/welcome.sh performs the task users/welcome. It gets
{"payload": …} on stdin and the job's facts in its environment; exit status 0 is success, its output is the job's log, and
JSON that it writes to the file $OFFSTAGE_RESULT is the job's result.

The first SIGINT or SIGTERM stops it gracefully, with exit code 0; a second one at once, with 130. It never migrates.`,
		Example: `  offstage worker --tasks ./tasks --jobs 4
  offstage worker --once                        until no job is left that can run now`,
		Args: cobra.NoArgs,
	}
	w.register(c)
	c.Flags().BoolVar(&w.once, "once", false, "stop when no job is left that can run now")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if err := w.check(cmd); err != nil {
			return err
		}
		return a.run(func(ctx context.Context, _ []string) error { return a.worker(ctx, &w) })(cmd, args)
	}
	return c
}

func (a *app) worker(ctx context.Context, flags *workerFlags) error {
	log := a.logger(flags.format, flags.level)
	runners, err := a.runners(flags, log)
	if err != nil {
		return err
	}
	cfg, err := a.config(false)
	if err != nil {
		return err
	}
	db, err := a.connect(ctx, cfg)
	if err != nil {
		return stopped(ctx, err)
	}
	defer db.close()
	if err := db.check(ctx); err != nil {
		return stopped(ctx, err)
	}
	return a.serve(ctx, db, flags, runners, log)
}

// serve runs a worker until ctx ends, or, with once, until it has nothing to do.
func (a *app) serve(ctx context.Context, db *database, flags *workerFlags, runners []worker.Runner, log *slog.Logger) error {
	conf := worker.Config{
		Schema: a.schema, Jobs: flags.jobs, PollInterval: flags.poll, StopGrace: flags.grace, ForbiddenFlags: flags.refuse,
		Runners: runners, Log: log,
	}
	// Somebody who looks wants to see each job; a log that is kept does not.
	if a.verbose || (a.ErrTerminal && flags.format == "text") {
		conf.Middleware = append(conf.Middleware, logAttempts(log))
	}
	w, err := worker.New(db.pool, conf)
	if err != nil {
		return err
	}
	if flags.once {
		return stopped(ctx, w.RunOnce(ctx))
	}
	return stopped(ctx, w.Run(ctx))
}

// stopped is nil for what fails because a server was told to stop.
func stopped(ctx context.Context, err error) error {
	if ctx.Err() != nil && (err == nil || errors.Is(err, ctx.Err())) {
		return nil
	}
	return err
}

// runners are those for the task directory; an error if there is nothing for them to do.
func (a *app) runners(flags *workerFlags, log *slog.Logger) ([]worker.Runner, error) {
	path := flags.tasks
	if !filepath.IsAbs(path) {
		path = filepath.Join(a.Project, path)
	}
	dir, err := tasks.Read(path)
	if errors.Is(err, fs.ErrNotExist) && !flags.taskChosen {
		return nil, failed(Usage, "make ./tasks with an executable in it, or name another directory with --tasks", "there is no directory ./tasks")
	}
	if err != nil {
		return nil, failed(Usage, "", "%w", err)
	}
	dir.LogWarnings(log)
	if waiting := dir.Of(tasks.Node); len(waiting) > 0 {
		var names []string
		for _, t := range waiting {
			names = append(names, t.Name)
		}
		log.Warn("JavaScript tasks are not supported by this build yet; their jobs wait", "tasks", strings.Join(names, " "))
	}
	runner, err := exec.New(dir, exec.Config{Env: a.taskEnvironment()})
	if err != nil {
		return nil, err
	}
	if len(runner.Tasks()) == 0 {
		return nil, failed(Failed, "a task is an executable file, such as "+filepath.Join(flags.tasks, "hello.sh")+" (chmod +x)",
			"%s holds no task that this worker can run", dir.Path)
	}
	return []worker.Runner{runner}, nil
}

// taskEnvironment is what tasks inherit: the worker's environment, and where offstage dev has started a server, its URL,
// so that tasks may call offstage add. A URL from the command line is not passed on: it may be the worker's secret.
func (a *app) taskEnvironment() []string {
	env := append(os.Environ(), "OFFSTAGE_SCHEMA="+a.schema)
	if a.private {
		env = append(env, "DATABASE_URL="+a.url)
	}
	return env
}
