package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"sync"

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
	c.Flags().StringVar(&listen, "listen", defaultListen, "the address of the web UI, on this machine; when its port is taken, another one is")
	c.Flags().BoolVar(&noUI, "no-ui", false, "do not serve the web UI")
	c.MarkFlagsMutuallyExclusive("data", "temporary")
	c.MarkFlagsMutuallyExclusive("listen", "no-ui")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if err := w.check(cmd); err != nil {
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
	if source := a.source(); source == fromNothing || source == fromDev {
		stop, err := a.startPrivate(ctx, data, temporary)
		if err != nil {
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
	a.banner(ui)
	g, ctx := errgroup.WithContext(ctx)
	if ui != nil {
		g.Go(func() error { return ui.run(ctx) })
	}
	g.Go(func() error { return a.rehearse(ctx, db, flags, log) })
	return g.Wait()
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
// same project.
func (a *app) startPrivate(ctx context.Context, data string, temporary bool) (stop func(), err error) {
	if data == "" && !temporary {
		if data, err = devpg.KeptDir(a.Project); err != nil {
			return nil, err
		}
	}
	url, stopServer, err := StartPrivate(ctx, data, devDatabase, a.Stderr)
	if err != nil && ctx.Err() != nil {
		return nil, ctx.Err() // however the start has failed then: it was told to stop
	}
	if err != nil {
		return nil, err
	}
	a.url, a.private = url, true
	forget, err := a.ShareURL(url)
	if err != nil {
		a.say("other commands will not find this server by themselves: %v", err)
		forget = func() {}
	}
	return func() {
		forget()
		if err := stopServer(); err != nil {
			a.say("offstage: %v", err)
			return
		}
		a.say("PostgreSQL has stopped")
	}, nil
}

// StartPrivate starts a PostgreSQL with its data in dir ("": a temporary one), with a database of the given name, and
// answers its URL.
func StartPrivate(ctx context.Context, dir, name string, log io.Writer) (url string, stop func() error, err error) {
	server, err := devpg.Start(ctx, devpg.Config{Dir: dir, Log: log})
	if err != nil {
		return "", nil, err
	}
	if err := createDatabase(ctx, server.URL("postgres"), name); err != nil {
		return "", nil, errors.Join(err, server.Stop())
	}
	return server.URL(name), server.Stop, nil
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

func (a *app) banner(ui *site) {
	p := a.errPaint()
	a.say("")
	if ui != nil {
		a.say("  web UI    %s", p.paint(bold, ui.url))
	}
	a.say("  database  %s", p.paint(bold, a.place()))
	a.say("  add a job %s", p.paint(bold, "offstage add "+a.someTask()+" '{\"hello\": \"world\"}' --wait")+a.flagFor())
	a.say("  look      %s", p.paint(bold, "offstage jobs")+a.flagFor())
	if a.private {
		a.say("  SQL       %s", p.paint(bold, `psql "$(offstage dev url)"`))
	}
	a.say("  stop      Ctrl-C")
	a.say("")
}

// flagFor is what other commands need to find a database that only this call was told of.
func (a *app) flagFor() string {
	if !a.private && a.source() == fromFlag {
		return " --database-url " + a.place()
	}
	return ""
}

// someTask is the name of a task that can run here, as an example.
func (a *app) someTask() string {
	dir, err := tasks.Read(a.Project + "/tasks")
	if err == nil {
		for _, t := range dir.Tasks {
			return t.Name
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		slog.Debug("no example", "error", err)
	}
	return "hello"
}
