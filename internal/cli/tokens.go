package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/spf13/cobra"

	"github.com/offstage-dev/offstage/internal/web/guard"
)

func (a *app) tokensCommand() *cobra.Command {
	list := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List tokens: whose, for what, when last used", Args: cobra.NoArgs,
		RunE: a.run(func(ctx context.Context, _ []string) error { return a.with(ctx, a.listTokens(ctx)) }),
	}
	c := &cobra.Command{Use: "tokens", Short: "Add, list and revoke bearer tokens of the HTTP API", Args: a.subcommands, RunE: list.RunE}
	c.AddCommand(list, a.addTokenCommand(), a.revokeTokenCommand())
	return c
}

// liveTokens are those that can be revoked.
func liveTokens(ctx context.Context, db *database) (names []string, err error) {
	tokens, err := db.tokens(ctx)
	for _, t := range tokens {
		if t.State == "active" {
			names = append(names, t.Name)
		}
	}
	return names, err
}

type tokenRow struct {
	Name       string     `json:"name"`
	Role       string     `json:"role"`
	State      string     `json:"state"` // active, expired or revoked
	CreatedAt  time.Time  `json:"created_at"`
	CreatedBy  string     `json:"created_by"`
	LastUsedAt *time.Time `json:"last_used_at"` // to the minute
	ExpiresAt  *time.Time `json:"expires_at"`
	RevokedAt  *time.Time `json:"revoked_at"`
}

func (db *database) tokens(ctx context.Context) ([]tokenRow, error) {
	return collect[tokenRow](ctx, db, "list tokens", `
		select t.name, t.role, t.state, t.created_at, t.created_by, t.last_used_at, t.expires_at, t.revoked_at
		from offstage.tokens t order by t.name limit 10000`)
}

func (a *app) listTokens(ctx context.Context) func(*database) error {
	return func(db *database) error {
		tokens, err := db.tokens(ctx)
		switch {
		case err != nil:
			return err
		case a.json:
			return a.printJSON(tokens)
		case len(tokens) == 0:
			a.say("no tokens; to make one: %s", a.command("tokens add NAME --role viewer"))
			return nil
		}
		moment := func(t *time.Time, none string) string {
			if t == nil {
				return none
			}
			return when(*t)
		}
		t := newTable("NAME", "ROLE", "STATE", "USED", "EXPIRES", "MADE", "BY")
		for _, x := range tokens {
			t.add(x.Name, x.Role, x.State, moment(x.LastUsedAt, "never"), moment(x.ExpiresAt, "never"), when(x.CreatedAt), x.CreatedBy)
		}
		a.print(t)
		return nil
	}
}

func (a *app) addTokenCommand() *cobra.Command {
	var role string
	var expires time.Duration
	c := &cobra.Command{
		Use: "add NAME --role ROLE", Short: "Make a token and print its secret, this once", Args: cobra.ExactArgs(1), ValidArgsFunction: cobra.NoFileCompletions,
		Long: `Makes a token and prints its secret on stdout. The database keeps no more than a hash of it: nobody can show it again.
Programs send it with each request, as "Authorization: Bearer ost_…"; servers accept it when they run with --tokens.

viewer looks, operator also acts on jobs, and pauses, resumes and runs, admin also changes settings: limits, tasks, schedules. What is
redacted nobody sees.`,
		Example: `  offstage tokens add grafana --role viewer
  offstage tokens add deploy --role operator --expires 90d > deploy.token`,
	}
	c.Flags().StringVar(&role, "role", "", "what it may do: viewer, operator or admin")
	c.Flags().Var((*durationFlag)(&expires), "expires", "after which time it is good no more, such as 90d (default: never)")
	complete(c, "role", fixed("viewer", "operator", "admin"))
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if role == "" {
			return errors.New("--role is needed: viewer, operator or admin")
		}
		if _, err := guard.ParseRole(role); err != nil {
			return fmt.Errorf("--role: %w", err)
		}
		if cmd.Flags().Changed("expires") && expires <= 0 {
			return errors.New("--expires is 0; leave it out for a token that does not expire")
		}
		return a.run(func(ctx context.Context, args []string) error {
			return a.with(ctx, func(db *database) error { return a.addToken(ctx, db, args[0], role, expires) })
		})(cmd, args)
	}
	return c
}

func (a *app) addToken(ctx context.Context, db *database, name, role string, expires time.Duration) error {
	var secret string
	var until *time.Time
	err := db.pool.QueryRow(ctx, db.sql(`
		with made as materialized (select offstage.create_token($1::text, $2::text, nullif($3::float8, 0) * interval '1 s') as secret)
		select m.secret, now() + nullif($3::float8, 0) * interval '1 s' from made m`), name, role, expires.Seconds()).Scan(&secret, &until)
	var pg *pgconn.PgError
	switch {
	case errors.As(err, &pg) && pg.Code == "22023":
		return failed(Usage, pg.Hint, "%s", pg.Message)
	case errors.As(err, &pg) && pg.Code == "23505":
		return failed(Refused, "choose another name, or first: "+a.command("tokens revoke "+name), "%s", pg.Message)
	case err != nil:
		return fmt.Errorf("add token %s: %w", name, err)
	}
	if a.json {
		return a.printJSON(map[string]any{"name": name, "role": role, "expires_at": until, "token": secret})
	}
	if _, err := fmt.Fprintln(a.Stdout, secret); err != nil {
		return err
	}
	ends := "does not expire"
	if until != nil {
		ends = "expires on " + until.Local().Format("2006-01-02 15:04")
	}
	a.say("token %s has the role %s and %s; keep its secret, it cannot be shown again", name, role, ends)
	return nil
}

func (a *app) revokeTokenCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "revoke NAME", Short: "Take a token back: the next request with it is refused", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completeFirst(liveTokens),
		RunE: a.run(func(ctx context.Context, args []string) error {
			return a.with(ctx, func(db *database) error { return a.revokeToken(ctx, db, args[0]) })
		}),
	}
	c.Flags().BoolVarP(&a.yes, "yes", "y", false, "do not ask")
	c.Flags().BoolVar(&a.dryRun, "dry-run", false, "say what it would be, and do nothing")
	return c
}

func (a *app) revokeToken(ctx context.Context, db *database, name string) error {
	found, err := collect[tokenRow](ctx, db, "look for the token", `
		select t.name, t.role, t.state, t.created_at, t.created_by, t.last_used_at, t.expires_at, t.revoked_at from offstage.tokens t where t.name = $1::text`, name)
	if err != nil {
		return err
	}
	if len(found) == 0 {
		return failed(NotFound, "tokens: "+a.command("tokens list"), "there is no token %q", name)
	}
	t := found[0]
	used := "never used"
	if t.LastUsedAt != nil {
		used = "last used " + when(*t.LastUsedAt)
	}
	about := fmt.Sprintf("token %s (%s, %s, %s)", name, t.Role, t.State, used)
	if a.dryRun {
		a.say("would revoke %s", about)
		return nil
	}
	if err := a.confirm(ctx, "revoke "+about); err != nil {
		return err
	}
	var good bool
	if err := db.pool.QueryRow(ctx, db.sql(`select offstage.revoke_token($1::text)`), name).Scan(&good); err != nil {
		return fmt.Errorf("revoke token %s: %w", name, err)
	}
	if good {
		a.say("token %s is revoked", name)
	} else {
		a.say("token %s was good no more already; it is revoked", name)
	}
	return nil
}
