package view_test

import (
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/offstage-dev/offstage/internal/pgtest"
	"github.com/offstage-dev/offstage/internal/view"
)

// open is a database of the test's own, as people see it, and as a program does.
func open(t *testing.T) (*view.DB, *pgxpool.Pool) {
	t.Helper()
	own := pgtest.New(t)
	return look(t, own), own.Pool(t)
}

// look opens the database once more, as another process does.
func look(t *testing.T, own *pgtest.DB) *view.DB {
	t.Helper()
	db, err := view.Open(t.Context(), own.Pool(t), "offstage")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	return db
}

// stage are short forms of what a worker does.
const stage = `
create schema t;
create function t.worker(variadic tasks text[]) returns integer language sql as $$
  select worker_id from offstage.register('host', 7, 'test', 10, (select json_agg(json_build_object('name', x)) from unnest(tasks) x))
$$;
create function t.claim(worker integer, want integer, task text) returns table (job_id bigint, claim bigint) language sql as $$
  select job_id, claim from offstage.claim(worker, want, array[offstage_private.task_id(task)]) where kind = 'job'
$$;
create function t.work(worker integer, want integer, task text, ending text, error text default null) returns bigint language sql as $$
  with c as materialized (select * from t.claim(worker, want, task)), s as materialized (
    select offstage.settle(worker, null, null, endings => (select json_agg(json_build_object('claim', claim, 'job_id', job_id, 'ending', ending, 'error', error)) from c)))
  select (select count(*) from c) + 0 * (select count(*) from s)
$$;`

var ada = view.Actor{Name: "ada", Source: "ui", From: "192.0.2.7"}

func ids(jobs []view.JobRow) []view.ID {
	list := make([]view.ID, len(jobs))
	for i, j := range jobs {
		list[i] = j.ID
	}
	return list
}

// add adds n jobs of a task and answers their ids.
func add(t *testing.T, db pgtest.Querier, task string, n int) []int64 {
	t.Helper()
	return pgtest.List[int64](t, db, `select unnest(offstage.add_many($1, (select json_agg(json_build_object('n', n)) from generate_series(1, $2::integer) n)))`, task, n)
}
