package cli

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
)

func (a *app) queuesCommand() *cobra.Command {
	list := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List queues with what is in them", Args: cobra.NoArgs,
		RunE: a.run(func(ctx context.Context, _ []string) error { return a.with(ctx, a.listQueues(ctx)) }),
	}
	var create bool
	var concurrency int
	// named makes a subcommand for one queue that exists, or is to be made.
	named := func(verb, about string, do func(ctx context.Context, db *database, name string) (string, error)) *cobra.Command {
		c := &cobra.Command{
			Use: verb + " NAME", Short: about, Args: cobra.ExactArgs(1), ValidArgsFunction: a.completeFirst(liveQueues),
			RunE: a.run(func(ctx context.Context, args []string) error {
				return a.with(ctx, func(db *database) error {
					if err := a.mustExist(ctx, db, "queue", args[0], create); err != nil {
						return err
					}
					said, err := do(ctx, db, args[0])
					if err == nil {
						a.say("%s", said)
					}
					return err
				})
			}),
		}
		c.Flags().BoolVar(&create, "create", false, "make the queue if it is new")
		return c
	}
	pause := named("pause", "Stop a queue: its jobs wait, running ones finish", func(ctx context.Context, db *database, name string) (string, error) {
		return fmt.Sprintf("queue %s is paused; to let it go on: %s", name, a.command("queues resume "+name)), db.client.PauseQueue(ctx, name)
	})
	resume := named("resume", "Let a paused queue go on", func(ctx context.Context, db *database, name string) (string, error) {
		return fmt.Sprintf("queue %s goes on", name), db.client.ResumeQueue(ctx, name)
	})
	configure := named("configure", "Set how many jobs of a queue run at a time", func(ctx context.Context, db *database, name string) (string, error) {
		return fmt.Sprintf("queue %s runs %s at a time, over all workers", name, plural(concurrency, "job")), db.client.ConfigureQueue(ctx, name, concurrency)
	})
	configure.Flags().IntVar(&concurrency, "concurrency", 0, "how many jobs run at a time, over all workers")
	configure.PreRunE = func(*cobra.Command, []string) error {
		if concurrency < 1 {
			return fmt.Errorf("--concurrency is needed, and at least 1; to stop a queue: offstage queues pause NAME")
		}
		return nil
	}
	c := &cobra.Command{Use: "queues", Short: "List, pause, resume and configure queues", Args: a.subcommands, RunE: list.RunE}
	c.AddCommand(list, pause, resume, configure)
	return c
}

func (a *app) listQueues(ctx context.Context) func(*database) error {
	return func(db *database) error {
		queues, err := db.queues(ctx)
		switch {
		case err != nil:
			return err
		case a.json:
			return a.printJSON(queues)
		case len(queues) == 0:
			a.say("no queues; the first job that names one makes it: offstage add TASK --queue NAME")
			return nil
		}
		t := newTable("NAME", "STATE", ">RUNNING", ">CONCURRENCY", ">PARKED")
		for _, q := range queues {
			state, parked := "open", strconv.Itoa(q.Parked)
			if q.Paused {
				state = "paused"
			}
			if q.Parked >= 10000 {
				parked = "10000+"
			}
			t.add(q.Name, state, strconv.Itoa(q.Running), strconv.Itoa(q.Concurrency), parked)
		}
		a.print(t)
		return nil
	}
}

// mustExist keeps a typo from making a new queue or task.
func (a *app) mustExist(ctx context.Context, db *database, kind, name string, create bool) error {
	if create {
		return nil
	}
	known, err := db.has(ctx, kind, name)
	if err != nil || known {
		return err
	}
	names, err := db.names(ctx, kind)
	if err != nil {
		return err
	}
	next := "there are none yet; --create makes it"
	if len(names) > 0 {
		next = "there are: " + short(strings.Join(names, ", "), 300) + "; --create makes a new one"
	}
	return failed(NotFound, next, "there is no %s %q", kind, name)
}
