package store

import (
	"context"
	"encoding/json"
	"errors"
	"strings"

	"github.com/jackc/pgx/v5"
)

// AddRow adds a job and answers its row, as [id, row]: what a helper of a task in another language gets. The spec is an
// object with identifier, payload (JSON as a string), queueName, runAt, maxAttempts, jobKey, jobKeyMode, priority, flags,
// notifyChannel and options (JSON as a string); what it lacks is null.
func (s *Store) AddRow(ctx context.Context, db Row, spec json.RawMessage) (row json.RawMessage, err error) {
	err = db.QueryRow(ctx, s.fn(`
		select json_build_array(j.id::text, j)
		from json_to_record($1) x (identifier text, payload text, "queueName" text, "runAt" timestamptz, "maxAttempts" integer, "jobKey" text,
			"jobKeyMode" text, priority integer, flags text[], "notifyChannel" text, options text)
		cross join lateral offstage.add_job(x.identifier, x.payload::json, x."queueName", x."runAt", x."maxAttempts", x."jobKey",
			x.priority, x.flags, x."jobKeyMode", x."notifyChannel", x.options::json) j`), string(spec)).Scan(&row)
	return row, Fault(err)
}

// AddRows is AddRow for many, all or none; specs is an array of such objects, of which jobKeyMode and notifyChannel are
// not used. The rows come in their order.
func (s *Store) AddRows(ctx context.Context, db Row, specs json.RawMessage, preserveRunAt bool) (rows json.RawMessage, err error) {
	err = db.QueryRow(ctx, strings.ReplaceAll(`
		with x as materialized (
			select row_number() over () as n, x.*
			from json_to_recordset($1) x (identifier text, payload text, "queueName" text, "runAt" timestamptz, "maxAttempts" smallint,
				"jobKey" text, priority smallint, flags text[], options text)
		)
		select coalesce(json_agg(json_build_array(j.id::text, j)), '[]')
		from offstage.add_jobs(
			array(select row(x.identifier, x.payload::json, x."queueName", x."runAt", x."maxAttempts", x."jobKey", x.priority, x.flags)::offstage.job_spec
				from x order by x.n),
			$2, array(select x.options::json from x order by x.n)) j`, "offstage.", s.schema+"."), string(specs), preserveRunAt).Scan(&rows)
	return rows, Fault(err)
}

// QueueName is the name of a queue, as JSON; null if there is none of that id.
func (s *Store) QueueName(ctx context.Context, db Row, id int32) (name json.RawMessage, err error) {
	err = db.QueryRow(ctx, `select to_json(q.name) from `+s.schema+`_private.queue q where q.id = $1`, id).Scan(&name)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	return name, Fault(err)
}
