package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/spf13/cobra"
)

func (a *app) workersCommand() *cobra.Command {
	var dead bool
	do := a.run(func(ctx context.Context, _ []string) error {
		return a.with(ctx, func(db *database) error { return a.listWorkers(ctx, db, dead) })
	})
	list := &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "List workers", Args: cobra.NoArgs, RunE: do}
	list.Flags().BoolVar(&dead, "dead", false, "also those that died in the last day; one that stops in good order is gone at once")
	c := &cobra.Command{Use: "workers", Short: "List, drain, resume and stop workers", Args: a.subcommands, RunE: do}
	c.Flags().AddFlag(list.Flags().Lookup("dead"))
	c.AddCommand(list,
		a.oneWorkerCommand("drain", "Have a worker take no more jobs; running ones finish, and it stays", a.drainWorker),
		a.oneWorkerCommand("resume", "Let a drained worker go on", a.resumeWorker))
	stop := a.oneWorkerCommand("stop", "Stop a worker: running jobs finish, for its grace period, then its process ends", a.stopWorker)
	stop.Flags().BoolVarP(&a.yes, "yes", "y", false, "do not ask")
	stop.Flags().BoolVar(&a.dryRun, "dry-run", false, "say what it would be, and do nothing")
	c.AddCommand(stop)
	return c
}

// oneWorkerCommand does something to one worker that lives.
func (a *app) oneWorkerCommand(verb, about string, do func(ctx context.Context, db *database, w workerRow) error) *cobra.Command {
	return &cobra.Command{
		Use: verb + " ID", Short: about, Args: cobra.ExactArgs(1), ValidArgsFunction: a.completeFirst(liveWorkers),
		RunE: a.run(func(ctx context.Context, args []string) error {
			id, err := strconv.ParseInt(strings.TrimPrefix(args[0], "worker-"), 10, 32)
			if err != nil || id < 1 {
				return failed(Usage, "ids of workers: "+a.command("workers"), "%q is no id of a worker", args[0])
			}
			return a.with(ctx, func(db *database) error {
				workers, err := db.workers(ctx, true)
				if err != nil {
					return err
				}
				i := slices.IndexFunc(workers, func(w workerRow) bool { return w.ID == strconv.FormatInt(id, 10) })
				if i < 0 || workers[i].DeadAt != nil {
					return a.noWorker(strconv.FormatInt(id, 10))
				}
				return do(ctx, db, workers[i])
			})
		}),
	}
}

func (a *app) noWorker(id string) error {
	return failed(NotFound, "those that live: "+a.command("workers"), "no worker of the id %s lives", id)
}

// liveWorkers are the ids of those that live.
func liveWorkers(ctx context.Context, db *database) (ids []string, err error) {
	workers, err := db.workers(ctx, false)
	for _, w := range workers {
		ids = append(ids, w.ID)
	}
	return ids, err
}

func (a *app) drainWorker(ctx context.Context, db *database, w workerRow) error {
	if err := a.tellWorker(ctx, db, w, "drain", `select offstage.drain_worker($1::text::integer)`); err != nil {
		return err
	}
	if w.Wanted == "stop" {
		a.say("worker %s was told to stop already", w.ID)
		return nil
	}
	a.say("worker %s is drained: it takes no more jobs, and what it runs (%s) finishes; to let it go on: %s", w.ID, plural(w.Running, "job"), a.command("workers resume "+w.ID))
	a.sayIfSilent(w)
	return nil
}

func (a *app) resumeWorker(ctx context.Context, db *database, w workerRow) error {
	if err := a.tellWorker(ctx, db, w, "resume", `select offstage.undrain_worker($1::text::integer)`); err != nil {
		return err
	}
	if w.Wanted == "" {
		a.say("worker %s was not drained; it goes on", w.ID)
	} else {
		a.say("worker %s goes on", w.ID)
	}
	a.sayIfSilent(w)
	return nil
}

func (a *app) stopWorker(ctx context.Context, db *database, w workerRow) error {
	about := fmt.Sprintf("stop worker %s (process %d on %s, %s claimed)", w.ID, w.PID, w.Host, plural(w.Running, "job"))
	if a.dryRun {
		a.say("would %s", about)
		return nil
	}
	if err := a.confirm(ctx, about); err != nil {
		return err
	}
	if err := a.tellWorker(ctx, db, w, "stop", `select offstage.drain_worker($1::text::integer, stop => true)`); err != nil {
		return err
	}
	a.say("worker %s stops: what it runs finishes, for its grace period; to see it go: %s", w.ID, a.command("workers"))
	a.sayIfSilent(w)
	return nil
}

// tellWorker calls a function that answers whether the worker lives.
func (a *app) tellWorker(ctx context.Context, db *database, w workerRow, verb, sql string) error {
	var lives bool
	err := db.pool.QueryRow(ctx, db.sql(sql), w.ID).Scan(&lives)
	var pg *pgconn.PgError
	switch {
	case errors.As(err, &pg) && pg.Code == "55006":
		return failed(Refused, "it cannot be called back; start another one: "+a.command("worker"), "%s", pg.Message)
	case err != nil:
		return fmt.Errorf("%s worker %s: %w", verb, w.ID, err)
	case !lives: // it has ended since it was looked up
		return a.noWorker(w.ID)
	}
	return nil
}

func (a *app) sayIfSilent(w workerRow) {
	if w.State == "silent" {
		a.say("it has been silent since %s, and will know when it beats again", when(w.BeatAt))
	}
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
		t.add(w.ID, w.State+w.told(), short(w.Host, 30), strconv.Itoa(w.PID), w.Version, fmt.Sprintf("%d/%d", w.Running, w.Slots),
			when(w.StartedAt), when(w.BeatAt), short(strings.Join(w.Tasks, " "), 80))
	}
	a.print(t)
	return nil
}

// told is what its state does not say: what somebody wants of it, and that it hears no notifications.
func (w workerRow) told() string {
	if w.DeafSince != nil {
		w.DeafSince = nil
		return w.told() + ", deaf"
	}
	if w.Wanted == "stop" || w.Wanted == "drain" && w.State != "draining" {
		return ", told to " + w.Wanted
	}
	return ""
}
