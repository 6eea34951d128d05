package schema_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/offstage-dev/offstage/internal/pgtest"
)

// A job that somebody adds who has no rights but those of a wrapper around add_job is claimed at the commit, when the wrapper has returned; and
// where triggers do not fire, it waits as if there were no offer.
func TestOfferToOthers(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	w, super := db.Conn(t), db.SuperPool(t)
	id, tasks := worker(t, w, "a")
	offer := func() {
		t.Helper()
		pgtest.Do(t, w, "select offstage_private.sleep_lock($1, true), offstage.offer_lock($2), offstage.offer($2, 'secret', $1)", tasks, id)
	}
	for _, sql := range []string{
		"create schema app",
		`create function app.add() returns bigint language sql security definer set search_path = pg_catalog, pg_temp as $$ select id from offstage.add_job('a') $$`,
		"grant usage on schema app to public",
	} {
		pgtest.Do(t, w, sql)
	}
	state := func() string {
		t.Helper()
		job := pgtest.One[int64](t, w, "select max(id) from offstage_private.job")
		return pgtest.One[string](t, w, "select offstage_private.state_of(j) from offstage_private.job j where id = $1", job)
	}
	add := func(as string) string {
		t.Helper()
		tx, err := super.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		pgtest.Do(t, tx, as)
		pgtest.Do(t, tx, "select app.add()")
		if err := tx.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		return state()
	}
	offer()
	if s := add("set local session authorization pg_monitor"); s != "running" {
		t.Errorf("added by somebody without rights, the job is %s", s)
	}
	offer()
	if s := add("set local session_replication_role = replica"); s != "waiting" {
		t.Errorf("added where triggers do not fire, the job is %s", s)
	}
	if s := add("set local enable_seqscan = on"); s != "running" {
		t.Errorf("added as usual, the job is %s", s)
	}
}

// A transaction that has taken an offer may still do with its job what it likes; until the commit the job waits, though it has no ticket.
func TestOfferThoughtBetter(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	w, conn := db.Conn(t), db.Conn(t)
	id, tasks := worker(t, w, "a")
	pgtest.Do(t, w, "select offstage_private.sleep_lock($1, true), offstage.offer_lock($2)", tasks, id)
	const job = "(select max(id) from offstage_private.job)"
	for _, c := range []struct {
		name  string
		calls []string
		state string // of the job in the end; "": it is gone
		open  bool   // whether the offer stands
	}{
		{"nothing", nil, "running", false},
		{"complete", []string{"select count(*) from offstage.complete_jobs(array[" + job + "])"}, "", true},
		{"cancel", []string{"select count(*) from offstage.cancel_jobs(array[" + job + "])"}, "", true},
		{"delete", []string{"select count(*) from offstage.delete_jobs(array[" + job + "])"}, "", true},
		{"fail", []string{"select count(*) from offstage.permanently_fail_jobs(array[" + job + "])"}, "failed", true},
		{"fail and retry", []string{"select count(*) from offstage.permanently_fail_jobs(array[" + job + "])", "select count(*) from offstage.retry_jobs(array[" + job + "])"}, "waiting", true},
		{"reschedule", []string{"select count(*) from offstage.reschedule_jobs(array[" + job + "], run_at => now() + '1 h')"}, "scheduled", true},
		{"priority, twice", []string{"select count(*) from offstage.reschedule_jobs(array[" + job + "], priority => 3)", "select count(*) from offstage.reschedule_jobs(array[" + job + "], priority => 4)"}, "waiting", true},
		{"edit", []string{"select offstage.edit_job(" + job + ", '{}')"}, "waiting", true},
		{"pause", []string{"select offstage.pause_task('a')"}, "paused", true},
		{"savepoint", []string{"savepoint s", "select count(*) from offstage.complete_jobs(array[" + job + "])", "rollback to s"}, "running", false},
		{"another one", []string{"select offstage.add_job('a')", "select count(*) from offstage.complete_jobs(array[" + job + "])"}, "running", false},
		{"reset", []string{"reset all"}, "running", false},
		{"reset, and complete", []string{"reset all", "select count(*) from offstage.complete_jobs(array[" + job + "])"}, "running", false},
		{"at once", []string{"set constraints all immediate"}, "running", false},
		{"at once, and complete", []string{"set constraints all immediate", "select count(*) from offstage.complete_jobs(array[" + job + "])"}, "running", false},
	} {
		for _, immediate := range []bool{false, true} {
			pgtest.Do(t, w, "select offstage.offer($1, 'secret', $2)", id, tasks)
			tx, err := conn.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			state, open := c.state, c.open
			if immediate { // the job is given by add_job itself
				pgtest.Do(t, tx, "set constraints all immediate")
				if c.name != "nothing" {
					state = "running"
				}
				open = false
			}
			pgtest.Do(t, tx, "select offstage.add_job('a')")
			if s := pgtest.One[string](t, tx, "select state from offstage.jobs where id = "+job); s != map[bool]string{false: "waiting", true: "running"}[immediate] {
				t.Errorf("%s: before the commit the job is %s", c.name, s)
			}
			if c.name != "edit" || !immediate { // which raises that it is running
				for _, call := range c.calls {
					pgtest.Do(t, tx, call)
				}
			}
			if err := tx.Commit(t.Context()); err != nil {
				t.Fatal(err)
			}
			if s := pgtest.One[string](t, w, "select coalesce((select offstage_private.state_of(j) from offstage_private.job j), '')"); s != state {
				t.Errorf("%s, immediate %t: the job is %q, want %q", c.name, immediate, s, state)
			}
			if is := pgtest.One[bool](t, w, "select open from offstage_private.offer"); is != open {
				t.Errorf("%s, immediate %t: the offer stands: %t", c.name, immediate, is)
			}
			checkWhole(t, w)
			pgtest.Do(t, w, "select offstage.resume_task('a')")
			pgtest.Do(t, w, "select offstage.recall($1, null)", id)
			pgtest.Do(t, w, "select count(*) from offstage.delete_jobs(array(select id from offstage_private.job))")
			pgtest.Do(t, w, "delete from offstage_private.cancellation")
		}
	}

	// What says so is a setting, which anybody can make: nothing becomes of one that is not true.
	running := pgtest.One[int64](t, w, "select (offstage.add_job('a', priority => 1)).id")
	if took := pgtest.List[int64](t, w, "select job_id from offstage.claim($1, 1, $2) where kind = 'job'", id, tasks); len(took) != 1 || took[0] != running {
		t.Fatalf("the worker took %v", took)
	}
	waiting := pgtest.One[int64](t, w, "select (offstage.add_job('a', run_at => now() + '1 h')).id")
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	pgtest.Do(t, tx, "select set_config('offstage.offered', $1::text, true)", fmt.Sprint(",", running, ",", waiting, ",x"))
	if done := pgtest.List[int64](t, tx, "select id from offstage.complete_jobs($1)", []int64{running, waiting}); !slices.Equal(done, []int64{waiting}) {
		t.Errorf("%v are completed, want %d; %d is running", done, waiting, running)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	checkWhole(t, w)
}
