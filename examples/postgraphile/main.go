// Command postgraphile shows jobs in a PostGraphile application: it starts PostgreSQL, PostGraphile and a worker, and follows
// a report from the mutation that asks for it to the subscription that brings it. ./dev example postgraphile runs it;
// README.md says what is what.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/offstage-dev/offstage/internal/devpg"
)

const (
	done        = 0
	failed      = 1
	usage       = 2
	interrupted = 130
)

func main() {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-signals
		cancel()
		<-signals
		os.Exit(interrupted)
	}()
	self, err := os.Executable()
	if err != nil {
		fmt.Fprintln(os.Stderr, "postgraphile:", err)
		os.Exit(failed)
	}
	call := call{dir: filepath.Join("examples", "postgraphile"), bin: filepath.Dir(self), out: os.Stdout, errs: os.Stderr}
	os.Exit(call.run(ctx, os.Args[1:]))
}

// call is one run of the example.
type call struct {
	dir       string // of the example's files
	bin       string // where the programs offstage and goworker are
	out, errs io.Writer
}

// run answers the exit code. Ctrl-C while it stays up is its proper end.
func (c call) run(ctx context.Context, args []string) (exit int) {
	flags := flag.NewFlagSet("postgraphile", flag.ContinueOnError)
	flags.SetOutput(c.errs)
	flags.Usage = func() {
		fmt.Fprint(c.errs, `usage: ./dev example postgraphile [--v4] [--go] [--once]

  --v4    PostGraphile 4.14 with @graphile/pg-pubsub, instead of PostGraphile 5
  --go    the task in Go (goworker/main.go), instead of JavaScript (tasks/sales_report.js)
  --once  stop everything when the story is told; fails unless all came out as told
`)
	}
	v4 := flags.Bool("v4", false, "")
	inGo := flags.Bool("go", false, "")
	once := flags.Bool("once", false, "")
	if err := flags.Parse(args); err != nil || flags.NArg() > 0 {
		if err == nil {
			flags.Usage()
		}
		return usage
	}
	s := &stage{dir: c.dir, bin: c.bin, v4: *v4, kind: "js"}
	if *inGo {
		s.kind = "go"
	}
	err := c.perform(ctx, s, *once)
	switch {
	case err == nil:
		return done
	case ctx.Err() != nil && *once:
		fmt.Fprintln(c.errs, "postgraphile: interrupted; everything it had started is stopped")
		return interrupted
	case ctx.Err() != nil:
		return done
	}
	fmt.Fprintf(c.errs, "postgraphile: %v\n", err)
	return failed
}

func (c call) perform(ctx context.Context, s *stage, once bool) (err error) {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	server, err := devpg.Start(ctx, devpg.Config{Log: c.errs})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Stop()) }()
	defer func() { err = errors.Join(err, s.close()) }()
	if !once {
		s.log = c.errs
	}
	if err := s.open(ctx, server); err != nil {
		return err
	}
	if _, err := s.startWorker(ctx); err != nil {
		return err
	}
	if err := s.tell(ctx, c.out); err != nil || once {
		return err
	}
	return s.stay(ctx, c.out)
}
