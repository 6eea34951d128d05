package store

import (
	"context"
	"errors"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
)

// call is a statement of the hot path. Its parameters and results are binary, whatever the connection's query mode is.
type call struct {
	name   string
	sql    string
	params pgconn.StatementDescription // their types
}

func newCall(name, sql string, types ...uint32) call {
	return call{name, sql, pgconn.StatementDescription{ParamOIDs: types}}
}

var allBinary = []int16{pgtype.BinaryFormatCode}

// pipeline sends calls together and reads their answers as they come, the last of which may be there before the
// transaction is committed. Statements are prepared where the connection's query mode allows it: behind a pooler it may
// not, then they are sent whole each time.
type pipeline struct {
	conn     *pgx.Conn
	pg       *pgconn.Pipeline
	prepared map[string]*pgconn.StatementDescription // by name; nil: nothing is
	err      error                                   // the first one
}

func (s *Store) pipeline(ctx context.Context, conn *pgx.Conn) (*pipeline, error) {
	p := &pipeline{conn: conn}
	if conn.Config().DefaultQueryExecMode == pgx.QueryExecModeCacheStatement {
		p.prepared = make(map[string]*pgconn.StatementDescription, 3)
		for _, c := range []*call{&s.settle, &s.claim, &s.offer} {
			statement, err := conn.Prepare(ctx, c.name, c.sql) // asks the server the first time only
			if err != nil {
				return nil, err
			}
			p.prepared[c.name] = statement
		}
	}
	p.pg = conn.PgConn().StartPipeline(ctx)
	return p, nil
}

func (p *pipeline) send(c *call, args []any) {
	var b pgx.ExtendedQueryBuilder
	others := slices.Clone(args)
	for i := range others {
		if _, is := others[i].(encoded); is {
			others[i] = nil
		}
	}
	if err := b.Build(p.conn.TypeMap(), &c.params, others); err != nil {
		panic("store: arguments of " + c.name + ": " + err.Error()) // their types do not depend on what they hold
	}
	for i := range args {
		if raw, is := args[i].(encoded); is {
			b.ParamValues[i], b.ParamFormats[i] = raw, pgtype.BinaryFormatCode
		}
	}
	if statement := p.prepared[c.name]; statement != nil {
		p.pg.SendQueryStatement(statement, b.ParamValues, b.ParamFormats, allBinary) // does not ask what the columns are again
	} else {
		p.pg.SendQueryParams(c.sql, b.ParamValues, c.params.ParamOIDs, b.ParamFormats, allBinary)
	}
}

// flush sends what was gathered, and asks for answers before the end of the transaction.
func (p *pipeline) flush() error {
	p.pg.SendFlushRequest()
	if err := p.pg.Sync(); err != nil {
		return errors.Join(err, p.pg.Close())
	}
	return nil
}

// read reads the answer to the next call. The row is valid until the next one.
func (p *pipeline) read(add func(row [][]byte)) {
	if p.err != nil {
		return
	}
	answer, err := p.pg.GetResults()
	if err != nil {
		p.err = err
		return
	}
	rows, ok := answer.(*pgconn.ResultReader)
	if !ok {
		p.err = errors.New("the connection ended in the middle of an answer")
		return
	}
	for rows.NextRow() {
		add(rows.Values())
	}
	_, p.err = rows.Close()
}

// close waits for the commit.
func (p *pipeline) close() error {
	if p.err == nil {
		_, p.err = p.pg.GetResults()
	}
	if err := p.pg.Close(); p.err == nil {
		p.err = err
	}
	return p.err
}
