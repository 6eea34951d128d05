package maintain_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/offstage-dev/offstage/internal/maintain"
	"github.com/offstage-dev/offstage/internal/pgtest"
	"github.com/offstage-dev/offstage/internal/store"
)

const mb = 1 << 20

// An index full of holes is built anew, beside whoever uses its table; one that is as large as it must be is left alone.
func TestIndexesAreRebuilt(t *testing.T) {
	s := newStage(t)
	c := &maintain.Chores{Store: store.New("offstage"), Log: slog.New(slog.DiscardHandler)}
	conn := s.db.Conn(t)
	s.exec(`insert into offstage_private.scheduled (run_at, job_id, lane_id, priority) select now() + n * interval '1 h', n, 1, 0 from generate_series(1, 100000) n`)
	s.exec(`insert into offstage_private.parked (run_at, job_id, lane_id, queue_id, priority) select now(), n, 1, 1, 0 from generate_series(1, 50000) n`)
	s.exec(`delete from offstage_private.scheduled where job_id % 100 > 0`)
	size := func(index string) int64 {
		return one[int64](s, "select pg_relation_size($1::regclass)", "offstage_private."+index)
	}
	counted := func() { s.exec(`vacuum analyze offstage_private.scheduled`) } // what other sessions did is counted when they say so, which may come later
	counted()
	full, parked := size("scheduled_pkey"), size("parked_pkey")
	if full < 2*mb || parked < 2*mb {
		t.Fatalf("the indexes have %d and %d bytes: this tests nothing", full, parked)
	}

	// While somebody has had a transaction open for long, it is not even begun, and the reason is an error of the chore.
	s.exec(`create table app.told (as_of timestamptz)`)
	old := s.db.Conn(t)
	pgtest.Do(t, old, "begin isolation level repeatable read")
	pgtest.Do(t, old, "set local application_name = 'the old one'")
	pgtest.Do(t, old, "select from app.told")
	held, err := c.Store.OldTransaction(t.Context(), conn, 0)
	if err != nil || !strings.Contains(held, "the old one") {
		t.Errorf("the old transaction is %q, %v", held, err)
	}
	// Begun all the same, it gives up, and leaves a broken index behind.
	var bloated []store.Index
	pgtest.Eventually(t, 20*time.Second, func() bool {
		counted()
		bloated, err = c.Store.BloatedIndexes(t.Context(), conn, 2*mb, 4)
		return err != nil || len(bloated) > 0
	})
	if err != nil || len(bloated) != 1 || bloated[0].Name != "scheduled_pkey" || bloated[0].Bytes != full || bloated[0].Needed > mb {
		t.Fatalf("bloated are %+v, %v", bloated, err)
	}
	// While its table is being vacuumed, nobody waits for that.
	vacuum := s.db.Conn(t)
	pgtest.Do(t, vacuum, "begin")
	pgtest.Do(t, vacuum, "lock table offstage_private.scheduled in share update exclusive mode") // as vacuum does
	inTime, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if list, err := c.Store.BloatedIndexes(inTime, conn, 2*mb, 4); err != nil || len(list) > 0 {
		t.Errorf("beside a vacuum, bloated are %+v, %v", list, err)
	}
	pgtest.Do(t, vacuum, "commit")
	began := time.Now()
	if err := c.Store.Rebuild(t.Context(), conn, bloated[0], 300*time.Millisecond); err == nil || !strings.Contains(err.Error(), "lock timeout") {
		t.Errorf("rebuilt beside an old snapshot: %v", err)
	}
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("gave up after %v", took)
	}
	if n := one[int](s, "select count(*) from offstage_private.bloated_indexes($1, 4) where broken", 2*mb); n != 1 {
		t.Errorf("%d broken indexes", n)
	}
	pgtest.Do(t, old, "commit")

	pgtest.Eventually(t, 20*time.Second, func() error {
		counted()
		if err := maintain.Rebuild(c, t.Context(), conn, 2*mb); err != nil {
			return err
		}
		if got := size("scheduled_pkey"); got > full/10 {
			return fmt.Errorf("the index has %d bytes, after %d", got, full)
		}
		return nil
	})
	if got := size("parked_pkey"); got != parked {
		t.Errorf("the other one has %d bytes, after %d", got, parked)
	}
	if n := one[int](s, "select count(*) from pg_index i join pg_class c on c.oid = i.indrelid where c.relname = 'scheduled'"); n != 1 {
		t.Errorf("there are %d indexes", n)
	}
	if n := one[int](s, "select count(*) from offstage_private.bloated_indexes($1, 4)", 2*mb); n != 0 {
		t.Errorf("%d are still wrong", n)
	}
}

