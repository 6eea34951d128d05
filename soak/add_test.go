//go:build soak && unix

package soak_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/offstage-dev/offstage"
)

const (
	shortAdders     = 8
	longAdders      = 4
	keys            = 40
	serialQueues    = 8
	wideQueues      = 3
	wideConcurrency = 3
)

var flagSets = [][]string{{"heavy"}, {"heavy", "old"}, {"old"}}

func serialQueue(i int) string { return fmt.Sprintf("serial-%d", i) }
func wideQueue(i int) string   { return fmt.Sprintf("wide-%d", i) }

// pace says when the next job may be added.
type pace struct {
	mu   sync.Mutex // guards the fields
	next time.Time
	rate float64
	full bool // too much is waiting
}

// wait waits until n jobs may be added.
func (p *pace) wait(ctx context.Context, n int) bool {
	p.mu.Lock()
	now := time.Now()
	if p.next.Before(now.Add(-time.Second)) {
		p.next = now.Add(-time.Second)
	}
	due := p.next
	p.next = p.next.Add(time.Duration(float64(n) / p.rate * float64(time.Second)))
	p.mu.Unlock()
	for ok := pause(ctx, time.Until(due)); ; ok = pause(ctx, 50*time.Millisecond) {
		p.mu.Lock()
		full := p.full
		p.mu.Unlock()
		if !ok || !full {
			return ok
		}
	}
}

func (p *pace) set(rate float64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rate, p.next = rate, time.Now()
}

// adder adds jobs, one transaction after another.
type adder struct {
	s    *soak
	rng  *rand.Rand
	long bool // its transactions stay open for up to seconds
}

// note is a line of app.added.
type note struct {
	id  int64
	how string
	key *string
}

// step is one statement, or a pause, of a transaction; it answers what it added.
type step func(ctx context.Context, tx pgx.Tx) ([]note, error)

func (a *adder) run(ctx context.Context) {
	for ctx.Err() == nil {
		steps, n := a.steps()
		if !a.s.pace.wait(ctx, n) {
			return
		}
		opts, rollback := options(a.rng), a.rng.IntN(100) < 8
		for try := 0; ; try++ {
			added, err := a.transaction(ctx, opts, steps, rollback)
			var pg *pgconn.PgError
			switch {
			case err == nil:
				a.s.added.Add(int64(added))
				a.s.transactions.Add(1)
			case errors.Is(err, errRollback):
				a.s.rolledBack.Add(1)
			case ctx.Err() != nil:
			case errors.As(err, &pg) && pg.Code == "40001" && opts.IsoLevel != pgx.ReadCommitted:
				a.s.serialization.Add(1)
				continue
			default:
				a.s.complain("add (%s, try %d): %v", opts.IsoLevel, try, describe(err))
			}
			break
		}
	}
}

// describe tells what the server said besides the message.
func describe(err error) string {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return fmt.Sprintf("%v\n%s\n%s", err, pg.Detail, pg.Where)
	}
	return err.Error()
}

var errRollback = errors.New("rolled back on purpose")

func options(rng *rand.Rand) pgx.TxOptions {
	switch n := rng.IntN(100); {
	case n < 5:
		return pgx.TxOptions{IsoLevel: pgx.RepeatableRead}
	case n < 10:
		return pgx.TxOptions{IsoLevel: pgx.Serializable}
	}
	return pgx.TxOptions{IsoLevel: pgx.ReadCommitted}
}

// transaction does all steps, and notes what they added, or rolls back.
func (a *adder) transaction(ctx context.Context, opts pgx.TxOptions, steps []step, rollback bool) (n int, err error) {
	err = pgx.BeginTxFunc(ctx, a.s.pool, opts, func(tx pgx.Tx) error {
		n = 0
		for _, do := range steps {
			added, err := do(ctx, tx)
			if err != nil {
				return err
			}
			n += len(added)
			ids, hows, keys := make([]int64, len(added)), make([]string, len(added)), make([]*string, len(added))
			for i, x := range added {
				ids[i], hows[i], keys[i] = x.id, x.how, x.key
			}
			if len(added) > 0 {
				if _, err := tx.Exec(ctx, `insert into app.added (job_id, how, key) select * from unnest($1::bigint[], $2::text[], $3::text[])`, ids, hows, keys); err != nil {
					return err
				}
			}
		}
		if rollback {
			return errRollback
		}
		return nil
	})
	return n, err
}

