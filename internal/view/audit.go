package view

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/jackc/pgx/v5"
)

// As runs fn in a transaction, in which what SQL functions change is noted as done by this actor, and commits it. Without a name
// the actor is anonymous.
func (db *DB) As(ctx context.Context, by Actor, fn func(tx pgx.Tx) error) error {
	if by.Name == "" {
		by.Name = "anonymous"
	}
	actor, err := json.Marshal(map[string]string{"who": by.Name, "source": by.Source, "from": by.From})
	if err != nil {
		return err
	}
	return pgx.BeginFunc(ctx, db.writes, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `select set_config($1::text, $2::text, true)`, db.schema+".actor", string(actor)); err != nil {
			return fmt.Errorf("say who it is: %w", err)
		}
		return fn(tx)
	})
}

// once is As for what is to be done once under a key, whatever is asked again: for 24 hours the same actor gets the id of the first time. "": each
// time. Keys are the actor's: what is not the same needs another one.
func (db *DB) once(ctx context.Context, by Actor, key string, fn func(tx pgx.Tx) (ID, error)) (id ID, err error) {
	err = db.As(ctx, by, func(tx pgx.Tx) error {
		if key != "" {
			var before *int64
			if err := tx.QueryRow(ctx, db.sql(`select offstage_private.once($1)`), key).Scan(&before); err != nil {
				return fmt.Errorf("look whether it is done: %w", err)
			}
			if before != nil {
				id = ID(*before)
				return nil
			}
		}
		if id, err = fn(tx); err != nil || key == "" {
			return err
		}
		if _, err := tx.Exec(ctx, db.sql(`select offstage_private.done_once($1, $2)`), key, int64(id)); err != nil {
			return fmt.Errorf("note that it is done: %w", err)
		}
		return nil
	})
	return id, err
}

// AuditFilter chooses changes. Empty fields do not filter.
type AuditFilter struct {
	Target string `json:"target,omitempty"` // queue x, task y, schedule z, job 7
	Who    string `json:"who,omitempty"`
	Action string `json:"action,omitempty"` // cancel, pause, …
}

// mostAuditIDs is how many of the jobs of a change are told.
const mostAuditIDs = 100

// Audit is what people have changed, the latest first, at most limit (1 to 1000). older is the cursor of the next page, "" if there
// is none. A filter looks at 20,000 changes and no further.
func (db *DB) Audit(ctx context.Context, f AuditFilter, cursor string, limit int) (list []AuditEntry, older string, err error) {
	var before *int64
	if cursor != "" {
		n, err := strconv.ParseInt(cursor, 10, 64)
		if err != nil || n < 1 {
			return nil, "", fmt.Errorf("audit: %q is not a cursor", cursor)
		}
		before = &n
	}
	limit = min(max(limit, 1), 999)
	rows, err := db.reads.Query(ctx, db.sql(`
		select a.id, a.at, a.who, a.source, a.from_where, a.action, a.target, a.ids[1:`+strconv.Itoa(mostAuditIDs)+`], a.n, a.before::text, a.after::text, a.reason
		from offstage.audit(nullif($1::text, ''), nullif($2::text, ''), nullif($3::text, ''), $4::bigint, $5::integer) a`),
		f.Target, f.Who, f.Action, before, limit+1)
	if err != nil {
		return nil, "", fmt.Errorf("audit: %w", err)
	}
	list, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (e AuditEntry, err error) {
		var id int64
		var ids []int64
		var before, after *string
		err = row.Scan(&id, &e.At, &e.Who, &e.Source, &e.From, &e.Action, &e.Target, &ids, &e.Count, &before, &after, &e.Reason)
		e.ID, e.IDs, e.Before, e.After = ID(id), make([]ID, 0, len(ids)), raw(before), raw(after)
		for _, job := range ids {
			e.IDs = append(e.IDs, ID(job))
		}
		return e, err
	})
	if err != nil {
		return nil, "", fmt.Errorf("audit: %w", err)
	}
	if len(list) > limit {
		list = list[:limit]
		older = list[limit-1].ID.String()
	}
	return list, older, nil
}

// raw is JSON as the database has it; null for nothing.
func raw(text *string) json.RawMessage {
	if text == nil {
		return nil
	}
	return json.RawMessage(*text)
}
