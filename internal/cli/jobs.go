package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/internal/view"
)

var states = []offstage.State{offstage.Scheduled, offstage.Waiting, offstage.Parked, offstage.Paused, offstage.Running, offstage.Failed}

func (a *app) jobsCommand() *cobra.Command {
	list := a.jobsListCommand()
	c := &cobra.Command{
		Use:   "jobs",
		Short: "List, look at, retry, cancel and delete jobs, and read their logs",
		Long: `Lists jobs that have not ended, or have failed, as offstage jobs list does; its commands look at, retry, cancel and delete
jobs, and read their logs.`,
		Args: a.subcommands,
		RunE: list.RunE,
	}
	c.Flags().AddFlagSet(list.Flags())
	c.AddCommand(list, a.jobsHistoryCommand(), a.jobsGetCommand(), a.jobsLogCommand(), a.jobsRetryCommand(), a.jobsCancelCommand(), a.jobsDeleteCommand())
	return c
}

// filterFlags are those that choose jobs.
func (a *app) filterFlags(c *cobra.Command, filter *offstage.Filter) {
	f := c.Flags()
	f.StringVar((*string)(&filter.State), "state", "", "only jobs in this state: "+stateNames())
	f.StringVar(&filter.Task, "task", "", "only jobs of this task")
	f.StringVar(&filter.Queue, "queue", "", "only jobs of this queue")
	f.StringVar(&filter.Key, "key", "", "only the job with this key")
	complete(c, "state", fixed(strings.Split(stateNames(), ", ")...))
	complete(c, "task", a.completer(liveTasks))
	complete(c, "queue", a.completer(liveQueues))
}

func stateNames() string {
	var names []string
	for _, s := range states {
		names = append(names, string(s))
	}
	return strings.Join(names, ", ")
}

func checkFilter(cmd *cobra.Command, f offstage.Filter) error {
	if err := filled(cmd, "state", "task", "queue", "key"); err != nil {
		return err
	}
	if f.State == "" || slices.Contains(states, f.State) {
		return nil
	}
	switch offstage.Outcome(f.State) {
	case offstage.OutcomeSucceeded, offstage.OutcomeCancelled, offstage.OutcomeRemoved, offstage.OutcomeCompleted:
		return fmt.Errorf("--state %s: such jobs have ended, and these are lists of jobs that have not; offstage jobs history --outcome %s lists those, offstage jobs get ID shows one", f.State, f.State)
	}
	return fmt.Errorf("--state is %q; use one of %s", f.State, stateNames())
}

func (a *app) jobsListCommand() *cobra.Command {
	var filter offstage.Filter
	c := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List jobs that have not ended, or have failed",
		Example: `  offstage jobs list --state failed --task send_email
  offstage jobs list --limit 1000 --after 4711 --json`,
		Args: cobra.NoArgs,
	}
	a.filterFlags(c, &filter)
	c.Flags().IntVar(&filter.Limit, "limit", 50, "at most so many, up to 9999")
	c.Flags().Int64Var(&filter.After, "after", 0, "only ids above this one: the next page")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if err := checkFilter(cmd, filter); err != nil {
			return err
		}
		if filter.Limit < 1 || filter.Limit > 9999 {
			return fmt.Errorf("--limit is %d; use 1 to 9999", filter.Limit)
		}
		return a.run(func(ctx context.Context, _ []string) error {
			return a.with(ctx, func(db *database) error { return a.jobsList(ctx, db, filter) })
		})(cmd, args)
	}
	return c
}

// jobJSON is a job in a list.
type jobJSON struct {
	ID          string    `json:"id"`
	Task        string    `json:"task"`
	State       string    `json:"state"`
	Queue       *string   `json:"queue"`
	Key         *string   `json:"key"`
	Flags       []string  `json:"flags"`
	Priority    int       `json:"priority"`
	Attempt     int       `json:"attempt"`
	MaxAttempts int       `json:"max_attempts"`
	RunAt       time.Time `json:"run_at"`
	AddedAt     time.Time `json:"added_at"`
	LastError   *string   `json:"last_error"`
}

func optional(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}

func asJSON(j offstage.Job) jobJSON {
	out := jobJSON{
		ID: strconv.FormatInt(j.ID, 10), Task: j.Task, State: string(j.State), Key: optional(j.Key), Flags: append([]string{}, j.Flags...), Priority: j.Priority,
		Attempt: j.Attempt, MaxAttempts: j.MaxAttempts, RunAt: j.RunAt.UTC(), AddedAt: j.AddedAt.UTC(), LastError: optional(j.LastError),
	}
	if j.HasQueue {
		out.Queue = &j.Queue
	}
	return out
}

