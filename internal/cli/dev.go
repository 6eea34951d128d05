package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/offstage-dev/offstage/internal/devpg"
	"github.com/offstage-dev/offstage/internal/runner/tasks"
	"github.com/offstage-dev/offstage/internal/web"
	"github.com/offstage-dev/offstage/internal/web/guard"
	"github.com/offstage-dev/offstage/schema"
)

// devDatabase is the one that people's jobs are in.
const devDatabase = "offstage"

func (a *app) devCommand() *cobra.Command {
	var w workerFlags
	var data, listen string
	var temporary, noUI bool
	c := &cobra.Command{
		Use:   "dev",
		Short: "Start a private PostgreSQL, install the schema, run the tasks of ./tasks, and serve the web UI",
		Long: `Starts a private PostgreSQL, installs the schema, runs a worker for the tasks of ./tasks, and serves the web UI. Until Ctrl-C,
which stops all of it. The data is kept, outside of the project, and there again next time. Tasks that are changed are loaded anew, and so is ./crontab.

Where a database is named (--database-url, DATABASE_URL, PG*), that one is used, and no PostgreSQL is started. Otherwise
the other commands, called in the same directory, find the private one by themselves.`,
		Example: `  offstage dev
  psql "$(offstage dev url)"`,
		Args: a.subcommands,
	}
	w.register(c)
	w.watch = true
	c.Flags().StringVar(&data, "data", "", "where the private PostgreSQL keeps its data (default: a directory of the user's, one for each project)")
	c.Flags().BoolVar(&temporary, "temporary", false, "throw the data away at the end")
	c.Flags().StringVar(&listen, "listen", defaultListen, "the address of the web UI, on this machine; without this flag, another port where that one is taken")
	c.Flags().BoolVar(&noUI, "no-ui", false, "do not serve the web UI")
	c.MarkFlagsMutuallyExclusive("data", "temporary")
	c.MarkFlagsMutuallyExclusive("listen", "no-ui")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if err := w.check(cmd); err != nil {
			return err
		}
		if err := a.checkTasks(&w); err != nil {
			return err
		}
		if err := guard.CheckAddress(listen, guard.Config{}); err != nil {
			return err
		}
		address := listen
		if noUI {
			address = ""
		}
		chosen := cmd.Flags().Changed("listen")
		return a.run(func(ctx context.Context, _ []string) error {
			return stopped(ctx, a.dev(ctx, &w, data, temporary, address, chosen))
		})(cmd, args)
	}
	c.AddCommand(&cobra.Command{
		Use: "url", Short: "Print the URL of the private PostgreSQL that runs, with its password, for psql and other programs", Args: cobra.NoArgs,
		RunE: a.run(func(context.Context, []string) error {
			url := a.devURL()
			if url == "" {
				return failed(NotFound, "start it: offstage dev", "no private PostgreSQL of offstage dev runs for this directory")
			}
			_, err := fmt.Fprintln(a.Stdout, url)
			return err
		}),
	})
	return c
}

// dev serves the UI at an address, "" for none. One that was not chosen gives way to whoever has it.
func (a *app) dev(ctx context.Context, flags *workerFlags, data string, temporary bool, address string, chosen bool) error {
	var server *devpg.Server
	if source := a.source(); source == fromNothing || source == fromDev {
		var stop func()
		var err error
		if server, stop, err = a.startPrivate(ctx, data, temporary); err != nil {
			return err
		}
		defer stop()
	}
	log := a.logger(flags.format, flags.level)
	cfg, err := a.config(false)
	if err != nil {
		return err
	}
	db, err := a.connect(ctx, cfg)
	if err != nil {
		return err
	}
	defer db.close()
	res, err := migrate(ctx, db, schema.Config{Schema: a.schema})
	if err != nil {
		return err
	}
	a.say("%s", migrated(a.schema, res, false))
	var ui *site
	if address != "" {
		cfg, open := web.Config{Schema: a.schema, Log: log}, a.openUI
		if !chosen {
			open = a.openUsual
		}
		ui, err = open(ctx, db.pool, address, cfg)
		if err != nil {
			return err
		}
	}
	a.banner(ui, a.taskPath(flags))
	play := func(ctx context.Context) error {
		g, ctx := errgroup.WithContext(ctx)
		if ui != nil {
			g.Go(func() error { return ui.run(ctx) })
		}
		g.Go(func() error { return a.rehearse(ctx, db, flags, log) })
		return g.Wait()
	}
	if server == nil || !server.Reused() {
		return play(ctx)
	}
	return asGuest(ctx, server, play)
}

// farewell is how long a worker may take to end whose database has ended for good: it would wait for its return.
const farewell = 3 * time.Second

// asGuest plays for as long as the server is there, which another call has started and will stop.
func asGuest(ctx context.Context, server *devpg.Server, play func(context.Context) error) error {
	playing, stop := context.WithCancel(ctx)
	defer stop()
	played := make(chan error, 1)
	go func() { played <- play(playing) }()

	watching, enough := context.WithCancel(context.WithoutCancel(ctx)) // it may end while we are ending
	watched := make(chan error, 1)
	go func() { watched <- server.AwaitEnd(watching) }()
	select {
	case err := <-played:
		enough()
		<-watched
		return err
	case <-watched:
		enough()
	}
	told := ctx.Err() != nil
	stop()
	over := time.NewTimer(farewell)
	defer over.Stop()
	select {
	case <-played:
	case <-over.C: // the process ends, and its worker with it, as in a crash
	}
	if told {
		return nil
	}
	return failed(Unreachable, "type it again: offstage dev", "PostgreSQL has stopped, with the offstage dev that had started it")
}

