package schema

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Errors that callers compare with errors.Is.
var (
	// ErrNewer: a newer program has made a breaking change to the schema; this one must not touch it.
	ErrNewer = errors.New("the database needs a newer Offstage")
	// ErrOlder: the schema is missing or older than this program; migrate it.
	ErrOlder = errors.New("the database needs a migration")
	// ErrGraphile: the schema belongs to Graphile Worker.
	ErrGraphile = errors.New("the schema belongs to Graphile Worker")
	// ErrHalf: tables are gone that no migration brings back, while other parts of the installation are there.
	ErrHalf = errors.New("the schema is damaged")
)

// Config says what to migrate.
type Config struct {
	// Schema is the name of the schema with functions and views; tables are in the one with "_private" behind.
	// Default: "offstage". Those who switch from Graphile Worker use "graphile_worker".
	Schema string
	// DryRun finds out what is to be done and does nothing.
	DryRun bool
}

func (c Config) name() string {
	if c.Schema == "" {
		return Default
	}
	return c.Schema
}

// Result is what a migration did, or would do.
type Result struct {
	From, To int      // versions; 0 is none
	Applied  []string // names of the steps; of an up-to-date schema that lacks functions or views, one that says so
	Newer    bool     // the database is newer, in ways that this program can live with
}

// Migrate brings the schema up to date, all of it or nothing, in one transaction. Functions and views that are missing it makes
// anew, be it that somebody has dropped the whole schema that they are in: jobs are in the other one. Any number of processes may
// call it at once: one works, the others wait for it. The caller must be the owner of the schemas, or may CREATE in the database.
func Migrate(ctx context.Context, conn *pgx.Conn, cfg Config) (Result, error) {
	name := cfg.name()
	if err := CheckName(name); err != nil {
		return Result{}, err
	}
	tx, err := conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.ReadCommitted})
	if err != nil {
		return Result{}, fmt.Errorf("migrate: %w", err)
	}
	defer tx.Rollback(context.WithoutCancel(ctx))
	if !cfg.DryRun {
		// One lock for all schemas of a database: two installations may share extensions of the catalog.
		if _, err := tx.Exec(ctx, `select pg_advisory_xact_lock(7331, 1), set_config('search_path', '', true)`); err != nil {
			return Result{}, fmt.Errorf("migrate: %w", err)
		}
	}
	found, err := inspect(ctx, tx, name)
	if err != nil {
		return Result{}, fmt.Errorf("migrate: %w", err)
	}
	res := Result{From: found.version, To: Version()}
	if found.version > Version() {
		if found.breaking > Version() {
			return res, newer(name, found)
		}
		if !found.api {
			return res, gone(name, found)
		}
		res.To, res.Newer = found.version, true
		return res, nil
	}
	for _, m := range migrations() {
		if m.version > found.version {
			res.Applied = append(res.Applied, fmt.Sprintf("%04d_%s", m.version, m.name))
		}
	}
	if len(res.Applied) == 0 {
		lost, err := missing(ctx, tx, name)
		if err != nil {
			return res, fmt.Errorf("migrate: %w", err)
		}
		if len(lost) > 0 {
			res.Applied = []string{"functions and views made anew"}
		}
	}
	if cfg.DryRun || len(res.Applied) == 0 {
		return res, nil
	}
	if _, err := tx.Exec(ctx, script(name, found)); err != nil {
		return res, fmt.Errorf("migrate schema %s: %w", name, explain(err))
	}
	if err := tx.Commit(ctx); err != nil {
		return res, fmt.Errorf("migrate: %w", err)
	}
	return res, nil
}

// Dump is the SQL that Migrate would run to come from one version (0: an empty database) to the current one, as a
// script for psql or another migration tool.
func Dump(schema string, from int) (string, error) {
	if schema == "" {
		schema = Default
	}
	if err := CheckName(schema); err != nil {
		return "", err
	}
	if from < 0 || from > Version() {
		return "", fmt.Errorf("dump: version %d is not between 0 and %d", from, Version())
	}
	head := "-- Offstage, schema " + schema + fmt.Sprintf(", version %d to %d\nbegin;\nselect pg_advisory_xact_lock(7331, 1);\n", from, Version())
	return head + script(schema, state{version: from}) + "commit;\n", nil
}

// Missing lists functions, views and other things that Migrate makes anew. The schema must have the version of this program.
func Missing(ctx context.Context, conn *pgx.Conn, schema string) ([]string, error) {
	lost, err := missing(ctx, conn, Config{Schema: schema}.name())
	if err != nil {
		return nil, fmt.Errorf("look for what is missing: %w", err)
	}
	return lost, nil
}

var made = regexp.MustCompile(`(?m)^\s*create (?:or replace )?(function|view|type|table) ([a-z_0-9]+\.[a-z_0-9]+)`)

func missing(ctx context.Context, db querier, schema string) (lost []string, err error) {
	var kinds, names []string
	for _, m := range made.FindAllStringSubmatch(rename(functions(), schema), -1) {
		kinds, names = append(kinds, m[1]), append(names, m[2])
	}
	// Some functions have one name: as many must be there.
	err = db.QueryRow(ctx, `
		with have as (
		  select n.nspname || '.' || p.proname as name, true as function, count(*) as n
		  from pg_catalog.pg_proc p join pg_catalog.pg_namespace n on n.oid = p.pronamespace
		  where n.nspname in ($3::text, $3::text || '_private') group by 1
		  union all
		  select n.nspname || '.' || c.relname, false, 1
		  from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
		  where n.nspname in ($3::text, $3::text || '_private')
		), want as (
		  select w.kind, w.name, count(*) as n from unnest($1::text[], $2::text[]) w (kind, name) group by 1, 2
		)
		select array(
		  select case w.kind when 'function' then w.name else w.kind || ' ' || w.name end
		  from want w left join have h on h.name = w.name and h.function = (w.kind = 'function')
		  where coalesce(h.n, 0) < w.n order by 1)`, kinds, names, schema).Scan(&lost)
	return lost, err
}

