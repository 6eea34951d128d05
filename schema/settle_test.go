package schema_test

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/offstage-dev/offstage/internal/pgtest"
)

// settled is what a settle leaves behind, but for times.
const settled = `
select coalesce(string_agg(x, E'\n' order by x), '') from (
  select format('history %s', row(job_id, claim, outcome, task_id, queue_id, worker_id, attempt, priority, key, error, payload, result)) from offstage_private.history
  union all select format('job %s', row(id, task_id, attempts, released_claim)) from offstage_private.job
  union all select format('lease %s of %s', claim, worker_id) from offstage_private.lease
  union all select format('slots of %s: %s', queue_id, claims) from offstage_private.queue_state
  union all select format('counted %s: %s', row(task_id, queue_id, outcome), sum(n)) from offstage_private.statistic_raw group by task_id, queue_id, outcome
) x (x)`

var counted = regexp.MustCompile(`(?m)^counted .*\n?`)

// TestSettleAlike: a batch of successes leaves the same behind, whether the worker says where the jobs are and counts them, which is quick for those that are plain, or
// not. Batches at random, in two databases: in some of them one job is not plain, was given back before, is not the worker's any more, or is not where it believes.
func TestSettleAlike(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	var conns, ears [2]*pgx.Conn // quick, and not
	var mine, other int32
	var tasks []int32
	for i := range conns {
		db := pgtest.New(t)
		conns[i], ears[i] = db.Conn(t), db.Conn(t)
		pgtest.Do(t, ears[i], `listen ends; listen "offstage:settled"`)
		mine, tasks = worker(t, conns[i], "kept", "quiet", "failures")
		other, _ = worker(t, conns[i], "kept", "quiet", "failures")
		pgtest.Do(t, conns[i], `select offstage.configure_task('quiet', '{"keep": "none"}'), offstage.configure_task('failures', '{"keep": "failures"}')`)
		pgtest.Do(t, conns[i], "create table offstage.held (claim bigint, job_id bigint, job_ctid tid, task integer, queue integer)")
		pgtest.Do(t, conns[i], "create table offstage.empty (claim bigint)")
	}
	const release = `select offstage.settle($1, null, null, endings => json_build_array(json_build_object('claim', claim, 'job_id', job_id, 'ending', 'release'))) from offstage.held where job_id = $2`
	for round := range 300 {
		n := 1 + r.IntN(10)*r.IntN(2)                                                      // one alone has a way of its own
		which, kind, trouble, results := r.IntN(n), r.IntN(14), r.IntN(20), r.IntN(2) == 0 // of one of them
		names := [][]string{{"kept"}, {"quiet"}, {"failures"}, {"kept", "quiet"}, {"quiet", "failures"}}[r.IntN(5)]
		var add []string
		for i := range n {
			more := ""
			if i == which {
				more = map[int]string{
					0: ", queue_name => 'q' || nextval('offstage_private.job_id')", 1: ", job_key => 'k' || nextval('offstage_private.job_id')", 2: ", notify_channel => 'ends'",
					3: `, options => '{"keep": "all"}'`, 4: `, options => '{"keep": "none"}'`, 5: `, options => '{"traceparent": "x"}'`,
				}[kind]
			}
			add = append(add, fmt.Sprintf("select offstage.add_job('%s'%s)", names[r.IntN(len(names))], more))
		}

		var left [2]string
		var heard [2][]string
		for i, c := range conns {
			for _, call := range add {
				pgtest.Do(t, c, call)
			}
			claim := func() {
				t.Helper()
				pgtest.Do(t, c, `insert into offstage.held select claim, job_id, job_ctid, task_id, queue_id
					from offstage.claim($1, 100, $2) where kind = 'job'`, mine, tasks)
			}
			if round%3 == 0 { // a lease of which all has been settled
				pgtest.Do(t, c, "select offstage.add_job('quiet')")
				pgtest.Do(t, c, "select offstage.settle($1, array[x.claim], array[x.job_id]) from (select * from offstage.claim($1, 1, $2) where kind = 'job') x", mine, tasks)
				pgtest.Do(t, c, "insert into offstage.empty select claim from offstage_private.lease where worker_id = $1", mine)
			}
			claim()
			one := pgtest.One[int64](t, c, "select job_id from offstage.held order by 1 offset $1 limit 1", which)
			switch trouble {
			case 0: // given back, and claimed again: with one that was claimed before
				pgtest.Do(t, c, release, mine, one)
				pgtest.Do(t, c, "delete from offstage.held where job_id = $1", one)
				claim()
			case 1: // given back, and claimed by another worker; and this one has claimed others since
				pgtest.Do(t, c, release, mine, one)
				pgtest.Do(t, c, "select count(*) from offstage.claim($1, 100, $2)", other, tasks)
				pgtest.Do(t, c, "update offstage.held h set job_ctid = (select j.ctid from offstage_private.job j where j.id = h.job_id) where job_id = $1", one)
				pgtest.Do(t, c, "select offstage.add_job('"+names[0]+"')")
				claim()
			case 2:
				pgtest.Do(t, c, "update offstage.held set job_ctid = '(0,0)' where job_id = $1", one)
			case 3: // where another one is, which waits
				never := pgtest.One[int64](t, c, "select id from offstage.add_job('never')")
				pgtest.Do(t, c, "update offstage.held set job_ctid = (select j.ctid from offstage_private.job j where j.id = $2) where job_id = $1", one, never)
			case 4:
				pgtest.Do(t, c, "select offstage.await_job($1)", one)
			case 5: // settled before
				pgtest.Do(t, c, "select offstage.settle($1, array[claim], array[job_id]) from offstage.held where job_id = $2", mine, one)
			case 6: // moved
				pgtest.Do(t, c, "update offstage_private.job set updated_at = now() where id = $1", one)
			case 7: // a claim that there is not
				pgtest.Do(t, c, "update offstage.held set claim = claim + 102400 where job_id = $1", one)
			case 8: // of another job of the lease
				pgtest.Do(t, c, "update offstage.held set claim = (claim & -1024) + 1000 where job_id = $1", one)
			case 9: // of another worker
				pgtest.Do(t, c, "select offstage.add_job('"+names[0]+"')")
				pgtest.Do(t, c, "insert into offstage.held select claim, job_id, job_ctid, task_id, queue_id from offstage.claim($1, 100, $2) where kind = 'job'", other, tasks)
			case 10: // keyed ones, as the worker settles them
				pgtest.Do(t, c, "update offstage.held h set job_ctid = null where exists (select from offstage_private.job j where j.id = h.job_id and j.key is not null)")
			case 13: // the worker was declared dead, and its lease is still there
				pgtest.Do(t, c, "update offstage_private.worker set dead_at = now() where id = $1", mine)
			case 14: // given back, and claimed by another worker, where the row is now; nothing else is settled
				pgtest.Do(t, c, release, mine, one)
				pgtest.Do(t, c, "select count(*) from offstage.claim($1, 100, $2)", other, tasks)
				pgtest.Do(t, c, "update offstage.held h set job_ctid = (select j.ctid from offstage_private.job j where j.id = h.job_id)")
				pgtest.Do(t, c, "delete from offstage.held where job_id <> $1", one)
			case 15: // of another worker, and nothing else
				pgtest.Do(t, c, "select offstage.add_job('"+names[0]+"')")
				pgtest.Do(t, c, "delete from offstage.held")
				pgtest.Do(t, c, "insert into offstage.held select claim, job_id, job_ctid, task_id, queue_id from offstage.claim($1, 100, $2) where kind = 'job'", other, tasks)
			}
			left[i] = pgtest.One[string](t, c, `
				select coalesce(string_agg(s::text, ' '), '') from (
					select array_agg(claim order by job_id) as claims, array_agg(job_id order by job_id) as ids, array_agg(job_ctid order by job_id) as ctids,
						case when $2 then array_agg(to_json(job_id) order by job_id) end as results,
						(select json_agg(json_build_object('task_id', case when $4 = 11 then $5 else x.task end, 'queue_id', x.queue, 'outcome', 'succeeded', 'n', case when $4 = 12 then x.n + 1 else x.n end)) from (
							select task, queue, count(*) as n from offstage.held where job_ctid is not null group by 1, 2) x) as stats
					from offstage.held) h
				cross join lateral offstage.settle($1, h.claims, h.ids, h.results, job_ctids => case when $3 then h.ctids end, stats => case when $3 then h.stats end,
					emptied => array(select claim from offstage.empty)) s`,
				mine, results, i == 0, trouble, tasks[1])
			left[i] += "\n" + pgtest.One[string](t, c, settled)
			if trouble == 11 { // counted for a task that keeps nothing: that is all that goes wrong
				left[i] = counted.ReplaceAllString(left[i], "")
			}

			pgtest.Do(t, c, "select pg_notify('ends', 'over')")
			for {
				n, err := ears[i].WaitForNotification(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if n.Payload == "over" {
					break
				}
				heard[i] = append(heard[i], n.Channel+" "+n.Payload)
			}
			slices.Sort(heard[i])

			// Everything ends, for the next round.
			pgtest.Do(t, c, "update offstage_private.worker set dead_at = null where id = $1", mine)
			pgtest.Do(t, c, `
				select offstage.settle(l.worker_id, array_agg(l.claim + x.n order by x.id), array_agg(x.id order by x.id))
				from offstage_private.lease l, unnest(l.job_ids) with ordinality x (id, n) group by l.worker_id`)
			pgtest.Do(t, c, "select offstage.settle($1, null, null, emptied => array(select claim from offstage_private.lease))", mine)
			pgtest.Do(t, c, "select offstage.settle($1, null, null, emptied => array(select claim from offstage_private.lease))", other)
			pgtest.Do(t, c, "delete from offstage.held")
			pgtest.Do(t, c, "delete from offstage.empty")
			for _, table := range []string{"waiter", "history", "statistic_raw"} {
				pgtest.Do(t, c, "delete from offstage_private."+table)
			}
			checkWhole(t, c)
		}
		if left[0] != left[1] || !slices.Equal(heard[0], heard[1]) {
			t.Fatalf("round %d: %v, then %d to job %d of them:\nquick: %s\n%v\n\nnot: %s\n%v", round, add, trouble, which, left[0], heard[0], left[1], heard[1])
		}
	}
}