// checkTasks tells a mistake in a directory that was named before anything is started for it.
func (a *app) checkTasks(flags *workerFlags) error {
	if !flags.taskChosen {
		return nil
	}
	dir, err := tasks.Read(a.taskPath(flags))
	if err == nil && len(dir.Tasks) == 0 {
		return noTask(dir, flags)
	}
	return err
}

// rehearse runs a worker for the task directory as it is, and another one whenever it has changed. The one before finishes
// what it has begun.
func (a *app) rehearse(ctx context.Context, db *database, flags *workerFlags, log *slog.Logger) error {
	var workers sync.WaitGroup
	defer workers.Wait()
	watch := newWatcher(a.taskPath(flags), a.Project)
	leave := func() {}
	defer func() { leave() }()
	for again := false; ; again = true {
		next, stop := context.WithCancel(ctx)
		broken := make(chan error, 1)
		staff, err := a.castOf(next, db, flags, log)
		leave()
		leave = stop
		switch {
		case err != nil && ctx.Err() != nil:
			return nil
		case err != nil:
			var f *failure
			if !errors.As(err, &f) || (flags.taskChosen && !again) {
				return err
			}
			// A first look needs no tasks.
			a.say("no worker runs: %v; %s", err, f.next)
		default:
			workers.Go(func() {
				defer staff.close()
				if err := a.serve(next, db, flags, staff, log); err != nil {
					broken <- err
				}
			})
		}
		changed := make(chan bool, 1)
		watching, stopWatching := context.WithCancel(ctx)
		go func() { changed <- watch.changed(watching) }()
		select {
		case err := <-broken:
			stopWatching()
			<-changed
			return err
		case goesOn := <-changed:
			stopWatching()
			if !goesOn {
				return nil
			}
			log.Info("the tasks have changed, and are loaded anew")
		}
	}
}

func (a *app) castOf(ctx context.Context, db *database, flags *workerFlags, log *slog.Logger) (*staff, error) {
	dir, err := a.readTasks(flags, log)
	if err != nil {
		return nil, err
	}
	return a.hire(ctx, db, dir, flags, log)
}

// startPrivate starts a server, or joins one that runs, and makes it the database of this call and of others in the
// same project. One that it has joined is neither stopped nor forgotten: that is for the call which has started it.
func (a *app) startPrivate(ctx context.Context, data string, temporary bool) (server *devpg.Server, stop func(), err error) {
	if data == "" && !temporary {
		if data, err = devpg.KeptDir(a.Project); err != nil {
			return nil, nil, err
		}
	}
	server, err = startServer(ctx, data, devDatabase, a.Stderr)
	if err != nil && ctx.Err() != nil {
		return nil, nil, ctx.Err() // however the start has failed then: it was told to stop
	}
	if err != nil {
		return nil, nil, err
	}
	a.url, a.private = server.URL(devDatabase), true
	forget, err := a.ShareURL(a.url)
	if err != nil {
		a.say("other commands will not find this server by themselves: %v", err)
		forget = func() {}
	}
	if server.Reused() {
		return server, func() {}, nil
	}
	return server, func() {
		forget()
		if err := server.Stop(); err != nil {
			a.say("offstage: %v", err)
			return
		}
		a.say("PostgreSQL has stopped")
	}, nil
}

// StartPrivate starts a PostgreSQL with its data in dir ("": a temporary one), with a database of the given name, and
// answers its URL.
func StartPrivate(ctx context.Context, dir, name string, log io.Writer) (url string, stop func() error, err error) {
	server, err := startServer(ctx, dir, name, log)
	if err != nil {
		return "", nil, err
	}
	return server.URL(name), server.Stop, nil
}

func startServer(ctx context.Context, dir, name string, log io.Writer) (*devpg.Server, error) {
	server, err := devpg.Start(ctx, devpg.Config{Dir: dir, Log: log})
	if err != nil {
		return nil, err
	}
	if err := createDatabase(ctx, server.URL("postgres"), name); err != nil {
		return nil, errors.Join(err, server.Stop())
	}
	return server, nil
}

func createDatabase(ctx context.Context, url, name string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return fmt.Errorf("connect to the private PostgreSQL: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	_, err = conn.Exec(ctx, "create database "+pgx.Identifier{name}.Sanitize())
	var pg *pgconn.PgError
	if errors.As(err, &pg) && (pg.Code == "42P04" || pg.Code == "23505") { // it is there already, or since just now
		return nil
	}
	return err
}

func (a *app) banner(ui *site, dir string) {
	p := a.errPaint()
	a.say("")
	if ui != nil {
		a.say("  web UI    %s", p.paint(bold, ui.url))
	}
	a.say("  database  %s", p.paint(bold, a.place()))
	a.say("  add a job %s", p.paint(bold, a.command("add "+someTask(dir)+" '{\"hello\": \"world\"}' --wait")))
	a.say("  look      %s", p.paint(bold, a.command("jobs")))
	if a.private {
		a.say("  SQL       %s", p.paint(bold, `psql "$(offstage dev url)"`))
	}
	a.say("  stop      Ctrl-C")
	a.say("")
}

// someTask is the name of a task that can run here, as an example.
func someTask(path string) string {
	dir, err := tasks.Read(path)
	if err == nil {
		for _, t := range dir.Tasks {
			return t.Name
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		slog.Debug("no example", "error", err)
	}
	return "hello"
}
