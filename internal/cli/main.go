// Package cli is the program offstage as a value: everything it reads and writes is in Main, so that tests and the
// demo run it inside their own process. One file holds one command.
package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/schema"
)

// Main is one call of the program. OS fills it from the process.
type Main struct {
	Args           []string // without the program's name
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Getenv         func(string) string

	// OutTerminal and ErrTerminal say that somebody reads along; Ask, that questions can be answered.
	OutTerminal, ErrTerminal, Ask bool
	// Keys says that keys can be read: Stdin is a terminal.
	Keys bool

	// Hangups gets SIGHUP while a worker runs, until stop is called. nil: nobody sends any.
	Hangups func() (signals <-chan os.Signal, stop func())

	// Project is the directory the program was called in. Default: the working directory.
	Project string
	// Notes is where offstage dev notes how to reach its server, so that the other commands find it. "": nowhere.
	Notes string
}

// OS is the call that this process is.
func OS() Main {
	m := Main{
		Args: os.Args[1:], Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Getenv: os.Getenv,
		OutTerminal: isTerminal(os.Stdout), ErrTerminal: isTerminal(os.Stderr),
	}
	m.Hangups = func() (<-chan os.Signal, func()) {
		signals := make(chan os.Signal, 1)
		signal.Notify(signals, syscall.SIGHUP)
		return signals, func() { signal.Stop(signals) }
	}
	m.Keys = isTerminal(os.Stdin)
	m.Ask = m.Keys && m.ErrTerminal
	if cache, err := os.UserCacheDir(); err == nil {
		m.Notes = filepath.Join(cache, "offstage")
	}
	return m
}

// isTerminal: a character device that is not the null device.
func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return false
	}
	null, err := os.Stat(os.DevNull)
	return err != nil || !os.SameFile(info, null)
}

// Run runs the command and answers the exit code. When ctx ends, servers stop gracefully and the code is 0; other
// commands stop where they are, clean up, and the code is 130.
func (m Main) Run(ctx context.Context) (exit int) {
	a := &app{Main: m}
	if a.Getenv == nil {
		a.Getenv = func(string) string { return "" }
	}
	if a.Project == "" {
		a.Project = "."
	}
	root := a.root()
	root.SetArgs(a.Args)
	root.SetIn(a.Stdin)
	root.SetOut(a.Stdout)
	root.SetErr(a.Stderr)
	command, err := root.ExecuteContextC(ctx)
	return a.report(ctx, command, err)
}

// app is Main with what the flags say.
type app struct {
	Main
	url     string
	schema  string
	json    bool
	verbose bool
	yes     bool
	dryRun  bool
	private bool // offstage dev has started a server, and url is its
	ran     bool // the command line was understood: what fails from here on is no usage error
}

const exitCodes = `Exit codes:
  0    done; also a server (worker, dev) that was told to stop
  1    failed
  2    the command line is wrong
  3    not found
  4    refused, because the state of something does not allow it
  5    the database cannot be reached
  6    the schema must be migrated first: offstage migrate
  130  interrupted`

// Groups of the help.
const (
	serving = "serving"
	working = "working"
	caring  = "caring"
)

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "offstage",
		Short: "Background jobs in PostgreSQL",
		Long: `Background jobs in PostgreSQL: jobs are rows, added in the transaction that makes them necessary.

The database is the one of --database-url, else of DATABASE_URL, else of the PG* variables, else the private one of an
"offstage dev" that runs in this directory.

` + exitCodes,
		Example: `  offstage dev                                  a private PostgreSQL and a worker for ./tasks
  offstage add send_email '{"to": "ada@example.com"}' --wait
  offstage jobs list --state failed`,
		Version:       offstage.Version,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          a.subcommands,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetVersionTemplate("offstage {{.Version}}\n")
	root.SetFlagErrorFunc(plainly)
	root.CompletionOptions.DisableDefaultCmd = true
	root.AddGroup(&cobra.Group{ID: serving, Title: "Run jobs:"}, &cobra.Group{ID: working, Title: "Jobs and what they wait for:"},
		&cobra.Group{ID: caring, Title: "The installation:"})
	root.SetHelpCommandGroupID(caring)

	flags := root.PersistentFlags()
	flags.StringVarP(&a.url, "database-url", "c", "", "the database (default: DATABASE_URL, then the PG* variables)")
	flags.StringVarP(&a.schema, "schema", "s", "", `the schema that Offstage is installed in (default: OFFSTAGE_SCHEMA, then "offstage")`)
	flags.BoolVar(&a.json, "json", false, "print JSON instead of tables; ids are strings")
	flags.BoolVarP(&a.verbose, "verbose", "v", false, "say more on stderr")
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error {
		if a.schema == "" {
			a.schema = a.Getenv("OFFSTAGE_SCHEMA")
		}
		if a.schema == "" {
			a.schema = schema.Default
		}
		if err := schema.CheckName(a.schema); err != nil {
			return err
		}
		if flag := cmd.Flags().Lookup("database-url"); flag.Changed && a.url == "" {
			return fmt.Errorf("--database-url is empty; write postgres://user@host/database, or leave it out to use DATABASE_URL")
		}
		return nil
	}

	for group, commands := range map[string][]*cobra.Command{
		serving: {a.devCommand(), a.workerCommand(), a.serveCommand()},
		working: {a.addCommand(), a.jobsCommand(), a.schedulesCommand(), a.queuesCommand(), a.tasksCommand(), a.topCommand(), a.workersCommand()},
		caring:  {a.migrateCommand(), a.doctorCommand(), a.healthcheckCommand(), a.auditCommand(), a.benchCommand(), a.tokensCommand(), a.passwordCommand(), a.versionCommand(), a.completionCommand()},
	} {
		for _, c := range commands {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	return root
}

// run makes a function of ours a cobra one, and marks the point from which errors are not about the command line.
func (a *app) run(do func(ctx context.Context, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		a.ran = true
		return do(cmd.Context(), args)
	}
}

// subcommands is for commands with subcommands: a first argument that is none of them is a mistake.
func (a *app) subcommands(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	text := fmt.Sprintf("%s has no command %q", cmd.CommandPath(), args[0])
	cmd.SuggestionsMinimumDistance = 2 // letters that may differ
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		text += "; did you mean " + strings.Join(near, " or ") + "?"
	}
	return fmt.Errorf("%s", text)
}

// say writes a message for people.
func (a *app) say(format string, args ...any) { fmt.Fprintf(a.Stderr, format+"\n", args...) }

// more is say with --verbose.
func (a *app) more(format string, args ...any) {
	if a.verbose {
		a.say(format, args...)
	}
}
