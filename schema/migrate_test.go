package schema_test

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/offstage-dev/offstage/internal/pgtest"
	"github.com/offstage-dev/offstage/schema"
)

func TestMigrateAtOnce(t *testing.T) {
	t.Parallel()
	db := pgtest.Bare(t)
	var mu sync.Mutex
	var applied []string
	var all sync.WaitGroup
	for range 10 {
		conn := db.Conn(t)
		all.Go(func() {
			res, err := schema.Migrate(pgtest.Context(t), conn, schema.Config{})
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			applied = append(applied, res.Applied...)
			if res.To != schema.Version() || res.Newer {
				t.Errorf("%+v", res)
			}
		})
	}
	all.Wait()
	if len(applied) != schema.Version() {
		t.Errorf("applied %q, want each of %d versions once", applied, schema.Version())
	}
	conn := db.Conn(t)
	if got := pgtest.List[int](t, conn, "select version from offstage_private.migration order by 1"); len(got) != schema.Version() {
		t.Errorf("the ledger has %v", got)
	}
	// Graphile Worker's library must find one revision above all of its own, and not a breaking one.
	var id int
	var ts time.Time
	var breaking bool
	if err := conn.QueryRow(t.Context(), "select id, ts, breaking from offstage.migrations").Scan(&id, &ts, &breaking); err != nil {
		t.Fatal(err)
	}
	if id != 1000000 || breaking || time.Since(ts) > time.Hour {
		t.Errorf("offstage.migrations has (%d, %v, %t)", id, ts, breaking)
	}
	if n := pgtest.One[int](t, conn, "select count(*) from offstage.migrations"); n != 1 {
		t.Errorf("offstage.migrations has %d rows", n)
	}
}

func TestMigrateDryRun(t *testing.T) {
	t.Parallel()
	db := pgtest.Bare(t)
	conn := db.Conn(t)
	res, err := schema.Migrate(t.Context(), conn, schema.Config{DryRun: true})
	if err != nil || res.From != 0 || res.To != schema.Version() || len(res.Applied) != schema.Version() {
		t.Errorf("%+v, %v", res, err)
	}
	if n := pgtest.One[int](t, conn, "select count(*) from pg_namespace where nspname like 'offstage%'"); n != 0 {
		t.Errorf("a dry run made %d schemas", n)
	}
	if err := schema.Check(t.Context(), conn, ""); !errors.Is(err, schema.ErrOlder) || !strings.Contains(err.Error(), "offstage migrate:") {
		t.Errorf("Check before: %v", err)
	}
	if err := schema.Check(t.Context(), conn, "jobs"); !errors.Is(err, schema.ErrOlder) || !strings.Contains(err.Error(), "offstage migrate --schema jobs") {
		t.Errorf("Check before: %v", err)
	}
	if _, err := schema.Migrate(t.Context(), conn, schema.Config{}); err != nil {
		t.Fatal(err)
	}
	res, err = schema.Migrate(t.Context(), conn, schema.Config{DryRun: true})
	if err != nil || res.From != schema.Version() || len(res.Applied) != 0 {
		t.Errorf("dry run after: %+v, %v", res, err)
	}
	if err := schema.Check(t.Context(), conn, ""); err != nil {
		t.Errorf("Check after: %v", err)
	}
	if path := pgtest.One[string](t, conn, "show search_path"); path != `""` && path != "" {
		t.Errorf("search_path is %q afterwards", path)
	}
}

