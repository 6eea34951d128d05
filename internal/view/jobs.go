package view

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/offstage-dev/offstage"
)

// Errors that callers compare with errors.Is.
var (
	// ErrInvalid: what was asked for cannot be: an unknown state, a number that is too large, a cursor of another list.
	ErrInvalid = errors.New("not acceptable")
	// ErrConflict: the job has changed since it was looked at; nothing was written.
	ErrConflict = errors.New("the job has changed")
	// ErrRunning: the job is running, and cannot be changed meanwhile.
	ErrRunning = errors.New("the job is running")
)

// fault maps SQLSTATEs to the errors above; the database's own words, which say what to do, stay in it.
func fault(err error) error {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return err
	}
	kind := error(nil)
	switch {
	case pg.Code == "OS003":
		kind = ErrConflict
	case pg.Code == "55006":
		kind = ErrRunning
	case pg.Code == "P0002":
		kind = offstage.ErrNotFound
	case strings.HasPrefix(pg.Code, "22"), strings.HasPrefix(pg.Code, "23"), pg.Code == "GWBKM":
		kind = ErrInvalid
	default:
		return err
	}
	if pg.Hint != "" {
		return fmt.Errorf("%w: %w (%s)", kind, err, pg.Hint)
	}
	return fmt.Errorf("%w: %w", kind, err)
}

// encode is the filter as find() in SQL reads it.
func (f JobFilter) encode() (string, error) {
	b, err := json.Marshal(f)
	if err != nil { // a time beyond the year 9999
		return "", fmt.Errorf("%w: filter: %w", ErrInvalid, err)
	}
	return string(b), nil
}

// Ended says that the filter is for jobs that are in history.
func (f JobFilter) ended() bool {
	return slices.Contains([]string{"succeeded", "cancelled", "removed", "completed"}, f.State)
}

// place is a row's place in a list; its fields mean what look() in SQL says. Moments are kept to the microsecond, as text, with
// PostgreSQL's infinities.
type place struct {
	List     string  `json:"l"` // the state, so that a cursor of another list is refused
	Newer    bool    `json:"n,omitempty"`
	Priority *int16  `json:"p,omitempty"`
	At       *string `json:"a,omitempty"`
	ID       *int64  `json:"i,omitempty"`
}

// list names what a list is ordered by.
func (f JobFilter) list() string {
	switch f.State {
	case "":
		if f.Worker != "" {
			return "running"
		}
		return "any"
	case "waiting", "parked", "paused":
		return "turns"
	}
	return f.State
}

func (p place) String() string {
	b, err := json.Marshal(p)
	if err != nil {
		panic(err) // of numbers and text
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

func (f JobFilter) place(cursor string) (p place, err error) {
	if cursor == "" {
		return place{List: f.list()}, nil
	}
	b, err := base64.RawURLEncoding.DecodeString(cursor)
	if err == nil {
		err = json.Unmarshal(b, &p)
	}
	if err != nil || p.ID == nil && !p.Newer || p.List != f.list() {
		return p, fmt.Errorf("%w: the cursor is not of this list: begin at the first page", ErrInvalid)
	}
	return p, nil
}

// maxPage is how many jobs a page has at most.
const maxPage = 500

// Jobs is a piece of a list, 50 jobs unless limit says otherwise: what waits in the order of its turns, all else with the newest first.
// Cursors are good for the filter that they came with. A page may have fewer jobs than asked for, or none, although there are more:
// a filter that no index serves looks at so many jobs, or for so long (80 ms), and then stops; Looked says so, and Older goes on. ErrInvalid: see there.
func (db *DB) Jobs(ctx context.Context, f JobFilter, cursor string, limit int) (JobPage, error) {
	from, err := f.place(cursor)
	if err != nil {
		return JobPage{}, err
	}
	if limit <= 0 {
		limit = 50
	}
	return db.page(ctx, f, from, min(limit, maxPage))
}

func (db *DB) page(ctx context.Context, f JobFilter, from place, limit int) (JobPage, error) {
	filter, err := f.encode()
	if err != nil {
		return JobPage{}, err
	}
	var found []place // nearest first
	var ids []int64
	var ats []string
	var last *place // where to go on: there is more
	looked := 0
	page := JobPage{Jobs: []JobRow{}}
	err = pgx.BeginTxFunc(ctx, db.reads, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, db.sql(`select f.job_id, f.priority, to_json(f.at) #>> '{}', f.id, f.looked
			from offstage_private.find($1::json, $2::smallint, $3::text::timestamptz, $4::bigint, $5, $6, patience => '80 ms') f`),
			filter, from.Priority, from.At, from.ID, from.Newer, limit)
		if err != nil {
			return err
		}
		var id *int64
		var n *int
		at := place{List: from.List}
		_, err = pgx.ForEachRow(rows, []any{&id, &at.Priority, &at.At, &at.ID, &n}, func() error {
			if id == nil {
				last, looked = new(place), *n
				*last = at
				return nil
			}
			found, ids, ats = append(found, at), append(ids, *id), append(ats, *at.At)
			return nil
		})
		if err != nil {
			return err
		}
		if from.Newer {
			slices.Reverse(found)
			slices.Reverse(ids)
			slices.Reverse(ats)
		}
		page.Jobs, err = db.jobRows(ctx, tx, ids, ats, f.ended())
		return err
	})
	if err != nil {
		return JobPage{}, fmt.Errorf("jobs: %w", fault(err))
	}
	if from.Newer && last == nil {
		return db.page(ctx, f, place{List: from.List}, limit) // the beginning, as a whole page
	}
	// Cursors lie at a row, which is not on the page that they lead to; or where a filter has stopped.
	older, newer := last, (*place)(nil)
	switch {
	case from.Newer && len(found) > 0:
		older, newer = &found[len(found)-1], last
	case from.Newer:
		newer = last
	case from.ID != nil && len(found) > 0:
		newer = &found[0]
	case from.ID != nil && last != nil:
		newer = last
	case from.ID != nil:
		newer = &place{List: from.List} // from the end
	}
	if older != nil {
		p := *older
		p.Newer = false
		page.Older = p.String()
	}
	if newer != nil {
		p := *newer
		p.Newer = true
		page.Newer = p.String()
	}
	if looked > 0 {
		page.Looked = f.lookedAt(looked, last)
	}
	return page, nil
}

