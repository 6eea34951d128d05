package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/offstage-dev/offstage"
)

// act is what can be done to many jobs.
type act struct {
	verb, past string // "retry", "retried"
	// do answers the ids it is done to, and those that were asked to stop and have not yet.
	do func(ctx context.Context, c *offstage.Client, ids []int64) (done, requested []int64, err error)
	// refuses says what to tell of a job in this state that was left; "" where nothing stands in the way.
	refuses func(state offstage.State) string
}

func (a *app) jobsRetryCommand() *cobra.Command {
	return a.actCommand(act{
		verb: "retry", past: "retried",
		do: func(ctx context.Context, c *offstage.Client, ids []int64) ([]int64, []int64, error) {
			done, err := c.Retry(ctx, ids...)
			return done, nil, err
		},
		refuses: func(state offstage.State) string {
			if state == offstage.Running {
				return "it is running"
			}
			return ""
		},
	}, "Try failed jobs again, from their first attempt; waiting ones run now", nil)
}

func (a *app) jobsCancelCommand() *cobra.Command {
	var reason string
	c := a.actCommand(act{
		verb: "cancel", past: "cancelled",
		do: func(ctx context.Context, c *offstage.Client, ids []int64) ([]int64, []int64, error) {
			return c.Cancel(ctx, reason, ids...)
		},
		refuses: func(state offstage.State) string {
			if state == offstage.Failed {
				return "it has failed already; retry or delete it"
			}
			return ""
		},
	}, "End jobs without running them; running ones are told to stop", nil)
	c.Flags().StringVar(&reason, "reason", "", "why; it is kept with the jobs")
	return c
}

func (a *app) jobsDeleteCommand() *cobra.Command {
	return a.actCommand(act{
		verb: "delete", past: "deleted",
		do: func(ctx context.Context, c *offstage.Client, ids []int64) ([]int64, []int64, error) {
			done, err := c.Delete(ctx, ids...)
			return done, nil, err
		},
		refuses: func(state offstage.State) string {
			if state == offstage.Running {
				return "it is running; cancel it"
			}
			return ""
		},
	}, "Delete jobs that are not running", []string{"rm"})
}

func (a *app) actCommand(what act, about string, aliases []string) *cobra.Command {
	var filter offstage.Filter
	var all bool
	c := &cobra.Command{
		Use:     what.verb + " {ID… | FILTER}",
		Aliases: aliases,
		Short:   about,
		Example: fmt.Sprintf("  offstage jobs %[1]s 17 18\n  offstage jobs %[1]s --task send_email --state failed --dry-run", what.verb),
		Args:    cobra.ArbitraryArgs,
		ValidArgsFunction: func(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
			return a.completer(liveJobs(what.verb))(cmd, args, toComplete)
		},
	}
	a.filterFlags(c, &filter)
	c.Flags().BoolVar(&all, "all", false, "all jobs")
	a.cautious(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		ids, err := parseIDs(args)
		filtered := filter != (offstage.Filter{})
		if err == nil {
			err = checkFilter(cmd, filter)
		}
		switch {
		case err != nil:
			return err
		case len(ids) > 0 && (filtered || all), filtered && all:
			return errors.New("give ids, or a filter (--state, --task, --queue, --key), or --all; not two of them")
		case len(ids) == 0 && !filtered && !all:
			return errors.New("which jobs? give ids, or a filter (--state, --task, --queue, --key), or --all")
		}
		return a.run(func(ctx context.Context, _ []string) error {
			return a.with(ctx, func(db *database) error {
				if len(ids) > 0 {
					return a.actOnIDs(ctx, db, what, ids)
				}
				return a.actOnFilter(ctx, db, what, filter)
			})
		})(cmd, args)
	}
	return c
}

// cautious adds the flags of everything that cannot be undone.
func (a *app) cautious(c *cobra.Command) {
	c.Flags().BoolVarP(&a.yes, "yes", "y", false, "do not ask")
	c.Flags().BoolVar(&a.dryRun, "dry-run", false, "say how many it would be, and do nothing")
}

// actResult is what became of the jobs; ids as text.
type actResult struct {
	Matched   int      `json:"matched"`
	DryRun    bool     `json:"dry_run"`
	Done      []string `json:"done"`
	Requested []string `json:"requested"`
	Refused   []string `json:"refused"`
	NotFound  []string `json:"not_found"`
}

func texts(ids []int64) []string {
	out := make([]string, 0, len(ids))
	for _, id := range ids {
		out = append(out, strconv.FormatInt(id, 10))
	}
	return out
}

