package cli

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/offstage-dev/offstage/schema"
)

// privileges: functions are called, and tables used, with the rights of the role that connects.
func (d *doctor) privileges(ctx context.Context) error {
	const check = "privileges"
	if d.foreign {
		return nil
	}
	var role, database, owner string
	var there int // of the two schemas
	var create, owns bool
	var schemas, relations, functions []string
	err := d.row(ctx, `
		with n as (
		  select m.oid, m.nspname, m.nspowner, m.nspname <> $1::text as private from pg_catalog.pg_namespace m where m.nspname in ($1::text, $1::text || '_private')
		)
		select quote_ident(current_user), quote_ident(current_database()), has_database_privilege(current_database(), 'create'),
		  (select count(*) from n), coalesce((select quote_ident(pg_catalog.pg_get_userbyid(n.nspowner)) from n order by n.private desc limit 1), ''),
		  not exists (select from n where not pg_has_role(n.nspowner, 'usage')),
		  array(select n.nspname::text from n where not has_schema_privilege(n.oid, 'usage') order by 1),
		  array(select n.nspname || '.' || c.relname from pg_catalog.pg_class c join n on n.oid = c.relnamespace
		    where case
		        when c.relkind in ('r', 'p') and n.private then not (has_table_privilege(c.oid, 'select') and has_table_privilege(c.oid, 'insert')
		          and has_table_privilege(c.oid, 'update') and has_table_privilege(c.oid, 'delete'))
		        when c.relkind = 'v' then not has_table_privilege(c.oid, 'select')
		        when c.relkind = 'S' then not has_sequence_privilege(c.oid, 'usage') and not exists (  -- those of identities ask nobody
		          select from pg_catalog.pg_depend i where i.objid = c.oid and i.classid = 'pg_catalog.pg_class'::regclass and i.deptype = 'i')
		        else false end
		    order by 1),
		  array(select distinct p.proname::text from pg_catalog.pg_proc p join n on n.oid = p.pronamespace
		    where not has_function_privilege(p.oid, 'execute')
		    order by 1)`, []any{d.db.schema},
		&role, &database, &create, &there, &owner, &owns, &schemas, &relations, &functions)
	if err != nil {
		return err
	}
	as := "connect as " + owner + ", who owns the schema, or: grant " + owner + " to " + role
	lacks := func(do string, names []string) {
		d.denied = true
		more := ""
		if len(names) > 10 {
			names, more = names[:10], fmt.Sprintf(" and %d more", len(names)-10)
		}
		d.fail(check, as, "%s may not %s: %s%s", role, do, strings.Join(names, ", "), more)
	}
	switch {
	case len(schemas) > 0:
		lacks("use the schemas", schemas)
	case len(relations) > 0:
		lacks("use", relations)
	case len(functions) > 0:
		lacks("execute", functions)
	case there < 2 && !create:
		d.fail(check, fmt.Sprintf("grant create on database %s to %s; or have both schemas made for it: create schema %s authorization %[2]s; create schema %[3]s_private authorization %[2]s",
			database, role, d.db.schema), "%s may not install the schema: it lacks CREATE on the database %s", role, database)
	case there == 0:
		d.ok(check, "%s may install the schema", role)
	case !owns:
		d.warn(check, as, "%s may work but does not own the schema: it can neither migrate, nor make the daily partitions of history, nor rebuild indexes", role)
	default:
		d.ok(check, "%s owns the schema", role)
	}
	return nil
}

// The source that schema.Dump prints is ours, so that this need not understand all of SQL.
var functionSource = regexp.MustCompile(`(?is)create or replace function ([a-z_0-9]+)\.([a-z_0-9]+)\s*\(.*?\bas (\$[a-z_]*\$)`)

// sources are the functions of a script: their bodies by name, sorted where a name has several.
func sources(script string) map[string][]string {
	found := map[string][]string{}
	for {
		m := functionSource.FindStringSubmatchIndex(script)
		if m == nil {
			break
		}
		name, quote := script[m[2]:m[3]]+"."+script[m[4]:m[5]], script[m[6]:m[7]]
		body, rest, ok := strings.Cut(script[m[1]:], quote)
		if !ok {
			break
		}
		found[name] = append(found[name], body)
		script = rest
	}
	for _, bodies := range found {
		slices.Sort(bodies)
	}
	return found
}