// catalog is everything that a schema and its private one consist of, as text.
func catalog(t testing.TB, db pgtest.Querier, name string) []string {
	t.Helper()
	return pgtest.List[string](t, db, `
		with n as (select oid, nspname from pg_namespace where nspname in ($1::text, $1::text || '_private')),
		c as (select c.*, n.nspname from pg_class c join n on n.oid = c.relnamespace where c.relname !~ '^(history|log)_[0-9]')
		select concat_ws(' ', 'relation', nspname, relname, relkind, relpersistence, reloptions) from c
		union all
		select concat_ws(' ', 'column', c.nspname, c.relname, a.attnum, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
		  a.attidentity, a.attstorage, pg_get_expr(d.adbin, d.adrelid))
		from c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
		left join pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum where c.relkind <> 'i'
		union all
		select concat_ws(' ', 'index', pg_get_indexdef(c.oid)) from c where c.relkind in ('i', 'I')
		union all
		select concat_ws(' ', 'view', c.relname, pg_get_viewdef(c.oid)) from c where c.relkind = 'v'
		union all
		select concat_ws(' ', 'constraint', c.relname, k.conname, pg_get_constraintdef(k.oid)) from pg_constraint k join c on c.oid = k.conrelid
		union all
		select concat_ws(' ', 'sequence', c.relname, s.seqtypid::regtype, s.seqstart, s.seqincrement, s.seqmin, s.seqmax, s.seqcache, s.seqcycle)
		from pg_sequence s join c on c.oid = s.seqrelid
		union all
		select concat_ws(' ', 'function', pg_get_functiondef(p.oid), p.proacl) from pg_proc p join n on n.oid = p.pronamespace
		union all
		select concat_ws(' ', 'type', y.typname, y.typtype) from pg_type y join n on n.oid = y.typnamespace
		order by 1`, name)
}

func sameCatalog(t *testing.T, what string, got, want []string) {
	t.Helper()
	if len(want) < 100 {
		t.Fatalf("only %d entries", len(want))
	}
	for _, x := range got {
		if !slices.Contains(want, x) {
			t.Errorf("%s has, the other has not: %s", what, x)
		}
	}
	for _, x := range want {
		if !slices.Contains(got, x) {
			t.Errorf("%s lacks: %s", what, x)
		}
	}
}

