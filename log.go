package offstage

import (
	"context"
	"encoding/json"
	"time"
)

// LogLine is a line of a job's log.
type LogLine struct {
	At      time.Time
	Attempt int
	Level   string // debug, info, warn, error; levels in between as slog has them: "info+2"
	Message string
	Attrs   json.RawMessage // an object; nil: none
	Claim   int64           // the attempt,
	N       int             // and the number of the line in it
}

// Log answers lines of a job's log, of all its attempts, in the order in which they were written: those after the given
// line, or from the beginning (nil). At most 1000: give the last one to go on, now or when there may be more. Attempts
// that run are among them, with what was logged until half a second ago. No lines: there are none, or the job is unknown,
// or ended without leaving a trace in history (see Keep).
func (c *Client) Log(ctx context.Context, id int64, after *LogLine) (lines []LogLine, err error) {
	var claim int64
	var n int
	if after != nil {
		claim, n = after.Claim, after.N
	}
	err = c.each(ctx, "log", `select at, attempt, level, message, attrs::text, claim, n from offstage.job_log($1::bigint, $2::bigint, $3::int)`,
		[]any{id, claim, n}, func(r rows) error {
			var l LogLine
			var attrs *string
			if err := r.Scan(&l.At, &l.Attempt, &l.Level, &l.Message, &attrs, &l.Claim, &l.N); err != nil {
				return err
			}
			if attrs != nil {
				l.Attrs = json.RawMessage(*attrs)
			}
			lines = append(lines, l)
			return nil
		})
	return lines, err
}
