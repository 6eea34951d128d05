package main

import (
	"context"
	"fmt"
	"time"
)

// busy is the name of a queue whose one slot is taken, and behind of a task of jobs that wait for it.
const (
	busy   = "busy"
	behind = "behind"
)

func parked(o options, f field) scenario {
	return against(o, f, "parked", fmt.Sprintf("%d jobs without a queue, beside %d of the same task in a queue whose one job is running", o.jobs, o.backlog), o.jobs,
		shape{title: "many behind a busy queue", goal: unharmed, before: func(ctx context.Context, b *block) (func(), error) {
			if err := b.blockQueue(ctx); err != nil {
				return nil, err
			}
			_, err := b.park(ctx)
			return nil, err
		}})
}

// blockQueue makes the queue busy for as long as the block lasts.
func (b *block) blockQueue(ctx context.Context) error {
	add := "select count(*) from " + b.system.schema() + ".add_job('hold', queue_name => $1)"
	if _, err := b.conn.Exec(ctx, add, busy); err != nil {
		return err
	}
	b.standing++
	if !b.ours() { // the same that a worker of its would do when it takes the job
		_, err := b.conn.Exec(ctx, `with held as (update graphile_worker._private_job_queues set locked_at = now(), locked_by = 'bench' returning id)
			update graphile_worker._private_jobs j set locked_at = now(), locked_by = 'bench' from held where j.job_queue_id = held.id`)
		return err
	}
	holder, err := b.start(ctx, agentConfig{Role: "holder", Also: "hold"})
	if err != nil {
		return err
	}
	if err := holder.tell("go"); err != nil {
		return err
	}
	_, err = holder.wait(ctx, "count")
	return err
}

// park adds the backlog to the busy queue, and lets a worker of ours park it, as fast as it can: answers how many a second.
// Graphile Worker does nothing of the kind: it steps over them each time.
func (b *block) park(ctx context.Context) (rate float64, err error) {
	n := b.options.backlog
	b.standing += n
	if err := b.fillLike(ctx, n, like{queue: "'" + busy + "'"}); err != nil || !b.ours() {
		return 0, err
	}
	worker, err := b.start(ctx, agentConfig{Role: "worker"})
	if err != nil {
		return 0, err
	}
	parking, err := b.parking(ctx)
	if err != nil {
		return 0, err
	}
	if err := worker.tell("go"); err != nil {
		return 0, err
	}
	begun, err := worker.wait(ctx, "started")
	if err != nil {
		return 0, err
	}
	for {
		done, err := parking(ctx)
		if err != nil {
			return 0, err
		}
		if done {
			break
		}
		time.Sleep(time.Millisecond)
	}
	took := micros(wall() - begun.T)
	if _, err := worker.stop(ctx); err != nil {
		return 0, err
	}
	var left int
	if err := b.conn.QueryRow(ctx, "select count(*) from offstage_private.parked").Scan(&left); err != nil {
		return 0, err
	}
	if left != n {
		return 0, fmt.Errorf("%d of %d jobs are parked", left, n)
	}
	return float64(n) / took.Seconds(), nil
}

// parking settles the block and returns what says whether every job that has a ticket now has lost it. It looks for the last one of
// each lane: they are parked in their order, and to count them all would take longer than what is measured.
func (b *block) parking(ctx context.Context) (func(context.Context) (bool, error), error) {
	_, err := b.conn.Exec(ctx, `create temp table bench_last as
		select distinct on (t.lane_id) t.lane_id, t.priority, t.run_at, t.job_id
		from offstage_private.ticket t order by t.lane_id, t.priority desc, t.run_at desc, t.job_id desc`)
	if err != nil {
		return nil, err
	}
	if err := b.settle(ctx); err != nil {
		return nil, err
	}
	return func(ctx context.Context) (done bool, err error) {
		err = b.conn.QueryRow(ctx, `select not exists (
			select from bench_last l cross join lateral (
				select from offstage_private.ticket t
				where t.lane_id = l.lane_id and t.priority = l.priority and t.run_at = l.run_at and t.job_id = l.job_id limit 1) t)`).Scan(&done)
		return done, err
	}, nil
}

const (
	parkRate   = "parked/s"
	otherRate  = "other jobs/s"
	otherWait  = "their wait, p50 ms"
	otherWaits = "p99 ms"

	othersRate = 5000 // other jobs that are added a second
)

