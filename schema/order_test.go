package schema_test

import (
	"cmp"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/offstage-dev/offstage/internal/pgtest"
)

var orderSeed = flag.Uint64("order.seed", 0, "seed of TestClaimOrder; 0 takes one at random")

// TestClaimOrder: over tasks and flags, with and without marks, claims take jobs in Graphile Worker's order, by priority
// and run_at over all of them, with the id where it leaves the order open.
func TestClaimOrder(t *testing.T) {
	t.Parallel()
	seed := *orderSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("-order.seed %d", seed)
	t.Run("each with its ticket", func(t *testing.T) { claimOrder(t, rand.New(rand.NewPCG(seed, 0)), false) })
	t.Run("some share tickets", func(t *testing.T) { claimOrder(t, rand.New(rand.NewPCG(seed, 0)), true) })
}

func claimOrder(t *testing.T, r *rand.Rand, share bool) {
	conn := pgtest.New(t).Conn(t)
	worker, tasks := worker(t, conn, "a", "b", "c")
	began := time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)

	type ticket struct {
		id       int64
		lane     int32
		priority int16
		runAt    time.Time
	}
	order := func(a, b ticket) int {
		return cmp.Or(cmp.Compare(a.priority, b.priority), a.runAt.Compare(b.runAt), cmp.Compare(a.id, b.id))
	}
	var waiting []ticket
	type place struct {
		lane     int32
		priority int16
	}
	marked := map[place]ticket{} // as a worker keeps them
	for range 60 {
		if r.IntN(3) == 0 {
			names, flags := []string{"a", "b", "c"}, 4
			most := 120
			if r.IntN(2) == 0 { // in one lane, of which there are more then than claims read of each at first
				names, flags, most = []string{pick(r, names)}, 1, 300
			}
			for range r.IntN(most) {
				j := ticket{priority: int16(r.IntN(5) - 2), runAt: began.Add(time.Duration(r.IntN(20)) * time.Second)}
				j.id = one64(t, conn, `select id from offstage.add_job($1, priority => $2, run_at => $3, flags => case $4::integer when 0 then null else array[concat('f', $4::integer)] end)`,
					pick(r, names), j.priority, j.runAt, r.IntN(flags))
				waiting = append(waiting, j)
			}
			for n := r.IntN(4); share && n > 0; n-- {
				var jobs []ticket
				var names []string
				var priorities []int16
				var runAts []time.Time
				task, second := pick(r, []string{"a", "b", "c"}), r.IntN(19)
				for range 1 + r.IntN(80) {
					j := ticket{priority: int16(r.IntN(2)), runAt: began.Add(time.Duration(second+r.IntN(5)/4) * time.Second)}
					jobs, priorities, runAts = append(jobs, j), append(priorities, j.priority), append(runAts, j.runAt)
					names = append(names, pick(r, []string{task, task, task, task, task, task, "a"}))
				}
				for i, id := range pgtest.List[int64](t, conn, `select id from offstage.add_jobs(array(
						select row (u.name, null, null, u.run_at, null, null, u.priority, case $4::integer when 0 then null else array[concat('f', $4::integer)] end)::offstage.job_spec
						from unnest($1::text[], $2::smallint[], $3::timestamptz[]) with ordinality u (name, priority, run_at, n) order by u.n))`, names, priorities, runAts, r.IntN(4)) {
					jobs[i].id = id
				}
				waiting = append(waiting, jobs...)
			}
			slices.SortFunc(waiting, order)
			clear(marked) // what the wake is for
		}
		want := 1 + r.IntN(pick(r, []int{5, 30, 120}))
		var m marks
		for p, j := range marked {
			m.lanes, m.priorities = append(m.lanes, p.lane), append(m.priorities, p.priority)
			m.runAts, m.ids = append(m.runAts, j.runAt), append(m.ids, j.id)
		}
		rows, err := conn.Query(t.Context(), "select job_id, lane_id, priority, run_at, kind = 'rest' from offstage.claim($1, $2, $3, null, $4, $5, $6, $7) where kind in ('job', 'rest')",
			worker, want, tasks, m.lanes, m.priorities, m.runAts, m.ids)
		if err != nil {
			t.Fatal(err)
		}
		var got, rests []ticket
		for rows.Next() {
			var j ticket
			var rest bool
			if err := rows.Scan(&j.id, &j.lane, &j.priority, &j.runAt, &rest); err != nil {
				t.Fatal(err)
			}
			if rest {
				rests = append(rests, j)
			} else {
				got = append(got, j)
			}
		}
		if rows.Err() != nil {
			t.Fatal(rows.Err())
		}
		slices.SortFunc(got, order) // one claim is one set
		next := waiting[:min(want, len(waiting))]
		if !slices.EqualFunc(got, next, func(a, b ticket) bool { return a.id == b.id }) {
			t.Fatalf("with %d marks, a claim of %d took %s, expected %s", len(m.lanes), want, fmt.Sprint(got), fmt.Sprint(next))
		}
		waiting = waiting[len(next):]
		for _, j := range got {
			if p := (place{j.lane, j.priority}); order(marked[p], j) < 0 || marked[p].id == 0 {
				marked[p] = j
			}
		}
		for _, j := range rests {
			if p := (place{j.lane, j.priority}); order(marked[p], j) >= 0 {
				j.id--
				marked[p] = j
			}
		}
	}
}
