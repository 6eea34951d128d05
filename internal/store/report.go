package store

import (
	"context"
	"encoding/json"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Line is a line of an attempt's log.
type Line struct {
	N       int             `json:"n"`     // from 1
	After   float64         `json:"after"` // seconds, since the claim
	Level   string          `json:"level"`
	Message string          `json:"message"`
	Attrs   json.RawMessage `json:"attrs,omitempty"` // an object
}

// Told is what a running attempt has to tell.
type Told struct {
	Claim   int64    `json:"claim"`
	JobID   int64    `json:"job_id"`
	Lines   []Line   `json:"lines,omitempty"`
	Percent *float32 `json:"percent,omitempty"`
	Message string   `json:"message,omitempty"` // with percent
}

// Report stores what running attempts have to tell, and names the claims that are gone.
func (s *Store) Report(ctx context.Context, conn *pgx.Conn, worker int32, entries []Told) (gone []int64, err error) {
	rows, err := conn.Query(ctx, s.fn(`select claim from offstage.report($1, $2::text::json)`), worker, text(entries))
	if err != nil {
		return nil, Fault(err)
	}
	gone, err = pgx.CollectRows(rows, pgx.RowTo[int64])
	return gone, Fault(err)
}

// LinesJSON is how settle takes lines.
func LinesJSON(lines []Line) string { return text(lines) }

// text is v as JSON, which the caller knows it to be. Attributes are stored as they stand, so nothing is escaped for HTML.
func text(v any) string {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic("store: what a worker sends is always JSON: " + err.Error())
	}
	return strings.TrimSuffix(b.String(), "\n")
}
