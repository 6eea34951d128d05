package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/internal/cron"
)

// upcoming is how many of the next times are shown.
const upcoming = 5

func (a *app) schedulesCommand() *cobra.Command {
	list := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List schedules, in plain English", Args: cobra.NoArgs,
		RunE: a.run(func(ctx context.Context, _ []string) error { return a.with(ctx, a.listSchedules(ctx)) }),
	}
	get := &cobra.Command{
		Use: "get NAME", Aliases: []string{"show"}, Short: "Show everything about a schedule, and its next five times",
		Args: cobra.ExactArgs(1), ValidArgsFunction: a.completeFirst(liveSchedules),
		RunE: a.run(func(ctx context.Context, args []string) error {
			return a.with(ctx, func(db *database) error { return a.getSchedule(ctx, db, args[0]) })
		}),
	}
	named := func(verb, about string, do func(ctx context.Context, db *database, name string) error) *cobra.Command {
		return &cobra.Command{
			Use: verb + " NAME", Short: about, Args: cobra.ExactArgs(1), ValidArgsFunction: a.completeFirst(liveSchedules),
			RunE: a.run(func(ctx context.Context, args []string) error {
				return a.with(ctx, func(db *database) error { return do(ctx, db, args[0]) })
			}),
		}
	}
	pause := named("pause", "Stop a schedule until it is resumed, wherever it comes from", func(ctx context.Context, db *database, name string) error {
		if err := db.client.PauseSchedule(ctx, name); err != nil {
			return err
		}
		a.say("schedule %s is paused; to let it go on: %s", name, a.command("schedules resume "+name))
		return nil
	})
	resume := named("resume", "Let a paused schedule go on from now", func(ctx context.Context, db *database, name string) error {
		if err := db.client.ResumeSchedule(ctx, name); err != nil {
			return err
		}
		a.say("schedule %s goes on", name)
		return nil
	})
	run := named("run", "Add the job of a schedule now, beside its ticks", func(ctx context.Context, db *database, name string) error {
		id, err := db.client.RunSchedule(ctx, name)
		if err != nil {
			return err
		}
		if a.json {
			return a.printJSON(map[string]string{"id": strconv.FormatInt(id, 10)})
		}
		_, err = fmt.Fprintln(a.Stdout, id)
		return err
	})
	c := &cobra.Command{
		Use: "schedules", Short: "List, add, pause, resume, run and remove schedules", Args: a.subcommands, RunE: list.RunE,
	}
	c.AddCommand(list, get, a.addScheduleCommand(), pause, resume, run, a.removeScheduleCommand())
	return c
}

func liveSchedules(ctx context.Context, db *database) ([]string, error) {
	return db.names(ctx, "schedule")
}

// scheduleJSON is a schedule for programs.
type scheduleJSON struct {
	Name        string          `json:"name"`
	Task        string          `json:"task"`
	Expression  string          `json:"expression"`
	Description string          `json:"description"`
	TimeZone    string          `json:"time_zone"`
	Source      string          `json:"source"`
	State       string          `json:"state"` // on, paused, overdue, failing or over
	Next        []time.Time     `json:"next"`
	LastTick    *time.Time      `json:"last_tick"`
	LastJob     *string         `json:"last_job"`
	LastState   *string         `json:"last_state"` // of that job: its outcome, or its state
	Ticks       int64           `json:"ticks"`
	Skipped     int64           `json:"skipped"`
	Error       *string         `json:"error"`
	Payload     json.RawMessage `json:"payload"`
	Queue       *string         `json:"queue"`
	MaxAttempts *int            `json:"max_attempts"`
	Priority    int             `json:"priority"`
	Key         *string         `json:"key"`
	KeyMode     *string         `json:"key_mode"`
	Jitter      *string         `json:"jitter"`
	From        *time.Time      `json:"from"`
	Until       *time.Time      `json:"until"`
	Overlap     string          `json:"overlap"`
	Catchup     *string         `json:"catchup"`
	Fill        *string         `json:"fill"`
	SeenAt      *time.Time      `json:"seen_at"`
}

