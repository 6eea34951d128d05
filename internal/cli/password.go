package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/offstage-dev/offstage/internal/web/guard"
)

func (a *app) passwordCommand() *cobra.Command {
	var word string
	c := &cobra.Command{
		Use: "password NAME", Short: "Ask for a password, and print the line of a user for serve --users", Args: cobra.ExactArgs(1), ValidArgsFunction: cobra.NoFileCompletions,
		Long: `Asks for a password twice, without showing it, and prints a line of the file that serve --users reads: the name, the role, and a
bcrypt hash of the password. Without a terminal the password is the first line of stdin. No database is needed.

viewer looks, operator also acts on jobs, and pauses, resumes and runs, admin also changes settings: limits, tasks, schedules. What is
redacted nobody sees.`,
		Example: `  offstage password ada --role admin >> users
  offstage serve --users users`,
	}
	c.Flags().StringVar(&word, "role", "viewer", "what the user may do: viewer, operator or admin")
	complete(c, "role", fixed("viewer", "operator", "admin"))
	c.RunE = func(cmd *cobra.Command, args []string) error {
		role, err := guard.ParseRole(word)
		if err != nil {
			return fmt.Errorf("--role: %w", err)
		}
		return a.run(func(ctx context.Context, args []string) error {
			password, err := a.askPassword(ctx, args[0])
			if err != nil {
				return err
			}
			line, err := guard.UserLine(args[0], role, password)
			if err != nil {
				return failed(Usage, "", "%w", err)
			}
			if a.json {
				return a.printJSON(map[string]string{"name": args[0], "role": role.String(), "line": line})
			}
			_, err = fmt.Fprintln(a.Stdout, line)
			return err
		})(cmd, args)
	}
	return c
}

// askPassword reads a password that nobody sees: from a terminal twice, else the first line.
func (a *app) askPassword(ctx context.Context, name string) (string, error) {
	terminal, ok := a.Stdin.(*os.File)
	if !ok || !a.Keys {
		line, err := bufio.NewReader(io.LimitReader(a.Stdin, 4096)).ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return "", fmt.Errorf("read the password: %w", err)
		}
		if line = strings.TrimRight(line, "\r\n"); line == "" {
			return "", failed(Usage, "write it into stdin, or call this on a terminal to be asked", "there is no password")
		}
		return line, nil
	}
	first, err := a.readHidden(ctx, terminal, "password for "+clean(name, false)+": ")
	if err != nil {
		return "", err
	}
	second, err := a.readHidden(ctx, terminal, "the same again: ")
	if err != nil {
		return "", err
	}
	if first != second {
		return "", failed(Failed, "call it again", "these were two different passwords")
	}
	return first, nil
}

// readHidden reads a line without echo. When ctx ends, the terminal shows again what is typed: the read itself cannot be stopped.
func (a *app) readHidden(ctx context.Context, terminal *os.File, question string) (string, error) {
	fd := int(terminal.Fd())
	before, err := term.GetState(fd)
	if err != nil {
		return "", fmt.Errorf("read the password: %w", err)
	}
	fmt.Fprint(a.Stderr, question)
	type answer struct {
		line []byte
		err  error
	}
	read := make(chan answer, 1)
	go func() {
		line, err := term.ReadPassword(fd)
		read <- answer{line, err}
	}()
	select {
	case <-ctx.Done():
		_ = term.Restore(fd, before)
		a.say("")
		return "", ctx.Err()
	case got := <-read:
		a.say("")
		if got.err != nil {
			return "", fmt.Errorf("read the password: %w", got.err)
		}
		return string(got.line), nil
	}
}
