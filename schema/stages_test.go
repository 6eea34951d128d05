package schema_test

import (
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/offstage-dev/offstage/internal/pgtest"
	"github.com/offstage-dev/offstage/schema"
)

// stages are the databases in which the scenarios of TestSessions are played, one scenario after the other: to copy a database, and
// to connect to it, takes longer than most scenarios.
type stages struct {
	whole *testing.T // they are gone when it ends

	mu   sync.Mutex // guards free
	free []*stage
}

// lasting is a test whose cleanups wait for the end of another.
type lasting struct {
	testing.TB
	until *testing.T
}

func (l lasting) Cleanup(f func()) { l.until.Cleanup(f) }

// stage is a database, with sessions that nothing distinguishes from new ones.
type stage struct {
	db      *pgtest.DB
	catalog string // what t.catalog() gave when it was new
	idle    []*pgx.Conn
}

// take gives a stage on which everything is new.
func (all *stages) take(t *testing.T) *stage {
	if s := all.pop(); s != nil {
		return s
	}
	s := &stage{db: staged.New(lasting{t, all.whole})}
	conn := all.conn(t, s)
	s.catalog = pgtest.One[string](t, conn, "select t.catalog()")
	s.idle = append(s.idle, conn)
	return s
}

func (all *stages) pop() *stage {
	all.mu.Lock()
	defer all.mu.Unlock()
	n := len(all.free)
	if n == 0 {
		return nil
	}
	s := all.free[n-1]
	all.free = all.free[:n-1]
	return s
}

// conn gives a session, to be handed back to leave.
func (all *stages) conn(t *testing.T, s *stage) *pgx.Conn {
	n := len(s.idle)
	if n == 0 {
		return s.db.Conn(lasting{t, all.whole})
	}
	conn := s.idle[n-1]
	s.idle = s.idle[:n-1]
	return conn
}

// leave clears the stage for the next scenario, unless this one has rebuilt it. The sessions are as new.
func (all *stages) leave(t *testing.T, s *stage, conns []*pgx.Conn) {
	s.idle = append(s.idle, conns...)
	if !pgtest.One[bool](t, conns[0], "select t.catalog() = $1 and t.clear()", s.catalog) {
		for _, conn := range s.idle {
			_ = conn.Close(t.Context())
		}
		return
	}
	all.mu.Lock()
	defer all.mu.Unlock()
	all.free = append(all.free, s)
}

// asNew takes its role, settings, locks and temporary tables from a session.
func asNew(t *testing.T, conn *pgx.Conn) {
	t.Helper()
	pgtest.Do(t, conn, "discard all")
	if err := conn.DeallocateAll(t.Context()); err != nil { // pgx knows of none, either
		t.Fatal(err)
	}
}

// staged is what the databases are copies of.
var staged = pgtest.Template{Make: func(t testing.TB, db *pgtest.DB) {
	conn := db.Conn(t)
	if _, err := schema.Migrate(t.Context(), conn, schema.Config{}); err != nil {
		t.Fatal(err)
	}
	pgtest.Do(t, conn, setting)
	pgtest.Do(t, conn, clearing)
	if err := conn.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}}

// clearing makes a database as it was.
const clearing = `
create view t.tables as
  select format('%I.%I', n.nspname, c.relname) as name from pg_class c join pg_namespace n on n.oid = c.relnamespace
  where c.relkind = 'r' and n.nspname in ('offstage', 'offstage_private', 't');

-- what there is, besides rows
create function t.catalog() returns text language sql as $$
  select md5(string_agg(x, ' ' order by x)) from (
    select format('class %s %s %s', c.oid, c.relacl, c.reloptions) from pg_class c where c.relnamespace in (select oid from pg_namespace where nspname ~ '^(offstage|t$)')
    union all select format('column %s %s %s', a.attrelid, a.attname, a.attacl) from pg_attribute a join pg_class c on c.oid = a.attrelid where c.relnamespace in (select oid from pg_namespace where nspname ~ '^(offstage|t$)')
    union all select format('function %s %s', p.oid, p.xmin) from pg_proc p where p.pronamespace in (select oid from pg_namespace where nspname ~ '^(offstage|t$)')
    union all select format('trigger %s %s', g.oid, g.xmin) from pg_trigger g
    union all select format('constraint %s %s', o.oid, o.xmin) from pg_constraint o
    union all select format('schema %s %s', n.nspname, n.nspacl) from pg_namespace n where n.nspname !~ '^pg_'
    union all select format('setting %s', s) from pg_db_role_setting s where s.setdatabase in (0, (select oid from pg_database where datname = current_database()))
  ) y (x)
$$;

create table t.initial (name text, rows text);  -- of the tables that are not empty
create function t.rows(of_table text) returns text language plpgsql as $$
declare
  found text;
begin
  execute format('select md5(string_agg(x::text, chr(10) order by x::text)) from %s x', of_table) into found;
  return found;
end $$;
insert into t.initial select name, t.rows(name) from t.tables where name not in ('t.initial', 't.clock') and t.rows(name) is not null;

-- empties what was empty, and begins to count anew; false: rows that were there have changed
create function t.clear() returns boolean language plpgsql as $$
declare
  filled text;
begin
  if exists (select from t.initial i where i.rows is distinct from t.rows(i.name)) then
    return false;
  end if;
  select string_agg(x.name, ', ') into filled from t.tables x
  where x.name not in ('t.initial', 't.clock') and x.name not in (select i.name from t.initial i) and pg_relation_size(x.name) > 0;  -- dead rows too
  if filled is not null then
    execute 'truncate ' || filled;
  end if;
  perform setval(format('%I.%I', s.schemaname, s.sequencename), s.start_value, false) from pg_sequences s
  where s.schemaname ~ '^offstage' and s.last_value is not null;
  update t.clock set at = '2100-01-01 00:00 UTC';
  return true;
end $$;
`
