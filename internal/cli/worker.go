package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/offstage-dev/offstage/internal/runner/exec"
	"github.com/offstage-dev/offstage/internal/runner/node"
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

	crontab       string
	crontabChosen bool
	watch         bool // the crontab file, for changes

	node          string
	nodeProcesses int

	listen          string // "": nothing is served
	metricsDatabase bool
}

func (w *workerFlags) register(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&w.tasks, "tasks", "./tasks", "the directory of tasks: JavaScript, TypeScript and executables, named after the task")
	f.StringVar(&w.crontab, "crontab", defaultCrontab, "the file of schedules, as Graphile Worker reads it; the default is used where it exists")
	f.IntVarP(&w.jobs, "jobs", "j", 10, "how many jobs run at a time")
	f.StringVar(&w.node, "node", "", "the Node.js that runs JavaScript and TypeScript tasks (default: node on the PATH)")
	f.IntVar(&w.nodeProcesses, "node-processes", 0, "how many Node processes share the jobs (default: one for each core, at most --jobs)")
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
	w.taskChosen, w.crontabChosen = cmd.Flags().Changed("tasks"), cmd.Flags().Changed("crontab")
	switch {
	case w.once && w.crontabChosen:
		return errors.New("--once runs what is there, and no schedules; leave --crontab out")
	case w.jobs < 1 || w.jobs > 10000:
		return fmt.Errorf("--jobs is %d; use 1 to 10000", w.jobs)
	case w.nodeProcesses < 0 || w.nodeProcesses > 1000:
		return fmt.Errorf("--node-processes is %d; use 1 to 1000, or 0 for the default", w.nodeProcesses)
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
		Long: `Runs jobs with the tasks of a directory, as Graphile Worker reads it: tasks/users/welcome.js performs the task users/welcome.

JavaScript and TypeScript (.js .cjs .mjs .ts .mts) export a function (payload, helpers); what it returns is the job's result.
An executable, such as tasks/users/welcome.sh, gets {"payload": …} on stdin and the job's facts in its environment; exit
status 0 is success, its output is the job's log, and JSON that it writes to the file $OFFSTAGE_RESULT is the job's result.
Lines such as "50 half of it" that it writes to $OFFSTAGE_PROGRESS say how far it is, in percent.

With --listen it answers GET /livez (is it stuck?), /readyz (does it take jobs?) and /metrics (for Prometheus). Where
OTEL_EXPORTER_OTLP_ENDPOINT is set, it exports a trace of each attempt by OTLP over HTTP.

Schedules are those of the database (offstage schedules) and of the crontab file, which SIGHUP reads again.

The first SIGINT or SIGTERM stops it gracefully, with exit code 0; a second one, 0.2 s later or more, at once, with 130. It
never migrates.`,
		Example: `  offstage worker --tasks ./tasks --jobs 4
  offstage worker --once                        until no job is left that can run now
  offstage worker --listen 127.0.0.1:9464       with health checks and metrics`,
		Args: cobra.NoArgs,
	}
	w.register(c)
	c.Flags().BoolVar(&w.once, "once", false, "stop when no job is left that can run now")
	c.Flags().StringVar(&w.listen, "listen", "", "serve /livez, /readyz and /metrics at this address, without authentication (default: OFFSTAGE_LISTEN, then not at all)")
	c.Flags().BoolVar(&w.metricsDatabase, "metrics-database", false, "export the depth of queues and the schedules, too, as offstage serve does; one worker is enough")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if !cmd.Flags().Changed("listen") {
			w.listen = a.Getenv("OFFSTAGE_LISTEN")
		}
		if w.metricsDatabase && w.listen == "" {
			return errors.New("--metrics-database goes with --listen")
		}
		if err := w.check(cmd); err != nil {
			return err
		}
		return a.run(func(ctx context.Context, _ []string) error { return a.worker(ctx, &w) })(cmd, args)
	}
	return c
}

func (a *app) worker(ctx context.Context, flags *workerFlags) error {
	log := a.logger(flags.format, flags.level)
	dir, err := a.readTasks(flags, log)
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
	staff, err := a.hire(ctx, db, dir, flags, log)
	if err != nil {
		return stopped(ctx, err)
	}
	defer staff.close()
	return a.serve(ctx, db, flags, staff, log)
}

