package compat_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/offstage-dev/offstage/internal/pgtest"
)

// difference is one thing in which our SQL API is not Graphile Worker's, on purpose.
type difference struct {
	what   string
	reason string
	// theirs and ours are what see answers; theirs is "" where that depends on a plan.
	theirs, ours string
	see          func(t *testing.T, s *side) string
}

// extensions are our arguments behind theirs.
var extensions = map[string]string{
	"add_job":  "notify_channel text DEFAULT NULL::text, options json DEFAULT NULL::json",
	"add_jobs": "options json[] DEFAULT NULL::json[]",
}

// differences are all of them. The other tests of this package allow none.
var differences = []difference{
	{
		what:   "add_job and add_jobs have further arguments, all with defaults, behind Graphile Worker's.",
		reason: "A job can name a channel that is told when it has ended, and carry options.",
		theirs: "9, 2", ours: "11, 3",
		see: query(`select string_agg(pronargs::text, ', ' order by proname) from pg_proc
			where proname in ('add_job', 'add_jobs') and pronamespace = 'graphile_worker'::regnamespace`),
	},
	{
		what:   "The view jobs has further columns behind Graphile Worker's.",
		reason: "Where a job is cannot be told from the other columns.",
		theirs: "15", ours: "17",
		see: query(`select count(*) from pg_attribute where attrelid = 'graphile_worker.jobs'::regclass and attnum > 0`),
	},
	{
		what:   "add_jobs returns rows, and gives ids, in the order of the specs.",
		reason: "In Graphile Worker both depend on the plan of a join, so that its own library can mix up whose row is whose.",
		ours:   "true, true",
		see: func(t *testing.T, s *side) string {
			query(`select count(*) from graphile_worker.add_jobs(array(
				select ('t', '[]', null, null, null, 'k' || n, null, null)::graphile_worker.job_spec from generate_series(1, 300, 7) n))`)(t, s)
			return query(`
				select bool_and(added.payload ->> -1 = added.n::text or added.payload ->> 'n' = added.n::text)
					|| ', ' || bool_and(later) from (
					select j.payload, j.ordinality n, revision > 0 or id > max(id) filter (where revision = 0)
						over (order by j.ordinality rows between unbounded preceding and 1 preceding) is not false later
					from graphile_worker.add_jobs(array(
						select ('t' || n % 5, case when n % 7 = 1 then json_build_array(n) else json_build_object('n', n) end, 'q' || n % 3,
							null, null, case when n % 2 = 1 then 'k' || n end, n % 4, null)::graphile_worker.job_spec
						from generate_series(1, 300) n)) with ordinality j) added`)(t, s)
		},
	},
	{
		what:   "A keyed add_job that meets the claim of the job with its key schedules a new job.",
		reason: "Graphile Worker answers with a row of nulls, and nothing is scheduled (its issue 580).",
		theirs: "nothing", ours: "another job",
		see: func(t *testing.T, s *side) string {
			query(`select count(*) from graphile_worker.add_job('t', job_key := 'k')`)(t, s)
			return whileOpen(t, s, func(ctx context.Context) error {
				_, _, err := s.worker.claim(ctx, "t", "w1")
				return err
			}, `select case when id is null then 'nothing' else 'another job' end from graphile_worker.add_job('t', job_key := 'k')`)
		},
	},
	{
		what:   "A keyed add_job that waits for permanently_fail_jobs on the job with its key leaves the failed job as it is, and schedules a new one.",
		reason: "That is what happens without a race too; Graphile Worker revives the failed job when the two meet.",
		theirs: "revision 1", ours: "revision 0",
		see: func(t *testing.T, s *side) string {
			query(`select count(*) from graphile_worker.add_job('t', job_key := 'k')`)(t, s)
			return whileOpen(t, s, func(ctx context.Context) error {
				_, err := s.worker.session().Exec(ctx, `select graphile_worker.permanently_fail_jobs(array(select id from graphile_worker.jobs))`)
				return err
			}, `select 'revision ' || revision from graphile_worker.add_job('t', job_key := 'k')`)
		},
	},
	{
		what:   "Nothing is sent on the channel jobs:insert.",
		reason: "Our workers are woken on offstage:wake, and only when one of them sleeps: a NOTIFY makes commits wait for each other.",
		theirs: "jobs:insert", ours: "nothing",
		see: func(t *testing.T, s *side) string {
			listener := s.session(t)
			results, err := listener.conn.Exec(t.Context(), `listen "jobs:insert"; select graphile_worker.add_job('t')`).ReadAll()
			if err != nil || len(results) != 2 {
				t.Fatal(err)
			}
			_, _ = listener.conn.Exec(t.Context(), "").ReadAll()
			return cmp.Or(strings.Join(listener.notified, " "), "nothing")
		},
	},
	{
		what:   "A job that runs stays locked however old its lock is: complete_jobs, permanently_fail_jobs, reschedule_jobs and remove_job leave it alone after four hours too.",
		reason: "Graphile Worker takes such a lock for that of a dead worker. We know who is dead within seconds, and give back its jobs; a lock that is there is held.",
		theirs: "completed 1", ours: "completed 0",
		see: func(t *testing.T, s *side) string {
			query(`select count(*) from graphile_worker.add_job('t')`)(t, s)
			if _, _, err := s.worker.claim(t.Context(), "t", "w1"); err != nil {
				t.Fatal(err)
			}
			if err := s.worker.age(t.Context(), "5 hours"); err != nil {
				t.Fatal(err)
			}
			return query(`select 'completed ' || count(*) from graphile_worker.complete_jobs(array(select id from graphile_worker.jobs))`)(t, s)
		},
	},
	{
		what:   "After force_unlock_workers, a worker that lives on can no longer settle the jobs that were taken from it.",
		reason: "Graphile Worker deletes a job that its former worker reports as done, even while another one runs it again.",
		theirs: "0 left", ours: "1 left",
		see: func(t *testing.T, s *side) string {
			query(`select count(*) from graphile_worker.add_job('t')`)(t, s)
			id, lockedBy, err := s.worker.claim(t.Context(), "t", "w1")
			if err != nil {
				t.Fatal(err)
			}
			query(`select count(*) from graphile_worker.force_unlock_workers(array['`+lockedBy+`'])`)(t, s)
			_ = s.worker.succeed(t.Context(), id)
			return query(`select count(*) || ' left' from graphile_worker.jobs`)(t, s)
		},
	},
	{
		what:   "_private_jobs is a composite type. The private tables have other names, and another schema: Graphile Worker's own workers and its cleanup do not run on our schema.",
		reason: "Private tables are ours; what the functions return is not private, and has the same type name and columns. The library's addJob and admin calls work (TestLibrary).",
		theirs: "0", ours: "42809",
		see: query(`select count(*) from graphile_worker._private_jobs`),
	},
	{
		what:   "The ledger graphile_worker.migrations has one row, with a number above all of Graphile Worker's.",
		reason: "So that Graphile Worker's library installs nothing, and its addJob works. Our own ledger is in the private schema.",
		theirs: "19 t", ours: "1000000 f",
		see: query(`select max(id) || ' ' || bool_or(breaking) filter (where id = (select max(id) from graphile_worker.migrations))::text::char(1)
			from graphile_worker.migrations`),
	},
	{
		what:   "Adding jobs uses up no numbers of tasks and queues.",
		reason: "In Graphile Worker before 0.18 each add_job takes one, of 2147483647.",
		theirs: "52", ours: "1",
		see: func(t *testing.T, s *side) string {
			query(`select count(*) from graphile_worker.add_job('first')`)(t, s)
			query(`select count(graphile_worker.add_job('first')) from generate_series(1, 50)`)(t, s)
			return query(`select b.task_id - a.task_id from graphile_worker.add_job('first') a, graphile_worker.add_job('second') b`)(t, s)
		},
	},
	{
		what:   "The text of an error with class 23 says what is wrong, and names no private table. SQLSTATE and constraint are the same.",
		reason: "A caller can do nothing about a row of a private table.",
		theirs: `new row for relation "_private_jobs" violates check constraint "jobs_max_attempts_check"`,
		ours:   "max_attempts is 0, at least 1 is needed",
		see: func(t *testing.T, s *side) string {
			_, err := s.conn.Exec(t.Context(), `select graphile_worker.add_job('t', max_attempts := 0)`).ReadAll()
			if e := new(pgconn.PgError); errors.As(err, &e) {
				return e.Message
			}
			return fmt.Sprint(err)
		},
	},
	{
		what:   "Of several mistakes in one call, another one may be reported.",
		reason: "Values are checked before anything is written. In Graphile Worker the order depends on the mode, and in bulk on the plan of a join.",
		theirs: "23502", ours: "23514",
		see: query(`select graphile_worker.add_job(null, max_attempts := 0)`),
	},
	{
		what:   "In a read-only transaction, an admin function that finds no job is no error.",
		reason: "There is nothing to write.",
		theirs: "25006", ours: "0",
		see: query(`begin read only; select count(*) from graphile_worker.complete_jobs(array[1]); commit`),
	},
}

