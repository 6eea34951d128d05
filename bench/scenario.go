package main

import (
	"context"
	"fmt"
	"math"
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

// goal compares a variant with the best of others, by their medians, or, without others, its own figure.
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
	server  *server
	url     string
	conn    *pgx.Conn
	agents  []*agent
	ending  []func() // what is called in the end, after the agents have ended

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
	b := &block{options: o, system: v.system, server: s, url: url}
	if b.conn, err = pgx.Connect(ctx, url); err != nil {
		return nil, err
	}
	defer func() {
		for _, a := range b.agents {
			_ = a.end()
		}
		for _, f := range b.ending {
			f()
		}
		closing, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = b.conn.Close(closing)
	}()
	return v.run(ctx, b)
}

// start starts a process of the block's system, connected and waiting for its go.
func (b *block) start(ctx context.Context, config agentConfig) (*agent, error) {
	a, err := b.launch(ctx, config)
	if err != nil {
		return nil, err
	}
	_, err = a.wait(ctx, "ready")
	return a, err
}

// launch starts a process of the block's system and does not wait until it is connected.
func (b *block) launch(ctx context.Context, config agentConfig) (*agent, error) {
	config.URL = b.url
	config.Task = task
	cmd := b.system.command(&config)
	a, err := launchAgent(ctx, b.system.title(), cmd, config)
	if err != nil {
		return nil, err
	}
	b.agents = append(b.agents, a)
	return a, nil
}

func (b *block) atEnd(f func()) { b.ending = append(b.ending, f) }

// checkClock fails if the clock of a differs from the harness's by more than can be measured.
func (b *block) checkClock(ctx context.Context, a *agent) error {
	offset, bound, err := a.clockOffset(ctx)
	if err != nil {
		return err
	}
	if max(offset, -offset) > bound+20 {
		return fmt.Errorf("the clock of %s is %d µs off (known to %d µs)", b.system.title(), offset, bound)
	}
	return nil
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

// fill adds n jobs that do nothing.
func (b *block) fill(ctx context.Context, n int) error { return b.system.fill(ctx, b, n, 0) }

// live counts the jobs whose end is not on disk.
func (b *block) live(ctx context.Context) (n int, err error) {
	err = b.conn.QueryRow(ctx, "select count(*) from "+b.system.unsettled()).Scan(&n)
	return n, err
}

// usage is what the database has used up to a moment.
type usage struct {
	wal float64 // position in the write-ahead log, in bytes
	cpu float64 // microseconds of all its processes; NaN where that cannot be known
}

func (b *block) usage(ctx context.Context) (u usage, err error) {
	err = b.conn.QueryRow(ctx, "select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::float8").Scan(&u.wal)
	u.cpu = b.server.cpu()
	return u, err
}

// since adds to s what the database has used up for each of n jobs, by the names that are given.
func (u usage) since(before usage, n int, s sample, wal, cpu string) {
	s[wal] = (u.wal - before.wal) / float64(max(n, 1))
	if used := u.cpu - before.cpu; !math.IsNaN(used) {
		s[cpu] = used / float64(max(n, 1))
	}
}

func micros(us int64) time.Duration { return time.Duration(us) * time.Microsecond }
