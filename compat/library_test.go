package compat_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// TestLibrary: Graphile Worker's own library answers on our schema as on its own, and changes nothing in it.
func TestLibrary(t *testing.T) {
	t.Parallel()
	for _, version := range versions {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			want := callLibrary(t, version, graphile(t, version))
			url := offstage(t)
			before := objects(t, url)
			got := callLibrary(t, version, url)
			if after := objects(t, url); !slices.Equal(after, before) {
				t.Errorf("the library has changed the schema:\n%s", lines(strings.Join(before, "\n"), strings.Join(after, "\n")))
			}
			if len(want.Steps) < 15 || len(got.Steps) != len(want.Steps) {
				t.Fatalf("%d steps with Graphile Worker, %d with us", len(want.Steps), len(got.Steps))
			}
			for i, w := range want.Steps {
				if g := got.Steps[i]; w.text(t) != g.text(t) {
					t.Errorf("%s:\n%s", w.What, lines(w.text(t), g.text(t)))
				}
			}
			if want.Ran == 0 || len(want.Said) > 0 {
				t.Errorf("with Graphile Worker %d jobs ran; it said %q", want.Ran, want.Said)
			}
			if got.Ran > 0 || !slices.ContainsFunc(got.Said, func(s []string) bool { return s[0] == "error" }) {
				t.Errorf("a worker of Graphile Worker ran %d jobs on our schema; it said %q", got.Ran, got.Said)
			}
		})
	}
}

type answers struct {
	Steps []answer
	Said  [][]string // level and message, from warnings on
	Ran   int        // how many jobs a worker of the library ran
	names map[string]int
}

type answer struct {
	What   string
	Answer any
	Error  map[string]any
}

// callLibrary runs library.mjs and puts names for ids and times.
func callLibrary(t *testing.T, version, url string) answers {
	t.Helper()
	var a answers
	if err := json.Unmarshal(node(t, "library.mjs", version, url, schemaName), &a); err != nil {
		t.Fatal(err)
	}
	a.names = map[string]int{}
	for i := range a.Steps {
		a.Steps[i].Answer = a.plain("", a.Steps[i].Answer)
	}
	return a
}

// plain numbers ids in the order of their appearance. Lists of jobs come in no order that Graphile Worker promises.
func (a answers) plain(name string, v any) any {
	switch v := v.(type) {
	case []any:
		slices.SortFunc(v, func(x, y any) int { return strings.Compare(sortKey(x), sortKey(y)) })
		for i := range v {
			v[i] = a.plain("", v[i])
		}
	case map[string]any:
		for _, k := range slices.Sorted(maps.Keys(v)) {
			if k != "payload" && k != "flags" {
				v[k] = a.plain(k, v[k])
			}
		}
	case string:
		if name == "id" {
			return a.number(name, v)
		}
		if at, err := time.Parse(time.RFC3339, v); err == nil && at.Year() != 2030 {
			return "a time"
		}
	case float64:
		if name == "task_id" || name == "job_queue_id" {
			return a.number(name, fmt.Sprint(v))
		}
	}
	return v
}

func sortKey(job any) string {
	j, _ := job.(map[string]any)
	return fmt.Sprint(j["task_identifier"], j["key"], j["payload"], j["priority"], j["run_at"], j["queue_name"])
}

func (a answers) number(kind, id string) string {
	if a.names[kind+id] == 0 {
		a.names[kind]++
		a.names[kind+id] = a.names[kind]
	}
	return fmt.Sprintf("%s %d", kind, a.names[kind+id])
}

func (a answer) text(t *testing.T) string {
	t.Helper()
	text, err := json.MarshalIndent(a, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// objects lists all that is installed in a database, and what its ledgers say.
func objects(t *testing.T, url string) []string {
	t.Helper()
	rows, err := connect(t, url).Query(t.Context(), `
		select 'relation ' || oid::regclass || ' ' || relkind::text || ' ' || relnatts from pg_class
		where relnamespace::regnamespace::text !~ '^(pg_|information_schema)'
		union all
		select 'function ' || oid::regprocedure || ' ' || md5(prosrc) from pg_proc
		where pronamespace::regnamespace::text !~ '^(pg_|information_schema)'
		union all
		select 'migration ' || id || ' ' || ts || ' ' || breaking from graphile_worker.migrations
		order by 1`)
	if err != nil {
		t.Fatal(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return all
}
