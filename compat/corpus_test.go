package compat_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/offstage-dev/offstage/internal/cli"
)

// corpus are the jobs that TestCorpus adds: SQL arguments of add_job, one a line. The files are in corpus/tasks.
const corpus = `
'hello', json_build_object('name', 'Bobby Tables')
'payload'
'payload', '{"a": 1.50, "b": [true, null, "ü\u0041\n"], "big": 9007199254740993, "deep": {"__proto__": {"x": 1}}}'
'payload', '[1, "two", {}]'
'payload', 'null'
'payload', '"text"'
'payload', '-0.0'
'nested/deep/verify', '{"n": 1}'
'esm'
'common'
'compiled'
'twice'
'both'
'three'
'fails', '{"keep": "me"}'
'fails', max_attempts => 1
'fails_at_once'
'fails_for_good', max_attempts => 1
'fails_empty'
'fails_object'
'fails_string'
'fails_null'
'fails_class'
'fails_sql'
'batch', '[{"id": 1}, {"id": 2, "bad": true, "x": 1}, {"id": 3}, {"id": 4, "bad": true}]'
'batch', '[{"id": 5}]'
'batch', '[]'
'batch', '{"not": "an array"}'
'batch_length', '[1]'
'add'
'adds'
'add_wrong'
'query'
'client'
'job', '{"p": 1}', priority => 3, run_at => '2020-02-03 04:05:06.789Z', max_attempts => 7, job_key => 'of the job', flags => array['one', 'two']
'queue', queue_name => 'a queue'
'queue'
'helpers'
'abort'
'logs'
'returns_circle'
'returns_thenable'
'returns_generator'
'timer'
'top_level'
'shared', run_at => now() - interval '2 h'
'shared', run_at => now() - interval '1 h'
'script', '{"to": "a file"}'
'script', '{"to": "nobody"}'
'foo'
'nobody'`

// told are errors of which Graphile Worker says no more than that there was one; ours say what it was.
var told = map[string]string{
	"fails_string": "threw a string: only a string",
	"fails_null":   "threw null",
	"script":       "exit status 1",
}

// TestCorpus runs the same task directory under Graphile Worker and under ours, and compares what the tasks saw and did,
// and what became of each job.
func TestCorpus(t *testing.T) {
	t.Parallel()
	tasks, err := filepath.Abs("corpus/tasks")
	if err != nil {
		t.Fatal(err)
	}
	if files, err := filepath.Glob(tasks + "/*.*js"); err != nil || len(files) < 25 {
		t.Fatalf("the corpus has %d files, %v", len(files), err)
	}
	theirs, mine := graphile(t, versions[0]), offstage(t)
	conns := map[string]*pgx.Conn{theirs: connect(t, theirs), mine: connect(t, mine)}
	for _, conn := range conns {
		if _, err := conn.Exec(t.Context(), `create table public.effect (n serial, task text, what jsonb)`); err != nil {
			t.Fatal(err)
		}
		for job := range strings.Lines(strings.TrimSpace(corpus)) {
			if _, err := conn.Exec(t.Context(), "select graphile_worker.add_job("+job+")"); err != nil {
				t.Fatalf("%s: %v", job, err)
			}
		}
	}
	// The second attempts, 2.7 s later, must not come before both have run, however slow this machine is.
	for dsn, postpone := range map[string]string{
		theirs: `
			create function public.postpone() returns trigger language plpgsql as $$ begin new.run_at := new.run_at + interval '1 hour'; return new; end $$;
			create trigger postpone before update of run_at on graphile_worker._private_jobs for each row when (new.run_at > old.run_at) execute function public.postpone()`,
		mine: `
			select graphile_worker.configure_task(task_identifier, '{"retry": {"policy": "fixed", "delay": "1 h"}}')
			from (select distinct task_identifier from graphile_worker.jobs) x`,
	} {
		if _, err := conns[dsn].Exec(t.Context(), postpone); err != nil {
			t.Fatalf("%s: %v", postpone, err)
		}
	}

	cmd := exec.CommandContext(t.Context(), "node", modules(t)+"/graphile-worker/dist/cli.js", "--once", "--schema", schemaName, "--connection", theirs)
	cmd.Dir = filepath.Dir(tasks)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var log bytes.Buffer
	call := cli.Main{
		Args:   []string{"worker", "--once", "--jobs", "1", "--schema", schemaName, "--database-url", mine, "--tasks", tasks},
		Stdout: &log, Stderr: &log, Project: filepath.Dir(tasks), Getenv: os.Getenv,
	}
	if exit := call.Run(context.WithoutCancel(t.Context())); exit != cli.Done {
		t.Fatalf("exit code %d\n%s", exit, &log)
	}

	for what, query := range map[string]string{
		"effects": `select task || ' ' || what from public.effect order by task, what::text`,
		"jobs": `select concat_ws(' | ', '', j.task_identifier, j.priority, j.attempts, j.max_attempts, split_part(j.last_error, e'\n', 1), j.key, j.flags,
			j.queue_name, j.revision, j.run_at > now(), j.locked_at is not null) from graphile_worker.jobs j order by 1`,
	} {
		want, got := list(t, conns[theirs], query), list(t, conns[mine], query)
		for i, line := range got {
			fields := strings.Split(line, " | ")
			if what == "jobs" && told[fields[1]] != "" {
				if i < len(want) && strings.Contains(want[i], "| An error occurred |") && fields[5] == told[fields[1]] {
					got[i] = strings.Replace(line, fields[5], "An error occurred", 1)
				}
			}
		}
		if len(want) < 15 {
			t.Errorf("too few %s to compare: %q", what, want)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s differ\ngot  %s\nwant %s", what, strings.Join(without(got, want), "\n     "), strings.Join(without(want, got), "\n     "))
		}
	}
	// Payloads are compared where they are: what is left of a batch.
	want := list(t, conns[theirs], `select payload::jsonb::text from graphile_worker._private_jobs where payload::text like '%bad%'`)
	got := list(t, conns[mine], `select payload::jsonb::text from graphile_worker_private.job where payload::text like '%bad%'`)
	if !slices.Equal(got, want) || len(want) != 1 {
		t.Errorf("payloads: %q, want %q", got, want)
	}
}

// modules is where npm has put Graphile Worker.
func modules(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("node_modules")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); err != nil {
		t.Fatal("compat/node_modules is missing: run ./dev test, which installs it")
	}
	return dir
}

func list(t *testing.T, conn *pgx.Conn, query string) []string {
	t.Helper()
	rows, err := conn.Query(t.Context(), query)
	if err != nil {
		t.Fatal(err)
	}
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

// without are the lines of a that b lacks.
func without(a, b []string) []string {
	return slices.DeleteFunc(slices.Clone(a), func(line string) bool { return slices.Contains(b, line) })
}
