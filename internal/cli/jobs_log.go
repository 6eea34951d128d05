package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/offstage-dev/offstage"
)

// followEvery is how often --follow looks: workers send as often.
const followEvery = 250 * time.Millisecond

func (a *app) jobsLogCommand() *cobra.Command {
	follow := false
	c := &cobra.Command{
		Use:     "log ID",
		Aliases: []string{"logs"},
		Short:   "Show what a job's attempts have logged, also while they run",
		Long: `Show the lines that a job's attempts have logged and printed, also those of an attempt that runs.

With --follow, wait for more until the job has ended. With --json, each line is an object on a line of its own.`,
		Example: `  offstage jobs log 4711 --follow
  offstage jobs log 4711 --json | jq -r 'select(.level == "error").message'`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeFirst(liveJobs("")),
		RunE: func(cmd *cobra.Command, args []string) error {
			ids, err := parseIDs(args)
			if err != nil {
				return err
			}
			return a.run(func(ctx context.Context, _ []string) error {
				return a.with(ctx, func(db *database) error { return a.jobsLog(ctx, db, ids[0], follow) })
			})(cmd, args)
		},
	}
	c.Flags().BoolVarP(&follow, "follow", "f", false, "wait for more lines until the job has ended")
	return c
}

func (a *app) jobsLog(ctx context.Context, db *database, id int64, follow bool) error {
	var last *offstage.LogLine
	for {
		status, missing := db.client.Status(ctx, id) // before the lines: those of a job that has ended are all there
		if missing != nil && !errors.Is(missing, offstage.ErrNotFound) {
			return missing
		}
		for {
			lines, err := db.client.Log(ctx, id, last)
			if err != nil {
				return err
			}
			for i := range lines {
				if err := a.printLine(&lines[i], last); err != nil {
					return err
				}
				last = &lines[i]
			}
			if len(lines) == 0 {
				break
			}
		}
		switch {
		case missing != nil && last == nil:
			return missing // what ended and is not kept may have lines all the same
		case missing != nil || status.Outcome != "" || !follow:
			if last == nil && !a.json {
				a.say("no lines")
			}
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(followEvery):
		}
	}
}

// logLine is a line of a job's log.
type logLine struct {
	At      time.Time       `json:"at"`
	Attempt int             `json:"attempt"`
	Level   string          `json:"level"`
	Message string          `json:"message"`
	Attrs   json.RawMessage `json:"attrs,omitempty"`
}

func lineJSON(l *offstage.LogLine) logLine {
	return logLine{l.At.UTC(), l.Attempt, l.Level, l.Message, l.Attrs}
}

// printLine prints a line, and which attempt begins with it.
func (a *app) printLine(l, before *offstage.LogLine) error {
	if a.json {
		enc := json.NewEncoder(a.Stdout)
		enc.SetEscapeHTML(false)
		return enc.Encode(lineJSON(l))
	}
	p := a.outPaint()
	if before == nil || before.Claim != l.Claim {
		fmt.Fprintf(a.Stdout, "%s\n", p.paint(bold, fmt.Sprintf("attempt %d, %s", l.Attempt, l.At.Local().Format("2006-01-02"))))
	}
	_, err := fmt.Fprintln(a.Stdout, p.line(lineJSON(l)))
	return err
}

// line is a line of a log for people.
func (p painter) line(l logLine) string {
	text, colour := clean(strings.TrimRight(l.Message, "\n"), true), ""
	var level slog.Level
	if err := level.UnmarshalText([]byte(l.Level)); err == nil && level != slog.LevelInfo {
		switch {
		case level >= slog.LevelError:
			colour = red
		case level >= slog.LevelWarn:
			colour = yellow
		}
		text = strings.ToUpper(l.Level) + " " + text
	}
	text = p.paint(dim, l.At.Local().Format("15:04:05.000")) + " " + p.paint(colour, strings.ReplaceAll(text, "\n", "\n             "))
	if l.Attrs != nil {
		text += " " + p.paint(dim, clean(string(l.Attrs), false))
	}
	return text
}
