package compat_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// step is one thing that happens in a script: a statement, or something that a worker does.
//
//	@claim <task> <worker>      the most urgent ready job of the task is locked
//	@fail <job> <message>       its attempt fails
//	@succeed <job>              its attempt succeeds
//
// fail and succeed are left out, on both sides, where the job is not locked. Job 0 is the one that was claimed last.
type step struct {
	verb string // "" for a statement
	args []string
	job  int
	sql  string
}

func (s step) String() string {
	if s.verb == "" {
		return s.sql + ";"
	}
	return "@" + s.verb + " " + strings.Join(s.args, " ")
}

func statement(format string, args ...any) step {
	return step{sql: strings.ReplaceAll(fmt.Sprintf(format, args...), "gw.", "graphile_worker.")}
}

func directive(verb string, args ...string) step {
	s := step{verb: verb, args: args}
	if verb != "claim" {
		s.job, _ = strconv.Atoi(args[0])
	}
	return s
}

// script is a named sequence of steps from testdata.
type script struct {
	name  string
	steps []step
}

// read parses a file of scripts. "== name" begins a script, "#" a comment; statements end with a semicolon at the
// end of a line, directives with their line.
func read(t *testing.T, path string) []script {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var scripts []script
	var sql []string
	for i, line := range strings.Split(string(text), "\n") {
		trimmed := strings.TrimSpace(line)
		if name, ok := strings.CutPrefix(line, "== "); ok {
			scripts = append(scripts, script{name: name})
			continue
		}
		if len(sql) == 0 && (trimmed == "" || strings.HasPrefix(trimmed, "#")) {
			continue
		}
		if len(scripts) == 0 {
			t.Fatalf("%s:%d: a step before the first == name", path, i+1)
		}
		last := &scripts[len(scripts)-1]
		if rest, ok := strings.CutPrefix(trimmed, "@"); ok && len(sql) == 0 {
			words := strings.Fields(rest)
			if want := map[string]int{"claim": 3, "fail": 3, "succeed": 2}[words[0]]; len(words) < want || want == 0 {
				t.Fatalf("%s:%d: %s", path, i+1, trimmed)
			}
			last.steps = append(last.steps, directive(words[0], words[1:]...))
			continue
		}
		sql = append(sql, strings.TrimSuffix(trimmed, ";"))
		if strings.HasSuffix(trimmed, ";") {
			last.steps = append(last.steps, statement("%s", strings.Join(sql, "\n")))
			sql = nil
		}
	}
	if sql != nil {
		t.Fatalf("%s: the last statement has no semicolon", path)
	}
	return scripts
}

// pair is a reference and what must behave like it.
type pair struct{ want, got *side }

// play runs the steps on both sides and returns the first difference, "" when there is none.
func (p pair) play(ctx context.Context, steps []step) (string, error) {
	for i, st := range steps {
		want, got, err := p.do(ctx, st)
		if err != nil {
			return "", fmt.Errorf("%s: %w", st, err)
		}
		if want == got {
			continue
		}
		var b strings.Builder
		for j, st := range steps[:i+1] {
			fmt.Fprintf(&b, "%3d  %s\n", j+1, strings.ReplaceAll(st.String(), "\n", "\n     "))
		}
		fmt.Fprintf(&b, "  - %s\n  + %s\n%s", p.want.name, p.got.name, lines(want, got))
		return b.String(), nil
	}
	return "", nil
}

// lines is what two answers do not have in common, line by line.
func lines(want, got string) string {
	var b strings.Builder
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	for _, l := range w {
		if !slices.Contains(g, l) {
			fmt.Fprintf(&b, "  - %s\n", l)
		}
	}
	for _, l := range g {
		if !slices.Contains(w, l) {
			fmt.Fprintf(&b, "  + %s\n", l)
		}
	}
	for i := range min(len(w), len(g)) {
		if b.Len() == 0 && w[i] != g[i] {
			fmt.Fprintf(&b, "  the same lines in another order, from line %d:\n  - %s\n  + %s\n", i+1, w[i], g[i])
		}
	}
	if b.Len() == 0 {
		fmt.Fprintf(&b, "  the same lines, %d and %d of them\n", len(w), len(g))
	}
	return b.String()
}

