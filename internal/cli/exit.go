package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/spf13/cobra"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/schema"
)

// Exit codes; exitCodes has them in words.
const (
	Done            = 0
	Failed          = 1
	Usage           = 2
	NotFound        = 3
	Refused         = 4
	Unreachable     = 5
	MigrationNeeded = 6
	Interrupted     = 130
)

// failure is an error whose exit code is known, with what to do next.
type failure struct {
	code int
	err  error
	next string // a sentence or a command; may be ""
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

func failed(code int, next, format string, args ...any) error {
	return &failure{code, fmt.Errorf(format, args...), next}
}

// silent is for commands that have said themselves what went wrong.
func silent(code int) error { return &failure{code: code} }

// report prints what went wrong, and what to do, and answers the exit code.
func (a *app) report(ctx context.Context, command *cobra.Command, err error) int {
	if err == nil {
		return Done
	}
	code, next := a.classify(err)
	if code == Usage && next == "" {
		next = "see " + command.CommandPath() + " --help"
	}
	if ctx.Err() != nil && code != Usage {
		a.say("offstage: interrupted")
		return Interrupted
	}
	var f *failure
	if errors.As(err, &f) && f.err == nil {
		return code
	}
	a.say("offstage: %s", clean(err.Error(), true))
	if next != "" {
		a.say("  %s", strings.ReplaceAll(next, "\n", "\n  "))
	}
	return code
}

func (a *app) classify(err error) (code int, next string) {
	var f *failure
	var connect *pgconn.ConnectError
	var pg *pgconn.PgError
	var network *net.OpError
	switch {
	case errors.As(err, &f):
		return f.code, f.next
	case !a.ran:
		return Usage, ""
	case errors.Is(err, schema.ErrOlder), errors.Is(err, offstage.ErrNotInstalled):
		return MigrationNeeded, "type: " + a.command("migrate")
	case errors.Is(err, schema.ErrNewer):
		return Failed, "install a newer Offstage: go install github.com/offstage-dev/offstage/cmd/offstage@latest"
	case errors.Is(err, offstage.ErrNotFound):
		return NotFound, "jobs that have not ended: " + a.command("jobs list")
	case errors.Is(err, offstage.ErrNoSchedule):
		return NotFound, "schedules: " + a.command("schedules list")
	case errors.As(err, &connect), errors.As(err, &network):
		return Unreachable, a.unreachable(err)
	case errors.As(err, &pg):
		switch {
		case strings.HasPrefix(pg.Code, "08"), pg.Code == "57P01", pg.Code == "57P02", pg.Code == "57P03":
			return Unreachable, a.unreachable(err)
		case pg.Code == "55006":
			return Refused, ""
		case pg.Code == "42501":
			return Failed, "the role lacks rights; see what: " + a.command("doctor")
		case pg.Code == "25006":
			return Failed, "this is a read-only server; connect to the primary"
		case pg.Code == "42P05", pg.Code == "26000": // of another program that got the same session
			return Failed, "a pooler lends a session for each transaction; give this program the address and port of PostgreSQL itself, or have the pooler lend whole sessions: " + a.command("doctor")
		}
	}
	return Failed, ""
}

// unreachable says what to look at when there is no connection.
func (a *app) unreachable(err error) string {
	text := err.Error()
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		switch {
		case strings.HasPrefix(pg.Code, "28"):
			return "the server answers but does not let this role in: check user and password"
		case pg.Code == "3D000":
			return "the server answers but has no such database: create it, or name another"
		case pg.Code == "53300":
			return "all connections of the server are taken: raise max_connections, or stop something"
		}
	}
	switch {
	case a.source() == fromNothing:
		return "no database was named: use --database-url or DATABASE_URL, or start a private one with: offstage dev"
	case a.source() == fromDev:
		return "offstage dev has not stopped as it should; start it again: offstage dev"
	case strings.Contains(text, "no such host"):
		return "the host name is not known here: check it"
	case strings.Contains(text, "refused"), strings.Contains(text, "no such file"):
		return "nothing listens there: is PostgreSQL running, and is this its host and port?"
	}
	return "check host, port and network; " + a.command("doctor") + " looks at it step by step"
}

// command is a call of this program for the same database, to be typed or pasted; without the password.
func (a *app) command(args string) string {
	c := "offstage " + args
	if a.source() == fromFlag && !a.private { // others find the private one by themselves
		c += " --database-url " + a.place()
	}
	if a.schema != "" && a.schema != schema.Default {
		c += " --schema " + a.schema
	}
	return c
}