// Check says whether the schema fits this program: nil, ErrOlder, ErrNewer, ErrGraphile or ErrHalf, wrapped with what to do.
func Check(ctx context.Context, conn *pgx.Conn, schema string) error {
	if schema == "" {
		schema = Default
	}
	if err := CheckName(schema); err != nil {
		return err
	}
	found, err := inspect(ctx, conn, schema)
	switch {
	case err != nil:
		return err
	case found.breaking > Version():
		return newer(schema, found)
	case found.version < Version():
		return fmt.Errorf("schema %q has version %d, this program needs %d: run offstage migrate%s: %w",
			schema, found.version, Version(), flag(schema), ErrOlder)
	case !found.api:
		return gone(schema, found)
	}
	return nil
}

// gone is for a public schema that somebody has dropped. Only a program of its version knows what was in it.
func gone(schema string, found state) error {
	if found.version > Version() {
		return fmt.Errorf("schema %q is gone; its jobs are still in %[1]s_private, which has version %d, and this program knows versions up to %d: run migrate of that newer Offstage: %w",
			schema, found.version, Version(), ErrNewer)
	}
	return fmt.Errorf("schema %q is gone; its jobs are still in %[1]s_private: run offstage migrate%s, which makes it anew: %w", schema, flag(schema), ErrOlder)
}

func flag(schema string) string {
	if schema == Default {
		return ""
	}
	return " --schema " + schema
}

func newer(schema string, found state) error {
	return fmt.Errorf("schema %q has version %d with the breaking migration %d, this program knows versions up to %d: install a newer Offstage: %w",
		schema, found.version, found.breaking, Version(), ErrNewer)
}

// state is what is installed.
type state struct {
	version    int  // 0: nothing
	breaking   int  // the newest breaking migration
	api, inner bool // the two schemas exist
}

type querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

func inspect(ctx context.Context, db querier, schema string) (state, error) {
	var s state
	var graphile, ours, jobs, rest, reserved bool
	err := db.QueryRow(ctx, `
		select exists (select from pg_catalog.pg_namespace where nspname = $1),
		  exists (select from pg_catalog.pg_namespace where nspname = $1 || '_private'),
		  exists (select from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
		    where n.nspname = $1 and c.relname in ('_private_jobs', 'jobs') and c.relkind in ('r', 'p')),
		  exists (select from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
		    where n.nspname = $1 || '_private' and c.relname = 'migration' and c.relkind = 'r'),
		  exists (select from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
		    where n.nspname = $1 || '_private' and c.relname = 'job' and c.relkind = 'r'),
		  exists (select from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
		    where n.nspname = $1 and c.relname = '_private_jobs' and c.relkind = 'c'),
		  exists (select from pg_catalog.pg_get_keywords() where word = $1 and catcode <> 'U')`, schema).
		Scan(&s.api, &s.inner, &graphile, &ours, &jobs, &rest, &reserved)
	switch {
	case err != nil:
		return s, err
	case reserved:
		return s, fmt.Errorf("schema name %q is not allowed: it is a reserved word of SQL", schema)
	case graphile:
		return s, fmt.Errorf("schema %q holds a Graphile Worker installation: nothing was changed; "+
			"choose another name with --schema (a later version of this program takes it over: offstage adopt): %w", schema, ErrGraphile)
	case ours:
	case jobs:
		return s, fmt.Errorf("schema \"%s_private\" has lost its table migration, which says what version it has: restore that table from a backup: %w", schema, ErrHalf)
	case rest:
		return s, fmt.Errorf("schema %q is there, but the tables that were in %[1]s_private are gone, and all jobs with them: restore that schema from a backup, "+
			"or drop what is left (drop schema %[1]s cascade, which holds no jobs) and run offstage migrate%s: %w", schema, flag(schema), ErrHalf)
	default:
		return s, nil
	}
	err = db.QueryRow(ctx, `select coalesce(max(version), 0), coalesce(max(version) filter (where breaking), 0) from `+schema+`_private.migration`).
		Scan(&s.version, &s.breaking)
	return s, err
}

// script is the SQL from the state found to the current version; the functions come last, as a whole.
func script(schema string, found state) string {
	var b strings.Builder
	// "if not exists" wants the right to create schemas where there is nothing to create, too.
	create := func(schema string) {
		fmt.Fprintf(&b, "do $$ begin if to_regnamespace('%[1]s') is null then create schema %[1]s; end if; end $$;\n", schema)
	}
	if !found.api {
		create("offstage")
	}
	if !found.inner {
		create("offstage_private")
	}
	for _, m := range migrations() {
		if m.version > found.version {
			b.WriteString(m.sql)
			fmt.Fprintf(&b, "insert into offstage_private.migration (version, name, breaking) values (%d, '%s', %t);\n", m.version, m.name, m.breaking)
		}
	}
	b.WriteString(functions())
	return rename(b.String(), schema)
}

// explain says where in the source an error of the script is, and what to do about missing rights.
func explain(err error) error {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return err
	}
	if pg.Code == "42501" {
		return fmt.Errorf("%w (the role needs CREATE on the database, or both schemas made for it and owned by it)", err)
	}
	if pg.Where != "" {
		return fmt.Errorf("%w (%s)", err, pg.Where)
	}
	return err
}
