package compat_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// oracle does what Graphile Worker's worker does to its tables: section 2 of the notes on its behaviour, without
// its timing. Its own process claims whatever is ready, so it could not be told which job to lock.
type oracle struct{ conn *pgx.Conn }

// ready is the condition under which a worker may take job j of task t in queue q.
const ready = `
	from graphile_worker._private_jobs j
	join graphile_worker._private_tasks t on t.id = j.task_id
	left join graphile_worker._private_job_queues q on q.id = j.job_queue_id
	where t.identifier = $1 and j.is_available and j.run_at <= now() and (q.id is null or q.is_available)`

// urgent lists the ready jobs of a task that no other one comes before.
func (o *oracle) urgent(ctx context.Context, task string) ([]string, error) {
	rows, err := o.conn.Query(ctx, `
		with ready as (select j.id, j.priority, j.run_at `+ready+`)
		select id::text from ready
		where (priority, run_at) = (select priority, run_at from ready order by priority, run_at limit 1)
		order by id`, task)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

func (o *oracle) lock(ctx context.Context, id, name string) error {
	_, err := o.conn.Exec(ctx, `
		with j as (
			update graphile_worker._private_jobs set attempts = attempts + 1, locked_at = now(), locked_by = $2
			where id = $1::bigint returning job_queue_id
		)
		update graphile_worker._private_job_queues q set locked_at = now(), locked_by = $2
		from j where q.id = j.job_queue_id`, id, name)
	return err
}

func (o *oracle) claim(ctx context.Context, task, name string) (id, lockedBy string, err error) {
	ids, err := o.urgent(ctx, task)
	if err != nil || len(ids) == 0 {
		return "", "", err
	}
	return ids[0], name, o.lock(ctx, ids[0], name)
}

func (o *oracle) fail(ctx context.Context, id, message string) error {
	_, err := o.conn.Exec(ctx, `
		with j as (
			select id, job_queue_id, locked_by from graphile_worker._private_jobs where id = $1::bigint and locked_by is not null
		), q as (
			update graphile_worker._private_job_queues q set locked_at = null, locked_by = null
			from j where q.id = j.job_queue_id and q.locked_by = j.locked_by
		)
		update graphile_worker._private_jobs o
		set last_error = $2, run_at = greatest(now(), run_at) + exp(least(attempts, 10)) * interval '1 second',
			locked_at = null, locked_by = null
		from j where o.id = j.id`, id, message)
	return err
}

func (o *oracle) succeed(ctx context.Context, id string) error {
	tag, err := o.conn.Exec(ctx, `
		with j as (
			delete from graphile_worker._private_jobs where id = $1::bigint returning job_queue_id, locked_by
		)
		update graphile_worker._private_job_queues q set locked_at = null, locked_by = null
		from j where q.id = j.job_queue_id and q.locked_by = j.locked_by`, id)
	if err != nil {
		return fmt.Errorf("%s: %w", tag, err)
	}
	return nil
}

func (o *oracle) age(ctx context.Context, by string) error {
	_, err := o.conn.Exec(ctx, `
		with q as (update graphile_worker._private_job_queues set locked_at = locked_at - $1::interval)
		update graphile_worker._private_jobs set locked_at = locked_at - $1::interval`, by)
	return err
}

func (o *oracle) session() *pgx.Conn { return o.conn }

// protocol is a worker of ours: it claims and settles through the functions that every worker uses.
type protocol struct {
	conn    *pgx.Conn
	workers map[string]int   // name → worker_id
	claims  map[string]claim // job id → its last claim
}

type claim struct {
	worker int
	number int64
}

func (p *protocol) claim(ctx context.Context, task, name string) (id, lockedBy string, err error) {
	// A program whose worker is dead, by force_unlock_workers, hears of it when it beats, and registers again.
	var lives bool
	err = p.conn.QueryRow(ctx, `select exists (select from graphile_worker_private.worker where id = $1 and dead_at is null)`, p.workers[name]).Scan(&lives)
	if err == nil && !lives {
		err = p.register(ctx, name)
	}
	if err == nil {
		id, err = p.take(ctx, task, p.workers[name])
	}
	if err != nil || id == "" {
		return "", "", err
	}
	err = p.conn.QueryRow(ctx, `select locked_by from graphile_worker.jobs where id = $1::bigint`, id).Scan(&lockedBy)
	return id, lockedBy, err
}

func (p *protocol) register(ctx context.Context, name string) error {
	var worker int
	err := p.conn.QueryRow(ctx, `select worker_id from graphile_worker.register('host', 1, 'test', 100, '[]')`).Scan(&worker)
	p.workers[name] = worker
	return err
}

// take claims one job, and looks again as often as it is told to.
func (p *protocol) take(ctx context.Context, task string, worker int) (id string, err error) {
	// What running programs do by themselves between claims: all beat, and one does what REPEATABLE READ and SERIALIZABLE callers of
	// force_unlock_workers have left, workers first and then slots of queues.
	for _, sql := range []string{
		`update graphile_worker_private.worker set beats = 5, beat_at = graphile_worker_private.clock() where dead_at is null`,
		`select graphile_worker.rescue(max(id)) from graphile_worker_private.worker where dead_at is null`,
		`select graphile_worker.rescue(max(id)) from graphile_worker_private.worker where dead_at is null`,
		`select graphile_worker.promote()`,
	} {
		if _, err := p.conn.Exec(ctx, sql); err != nil {
			return "", err
		}
	}
	for range 10 {
		rows, err := p.conn.Query(ctx, `
			select kind, coalesce(claim, 0), coalesce(job_id::text, '')
			from graphile_worker.claim($1, 1, array(select id from graphile_worker_private.task where name = $2))
			where kind in ('job', 'again')`, worker, task)
		if err != nil {
			return "", err
		}
		var again bool
		var number int64
		var kind, job string
		if _, err := pgx.ForEachRow(rows, []any{&kind, &number, &job}, func() error {
			if kind == "job" {
				id = job
				p.claims[id] = claim{worker, number}
			} else {
				again = true
			}
			return nil
		}); err != nil {
			return "", err
		}
		if id != "" || !again {
			break
		}
	}
	return id, nil
}

func (p *protocol) fail(ctx context.Context, id, message string) error {
	c := p.claims[id]
	return p.settled(ctx, `graphile_worker.settle($1, '{}', '{}', endings := json_build_array(json_build_object(
		'claim', $2::bigint, 'job_id', $3::bigint, 'ending', 'retry', 'error', $4::text)))`, c.worker, c.number, id, message)
}

func (p *protocol) succeed(ctx context.Context, id string) error {
	c := p.claims[id]
	return p.settled(ctx, `graphile_worker.settle($1, array[$2::bigint], array[$3::bigint])`, c.worker, c.number, id)
}

// settled is an error when the attempt could not be settled.
func (p *protocol) settled(ctx context.Context, call string, args ...any) error {
	var verdict string
	err := p.conn.QueryRow(ctx, `select verdict from `+call, args...).Scan(&verdict)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	} else if err != nil {
		return err
	}
	return fmt.Errorf("settle: %s", verdict)
}

func (p *protocol) age(ctx context.Context, by string) error {
	_, err := p.conn.Exec(ctx, `update graphile_worker_private.lease set claimed_at = claimed_at - $1::interval`, by)
	return err
}

func (p *protocol) session() *pgx.Conn { return p.conn }
