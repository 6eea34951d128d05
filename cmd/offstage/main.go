// Command offstage is the command line of Offstage: a worker for a directory of tasks, and what looks after jobs.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	_ "time/tzdata" // schedules name zones, and not every system has them

	"github.com/offstage-dev/offstage/internal/cli"
)

// The first SIGINT or SIGTERM asks the command to stop, a later one ends the process.
func main() {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go cli.Obey(signals, cancel, func() {
		fmt.Fprintln(os.Stderr, "offstage: forced to stop")
		os.Exit(cli.Interrupted)
	})
	os.Exit(cli.OS().Run(ctx))
}