func scheduleAsJSON(s offstage.ScheduleStatus, now time.Time) scheduleJSON {
	moment := func(t time.Time) *time.Time {
		if t.IsZero() {
			return nil
		}
		t = t.UTC()
		return &t
	}
	period := func(d time.Duration) *string {
		if d == 0 {
			return nil
		}
		return optional(d.String())
	}
	out := scheduleJSON{
		Name: s.Name, Task: s.Task, Expression: s.Expression, TimeZone: s.TimeZone, Source: s.Source, Next: []time.Time{}, LastTick: moment(s.LastTick),
		LastState: optional(s.LastState), Ticks: s.Ticks, Skipped: s.Skipped, Error: optional(s.Error), Queue: optional(s.Queue), Priority: s.Priority,
		Key: optional(s.Key), KeyMode: optional(string(s.KeyMode)), Jitter: period(s.Jitter), From: moment(s.From), Until: moment(s.Until),
		Overlap: overlap(s.SkipOverlap), Catchup: optional(s.Catchup), Fill: period(s.Fill), SeenAt: moment(s.SeenAt),
	}
	out.Payload, _ = s.Payload.(json.RawMessage)
	if s.LastJob != 0 {
		out.LastJob = optional(strconv.FormatInt(s.LastJob, 10))
	}
	if s.MaxAttempts != 0 {
		out.MaxAttempts = &s.MaxAttempts
	}
	out.Description, out.Next = describe(s.Schedule, now)
	switch {
	case s.Paused:
		out.State = "paused"
	case s.Error != "":
		out.State = "failing"
	case s.Overdue:
		out.State = "overdue"
	case len(out.Next) == 0:
		out.State = "over"
	default:
		out.State = "on"
	}
	return out
}

func overlap(skip bool) string {
	if skip {
		return "skip"
	}
	return "allow"
}

// describe says in English when a schedule is due, and its next times, in its zone.
func describe(s offstage.Schedule, now time.Time) (text string, next []time.Time) {
	next = []time.Time{}
	zone, err := time.LoadLocation(s.TimeZone)
	if err != nil {
		return s.Expression, next
	}
	e, err := cron.Parse(s.Expression, zone)
	if err != nil {
		return s.Expression, next
	}
	if s.From.After(now) {
		now = s.From.Add(-1)
	}
	for len(next) < upcoming {
		at, ok := e.Next(now)
		if !ok || (!s.Until.IsZero() && at.After(s.Until)) {
			break
		}
		next = append(next, at)
		now = at
	}
	return e.Describe(), next
}

func (a *app) listSchedules(ctx context.Context) func(*database) error {
	return func(db *database) error {
		schedules, err := db.client.Schedules(ctx)
		if err != nil {
			return err
		}
		now := time.Now()
		all := make([]scheduleJSON, len(schedules))
		for i, s := range schedules {
			all[i] = scheduleAsJSON(s, now)
		}
		switch {
		case a.json:
			return a.printJSON(all)
		case len(all) == 0:
			a.say("no schedules; such as: %s", a.command("schedules add nightly report '0 2 * * *'"))
			return nil
		}
		t := newTable("NAME", "STATE", "TASK", "WHEN", "ZONE", "NEXT", "LAST", "LAST JOB", "FROM")
		for _, s := range all {
			next, last, job := "-", "-", "-"
			if len(s.Next) > 0 && s.State != "paused" {
				next = when(s.Next[0])
			}
			if s.LastTick != nil {
				last = when(*s.LastTick)
			}
			if s.LastJob != nil {
				job = *s.LastJob
				if s.LastState != nil {
					job += " " + *s.LastState
				}
			}
			t.add(short(s.Name, 40), s.State, short(s.Task, 40), short(s.Description, 60), s.TimeZone, next, last, job, s.Source)
		}
		a.print(t)
		for _, s := range all {
			if s.Error != nil {
				a.say("%s: %s", s.Name, short(*s.Error, 200))
			}
		}
		return nil
	}
}

func (db *database) schedule(ctx context.Context, name string) (offstage.ScheduleStatus, error) {
	all, err := db.client.Schedules(ctx)
	if err != nil {
		return offstage.ScheduleStatus{}, err
	}
	i := slices.IndexFunc(all, func(s offstage.ScheduleStatus) bool { return s.Name == name })
	if i < 0 {
		return offstage.ScheduleStatus{}, fmt.Errorf("%w: %s", offstage.ErrNoSchedule, name)
	}
	return all[i], nil
}