// lookedAt says how far a filter has looked.
func (f JobFilter) lookedAt(n int, last *place) string {
	what := "jobs"
	if f.ended() {
		what = "entries of history"
	}
	s := fmt.Sprintf("Looked at %s %s", thousands(n), what)
	switch {
	case f.ended() && last.At != nil:
		s += ", back to " + *last.At
	case f.State == "scheduled" && last.At != nil:
		s += ", up to those due at " + *last.At
	case f.list() == "any" || f.State == "failed":
		s += fmt.Sprintf(", down to job %d", *last.ID)
	}
	return s + ": there may be more."
}

func thousands(n int) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// jobRows are these jobs, in this order; those that are gone are left out. ats says when they ended, if they have.
func (db *DB) jobRows(ctx context.Context, q querier, ids []int64, ats []string, ended bool) ([]JobRow, error) {
	list := make([]JobRow, 0, len(ids))
	if len(ids) == 0 {
		return list, nil
	}
	const columns = `select r.id, r.state, r.task, r.queue, r.key, r.priority, r.attempt, r.max_attempts, r.run_at, r.added_at, r.started_at, r.ended_at, r.worker, r.progress, r.error `
	sql, args := columns+`from offstage_private.job_rows($1) r`, []any{ids}
	if ended {
		sql, args = columns+`from offstage_private.ended_rows($1, $2::text[]::timestamptz[]) r`, []any{ids, ats}
	}
	rows, err := q.Query(ctx, db.sql(sql), args...)
	if err != nil {
		return nil, err
	}
	var r JobRow
	var runAt, addedAt moment
	_, err = pgx.ForEachRow(rows, []any{&r.ID, &r.State, &r.Task, &r.Queue, &r.Key, &r.Priority, &r.Attempt, &r.MaxAttempts, &runAt, &addedAt,
		&r.StartedAt, &r.EndedAt, &r.Worker, &r.Progress, &r.Error}, func() error {
		r.RunAt, r.AddedAt = time.Time(runAt), time.Time(addedAt)
		list = append(list, r)
		return nil
	})
	return list, err
}

// moment is a time that may be infinite in PostgreSQL; Go and JSON know no infinity, and take the end of the year 9999 for it.
type moment time.Time

// ScanTimestamptz is pgx's.
func (m *moment) ScanTimestamptz(v pgtype.Timestamptz) error {
	switch {
	case v.InfinityModifier > 0:
		*m = moment(time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC))
	case v.InfinityModifier < 0:
		*m = moment(time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC))
	default:
		*m = moment(v.Time)
	}
	return nil
}

// counted is how far a state's jobs are counted.
const counted = 10_000

// JobCounts is how many jobs of each state match, whatever state the filter names. A state is left out where counting would cost too
// much: see count_jobs() in SQL.
func (db *DB) JobCounts(ctx context.Context, f JobFilter) (map[string]Count, error) {
	filter, err := f.encode()
	if err != nil {
		return nil, err
	}
	counts := map[string]Count{}
	batch := &pgx.Batch{}
	batch.Queue(db.sql(`select c.state, c.n from offstage_private.count_jobs($1::json, $2) c`), filter, counted).Query(func(rows pgx.Rows) error {
		var state string
		var n int64
		_, err := pgx.ForEachRow(rows, []any{&state, &n}, func() error {
			counts[state] = Count{N: min(n, counted), More: n > counted}
			return nil
		})
		return err
	})
	if f.State = ""; f == (JobFilter{}) {
		batch.Queue(db.sql(`select coalesce(sum(c.n), 0)::bigint, coalesce(bool_or(c.about), false) from offstage_private.count_running(false, 500) c`)).QueryRow(func(row pgx.Row) error {
			var c Count
			err := row.Scan(&c.N, &c.About)
			counts["running"] = c
			return err
		})
	}
	if err := db.reads.batch(ctx, batch); err != nil {
		return nil, fmt.Errorf("count jobs: %w", fault(err))
	}
	return counts, nil
}
