package main

import (
	"cmp"
	"context"
	"fmt"
	"os/exec"
	"strconv"
)

// system is one of the job systems.
type system interface {
	name() string  // in agentConfig and in the names of databases
	title() string // in tables
	about() string // version and what else a reader has to know

	// schema holds the SQL functions add_job and add_jobs, which Offstage and Graphile Worker offer with the same signature;
	// empty for those that have none.
	schema() string

	// unsettled is what to select from, for the ids of the jobs whose end is not on disk yet; idType is their SQL type.
	unsettled() string
	idType() string

	// install sets the system up in the empty database at url.
	install(ctx context.Context, url string) error

	// command is a process that speaks the protocol; what config lacks to run it is filled in.
	command(config *agentConfig) *exec.Cmd

	// fill adds n jobs with the payloads {"id": 1} to {"id": n}, and {"wait": wait} where that is not 0.
	fill(ctx context.Context, b *block, n, wait int) error

	// adder returns what adds one job, with as little as possible between reading the clock and the call; settings are the worker's.
	adder(ctx context.Context, b *block, settings map[string]any) (addOne, error)
}

// addOne adds the job with the payload {"id": i} and returns its id and when the call began.
type addOne func(ctx context.Context, i int) (id string, before int64, err error)

// fillBySQL fills through add_jobs.
func fillBySQL(ctx context.Context, b *block, n, wait int) error {
	l := like{}
	if wait > 0 {
		l.payload = fmt.Sprintf("json_build_object('id', id, 'wait', %d)", wait)
	}
	return b.fillLike(ctx, n, l)
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

// fillLike adds n jobs that look like that, in the same way in both systems that offer add_jobs.
func (b *block) fillLike(ctx context.Context, n int, l like) error {
	sql := fmt.Sprintf(`select count(*) from %[1]s.add_jobs(array(
		select row(%[7]s, %[2]s, %[3]s, %[4]s, %[5]s, null, %[6]s, null)::%[1]s.job_spec
		from generate_series($1::int, $2::int) as id))`, b.system.schema(), cmp.Or(l.payload, "json_build_object('id', id)"),
		cmp.Or(l.queue, "null"), cmp.Or(l.runAt, "null"), cmp.Or(l.attempts, "null"), cmp.Or(l.priority, "null"), cmp.Or(l.task, "'"+task+"'"))
	chunk := cmp.Or(l.chunk, 10_000)
	for from := 1; from <= n; from += chunk {
		if _, err := b.conn.Exec(ctx, sql, from, min(from+chunk-1, n)); err != nil {
			return fmt.Errorf("fill: %w", err)
		}
	}
	return nil
}

// fillByAgent fills through the system's own client.
func fillByAgent(ctx context.Context, b *block, n, wait int) error {
	a, err := b.start(ctx, agentConfig{Role: "bulk", Total: n, Chunk: 5000, Wait: wait})
	if err != nil {
		return err
	}
	if err := a.tell("go"); err != nil {
		return err
	}
	e, err := a.wait(ctx, "added")
	if err != nil {
		return err
	}
	if e.N != n {
		return fmt.Errorf("fill: %s added %d of %d jobs", b.system.title(), e.N, n)
	}
	_, err = a.stop(ctx)
	return err
}

// addBySQL adds from the harness for the systems that offer add_job, so that only the workers differ.
func addBySQL(b *block) addOne {
	add := "select id from " + b.system.schema() + ".add_job($1, $2::json)"
	return func(ctx context.Context, i int) (string, int64, error) {
		text := `{"id":` + strconv.Itoa(i) + `}`
		var id int64
		before := wall()
		err := b.conn.QueryRow(ctx, add, task, text).Scan(&id)
		return strconv.FormatInt(id, 10), before, err
	}
}

// installByAgent installs with a client that does so when it connects.
func installByAgent(ctx context.Context, s system, url string) error {
	config := agentConfig{Role: "install", URL: url, Task: task, Pool: 2}
	a, err := startAgent(ctx, s.title()+" (install)", s.command(&config), config)
	if err != nil {
		return err
	}
	_, err = a.stop(ctx)
	return err
}
