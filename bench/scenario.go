package main

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// scenario is one thing that is measured: the variants take turns, round after round, and are then compared.
type scenario struct {
	name     string
	about    string
	metrics  []metric
	variants []variant
	goals    []goal
	timeout  time.Duration // of one block, if it needs more than --timeout
	rounds   int           // 0: --rounds
}

// metric is one number of a sample.
type metric struct {
	name   string // key in sample and heading
	lower  bool   // lower is better
	digits int
}

// sample is what one run of one variant gave, by metric.
type sample map[string]float64

// variant is one row of the table: a system with its settings.
type variant struct {
	title  string
	system system
	run    func(ctx context.Context, b *block) (sample, error)
}

// goal compares a variant with the best of others, round by round, or, without others, its own figure.
type goal struct {
	metric string
	ours   string   // title of a variant
	peers  []string // titles of variants; none: atBest is no ratio but a figure
	atBest float64  // a ratio; for a metric where lower is better, at most; otherwise at least. 0: no goal
}

// forgetGoals leaves the comparisons but sets no goal.
func (s *scenario) forgetGoals() {
	for i := range s.goals {
		s.goals[i].atBest = 0
	}
}

// task is the name of the one task, in both systems.
const task = "work"

// block is one run of one variant: a fresh database and the processes started for it.
type block struct {
	options options
	system  system
	url     string
	conn    *pgx.Conn
	agents  []*agent

	standing int // jobs that are there and cannot run, so that they are left at the end
}

// runBlock runs v in a fresh database and ends everything that v has started.
func runBlock(ctx context.Context, s *server, o options, v variant, template string) (_ sample, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, o.timeout, fmt.Errorf("block took longer than --timeout %s", o.timeout))
	defer cancel()
	url, err := s.fresh(ctx, template)
	if err != nil {
		return nil, err
	}
	b := &block{options: o, system: v.system, url: url}
	if b.conn, err = pgx.Connect(ctx, url); err != nil {
		return nil, err
	}
	defer func() {
		for _, a := range b.agents {
			_ = a.end()
		}
		closing, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = b.conn.Close(closing)
	}()
	return v.run(ctx, b)
}

// start starts a process of the block's system, connected and waiting for its go.
func (b *block) start(ctx context.Context, config agentConfig) (*agent, error) {
	config.URL = b.url
	config.Task = task
	cmd := b.system.command(&config)
	a, err := startAgent(ctx, b.system.title(), cmd, config)
	if err != nil {
		return nil, err
	}
	b.agents = append(b.agents, a)
	return a, nil
}

// settle brings tables and server into the same state before every measurement.
func (b *block) settle(ctx context.Context) error {
	for _, sql := range []string{"vacuum analyze", "checkpoint"} {
		if _, err := b.conn.Exec(ctx, sql); err != nil {
			return fmt.Errorf("%s: %w", sql, err)
		}
	}
	return nil
}

// like is what jobs look like, in SQL; id counts from 1.
type like struct {
	task     string // default: the one task
	payload  string // default: {"id": …}
	queue    string // this and what follows: default null
	runAt    string
	attempts string
	priority string
	chunk    int // how many are added by a call; default: 10,000
}

// fill adds n jobs with the payloads {"id": 1} to {"id": n}, in the same way in both systems.
func (b *block) fill(ctx context.Context, n int) error { return b.fillLike(ctx, n, like{}) }

// fillLike adds n jobs that look like that.
func (b *block) fillLike(ctx context.Context, n int, l like) error {
	sql := fmt.Sprintf(`select count(*) from %[1]s.add_jobs(array(
		select row($1, %s, %s, %s, %s, null, %s, null)::%[1]s.job_spec
		from generate_series($2::int, $3::int) as id))`, b.system.schema(), cmp.Or(l.payload, "json_build_object('id', id)"),
		cmp.Or(l.queue, "null"), cmp.Or(l.runAt, "null"), cmp.Or(l.attempts, "null"), cmp.Or(l.priority, "null"))
	chunk := cmp.Or(l.chunk, 10_000)
	for from := 1; from <= n; from += chunk {
		if _, err := b.conn.Exec(ctx, sql, cmp.Or(l.task, task), from, min(from+chunk-1, n)); err != nil {
			return fmt.Errorf("fill: %w", err)
		}
	}
	return nil
}

// live counts the jobs that are there.
func (b *block) live(ctx context.Context) (n int, err error) {
	err = b.conn.QueryRow(ctx, "select count(*) from "+b.system.jobs()).Scan(&n)
	return n, err
}

// wal is the position in the write-ahead log, in bytes.
func (b *block) wal(ctx context.Context) (n float64, err error) {
	err = b.conn.QueryRow(ctx, "select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::float8").Scan(&n)
	return n, err
}

func micros(us int64) time.Duration { return time.Duration(us) * time.Microsecond }
