package cli

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/worker"
)

const (
	writers  = 32
	bulk     = 1000
	benchJob = "bench"
)

// benchPayload is about what jobs carry: an id and a few words.
type benchPayload struct {
	ID   int    `json:"id"`
	Text string `json:"text"`
}

func payload(i int) benchPayload {
	return benchPayload{i, "a payload of the size that jobs often have: some ids and a few words"}
}

// addSingle: one writer, one job a transaction.
func (b *bench) addSingle(ctx context.Context) error {
	p := b.app.progress("adding one by one")
	defer p.stop()
	var each []time.Duration
	wal, err := b.wal(ctx)
	if err != nil {
		return err
	}
	begin := time.Now()
	for i := 0; time.Since(begin) < b.time; i++ {
		one := time.Now()
		if _, err := b.db.client.Add(ctx, benchJob, payload(i)); err != nil {
			return err
		}
		each = append(each, time.Since(one))
	}
	took := time.Since(begin)
	f := rate("add_single", len(each), took, each)
	if err := wal(&f); err != nil {
		return err
	}
	b.tell(f, "add, one by one",
		"1 connection, 1 job a transaction, no worker; %d jobs in %s", len(each), span(took))
	return b.empty(ctx)
}

// addWriters: many writers, each on its own connection, one job a transaction.
func (b *bench) addWriters(ctx context.Context) error {
	p := b.app.progress(fmt.Sprintf("adding by %d writers", writers))
	defer p.stop()
	if err := b.connections(ctx, writers); err != nil {
		return err
	}
	var mu sync.Mutex // guards each
	var each []time.Duration
	wal, err := b.wal(ctx)
	if err != nil {
		return err
	}
	group, ctx2 := errgroup.WithContext(ctx)
	begin := time.Now()
	for range writers {
		group.Go(func() error {
			var own []time.Duration
			for i := 0; time.Since(begin) < b.time; i++ {
				one := time.Now()
				if _, err := b.db.client.Add(ctx2, benchJob, payload(i)); err != nil {
					return err
				}
				own = append(own, time.Since(one))
			}
			mu.Lock()
			defer mu.Unlock()
			each = append(each, own...)
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	took := time.Since(begin)
	f := rate("add_writers", len(each), took, each)
	if err := wal(&f); err != nil {
		return err
	}
	b.tell(f, fmt.Sprintf("add, by %d writers", writers),
		"%d connections, 1 job a transaction, no worker; %d jobs in %s", writers, len(each), span(took))
	return b.empty(ctx)
}

// connections opens so many, which then lie in the pool: connecting is not to be measured.
func (b *bench) connections(ctx context.Context, n int) error {
	for range n {
		conn, err := b.db.pool.Acquire(ctx)
		if err != nil {
			return fmt.Errorf("open %d connections: %w", n, err)
		}
		defer conn.Release()
	}
	return nil
}

// addBulk: many jobs a statement.
func (b *bench) addBulk(ctx context.Context) error {
	wal, err := b.wal(ctx)
	if err != nil {
		return err
	}
	took, err := b.fill(ctx)
	if err != nil {
		return err
	}
	f := rate("add_bulk", b.count, took, nil)
	if err := wal(&f); err != nil {
		return err
	}
	b.tell(f, "add, in bulk",
		"1 connection, %d jobs a transaction, no worker; %d jobs in %s", min(bulk, b.count), b.count, span(took))
	return b.empty(ctx)
}

// fill adds count jobs in bulk and says how long that took.
func (b *bench) fill(ctx context.Context) (time.Duration, error) {
	p := b.app.progress("adding in bulk")
	defer p.stop()
	begin := time.Now()
	for added := 0; added < b.count; {
		specs := make([]offstage.Spec, min(bulk, b.count-added))
		for i := range specs {
			specs[i] = offstage.Spec{Task: benchJob, Payload: payload(added + i)}
		}
		if _, err := b.db.client.AddMany(ctx, specs); err != nil {
			return 0, err
		}
		added += len(specs)
		p.set("adding in bulk: %d of %d", added, b.count)
	}
	return time.Since(begin), nil
}

// wal begins to count what the server writes to its log; what it answers puts that into a figure.
func (b *bench) wal(ctx context.Context) (count func(*figure) error, err error) {
	var from string
	if err := b.db.pool.QueryRow(ctx, `select pg_current_wal_insert_lsn()::text`).Scan(&from); err != nil {
		return nil, fmt.Errorf("look at the write-ahead log: %w", err)
	}
	return func(f *figure) error {
		var bytes float64
		err := b.db.pool.QueryRow(ctx, `select (pg_current_wal_insert_lsn() - $1::text::pg_lsn)::float8`, from).Scan(&bytes)
		if err != nil {
			return fmt.Errorf("look at the write-ahead log: %w", err)
		}
		bytes = math.Round(bytes / float64(f.Jobs))
		f.WAL = &bytes
		return nil
	}, nil
}

// empty throws away what a measurement has left, for the next one.
func (b *bench) empty(ctx context.Context) error {
	_, err := b.db.pool.Exec(ctx, b.db.sql(`truncate offstage_private.job, offstage_private.ticket, offstage_private.history`))
	if err != nil {
		return fmt.Errorf("empty schema %s: %w", benchSchema, err)
	}
	return nil
}

// staffed runs the workers with this handler while do runs.
func (b *bench) staffed(ctx context.Context, handler func(context.Context, *worker.Job[benchPayload]) (struct{}, error), do func(context.Context) error) error {
	staff := make([]*worker.Worker, b.workers)
	for i := range staff {
		pool := b.db.pool
		if i > 0 {
			own, err := pgxpool.NewWithConfig(ctx, b.db.pool.Config())
			if err != nil {
				return err
			}
			defer own.Close()
			pool = own
		}
		w, err := worker.New(pool, worker.Config{Schema: benchSchema, Jobs: b.slots, Log: b.quietLog()})
		if err != nil {
			return err
		}
		worker.Handle(w, benchJob, handler)
		staff[i] = w
	}
	both, stop := context.WithCancel(ctx)
	defer stop()
	var group errgroup.Group
	for _, w := range staff {
		group.Go(func() error {
			defer stop() // a worker that fails ends the measurement
			return w.Run(both)
		})
	}
	err := do(both)
	stop()
	ran := group.Wait()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if ran != nil {
		return ran
	}
	return err
}

// staff is what the workers are, for conditions.
func (b *bench) staff() string {
	if b.workers == 1 {
		return fmt.Sprintf("1 worker with %d slots", b.slots)
	}
	return fmt.Sprintf("%d workers with %d slots each", b.workers, b.slots)
}

// work: a backlog, and workers whose handler does nothing, or waits; from the first start to the last settled job.
func (b *bench) work(ctx context.Context) error {
	if _, err := b.fill(ctx); err != nil {
		return err
	}
	if _, err := b.db.pool.Exec(ctx, b.db.sql(`analyze offstage_private.job, offstage_private.ticket`)); err != nil {
		return err
	}
	p := b.app.progress("working")
	defer p.stop()
	var started atomic.Int64
	var first atomic.Pointer[time.Time]
	last := make(chan struct{})
	var f figure
	wal, err := b.wal(ctx)
	if err != nil {
		return err
	}
	err = b.staffed(ctx, func(ctx context.Context, _ *worker.Job[benchPayload]) (struct{}, error) {
		n := started.Add(1)
		if n == 1 {
			now := time.Now()
			first.Store(&now)
		}
		if n == int64(b.count) {
			close(last)
		}
		if b.takes > 0 {
			timer := time.NewTimer(b.takes)
			defer timer.Stop()
			select {
			case <-timer.C:
			case <-ctx.Done():
				return struct{}{}, ctx.Err()
			}
		}
		return struct{}{}, nil
	}, func(ctx context.Context) error {
		ticker := time.NewTicker(500 * time.Millisecond)
		defer ticker.Stop()
		for running := true; running; {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-last:
				running = false
			case <-ticker.C:
				p.set("working: %d of %d", started.Load(), b.count)
			}
		}
		for left := true; left; {
			if err := b.db.pool.QueryRow(ctx, b.db.sql(`select exists (select from offstage_private.job)`)).Scan(&left); err != nil {
				return err
			}
		}
		f = rate("work", b.count, time.Since(*first.Load()), nil)
		return wal(&f)
	})
	if err != nil {
		return err
	}
	does := "does nothing"
	if b.takes > 0 {
		does = "waits for " + span(b.takes)
	}
	b.tell(f, "work", "%s, handler %s, history kept; %d jobs added before, in %s", b.staff(), does, b.count, span(time.Duration(f.Seconds*float64(time.Second))))
	return b.empty(ctx)
}

// latency: an idle worker, one job at a time. Started is by this machine's clock, from before the add to the first
// line of the handler; settled by the server's, from the begin of the adding transaction to the end in history;
// the result is what Await knows, by this machine's clock.
func (b *bench) latency(ctx context.Context) error {
	p := b.app.progress("measuring latency")
	defer p.stop()
	starts := make(chan time.Time, 1)
	var started, settled, known []time.Duration
	err := b.staffed(ctx, func(context.Context, *worker.Job[benchPayload]) (struct{}, error) {
		starts <- time.Now()
		return struct{}{}, nil
	}, func(ctx context.Context) error {
		const warmUp = 10
		for i := range b.samples + warmUp {
			begin := time.Now()
			id, err := b.db.client.Add(ctx, benchJob, payload(i))
			if err != nil {
				return err
			}
			if _, err := offstage.Await[struct{}](ctx, b.db.client, id); err != nil {
				return err
			}
			end := time.Now()
			var start time.Time
			select {
			case start = <-starts:
			default:
				return errors.New("a job has ended that was not started")
			}
			if i < warmUp {
				continue
			}
			var seconds float64
			err = b.db.pool.QueryRow(ctx, b.db.sql(`
				select extract(epoch from h.settled_at - h.added_at)::float8 from offstage_private.history h
				where h.job_id = $1::bigint and h.outcome = 'succeeded'`), id).Scan(&seconds)
			if err != nil {
				return err
			}
			started, known = append(started, start.Sub(begin)), append(known, end.Sub(begin))
			settled = append(settled, time.Duration(seconds*float64(time.Second)))
			p.set("measuring latency: %d of %d", i-warmUp+1, b.samples)
		}
		return nil
	})
	if err != nil {
		return err
	}
	under := fmt.Sprintf("idle, %s, 1 job at a time, %d jobs", b.staff(), b.samples)
	b.tell(delay("latency_started", started), "latency, to started", "%s, client's clock", under)
	b.tell(delay("latency_settled", settled), "latency, to settled", "%s, server's clock", under)
	b.tell(delay("latency_result", known), "latency, to result", "%s, client's clock, with Await", under)
	return b.empty(ctx)
}
