package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
)

func (a *app) completionCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "completion {bash|zsh|fish|powershell}",
		Short: "Print a script that teaches the shell to complete commands, tasks, queues and job ids",
		Example: `  source <(offstage completion bash)                       in ~/.bashrc
  offstage completion zsh > "${fpath[1]}/_offstage"
  offstage completion fish > ~/.config/fish/completions/offstage.fish`,
		Args:      cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
		ValidArgs: []string{"bash", "zsh", "fish", "powershell"},
	}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		a.ran = true
		root := cmd.Root()
		switch args[0] {
		case "bash":
			return root.GenBashCompletionV2(a.Stdout, true)
		case "zsh":
			return root.GenZshCompletion(a.Stdout)
		case "fish":
			return root.GenFishCompletion(a.Stdout, true)
		case "powershell":
			return root.GenPowerShellCompletionWithDesc(a.Stdout)
		}
		return fmt.Errorf("the shell %q is not known", args[0])
	}
	return c
}

type completion = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective)

// live answers values from the database.
type live func(ctx context.Context, db *database) ([]string, error)

func liveTasks(ctx context.Context, db *database) ([]string, error)  { return db.names(ctx, "task") }
func liveQueues(ctx context.Context, db *database) ([]string, error) { return db.names(ctx, "queue") }

func liveJobs(verb string) live {
	return func(ctx context.Context, db *database) ([]string, error) { return db.someJobs(ctx, verb == "retry") }
}

// completer asks the database, for a second at most and without a word when that fails: somebody is typing.
func (a *app) completer(values live) completion {
	return func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		ctx := cmd.Context()
		if ctx == nil {
			ctx = context.Background()
		}
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		if cmd.Root().PersistentPreRunE(cmd, nil) != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		cfg, err := a.config(true)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		db, err := a.connect(ctx, cfg)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		defer db.close()
		found, err := values(ctx, db)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return found, cobra.ShellCompDirectiveNoFileComp
	}
}

// completeFirst completes the first argument only.
func (a *app) completeFirst(values live) completion {
	return func(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return a.completer(values)(cmd, args, toComplete)
	}
}

// completeNth completes the n-th argument with the n-th of these.
func (a *app) completeNth(values ...live) completion {
	return func(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
		if len(args) >= len(values) {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return a.completer(values[len(args)])(cmd, args, toComplete)
	}
}

func fixed(values ...string) completion {
	return cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)
}

func complete(c *cobra.Command, flag string, f completion) {
	if err := c.RegisterFlagCompletionFunc(flag, f); err != nil {
		panic(err) // the flag is not there, or has one
	}
}