func (a *app) getSchedule(ctx context.Context, db *database, name string) error {
	status, err := db.schedule(ctx, name)
	if err != nil {
		return err
	}
	s := scheduleAsJSON(status, time.Now())
	if a.json {
		return a.printJSON(s)
	}
	p := a.outPaint()
	field := func(name string, value *string) {
		if value != nil && *value != "" {
			fmt.Fprintf(a.Stdout, "%s  %s\n", p.paint(dim, fmt.Sprintf("%-12s", name)), clean(*value, false))
		}
	}
	text := func(format string, args ...any) *string { return optional(fmt.Sprintf(format, args...)) }
	moment := func(t *time.Time) *string {
		if t == nil {
			return nil
		}
		return text("%s (%s)", stamp(*t), when(*t))
	}
	fmt.Fprintf(a.Stdout, "%s  %s  %s\n", p.paint(bold, "schedule "+clean(s.Name, false)), clean(s.Task, false), p.paint(stateColours[s.State], s.State))
	field("", text("%s, in %s", s.Description, s.TimeZone))
	field("expression", &s.Expression)
	field("from", text("%s", map[string]string{"database": "the database", "crontab": "a crontab file", "program": "a program"}[s.Source]))
	if s.Source != "database" {
		field("seen", moment(s.SeenAt))
	}
	field("not before", moment(s.From))
	field("not after", moment(s.Until))
	field("queue", s.Queue)
	if s.MaxAttempts != nil {
		field("attempts", text("%d", *s.MaxAttempts))
	}
	if s.Priority != 0 {
		field("priority", text("%d", s.Priority))
	}
	field("key", s.Key)
	field("key mode", s.KeyMode)
	field("jitter", s.Jitter)
	if s.Overlap != "allow" {
		field("overlap", &s.Overlap)
	}
	field("catchup", s.Catchup)
	field("fill", s.Fill)
	field("last tick", moment(s.LastTick))
	if s.LastJob != nil {
		state := "is not known any more"
		if s.LastState != nil {
			state = *s.LastState
		}
		field("last job", text("%s: %s", *s.LastJob, state))
	}
	field("ticks", text("%d added a job, %d were skipped", s.Ticks, s.Skipped))
	field("error", s.Error)
	a.printNext(s)
	if len(s.Payload) > 0 {
		fmt.Fprintf(a.Stdout, "\n%s\n  %s\n", p.paint(bold, "Payload"), strings.ReplaceAll(clean(pretty(s.Payload), true), "\n", "\n  "))
	}
	return nil
}

func (a *app) printNext(s scheduleJSON) {
	if len(s.Next) == 0 {
		return
	}
	zone, err := time.LoadLocation(s.TimeZone)
	if err != nil {
		return
	}
	fmt.Fprintf(a.Stdout, "\n%s\n", a.outPaint().paint(bold, "Next"))
	for _, t := range s.Next {
		fmt.Fprintf(a.Stdout, "  %s (%s)\n", t.In(zone).Format("Mon 2006-01-02 15:04:05 -0700"), when(t))
	}
}

func (a *app) addScheduleCommand() *cobra.Command {
	var s offstage.Schedule
	var mode, from, until, over string
	c := &cobra.Command{
		Use:   "add NAME TASK EXPRESSION [PAYLOAD|-]",
		Short: "Add a schedule, or change the one of that name, and show when it is due",
		Long: `Adds a schedule, or changes the one of that name as a whole: what is left out takes its default. EXPRESSION is five cron fields
(minute, hour, day of month, month, day of week), six with seconds in front, or a word such as @daily. PAYLOAD is a JSON
object, {} if left out, - for stdin; each job's has "_cron" in it besides, which names the tick.`,
		Example: `  offstage schedules add nightly report '30 2 * * *' --tz Europe/Berlin
  offstage schedules add poll fetch '*/10 * * * * *' '{"from": "shop"}' --overlap skip --dry-run`,
		Args:              cobra.RangeArgs(3, 4),
		ValidArgsFunction: a.completeNth(liveSchedules, liveTasks),
	}
	f := c.Flags()
	f.StringVar(&s.TimeZone, "tz", "", "the time zone of the expression, such as Europe/Berlin (default: UTC)")
	f.StringVar(&s.Queue, "queue", "", "the queue of its jobs")
	f.IntVar(&s.MaxAttempts, "max-attempts", 0, "how often a job is tried (default: the task's, 25 unless configured)")
	f.IntVar(&s.Priority, "priority", 0, "lower is more urgent")
	f.StringVar(&s.Key, "key", "", "the job_key: at most one waiting job has it")
	f.StringVar(&mode, "key-mode", "", "when a job has the key: replace (default) or preserve_run_at")
	f.Var((*durationFlag)(&s.Jitter), "jitter", "put each job off by some part of this")
	f.StringVar(&from, "from", "", "no ticks before this time, or date, in the schedule's zone")
	f.StringVar(&until, "until", "", "no ticks after this time, or date, in the schedule's zone")
	f.StringVar(&over, "overlap", "allow", "while the job before has not ended: allow, or skip the tick")
	f.StringVar(&s.Catchup, "catchup", "", "ticks that are late by more than a minute: none, one (the latest), all, or a number (default: those that came while a worker lived)")
	f.Var((*durationFlag)(&s.Fill), "fill", "make up for ticks that are not older, also from before a worker lived; not with --catchup")
	f.BoolVar(&a.dryRun, "dry-run", false, "say when it would be due, and do nothing")
	c.MarkFlagsMutuallyExclusive("catchup", "fill")
	complete(c, "queue", a.completer(liveQueues))
	complete(c, "key-mode", fixed(string(offstage.Replace), string(offstage.PreserveRunAt)))
	complete(c, "overlap", fixed("allow", "skip"))
	complete(c, "catchup", fixed("none", "one", "all"))
	c.RunE = func(cmd *cobra.Command, args []string) error {
		s.Name, s.Task, s.Expression, s.KeyMode, s.SkipOverlap = args[0], args[1], args[2], offstage.KeyMode(mode), over == "skip"
		if err := cmp.Or(filled(cmd, "tz", "queue", "key", "key-mode", "from", "until", "catchup"), between(cmd, "max-attempts", s.MaxAttempts, 1, 32767), between(cmd, "priority", s.Priority, -32768, 32767)); err != nil {
			return err
		}
		zone, err := time.LoadLocation(s.TimeZone)
		switch {
		case s.TimeZone == "Local" || err != nil:
			return fmt.Errorf("--tz is %q, which is not known; write a name such as Europe/Berlin", s.TimeZone)
		case over != "allow" && over != "skip":
			return fmt.Errorf("--overlap is %q; use allow or skip", over)
		}
		if _, err := cron.Parse(s.Expression, zone); err != nil {
			return err
		}
		if s.From, err = momentIn(from, zone, false); err != nil {
			return fmt.Errorf("--from: %w", err)
		}
		if s.Until, err = momentIn(until, zone, true); err != nil {
			return fmt.Errorf("--until: %w", err)
		}
		if len(args) == 4 {
			payload, err := a.readPayload(args[3])
			if err != nil {
				return err
			}
			s.Payload = payload
		}
		return a.run(func(ctx context.Context, _ []string) error { return a.addSchedule(ctx, s) })(cmd, args)
	}
	return c
}

