package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"github.com/offstage-dev/offstage/schema"
)

// finding is what one check came to. Do is what to do about it.
type finding struct {
	Check  string `json:"check"`
	Status string `json:"status"` // ok, warn or fail
	Detail string `json:"detail"`
	Do     string `json:"do,omitempty"`
}

// doctor looks at a database from one session, and from a second one where it takes two.
type doctor struct {
	app      *app
	db       *database
	conn     *pgx.Conn
	findings []finding
	schemaOK bool // installed, and one that this program can read
	foreign  bool // it is Graphile Worker's
	denied   bool // the role lacks rights, which the check of the privileges tells

	old, veryOld time.Duration // ages of snapshots that are worth a warning, and a failure
}

func (d *doctor) ok(check, detail string, args ...any) {
	d.findings = append(d.findings, finding{check, "ok", fmt.Sprintf(detail, args...), ""})
}

func (d *doctor) warn(check, do, detail string, args ...any) {
	d.findings = append(d.findings, finding{check, "warn", fmt.Sprintf(detail, args...), do})
}

func (d *doctor) fail(check, do, detail string, args ...any) {
	d.findings = append(d.findings, finding{check, "fail", fmt.Sprintf(detail, args...), do})
}

// checks are the doctor's, in order; those with a schema are left out where there is none.
var checks = []struct {
	name   string
	schema bool
	look   func(*doctor, context.Context) error
}{
	{"server", false, (*doctor).server},
	{"clock", false, (*doctor).clock},
	{"connections", false, (*doctor).connections},
	{"pooler", false, (*doctor).pooler},
	{"listen", false, (*doctor).listen},
	{"schema", false, (*doctor).schema},
	{"privileges", false, (*doctor).privileges},
	{"drift", true, (*doctor).drift},
	{"snapshots", false, (*doctor).snapshots},
	{"autovacuum", true, (*doctor).autovacuum},
	{"indexes", true, (*doctor).indexes},
	{"chores", true, (*doctor).chores},
	{"workers", true, (*doctor).workers},
	{"schedules", true, (*doctor).schedules},
	{"problems", true, (*doctor).problems},
}

func (a *app) doctorCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Look for what is wrong with the database, the connection and the installation",
		Long: `Connects, and looks: version and settings of the server, clock, connections left, poolers in between, LISTEN, schema,
privileges, functions, columns, indexes and constraints that differ from those of this program, old snapshots and who holds
them, autovacuum, indexes, chores, workers, schedules, and what problems() finds besides.
Changes nothing. Every finding says what to do. Exit code 1 if any check fails, 5 if there is no connection.`,
		Args: cobra.NoArgs,
		RunE: a.run(func(ctx context.Context, _ []string) error { return a.doctor(ctx) }),
	}
}

func (a *app) doctor(ctx context.Context) error {
	cfg, err := a.config(true)
	if err != nil {
		return err
	}
	begin := time.Now()
	db, err := a.connect(ctx, cfg)
	if err != nil {
		return err
	}
	defer db.close()
	d := &doctor{app: a, db: db, old: 5 * time.Minute, veryOld: time.Hour}
	d.ok("connect", "%s answers, after %s", placeOf(cfg.ConnConfig), span(time.Since(begin)))
	p := a.progress("looking")
	err = db.pool.AcquireFunc(ctx, func(conn *pgxpool.Conn) error {
		d.conn = conn.Conn()
		for _, c := range checks {
			if c.schema && !d.schemaOK {
				continue
			}
			p.set("looking at: %s", c.name)
			if err := d.look(ctx, c.name, c.look); err != nil {
				return err
			}
		}
		return nil
	})
	p.stop()
	if err != nil {
		return err
	}
	return a.printFindings(d.findings)
}

// look runs one check. One that breaks is a finding; only a lost connection ends the visit.
func (d *doctor) look(ctx context.Context, name string, check func(*doctor, context.Context) error) error {
	limited, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	err := check(d, limited)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case d.conn.IsClosed():
		return fmt.Errorf("the connection was lost while looking at %s: %w", name, err)
	case d.denied && isDenied(err):
		d.warn(name, "see privileges", "not looked at: %v", err)
	case errors.Is(err, context.DeadlineExceeded):
		d.fail(name, "look whether the server is overloaded, or something holds locks (pg_stat_activity)", "no answer within 15 s")
	default:
		d.fail(name, "see what the error says", "the check itself failed: %v", err)
	}
	return nil
}

