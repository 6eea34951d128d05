package offstage_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/offstage-dev/offstage"
)

var update = flag.Bool("update", false, "write docs/sql-api.md anew")

// sqlDocs is docs/sql-api.md: what the comments above the functions say, between what is written here.
const sqlDocs = "docs/sql-api.md"

// function is a public function or view of schema/functions/*.sql.
type function struct {
	kind     string // function or view
	name     string
	comment  string
	args     []string
	returns  string
	attrs    string // strict, stable …
	fromFile string
}

var (
	header    = regexp.MustCompile(`^create or replace (function|view) offstage\.(\w+)`)
	dollar    = regexp.MustCompile(`(?s)(?:^|\s)as\s+\$\w*\$`)
	attribute = regexp.MustCompile(`(?i)\b(stable|immutable|strict|security definer)\b`)
)

// readFunctions reads them in the order of the files.
func readFunctions(t *testing.T) (all []function, titles map[string]string) {
	t.Helper()
	paths, err := filepath.Glob("schema/functions/*.sql")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no files in schema/functions (%v)", err)
	}
	titles = map[string]string{}
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(string(b), "\n")
		titles[path], _, _ = strings.Cut(strings.TrimPrefix(lines[0], "-- "), ".")
		for i, line := range lines {
			m := header.FindStringSubmatch(line)
			if m == nil {
				continue
			}
			f := function{kind: m[1], name: m[2], fromFile: path}
			first := i
			for first > 0 && strings.HasPrefix(lines[first-1], "--") {
				first--
			}
			f.comment = markdown(lines[first:i])
			if f.kind == "function" {
				rest := strings.Join(lines[i:], "\n")
				if err := f.parse(rest[len(m[0]):]); err != nil {
					t.Fatalf("%s: %s: %v", path, f.name, err)
				}
			}
			all = append(all, f)
		}
	}
	return all, titles
}

// parse reads what stands between a function's name and its body.
func (f *function) parse(src string) error {
	end := dollar.FindStringIndex(src)
	if end == nil || src[0] != '(' {
		return fmt.Errorf("its head cannot be read")
	}
	depth, close := 0, 0
	for i, r := range src[:end[0]] {
		if r == '(' {
			depth++
		} else if r == ')' {
			depth--
		}
		if depth == 0 {
			close = i
			break
		}
	}
	for _, arg := range splitArgs(src[1:close]) {
		if out, ok := strings.CutPrefix(arg, "out "); ok {
			f.returns += ", " + out
			continue
		}
		f.args = append(f.args, arg)
	}
	if f.returns != "" {
		f.returns = "record (" + f.returns[2:] + ")"
	}
	tail := strings.Join(strings.Fields(src[close+1:end[0]]), " ")
	if r, _, ok := strings.Cut(tail, "language "); ok && strings.HasPrefix(r, "returns ") {
		f.returns = strings.TrimSpace(strings.TrimPrefix(r, "returns "))
	}
	_, after, _ := strings.Cut(tail, "language ")
	f.attrs = strings.Join(attribute.FindAllString(after, -1), ", ")
	return nil
}

// splitArgs splits at commas that are not inside brackets or quotes.
func splitArgs(list string) (args []string) {
	depth, quoted, from := 0, false, 0
	for i, r := range list + "," {
		switch {
		case r == '\'':
			quoted = !quoted
		case quoted:
		case r == '(' || r == '[':
			depth++
		case r == ')' || r == ']':
			depth--
		case r == ',' && depth == 0:
			if arg := strings.Join(strings.Fields(list[from:i]), " "); arg != "" {
				args = append(args, arg)
			}
			from = i + 1
		}
	}
	return args
}

// markdown is a comment as text: lines that are indented in it stay lines of their own.
func markdown(comment []string) string {
	var b strings.Builder
	code := false
	for _, line := range comment {
		line = strings.TrimPrefix(strings.TrimPrefix(line, "--"), " ")
		if strings.Contains(line, "docs/sql-api.md") {
			line = strings.ReplaceAll(line, "in docs/sql-api.md", "below")
		}
		if indented := strings.HasPrefix(line, "  "); indented != code {
			code = indented
			b.WriteString("```\n")
		}
		b.WriteString(line + "\n")
	}
	if code {
		b.WriteString("```\n")
	}
	return strings.TrimSpace(b.String())
}