// steps makes up a transaction, which can be tried again as it is. One statement in it may use keys, in their order: so
// callers do not deadlock by themselves.
func (a *adder) steps() (steps []step, n int) {
	keyed := a.rng.IntN(100) < 20
	for i := range 1 + a.rng.IntN(4) {
		if i > 0 && (a.long || a.rng.IntN(20) == 0) {
			d := between(a.rng, 0, 30*time.Millisecond)
			if a.long {
				d = between(a.rng, 0, 1200*time.Millisecond)
			}
			steps = append(steps, func(ctx context.Context, tx pgx.Tx) ([]note, error) {
				pause(ctx, d)
				return nil, ctx.Err()
			})
		}
		do, k := a.kind(keyed && i == 0, !keyed)
		steps = append(steps, do)
		n += k
	}
	return steps, n
}

// kind is one way to add.
func (a *adder) kind(keyed, newNames bool) (step, int) {
	many := 2 + a.rng.IntN(keys-1)
	switch n := a.rng.IntN(100); {
	case n < 25:
		return a.sqlAddJob(a.spec(keyed, newNames)), 1
	case n < 40:
		return a.sqlAddJobs(a.specs(many, keyed, newNames)), many
	case n < 65:
		return a.goAdd(a.spec(keyed, newNames)), 1
	case n < 80:
		return a.goAddMany(a.specs(many, keyed, newNames)), many
	case n < 90:
		return a.databaseSQL(a.specs(3, false, false)), 3
	}
	k := 1 + a.rng.IntN(5)
	return a.trigger(k, a.spec(false, false)), k
}

// spec makes up a job.
func (a *adder) spec(keyed, newNames bool) offstage.Spec {
	rng := a.rng
	spec := offstage.Spec{Task: "quick", Payload: payload{Do: "ok", Milliseconds: rng.IntN(4)}}
	switch n := rng.IntN(100); {
	case n < 4:
		spec.Task, spec.Payload = "slow", payload{Do: "ok", Milliseconds: 50 + rng.IntN(800)}
	case n < 30:
		spec.Task, spec.Payload = "moody", payload{
			Do:           pick(rng, []string{"error", "error", "snooze", "snooze", "cancel", "fail", "panic", "progress", "complete", "complete"}),
			Milliseconds: rng.IntN(6),
		}
	}
	switch n := rng.IntN(100); {
	case n < 15 && spec.Task != "slow":
		spec.Queue = serialQueue(rng.IntN(serialQueues))
	case n < 25:
		spec.Queue = wideQueue(rng.IntN(wideQueues))
	case n < 26 && newNames:
		spec.Queue = fmt.Sprintf("new-%d", time.Now().UnixMilli()/200) // soon not new any more
	}
	if rng.IntN(4) == 0 {
		spec.Priority = rng.IntN(7) - 3
	}
	if rng.IntN(20) == 0 {
		spec.Flags = pick(rng, flagSets)
	}
	if rng.IntN(10) == 0 {
		spec.RunAt = time.Now().Add(between(rng, -time.Second, 8*time.Second))
	}
	if rng.IntN(30) == 0 {
		spec.MaxAttempts = 1 + rng.IntN(3)
	}
	if rng.IntN(30) == 0 {
		spec.Timeout = between(rng, 100*time.Millisecond, time.Second)
	}
	if keyed {
		spec.Key = fmt.Sprintf("key-%02d", rng.IntN(keys))
		spec.KeyMode = pick(rng, []offstage.KeyMode{offstage.Replace, offstage.PreserveRunAt, offstage.UnsafeDedupe})
	}
	return spec
}

// specs makes up a bulk; if keyed, a third of it has keys, each once.
func (a *adder) specs(n int, keyed, newNames bool) []offstage.Spec {
	mode := pick(a.rng, []offstage.KeyMode{offstage.Replace, offstage.PreserveRunAt})
	free := a.rng.Perm(keys)
	list := make([]offstage.Spec, n)
	alike := a.rng.IntN(2) == 0 // most of them then share tickets
	for i := range list {
		list[i] = a.spec(false, newNames)
		if alike && a.rng.IntN(20) > 0 {
			list[i] = list[0]
			list[i].Key, list[i].KeyMode = "", ""
		}
		if keyed && a.rng.IntN(3) == 0 {
			list[i].Key, list[i].KeyMode = fmt.Sprintf("key-%02d", free[i]), mode
		}
	}
	return list
}

