// Command demo shows a job system at work: it starts a private PostgreSQL and a worker, adds jobs in every way there
// is, and tells what became of them. ./dev demo runs it.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/offstage-dev/offstage/internal/cli"
)

func main() {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go cli.Obey(signals, cancel, func() { os.Exit(cli.Interrupted) })
	if calledAsOffstage() {
		os.Exit(cli.OS().Run(ctx))
	}
	os.Exit(run(ctx, cli.OS()))
}

// calledAsOffstage: the demo puts a link named offstage to this very program into the PATH of the shell that adds a
// job, so that the shell has the command line and nothing needs to be installed.
func calledAsOffstage() bool { return filepath.Base(os.Args[0]) == "offstage" }

// run is the demo, with the streams and arguments of call. Ctrl-C while it stays up is its proper end.
func run(ctx context.Context, call cli.Main) (exit int) {
	flags := flag.NewFlagSet("demo", flag.ContinueOnError)
	flags.SetOutput(call.Stderr)
	flags.Usage = func() {
		fmt.Fprintln(call.Stderr, "usage: demo [--once]\n\n  --once  stop everything when the jobs are done; fails unless all came out as told")
	}
	once := flags.Bool("once", false, "")
	if err := flags.Parse(call.Args); err != nil || flags.NArg() > 0 {
		if err == nil {
			flags.Usage()
		}
		return cli.Usage
	}
	err := perform(ctx, call, *once)
	switch {
	case err == nil:
		return cli.Done
	case ctx.Err() != nil && *once:
		fmt.Fprintln(call.Stderr, "demo: interrupted; everything it had started is stopped")
		return cli.Interrupted
	case ctx.Err() != nil:
		return cli.Done
	}
	fmt.Fprintf(call.Stderr, "demo: %v\n", err)
	return cli.Failed
}

// narrator writes the story.
type narrator struct{ w io.Writer }

func (n narrator) say(format string, args ...any) { fmt.Fprintf(n.w, format+"\n", args...) }
