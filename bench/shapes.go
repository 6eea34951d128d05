package main

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// unharmed is the goal of most: what cannot run costs nothing.
const unharmed = 0.85

// filled is a backlog of n jobs like that, which stay.
func filled(n int, l like) func(context.Context, *block) (func(), error) {
	return func(ctx context.Context, b *block) (func(), error) {
		b.standing += n
		return nil, b.fillLike(ctx, n, l)
	}
}

func inFuture(o options, f field) scenario {
	return against(o, f, "future", fmt.Sprintf("%d jobs, beside %d of the same task that are due tomorrow", o.jobs, o.backlog), o.jobs,
		shape{title: "many in the future", goal: unharmed, before: filled(o.backlog, like{runAt: "now() + interval '1 day'"})})
}

func unknown(o options, f field) scenario {
	return against(o, f, "unknown", fmt.Sprintf("%d jobs, behind %d of a task that the worker does not know", o.jobs, o.backlog), o.jobs,
		shape{title: "many of an unknown task", goal: unharmed, before: filled(o.backlog, like{task: "'unknown'"})})
}

func failed(o options, f field) scenario {
	n := o.backlog / 10
	return against(o, f, "failed", fmt.Sprintf("%d jobs, behind %d of the same task that have failed for good", o.jobs, n), o.jobs,
		shape{title: "many failed", goal: unharmed, before: func(ctx context.Context, b *block) (func(), error) {
			b.standing += n
			if err := b.fillLike(ctx, n, like{}); err != nil {
				return nil, err
			}
			rows, err := b.conn.Query(ctx, "select id from "+b.system.unsettled())
			if err != nil {
				return nil, err
			}
			ids, err := pgx.CollectRows(rows, pgx.RowTo[int64])
			for len(ids) > 0 && err == nil {
				some := ids[:min(len(ids), 10_000)]
				ids = ids[len(some):]
				_, err = b.conn.Exec(ctx, "select count(*) from "+b.system.schema()+".permanently_fail_jobs($1, 'for good')", some)
			}
			return nil, err
		}})
}

func priorities(o options, f field) scenario {
	return against(o, f, "priorities", fmt.Sprintf("%d jobs, at twenty priorities in turn", o.jobs), o.jobs,
		shape{title: "twenty priorities", goal: unharmed, jobs: like{priority: "id % 20"}})
}

func manyTasks(o options, f field) scenario {
	const n = 20
	return against(o, f, "tasks", fmt.Sprintf("%d jobs of %d tasks in turn", o.jobs, n), o.jobs,
		shape{title: "twenty tasks", goal: unharmed, oursOnly: true, jobs: like{task: fmt.Sprintf("'%s ' || id %% %d", task, n)}, config: agentConfig{Role: "ugly", Many: n},
			before: func(ctx context.Context, b *block) (func(), error) {
				_, err := b.conn.Exec(ctx, `select offstage.configure_task($1 || ' ' || i, json_build_object('keep', $3::text)) from generate_series(0, $2::int - 1) i`,
					task, n, b.options.keep)
				return nil, err
			}})
}

// inQueue is how many jobs a queue of queues has.
const inQueue = 20

func queues(o options, f field) scenario {
	n := o.jobs / inQueue
	s := shape{title: "queue by queue", goal: 0.4, jobs: like{queue: fmt.Sprintf("'queue ' || (id - 1) / %d", inQueue)}}
	r := shape{title: "round robin", goal: 0.4, jobs: like{queue: fmt.Sprintf("'queue ' || id %% %d", n)}}
	if o.graphile {
		s.peerGoal, r.peerGoal = 20, 20
	}
	return against(o, f, "queues", fmt.Sprintf("%d serial queues of %d jobs", n, inQueue), n*inQueue, s, r)
}

// texts makes a table of random text, which does not become smaller when it is compressed.
func texts(ctx context.Context, b *block) (func(), error) {
	for _, sql := range []string{
		"create temp table bench_text (text text not null)",
		"alter table bench_text alter text set storage external",
		"insert into bench_text select string_agg(md5(i::text), '') from generate_series(1, 8000) i",
	} {
		if _, err := b.conn.Exec(ctx, sql); err != nil {
			return nil, fmt.Errorf("random text: %w", err)
		}
	}
	return nil, nil
}

