package view

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// Token answers whose token of the HTTP API has this SHA-256, and their role; "" for none that is good. It notes that the token
// was used, once a minute.
func (db *DB) Token(ctx context.Context, hash []byte) (name, role string, err error) {
	err = db.writes.QueryRow(ctx, db.sql(`select t.name, t.role from offstage_private.token_role($1::bytea) t`), hash).Scan(&name, &role)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", "", nil
	}
	if err != nil {
		return "", "", fmt.Errorf("look up a token: %w", err)
	}
	return name, role, nil
}
