package main

import (
	"context"
	"fmt"
	"time"
)

// history measures whether much history slows down adding and working: with none, and with that of the last seven days. It takes
// minutes a round, so it runs only when it is asked for.
func history(o options, f field) scenario {
	ours := f.ours
	with := fmt.Sprintf("%s, %d entries of history", ours.title(), o.history)
	s := scenario{
		name: "history",
		about: fmt.Sprintf("%d jobs are added in bulk, 1000 a call, and then worked off, history kept; without entries of earlier jobs, and with %d over seven days",
			o.jobs, o.history),
		metrics: append([]metric{{name: addRate}}, workMetrics...),
	}
	s.timeout = 20 * time.Minute // most of which is filling
	without := variant{title: ours.title() + ", no history", system: ours}
	without.run = func(ctx context.Context, b *block) (sample, error) { return addAndWork(ctx, b) }
	much := variant{title: with, system: ours}
	much.run = func(ctx context.Context, b *block) (sample, error) {
		if err := b.remember(ctx, o.history); err != nil {
			return nil, err
		}
		return addAndWork(ctx, b)
	}
	s.variants = []variant{without, much}
	for _, m := range []string{addRate, workEmpty, workMiddle} {
		s.goals = append(s.goals, goal{metric: m, ours: much.title, peers: []string{without.title}, atBest: 0.95})
	}
	return s
}

func addAndWork(ctx context.Context, b *block) (sample, error) {
	added, err := addInBulk(ctx, b, agentConfig{Role: "bulk", Chunk: 1000})
	if err != nil {
		return nil, err
	}
	worked, err := workOff(ctx, b, 1, nil)
	if err != nil {
		return nil, err
	}
	worked[addRate] = added[addRate]
	return worked, nil
}

// remember fills history with n entries of jobs that have succeeded in the last seven days, evenly, in the partitions that
// tidy makes when its clock says so.
func (b *block) remember(ctx context.Context, n int) error {
	progress("history: %d entries are being made", n)
	for _, sql := range []string{
		`create table offstage_private.bench_clock as select now() as at`,
		`alter function offstage_private.clock() rename to real_clock`,
		`create function offstage_private.clock() returns timestamptz language sql volatile as 'select at from offstage_private.bench_clock'`,
		`do $$
		begin
		  for ago in reverse 7..0 loop
		    update offstage_private.bench_clock set at = now() - ago * interval '1 day';
		    perform offstage.tidy();
		  end loop;
		end $$`,
		`drop function offstage_private.clock()`,
		`alter function offstage_private.real_clock() rename to clock`,
		`drop table offstage_private.bench_clock`,
	} {
		if _, err := b.conn.Exec(ctx, sql); err != nil {
			return fmt.Errorf("make partitions of history: %w", err)
		}
	}
	const chunk = 500_000
	for from := 1; from <= n; from += chunk {
		_, err := b.conn.Exec(ctx, `insert into offstage_private.history
			(settled_at, job_id, claim, added_at, run_at, claimed_at, task_id, worker_id, attempt, priority, outcome, payload)
			select e.at, -n, 1025, e.at, e.at, e.at, 1, 1, 1, 0, 'succeeded', json_build_object('id', n)
			from generate_series($2::bigint, $3::bigint) n
			cross join lateral (select now() - n * interval '7 days' / $1::bigint) e (at)`, n, from, min(from+chunk-1, n))
		if err != nil {
			return fmt.Errorf("fill history: %w", err)
		}
	}
	return nil
}
