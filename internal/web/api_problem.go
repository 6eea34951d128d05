package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"reflect"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/internal/view"
)

// problem is an error of the API, as RFC 9457 has it. Programs compare type, which stays as it is; people read detail, which says
// what to do.
type problem struct {
	Type   string  `json:"type" doc:"What went wrong; compare this." example:"urn:offstage:not-found"`
	Title  string  `json:"title" doc:"The status in words."`
	Status int     `json:"status" doc:"The status of the answer."`
	Detail string  `json:"detail" doc:"What went wrong this time, and what to do."`
	Errors []fault `json:"errors,omitempty" doc:"Which of the values sent are not acceptable."`

	retryAfter string
}

// fault is a value that is not acceptable.
type fault struct {
	Where   string `json:"where" doc:"The value." example:"query.limit"`
	Message string `json:"message" doc:"What is wrong with it."`
}

// The types of problems.
const (
	isMalformed        = "urn:offstage:malformed"
	isInvalid          = "urn:offstage:invalid"
	isUnauthenticated  = "urn:offstage:unauthenticated"
	isForbidden        = "urn:offstage:forbidden"
	isNotFound         = "urn:offstage:not-found"
	isMethodNotAllowed = "urn:offstage:method-not-allowed"
	isNotAcceptable    = "urn:offstage:not-acceptable"
	isConflict         = "urn:offstage:conflict"
	isRunning          = "urn:offstage:running"
	isChanged          = "urn:offstage:changed"
	isSlowBody         = "urn:offstage:slow-body"
	isTooLarge         = "urn:offstage:too-large"
	isMediaType        = "urn:offstage:media-type"
	isTooMany          = "urn:offstage:too-many"
	isFailure          = "urn:offstage:internal"
	isUnreachable      = "urn:offstage:database-unreachable"
	isNotInstalled     = "urn:offstage:not-installed"
	isBusy             = "urn:offstage:busy"
)

func (p *problem) Error() string  { return p.Detail }
func (p *problem) GetStatus() int { return p.Status }

// ContentType is asked by huma.
func (p *problem) ContentType(string) string { return "application/problem+json" }

// GetHeaders is asked by huma.
func (p *problem) GetHeaders() http.Header {
	if p.retryAfter == "" {
		return nil
	}
	return http.Header{"Retry-After": {p.retryAfter}}
}

func (p *problem) titled() *problem {
	p.Title = http.StatusText(p.Status)
	return p
}

func typeOf[T any]() reflect.Type { return reflect.TypeFor[T]() }

func notThere(what string, args ...any) error {
	return (&problem{Type: isNotFound, Status: http.StatusNotFound, Detail: fmt.Sprintf(what, args...)}).titled()
}

func conflicting(kind, detail string, args ...any) error {
	return (&problem{Type: kind, Status: http.StatusConflict, Detail: fmt.Sprintf(detail, args...)}).titled()
}

// unacceptable says what is wrong with each value.
func unacceptable(list []fault) *problem {
	var text strings.Builder
	for i, f := range sorted(list) {
		if i == 5 {
			fmt.Fprintf(&text, "; and %d more", len(list)-i)
			break
		}
		if i > 0 {
			text.WriteString("; ")
		}
		text.WriteString(f.Where + ": " + f.Message)
	}
	text.WriteString(". The parameters and fields of each operation are in /openapi.json.")
	return (&problem{Type: isInvalid, Status: http.StatusUnprocessableEntity, Detail: text.String(), Errors: list}).titled()
}

func refused(where, message string, args ...any) error {
	return unacceptable([]fault{{where, fmt.Sprintf(message, args...)}})
}

func writeProblem(w http.ResponseWriter, p *problem) {
	p.titled()
	for name, values := range p.GetHeaders() {
		w.Header()[name] = values
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p) // the client has gone
}

