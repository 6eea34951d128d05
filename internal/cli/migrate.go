package cli

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"github.com/offstage-dev/offstage/schema"
)

func (a *app) migrateCommand() *cobra.Command {
	var asSQL bool
	var from int
	c := &cobra.Command{
		Use:   "migrate",
		Short: "Install the schema, or bring it up to date",
		Long: `Installs the schema, or brings it up to date: all of it or nothing, in one transaction. Called twice it does no harm,
and any number of processes may call it at once.

The role needs CREATE on the database, or both schemas (NAME and NAME_private) made for it and owned by it.`,
		Example: `  offstage migrate
  offstage migrate --dry-run
  offstage migrate --sql > 0042_offstage.sql    for a migration tool of your own`,
		Args: cobra.NoArgs,
	}
	c.Flags().BoolVar(&a.dryRun, "dry-run", false, "say what would be done, and do nothing")
	c.Flags().BoolVar(&asSQL, "sql", false, "print the SQL instead of running it; needs no database")
	c.Flags().IntVar(&from, "from", 0, "with --sql: the version that the database has; 0 is none")
	c.MarkFlagsMutuallyExclusive("dry-run", "sql")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if cmd.Flags().Changed("from") && (!asSQL || from < 0 || from > schema.Version()) {
			return fmt.Errorf("--from goes with --sql, and is between 0 and %d", schema.Version())
		}
		return a.run(func(ctx context.Context, _ []string) error {
			if asSQL {
				sql, err := schema.Dump(a.schema, from)
				if err != nil {
					return err
				}
				_, err = io.WriteString(a.Stdout, sql)
				return err
			}
			return a.migrate(ctx)
		})(cmd, args)
	}
	return c
}

func (a *app) migrate(ctx context.Context) error {
	cfg, err := a.config(true)
	if err != nil {
		return err
	}
	db, err := a.connect(ctx, cfg)
	if err != nil {
		return err
	}
	defer db.close()
	p := a.progress("migrating, or waiting for another process that is")
	res, err := migrate(ctx, db, schema.Config{Schema: a.schema, DryRun: a.dryRun})
	p.stop()
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(struct {
			Schema  string   `json:"schema"`
			From    int      `json:"from"`
			To      int      `json:"to"`
			Applied []string `json:"applied"`
			DryRun  bool     `json:"dry_run"`
			Newer   bool     `json:"newer"`
		}{a.schema, res.From, res.To, append([]string{}, res.Applied...), a.dryRun, res.Newer})
	}
	fmt.Fprintln(a.Stdout, migrated(a.schema, res, a.dryRun))
	return nil
}

func migrated(name string, res schema.Result, dryRun bool) string {
	switch {
	case res.Newer:
		return fmt.Sprintf("schema %s has version %d, which is newer than this program, and fits", name, res.To)
	case len(res.Applied) == 0:
		return fmt.Sprintf("schema %s is up to date at version %d", name, res.To)
	}
	if res.From == res.To {
		verb := "were"
		if dryRun {
			verb = "would be"
		}
		return fmt.Sprintf("schema %s is at version %d; functions and views that were missing %s made anew", name, res.To, verb)
	}
	verb := "went"
	if dryRun {
		verb = "would go"
	}
	return fmt.Sprintf("schema %s %s from version %d to %d: %s", name, verb, res.From, res.To, strings.Join(res.Applied, ", "))
}

func migrate(ctx context.Context, db *database, cfg schema.Config) (res schema.Result, err error) {
	err = db.pool.AcquireFunc(ctx, func(conn *pgxpool.Conn) error {
		var err error
		res, err = schema.Migrate(ctx, conn.Conn(), cfg)
		return err
	})
	return res, err
}