func (f *function) signature() string {
	if f.kind == "view" {
		return ""
	}
	var b strings.Builder
	b.WriteString("offstage." + f.name + "(")
	for i, arg := range f.args {
		if len(f.args) > 1 {
			b.WriteString("\n  ")
		}
		b.WriteString(arg)
		if i < len(f.args)-1 {
			b.WriteString(",")
		}
	}
	if len(f.args) > 1 {
		b.WriteString("\n")
	}
	b.WriteString(")")
	if kind, columns, ok := strings.Cut(f.returns, "("); ok && len(f.returns) > 60 {
		columns = strings.TrimSuffix(columns, ")")
		b.WriteString(" returns " + kind + "(\n  " + strings.Join(splitArgs(columns), ",\n  ") + "\n)")
	} else if f.returns != "" {
		b.WriteString(" returns " + f.returns)
	}
	if f.attrs != "" {
		b.WriteString(" -- " + f.attrs)
	}
	return "```sql\n" + b.String() + "\n```\n\n"
}

func generate(t *testing.T) string {
	t.Helper()
	all, titles := readFunctions(t)
	var b strings.Builder
	b.WriteString(docsHead)
	var worker []function
	from := ""
	section := func(f function, level string) {
		if f.fromFile != from {
			from = f.fromFile
			fmt.Fprintf(&b, "%s %s\n\n", level, titles[from])
		}
		kind := ""
		if f.kind == "view" {
			kind = " (view)"
		}
		fmt.Fprintf(&b, "#%s %s%s\n\n%s", level, f.name, kind, f.signature())
		if f.comment != "" {
			b.WriteString(f.comment + "\n\n")
		}
	}
	for _, f := range all {
		if slices.Contains(workerProtocol, f.name) {
			worker = append(worker, f)
			continue
		}
		section(f, "##")
	}
	b.WriteString(docsTables)
	from = ""
	b.WriteString(docsWorker)
	for _, f := range worker {
		section(f, "###")
	}
	return strings.TrimSpace(b.String()) + "\n"
}

// workerProtocol are the functions that only workers call.
var workerProtocol = []string{
	"claim", "offer_lock", "offer", "task_settings", "register", "heartbeat", "test_ear", "start_suspect", "report", "sign_off", "settle", "recall", "finish",
	"promote", "rescue", "tidy", "roll_up", "chore_ran",
	"due_schedules", "tick_schedule", "schedule_failed", "sync_schedules", "saw_schedules",
}