// drift: functions, views and tables, compared with those that this program would install.
func (d *doctor) drift(ctx context.Context) error {
	const check = "drift"
	var version int
	if err := d.row(ctx, `select max(version) from offstage_private.migration`, nil, &version); err != nil {
		return err
	}
	if version != schema.Version() {
		d.ok(check, "not looked at: the schema is newer than this program")
		return nil
	}
	before := len(d.findings)
	n, err := d.driftOfFunctions(ctx, check)
	if err != nil {
		return err
	}
	if err := d.driftOfTables(ctx, check); err != nil {
		return err
	}
	if len(d.findings) == before {
		d.ok(check, "%s and the tables are as this program would install them", plural(n, "function"))
	}
	return nil
}

// driftOfFunctions answers how many there should be.
func (d *doctor) driftOfFunctions(ctx context.Context, check string) (int, error) {
	script, err := schema.Dump(d.db.schema, 0)
	if err != nil {
		return 0, err
	}
	want := sources(script)
	missing, err := schema.Missing(ctx, d.conn, d.db.schema)
	if err != nil {
		return 0, err
	}
	rows, err := d.conn.Query(ctx, `
		select n.nspname || '.' || p.proname, p.prosrc
		from pg_catalog.pg_proc p join pg_catalog.pg_namespace n on n.oid = p.pronamespace
		where n.nspname in ($1::text, $1::text || '_private') order by 1, 2`, d.db.schema)
	if err != nil {
		return 0, err
	}
	have := map[string][]string{}
	var name, body string
	if _, err := pgx.ForEachRow(rows, []any{&name, &body}, func() error {
		have[name] = append(have[name], body)
		return nil
	}); err != nil {
		return 0, err
	}
	var changed, extra []string
	for name, got := range have {
		bodies := want[name]
		switch {
		case bodies == nil:
			extra = append(extra, name)
		case len(got) > len(bodies):
			extra = append(extra, name+" (overloaded)")
		case len(got) == len(bodies):
			slices.Sort(got)
			if !slices.Equal(got, bodies) {
				changed = append(changed, name)
			}
		}
	}
	if len(missing) > 0 {
		d.fail(check, d.app.command("migrate")+" makes them anew", "missing: %s", list(missing))
	}
	if len(changed) > 0 {
		d.fail(check, "put the original back: "+d.app.command("migrate --sql")+fmt.Sprintf(" --from %d prints all functions and views", schema.Version()),
			"not as this program would install them: %s", list(changed))
	}
	if len(extra) > 0 {
		d.warn(check, "keep objects of your own in a schema of your own: a migration may want these names", "not ours: %s", list(extra))
	}
	return len(want), nil
}

// driftOfTables tells each difference that a statement undoes by itself, and the others, which are alike, together.
func (d *doctor) driftOfTables(ctx context.Context, check string) error {
	differences, err := schema.Compare(ctx, d.conn, d.db.schema)
	if err != nil {
		return err
	}
	const most = 20
	var lost, more []string
	told := 0
	for _, x := range differences {
		switch {
		case x.Repair == "":
			lost = append(lost, x.What)
		case told < most:
			d.fail(check, "in psql: "+x.Repair, "%s", x.What)
			told++
		default:
			more = append(more, x.What)
		}
	}
	if len(more) > 0 {
		d.fail(check, "first do what stands above, then look again", "besides: %s", list(more))
	}
	if len(lost) > 0 {
		d.fail(check, d.restore(), "%s", list(lost))
	}

	// Those that REINDEX CONCURRENTLY makes on its way are the check of the indexes'.
	var broken []string
	err = d.row(ctx, `
		select array(select n.nspname || '.' || c.relname
		  from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace join pg_catalog.pg_index i on i.indexrelid = c.oid
		  where n.nspname in ($1::text, $1::text || '_private') and not i.indisvalid and c.relname !~ '_cc(new|old)[0-9]*$')`, []any{d.db.schema}, &broken)
	if err != nil {
		return err
	}
	if len(broken) > 0 {
		d.fail(check, "reindex index concurrently …", "invalid indexes: %s", list(broken))
	}
	return nil
}

func list(names []string) string {
	slices.Sort(names)
	return short(strings.Join(names, ", "), 400)
}

// restore is what remains to be done when no statement brings back what is gone.
func (d *doctor) restore() string {
	return fmt.Sprintf("restore it from a backup; or make the schema anew, which loses all jobs, in psql: drop schema if exists %s, %[1]s_private cascade; then: %s",
		d.db.schema, d.app.command("migrate"))
}
