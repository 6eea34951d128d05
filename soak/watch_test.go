//go:build soak && unix

package soak_test

import (
	"context"
	"strings"
	"time"
)

const (
	tooMuch    = 20000 // jobs that wait; those who add are stopped meanwhile
	measureFor = 12 * time.Second
)

// measure finds out how many jobs a second are done when as many are added as can be, and sets the rate to half of that.
func (s *soak) measure(ctx context.Context) {
	if *rate > 0 {
		s.pace.set(*rate)
		return
	}
	s.say("measuring for %v how much can be done", measureFor)
	s.pace.set(1e6)
	s.limit(2000)
	pause(ctx, measureFor/3)
	before, at := s.runs(), time.Now()
	pause(ctx, measureFor*2/3)
	most := float64(s.runs()-before) / time.Since(at).Seconds()
	*rate = max(most/2, 1)
	s.limit(tooMuch)
	s.pace.set(*rate)
	s.say("%.0f jobs/s can be done, %.0f are going to be added", most, *rate)
}

// most is how many jobs may wait; under pace.mu.
var most int64 = tooMuch

func (s *soak) limit(n int64) {
	s.pace.mu.Lock()
	defer s.pace.mu.Unlock()
	most = n
}

func (s *soak) runs() (n int64) {
	s.look(`select coalesce(max(id), 0) from app.run`, nil, &n)
	return n
}

// look reads one row.
func (s *soak) look(sql string, args []any, into ...any) bool {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	if err := s.watch.QueryRow(ctx, sql, args...).Scan(into...); err != nil {
		s.complain("%s: %v", strings.TrimSpace(sql), err)
		return false
	}
	return true
}

// progress prints, every ten seconds, how things are.
func (s *soak) progress(ctx context.Context) {
	runs, added, deadlocks := int64(0), int64(0), int64(0)
	for n := 1; pause(ctx, time.Second); n++ {
		var tickets, scheduled, parked, failed, alive, now int64
		if !s.look(`
			select (select coalesce(sum(jobs), 0) from offstage_private.ticket) - (select count(*) from offstage_private.stub), (select count(*) from offstage_private.scheduled),
				(select count(*) from offstage_private.parked), (select count(*) from offstage_private.job where failed),
				(select count(*) from offstage.workers where state = 'alive'),
				(select deadlocks from pg_catalog.pg_stat_database where datname = current_database())`, nil,
			&tickets, &scheduled, &parked, &failed, &alive, &now) {
			continue
		}
		s.pace.mu.Lock()
		s.pace.full = tickets+parked > most
		s.pace.mu.Unlock()
		if now > deadlocks {
			s.complain("%d deadlocks", now-deadlocks)
			deadlocks = now
		}
		if n%10 != 0 {
			continue
		}
		s.nowhere()
		s.standStill()
		r, a := s.runs(), s.added.Load()
		s.say("added %5.0f/s  run %5.0f/s  tickets %5d  parked %5d  scheduled %5d  failed %5d  alive %d  transactions %d  40001 %d  kills %d  stops %d  restarts %d",
			float64(a-added)/10, float64(r-runs)/10, tickets, parked, scheduled, failed, alive,
			s.transactions.Load(), s.serialization.Load(), s.kills.Load(), s.stops.Load(), s.restarts.Load())
		runs, added = r, a
	}
}

// nowhere looks for jobs that are in no place and in no lease; nobody would ever run them. In one snapshot there are none.
func (s *soak) nowhere() {
	var ids []int64
	if s.look(`
		select array(
			select j.id from offstage_private.job j
			where not j.failed
				and not offstage_private.has_ticket(j)
				and not exists (select from offstage_private.scheduled p where p.run_at = j.run_at and p.job_id = j.id)
				and not exists (select from offstage_private.parked p where p.queue_id = j.queue_id
					and p.lane_id = j.lane_id and p.priority = j.priority and p.run_at = j.run_at and p.job_id = j.id)
				and not exists (select from offstage_private.lease l where l.claim + 1024 > j.released_claim and j.id = any (l.job_ids))
			order by j.id)`, nil, &ids) && len(ids) > s.stranded {
		s.complain("%d jobs are nowhere: %v", len(ids), ids[:min(len(ids), 20)])
		s.stranded = len(ids)
	}
}

