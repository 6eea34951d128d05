package compat_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/offstage-dev/offstage/internal/pgtest"
)

// interleaving is what two sessions do: A begins and calls first, B calls once, A ends its transaction; then B is
// through, whether or not it had to wait.
type interleaving struct {
	name   string
	before []step
	first  []string // of A, the first is its begin
	then   string   // of B
	last   []string // of A
}

const (
	key   = "select * from gw.add_job('t', '[1]', job_key := 'k')"
	again = "select * from gw.add_job('t', '[2]', job_key := 'k')"
)

var interleavings = []interleaving{
	{"two create the same key", nil, []string{"begin", key}, again, []string{"commit"}},
	{"one creates a key and thinks better of it", nil, []string{"begin", key}, again, []string{"rollback"}},
	{"two create the same key in bulk", nil, []string{"begin", key},
		"select * from gw.add_jobs(array[('t', '[2]', null, null, null, 'k', null, null), ('u', null, null, null, null, 'k2', null, null)]::gw.job_spec[])",
		[]string{"commit"}},
	{"two replace the same job", []step{statement(key)}, []string{"begin", again}, "select * from gw.add_job('u', '[3]', job_key := 'k')", []string{"commit"}},
	{"two find the same job", []step{statement(key)}, []string{"begin", "select * from gw.add_job('t', job_key := 'k', job_key_mode := 'unsafe_dedupe')"},
		"select * from gw.add_job('t', job_key := 'k', job_key_mode := 'unsafe_dedupe')", []string{"commit"}},
	{"one creates, one would find", nil, []string{"begin", key}, "select * from gw.add_job('t', job_key := 'k', job_key_mode := 'unsafe_dedupe')", []string{"commit"}},
	{"one removes, one replaces", []step{statement(key)}, []string{"begin", "select * from gw.remove_job('k')"}, again, []string{"commit"}},
	{"one removes and thinks better of it", []step{statement(key)}, []string{"begin", "select * from gw.remove_job('k')"}, again, []string{"rollback"}},
	{"one replaces, one removes", []step{statement(key)}, []string{"begin", again}, "select * from gw.remove_job('k')", []string{"commit"}},
	{"one completes, one replaces", []step{statement(key)}, []string{"begin", "select * from gw.complete_jobs(array[{1}])"}, again, []string{"commit"}},
	{"one replaces, one completes", []step{statement(key)}, []string{"begin", again}, "select * from gw.complete_jobs(array[{1}])", []string{"commit"}},
	{"one replaces, one reschedules", []step{statement(key)}, []string{"begin", again}, "select * from gw.reschedule_jobs(array[{1}], '2030-01-01')", []string{"commit"}},
	{"one reschedules, one replaces", []step{statement(key)}, []string{"begin", "select * from gw.reschedule_jobs(array[{1}], '2030-01-01', 7, 2)"},
		"select * from gw.add_job('t', '[2]', job_key := 'k', job_key_mode := 'preserve_run_at')", []string{"commit"}},
	{"one reschedules, one completes", []step{statement("select * from gw.add_job('t')")},
		[]string{"begin", "select * from gw.reschedule_jobs(array[{1}], '2030-01-01')"}, "select * from gw.complete_jobs(array[{1}])", []string{"commit"}},
	{"two complete", []step{statement("select * from gw.add_job('t')")},
		[]string{"begin", "select * from gw.complete_jobs(array[{1}])"}, "select * from gw.complete_jobs(array[{1}])", []string{"commit"}},
	{"two bring a new task", nil, []string{"begin", "select * from gw.add_job('fresh')"}, "select * from gw.add_job('fresh')", []string{"commit"}},
	{"two bring a new queue", nil, []string{"begin", "select * from gw.add_job('a', queue_name := 'fresh')"}, "select * from gw.add_job('b', queue_name := 'fresh')", []string{"rollback"}},
	{"two add with known names", []step{statement("select * from gw.add_job('t', queue_name := 'q')")},
		[]string{"begin", "select * from gw.add_job('t', queue_name := 'q')"}, "select * from gw.add_job('t', queue_name := 'q')", []string{"commit"}},

	{"repeatable read: replaced meanwhile", []step{statement(key)},
		[]string{"begin isolation level repeatable read", "select count(*) from gw.jobs"}, again, []string{key, "rollback"}},
	{"repeatable read: created meanwhile", nil,
		[]string{"begin isolation level repeatable read", "select count(*) from gw.jobs"}, again, []string{key, "rollback"}},
	{"repeatable read: found meanwhile", []step{statement(key)},
		[]string{"begin isolation level repeatable read", "select count(*) from gw.jobs"}, again,
		[]string{"select * from gw.add_job('t', job_key := 'k', job_key_mode := 'unsafe_dedupe')", "rollback"}},
	{"repeatable read: removed meanwhile", []step{statement(key)},
		[]string{"begin isolation level repeatable read", "select count(*) from gw.jobs"}, "select * from gw.remove_job('k')", []string{key, "commit"}},
	{"repeatable read: remove what was replaced meanwhile", []step{statement(key)},
		[]string{"begin isolation level repeatable read", "select count(*) from gw.jobs"}, again, []string{"select * from gw.remove_job('k')", "rollback"}},
	{"repeatable read: complete what was replaced meanwhile", []step{statement(key)},
		[]string{"begin isolation level repeatable read", "select count(*) from gw.jobs"}, again, []string{"select * from gw.complete_jobs(array[{1}])", "rollback"}},
	{"repeatable read: names known since", nil,
		[]string{"begin isolation level repeatable read", "select count(*) from gw.jobs"}, "select * from gw.add_job('fresh', queue_name := 'fresh')",
		[]string{"select * from gw.add_job('fresh', queue_name := 'fresh')", "rollback"}},
	{"serializable: replaced meanwhile", []step{statement(key)},
		[]string{"begin isolation level serializable", "select count(*) from gw.jobs"}, again, []string{key, "rollback"}},
}

