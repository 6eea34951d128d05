package view

import (
	"context"
	"encoding/json"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
)

// EditAndRetry changes a job that is not running. One that has failed is tried again from its first attempt, at once unless RunAt says
// otherwise; for others nothing changes but what the edit says. ErrConflict, ErrRunning, offstage.ErrNotFound, ErrInvalid.
func (db *DB) EditAndRetry(ctx context.Context, by Actor, id ID, e Edit) error {
	payload, err := jsonText(e.Payload)
	if err != nil {
		return err
	}
	err = db.As(ctx, by, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, db.sql(`select from offstage.edit_job($1, $2::text::json, $3, $4, $5, $6)`),
			int64(id), payload, e.RunAt, e.Priority, e.MaxAttempts, e.Revision)
		return err
	})
	if err != nil {
		return fmt.Errorf("edit job %d: %w", id, fault(err))
	}
	return nil
}

// Duplicate adds a job like another one, live or ended, but for what the edit says, and answers its id; under the same key once. Revision is
// not looked at. offstage.ErrNotFound, ErrInvalid.
func (db *DB) Duplicate(ctx context.Context, by Actor, id ID, e Edit, key string) (ID, error) {
	payload, err := jsonText(e.Payload)
	if err != nil {
		return 0, err
	}
	added, err := db.once(ctx, by, key, func(tx pgx.Tx) (added ID, err error) {
		err = tx.QueryRow(ctx, db.sql(`select offstage_private.duplicate_job($1, $2::text::json, $3, $4, $5)`),
			int64(id), payload, e.RunAt, e.Priority, e.MaxAttempts).Scan(&added)
		return added, err
	})
	if err != nil {
		return 0, fmt.Errorf("duplicate job %d: %w", id, fault(err))
	}
	return added, nil
}

// Add is a job to be added by hand. Nil is the default of add_job in SQL.
type Add struct {
	Task        string          `json:"task"`
	Payload     json.RawMessage `json:"payload,omitempty"`
	Queue       *string         `json:"queue,omitempty"`
	Key         *string         `json:"key,omitempty"`
	RunAt       *time.Time      `json:"run_at,omitempty"`
	Priority    *int            `json:"priority,omitempty"`
	MaxAttempts *int            `json:"max_attempts,omitempty"`
	Flags       []string        `json:"flags,omitempty"`

	// IdempotencyKey: for 24 hours the same key of the same actor answers the same id, and adds nothing. "": none.
	IdempotencyKey string `json:"idempotency_key,omitempty"`
}

// AddJob adds a job and answers its id. ErrInvalid.
func (db *DB) AddJob(ctx context.Context, by Actor, a Add) (ID, error) {
	if a.Task == "" {
		return 0, fmt.Errorf("add job: %w: the job has no task", ErrInvalid)
	}
	payload, err := jsonText(a.Payload)
	if err != nil {
		return 0, err
	}
	id, err := db.once(ctx, by, a.IdempotencyKey, func(tx pgx.Tx) (id ID, err error) {
		err = tx.QueryRow(ctx, db.sql(`select offstage_private.add_by_hand($1, $2::text::json, $3, $4, $5, $6, $7, $8::text[])`),
			a.Task, payload, a.Queue, a.RunAt, a.MaxAttempts, a.Key, a.Priority, a.Flags).Scan(&id)
		return id, err
	})
	if err != nil {
		return 0, fmt.Errorf("add job: %w", fault(err))
	}
	return id, nil
}

// jsonText is JSON as SQL takes it; nil is none.
func jsonText(raw json.RawMessage) (*string, error) {
	if raw == nil {
		return nil, nil
	}
	if !json.Valid(raw) || !utf8.Valid(raw) {
		return nil, fmt.Errorf("%w: the payload is not JSON", ErrInvalid)
	}
	s := string(raw)
	return &s, nil
}
