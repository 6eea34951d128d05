package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/offstage-dev/offstage/worker"
)

// fault is an error as the package pg shows one.
type fault struct {
	Message    string `json:"message"`
	Code       string `json:"code,omitempty"`
	Detail     string `json:"detail,omitempty"`
	Hint       string `json:"hint,omitempty"`
	Constraint string `json:"constraint,omitempty"`
	Severity   string `json:"severity,omitempty"`
}

func faultOf(err error) *fault {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return &fault{pg.Message, pg.Code, pg.Detail, pg.Hint, pg.ConstraintName, pg.Severity}
	}
	return &fault{Message: err.Error()}
}

// perform does what a task's helpers ask of the worker: [call, method, arguments…].
func (p *process) perform(ctx context.Context, text []byte) {
	var call int64
	value, err := func() (json.RawMessage, error) {
		var args []json.RawMessage
		if err := json.Unmarshal(text, &args); err != nil || len(args) < 2 {
			return nil, fmt.Errorf("a call that is none: %.100s", text)
		}
		var method string
		if err := errors.Join(json.Unmarshal(args[0], &call), json.Unmarshal(args[1], &method)); err != nil {
			return nil, err
		}
		return p.r.call(ctx, method, args[2:])
	}()
	if err != nil {
		p.send(appendAnswer(nil, call, faultOf(err), nil))
		return
	}
	p.send(appendAnswer(nil, call, nil, value))
}

func (r *Runner) call(ctx context.Context, method string, args []json.RawMessage) (json.RawMessage, error) {
	arguments := func(into ...any) error {
		if len(args) != len(into) {
			return fmt.Errorf("%s takes %d arguments", method, len(into))
		}
		for i := range into {
			if err := json.Unmarshal(args[i], into[i]); err != nil {
				return fmt.Errorf("%s: %w", method, err)
			}
		}
		return nil
	}
	switch method {
	case "addJob":
		var spec json.RawMessage
		if err := arguments(&spec); err != nil {
			return nil, err
		}
		return r.store.AddRow(ctx, r.config.Pool, spec)
	case "addJobs":
		var specs json.RawMessage
		var preserve bool
		if err := arguments(&specs, &preserve); err != nil {
			return nil, err
		}
		return r.store.AddRows(ctx, r.config.Pool, specs, preserve)
	case "queueName":
		var id int32
		if err := arguments(&id); err != nil {
			return nil, err
		}
		return r.store.QueueName(ctx, r.config.Pool, id)
	case "progress":
		var percent float32
		var text string
		if err := arguments(&percent, &text); err != nil {
			return nil, err
		}
		return nil, worker.Progress(ctx, percent, text)
	}
	return nil, fmt.Errorf("there is no helper %q", method)
}