// TestDump: the script for other tools makes the same as Migrate.
func TestDump(t *testing.T) {
	t.Parallel()
	want := catalog(t, pgtest.New(t).Conn(t), "offstage")
	db := pgtest.Bare(t)
	conn := db.Conn(t)
	script, err := schema.Dump("", 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.PgConn().Exec(t.Context(), script).ReadAll(); err != nil {
		t.Fatal(err)
	}
	sameCatalog(t, "the dump", catalog(t, conn, "offstage"), want)
	res, err := schema.Migrate(t.Context(), conn, schema.Config{})
	if err != nil || len(res.Applied) != 0 {
		t.Errorf("Migrate after the dump: %+v, %v", res, err)
	}
	// From the newest version on, only the functions.
	again, err := schema.Dump("offstage", schema.Version())
	if err != nil || strings.Contains(again, "create table offstage_private.job ") {
		t.Errorf("the dump from version %d makes tables (%v)", schema.Version(), err)
	}
	if _, err := conn.PgConn().Exec(t.Context(), again).ReadAll(); err != nil {
		t.Error(err)
	}
	sameCatalog(t, "the second dump", catalog(t, conn, "offstage"), want)
	for _, from := range []int{-1, schema.Version() + 1} {
		if _, err := schema.Dump("", from); err == nil {
			t.Errorf("Dump from version %d gives no error", from)
		}
	}
	if _, err := schema.Dump("No", 0); err == nil {
		t.Error("Dump for a schema that is not allowed gives no error")
	}
}

// TestPublicSchemaDropped: the jobs are in the other schema, and migrating makes the public one anew, as it was.
func TestPublicSchemaDropped(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	want := catalog(t, conn, "offstage")
	id := one64(t, conn, "select id from offstage.add_job('a', job_key => 'k')")
	migrate := func(dry bool) []string {
		t.Helper()
		res, err := schema.Migrate(t.Context(), conn, schema.Config{DryRun: dry})
		if err != nil || res.From != schema.Version() || res.To != schema.Version() || res.Newer {
			t.Fatalf("Migrate: %+v, %v", res, err)
		}
		return res.Applied
	}
	for _, damage := range []string{
		"drop schema offstage cascade",
		"drop schema offstage cascade; create schema offstage", // by those whose role may not create it
		"drop type offstage.job_spec cascade",
		"drop view offstage.jobs cascade",
		"drop table offstage.migrations",
		"drop function offstage.await_job",
		"drop function offstage_private.clock() cascade",
	} {
		pgtest.Do(t, conn, damage)
		if lost, err := schema.Missing(t.Context(), conn, "offstage"); err != nil || len(lost) == 0 {
			t.Errorf("%s: missing is %v (%v)", damage, lost, err)
		}
		err := schema.Check(t.Context(), conn, "")
		if damage == "drop schema offstage cascade" && (!errors.Is(err, schema.ErrOlder) || !strings.Contains(err.Error(), "run offstage migrate")) {
			t.Errorf("%s: Check says %v", damage, err)
		}
		for _, dry := range []bool{true, false} {
			if applied := migrate(dry); len(applied) != 1 || !strings.Contains(applied[0], "made anew") {
				t.Errorf("%s: applied %q", damage, applied)
			}
		}
		sameCatalog(t, damage, catalog(t, conn, "offstage"), want)
		if lost, err := schema.Missing(t.Context(), conn, "offstage"); err != nil || len(lost) > 0 {
			t.Errorf("%s: missing after it is %v (%v)", damage, lost, err)
		}
		if applied := migrate(false); len(applied) != 0 {
			t.Errorf("%s: the second time applied %q", damage, applied)
		}
		if n := pgtest.One[int](t, conn, "select count(*) from offstage.migrations where id = 1000000"); n != 1 {
			t.Errorf("%s: offstage.migrations has %d rows", damage, n)
		}
	}
	if again := one64(t, conn, "select id from offstage.add_job('a', job_key => 'k')"); again != id {
		t.Errorf("the job under the key is %d, it was %d", again, id)
	}
	// A program that is older knows not what was there.
	pgtest.Do(t, conn, "insert into offstage_private.migration values ($1, 'later', false)", schema.Version()+1)
	pgtest.Do(t, conn, "drop schema offstage cascade")
	_, err := schema.Migrate(t.Context(), conn, schema.Config{})
	for _, err := range []error{err, schema.Check(t.Context(), conn, "")} {
		if !errors.Is(err, schema.ErrNewer) || !strings.Contains(err.Error(), "its jobs are still in offstage_private") {
			t.Errorf("of a newer schema, without the public one: %v", err)
		}
	}
}

// TestPrivateSchemaDropped: nothing brings the jobs back, and what is left must not be taken for an installation.
func TestPrivateSchemaDropped(t *testing.T) {
	t.Parallel()
	conn := pgtest.New(t).Conn(t)
	says := func(what string) {
		t.Helper()
		_, migrated := schema.Migrate(t.Context(), conn, schema.Config{})
		_, dry := schema.Migrate(t.Context(), conn, schema.Config{DryRun: true})
		for _, err := range []error{migrated, dry, schema.Check(t.Context(), conn, "")} {
			if !errors.Is(err, schema.ErrHalf) || !strings.Contains(err.Error(), what) {
				t.Errorf("got %v, want %q", err, what)
			}
		}
	}
	pgtest.Do(t, conn, "alter table offstage_private.migration rename to away")
	says("has lost its table migration")
	pgtest.Do(t, conn, "drop schema offstage_private cascade")
	says("drop schema offstage cascade")
	pgtest.Do(t, conn, "create schema offstage_private")
	says("drop schema offstage cascade")
	pgtest.Do(t, conn, "drop schema offstage cascade")
	res, err := schema.Migrate(t.Context(), conn, schema.Config{})
	if err != nil || res.From != 0 {
		t.Errorf("after the advice: %+v, %v", res, err)
	}
}

// TestAnotherName: under another name everything is the same, and nothing is left of the first.
func TestAnotherName(t *testing.T) {
	t.Parallel()
	want := catalog(t, pgtest.New(t).Conn(t), "offstage")
	conn := pgtest.Bare(t).Conn(t)
	for _, name := range []string{"elsewhere", "graphile_worker", "_", "name", strings.Repeat("x", 55)} {
		if _, err := schema.Migrate(t.Context(), conn, schema.Config{Schema: name}); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if err := schema.Check(t.Context(), conn, name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	const name = "elsewhere"
	got := catalog(t, conn, name)
	left := regexp.MustCompile(`\boffstage(_private)?\b($|[^:])`)
	for i, x := range got {
		if found := left.FindString(x); found != "" {
			t.Errorf("%q is left in %s", found, x)
		}
		got[i] = strings.ReplaceAll(x, name, "offstage")
	}
	sameCatalog(t, name, got, want)
}

func TestSchemaNames(t *testing.T) {
	t.Parallel()
	conn := pgtest.Bare(t).Conn(t)
	for _, name := range []string{
		"Offstage", "1a", "a-b", "a b", `a"b`, "a.b", "a'b", "ä", strings.Repeat("x", 56), "pg_jobs", "pg_", "public", "information_schema",
		"select", "user", "table", "left", "authorization", // words that cannot be names
		"values", "int", "row", "coalesce", "interval", "setof", // words that cannot be in front of a type
		"jobs_private", // would be the private one of jobs
	} {
		_, err := schema.Migrate(t.Context(), conn, schema.Config{Schema: name})
		if err == nil || !strings.Contains(err.Error(), "not allowed") {
			t.Errorf("%s: %v", name, err)
		}
		if err := schema.Check(t.Context(), conn, name); err == nil || errors.Is(err, schema.ErrOlder) {
			t.Errorf("Check %s: %v", name, err)
		}
	}
	if n := pgtest.One[int](t, conn, "select count(*) from pg_namespace where nspname !~ '^(pg_|information_schema|public)'"); n != 0 {
		t.Errorf("%d schemas were made", n)
	}
}

// TestTwoSchemas: two installations in one database do not wake each other, nor wait for each other.
func TestTwoSchemas(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	if _, err := schema.Migrate(t.Context(), conn, schema.Config{Schema: "other"}); err != nil {
		t.Fatal(err)
	}
	heard := &session{conn: db.Conn(t)}
	pgtest.Do(t, heard.conn, `listen "offstage:wake"; listen "offstage:settled"; listen "offstage:cancel"`)
	for _, name := range []string{"offstage", "other"} {
		sleeper := db.Conn(t)
		pgtest.Do(t, sleeper, `select * from `+name+`.register('h', 1, 'v', 1, '[{"name": "a"}]')`)
		pgtest.Do(t, sleeper, `select * from `+name+`.claim(1, 1, '{1}', sleep_state => 1)`)
		for _, adds := range []string{"offstage", "other"} {
			pgtest.Do(t, conn, `select `+adds+`.add_job('a')`)
			want := ""
			if adds == name {
				want = "offstage:wake " + name + "\n"
			}
			if got := heard.notified(t); got != want {
				t.Errorf("a worker of %s sleeps, a job is added in %s: notified %q, want %q", name, adds, got, want)
			}
		}
		pgtest.Do(t, sleeper, `select * from `+name+`.claim(1, 5, '{1}', sleep_state => -1)`)
		pgtest.Do(t, conn, `select `+name+`.await_job(1)`)
		pgtest.Do(t, conn, `select `+name+`.cancel_jobs('{1}')`)
		pgtest.Do(t, conn, `select * from `+name+`.settle(1, '{1025}', '{1}')`)
		if got, want := heard.notified(t), fmt.Sprintf("offstage:cancel %s\noffstage:settled %[1]s:1\n", name); got != want {
			t.Errorf("%s notifies %q, want %q", name, got, want)
		}
	}
	// A chore in one does not keep the other from its own.
	pgtest.Do(t, conn, "begin")
	for _, chore := range []string{"promote", "tidy"} {
		pgtest.Do(t, conn, "select * from offstage."+chore+"()")
	}
	if n := pgtest.One[int](t, heard.conn, "select count(*) from other.promote()"); n != 1 {
		t.Error("promote in one schema waits for the other")
	}
	if n := pgtest.One[int](t, heard.conn, "select count(*) from offstage.promote()"); n != 0 {
		t.Error("two promote in one schema at once")
	}
	pgtest.Do(t, conn, "rollback")
	if _, err := schema.Migrate(t.Context(), conn, schema.Config{Schema: "other"}); err != nil {
		t.Error(err)
	}
}

// TestGraphile: what belongs to Graphile Worker is recognised by its tables, and not touched.
func TestGraphile(t *testing.T) {
	t.Parallel()
	conn := pgtest.Bare(t).Conn(t)
	for i, table := range []string{"_private_jobs", "jobs"} { // since 0.14, and before
		name := fmt.Sprint("graphile_worker", i)
		pgtest.Do(t, conn, "create schema "+name)
		pgtest.Do(t, conn, "create table "+name+".migrations (id integer primary key, ts timestamptz not null default now(), breaking boolean not null default false)")
		pgtest.Do(t, conn, "insert into "+name+".migrations values (11)")
		pgtest.Do(t, conn, "create table "+name+"."+table+` (id bigint primary key generated always as identity, job_queue_id integer, task_id integer not null, payload json not null default '{}',
			priority smallint not null default 0, run_at timestamptz not null default now(), attempts smallint not null default 0, max_attempts smallint not null default 25,
			last_error text, created_at timestamptz not null default now(), updated_at timestamptz not null default now(), key text unique, locked_at timestamptz,
			locked_by text, revision integer not null default 0, flags jsonb, is_available boolean)`)
		before := pgtest.One[int](t, conn, "select count(*) from pg_class")
		for _, dry := range []bool{true, false} {
			_, err := schema.Migrate(t.Context(), conn, schema.Config{Schema: name, DryRun: dry})
			if !errors.Is(err, schema.ErrGraphile) || !strings.Contains(err.Error(), "offstage adopt") {
				t.Errorf("Migrate beside %s: %v", table, err)
			}
		}
		if err := schema.Check(t.Context(), conn, name); !errors.Is(err, schema.ErrGraphile) {
			t.Errorf("Check beside %s: %v", table, err)
		}
		if after := pgtest.One[int](t, conn, "select count(*) from pg_class"); after != before {
			t.Errorf("%d relations were made beside %s", after-before, table)
		}
	}
	// A ledger alone, which those make whose role may not create schemas, is no installation.
	pgtest.Do(t, conn, "create schema lone")
	pgtest.Do(t, conn, "create table lone.migrations (id integer primary key)")
	if err := schema.Check(t.Context(), conn, "lone"); !errors.Is(err, schema.ErrOlder) {
		t.Errorf("a ledger alone: %v", err)
	}
}

func TestNewerSchema(t *testing.T) {
	t.Parallel()
	conn := pgtest.New(t).Conn(t)
	newer := schema.Version() + 3
	pgtest.Do(t, conn, "insert into offstage_private.migration values ($1, 'later', false)", newer)
	pgtest.Do(t, conn, "drop function offstage.job_payload(bigint)") // older programs must not install their functions again
	res, err := schema.Migrate(t.Context(), conn, schema.Config{})
	if err != nil || !res.Newer || res.From != newer || res.To != newer || len(res.Applied) != 0 {
		t.Errorf("Migrate of a newer schema: %+v, %v", res, err)
	}
	if err := schema.Check(t.Context(), conn, ""); err != nil {
		t.Errorf("Check of a newer schema: %v", err)
	}
	pgtest.Do(t, conn, "update offstage_private.migration set breaking = true where version = $1", newer)
	_, err = schema.Migrate(t.Context(), conn, schema.Config{})
	if !errors.Is(err, schema.ErrNewer) || !strings.Contains(err.Error(), "install a newer Offstage") {
		t.Errorf("Migrate of a newer schema that breaks: %v", err)
	}
	if err := schema.Check(t.Context(), conn, ""); !errors.Is(err, schema.ErrNewer) {
		t.Errorf("Check of a newer schema that breaks: %v", err)
	}
	if n := pgtest.One[int](t, conn, "select count(*) from pg_proc where proname = 'job_payload'"); n != 0 {
		t.Error("an older program installed its functions again")
	}
	if got := one64(t, conn, "select breaking from offstage.heartbeat((select worker_id from offstage.register('h', 1, 'v', 1, '[{\"name\": \"a\"}]')))"); got != int64(newer) {
		t.Errorf("the heartbeat says breaking %d", got)
	}
}

// A worker of the version before beats on while others migrate: heartbeat() has been made anew, with one more column.
func TestMigrationBesideOlderWorker(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn, older := db.Conn(t), db.Conn(t)
	id, _ := worker(t, conn, "a")
	pgtest.Do(t, conn, "drop table offstage_private.wish cascade")
	pgtest.Do(t, conn, "alter table offstage_private.worker drop column deaf_since cascade")
	pgtest.Do(t, conn, "alter table offstage_private.parked drop column job_ctid")
	pgtest.Do(t, conn, "alter table offstage_private.ticket drop constraint ticket_pkey, add primary key (lane_id, priority, run_at, job_id)")
	pgtest.Do(t, conn, "alter table offstage_private.ticket drop column jobs, drop column job_ids, drop column job_ctids")
	pgtest.Do(t, conn, "drop table offstage_private.stub cascade")
	pgtest.Do(t, conn, "drop table offstage_private.offer cascade")
	pgtest.Do(t, conn, "drop function offstage_private.give()")
	pgtest.Do(t, conn, "drop table offstage_private.unlock")
	pgtest.Do(t, conn, `alter table offstage_private.queue_front drop column taken_run_at, drop column taken_job_id, drop column taken_priority,
		drop column handed_run_at, drop column handed_job_id, drop column handed_priority`)
	pgtest.Do(t, conn, "select offstage.configure_task('a', '{\"keep\": \"none\"}'), offstage.add_job('b', queue_name => 'q')")
	pgtest.Do(t, conn, "drop table offstage_private.name, offstage_private.task_version cascade")
	pgtest.Do(t, conn, "drop function offstage_private.keep_name(), offstage_private.keep_version() cascade")
	pgtest.Do(t, conn, "delete from offstage_private.migration where version >= 11")
	pgtest.Do(t, conn, "drop function offstage.heartbeat(integer, boolean, interval)")
	pgtest.Do(t, conn, `create function offstage.heartbeat(worker_id integer, draining boolean default false)
		returns table (period interval, claims bigint[], cancelled bigint[], reasons text[], settings bigint, breaking integer)
		language sql as $$ select interval '1 h', null::bigint[], null::bigint[], null::text[], 0::bigint, 0 $$`)
	beat := func() (period time.Duration) {
		t.Helper()
		var claims, cancelled []int64
		var reasons []string
		var settings, breaking *int64
		err := older.QueryRow(t.Context(), `select period, claims, cancelled, reasons, settings, breaking from offstage.heartbeat($1, $2)`, id, false).
			Scan(&period, &claims, &cancelled, &reasons, &settings, &breaking) // prepared once
		if err != nil {
			t.Fatal(err)
		}
		return period
	}
	if period := beat(); period != time.Hour {
		t.Fatalf("before the migration, a beat is due after %v", period)
	}
	if _, err := schema.Migrate(t.Context(), conn, schema.Config{}); err != nil {
		t.Fatal(err)
	}
	if period := beat(); period != time.Second {
		t.Errorf("after the migration, a beat is due after %v", period)
	}
	checkWhole(t, conn) // the names and versions of tasks that there were, too
}

// TestRights: a role without CREATE gets advice; with two schemas of its own it can do everything.
func TestRights(t *testing.T) {
	t.Parallel()
	db := pgtest.Bare(t)
	super := db.SuperPool(t)
	role := "r_" + strings.ToLower(strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' || r >= 'a' && r <= 'z' {
			return r
		}
		return '_'
	}, db.Name))
	role = role[:min(len(role), 60)]
	pgtest.Do(t, super, "create role "+role)
	t.Cleanup(func() {
		for _, sql := range []string{"drop owned by " + role, "drop role " + role} {
			if _, err := super.Exec(t.Context(), sql); err != nil && t.Context().Err() == nil {
				t.Error(err)
			}
		}
	})
	as := func() *pgx.Conn {
		cfg, err := pgx.ParseConfig(db.SuperURL)
		if err != nil {
			t.Fatal(err)
		}
		cfg.RuntimeParams = map[string]string{"search_path": "", "role": role}
		conn, err := pgx.ConnectConfig(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close(t.Context()) })
		return conn
	}
	conn := as()
	if is := pgtest.One[string](t, conn, "select current_user"); is != role {
		t.Fatalf("the role is %s", is)
	}
	_, err := schema.Migrate(t.Context(), conn, schema.Config{})
	if err == nil || !strings.Contains(err.Error(), "the role needs CREATE on the database, or both schemas") {
		t.Errorf("Migrate without rights: %v", err)
	}
	pgtest.Do(t, super, "create schema offstage authorization "+role)
	if _, err := schema.Migrate(t.Context(), conn, schema.Config{}); err == nil || !strings.Contains(err.Error(), "both schemas") {
		t.Errorf("Migrate with one schema: %v", err)
	}
	pgtest.Do(t, super, "create schema offstage_private authorization "+role)
	if _, err := schema.Migrate(t.Context(), conn, schema.Config{}); err != nil {
		t.Fatalf("Migrate with both schemas: %v", err)
	}
	pgtest.Do(t, super, "create schema by_hand authorization "+role)
	pgtest.Do(t, super, "create schema by_hand_private authorization "+role)
	dump, err := schema.Dump("by_hand", 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), dump); err != nil {
		t.Errorf("what --sql prints, with both schemas: %v", err)
	}
	id, tasks := worker(t, conn, "a")
	pgtest.Do(t, conn, "select offstage.add_job('a', queue_name => 'q', notify_channel => 'c', job_key => 'k', flags => '{f}')")
	if n := pgtest.One[int](t, conn, "select count(*) from offstage.claim($1, 5, $2, sleep_state => 1) where kind = 'job'", id, tasks); n != 1 {
		t.Errorf("claimed %d", n)
	}
	pgtest.Do(t, conn, "select * from offstage.settle($1, '{1025}', '{1}')", id)
	pgtest.Do(t, conn, "select offstage.tidy(), offstage.promote(), offstage.rescue($1), offstage.heartbeat($1)", id)
}