// momentIn reads a time of a zone, or a date: its first moment, or its last second.
func momentIn(text string, zone *time.Location, last bool) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	at, err := parseTime(text, zone)
	if _, date := time.Parse(time.DateOnly, text); err == nil && date == nil && last {
		at = at.AddDate(0, 0, 1).Add(-time.Second)
	}
	return at, err
}

func (a *app) addSchedule(ctx context.Context, s offstage.Schedule) error {
	return a.with(ctx, func(db *database) error {
		if !a.dryRun {
			if err := db.client.AddSchedule(ctx, s); err != nil {
				return err
			}
		}
		if s.TimeZone == "" {
			s.TimeZone = "UTC"
		}
		out := scheduleAsJSON(offstage.ScheduleStatus{Schedule: s, Source: "database"}, time.Now())
		if a.json {
			if payload, ok := s.Payload.(json.RawMessage); ok {
				out.Payload = payload
			}
			return a.printJSON(out)
		}
		verb := "is due"
		if a.dryRun {
			verb = "would be due"
		}
		a.say("schedule %s %s %s, in %s", s.Name, verb, out.Description, s.TimeZone)
		a.printNext(out)
		return nil
	})
}

func (a *app) removeScheduleCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "remove NAME", Aliases: []string{"rm"}, Short: "Remove a schedule; jobs that it has added stay",
		Args: cobra.ExactArgs(1), ValidArgsFunction: a.completeFirst(liveSchedules),
		RunE: a.run(func(ctx context.Context, args []string) error {
			return a.with(ctx, func(db *database) error { return a.removeSchedule(ctx, db, args[0]) })
		}),
	}
	c.Flags().BoolVarP(&a.yes, "yes", "y", false, "do not ask")
	c.Flags().BoolVar(&a.dryRun, "dry-run", false, "say what it would be, and do nothing")
	return c
}

func (a *app) removeSchedule(ctx context.Context, db *database, name string) error {
	s, err := db.schedule(ctx, name)
	if err != nil {
		return err
	}
	about, _ := describe(s.Schedule, time.Now())
	if a.dryRun {
		a.say("would remove schedule %s (%s %s)", name, s.Task, about)
		return nil
	}
	if err := a.confirm(ctx, fmt.Sprintf("remove schedule %s (%s %s)", name, s.Task, about)); err != nil {
		return err
	}
	if err := db.client.RemoveSchedule(ctx, name); err != nil {
		return err
	}
	a.say("schedule %s is removed", name)
	return nil
}