// large are jobs with payloads of about so many bytes.
func large(bytes int) like {
	return like{
		payload: fmt.Sprintf("json_build_object('id', id, 'text', (select substr(text, 1 + id %% 100000, %d) from bench_text))", bytes-30),
		chunk:   max(1, min(10_000, 20_000_000/bytes)),
	}
}

func payload1K(o options, f field) scenario {
	return against(o, f, "payload-1k", fmt.Sprintf("%d jobs with payloads of 1 KB, clean with some 12 bytes", o.jobs), o.jobs,
		shape{title: "1 KB", goal: 0.6, before: texts, jobs: large(1000)},
		shape{title: "1 KB, not decoded", oursOnly: true, before: texts, jobs: large(1000), config: agentConfig{Role: "ugly", Raw: true}})
}

func payload100K(o options, f field) scenario {
	n := max(1, o.jobs/50)
	return against(o, f, "payload-100k", fmt.Sprintf("%d jobs with payloads of 100 KB", n), n,
		shape{title: "100 KB", peerGoal: 1.5, before: texts, jobs: large(100_000)},
		shape{title: "100 KB, not decoded", oursOnly: true, before: texts, jobs: large(100_000), config: agentConfig{Role: "ugly", Raw: true}})
}

func retries(o options, f field) scenario {
	const delay = 100 * time.Millisecond
	n := o.backlog // so many that the delay of the last ones does not count
	// Not the peer: its first retry comes after e seconds and cannot be set.
	return against(o, f, "retries", fmt.Sprintf("%d jobs, every twentieth of which fails and is tried again after %s", n, delay), n,
		shape{title: "5 % failing", goal: unharmed, oursOnly: true, config: agentConfig{Role: "ugly", Fail: 20},
			before: func(ctx context.Context, b *block) (func(), error) {
				_, err := b.conn.Exec(ctx, `select offstage.configure_task($1, json_build_object('retry', json_build_object('policy', 'fixed', 'delay', $2::text)))`,
					task, delay.String())
				return nil, err
			}})
}

// snapshot holds a transaction open, because of which no dead row may be removed.
func snapshot(o options, f field) scenario {
	n := o.backlog
	s := against(o, f, "snapshot", fmt.Sprintf("%d jobs, and a snapshot that is held from before they are added until they are gone", n), n,
		shape{title: "snapshot held", goal: unharmed, before: func(ctx context.Context, b *block) (func(), error) {
			conn, err := pgx.Connect(ctx, b.url)
			if err != nil {
				return nil, err
			}
			after := func() { _ = conn.Close(context.WithoutCancel(ctx)) }
			for _, sql := range []string{"begin isolation level repeatable read", "select count(*) from " + b.system.unsettled()} {
				if _, err := conn.Exec(ctx, sql); err != nil {
					return after, err
				}
			}
			return after, nil
		}})
	s.metrics = append(s.metrics, metric{name: firstTenth}, metric{name: lastTenth}, metric{name: bothTenths, digits: 2})
	for i := range s.goals {
		s.goals[i].atBest = 0 // what counts is whether it becomes slower
	}
	s.goals = append(s.goals, goal{metric: bothTenths, ours: f.ours.title() + ", snapshot held", atBest: unharmed})
	return s
}

// memory is what a worker needs while very many jobs wait, which it works off.
func memory(o options, f field) scenario {
	n := o.backlog
	s := against(o, f, "memory", fmt.Sprintf("the most memory that the worker has resident while it works off %d jobs", n), n, shape{title: "many waiting"})
	s.metrics = []metric{{name: workMemory, lower: true, digits: 1}, {name: workEmpty}}
	for i := range s.goals {
		s.goals[i].metric = workMemory
	}
	s.goals = append(s.goals, goal{metric: workMemory, ours: f.ours.title() + ", many waiting", atBest: 48})
	return s
}