// TestDifferences: every difference is still one.
func TestDifferences(t *testing.T) {
	t.Parallel()
	p := pair{graphileSide(t, versions[0]), ours(t)}
	for _, d := range differences {
		if got := d.see(t, p.want); got != d.theirs && d.theirs != "" {
			t.Errorf("%s\nGraphile Worker: %q instead of %q", d.what, got, d.theirs)
		}
		if got := d.see(t, p.got); got != d.ours {
			t.Errorf("%s\noffstage: %q instead of %q", d.what, got, d.ours)
		}
		if !p.recover(t) {
			t.Fatalf("%s\nJobs are left.", d.what)
		}
	}
}

// query answers the one value of a statement's row, or the SQLSTATE of its error.
func query(sql string) func(*testing.T, *side) string {
	return func(t *testing.T, s *side) string {
		t.Helper()
		results, err := s.conn.Exec(t.Context(), sql).ReadAll()
		if e := new(pgconn.PgError); errors.As(err, &e) {
			_, _ = s.conn.Exec(t.Context(), "rollback").ReadAll()
			return e.Code
		} else if err != nil {
			t.Fatal(err)
		}
		for _, r := range results {
			if len(r.Rows) == 1 {
				return string(r.Rows[0][0])
			}
		}
		return "no row"
	}
}

// whileOpen runs a statement while the worker has done something in a transaction that it commits as soon as the
// statement waits for it.
func whileOpen(t *testing.T, s *side, do func(context.Context) error, sql string) string {
	t.Helper()
	conn := s.worker.session()
	if _, err := conn.Exec(t.Context(), "begin"); err != nil {
		t.Fatal(err)
	}
	if err := do(t.Context()); err != nil {
		t.Fatal(err)
	}
	answer := make(chan string, 1)
	go func() { answer <- query(sql)(t, s) }()
	watch := connect(t, s.url)
	var early string
	pgtest.Eventually(t, 10*time.Second, func() (waits bool) {
		select {
		case early = <-answer:
			return true
		default:
		}
		err := watch.QueryRow(t.Context(), "select cardinality(pg_blocking_pids($1)) > 0", s.conn.PID()).Scan(&waits)
		return err == nil && waits
	})
	if _, err := conn.Exec(t.Context(), "commit"); err != nil {
		t.Fatal(err)
	}
	if early != "" {
		return "did not wait: " + early
	}
	return <-answer
}
