package schema

import (
	"context"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Shape is what shape.txt must be, by a database with the current schema.
func Shape(ctx context.Context, conn *pgx.Conn) (have, file string, err error) {
	tx, err := conn.Begin(ctx)
	if err != nil {
		return "", "", err
	}
	defer tx.Rollback(ctx)
	parts, err := catalog(ctx, tx, Default)
	var b strings.Builder
	for _, p := range parts {
		b.WriteString(p.String() + "\n")
	}
	return b.String(), shape, err
}
