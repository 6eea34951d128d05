package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// snapshots: who holds old ones, as far as this role may see. An old snapshot keeps VACUUM from removing the rows that
// jobs leave behind, and every claim has to pass over them.
func (d *doctor) snapshots(ctx context.Context) error {
	const check = "snapshots"
	found := false
	rows, err := d.conn.Query(ctx, `
		select s.pid, coalesce(s.usename::text, ''), coalesce(s.application_name, ''), coalesce(s.state, s.backend_type, ''),
		  extract(epoch from clock_timestamp() - s.xact_start)::float8, age(s.backend_xmin)
		from pg_catalog.pg_stat_activity s
		where s.backend_xmin is not null and s.pid <> pg_backend_pid() and (s.datname = current_database() or s.datname is null)
		  and (s.xact_start < clock_timestamp() - $1::float8 * interval '1 s' or s.xact_start is null and age(s.backend_xmin) > 1000000)
		order by s.xact_start nulls last limit 5`, d.old.Seconds())
	if err != nil {
		return err
	}
	var pid, age int
	var user, application, state string
	var seconds *float64
	if _, err := pgx.ForEachRow(rows, []any{&pid, &user, &application, &state, &seconds, &age}, func() error {
		found = true
		since, report := fmt.Sprintf("%d transactions", age), d.warn
		if seconds != nil {
			open := time.Duration(*seconds * float64(time.Second))
			since = span(open)
			if open > d.veryOld {
				report = d.fail
			}
		}
		do := fmt.Sprintf("end that transaction, or: select pg_terminate_backend(%d); against the next one: idle_in_transaction_session_timeout", pid)
		if seconds == nil {
			do = "look at that replica: hot_standby_feedback hands its old snapshots on"
		}
		report(check, do, "pid %d (%s, %q, %s) holds a snapshot that is %s old: dead rows cannot be removed, and jobs get slower", pid, user, application, state, since)
		return nil
	}); err != nil {
		return err
	}

	rows, err = d.conn.Query(ctx, `
		select x.gid, x.owner::text, extract(epoch from clock_timestamp() - x.prepared)::float8
		from pg_catalog.pg_prepared_xacts x
		where x.database = current_database() and x.prepared < clock_timestamp() - $1::float8 * interval '1 s'
		order by x.prepared limit 5`, d.old.Seconds())
	if err != nil {
		return err
	}
	var gid, owner string
	var old float64
	if _, err := pgx.ForEachRow(rows, []any{&gid, &owner, &old}, func() error {
		found = true
		d.fail(check, "commit prepared or rollback prepared '"+gid+"', as its owner", "the prepared transaction %q of %s is open since %s ago", gid, owner, span(time.Duration(old*float64(time.Second))))
		return nil
	}); err != nil {
		return err
	}

	rows, err = d.conn.Query(ctx, `
		select s.slot_name::text, s.active, age(s.xmin) from pg_catalog.pg_replication_slots s
		where s.xmin is not null and age(s.xmin) > 1000000 order by 3 desc limit 5`)
	if err != nil {
		return err
	}
	var slot string
	var active bool
	if _, err := pgx.ForEachRow(rows, []any{&slot, &active, &age}, func() error {
		found = true
		do := "see why its replica lags"
		if !active {
			do = fmt.Sprintf("start its replica, or: select pg_drop_replication_slot('%s')", slot)
		}
		d.warn(check, do, "the replication slot %q holds a snapshot that is %d transactions old (active: %t)", slot, age, active)
		return nil
	}); err != nil {
		return err
	}

	var sees bool
	if err := d.row(ctx, `select pg_has_role(current_user, 'pg_read_all_stats', 'usage')`, nil, &sees); err != nil {
		return err
	}
	switch {
	case found:
	case !sees:
		d.ok(check, "no old ones in this role's own sessions; those of other roles are not seen here (grant pg_monitor, or look as a superuser)")
	default:
		d.ok(check, "none older than %s", span(d.old))
	}
	return nil
}

// autovacuum: whether it keeps up with the tables that jobs go through.
func (d *doctor) autovacuum(ctx context.Context) error {
	const check = "autovacuum"
	found := false
	rows, err := d.conn.Query(ctx, `
		select s.relname::text, s.n_live_tup, s.n_dead_tup,
		  extract(epoch from clock_timestamp() - greatest(s.last_autovacuum, s.last_vacuum))::float8,
		  coalesce('autovacuum_enabled=false' = any (c.reloptions), false)
		from pg_catalog.pg_stat_user_tables s join pg_catalog.pg_class c on c.oid = s.relid
		where s.schemaname = $1::text || '_private' order by s.n_dead_tup desc`, d.db.schema)
	if err != nil {
		return err
	}
	var table string
	var live, dead, most int64
	var since *float64
	var off bool
	if _, err := pgx.ForEachRow(rows, []any{&table, &live, &dead, &since, &off}, func() error {
		most = max(most, dead)
		last := "never"
		if since != nil {
			last = span(time.Duration(*since*float64(time.Second))) + " ago"
		}
		switch {
		case off:
			found = true
			d.fail(check, fmt.Sprintf("alter table %s_private.%s reset (autovacuum_enabled)", d.db.schema, table), "it is turned off for %s", table)
		case dead > 50000 && dead > live && (since == nil || *since > 600):
			found = true
			d.warn(check, fmt.Sprintf("end old snapshots first (above), then: vacuum %s_private.%s; if it comes again, raise autovacuum_max_workers or autovacuum_vacuum_cost_limit", d.db.schema, table),
				"%s has %d dead rows beside %d live ones, last vacuumed: %s", table, dead, live, last)
		}
		return nil
	}); err != nil {
		return err
	}
	if !found {
		d.ok(check, "it keeps up: at most %d dead rows in a table", most)
	}
	return nil
}
