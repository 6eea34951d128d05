package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/offstage-dev/offstage"
)

// The SQL with which the command line shows what the client does not. None of it changes anything, but settings of
// tasks. doctor_*.go have what doctor asks the catalog.

// sql puts the schema's name into a statement.
func (db *database) sql(text string) string {
	if db.schema == "offstage" {
		return text
	}
	return strings.NewReplacer("offstage_private.", db.schema+"_private.", "offstage.", db.schema+".").Replace(text)
}

func collect[T any](ctx context.Context, db *database, what, sql string, args ...any) ([]T, error) {
	rows, err := db.pool.Query(ctx, db.sql(sql), args...)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[T])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	if list == nil {
		list = []T{}
	}
	return list, nil
}

type queueRow struct {
	Name        string `json:"name"`
	Concurrency int    `json:"concurrency"`
	Paused      bool   `json:"paused"`
	Running     int    `json:"running"`
	Parked      int    `json:"parked"` // counted up to 10,000
}

func (db *database) queues(ctx context.Context) ([]queueRow, error) {
	return collect[queueRow](ctx, db, "list queues",
		`select q.queue_name, q.concurrency, q.paused, q.running, q.parked from offstage.queues q order by q.queue_name`)
}

type taskRow struct {
	Name        string          `json:"name"`
	MaxAttempts *int            `json:"max_attempts"` // null: 25
	Retry       json.RawMessage `json:"retry"`        // null: the delays of Graphile Worker
	Timeout     *string         `json:"timeout"`
	Keep        string          `json:"keep"`
	Paused      bool            `json:"paused"`
	Workers     int             `json:"workers"` // that run it now
}

func (db *database) tasks(ctx context.Context) ([]taskRow, error) {
	return collect[taskRow](ctx, db, "list tasks", `
		select t.name, t.max_attempts, t.retry::text, t.timeout::text, coalesce(t.keep, 'all'), t.paused,
		  (select count(*) from offstage.workers w where w.state = 'alive' and t.name = any (w.tasks))
		from offstage_private.task t order by t.name`)
}

func (db *database) configureTask(ctx context.Context, task string, settings map[string]any) error {
	body, err := json.Marshal(settings)
	if err == nil {
		_, err = db.pool.Exec(ctx, db.sql(`select offstage.configure_task($1::text, $2::text::json)`), task, string(body))
	}
	if err != nil {
		return fmt.Errorf("configure task %s: %w", task, err)
	}
	return nil
}

type workerRow struct {
	ID        string     `json:"id"`
	Name      string     `json:"name"`
	State     string     `json:"state"`
	Host      string     `json:"host"`
	PID       int        `json:"pid"`
	Version   string     `json:"version"`
	Slots     int        `json:"slots"`
	Running   int        `json:"running"`
	StartedAt time.Time  `json:"started_at"`
	BeatAt    time.Time  `json:"beat_at"`
	DeadAt    *time.Time `json:"dead_at"`
	Tasks     []string   `json:"tasks"`
	Wanted    string     `json:"wanted"`     // of it by somebody: drain, stop, or nothing
	DeafSince *time.Time `json:"deaf_since"` // since when notifications do not reach it
}

func (db *database) workers(ctx context.Context, dead bool) ([]workerRow, error) {
	return collect[workerRow](ctx, db, "list workers", `
		select w.worker_id::text, w.name, w.state, w.host, w.pid, w.version, w.slots, w.running, w.started_at, w.beat_at, w.dead_at, w.tasks, coalesce(w.wanted, ''), w.deaf_since
		from offstage.workers w where w.dead_at is null or $1::boolean order by w.worker_id`, dead)
}

// detailRow is what the client's Job and Status leave out.
type detailRow struct {
	Task         string
	Queue        *string
	Key          *string
	Priority     int
	Attempt      int
	MaxAttempts  *int
	AddedAt      time.Time
	RunAt        time.Time
	Flags        []string
	Crashes      int
	RunningSince *time.Time
	Worker       *string
	Payload      *string
}