func (a *app) actOnIDs(ctx context.Context, db *database, what act, ids []int64) error {
	found := map[int64]offstage.State{}
	for _, id := range ids {
		job, err := db.client.Get(ctx, id)
		switch {
		case err == nil:
			found[id] = job.State
		case !errors.Is(err, offstage.ErrNotFound):
			return err
		}
	}
	var res actResult
	var possible, refused, unknown []int64
	for _, id := range ids {
		state, known := found[id]
		switch {
		case !known:
			unknown = append(unknown, id)
			if st, err := db.client.Status(ctx, id); err == nil {
				a.say("job %d has ended: %s", id, st.Outcome)
				unknown = unknown[:len(unknown)-1]
				refused = append(refused, id)
			} else {
				a.say("job %d is not known", id)
			}
		case what.refuses(state) != "":
			refused = append(refused, id)
			a.say("job %d is left: %s", id, what.refuses(state))
		default:
			possible = append(possible, id)
		}
	}
	var done, requested []int64
	if !a.dryRun && len(possible) > 0 {
		if err := a.confirm(ctx, what.verb+" "+plural(len(possible), "job")); err != nil {
			return err
		}
		var err error
		if done, requested, err = what.do(ctx, db.client, possible); err != nil {
			return err
		}
		for _, id := range possible {
			if !slices.Contains(done, id) && !slices.Contains(requested, id) {
				refused = append(refused, id)
				a.say("job %d is left: it has changed meanwhile", id)
			}
		}
	}
	res = actResult{len(possible), a.dryRun, texts(done), texts(requested), texts(refused), texts(unknown)}
	if err := a.printAct(what, res); err != nil {
		return err
	}
	switch {
	case len(unknown) > 0:
		return silent(NotFound)
	case len(refused) > 0:
		return silent(Refused)
	}
	return nil
}

// page is how many jobs are looked at, and acted on, at a time. Between the look and the act other sessions may change a
// job; the pages keep that short.
const page = 500

// actOnFilter counts first, asks, then goes through the jobs page by page.
func (a *app) actOnFilter(ctx context.Context, db *database, what act, filter offstage.Filter) error {
	pages := func(each func(possible []int64) error) error {
		f := filter
		f.Limit = page
		for {
			jobs, err := db.client.List(ctx, f)
			if err != nil {
				return err
			}
			var possible []int64
			for _, j := range jobs {
				if what.refuses(j.State) == "" {
					possible = append(possible, j.ID)
				}
				f.After = j.ID
			}
			if err := each(possible); err != nil {
				return err
			}
			if len(jobs) < page {
				return nil
			}
		}
	}
	p := a.progress("counting jobs")
	matched, last := 0, int64(0)
	err := pages(func(ids []int64) error {
		matched += len(ids)
		for _, id := range ids {
			last = id
		}
		p.set("counting jobs: %d", matched)
		return nil
	})
	p.stop()
	if err != nil {
		return err
	}
	var done, requested, refused []int64
	if !a.dryRun && matched > 0 {
		if err := a.confirm(ctx, what.verb+" "+plural(matched, "job")); err != nil {
			return err
		}
		p := a.progress(what.verb)
		err := pages(func(ids []int64) error {
			ids = slices.DeleteFunc(ids, func(id int64) bool { return id > last }) // added since we asked
			if len(ids) == 0 {
				return nil
			}
			d, r, err := what.do(ctx, db.client, ids)
			done, requested = append(done, d...), append(requested, r...)
			for _, id := range ids {
				if err == nil && !slices.Contains(d, id) && !slices.Contains(r, id) {
					refused = append(refused, id)
				}
			}
			p.set("%s: %d of %d", what.past, len(done)+len(requested), matched)
			return err
		})
		p.stop()
		if err != nil {
			a.say("%s before this: %d", what.past, len(done)+len(requested))
			return err
		}
		if len(refused) > 0 {
			a.say("%s left, because they have changed meanwhile", plural(len(refused), "job"))
		}
	}
	return a.printAct(what, actResult{matched, a.dryRun, texts(done), texts(requested), texts(refused), []string{}})
}

func (a *app) printAct(what act, res actResult) error {
	if a.json {
		return a.printJSON(res)
	}
	if res.DryRun {
		_, err := fmt.Fprintf(a.Stdout, "would %s %s\n", what.verb, plural(res.Matched, "job"))
		return err
	}
	said := []string{what.past + " " + plural(len(res.Done), "job")}
	if n := len(res.Requested); n > 0 {
		said = append(said, fmt.Sprintf("asked %s to stop", plural(n, "running job")))
		if len(res.Done) == 0 {
			said = said[1:]
		}
	}
	_, err := fmt.Fprintln(a.Stdout, strings.Join(said, ", "))
	return err
}
