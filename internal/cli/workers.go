package cli

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
)

func (a *app) workersCommand() *cobra.Command {
	var dead bool
	do := a.run(func(ctx context.Context, _ []string) error {
		return a.with(ctx, func(db *database) error { return a.listWorkers(ctx, db, dead) })
	})
	list := &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "List workers", Args: cobra.NoArgs, RunE: do}
	list.Flags().BoolVar(&dead, "dead", false, "also those that stopped or died in the last day")
	c := &cobra.Command{Use: "workers", Short: "List workers", Args: a.subcommands, RunE: do}
	c.Flags().AddFlag(list.Flags().Lookup("dead"))
	c.AddCommand(list)
	return c
}

func (a *app) listWorkers(ctx context.Context, db *database, dead bool) error {
	workers, err := db.workers(ctx, dead)
	switch {
	case err != nil:
		return err
	case a.json:
		return a.printJSON(workers)
	case len(workers) == 0:
		a.say("no workers; start one: %s", a.command("worker --tasks ./tasks"))
		return nil
	}
	t := newTable(">ID", "STATE", "HOST", ">PID", "VERSION", ">BUSY", "STARTED", "LAST BEAT", "TASKS")
	for _, w := range workers {
		t.add(w.ID, w.State, short(w.Host, 30), strconv.Itoa(w.PID), w.Version, fmt.Sprintf("%d/%d", w.Running, w.Slots),
			when(w.StartedAt), when(w.BeatAt), short(strings.Join(w.Tasks, " "), 80))
	}
	a.print(t)
	return nil
}
