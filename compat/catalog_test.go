package compat_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

// catalog is what a program can find out about the API without calling it.
type catalog struct {
	functions map[string][]signature
	types     map[string]string // attributes in order
	view      []string          // columns in order
	rights    []string          // access privileges that are not the defaults
}

type signature struct {
	arguments, result string
	properties        string // volatility, strictness and so on
}

// TestCatalog compares names, arguments, defaults, results and properties of all functions that Graphile Worker has.
func TestCatalog(t *testing.T) {
	t.Parallel()
	want, got := readCatalog(t, graphile(t, versions[0])), readCatalog(t, offstage(t))
	for _, d := range want.unlike(got, extensions) {
		t.Error(d)
	}
}

// TestCatalogIsCompared changes the catalog of a Graphile Worker in ways that callers would notice.
func TestCatalogIsCompared(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	url := graphile(t, versions[0])
	conn := connect(t, url)
	want := readCatalog(t, url)
	if d := want.unlike(readCatalog(t, graphile(t, versions[1])), nil); d != nil {
		t.Errorf("0.17.3 and 0.18.0 differ: %q", d)
	}
	for _, change := range []string{
		`create function graphile_worker.add_job(identifier text, payload jsonb) returns void language sql as 'select null'`,
		`alter function graphile_worker.remove_job called on null input`,
		`alter function graphile_worker.complete_jobs stable`,
		`alter function graphile_worker.complete_jobs security definer`,
		`alter function graphile_worker.add_job parallel safe`,
		`drop function graphile_worker.force_unlock_workers`,
		`drop function graphile_worker.remove_job;
		 create function graphile_worker.remove_job(key text) returns graphile_worker._private_jobs language plpgsql strict as 'begin end'`,
		`drop function graphile_worker.complete_jobs;
		 create function graphile_worker.complete_jobs(job_ids bigint[], another text) returns setof graphile_worker._private_jobs language plpgsql as 'begin end'`,
		`drop function graphile_worker.permanently_fail_jobs;
		 create function graphile_worker.permanently_fail_jobs(job_ids bigint[], error_message text default 'x') returns setof graphile_worker._private_jobs language plpgsql as 'begin end'`,
		`revoke execute on function graphile_worker.add_job from public`,
		`alter type graphile_worker.job_spec add attribute another text`,
		`alter type graphile_worker.job_spec rename attribute flags to flag`,
		`alter view graphile_worker.jobs rename column key to job_key`,
		`grant usage on schema graphile_worker to public`,
	} {
		tx, err := conn.Begin(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tx.Exec(ctx, change); err != nil {
			t.Fatalf("%s: %v", change, err)
		}
		if want.unlike(catalogOf(t, ctx, conn), nil) == nil {
			t.Errorf("not noticed: %s", change)
		}
		if err := tx.Rollback(ctx); err != nil {
			t.Fatal(err)
		}
	}
}

func readCatalog(t *testing.T, url string) catalog {
	t.Helper()
	return catalogOf(t, t.Context(), connect(t, url))
}

func catalogOf(t *testing.T, ctx context.Context, conn *pgx.Conn) catalog {
	t.Helper()
	c := catalog{functions: map[string][]signature{}, types: map[string]string{}}
	collect := func(sql string, row func(name, a, b, c string)) {
		t.Helper()
		rows, err := conn.Query(ctx, sql)
		if err != nil {
			t.Fatal(err)
		}
		var name, x, y, z string
		if _, err := pgx.ForEachRow(rows, []any{&name, &x, &y, &z}, func() error { row(name, x, y, z); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	collect(`
		select proname, pg_get_function_arguments(oid), pg_get_function_result(oid), concat_ws(' ', prokind, provolatile, proparallel,
			case when proisstrict then 'strict' end, case when prosecdef then 'security definer' end,
			case when proretset then 'set' end, case when proleakproof then 'leakproof' end, proacl)
		from pg_proc where pronamespace = 'graphile_worker'::regnamespace order by proname, 2`,
		func(name, arguments, result, properties string) {
			c.functions[name] = append(c.functions[name], signature{arguments, result, properties})
		})
	collect(`
		select c.relname, string_agg(a.attname || ' ' || format_type(a.atttypid, a.atttypmod), ', ' order by a.attnum), '', ''
		from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
		where c.oid in ('graphile_worker._private_jobs'::regclass, 'graphile_worker.job_spec'::regclass) group by c.relname`,
		func(name, attributes, _, _ string) { c.types[name] = attributes })
	collect(`
		select attname, format_type(atttypid, atttypmod), '', '' from pg_attribute
		where attrelid = 'graphile_worker.jobs'::regclass and attnum > 0 and not attisdropped order by attnum`,
		func(name, typ, _, _ string) { c.view = append(c.view, name+" "+typ) })
	collect(`
		select relname, coalesce(relacl::text, 'default'), coalesce(reloptions::text, ''), relkind::text
		from pg_class where oid = 'graphile_worker.jobs'::regclass
		union all
		select typname, coalesce(typacl::text, 'default'), '', '' from pg_type
		where oid in ('graphile_worker._private_jobs'::regtype, 'graphile_worker.job_spec'::regtype)
		union all
		select nspname, coalesce(nspacl::text, 'default'), '', '' from pg_namespace where nspname = 'graphile_worker'
		order by 1`,
		func(name, acl, options, kind string) {
			c.rights = append(c.rights, strings.TrimSpace(name+" "+acl+" "+options+" "+kind))
		})
	return c
}

// unlike lists where another catalog does not offer what this one does. Functions may have the extra arguments named,
// other functions may be there, and the view may have further columns behind.
func (c catalog) unlike(other catalog, extra map[string]string) []string {
	var all []string
	for name, want := range c.functions {
		for i := range want {
			if x := extra[name]; x != "" {
				want = slices.Clone(want)
				want[i].arguments += ", " + x
			}
		}
		if got := other.functions[name]; !slices.Equal(want, got) {
			all = append(all, "function "+name+":"+lines(join(want), join(got)))
		}
	}
	for name, want := range c.types {
		if got := other.types[name]; got != want {
			all = append(all, "type "+name+":"+lines(want, got))
		}
	}
	if n := len(c.view); n > len(other.view) || !slices.Equal(c.view, other.view[:n]) {
		all = append(all, "view jobs:"+lines(strings.Join(c.view, "\n"), strings.Join(other.view, "\n")))
	}
	if !slices.Equal(c.rights, other.rights) {
		all = append(all, "rights:"+lines(strings.Join(c.rights, "\n"), strings.Join(other.rights, "\n")))
	}
	return all
}

func join(overloads []signature) string {
	var b strings.Builder
	for _, s := range overloads {
		b.WriteString("\n(" + s.arguments + ")\nreturns " + s.result + "\n" + s.properties)
	}
	return b.String()
}