func (p pair) do(ctx context.Context, st step) (want, got string, err error) {
	switch st.verb {
	case "":
		if want, err = p.want.run(ctx, st.sql); err == nil {
			got, err = p.got.run(ctx, st.sql)
		}
		return want, got, err
	case "claim":
		return p.claim(ctx, st.args[0], st.args[1])
	}
	job := cmp.Or(st.job, p.want.claimed)
	for _, s := range []*side{p.want, p.got} {
		if err := s.act(ctx, func() error {
			if !p.want.locked(job) || !p.got.locked(job) {
				return nil
			}
			if st.verb == "fail" {
				return s.worker.fail(ctx, s.real[job-1], strings.Join(st.args[1:], " "))
			}
			return s.worker.succeed(ctx, s.real[job-1])
		}); err != nil {
			return "", "", err
		}
	}
	if want, err = p.want.jobs(ctx); err == nil {
		got, err = p.got.jobs(ctx)
	}
	return want, got, err
}

// claim lets the second side choose a job. The reference must find that job as urgent as any, and locks the same one.
func (p pair) claim(ctx context.Context, task, name string) (want, got string, err error) {
	var job int
	err = p.got.act(ctx, func() error {
		id, lockedBy, err := p.got.worker.claim(ctx, task, name)
		if id != "" {
			job = p.got.ids[id]
			p.got.workers[lockedBy], p.got.holders[name] = name, lockedBy
		}
		return err
	})
	if err != nil {
		return "", "", err
	}
	reference := p.want.worker.(*oracle)
	var urgent []int
	err = p.want.act(ctx, func() error {
		ids, err := reference.urgent(ctx, task)
		for _, id := range ids {
			urgent = append(urgent, p.want.ids[id])
		}
		if err != nil || job == 0 {
			return err
		}
		p.want.workers[name], p.want.holders[name], p.want.claimed = name, name, job
		return reference.lock(ctx, p.want.real[job-1], name)
	})
	if err != nil {
		return "", "", err
	}
	want, got = fmt.Sprintf("one of the jobs %v\n", urgent), fmt.Sprintf("job %d\n", job)
	if job == 0 && urgent == nil {
		want = got
	}
	for _, u := range urgent {
		if u == job {
			want = got
		}
	}
	for _, x := range []struct {
		s    *side
		text *string
	}{{p.want, &want}, {p.got, &got}} {
		jobs, err := x.s.jobs(ctx)
		if err != nil {
			return "", "", err
		}
		*x.text += jobs
	}
	return want, got, nil
}

// wiping ends every job.
var wiping = []string{
	"select from gw.force_unlock_workers(array(select locked_by from gw.jobs where locked_by is not null))",
	"select * from gw.complete_jobs(array(select id from gw.jobs))",
}

// wipe ends every job, and compares what it was: the view does not show payloads.
func (p pair) wipe(ctx context.Context) (string, error) {
	var steps []step
	for _, sql := range wiping {
		steps = append(steps, statement("%s", sql))
	}
	diff, err := p.play(ctx, steps)
	if diff == "" && err == nil && !p.empty(ctx) {
		err = errors.New("the script leaves jobs behind that cannot be completed")
	}
	return diff, err
}

// empty says whether both sides are without jobs, so that another script can begin.
func (p pair) empty(ctx context.Context) bool {
	for _, s := range []*side{p.want, p.got} {
		if rest, err := s.jobs(ctx); err != nil || s.conn.TxStatus() != 'I' || !strings.HasPrefix(rest, "view jobs: SELECT 0\n") {
			return false
		}
	}
	return true
}
