package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"
)

func (a *app) tasksCommand() *cobra.Command {
	list := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List tasks with their settings", Args: cobra.NoArgs,
		RunE: a.run(func(ctx context.Context, _ []string) error { return a.with(ctx, a.listTasks(ctx)) }),
	}
	var create bool
	named := func(verb, about string, do func(ctx context.Context, db *database, name string) (string, error)) *cobra.Command {
		c := &cobra.Command{
			Use: verb + " NAME", Short: about, Args: cobra.ExactArgs(1), ValidArgsFunction: a.completeFirst(liveTasks),
			RunE: a.run(func(ctx context.Context, args []string) error {
				return a.with(ctx, func(db *database) error {
					if err := a.mustExist(ctx, db, "task", args[0], create); err != nil {
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
		c.Flags().BoolVar(&create, "create", false, "make the task if it is new")
		return c
	}
	pause := named("pause", "Stop a task: its jobs wait, running ones finish", func(ctx context.Context, db *database, name string) (string, error) {
		return fmt.Sprintf("task %s is paused; to let it go on: %s", name, a.command("tasks resume "+name)), db.client.PauseTask(ctx, name)
	})
	resume := named("resume", "Let a paused task go on", func(ctx context.Context, db *database, name string) (string, error) {
		return fmt.Sprintf("task %s goes on", name), db.client.ResumeTask(ctx, name)
	})

	settings := map[string]any{}
	var attempts, timeout, keep, retry string
	configure := named("configure", "Change the settings of a task", func(ctx context.Context, db *database, name string) (string, error) {
		return fmt.Sprintf("task %s is configured; workers follow with their next heartbeat", name), db.configureTask(ctx, name, settings)
	})
	configure.Example = `  offstage tasks configure send_email --max-attempts 5 --timeout 30s
  offstage tasks configure send_email --retry '{"policy": "fixed", "delay": "10 s"}'
  offstage tasks configure send_email --max-attempts default`
	f := configure.Flags()
	f.StringVar(&attempts, "max-attempts", "", "of jobs that do not bring their own; default is 25")
	f.StringVar(&timeout, "timeout", "", "of one attempt; default is none")
	f.StringVar(&keep, "keep", "", "what history holds: all (default), failures or none")
	f.StringVar(&retry, "retry", "", "the retry policy, as JSON; default is Graphile Worker's delays")
	complete(configure, "keep", fixed("all", "failures", "none", "default"))
	configure.PreRunE = func(cmd *cobra.Command, _ []string) error {
		// "default" is null: the setting is taken back.
		read := func(flag, text string, value func(string) (any, error)) error {
			if !cmd.Flags().Changed(flag) {
				return nil
			}
			if text == "default" {
				settings[flag] = nil
				return nil
			}
			v, err := value(text)
			if err != nil {
				return fmt.Errorf("--%s: %w", flag, err)
			}
			settings[flag] = v
			return nil
		}
		err := errors.Join(
			read("max-attempts", attempts, func(s string) (any, error) {
				n, err := strconv.Atoi(s)
				if err != nil || n < 1 || n > 32767 {
					return nil, fmt.Errorf("%q is not a number from 1 to 32767", s)
				}
				return n, nil
			}),
			read("timeout", timeout, func(s string) (any, error) {
				d, err := parseDuration(s)
				if err == nil && d < time.Microsecond {
					err = errors.New("it must be more than nothing; none is: default")
				}
				return fmt.Sprintf("%d us", d.Microseconds()), err
			}),
			read("keep", keep, func(s string) (any, error) {
				if s != "all" && s != "failures" && s != "none" {
					return nil, fmt.Errorf("%q is none of all, failures, none", s)
				}
				return s, nil
			}),
			read("retry", retry, func(s string) (any, error) { return json.RawMessage(s), checkJSON([]byte(s)) }),
		)
		if v, ok := settings["max-attempts"]; ok {
			delete(settings, "max-attempts")
			settings["max_attempts"] = v
		}
		if err == nil && len(settings) == 0 {
			return errors.New("nothing to set; use --max-attempts, --timeout, --keep or --retry")
		}
		return err
	}
	c := &cobra.Command{Use: "tasks", Short: "List, pause, resume and configure tasks", Args: a.subcommands, RunE: list.RunE}
	c.AddCommand(list, pause, resume, configure)
	return c
}

func (a *app) listTasks(ctx context.Context) func(*database) error {
	return func(db *database) error {
		tasks, err := db.tasks(ctx)
		switch {
		case err != nil:
			return err
		case a.json:
			return a.printJSON(tasks)
		case len(tasks) == 0:
			a.say("no tasks; workers register theirs, and the first job makes its own")
			return nil
		}
		t := newTable("NAME", "STATE", ">WORKERS", ">MAX ATTEMPTS", "TIMEOUT", "KEEP", "RETRY")
		for _, k := range tasks {
			state, attempts, timeout, retry := "open", "25", "-", "default"
			if k.Paused {
				state = "paused"
			}
			if k.MaxAttempts != nil {
				attempts = strconv.Itoa(*k.MaxAttempts)
			}
			if k.Timeout != nil {
				timeout = *k.Timeout
			}
			if k.Retry != nil {
				retry = string(k.Retry)
			}
			t.add(k.Name, state, strconv.Itoa(k.Workers), attempts, timeout, k.Keep, retry)
		}
		a.print(t)
		return nil
	}
}