func noted(ids []int64, how string, specs []offstage.Spec) []note {
	notes := make([]note, len(ids))
	for i, id := range ids {
		notes[i] = note{id: id, how: how}
		if specs[i].Key != "" {
			notes[i].key = &specs[i].Key
		}
	}
	return notes
}

func (a *adder) goAdd(spec offstage.Spec) step {
	return func(ctx context.Context, tx pgx.Tx) ([]note, error) {
		id, err := a.s.client.With(tx).Add(ctx, spec.Task, spec.Payload, spec.Options)
		return noted([]int64{id}, "Add "+string(spec.KeyMode), []offstage.Spec{spec}), err
	}
}

func (a *adder) goAddMany(specs []offstage.Spec) step {
	return func(ctx context.Context, tx pgx.Tx) ([]note, error) {
		ids, err := a.s.client.With(tx).AddMany(ctx, specs)
		return noted(ids, "AddMany", specs), err
	}
}

func nullable[T comparable](v T) any {
	var zero T
	if v == zero {
		return nil
	}
	return v
}

func body(spec offstage.Spec) string {
	b, err := json.Marshal(spec.Payload)
	if err != nil {
		panic(err) // payload always encodes
	}
	return string(b)
}

func (a *adder) sqlAddJob(spec offstage.Spec) step {
	return func(ctx context.Context, tx pgx.Tx) ([]note, error) {
		var id int64
		mode := spec.KeyMode
		if mode == "" {
			mode = offstage.Replace
		}
		err := tx.QueryRow(ctx, `
			select id from offstage.add_job($1, $2::text::json, queue_name => $3, run_at => $4, max_attempts => $5, job_key => $6,
				priority => $7, flags => $8, job_key_mode => $9)`,
			spec.Task, body(spec), nullable(spec.Queue), nullable(spec.RunAt), nullable(spec.MaxAttempts), nullable(spec.Key),
			spec.Priority, spec.Flags, string(mode)).Scan(&id)
		return noted([]int64{id}, "add_job "+string(spec.KeyMode), []offstage.Spec{spec}), err
	}
}

func (a *adder) sqlAddJobs(specs []offstage.Spec) step {
	return func(ctx context.Context, tx pgx.Tx) ([]note, error) {
		var values []string
		var args []any
		for _, spec := range specs {
			n := len(args)
			values = append(values, fmt.Sprintf("($%d::text, $%d::text::json, $%d::text, $%d::timestamptz, $%d::smallint, $%d::text, $%d::smallint, $%d::text[])::offstage.job_spec",
				n+1, n+2, n+3, n+4, n+5, n+6, n+7, n+8))
			args = append(args, spec.Task, body(spec), nullable(spec.Queue), nullable(spec.RunAt), nullable(spec.MaxAttempts), nullable(spec.Key), spec.Priority, spec.Flags)
		}
		preserve := slices.ContainsFunc(specs, func(s offstage.Spec) bool { return s.KeyMode == offstage.PreserveRunAt })
		rows, err := tx.Query(ctx, fmt.Sprintf(`select id from offstage.add_jobs(array[%s], %t)`, strings.Join(values, ", "), preserve), args...)
		if err != nil {
			return nil, err
		}
		ids, err := pgx.CollectRows(rows, pgx.RowTo[int64])
		return noted(ids, "add_jobs", specs), err
	}
}

// databaseSQL adds through database/sql, in a transaction of its own, which is committed whatever becomes of ours. The
// specs have no keys and no new names, for which it could have to wait for ours.
func (a *adder) databaseSQL(specs []offstage.Spec) step {
	return func(ctx context.Context, _ pgx.Tx) ([]note, error) {
		db := stdlib.OpenDBFromPool(a.s.pool)
		defer db.Close()
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return nil, err
		}
		defer tx.Rollback()
		client := a.s.client.WithSQL(tx)
		for _, spec := range specs {
			id, err := client.Add(ctx, spec.Task, spec.Payload, spec.Options)
			if err != nil {
				return nil, err
			}
			if _, err := tx.ExecContext(ctx, `insert into app.added (job_id, how) values ($1, 'WithSQL')`, id); err != nil {
				return nil, err
			}
		}
		return nil, tx.Commit()
	}
}

func (a *adder) trigger(n int, spec offstage.Spec) step {
	return func(ctx context.Context, tx pgx.Tx) ([]note, error) {
		_, err := tx.Exec(ctx, `insert into app.document (jobs, task, payload) values ($1, $2, $3::text::json)`, n, spec.Task, body(spec))
		return nil, err // the trigger has noted them
	}
}
