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
	var role, owner string
	var usage, owns bool
	var tables, functions []string
	err := d.row(ctx, `
		select current_user, pg_catalog.pg_get_userbyid(n.nspowner),
		  has_schema_privilege($1::text, 'usage') and has_schema_privilege($1::text || '_private', 'usage'),
		  pg_has_role(n.nspowner, 'usage'),
		  array(select m.nspname || '.' || c.relname from pg_catalog.pg_class c join pg_catalog.pg_namespace m on m.oid = c.relnamespace
		    where m.nspname in ($1::text, $1::text || '_private') and case
		        when c.relkind in ('r', 'p') and m.oid = n.oid then not (has_table_privilege(c.oid, 'select') and has_table_privilege(c.oid, 'insert')
		          and has_table_privilege(c.oid, 'update') and has_table_privilege(c.oid, 'delete'))
		        when c.relkind = 'v' then not has_table_privilege(c.oid, 'select')
		        when c.relkind = 'S' then not has_sequence_privilege(c.oid, 'usage') and not exists (  -- those of identities ask nobody
		          select from pg_catalog.pg_depend i where i.objid = c.oid and i.classid = 'pg_catalog.pg_class'::regclass and i.deptype = 'i')
		        else false end
		    order by 1 limit 10),
		  array(select distinct p.proname::text from pg_catalog.pg_proc p join pg_catalog.pg_namespace m on m.oid = p.pronamespace
		    where m.nspname in ($1::text, $1::text || '_private') and not has_function_privilege(p.oid, 'execute')
		    order by 1 limit 10)
		from pg_catalog.pg_namespace n where n.nspname = $1::text || '_private'`, []any{d.db.schema},
		&role, &owner, &usage, &owns, &tables, &functions)
	if err != nil {
		return err
	}
	as := "connect as " + owner + ", who owns the schema, or: grant " + owner + " to " + role
	switch {
	case !usage:
		d.fail(check, as, "%s may not use the schemas", role)
	case len(tables) > 0:
		d.fail(check, as, "%s may not use: %s", role, strings.Join(tables, ", "))
	case len(functions) > 0:
		d.fail(check, as, "%s may not execute: %s", role, strings.Join(functions, ", "))
	case !owns:
		d.warn(check, as, "%s may work but does not own the schema: it can neither migrate, nor make the daily partitions of history, nor rebuild indexes", role)
	default:
		d.ok(check, "%s owns the schema", role)
	}
	return nil
}

// The source that schema.Dump prints is ours, so that these need not understand all of SQL.
var (
	functionSource = regexp.MustCompile(`(?is)create or replace function ([a-z_0-9]+)\.([a-z_0-9]+)\s*\(.*?\bas (\$[a-z_]*\$)`)
	objectSource   = regexp.MustCompile(`(?im)^create (?:or replace )?(table|view|sequence) (?:if not exists )?([a-z_0-9]+)\.([a-z_0-9]+)`)
)

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

// drift: functions, tables and views, compared with those that this program would install.
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
	script, err := schema.Dump(d.db.schema, 0)
	if err != nil {
		return err
	}
	want := sources(script)

	rows, err := d.conn.Query(ctx, `
		select n.nspname || '.' || p.proname, p.prosrc
		from pg_catalog.pg_proc p join pg_catalog.pg_namespace n on n.oid = p.pronamespace
		where n.nspname in ($1::text, $1::text || '_private') order by 1, 2`, d.db.schema)
	if err != nil {
		return err
	}
	have := map[string][]string{}
	var name, body string
	if _, err := pgx.ForEachRow(rows, []any{&name, &body}, func() error {
		have[name] = append(have[name], body)
		return nil
	}); err != nil {
		return err
	}
	var changed, missing, extra []string
	for name, bodies := range want {
		switch got := have[name]; {
		case got == nil:
			missing = append(missing, name)
		case len(got) > len(bodies):
			extra = append(extra, name+" (overloaded)")
		default:
			slices.Sort(got)
			if !slices.Equal(got, bodies) {
				changed = append(changed, name)
			}
		}
	}
	for name := range have {
		if want[name] == nil {
			extra = append(extra, name)
		}
	}

	rows, err = d.conn.Query(ctx, `
		select n.nspname || '.' || c.relname, coalesce(i.indisvalid, true)
		from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
		left join pg_catalog.pg_index i on i.indexrelid = c.oid
		where n.nspname in ($1::text, $1::text || '_private')`, d.db.schema)
	if err != nil {
		return err
	}
	objects := map[string]bool{}
	var broken []string
	var valid bool
	if _, err := pgx.ForEachRow(rows, []any{&name, &valid}, func() error {
		objects[name] = true
		if !valid {
			broken = append(broken, name)
		}
		return nil
	}); err != nil {
		return err
	}
	for _, m := range objectSource.FindAllStringSubmatch(script, -1) {
		if !objects[m[2]+"."+m[3]] {
			missing = append(missing, m[1]+" "+m[2]+"."+m[3])
		}
	}

	repair := "put the original back: " + d.app.command("migrate --sql") + fmt.Sprintf(" --from %d prints all functions and views", schema.Version())
	list := func(names []string) string {
		slices.Sort(names)
		return short(strings.Join(names, ", "), 400)
	}
	if len(missing) > 0 {
		d.fail(check, repair, "missing: %s", list(missing))
	}
	if len(changed) > 0 {
		d.fail(check, repair, "not as this program would install them: %s", list(changed))
	}
	if len(broken) > 0 {
		d.fail(check, "reindex index concurrently …", "invalid indexes: %s", list(broken))
	}
	if len(extra) > 0 {
		d.warn(check, "keep objects of your own in a schema of your own: a migration may want these names", "not ours: %s", list(extra))
	}
	if len(missing)+len(changed)+len(broken)+len(extra) == 0 {
		d.ok(check, "%s are as this program would install them", plural(len(want), "function"))
	}
	return nil
}
