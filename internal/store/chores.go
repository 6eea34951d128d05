package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Chore is a chore as doctor knows it, and who does it. What it did, and the note that it ran, are one statement.
type Chore struct {
	Name   string
	Worker int32
	Period time.Duration // how often it is meant to run
}

// noted is the statement of a chore, in which "ran" stands for the note, of $1 to $3.
func (s *Store) noted(sql string) string {
	return s.fn(strings.Replace(sql, " ran ", " offstage.chore_ran($1, $2, $3 * interval '1 s') ", 1))
}

func (c Chore) args(more ...any) []any {
	return append([]any{c.Name, c.Worker, c.Period.Seconds()}, more...)
}

// Failed notes that a chore has failed.
func (s *Store) Failed(ctx context.Context, conn *pgx.Conn, c Chore, why error) error {
	_, err := conn.Exec(ctx, s.fn(`select offstage.chore_ran($1, $2, $3 * interval '1 s', error => $4)`), c.args(why.Error())...)
	return Fault(err)
}

// Ran notes that a chore ran that took more than one statement.
func (s *Store) Ran(ctx context.Context, conn *pgx.Conn, c Chore, took time.Duration) error {
	_, err := conn.Exec(ctx, s.fn(`select offstage.chore_ran($1, $2, $3 * interval '1 s', took => $4 * interval '1 s')`), c.args(took.Seconds())...)
	return Fault(err)
}

// Promote gives tickets to jobs whose time has come. Next is when to come again at the latest (zero: nothing is
// scheduled); busy says that another worker is at it. recent leaves out what has been due for longer (zero:
// nothing), and costs less where much has been scheduled.
func (s *Store) Promote(ctx context.Context, conn *pgx.Conn, c Chore, limit int, recent time.Duration) (n int, next time.Duration, busy bool, err error) {
	var wait *float64
	err = conn.QueryRow(ctx, s.noted(`select n, case when next_at < 'infinity' then extract(epoch from next_at - clock_timestamp())::float8 end, ran from offstage.promote($4, nullif($5::float8, 0) * interval '1 s')`),
		c.args(limit, recent.Seconds())...).Scan(&n, &wait, nil)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, 0, true, nil
	}
	if wait != nil {
		next = max(time.Duration(*wait*float64(time.Second)), time.Microsecond)
	}
	return n, next, false, Fault(err)
}

// Rescue gives the jobs of dead workers back.
func (s *Store) Rescue(ctx context.Context, conn *pgx.Conn, c Chore) (n int, err error) {
	err = conn.QueryRow(ctx, s.noted(`select r, ran from offstage.rescue($2) r`), c.args()...).Scan(&n, nil)
	return n, Fault(err)
}

// Tidy throws away what nobody needs.
func (s *Store) Tidy(ctx context.Context, conn *pgx.Conn, c Chore) error {
	_, err := conn.Exec(ctx, s.noted(`select ran from offstage.tidy()`), c.args()...)
	return Fault(err)
}

// RollUp sums up what was counted, at most limit rows of it, and says how many there were.
func (s *Store) RollUp(ctx context.Context, conn *pgx.Conn, c Chore, limit int) (n int, err error) {
	err = conn.QueryRow(ctx, s.noted(`select coalesce(r, 0), ran from offstage.roll_up($4) r`), c.args(limit)...).Scan(&n, nil)
	return n, Fault(err)
}

// Index is one that takes far more room than it needs, or that a rebuild which failed has left behind.
type Index struct {
	Name, Table   string
	Bytes, Needed int64
	Broken        bool
}

// LockIndexes begins to look after indexes: nobody else does until UnlockIndexes, or the connection ends. False: somebody else
// does, or this server or role cannot.
func (s *Store) LockIndexes(ctx context.Context, conn *pgx.Conn) (ours bool, err error) {
	err = conn.QueryRow(ctx, s.fn(`select case when pg_has_role(n.nspowner, 'usage') and current_setting('server_version_num')::int >= 140004
		then pg_try_advisory_lock(hashtext($1), -6) else false end from pg_catalog.pg_namespace n where n.nspname = $1 || '_private'`), s.schema).Scan(&ours)
	return ours, Fault(err)
}

// UnlockIndexes ends that.
func (s *Store) UnlockIndexes(ctx context.Context, conn *pgx.Conn) error {
	_, err := conn.Exec(ctx, `select pg_advisory_unlock(hashtext($1), -6)`, s.schema)
	return Fault(err)
}

// BloatedIndexes are those of at least min bytes that take more than times what they need, after their tables have been
// counted anew, and what is left of rebuilds that failed. None while a table of theirs is being vacuumed: who waits for that
// cancels it after a second.
func (s *Store) BloatedIndexes(ctx context.Context, conn *pgx.Conn, min int64, times float64) (list []Index, err error) {
	look := func() error {
		rows, err := conn.Query(ctx, s.fn(`select index_name, table_name, bytes, needed, broken from offstage_private.bloated_indexes($1, $2)`), min, times)
		if err == nil {
			list, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Index])
		}
		return Fault(err)
	}
	if err := look(); err != nil || len(list) == 0 {
		return nil, err
	}
	for _, x := range list {
		if !x.Broken {
			err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
				if _, err := tx.Exec(ctx, "set local lock_timeout = '100ms'"); err != nil {
					return err
				}
				_, err := tx.Exec(ctx, "analyze "+pgx.Identifier{s.schema + "_private", x.Table}.Sanitize())
				return err
			})
			if pg := new(pgconn.PgError); errors.As(err, &pg) && pg.Code == "55P03" {
				return nil, nil
			}
			if err != nil {
				return nil, Fault(err)
			}
		}
	}
	err = look()
	return list, err
}

// OldTransaction says who has had a transaction open for that long, for which a rebuild would have to wait. "": nobody.
func (s *Store) OldTransaction(ctx context.Context, conn *pgx.Conn, age time.Duration) (who string, err error) {
	err = conn.QueryRow(ctx, `select coalesce((select format('pid %s (%s) has had a transaction open since %s', a.pid, a.application_name, a.xact_start)
		from pg_catalog.pg_stat_activity a where a.datname = current_database() and a.pid <> pg_backend_pid() and (a.backend_xmin is not null or a.backend_xid is not null)
		and a.xact_start < clock_timestamp() - $1 * interval '1 s' and a.backend_type <> 'autovacuum worker' order by a.xact_start limit 1), '')`, age.Seconds()).Scan(&who)
	return who, Fault(err)
}

// Rebuild builds an index anew, or drops a broken one, beside everything else. It waits for old transactions, and nobody
// for it; it gives up when that takes longer than patience.
func (s *Store) Rebuild(ctx context.Context, conn *pgx.Conn, x Index, patience time.Duration) error {
	verb := "reindex index concurrently "
	if x.Broken {
		verb = "drop index concurrently "
	}
	if _, err := conn.Exec(ctx, `select set_config('lock_timeout', $1, false), set_config('statement_timeout', '10min', false)`,
		fmt.Sprintf("%dms", patience.Milliseconds())); err != nil {
		return Fault(err)
	}
	_, err := conn.Exec(ctx, verb+pgx.Identifier{s.schema + "_private", x.Name}.Sanitize())
	return Fault(err)
}