// TestConcurrentCalls: where two sessions meet, the second waits where Graphile Worker's does and gets its answer.
func TestConcurrentCalls(t *testing.T) {
	t.Parallel()
	p := pair{graphileSide(t, versions[0]), ours(t)}
	want, got := p.want.session(t), p.got.session(t)
	for _, i := range interleavings {
		p.want.forget()
		p.got.forget()
		if w, g := i.run(t, p.want, want), i.run(t, p.got, got); w != g {
			t.Errorf("%s:\n  - %s\n  + %s\n%s", i.name, p.want.name, p.got.name, lines(w, g))
		}
		if !p.recover(t) {
			t.Fatalf("%s: jobs are left", i.name)
		}
	}
}

func (i interleaving) run(t *testing.T, a, b *side) string {
	t.Helper()
	var out strings.Builder
	run := func(sql string) {
		t.Helper()
		answer, err := a.run(t.Context(), statement("%s", sql).sql)
		if err != nil {
			t.Fatalf("%s: %v", i.name, err)
		}
		fmt.Fprintf(&out, "A %s\n%s", sql, answer)
	}
	for _, st := range i.before {
		run(st.sql)
	}
	for _, sql := range i.first {
		run(sql)
	}
	begun, err := b.conn.Exec(t.Context(), "begin; select now()").ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	b.step++
	b.stamp(begun[1])
	type result struct {
		results []*pgconn.Result
		err     error
	}
	done := make(chan result, 1)
	go func() {
		results, err := b.conn.Exec(t.Context(), b.fill(statement("%s", i.then).sql)+";commit").ReadAll()
		done <- result{results, err}
	}()
	// B is through, or waits for A.
	var r *result
	watch := connect(t, a.url)
	pgtest.Eventually(t, 10*time.Second, func() (settled bool) {
		select {
		case got := <-done:
			r = &got
			return true
		default:
		}
		err := watch.QueryRow(t.Context(), "select cardinality(pg_blocking_pids($1)) > 0", b.conn.PID()).Scan(&settled)
		return err == nil && settled
	})
	fmt.Fprintf(&out, "B %s\nwaits: %t\n", i.then, r == nil)
	end := len(i.last) - 1
	for _, sql := range i.last[:end] {
		run(sql)
	}
	// B goes on from here: look when it is through.
	if _, err := a.conn.Exec(t.Context(), i.last[end]).ReadAll(); err != nil {
		fmt.Fprintf(&out, "A %s: %v\n", i.last[end], err)
	}
	if r == nil {
		got := <-done
		r = &got
	}
	if pg := new(pgconn.PgError); errors.As(r.err, &pg) {
		fmt.Fprintf(&out, "error %s\n", failed(pg))
		_, _ = b.conn.Exec(t.Context(), "rollback").ReadAll()
	} else if r.err != nil {
		t.Fatalf("%s: %v", i.name, r.err)
	}
	jobs, err := b.jobs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if r.err == nil {
		b.learn(r.results[0])
		b.describe(&out, r.results[0], false)
	}
	return out.String() + jobs
}