func (a *app) jobsList(ctx context.Context, db *database, filter offstage.Filter) error {
	limit := filter.Limit
	filter.Limit++ // one more, to know whether there is a next page
	p := a.progress("listing jobs")
	jobs, err := db.client.List(ctx, filter)
	p.stop()
	if err != nil {
		return err
	}
	more := len(jobs) > limit
	jobs = jobs[:min(len(jobs), limit)]
	if a.json {
		out := make([]jobJSON, 0, len(jobs))
		for _, j := range jobs {
			out = append(out, asJSON(j))
		}
		if err := a.printJSON(out); err != nil {
			return err
		}
	} else if len(jobs) > 0 {
		t := newTable(">ID", "STATE", "TASK", "QUEUE", "KEY", ">PRIORITY", ">ATTEMPT", "RUN AT", "LAST ERROR")
		for _, j := range jobs {
			runAt := when(j.RunAt)
			if j.State == offstage.Failed || j.State == offstage.Running {
				runAt = "-" // it is past, or never comes
			}
			t.add(strconv.FormatInt(j.ID, 10), string(j.State), short(j.Task, 40), dash(short(j.Queue, 24)), dash(short(j.Key, 24)), strconv.Itoa(j.Priority),
				fmt.Sprintf("%d/%d", j.Attempt, j.MaxAttempts), runAt, short(j.LastError, 80))
		}
		a.print(t)
	}
	switch {
	case more:
		a.say("there are more: --after %d", jobs[limit-1].ID)
	case len(jobs) == 0 && !a.json:
		a.say("no jobs")
	}
	return nil
}

func (a *app) jobsGetCommand() *cobra.Command {
	var wait bool
	c := &cobra.Command{
		Use:     "get ID",
		Aliases: []string{"show"},
		Short:   "Show everything about a job: why it is where it is, payload, attempts, result",
		Long: `Shows everything about a job: why it is where it is, payload, attempts, result.

With --wait, waits until it has ended, and fails if it did not succeed.`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeFirst(liveJobs("")),
		RunE: func(cmd *cobra.Command, args []string) error {
			ids, err := parseIDs(args)
			if err != nil {
				return err
			}
			return a.run(func(ctx context.Context, _ []string) error {
				return a.with(ctx, func(db *database) error {
					if !wait {
						return a.jobsGet(ctx, db, ids[0])
					}
					_, err := a.awaitJob(ctx, db, ids[0])
					var ended *offstage.EndedError
					if err != nil && !errors.As(err, &ended) {
						return err
					}
					if err := a.jobsGet(ctx, db, ids[0]); err != nil || ended == nil {
						return err
					}
					return failed(Failed, "", "%w", ended)
				})
			})(cmd, args)
		},
	}
	c.Flags().BoolVar(&wait, "wait", false, "wait until it has ended")
	return c
}

