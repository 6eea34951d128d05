package view

import (
	"context"
	"encoding/json"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/offstage-dev/offstage"
)

// Follow is a job that somebody follows, and how far its log was read.
type Follow struct {
	ID    ID
	Claim ID
	N     int
}

// Followed is what is new of a job.
type Followed struct {
	ID     ID
	Known  bool // false: it is gone, and left nothing behind
	Status offstage.Status
	Log    []LogLine // FollowedLines at most
}

// FollowedLines is how many lines of a log come at a time.
const FollowedLines = 100

// Followed looks at all jobs that are followed, in two statements however many there are: hundreds at most.
func (db *DB) Followed(ctx context.Context, list []Follow) ([]Followed, error) {
	out := make([]Followed, len(list))
	ids, claims, ns := make([]int64, len(list)), make([]int64, len(list)), make([]int32, len(list))
	for i, f := range list {
		out[i].ID = f.ID
		ids[i], claims[i], ns[i] = int64(f.ID), int64(f.Claim), int32(f.N)
	}
	rows, err := db.reads.Query(ctx, db.sql(`
		select f.i, s.state, s.outcome, s.attempt, s.progress, s.message, s.result::text, s.error, s.run_at, s.settled_at
		from unnest($1::bigint[]) with ordinality f (id, i) cross join lateral offstage.job_status(f.id) s`), ids)
	if err != nil {
		return nil, err
	}
	var i int
	var state, outcome, message, result, text *string
	var s offstage.Status
	var settled *time.Time
	_, err = pgx.ForEachRow(rows, []any{&i, &state, &outcome, &s.Attempt, &s.Progress, &message, &result, &text, &s.RunAt, &settled}, func() error {
		s.State, s.Outcome, s.Message, s.Error = offstage.State(or(state)), offstage.Outcome(or(outcome)), or(message), or(text)
		if s.Result = nil; result != nil {
			s.Result = json.RawMessage(*result)
		}
		if s.SettledAt = (time.Time{}); settled != nil {
			s.SettledAt = *settled
		}
		out[i-1].Known, out[i-1].Status = true, s
		return nil
	})
	if err != nil {
		return nil, err
	}
	rows, err = db.reads.Query(ctx, db.sql(`
		select f.i, l.at, l.attempt, l.claim, l.n, l.level, l.message, l.attrs::text
		from unnest($1::bigint[], $2::bigint[], $3::int[]) with ordinality f (id, claim, n, i)
		cross join lateral offstage.job_log(f.id, f.claim, f.n, $4::int) l order by f.i, l.claim, l.n`), ids, claims, ns, FollowedLines)
	if err != nil {
		return nil, err
	}
	var l LogLine
	var claim int64
	var attrs *string
	_, err = pgx.ForEachRow(rows, []any{&i, &l.At, &l.Attempt, &claim, &l.N, &l.Level, &l.Message, &attrs}, func() error {
		l.Claim = ID(claim)
		if l.Attrs = nil; attrs != nil {
			l.Attrs = json.RawMessage(*attrs)
		}
		out[i-1].Log = append(out[i-1].Log, l)
		return nil
	})
	return out, err
}

func or(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