func TestSQLDocs(t *testing.T) {
	t.Parallel()
	want := generate(t)
	if *update {
		if err := os.WriteFile(sqlDocs, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	got, err := os.ReadFile(sqlDocs)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		old, now := strings.Split(string(got), "\n"), strings.Split(want, "\n")
		i := 0
		for i < min(len(old), len(now)) && old[i] == now[i] {
			i++
		}
		t.Errorf("%s is stale from line %d on: go test -run TestSQLDocs . -update", sqlDocs, i+1)
	}
}

// The page names every function and view that is there, with its arguments, and nothing else.
func TestSQLDocsAreComplete(t *testing.T) {
	s := newStage(t)
	rows, err := s.pool.Query(s.ctx(), `
		select p.proname, array(select a from unnest(p.proargnames[:p.pronargs]) a), p.pronargdefaults from pg_catalog.pg_proc p
		where p.pronamespace = 'offstage'::regnamespace
		union all
		select c.relname, '{}', 0 from pg_catalog.pg_class c where c.relnamespace = 'offstage'::regnamespace and c.relkind = 'v'`)
	if err != nil {
		t.Fatal(err)
	}
	type shape struct {
		args     []string
		defaults int
	}
	there := map[string]shape{}
	for rows.Next() {
		var name string
		var x shape
		if err := rows.Scan(&name, &x.args, &x.defaults); err != nil {
			t.Fatal(err)
		}
		there[name] = x
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	all, _ := readFunctions(t)
	for _, f := range all {
		x, ok := there[f.name]
		if !ok {
			t.Errorf("%s is documented and not installed", f.name)
			continue
		}
		delete(there, f.name)
		var names []string
		defaults := 0
		for _, arg := range f.args {
			name, rest, _ := strings.Cut(arg, " ")
			names = append(names, name)
			if strings.Contains(rest, " default ") {
				defaults++
			}
		}
		if !slices.Equal(names, x.args) || defaults != x.defaults {
			t.Errorf("%s is documented with %v (%d defaults), and has %v (%d)", f.name, names, defaults, x.args, x.defaults)
		}
		if f.comment != "" && !unicode.IsUpper([]rune(f.comment)[0]) {
			t.Errorf("%s: its comment begins with %.20q", f.name, f.comment)
		}
	}
	for name := range there {
		t.Errorf("%s is installed and not documented", name)
	}
	for _, name := range workerProtocol {
		if !slices.ContainsFunc(all, func(f function) bool { return f.name == name }) {
			t.Errorf("%s of the worker protocol is gone", name)
		}
	}
}

// example is the SQL of the page after a marker.
func example(t *testing.T, marker string) string {
	t.Helper()
	_, after, ok := strings.Cut(docsHead+docsTables, "<!-- "+marker+" -->\n```sql\n")
	if !ok {
		t.Fatalf("the page has no SQL after %q", marker)
	}
	sql, _, _ := strings.Cut(after, "```")
	return sql
}

// The wrapper that the page shows lets a role add its jobs, and nothing else.
func TestSQLDocsWrapper(t *testing.T) {
	s := newStage(t)
	conn, err := s.db.SuperPool(t).Acquire(s.ctx())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	tx, err := conn.Begin(s.ctx())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.WithoutCancel(s.ctx())) // and with it the role
	exec := func(sql string) error {
		t.Helper()
		save, err := tx.Begin(s.ctx())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := save.Exec(s.ctx(), sql); err != nil {
			save.Rollback(s.ctx())
			return err
		}
		return save.Commit(s.ctx())
	}
	for _, sql := range []string{
		"create role web",
		"do $$ begin execute 'set local role ' || (select datdba::regrole from pg_catalog.pg_database where datname = current_database()); end $$",
		"create schema app",
		example(t, "wrapper"),
		"set local role web",
		"select app.add_welcome('ada@example.com')",
	} {
		if err := exec(sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	for _, sql := range []string{"select offstage.add_job('welcome')", "select * from offstage.jobs", "select * from offstage_private.job"} {
		if err := exec(sql); sqlState(err) != "42501" {
			t.Errorf("%s: %v", sql, err)
		}
	}
	var task, payload string
	if err := exec("reset role"); err != nil {
		t.Fatal(err)
	}
	err = tx.QueryRow(s.ctx(), "select j.task_identifier, offstage.job_payload(j.id)::text from offstage.jobs j").Scan(&task, &payload)
	if err != nil || task != "welcome" || !strings.Contains(payload, "ada@example.com") {
		t.Errorf("the job is %s with %s, %v", task, payload, err)
	}
}

// The other statements of the page run as they stand.
func TestSQLDocsExamples(t *testing.T) {
	s := newStage(t)
	for _, marker := range []string{"first", "options", "retry"} {
		s.exec(example(t, marker))
	}
	list, err := s.client.List(s.ctx(), offstage.Filter{})
	if err != nil || len(list) != 2 {
		t.Errorf("the page added %+v, %v", list, err)
	}
}

// What the generator adds to the comments. ´ stands for a backtick.
var (
	ticks      = strings.NewReplacer("´", "`")
	docsHead   = ticks.Replace(headText)
	docsTables = ticks.Replace(tablesText)
	docsWorker = ticks.Replace(workerText)
)

const headText = `<!-- Generated from the comments in schema/functions by docs_test.go; do not edit. -->

# SQL

Everything that can be done with jobs can be done in SQL, by every language that speaks to PostgreSQL. The functions that
Graphile Worker has, too, have its names, arguments, results and errors; what differs is in [compat.md](compat.md).

<!-- first -->
´´´sql
select offstage.add_job('send_email', json_build_object('to', 'ada@example.com'), run_at := now() + interval '1 hour');
´´´

Where another schema name was chosen (´offstage migrate --schema …´), it stands for ´offstage´ everywhere below.

* [Options of a job](#options-of-a-job) · [Job keys](#job-keys) · [Retry policies](#retry-policies) ·
  [States and outcomes](#states-and-outcomes) · [Channels](#channels) · [Isolation levels](#isolation-levels) · [Rights](#rights) · [For workers](#for-workers)
* How a job travels: [lifecycle.md](lifecycle.md)
* How clients hear of its end: [notify.md](notify.md)

`

const tablesText = `## Options of a job

The last argument of ´add_job´ is a JSON object; ´add_jobs´ takes one for each spec. A key that is not in this table is an error
(22023), and so is a value that cannot be meant.

| key | value | meaning |
|---|---|---|
| ´timeout´ | interval, ´"30 s"´ | how long one attempt may take; without it the task's |
| ´expires_at´ | time with its offset, ´"2030-01-31T08:00:00Z"´ | an attempt is not started after it: the job ends as ´cancelled´ |
| ´keep´ | ´"all"´, ´"failures"´, ´"none"´ | what history holds of the job; without it the task's. A result that somebody awaits is kept in any case |
| ´notify_node´ | array, ´["JobRequest", 17]´ | goes into the event on ´notify_channel´ as ´"__node__"´ |
| ´traceparent´ | text | handed to the handler, for traces across processes |

<!-- options -->
´´´sql
select offstage.add_job('send_email', '{"to": "ada@example.com"}', notify_channel := 'postgraphile:job:17', options := '{
  "notify_node": ["JobRequest", 17], "timeout": "30 s", "expires_at": "2999-01-31T08:00:00Z", "keep": "failures"
}');
´´´

## Job keys

At most one job that has not ended has a ´job_key´; adding another one with it, for whatever task, does this, depending on
´job_key_mode´ and on the job that is there:

| the job with the key | ´replace´ (default) | ´preserve_run_at´ | ´unsafe_dedupe´ |
|---|---|---|---|
| none | added | added | added |
| waits for its first attempt | replaced | replaced, except for its ´run_at´ | stays as it is |
| waits to be tried again | replaced | replaced, with the new ´run_at´ | stays as it is |
| runs | loses its key and will not be tried again; a new job is added | the same | stays as it is: what you ask for **may never be done** |
| has failed | loses its key and stays failed; a new job is added | the same | stays as it is: what you ask for **is not done** |

A job that is replaced keeps its id and ´created_at´; it gets the new task, queue, payload, ´run_at´, priority, flags, ´max_attempts´,
options and channel, or their defaults where the call leaves them out, and starts from its first attempt. Two payloads that are
both arrays are joined instead, the old one first. ´revision´ counts in all modes. ´add_jobs´ knows the first two modes.

## Retry policies

An attempt that fails is tried again while attempts are left: 25 in all, or what the job or its task says. The delay is
e, e², … e¹⁰ seconds (2.7 s, 7.4 s, 20 s … 6 h 7 min), or what the task's policy says:

| policy | delay after the n-th attempt |
|---|---|
| ´{"policy": "exponential", "base": "1 s", "factor": 2, "max": "1 h"}´ | base · factorⁿ⁻¹, at most max. Without them: 1 s, e, 6 h 7 min |
| ´{"policy": "fixed", "delay": "10 s"}´ | always the same |
| ´{"policy": "list", "delays": ["1 s", "1 min", "1 h"]}´ | the n-th of the list; its last one after all later attempts |

´"jitter": 0.2´ in any of them takes up to that part of each delay away, by chance, so that jobs which failed together are not all
tried again together.

<!-- retry -->
´´´sql
select offstage.configure_task('send_email', '{
  "max_attempts": 8, "retry": {"policy": "exponential", "base": "10 s", "factor": 3, "max": "1 h", "jitter": 0.1}
}');
´´´

## States and outcomes

While a job lives it is in one *state*; when it has ended it has an *outcome*. ´job_status´ answers both.

| state | |
|---|---|
| ´scheduled´ | its time has not come, or it waits to be tried again |
| ´waiting´ | the next worker with a free slot takes it |
| ´parked´ | its queue runs as many jobs as it may |
| ´paused´ | its queue or its task is paused |
| ´running´ | a worker has claimed it |
| ´failed´ | it is out of attempts, failed for good, or was set aside; also an outcome, until ´retry_jobs´ or ´reschedule_jobs´ tries it again |

| outcome of a job | |
|---|---|
| ´succeeded´ | |
| ´failed´ | see above |
| ´cancelled´ | by ´cancel_jobs´, by its handler, or because it expired |
| ´removed´ | by ´remove_job´ or ´delete_jobs´ |
| ´completed´ | by ´complete_jobs´: without having run |

| outcome of an attempt, in history | spends it | |
|---|---|---|
| ´retried´ | yes | it failed |
| ´snoozed´ | no | its handler put the job off |
| ´released´ | no | its worker stopped before it was done |
| ´rescued´ | yes | its worker died |
| ´refused´ | no | its worker had lost the claim; the result was not taken |

Values may be added, never taken away.

## Channels

| channel | payload | when |
|---|---|---|
| the job's ´notify_channel´ | ´{"event": "job:complete", "subject": "7", "id": "7", "outcome": "succeeded", "__node__": ["JobRequest", 17]}´ | the job has ended, with whatever outcome. Sent by the transaction that ends it; never has payload, result or error in it. ´__node__´ only where ´notify_node´ was given |
| ´offstage:settled´ | ´offstage:7´, schema and job | a job that is awaited (´await_job´) has ended |
| ´offstage:wake´ | the schema | there may be something to claim; for workers |
| a secret name, one a worker | a job | somebody has added and claimed it for this worker: see [offer](#offer) |
| ´offstage:due´ | the schema | a job will be due within three seconds, or a queue is to be handed on; for workers |
| ´offstage:schedule´ | the schema | a schedule was added or changed, or goes on; for workers |
| ´offstage:cancel´ | the schema | a running job is to stop, or a worker to drain, go on or stop; for workers |

Notifications are hints: listen first, then look (´job_status´), and look now and then.

## Isolation levels

Everything works in READ COMMITTED, REPEATABLE READ and SERIALIZABLE transactions. In the latter two a call fails with 40001, and the transaction is to be tried again, if since its snapshot somebody else
has changed what it changes: the job of the same ´job_key´; the job with this id, which includes a worker that has claimed it; the task, queue or schedule that it configures, of which the latter changes with each tick; or if they have just made the task, queue or set of flags that it is the first to name, too. Changes of different
things do not disturb each other, in SERIALIZABLE either, however many of them a transaction makes: the functions look for jobs and names in a way that PostgreSQL does not remember as reading, or not where others write ([ADR 18](adr/0018-serializable-callers.md)).
PostgreSQL 15.20, of November 2026, remembers more of it than 15.18. There, too, nobody is turned away because of others' jobs, but for three: who names three or more jobs with keys by their ids in one call, who calls them within a subtransaction (a savepoint, or a block with ´exception´), and ´force_unlock_workers´. Adding
a job takes a third longer so. A job that has ended since a SERIALIZABLE snapshot counts as gone: complete_jobs and the like answer no row of it, as in READ COMMITTED, where REPEATABLE READ fails with 40001. What a SERIALIZABLE transaction reads of the views, or by functions that only look, PostgreSQL does remember, as of any table; and two of them may be turned away of which each takes back that a worker
was to be drained, makes and revokes tokens, or starts actions on many jobs.

A transaction that adds jobs may be prepared (´PREPARE TRANSACTION´) only while no worker of their tasks sleeps: waking one is a NOTIFY, with which PostgreSQL prepares none (0A000).

## Rights

The functions run with the rights of their caller (´security invoker´; only what an add leaves to its commit, and the states in the view jobs, have the owner's), and nobody but the owner of the schemas has rights on the
tables. So a role that may add jobs, of some kind, gets a function of yours for that. It must set ´search_path´, or its caller
could put functions of his own in the place of PostgreSQL's:

<!-- wrapper -->
´´´sql
create function app.add_welcome(email text) returns bigint
language sql security definer set search_path = pg_catalog, pg_temp
as $$ select id from offstage.add_job('welcome', json_build_object('email', email)) $$;

revoke execute on function app.add_welcome(text) from public;
grant usage on schema app to web;
grant execute on function app.add_welcome(text) to web;
´´´

The same holds for triggers: a trigger function that adds jobs is ´security definer´, too, unless all who write to its table are
owners of the schemas.

`

const workerText = `## For workers

What workers, and programs that wait, say to the database. You need it to write a worker in another language; the rules are in
[lifecycle.md](lifecycle.md).

`
