package schema_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/offstage-dev/offstage/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// code is the SQLSTATE of an error; empty for none.
func code(err error) string {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Code
	}
	if err != nil {
		return err.Error()
	}
	return ""
}

// worker registers a worker for these tasks and answers its id and theirs, in the same order.
func worker(t testing.TB, db pgtest.Querier, tasks ...string) (id int32, taskIDs []int32) {
	t.Helper()
	var specs []string
	for _, name := range tasks {
		specs = append(specs, fmt.Sprintf(`{"name": %q}`, name))
	}
	id = pgtest.One[int32](t, db, `select worker_id from offstage.register('host', 1, 'test', 10, $1)`, "["+strings.Join(specs, ",")+"]")
	return id, pgtest.List[int32](t, db, `select offstage_private.task_id(x) from unnest($1::text[]) with ordinality u (x, n) order by n`, tasks)
}

// whole is what must hold whenever nothing is under way, whatever has been done before: every job is in exactly one
// place, every place belongs to a job, every slot to a claim that is running, and no queue stands still. It gives one
// row for each thing that is wrong.
const whole = `
with place as (
  select 'ticket' as kind, run_at, i as job_id, lane_id, queue_id, priority
  from offstage_private.ticket t cross join lateral unnest(coalesce(job_ids, array[job_id])) i
  where jobs = 1 or not exists (select from offstage_private.stub s where s.lane_id = t.lane_id and s.ticket = t.job_id and s.job_id = i)
  union all select 'scheduled', run_at, job_id, lane_id, queue_id, priority from offstage_private.scheduled
  union all select 'parked', run_at, job_id, lane_id, queue_id, priority from offstage_private.parked
), running as (
  select j.id as job_id, j.queue_id, l.claim + x.position as claim
  from offstage_private.lease l cross join lateral unnest(l.job_ids) with ordinality x (id, position)
  join offstage_private.job j on j.id = x.id and j.released_claim < l.claim + x.position
)
select format('job %s is in %s places, in %s leases, failed: %s', j.id, p.n, r.n, j.failed)
from offstage_private.job j
cross join lateral (select count(*) as n from place p where p.job_id = j.id) p
cross join lateral (select count(*) as n from running r where r.job_id = j.id) r
where p.n + r.n + j.failed::integer <> 1
union all
select format('%s of job %s, which does not exist', p.kind, p.job_id)
from place p where not exists (select from offstage_private.job j where j.id = p.job_id)
union all
select format('%s of job %s has another key than the job', p.kind, j.id)
from place p join offstage_private.job j on j.id = p.job_id
where (p.lane_id, p.priority, p.run_at, coalesce(p.queue_id, 0)) <> (j.lane_id, j.priority, j.run_at, coalesce(j.queue_id, 0))
union all
select format('ticket of job %s: %s jobs, %s, ctids %s and %s', t.job_id, t.jobs, t.job_ids, t.job_ctid, t.job_ctids) from offstage_private.ticket t
where t.jobs not between 1 and 32 or t.jobs = 1 and (t.job_ids is not null or t.job_ctids is not null)
  or t.jobs > 1 and (t.queue_id is not null or t.job_ctid is not null or cardinality(t.job_ctids) <> t.jobs or cardinality(t.job_ids) <> t.jobs
    or t.job_ids[1] <> t.job_id or t.job_ids[t.jobs] - t.job_id > 1023 or t.job_ids <> array(select unnest(t.job_ids) order by 1))
union all
select format('the tickets that jobs %s and %s share overlap', t.job_ids, x.job_ids) from offstage_private.ticket t
join offstage_private.ticket x on x.lane_id = t.lane_id and x.priority = t.priority and x.run_at = t.run_at and x.job_id > t.job_id and x.job_id < t.job_ids[t.jobs]
where t.jobs > 1 and x.jobs > 1
union all
select format('stub of job %s, without the ticket of job %s', s.job_id, s.ticket) from offstage_private.stub s
where not exists (select from offstage_private.ticket t where t.lane_id = s.lane_id and t.job_id = s.ticket and s.job_id = any (t.job_ids))
union all
select format('queue %s: claim %s holds a slot, but does not run', q.queue_id, c)
from offstage_private.queue_state q cross join lateral unnest(q.claims) c
where not exists (select from running r where r.claim = c and r.queue_id = q.queue_id)
  and not exists (  -- its handler has ended it (finish), and its worker died before it could say so: rescue will
    select from offstage_private.lease l join offstage_private.worker w on w.id = l.worker_id and w.dead_at is not null
    where l.claim = c & -1024 and not exists (select from offstage_private.job j where j.id = l.job_ids[(c & 1023)::integer]))
union all
select format('queue %s: job %s runs without a slot', r.queue_id, r.job_id)
from running r join offstage_private.queue_state q on q.queue_id = r.queue_id where r.claim <> all (q.claims)
union all
select format('lane %s of queue %s stands still: %s parked, %s of %s slots taken', p.lane_id, q.queue_id, p.n, cardinality(q.claims), coalesce(s.concurrency, 1))
from offstage_private.queue_state q left join offstage_private.queue_setting s on s.queue_id = q.queue_id
cross join lateral (select p.lane_id, count(*) as n from offstage_private.parked p where p.queue_id = q.queue_id group by 1) p
where s.paused is not true and cardinality(q.claims) < coalesce(s.concurrency, 1)
  and not exists (select from offstage_private.ticket t where t.queue_id = q.queue_id and t.lane_id = p.lane_id)
  and not exists (select from offstage_private.handover h where h.queue_id = q.queue_id)
union all
select format('queue %s has %s states', q.id, n) from offstage_private.queue q
cross join lateral (select count(*) as n from offstage_private.queue_state s where s.queue_id = q.id) s where n <> 1
union all
select format('job %s of queue %s is parked in front of where lane %s begins', p.job_id, p.queue_id, p.lane_id)
from offstage_private.parked p
where not exists (
  select from offstage_private.queue_front f where f.queue_id = p.queue_id and f.lane_id = p.lane_id
    and (f.priority, f.run_at, f.job_id) <= (p.priority, p.run_at, p.job_id))
union all
select format('lane %s of queue %s begins in %s places', f.lane_id, f.queue_id, count(*))
from offstage_private.queue_front f group by f.lane_id, f.queue_id having count(*) > 1
union all
select format('the %s %s does not have its name', x.kind, x.name) from (
  select 'task', t.name, t.id from offstage_private.task t union all select 'queue', q.name, q.id from offstage_private.queue q) x (kind, name, id)
where not exists (select from offstage_private.name n where (n.kind, n.name, n.id) = (x.kind, x.name, x.id))
union all
select format('the versions of task %s are %s, it is at %s', t.name, v.n, t.revision) from offstage_private.task t
cross join lateral (select array_agg(o.revision order by o.revision) as n from offstage_private.task_version o where o.id = t.id) v
where v.n is distinct from array(select generate_series(0, t.revision))
  or t::text <> (select o::text from offstage_private.task_version o where o.id = t.id and o.revision = t.revision)
union all
select format('lease %s of worker %s, which does not exist', l.claim, l.worker_id)
from offstage_private.lease l where not exists (select from offstage_private.worker w where w.id = l.worker_id)`

// checkWhole fails the test for each row of whole.
func checkWhole(t testing.TB, db pgtest.Querier) {
	t.Helper()
	pgtest.Do(t, db, "set jit = off") // costs more to compile than to run
	for _, wrong := range pgtest.List[string](t, db, whole) {
		t.Error(wrong)
	}
}