// standStill looks for queues that have a free slot and parked jobs of a task, but whose turn is nobody's: no ticket, and no
// hand-over to come. They would wait until something else of the queue is changed. In one snapshot there are none.
func (s *soak) standStill() {
	var wrong []string
	if s.look(`
		select array(
			select distinct format('queue %s stands still with %s of %s slots taken: jobs of lane %s are parked', q.name, cardinality(t.claims), coalesce(c.concurrency, 1), p.lane_id)
			from offstage_private.queue_state t
			join offstage_private.queue q on q.id = t.queue_id
			left join offstage_private.queue_setting c on c.queue_id = q.id
			join offstage_private.parked p on p.queue_id = q.id
			where c.paused is not true and cardinality(t.claims) < coalesce(c.concurrency, 1)
				and not exists (select from offstage_private.ticket k where k.queue_id = q.id and k.lane_id = p.lane_id)
				and not exists (select from offstage_private.handover h where h.queue_id = q.id))`, nil, &wrong) {
		for _, w := range wrong {
			s.complain("%s", w)
		}
	}
}

// watchQueues looks again and again whether more jobs of a queue are claimed than may run. Each look is one snapshot, so
// that there is nothing to tolerate.
func (s *soak) watchQueues(ctx context.Context) {
	for pause(ctx, 100*time.Millisecond) {
		var wrong []string
		if s.look(`
			select array(
				select format('%s jobs of queue %s are claimed: %s', count(*), q.name, array_agg(l.claim + x.position || ' of worker ' || l.worker_id || ': job ' || x.id))
				from offstage_private.lease l
				cross join lateral unnest(l.job_ids) with ordinality x (id, position)
				join offstage_private.job j on j.id = x.id and j.released_claim < l.claim
				join offstage_private.queue q on q.id = j.queue_id
				group by q.id having count(*) > case when q.name like 'wide-%' then $1::integer else 1 end)`, []any{wideConcurrency}, &wrong) {
			for _, w := range wrong {
				s.complain("%s", w)
			}
		}
	}
}

// widen gives the wide queues the concurrency that they are meant to have.
func (s *soak) widen() {
	for i := range wideQueues {
		s.exec(`select offstage.configure_queue($1, $2)`, wideQueue(i), wideConcurrency)
	}
}

// drain waits until every job has ended or failed. What is scheduled for later is run now.
func (s *soak) drain(ctx context.Context) {
	s.exec(`select offstage.resume_queue(queue_name) from offstage.queues where paused`)
	s.widen()
	var left int64
	for deadline := time.Now().Add(5 * time.Minute); ; {
		s.look(`select count(*) from offstage_private.job where not failed`, nil, &left)
		if left == 0 {
			break
		}
		if time.Now().After(deadline) {
			var why []string
			s.look(`select array(select id || ': ' || offstage.explain(id) from offstage_private.job where not failed order by id limit 20)`, nil, &why)
			s.complain("%d jobs are left after five minutes without new ones:\n%s", left, strings.Join(why, "\n"))
			break
		}
		s.exec(`select count(*) from offstage.retry_jobs(array(select job_id from offstage_private.scheduled where run_at > now() + interval '5 s'))`)
		if !pause(ctx, 500*time.Millisecond) {
			return
		}
	}
	// A hand-over may be due within a second, a dead worker's empty leases are collected by the next rescue.
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
		s.look(`select (select count(*) from offstage_private.handover) + (select count(*) from offstage_private.lease l
			join offstage_private.worker w on w.id = l.worker_id where w.dead_at is not null or w.beat_at < now() - interval '3 s')`, nil, &left)
		if left == 0 || !pause(ctx, 200*time.Millisecond) {
			return
		}
	}
}