// explainInvalid makes ours of the errors that huma finds before an operation is called. What was sent is not repeated: it may
// be large, or secret.
func explainInvalid(ctx huma.Context, _ string, v any) (any, error) {
	e, ok := v.(*huma.ErrorModel)
	if !ok {
		return v, nil
	}
	var list []fault
	for _, one := range e.Errors {
		f := fault{or(one.Location, "body"), plainly(one.Message)}
		if strings.HasPrefix(f.Where, "query.") && strings.HasPrefix(f.Message, "unknown") {
			f.Message += ": " + known(ctx.Operation())
		}
		list = append(list, f)
	}
	p := &problem{Type: isInvalid, Status: e.Status, Detail: e.Detail, Errors: sorted(list)}
	if list != nil {
		p.Detail = unacceptable(list).Detail
	}
	switch e.Status {
	case http.StatusBadRequest:
		p.Type = isMalformed
		if list == nil {
			p.Detail = "The body is missing: send a JSON object, with Content-Type: application/json."
		}
	case http.StatusNotAcceptable:
		p.Type = isNotAcceptable
	case http.StatusRequestTimeout:
		p.Type, p.Detail = isSlowBody, "The body did not arrive in time."
	case http.StatusRequestEntityTooLarge:
		p.Type, p.Detail = isTooLarge, fmt.Sprintf("The body is larger than %d bytes. Keep large things elsewhere, and put into the payload where they are.", ctx.Operation().MaxBodyBytes-1)
	case http.StatusUnsupportedMediaType:
		p.Type, p.Detail, p.Errors = isMediaType, "Send JSON, with Content-Type: application/json (curl --json does).", nil
	case http.StatusInternalServerError: // reading the body failed
		p.Type, p.Detail, p.Errors = isMalformed, "The body could not be read to its end.", nil
	}
	return p.titled(), nil
}

// known are the query parameters of an operation, in words.
func known(o *huma.Operation) string {
	var names []string
	for _, p := range o.Parameters {
		if p.In == "query" {
			names = append(names, p.Name)
		}
	}
	if names == nil {
		return "there are none here"
	}
	return "known are " + strings.Join(names, ", ")
}

// plainly is a message of encoding/json or of validation without what only a Go programmer understands.
func plainly(message string) string {
	message = strings.TrimPrefix(message, "json: ")
	if _, after, ok := strings.Cut(message, "cannot unmarshal "); ok {
		what, _, _ := strings.Cut(after, " into Go")
		return what + " does not fit"
	}
	if strings.HasSuffix(message, "exceeded max depth") {
		return fmt.Sprintf("is nested deeper than %d levels", maxJSONDepth)
	}
	return strings.TrimPrefix(message, "invalid value: ")
}

// problem is what to answer for an error of an operation.
func (a *api) problem(ctx context.Context, operation string, err error) error {
	var p *problem
	if errors.As(err, &p) {
		return p
	}
	p = asProblem(err)
	if p == nil && errors.Is(err, context.Canceled) && ctx.Err() != nil { // the client has gone: nobody reads this
		p = &problem{Type: isFailure, Status: 499, Detail: "The client has gone."}
	}
	if p == nil {
		a.log.Error("API operation failed", "operation", operation, "error", err)
		p = &problem{Type: isFailure, Status: http.StatusInternalServerError, Detail: "This is a fault of Offstage, or of the database. The log of the server says more."}
	}
	return p.titled()
}

