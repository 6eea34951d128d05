package compat_test

import (
	"strings"
	"testing"
)

// mutants are Graphile Workers with one mistake each: a function, or the view, in whose source one text is replaced.
// The comparison must find each of them, or it proves nothing.
var mutants = []struct{ object, old, new string }{
	{"add_jobs", "revision + 1", "revision + 2"},
	{"add_jobs", "attempts = 0,", "attempts = jobs.attempts,"},
	{"add_jobs", "last_error = null", "last_error = jobs.last_error"},
	{"add_jobs", "and jobs.attempts = 0", ""},
	{"add_jobs", ", 25)", ", 24)"},
	{"add_jobs", "flags = excluded.flags", "flags = coalesce(excluded.flags, jobs.flags)"},
	{"add_jobs", "jobs.payload::jsonb || excluded.payload::jsonb", "excluded.payload::jsonb || jobs.payload::jsonb"},
	{"add_jobs", "coalesce(spec.payload,", "coalesce(spec.payload::jsonb::json,"},
	{"add_jobs", "is_available is not true", "locked_at is not null"},
	{"add_job", "GWBKM", "GWBKX"},
	{"add_job", "revision = jobs.revision + 1,", ""},
	{"remove_job", "if not (v_job is null)", "if true"},
	{"remove_job", "attempts = jobs.max_attempts,", ""},
	{"complete_jobs", "locked_at is null", "true"},
	{"permanently_fail_jobs", "updated_at = now()", "updated_at = jobs.updated_at"},
	{"reschedule_jobs", "reschedule_jobs.priority", "nullif(reschedule_jobs.priority, 0)"},
	{"reschedule_jobs", "attempts = coalesce(", "attempts = greatest(0, "},
	{"force_unlock_workers", "locked_at = null,", ""},
	{"jobs", "jobs.updated_at", "jobs.created_at AS updated_at"},
}

// TestHarness: two releases of Graphile Worker compare equal in all scripts of testdata, and every mutant is found by
// some random sequence.
func TestHarness(t *testing.T) {
	t.Parallel()
	t.Run("equal", func(t *testing.T) {
		t.Parallel()
		other := func(t *testing.T) *side { return graphileSide(t, versions[1]) }
		p := pair{graphileSide(t, versions[0]), other(t)}
		for _, file := range files(t) {
			p = playAll(t, p, read(t, file), other)
		}
	})
	t.Run("mutants", func(t *testing.T) {
		t.Parallel()
		var p pair
		for _, m := range mutants {
			if p.want == nil || !p.recover(t) {
				p = pair{graphileSide(t, versions[0]), graphileSide(t, versions[0])}
			}
			conn := p.got.worker.(*oracle).conn
			var source string
			get := `select pg_get_functiondef(('graphile_worker.' || $1)::regproc)`
			if m.object == "jobs" {
				get = `select 'create or replace view graphile_worker.jobs as ' || pg_get_viewdef(('graphile_worker.' || $1)::regclass)`
			}
			if err := conn.QueryRow(t.Context(), get, m.object).Scan(&source); err != nil {
				t.Fatal(err)
			}
			mutant := strings.ReplaceAll(source, m.old, m.new)
			if mutant == source {
				t.Fatalf("%s has no %q", m.object, m.old)
			}
			if _, err := conn.Exec(t.Context(), mutant); err != nil {
				t.Fatalf("%s with %q: %v", m.object, m.new, err)
			}
			n, found := 0, ""
			for ; n < 100 && found == ""; n++ {
				var err error
				if found, err = p.one(t.Context(), script{steps: sequence(uint64(n), 30)}); err != nil {
					t.Fatal(err)
				}
			}
			t.Logf("%s with %q: %d sequences", m.object, m.new, n)
			if found == "" {
				t.Errorf("not found: %s with %q instead of %q", m.object, m.new, m.old)
			}
			if _, err := conn.Exec(t.Context(), source); err != nil {
				t.Fatal(err)
			}
		}
	})
}
