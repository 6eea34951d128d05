package cli

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/offstage-dev/offstage"
)

var outcomes = []offstage.Outcome{
	offstage.OutcomeSucceeded, offstage.OutcomeFailed, offstage.OutcomeCancelled, offstage.OutcomeRemoved, offstage.OutcomeCompleted,
	offstage.OutcomeRetried, offstage.OutcomeSnoozed, offstage.OutcomeReleased, offstage.OutcomeRescued, offstage.OutcomeRefused,
}

func (a *app) jobsHistoryCommand() *cobra.Command {
	var filter offstage.HistoryFilter
	var since time.Duration
	var before string
	var names []string
	for _, o := range outcomes {
		names = append(names, string(o))
	}
	c := &cobra.Command{
		Use:   "history",
		Short: "List what has ended, attempts and jobs, the latest first",
		Long: `Lists attempts that have ended, and ends of jobs, the latest first, as far as their tasks keep history.
"offstage jobs get ID" shows all there is about one job.`,
		Example: `  offstage jobs history --since 1h
  offstage jobs history --outcome failed --task send_email --json`,
		Args: cobra.NoArgs,
	}
	f := c.Flags()
	f.StringVar(&filter.Task, "task", "", "only of this task")
	f.StringVar((*string)(&filter.Outcome), "outcome", "", "only what ended so: "+strings.Join(names, ", "))
	f.Var((*durationFlag)(&since), "since", "only what ended in so much time: 10m, 36h, 2d")
	f.IntVar(&filter.Limit, "limit", 50, "at most so many, up to 10000")
	f.StringVar(&before, "before", "", "only older than this entry: the next page, as the last one said")
	complete(c, "task", a.completer(liveTasks))
	complete(c, "outcome", fixed(names...))
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if err := filled(cmd, "task", "outcome", "before"); err != nil {
			return err
		}
		if filter.Outcome != "" && !slices.Contains(outcomes, filter.Outcome) {
			return fmt.Errorf("--outcome is %q; use one of %s", filter.Outcome, strings.Join(names, ", "))
		}
		if filter.Limit < 1 || filter.Limit > 10000 {
			return fmt.Errorf("--limit is %d; use 1 to 10000", filter.Limit)
		}
		if before != "" {
			at, id, _ := strings.Cut(before, ",")
			var err error
			if filter.Before, err = parseTime(at, time.Local); err != nil {
				return fmt.Errorf("--before: %w", err)
			}
			if id != "" {
				if filter.BeforeJob, err = strconv.ParseInt(id, 10, 64); err != nil {
					return fmt.Errorf("--before: %q is not the id of a job", id)
				}
			}
		}
		if cmd.Flags().Changed("since") {
			filter.Since = time.Now().Add(-since)
		}
		return a.run(func(ctx context.Context, _ []string) error {
			return a.with(ctx, func(db *database) error { return a.jobsHistory(ctx, db, filter) })
		})(cmd, args)
	}
	return c
}

// entryJSON is an entry of history in a list.
type entryJSON struct {
	SettledAt time.Time  `json:"settled_at"`
	ID        string     `json:"id"`
	Task      string     `json:"task"`
	Queue     *string    `json:"queue"`
	Key       *string    `json:"key"`
	Priority  int        `json:"priority"`
	Outcome   string     `json:"outcome"`
	Attempt   int        `json:"attempt"`
	Worker    *string    `json:"worker"`
	AddedAt   time.Time  `json:"added_at"`
	RunAt     time.Time  `json:"run_at"`
	ClaimedAt *time.Time `json:"claimed_at"`
	Error     *string    `json:"error"`
}

func (a *app) jobsHistory(ctx context.Context, db *database, filter offstage.HistoryFilter) error {
	p := a.progress("reading history")
	var list []offstage.Entry
	further := filter
	next := &further
	for len(list) < filter.Limit && next != nil { // a page may be short
		var page []offstage.Entry
		var err error
		next.Limit = filter.Limit - len(list)
		if !next.Before.IsZero() {
			p.set("reading history, back to %s", stamp(next.Before))
		}
		if page, next, err = db.client.ListHistory(ctx, *next); err != nil {
			p.stop()
			return err
		}
		list = append(list, page...)
	}
	p.stop()
	out := make([]entryJSON, 0, len(list))
	t := newTable("SETTLED", ">ID", "TASK", "OUTCOME", ">ATTEMPT", ">TOOK", "WORKER", "ERROR")
	for _, e := range list {
		row := entryJSON{
			SettledAt: e.SettledAt.UTC(), ID: strconv.FormatInt(e.JobID, 10), Task: e.Task, Queue: optional(e.Queue), Key: optional(e.Key), Priority: e.Priority,
			Outcome: string(e.Outcome), Attempt: e.Attempt, Worker: optional(e.Worker), AddedAt: e.AddedAt.UTC(), RunAt: e.RunAt.UTC(), Error: optional(e.Error),
		}
		took := "-"
		if !e.ClaimedAt.IsZero() {
			at := e.ClaimedAt.UTC()
			row.ClaimedAt, took = &at, span(e.SettledAt.Sub(at))
		}
		out = append(out, row)
		t.add(stamp(e.SettledAt), row.ID, short(e.Task, 40), row.Outcome, strconv.Itoa(e.Attempt), took, dash(e.Worker), short(e.Error, 80))
	}
	switch {
	case a.json:
		if err := a.printJSON(out); err != nil {
			return err
		}
	case len(list) > 0:
		a.print(t)
	}
	switch {
	case next != nil:
		a.say("there is more: --before %s,%d", next.Before.UTC().Format(time.RFC3339Nano), next.BeforeJob)
	case len(list) == 0 && !a.json:
		a.say("nothing has ended, or its history is not kept")
	}
	return nil
}