func isDenied(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == "42501"
}

func (a *app) printFindings(findings []finding) error {
	counts := map[string]int{}
	for _, f := range findings {
		counts[f.Status]++
	}
	if a.json {
		if err := a.printJSON(findings); err != nil {
			return err
		}
	} else {
		p := a.outPaint()
		for _, f := range findings {
			fmt.Fprintf(a.Stdout, "%s  %-11s  %s\n", p.paint(stateColours[f.Status], fmt.Sprintf("%-4s", f.Status)), f.Check, indent(clean(f.Detail, true), 19))
			if f.Do != "" {
				fmt.Fprintf(a.Stdout, "%19s%s\n", "", indent("do: "+clean(f.Do, true), 23))
			}
		}
		a.say("%d ok, %s, %d failed", counts["ok"], plural(counts["warn"], "warning"), counts["fail"])
	}
	if counts["fail"] > 0 {
		return silent(Failed)
	}
	return nil
}

func indent(text string, by int) string {
	return strings.ReplaceAll(text, "\n", "\n"+strings.Repeat(" ", by))
}

// row asks for one row.
func (d *doctor) row(ctx context.Context, sql string, args []any, into ...any) error {
	return d.conn.QueryRow(ctx, d.db.sql(sql), args...).Scan(into...)
}

// server: version, and settings that make jobs impossible or unsafe.
func (d *doctor) server(ctx context.Context) error {
	var version string
	var number int
	var replica, readOnly, fsync, track bool
	var autovacuum bool
	var timeout int64
	err := d.row(ctx, `
		select current_setting('server_version'), current_setting('server_version_num')::int, pg_is_in_recovery(),
		  current_setting('default_transaction_read_only')::boolean, current_setting('fsync')::boolean,
		  current_setting('autovacuum')::boolean, current_setting('track_counts')::boolean,
		  (select setting::bigint from pg_catalog.pg_settings where name = 'statement_timeout')`, nil,
		&version, &number, &replica, &readOnly, &fsync, &autovacuum, &track, &timeout)
	if err != nil {
		return err
	}
	const check = "server"
	if number < 140000 {
		d.fail(check, "use PostgreSQL 14 or later", "PostgreSQL %s is too old", version)
	} else {
		d.ok(check, "PostgreSQL %s", version)
	}
	switch {
	case replica:
		d.fail(check, "connect to the primary", "this server is a replica, which takes no writes")
	case readOnly:
		d.fail(check, "alter role … set default_transaction_read_only = off, or take it out of the URL", "sessions are read-only (default_transaction_read_only)")
	}
	if !fsync {
		d.warn(check, "set fsync = on, unless all data of this server may be lost", "fsync is off: a crash of the machine can destroy the database")
	}
	if !autovacuum || !track {
		d.fail(check, "set autovacuum and track_counts on", "autovacuum is off: tables of jobs grow and slow down without end")
	}
	if timeout > 0 && timeout < 10000 {
		d.warn(check, "alter role … set statement_timeout for the worker's role to 30 s or more", "statements are ended after %s (statement_timeout)", span(time.Duration(timeout)*time.Millisecond))
	}
	return nil
}

// clock: how far the server is, in time and in distance.
func (d *doctor) clock(ctx context.Context) error {
	best, skew := time.Hour, time.Duration(0)
	for range 5 {
		var theirs time.Time
		begin := time.Now()
		if err := d.row(ctx, `select clock_timestamp()`, nil, &theirs); err != nil {
			return err
		}
		if took := time.Since(begin); took < best {
			best, skew = took, theirs.Sub(begin.Add(took/2))
		}
	}
	switch {
	case best > 20*time.Millisecond:
		d.warn("clock", "run workers near the database: each job costs a few round trips", "a round trip takes %s", span(best))
	case skew.Abs() > 2*time.Second+best:
		d.warn("clock", "let both machines follow NTP; times given here (--run-at) are this machine's, and jobs follow the server's", "this machine's clock and the server's differ by %s", span(skew.Abs()))
	default:
		d.ok("clock", "a round trip takes %s; the clocks differ by %s", span(best), span(skew.Abs()))
	}
	return nil
}

