package compat_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"testing"

	"github.com/offstage-dev/offstage/internal/pgtest"
)

// TestRights: who may do what with which grants, and the way around them that Graphile Worker's users take.
func TestRights(t *testing.T) {
	t.Parallel()
	super := connect(t, pgtest.Bare(t).SuperURL)
	role := "compat_" + rand.Text()
	t.Cleanup(func() { // after the databases with its grants are gone
		if _, err := super.Exec(context.WithoutCancel(t.Context()), fmt.Sprintf("drop role if exists %q", role)); err != nil {
			t.Error(err)
		}
	})
	p := pair{graphileSide(t, versions[0]), ours(t)}
	var owner string
	if err := p.want.worker.(*oracle).conn.QueryRow(t.Context(), "select current_user").Scan(&owner); err != nil {
		t.Fatal(err)
	}
	if _, err := super.Exec(t.Context(), fmt.Sprintf("create role %q; grant %q to %q", role, role, owner)); err != nil {
		t.Fatal(err)
	}

	as := func(format string, args ...any) step {
		return statement("select set_config('role', '%s', true) is null; %s; reset role", role, fmt.Sprintf(format, args...))
	}
	calls := []step{
		as("select * from gw.add_job('t')"),
		as("select * from gw.add_job('t', job_key := 'k')"),
		as("select * from gw.add_job('t', job_key := 'k', job_key_mode := 'unsafe_dedupe')"),
		as("select * from gw.add_job('t', job_key := 'k', job_key_mode := 'wrong')"),
		as("select * from gw.add_jobs(array[('t', null, null, null, null, null, null, null)]::gw.job_spec[])"),
		as("select * from gw.remove_job('k')"),
		as("select * from gw.remove_job(null)"),
		as("select * from gw.complete_jobs(array[{1}])"),
		as("select * from gw.permanently_fail_jobs(array[{1}])"),
		as("select * from gw.reschedule_jobs(array[{1}], '2030-01-01')"),
		as("select from gw.force_unlock_workers(array['nobody'])"),
		as("select count(*) from gw.jobs"),
	}
	grant := func(what string) step { return statement(`grant %s to %q`, what, role) }
	var steps []step
	steps = append(steps, statement("select * from gw.add_job('t', job_key := 'k')"))
	steps = append(steps, calls...)
	steps = append(steps, grant("usage on schema gw"))
	steps = append(steps, calls...)
	steps = append(steps,
		statement("select * from gw.add_job('t')"),
		statement("select * from gw.add_job('t', run_at := '2100-01-01')"),
		grant("select on gw.jobs"),
		as("select * from gw.jobs"),
		as("update gw.jobs set priority = 1"),
		statement(`create function public.enqueue(a text, b json) returns bigint language sql security definer
			set search_path = pg_catalog, pg_temp as $$ select id from gw.add_job(a, b, queue_name := 'q') $$`),
		statement(`create function public.own(a text) returns text language sql as $$ select key from gw.add_job(a, job_key := 'own') $$`),
		grant("usage on schema public"),
		as("select public.enqueue('t', '[1]') is null"),
		as("select public.own('t')"),
		as("create view pg_temp.mine as select * from gw.jobs"),
		statement("revoke execute on function gw.complete_jobs from public"),
		as("select * from gw.complete_jobs(array[{1}])"),
		statement("grant execute on function gw.complete_jobs to public"),
		statement("drop function public.enqueue, public.own"),
	)
	if answer, err := p.want.run(t.Context(), calls[0].sql); err != nil || !strings.HasPrefix(answer, "error 42501 ") {
		t.Fatalf("without any right, add_job answers %s%v", answer, err)
	}
	diff, err := p.one(t.Context(), script{steps: steps})
	if err != nil {
		t.Fatal(err)
	}
	if diff != "" {
		t.Error(diff)
	}
}
