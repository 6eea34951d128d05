package view_test

import (
	"math"
	"testing"

	"github.com/offstage-dev/offstage/internal/pgtest"
	"github.com/offstage-dev/offstage/internal/view"
)

// Few running jobs are counted; many are estimated, of whole leases and of leases of one job, which two workers take in turns.
func TestRunning(t *testing.T) {
	t.Parallel()
	db, pool := open(t)
	pgtest.Do(t, pool, stage)
	pgtest.Do(t, pool, `select t.worker('whole'), t.worker('single'), t.worker('single'), t.worker('few')`)
	pgtest.Do(t, pool, `create table t.held (worker integer, claim bigint, job_id bigint)`)
	pgtest.Do(t, pool, `insert into t.held select 4, c.claim, c.job_id from (select offstage.add_many('few', (select json_agg(n) from generate_series(1, 40) n))) a, lateral t.claim(4, 40, 'few') c`)
	settle := func() {
		pgtest.Do(t, pool, `with ended as (delete from t.held where job_id % 3 = 0 returning *)
			select offstage.settle(worker, array_agg(claim order by job_id), array_agg(job_id order by job_id)) from ended group by worker`)
	}
	check := func(about ...int) {
		t.Helper()
		total := view.Count{}
		workers, err := db.Workers(t.Context())
		if err != nil || len(workers) != 4 {
			t.Fatalf("%d workers: %v", len(workers), err)
		}
		for i, w := range workers {
			n := pgtest.One[int64](t, pool, `select count(*) from t.held where worker = $1`, w.ID)
			held := pgtest.One[int64](t, pool, `select coalesce(sum(cardinality(job_ids)), 0) from offstage_private.lease where worker_id = $1`, w.ID)
			within(t, w.Name, w.Running, view.Count{N: n, About: about[i] != 0}, held)
			total.N += n
			total.About = total.About || w.Running.About
		}
		held := pgtest.One[int64](t, pool, `select sum(cardinality(job_ids)) from offstage_private.lease`)
		now, err := db.Standing(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		within(t, "the overview", now.Running, total, held)
		counts, err := db.JobCounts(t.Context(), view.JobFilter{State: "failed"})
		if err != nil {
			t.Fatal(err)
		}
		within(t, "the list", counts["running"], total, held)
	}
	check(0, 0, 0, 0)
	settle()
	check(0, 0, 0, 0)
	pgtest.Do(t, pool, `select offstage.add_many('whole', (select json_agg(n) from generate_series(1, 4000) n)), offstage.add_many('single', (select json_agg(n) from generate_series(1, 2400) n))`)
	pgtest.Do(t, pool, `insert into t.held select 1, c.claim, c.job_id from generate_series(1, 8) n, lateral t.claim(1, 500 + 0 * n, 'whole') c`)
	pgtest.Do(t, pool, `insert into t.held select 2 + n % 2, c.claim, c.job_id from generate_series(1, 2400) n, lateral t.claim(2 + n % 2, 1, 'single') c`)
	check(1, 1, 1, 0)
	settle()
	check(1, 1, 1, 0)
}

// within says that a count is exact, or an estimate that is off by a twentieth of what leases hold at most.
func within(t *testing.T, who string, got, want view.Count, held int64) {
	t.Helper()
	if got.About != want.About || got.More || !want.About && got.N != want.N || math.Abs(float64(got.N-want.N)) > float64(held)/20 {
		t.Errorf("%s: %+v run, expected %+v of %d", who, got, want, held)
	}
}