// connections: a worker keeps five sessions, and a sixth while its attempts log.
func (d *doctor) connections(ctx context.Context) error {
	var limit, reserved, used, own int
	err := d.row(ctx, `
		select current_setting('max_connections')::int, current_setting('superuser_reserved_connections')::int,
		  (select count(*) from pg_catalog.pg_stat_activity where backend_type = 'client backend'),
		  (select rolconnlimit from pg_catalog.pg_roles where rolname = current_user)`, nil, &limit, &reserved, &used, &own)
	if err != nil {
		return err
	}
	left := limit - reserved - used
	switch {
	case left < 10:
		d.warn("connections", "raise max_connections, or put a pooler before the programs that need many", "%d of %d are left; a worker needs six, and those of your handlers", max(left, 0), limit)
	case own >= 0 && own < 10:
		d.warn("connections", "alter role … connection limit -1", "this role may have %d at a time; a worker needs six, and those of your handlers", own)
	default:
		d.ok("connections", "%d of %d are left", left, limit)
	}
	return nil
}

// schema: installed, and fit for this program.
func (d *doctor) schema(ctx context.Context) error {
	err := schema.Check(ctx, d.conn, d.db.schema)
	switch {
	case errors.Is(err, schema.ErrOlder):
		d.fail("schema", d.app.command("migrate"), "%v", err)
	case errors.Is(err, schema.ErrNewer):
		d.fail("schema", "go install github.com/offstage-dev/offstage/cmd/offstage@latest", "%v", err)
	case errors.Is(err, schema.ErrHalf):
		d.fail("schema", d.restore(), "%v", err)
	case errors.Is(err, schema.ErrGraphile):
		d.foreign = true
		d.fail("schema", "choose another name with --schema", "%v", err)
	case err != nil:
		d.denied = isDenied(err)
		return err
	default:
		var version int
		if err := d.row(ctx, `select max(version) from offstage_private.migration`, nil, &version); err != nil {
			return err
		}
		d.schemaOK = true
		d.ok("schema", "%s has version %d, this program brings %d", d.db.schema, version, schema.Version())
	}
	return nil
}

// workers: whether somebody runs what waits.
func (d *doctor) workers(ctx context.Context) error {
	workers, err := d.db.workers(ctx, false)
	if err != nil {
		return err
	}
	alive := 0
	for _, w := range workers {
		switch w.State {
		case "silent":
			d.warn("workers", "look at that process; its jobs are rescued by the other workers", "%s (pid %d on %s) was last heard of %s", w.Name, w.PID, w.Host, when(w.BeatAt))
		case "alive":
			alive++
		}
	}
	// One step for each lane that has tickets, by the index: cheap however many there are.
	var waiting []string
	err = d.row(ctx, `
		with recursive lanes as (
		  (select k.lane_id from offstage_private.ticket k order by k.lane_id limit 1)
		  union all
		  select (select k.lane_id from offstage_private.ticket k where k.lane_id > l.lane_id order by k.lane_id limit 1)
		  from lanes l where l.lane_id is not null
		)
		select array(
		  select distinct t.name from lanes l left join offstage_private.lane n on n.id = l.lane_id
		  join offstage_private.task t on t.id = coalesce(n.task_id, l.lane_id)
		  where not t.paused and not exists (select from offstage.workers w where w.state = 'alive' and t.name = any (w.tasks))
		  order by t.name limit 20)`, nil, &waiting)
	if err != nil {
		return err
	}
	switch {
	case len(waiting) > 0 && alive == 0:
		d.warn("workers", d.app.command("worker --tasks ./tasks"), "jobs wait, and no worker runs; tasks: %s", strings.Join(waiting, ", "))
	case len(waiting) > 0:
		d.warn("workers", "start a worker that has these tasks, or delete the jobs", "jobs wait whose task no running worker knows: %s", strings.Join(waiting, ", "))
	default:
		d.ok("workers", "%s running, and no job waits for one that is missing", plural(alive, "worker"))
	}
	return nil
}

// scratch opens a second session like the first one.
func (d *doctor) scratch(ctx context.Context) (*pgx.Conn, error) {
	return pgx.ConnectConfig(ctx, d.db.pool.Config().ConnConfig.Copy())
}