// jobDetail gathers what is known of a job, from its row while it lives, otherwise from history.
func (db *database) jobDetail(ctx context.Context, id int64) (*jobDetail, error) {
	st, err := db.client.Status(ctx, id)
	if err != nil {
		return nil, err
	}
	rows, err := collect[detailRow](ctx, db, "get job", `
		select j.task_identifier, j.queue_name, j.key, j.priority::int, j.attempts::int, j.max_attempts::int, j.created_at, j.run_at,
		  array(select k from jsonb_object_keys(coalesce(j.flags, '{}')) k order by k), j.crashes::int, j.locked_at, j.locked_by,
		  offstage.job_payload(j.id)::text
		from offstage.jobs j where j.id = $1::bigint
		union all (
		select t.name, q.name, h.key, h.priority::int, h.attempt::int, null, h.added_at, h.run_at, '{}', 0, null,
		  'worker-' || h.worker_id, h.payload::text
		from offstage_private.history h
		join offstage_private.task t on t.id = h.task_id left join offstage_private.queue q on q.id = h.queue_id
		where h.job_id = $1::bigint and not exists (select from offstage_private.job j where j.id = $1::bigint)
		order by h.payload is null, h.settled_at desc limit 1)`, id)
	if err != nil {
		return nil, err
	}
	if len(rows) == 0 { // it has ended, and gone from history, since the line above
		return nil, fmt.Errorf("job %d: %w", id, offstage.ErrNotFound)
	}
	why, err := collect[blocker](ctx, db, "explain job", `select e.kind, e.because, e.since, e.until, e.remedy, offstage.explain($1::bigint) from offstage.explain_job($1::bigint) e`, id)
	if err != nil {
		return nil, err
	}
	r := rows[0]
	d := &jobDetail{
		ID: strconv.FormatInt(id, 10), Task: r.Task, State: optional(string(st.State)), Outcome: optional(string(st.Outcome)),
		Explanation: why[0].Sentence, Why: why[0], Queue: r.Queue, Key: r.Key, Flags: r.Flags, Priority: r.Priority, Attempt: r.Attempt,
		MaxAttempts: r.MaxAttempts, Crashes: r.Crashes, AddedAt: r.AddedAt.UTC(), RunAt: r.RunAt.UTC(), RunningSince: r.RunningSince,
		Worker: r.Worker, Progress: st.Progress, Message: optional(st.Message), LastError: optional(st.Error), Result: st.Result,
	}
	if !st.SettledAt.IsZero() {
		at := st.SettledAt.UTC()
		d.SettledAt = &at
	}
	if r.Payload != nil {
		d.Payload = json.RawMessage(*r.Payload)
	}
	entries, err := db.client.History(ctx, id)
	if err != nil {
		return nil, err
	}
	d.History = make([]historyRow, 0, len(entries))
	for _, e := range entries {
		h := historyRow{SettledAt: e.SettledAt, Outcome: string(e.Outcome), Attempt: e.Attempt, Worker: optional(e.Worker), Error: optional(e.Error)}
		if !e.ClaimedAt.IsZero() {
			h.ClaimedAt = &e.ClaimedAt
		}
		d.History = append(d.History, h)
	}
	lines, err := db.client.Log(ctx, id, nil)
	d.Log = make([]logLine, 0, len(lines))
	for i := range lines {
		d.Log = append(d.Log, lineJSON(&lines[i]))
	}
	return d, err
}

// Names for shell completion: few, and cheap.

func (db *database) names(ctx context.Context, table string) ([]string, error) {
	rows, err := db.pool.Query(ctx, db.sql(`select x.name from offstage_private.`+table+` x order by x.name limit 200`))
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// someJobs are ids with their tasks: the newest ones, or the newest failed ones.
func (db *database) someJobs(ctx context.Context, failed bool) ([]string, error) {
	rows, err := db.pool.Query(ctx, db.sql(`
		select j.id || chr(9) || t.name from offstage_private.job j join offstage_private.task t on t.id = j.task_id
		where j.failed or not $1::boolean order by j.id desc limit 50`), failed)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// has says whether a task or queue of this name is known.
func (db *database) has(ctx context.Context, table, name string) (bool, error) {
	var one int
	err := db.pool.QueryRow(ctx, db.sql(`select 1 from offstage_private.`+table+` x where x.name = $1::text`), name).Scan(&one)
	if errors.Is(err, pgx.ErrNoRows) {
		return false, nil
	}
	return err == nil, err
}