func parseIDs(args []string) ([]int64, error) {
	var ids []int64
	for _, arg := range args {
		id, err := strconv.ParseInt(strings.TrimPrefix(arg, "#"), 10, 64)
		if err != nil || id < 1 {
			return nil, fmt.Errorf("%q is not the id of a job: ids are numbers from 1", arg)
		}
		if !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// jobDetail is a job with all that is known of it.
type jobDetail struct {
	ID           string          `json:"id"`
	Task         string          `json:"task"`
	State        *string         `json:"state"`
	Outcome      *string         `json:"outcome"`
	Explanation  string          `json:"explanation"`
	Why          blocker         `json:"why"`
	Queue        *string         `json:"queue"`
	Key          *string         `json:"key"`
	Flags        []string        `json:"flags"`
	Priority     int             `json:"priority"`
	Attempt      int             `json:"attempt"`
	MaxAttempts  *int            `json:"max_attempts"`
	Crashes      int             `json:"crashes"`
	AddedAt      time.Time       `json:"added_at"`
	RunAt        time.Time       `json:"run_at"`
	RunningSince *time.Time      `json:"running_since"`
	Worker       *string         `json:"worker"`
	SettledAt    *time.Time      `json:"settled_at"`
	Progress     *float32        `json:"progress"`
	Message      *string         `json:"message"`
	LastError    *string         `json:"last_error"`
	Payload      json.RawMessage `json:"payload"`
	Result       json.RawMessage `json:"result"`
	History      []historyRow    `json:"history"`
	Log          []logLine       `json:"log"` // the first thousand lines
}

// blocker is why a job is not running, or what it is doing.
type blocker struct {
	Kind     string     `json:"kind"` // see explain_job() in docs/sql-api.md
	Because  string     `json:"because"`
	Since    *time.Time `json:"since"`
	Until    *time.Time `json:"until"`
	Remedy   string     `json:"remedy"`
	Sentence string     `json:"-"`
}

// mostLines is what one look at a log answers.
const mostLines = 1000

// errorWidth is how much of an error a row of the table of a job's history has room for.
const errorWidth = 100

// historyRow is one attempt that ended, or the end of the job.
type historyRow struct {
	SettledAt time.Time  `json:"settled_at"`
	ClaimedAt *time.Time `json:"claimed_at"`
	Outcome   string     `json:"outcome"`
	Attempt   int        `json:"attempt"`
	Worker    *string    `json:"worker"`
	Error     *string    `json:"error"`
}

func (a *app) jobsGet(ctx context.Context, db *database, id int64) error {
	d, err := db.jobDetail(ctx, id)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(d)
	}
	p := a.outPaint()
	field := func(name, value string) {
		if value != "" {
			fmt.Fprintf(a.Stdout, "%s  %s\n", p.paint(dim, fmt.Sprintf("%-12s", name)), clean(value, false))
		}
	}
	text := func(s *string) string {
		if s == nil {
			return ""
		}
		return *s
	}
	moment := func(t *time.Time) string {
		if t == nil {
			return ""
		}
		return stamp(*t) + " (" + when(*t) + ")"
	}
	now := text(d.State)
	if now == "" {
		now = text(d.Outcome)
	}
	fmt.Fprintf(a.Stdout, "%s  %s  %s\n", p.paint(bold, "job "+d.ID), clean(d.Task, false), p.paint(stateColours[now], now))
	field("why", d.Why.Because)
	field("what to do", view.PlainRemedy(d.Why.Remedy))
	field("queue", text(d.Queue))
	field("key", text(d.Key))
	field("flags", strings.Join(d.Flags, ", "))
	field("priority", strconv.Itoa(d.Priority))
	attempts := strconv.Itoa(d.Attempt)
	if d.MaxAttempts != nil {
		attempts += " of " + strconv.Itoa(*d.MaxAttempts)
	}
	field("attempt", attempts)
	field("added", moment(&d.AddedAt))
	runAt := moment(&d.RunAt)
	if now == string(offstage.Failed) || d.SettledAt != nil && d.RunAt.After(*d.SettledAt) {
		runAt = "-" // it never comes
	}
	field("run at", runAt)
	field("running", moment(d.RunningSince))
	field("worker", text(d.Worker))
	field("settled", moment(d.SettledAt))
	if d.Progress != nil {
		field("progress", fmt.Sprintf("%.0f %% %s", *d.Progress, text(d.Message)))
	}
	block := func(name, body string) {
		if body = strings.TrimRight(body, "\n"); body != "" {
			fmt.Fprintf(a.Stdout, "\n%s\n  %s\n", p.paint(bold, name), strings.ReplaceAll(clean(body, true), "\n", "\n  "))
		}
	}
	block("Payload", pretty(d.Payload))
	block("Result", pretty(d.Result))
	block("Last error", text(d.LastError))
	shown := text(d.LastError)
	for _, h := range slices.Backward(d.History) { // those that the table below cuts, and that say something new
		if e := text(h.Error); e != shown && (strings.Contains(e, "\n") || len(e) > errorWidth) {
			block(fmt.Sprintf("Error of attempt %d", h.Attempt), e)
			shown = e
		}
	}
	if len(d.History) > 0 {
		fmt.Fprintf(a.Stdout, "\n%s\n", p.paint(bold, "History"))
		t := newTable("SETTLED", "OUTCOME", ">ATTEMPT", ">TOOK", "WORKER", "ERROR")
		for _, h := range d.History {
			took := "-"
			if h.ClaimedAt != nil {
				took = span(h.SettledAt.Sub(*h.ClaimedAt))
			}
			t.add(stamp(h.SettledAt), h.Outcome, strconv.Itoa(h.Attempt), took, dash(text(h.Worker)), short(text(h.Error), errorWidth))
		}
		a.print(t)
	}
	for i, l := range d.Log {
		if i == 0 || l.Attempt != d.Log[i-1].Attempt {
			fmt.Fprintf(a.Stdout, "\n%s\n", p.paint(bold, fmt.Sprintf("Log of attempt %d", l.Attempt)))
		}
		fmt.Fprintf(a.Stdout, "  %s\n", strings.ReplaceAll(p.line(l), "\n", "\n  "))
	}
	if len(d.Log) == mostLines {
		a.say("there may be more lines: %s", a.command("jobs log "+d.ID))
	}
	return nil
}

// pretty keeps the order of keys, and numbers as they are.
func pretty(raw json.RawMessage) string {
	var b bytes.Buffer
	if len(raw) == 0 || json.Indent(&b, raw, "", "  ") != nil {
		return string(raw)
	}
	return b.String()
}