// serve runs a worker until ctx ends, or, with once, until it has nothing to do.
func (a *app) serve(ctx context.Context, db *database, flags *workerFlags, staff *staff, log *slog.Logger) error {
	conf := worker.Config{
		Schema: a.schema, Jobs: flags.jobs, PollInterval: flags.poll, StopGrace: flags.grace, ForbiddenFlags: flags.refuse,
		Runners: staff.runners, Unable: staff.unable, Log: log,
	}
	listener, err := a.listen(flags)
	if err != nil {
		return err
	}
	defer listener.close()
	if listener != nil {
		conf.Observer = listener.metrics
	}
	trace, flush, err := a.traces(log)
	if err != nil {
		return err
	}
	defer flush()
	if trace != nil {
		conf.Middleware = append(conf.Middleware, trace)
	}
	// Somebody who looks wants to see each job; a log that is kept does not.
	if a.verbose || (a.ErrTerminal && flags.format == "text") {
		conf.Middleware = append(conf.Middleware, logAttempts(log))
	}
	w, err := worker.New(db.pool, conf)
	if err != nil {
		return err
	}
	listener.serve(db, w, flags, log)
	if flags.once {
		return stopped(ctx, w.RunOnce(ctx))
	}
	follow, err := a.schedules(w, flags, log)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	var following sync.WaitGroup
	defer following.Wait()
	defer stop()
	defer a.tellSystemd(ctx, w.Status, log)()
	following.Go(func() { follow(ctx, stop) })
	return stopped(ctx, w.Run(ctx))
}

// stopped is nil for what fails because a server was told to stop.
func stopped(ctx context.Context, err error) error {
	if ctx.Err() != nil && (err == nil || errors.Is(err, ctx.Err())) {
		return nil
	}
	return err
}

// readTasks reads the task directory.
func (a *app) readTasks(flags *workerFlags, log *slog.Logger) (*tasks.Dir, error) {
	dir, err := tasks.Read(a.taskPath(flags))
	if errors.Is(err, fs.ErrNotExist) && !flags.taskChosen {
		return nil, failed(Usage, "make ./tasks with a task in it, such as hello.js, or name another directory with --tasks", "there is no directory ./tasks")
	}
	if err != nil {
		return nil, failed(Usage, "", "%w", err)
	}
	dir.LogWarnings(log)
	return dir, nil
}

func (a *app) taskPath(flags *workerFlags) string {
	if filepath.IsAbs(flags.tasks) {
		return flags.tasks
	}
	return filepath.Join(a.Project, flags.tasks)
}

// staff are the runners for a task directory.
type staff struct {
	runners []worker.Runner
	unable  map[string]string // tasks that none of them can perform, with the reason
	close   func()
}

// hire starts the runners for dir; an error if there is nothing for them to do.
func (a *app) hire(ctx context.Context, db *database, dir *tasks.Dir, flags *workerFlags, log *slog.Logger) (*staff, error) {
	s := &staff{unable: map[string]string{}, close: func() {}}
	executables, err := exec.New(dir, exec.Config{Env: a.taskEnvironment()})
	if err != nil {
		return nil, err
	}
	if len(executables.Tasks()) > 0 {
		s.runners = append(s.runners, executables)
	}
	if scripts := dir.Of(tasks.Node); len(scripts) > 0 {
		runner, err := node.Start(ctx, dir, node.Config{
			Node: flags.node, Path: a.Getenv("PATH"), Processes: flags.nodeProcesses, Jobs: flags.jobs, Pool: db.pool, Schema: a.schema, URL: a.connString(),
			Env: a.taskEnvironment(), Dir: a.Project, Log: log,
		})
		switch {
		case errors.Is(err, node.ErrNoNode) && flags.node == "":
			// Whatever needs no Node works.
			for _, task := range scripts {
				s.unable[task.Name] = err.Error()
			}
			log.Error("JavaScript tasks do not run; their jobs wait", "reason", err)
		case errors.Is(err, node.ErrNoNode):
			return nil, failed(Usage, "", "%w", err)
		case err != nil:
			return nil, err
		default:
			s.close = runner.Close
			s.unable = runner.Unable()
			for _, name := range slices.Sorted(maps.Keys(s.unable)) {
				log.Error("a task does not run; its jobs wait", "task", name, "reason", s.unable[name])
			}
			if len(runner.Tasks()) > 0 {
				s.runners = append(s.runners, runner)
			}
		}
	}
	if len(s.runners) == 0 {
		s.close()
		return nil, noTask(dir, flags)
	}
	return s, nil
}

func noTask(dir *tasks.Dir, flags *workerFlags) error {
	return failed(Failed, "a task is a file that exports a function, such as "+filepath.Join(flags.tasks, "hello.js")+", or an executable, such as "+
		filepath.Join(flags.tasks, "hello.sh")+" (chmod +x)", "%s holds no task that this worker can run", dir.Path)
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
