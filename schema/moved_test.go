package schema_test

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/offstage-dev/offstage/internal/pgtest"
)

// TestRowsMoveWhileClaimed claims jobs while others write new versions of their rows, which unsafe_dedupe does without
// waiting for anybody: a claim gives each job that it took once, wherever its row is by then.
func TestRowsMoveWhileClaimed(t *testing.T) {
	t.Parallel()
	const jobs, rounds, movers = 20, 200, 3
	db := pgtest.New(t)
	conn := db.Conn(t)
	id, tasks := worker(t, conn, "t")
	pgtest.Do(t, conn, "select offstage.add_job('t', job_key => 'k' || n) from generate_series(1, $1) n", jobs)

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var all errgroup.Group
	for range movers {
		conn := db.Conn(t)
		all.Go(func() error {
			for n := 0; ctx.Err() == nil; n++ {
				if _, err := conn.Exec(t.Context(), "select offstage.add_job('t', job_key => $1, job_key_mode => 'unsafe_dedupe')",
					fmt.Sprint("k", n%jobs+1)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	for range rounds {
		// Half of the tickets know where the row in job was.
		pgtest.Do(t, conn, "update offstage_private.ticket t set job_ctid = j.ctid from offstage_private.job j where j.id = t.job_id and j.id % 2 = 0")
		got := pgtest.List[int64](t, conn, "select job_id from offstage.claim($1, 1000, $2) where kind = 'job'", id, tasks)
		slices.Sort(got)
		if took := pgtest.List[int64](t, conn, "select unnest(job_ids) from offstage_private.lease order by 1"); !slices.Equal(got, took) {
			t.Fatalf("the claim took %v, the worker got %v", took, got)
		}
		for n := 1; n > 0; { // "busy" when a mover has the row
			n = pgtest.One[int](t, conn, `
				select count(*) from offstage.settle($1, null, null, endings => (
				  select json_agg(json_build_object('claim', l.claim + x.n, 'job_id', x.id, 'ending', 'release'))
				  from offstage_private.lease l cross join lateral unnest(l.job_ids) with ordinality x (id, n)
				  join offstage_private.job j on j.id = x.id and j.released_claim < l.claim + x.n))`, id)
		}
		pgtest.Do(t, conn, "select * from offstage.settle($1, null, null, emptied => array(select claim from offstage_private.lease))", id)
	}
	stop()
	if err := all.Wait(); err != nil {
		t.Fatal(err)
	}
	checkWhole(t, conn)
}