// asProblem is the problem of an error whose cause is known, or nil.
func asProblem(err error) *problem {
	var pg *pgconn.PgError
	inDatabase := errors.As(err, &pg)
	switch {
	case errors.Is(err, view.ErrRunning):
		return &problem{Type: isRunning, Status: http.StatusConflict, Detail: words(err, pg) + " Wait for it (GET /api/v1/jobs/{id}/wait), or cancel it first."}
	case errors.Is(err, view.ErrConflict):
		return &problem{Type: isChanged, Status: http.StatusConflict, Detail: words(err, pg)}
	case errors.Is(err, offstage.ErrNotFound) && inDatabase:
		return &problem{Type: isNotFound, Status: http.StatusNotFound, Detail: words(err, pg)}
	case errors.Is(err, view.ErrCrowded):
		return &problem{Type: isTooMany, Status: http.StatusTooManyRequests, retryAfter: "2",
			Detail: "Your other requests still keep the database busy: each client has two reads at a time. Come back in two seconds; a narrower filter is faster."}
	case errors.Is(err, view.ErrInvalid) && !inDatabase:
		return &problem{Type: isInvalid, Status: http.StatusUnprocessableEntity, Detail: words(err, nil)}
	case errors.Is(err, offstage.ErrNotFound):
		return &problem{Type: isNotFound, Status: http.StatusNotFound, Detail: "No job of this id is known: it was deleted, its history is not kept any more, or there never was one."}
	case errors.Is(err, offstage.ErrNoSchedule):
		return &problem{Type: isNotFound, Status: http.StatusNotFound, Detail: "There is no schedule of this name. GET /api/v1/schedules lists them."}
	case errors.Is(err, view.ErrUnknown):
		return &problem{Type: isNotFound, Status: http.StatusNotFound, Detail: sentence(strings.Replace(err.Error(), ": not known", " is not known", 1)) + " The lists under /api/v1 have the names that there are."}
	case errors.Is(err, offstage.ErrNotInstalled):
		return &problem{Type: isNotInstalled, Status: http.StatusServiceUnavailable, retryAfter: "30",
			Detail: "The database holds no Offstage of this version in that schema: run offstage migrate."}
	}
	if inDatabase {
		return ofDatabase(pg)
	}
	var network net.Error
	var connect *pgconn.ConnectError
	if errors.As(err, &connect) || errors.As(err, &network) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		pgconn.SafeToRetry(err) || errors.Is(err, context.DeadlineExceeded) {
		return &problem{Type: isUnreachable, Status: http.StatusServiceUnavailable, retryAfter: "5", Detail: "The database cannot be reached, or does not answer. Try again in a few seconds."}
	}
	return nil
}

// words are what an error says: in the database, with its hint, or behind view.ErrInvalid.
func words(err error, pg *pgconn.PgError) string {
	if pg == nil {
		text := err.Error()
		if _, after, ok := strings.Cut(text, view.ErrInvalid.Error()+": "); ok {
			text = after
		}
		return sentence(text)
	}
	text := sentence(pg.Message)
	if pg.Hint != "" {
		text += " " + sentence(pg.Hint)
	}
	return text
}

// ofDatabase is the problem that an SQLSTATE stands for, or nil if it should not come.
func ofDatabase(pg *pgconn.PgError) *problem {
	text := words(nil, pg)
	switch pg.Code {
	case "OS002":
		return &problem{Type: isNotFound, Status: http.StatusNotFound, Detail: text}
	case "OS003", "55006":
		return &problem{Type: isConflict, Status: http.StatusConflict, Detail: text}
	case "21000", "GWBKM":
		return &problem{Type: isInvalid, Status: http.StatusUnprocessableEntity, Detail: text}
	case "22021", "22P05":
		return &problem{Type: isInvalid, Status: http.StatusUnprocessableEntity, Detail: "PostgreSQL cannot hold the character U+0000 (NUL): leave it out. " + text}
	case "54001":
		return &problem{Type: isInvalid, Status: http.StatusUnprocessableEntity, Detail: "The JSON is nested deeper than PostgreSQL can read. Make it flatter."}
	case "57014", "55P03", "40001", "40P01":
		return &problem{Type: isBusy, Status: http.StatusServiceUnavailable, retryAfter: "2",
			Detail: "The database took too long, or was busy with the same rows. Try again; a narrower filter is faster."}
	case "25006":
		return &problem{Type: isBusy, Status: http.StatusServiceUnavailable, retryAfter: "30", Detail: "The database takes no writes: it is a standby, or has been made read-only."}
	case "42883", "3F000", "42P01":
		return asProblem(offstage.ErrNotInstalled)
	}
	switch pg.Code[:min(2, len(pg.Code))] {
	case "22", "23", "54":
		return &problem{Type: isInvalid, Status: http.StatusUnprocessableEntity, Detail: text}
	case "08", "53", "57", "58":
		return &problem{Type: isUnreachable, Status: http.StatusServiceUnavailable, retryAfter: "5", Detail: "The database is stopping, starting or overloaded. Try again in a few seconds."}
	}
	return nil
}