// TestCompression: large payloads and results are compressed as the server can do it fastest, in the partitions of new days, too.
func TestCompression(t *testing.T) {
	t.Parallel()
	conn := pgtest.New(t).Conn(t)
	want := "pglz"
	if pgtest.One[bool](t, conn, "select 'lz4' = any (enumvals) from pg_settings where name = 'default_toast_compression'") {
		want = "lz4"
	}
	pgtest.Do(t, conn, "select offstage.tidy()")
	worker, tasks := worker(t, conn, "a")
	job := one64(t, conn, `select id from offstage.add_job('a', (select json_agg(json_build_object('n', n, 'colour', 'red')) from generate_series(1, 2000) n))`)
	if got := pgtest.One[string](t, conn, "select pg_column_compression(payload) from offstage_private.job"); got != want {
		t.Errorf("a payload is compressed by %s, want %s", got, want)
	}
	claim := one64(t, conn, "select claim from offstage.claim($1, 1, $2)", worker, tasks)
	pgtest.Do(t, conn, `select offstage.settle($1, array[$2]::bigint[], array[$3]::bigint[], (select array[json_agg(json_build_object('n', n, 'colour', 'blue'))] from generate_series(1, 2000) n))`, worker, claim, job)
	for _, column := range []string{"payload", "result"} {
		if got := pgtest.One[string](t, conn, "select pg_column_compression("+column+") from offstage_private.history where tableoid <> 'offstage_private.history_rest'::regclass"); got != want {
			t.Errorf("a %s in history is compressed by %s, want %s", column, got, want)
		}
	}
}
