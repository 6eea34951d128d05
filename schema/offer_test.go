package schema_test

import (
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
