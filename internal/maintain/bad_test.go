package maintain_test

import (
	"log/slog"
	"testing"
	"time"

	"github.com/offstage-dev/offstage/internal/maintain"
	"github.com/offstage-dev/offstage/internal/pgtest"
	"github.com/offstage-dev/offstage/internal/store"
)

// ticking runs chores with a ticker that knows no schedules but the database's.
func (s *stage) ticking() *maintain.Ticker {
	ticker := maintain.NewTicker(slog.New(slog.DiscardHandler))
	s.runWith(nil, ticker)
	return ticker
}

func (s *stage) ticks(name string) int {
	s.t.Helper()
	return one[int](s, "select ticks from offstage.schedules where name = $1", name)
}

func (s *stage) goesOn(name string) {
	s.t.Helper()
	before := s.ticks(name)
	pgtest.Eventually(s.t, 30*time.Second, func() bool { return s.ticks(name) >= before+2 })
}

// One that nobody can read, and one whose job cannot be added: both say so, are tried again, and harm no other.
func TestBadSchedules(t *testing.T) {
	s := newStage(t)
	s.exec(`select offstage.add_schedule(x, x, '* * * * * *') from unnest('{good,bad,unread}'::text[]) x`)
	s.exec(`update offstage_private.schedule set expression = '* * * * * L' where name = 'unread'`) // as if by another version
	s.exec(`create function app.refuse() returns trigger language plpgsql as $$
		begin
			if new.task_id = offstage_private.task_id('bad') then
				raise 'not today';
			end if;
			return new;
		end $$`)
	s.exec(`create trigger refuse before insert on offstage_private.job for each row execute function app.refuse()`)
	s.ticking()
	s.goesOn("good")
	failing := func(name, text string) {
		t.Helper()
		pgtest.Eventually(t, 30*time.Second, func() bool {
			return one[bool](s, "select coalesce(error, '') like '%' || $2 || '%' from offstage.schedules where name = $1", name, text)
		})
	}
	failing("bad", "not today")
	failing("unread", "Unsupported syntax 'L' in days of week")
	s.goesOn("good")

	since := one[time.Time](s, "select known_at from offstage_private.schedule where name = 'bad'")
	s.exec(`drop trigger refuse on offstage_private.job`)
	s.exec(`select offstage.add_schedule('unread', 'unread', '* * * * * *')`)
	s.goesOn("bad")
	s.goesOn("unread")
	var n, seconds int
	if err := s.pool.QueryRow(t.Context(), `select s.ticks, extract(epoch from s.last_tick - date_trunc('second', $1::timestamptz))::int from offstage_private.schedule s where s.name = 'bad'`, since).
		Scan(&n, &seconds); err != nil {
		t.Fatal(err)
	}
	if n != seconds {
		t.Errorf("%d ticks in %d seconds: some were lost while it failed", n, seconds)
	}
	if text := one[string](s, "select coalesce(string_agg(name || ': ' || error, ', '), '') from offstage.schedules where error is not null"); text != "" {
		t.Errorf("still failing: %s", text)
	}
}

// When ticking itself fails, promotion goes on.
func TestTicksFail(t *testing.T) {
	s := newStage(t)
	s.exec(`select offstage.add_schedule('good', 'good', '* * * * * *')`)
	source := one[string](s, "select pg_catalog.pg_get_functiondef('offstage.due_schedules'::regproc)")
	s.exec(`create or replace function offstage.due_schedules(names text[] default null, max_schedules integer default 100)
		returns table (at timestamptz, looks_at timestamptz, schedule_id integer, name text, revision integer, expression text, zone text, from_at timestamptz,
		until_at timestamptz, catchup text, fill interval, next_at timestamptz, since timestamptz)
		language plpgsql as $$ begin raise 'out of order'; end $$`)
	s.ticking()
	s.schedule(20, 200*time.Millisecond, time.Second)
	s.exact(20)
	s.exec(source)
	pgtest.Eventually(t, 30*time.Second, func() bool { return s.ticks("good") >= 2 })
}

// What was refused, because the name was another's, is registered when the name is free.
func TestRefusedSchedule(t *testing.T) {
	t.Parallel()
	conn := stretched(t)
	ctx := t.Context()
	pgtest.Do(t, conn, `select offstage.add_schedule('taken', 't', '@yearly')`)
	ticker := maintain.NewTicker(slog.New(slog.DiscardHandler))
	minutely := func(name string) store.Schedule {
		return store.Schedule{Name: name, Task: "t", Expression: "* * * * *"}
	}
	ticker.Set("program", []store.Schedule{minutely("taken"), minutely("both")})
	ticker.Set("crontab", []store.Schedule{minutely("file"), minutely("both")})
	turn := func() {
		t.Helper()
		ticker.Look()
		if _, err := maintain.Turn(ticker, ctx, conn, store.New("offstage")); err != nil {
			t.Fatal(err)
		}
	}
	turn()
	const sources = `select string_agg(name || ' ' || source, ', ' order by name) from offstage.schedules where name <> 'both'`
	if got := pgtest.One[string](t, conn, sources); got != "file crontab, taken database" {
		t.Error(got)
	}
	if n := pgtest.One[int](t, conn, `select count(*) from offstage.schedules where name = 'both'`); n != 1 {
		t.Errorf("%d schedules have one name", n)
	}
	pgtest.Do(t, conn, `select offstage.remove_schedule('taken')`)
	turn()
	if got := pgtest.One[string](t, conn, sources); got != "file crontab, taken program" {
		t.Error(got)
	}
	pgtest.Do(t, conn, `update t.clock set at = at + interval '1 min'`)
	turn()
	if n := pgtest.One[int](t, conn, `select count(*) from offstage.schedules where ticks = 1`); n != 3 {
		t.Errorf("%d schedules were ticked, expected 3", n)
	}
}