// parking is how fast jobs are parked, and what others notice of it: of another worker, or of another task in the same one.
func parking(o options, f field) scenario {
	ours := f.ours
	s := scenario{
		name: "parking",
		about: fmt.Sprintf("a worker parks %d jobs behind one busy queue; meanwhile %d other jobs a second are added, which nothing holds up; our history keeps %s",
			o.backlog, othersRate, o.keep),
		metrics: []metric{{name: parkRate}, {name: otherRate}, {name: otherWait, lower: true, digits: 1}, {name: otherWaits, lower: true, digits: 1}},
	}
	only := variant{title: ours.title() + ", nothing else", system: ours}
	only.run = func(ctx context.Context, b *block) (sample, error) {
		if err := b.blockQueue(ctx); err != nil {
			return nil, err
		}
		rate, err := b.park(ctx)
		return sample{parkRate: rate}, err
	}
	alone := variant{title: ours.title() + ", other jobs alone", system: ours}
	alone.run = func(ctx context.Context, b *block) (sample, error) { return others(ctx, b, "") }
	s.variants = []variant{only, alone}
	s.goals = []goal{{metric: parkRate, ours: only.title, atBest: 50_000}}
	for _, who := range []string{"another worker", "the same worker"} {
		v := variant{title: ours.title() + ", other jobs, parked by " + who, system: ours}
		v.run = func(ctx context.Context, b *block) (sample, error) { return others(ctx, b, who) }
		s.variants = append(s.variants, v)
		s.goals = append(s.goals, goal{metric: otherRate, ours: v.title, peers: []string{alone.title}, atBest: unharmed},
			goal{metric: otherWait, ours: v.title, peers: []string{alone.title}})
	}
	return s
}

// others lets jobs come steadily while who, if anybody, parks the backlog.
func others(ctx context.Context, b *block, who string) (sample, error) {
	if err := b.keep(ctx); err != nil {
		return nil, err
	}
	n := b.options.backlog
	until := time.Duration(n) * time.Second / 100_000 // about as long as parking takes
	if who != "" {
		if err := b.blockQueue(ctx); err != nil {
			return nil, err
		}
		b.standing += n
		if err := b.fillLike(ctx, n, like{task: "'" + behind + "'", queue: "'" + busy + "'"}); err != nil {
			return nil, err
		}
	}
	config := agentConfig{Role: "ugly"}
	if who == "the same worker" {
		config.Also = behind
	}
	worker, err := b.start(ctx, config)
	if err != nil {
		return nil, err
	}
	parker := worker
	if who == "another worker" {
		if parker, err = b.start(ctx, agentConfig{Role: "beside", Also: behind}); err != nil {
			return nil, err
		}
	}
	adder, err := b.start(ctx, agentConfig{Role: "bulk", Total: 1 << 40, Chunk: othersRate / 100, Rate: othersRate, Stamp: true})
	if err != nil {
		return nil, err
	}
	parking, err := b.parking(ctx)
	if err != nil {
		return nil, err
	}

	if err := adder.tell("go"); err != nil {
		return nil, err
	}
	if parker != worker || who == "" { // one that parks begins at once
		if err := worker.tell("go"); err != nil {
			return nil, err
		}
		time.Sleep(500 * time.Millisecond)
	}
	before, err := worker.counted(0)
	if err != nil {
		return nil, err
	}
	begun := time.Now()
	if who != "" {
		if err := parker.tell("go"); err != nil {
			return nil, err
		}
	}
	after := before
	for done := false; !done; {
		time.Sleep(time.Millisecond)
		if after, err = worker.counted(after); err != nil {
			return nil, err
		}
		if who == "" {
			done = time.Since(begun) >= until
		} else if done, err = parking(ctx); err != nil {
			return nil, err
		}
	}
	took := time.Since(begun)
	s := sample{otherRate: float64(after-before) / took.Seconds()}
	if who != "" {
		s[parkRate] = float64(n) / took.Seconds()
	}
	if _, err := adder.stop(ctx); err != nil {
		return nil, err
	}
	for left := -1; left != b.standing; { // those that have waited are counted, too
		if left, err = b.live(ctx); err != nil {
			return nil, err
		}
	}
	e, err := worker.stop(ctx)
	if err != nil {
		return nil, err
	}
	if len(e.Waits) == 2 {
		s[otherWait], s[otherWaits] = float64(e.Waits[0])/1000, float64(e.Waits[1])/1000
	}
	return s, nil
}

// counted takes what the agent has said so far and returns how many jobs it has run: n if it has said nothing new.
func (a *agent) counted(n int) (int, error) {
	for {
		select {
		case e, ok := <-a.events:
			if !ok {
				return n, a.alive()
			}
			if e.Event == "count" {
				n = e.N
			}
		default:
			return n, nil
		}
	}
}