// One worker at a time looks after indexes.
func TestIndexesAreLookedAfterByOne(t *testing.T) {
	s := newStage(t)
	db := store.New("offstage")
	a, b := s.db.Conn(t), s.db.Conn(t)
	for _, step := range []struct {
		do   func() (bool, error)
		want bool
	}{
		{func() (bool, error) { return db.LockIndexes(t.Context(), a) }, true},
		{func() (bool, error) { return db.LockIndexes(t.Context(), b) }, false},
		{func() (bool, error) { return true, db.UnlockIndexes(t.Context(), a) }, true},
		{func() (bool, error) { return db.LockIndexes(t.Context(), b) }, true},
	} {
		if got, err := step.do(); got != step.want || err != nil {
			t.Errorf("got %t, %v", got, err)
		}
	}
}

// A chore that fails is noted, with its error, and keeps none of the others from being done.
func TestOneChoreFails(t *testing.T) {
	s := newStage(t)
	s.exec(`drop function offstage.roll_up`)
	s.exec(`create function offstage.roll_up(integer) returns integer language sql as $$ select 1 / 0 $$`)
	s.schedule(100, 0, 2*time.Second)
	s.run(nil)
	s.exact(100)
	state := func(name string) string {
		return one[string](s, "select coalesce((select state || ' ' || coalesce(error, '') from offstage.chores where name = $1), '')", name)
	}
	pgtest.Eventually(t, 30*time.Second, func() bool {
		return strings.HasPrefix(state("statistics"), "failing ERROR: division by zero") && state("promote") == "ok " && state("rescue") == "ok " && state("tidy") == "ok "
	})
	s.exec(`drop function offstage.roll_up`)
	s.exec(`create function offstage.roll_up(integer) returns integer language sql as $$ select 1 $$`)
	pgtest.Eventually(t, 30*time.Second, func() bool { return strings.HasPrefix(state("statistics"), "ok ") })
}

// Where chores come every few milliseconds, their notes do not: a note is a row that is written.
func TestNotesAreRare(t *testing.T) {
	s := newStage(t)
	s.run(nil)
	pgtest.Eventually(t, 20*time.Second, func() bool { return one[bool](s, "select count(*) >= 4 from offstage.chores where ran_at is not null") })
	versions := func() string {
		return one[string](s, "select string_agg(name || ' ' || ran_at, ', ' order by name) from offstage.chores")
	}
	before, at := versions(), time.Now()
	for range 200 {
		s.exec("select offstage.chore_ran(name, 7, period) from offstage.chores")
	}
	if after := versions(); after != before && time.Since(at) < 5*time.Second {
		t.Errorf("noted again within %v: %s, and %s before", time.Since(at), after, before)
	}

	// Who would have to wait for another one's note leaves it.
	conn := s.db.Conn(t)
	pgtest.Do(t, conn, "begin")
	pgtest.Do(t, conn, "update offstage_private.chore set ran_at = now() - interval '1 h'")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, err := s.pool.Exec(ctx, "select offstage.chore_ran('promote', 8, '2 s', error => 'no')"); err != nil {
		t.Errorf("a note waited: %v", err)
	}
	pgtest.Do(t, conn, "rollback")
}
