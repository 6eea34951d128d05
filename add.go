package offstage

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// KeyMode says what adding does when a job has the key already.
type KeyMode string

// The modes; Replace is the default.
const (
	Replace       KeyMode = "replace"         // change the job, its time too
	PreserveRunAt KeyMode = "preserve_run_at" // change the job, but not its time
	UnsafeDedupe  KeyMode = "unsafe_dedupe"   // leave the job as it is, even if it has failed or is running
)

// Options of a job. The zero value is a job that runs now, in no queue.
type Options struct {
	Queue       string    // runs one job at a time unless configured otherwise; "": none
	RunAt       time.Time // zero: now
	MaxAttempts int       // 0: the task's, 25 unless configured
	Key         string    // job_key: at most one waiting job has it
	KeyMode     KeyMode
	Priority    int // lower is more urgent
	Flags       []string

	// NotifyChannel gets an event (pg_notify) when the job has ended; NotifyNode is put into it as "__node__".
	NotifyChannel string
	NotifyNode    []any

	Timeout     time.Duration // of each attempt; 0: the task's
	ExpiresAt   time.Time     // not started after it; zero: never
	Keep        string        // "all", "failures" or "none"; "": the task's
	Traceparent string        // the trace it belongs to, as W3C writes it; "": what Config.Traceparent says
}

// Spec is a job to be added in bulk.
type Spec struct {
	Task    string
	Payload any
	Options
}

// Add adds a job for a task and answers its id. The payload is anything that encodes to JSON; nil is {}.
// In a transaction (With, WithSQL) the job exists when, and if, the transaction commits.
func (c *Client) Add(ctx context.Context, task string, payload any, opts ...Options) (int64, error) {
	if len(opts) > 1 {
		return 0, fmt.Errorf("add %s: one Options at most", task)
	}
	var o Options
	if len(opts) == 1 {
		o = opts[0]
	}
	if o.Traceparent == "" && c.trace != nil {
		o.Traceparent = c.trace(ctx)
	}
	spec, err := encode(Spec{task, payload, o})
	if err != nil {
		return 0, err
	}
	var flags any
	if spec.flags != nil {
		flags = textArray(spec.flags)
	}
	var id int64
	err = c.each(ctx, "add "+task,
		`select id from offstage.add_job($1::text, $2::text::json, $3::text, $4::timestamptz, $5::int, $6::text, $7::int, $8::text::text[], $9::text, $10::text, $11::text::json)`,
		[]any{spec.task, spec.payload, spec.queue, spec.runAt, spec.maxAttempts, spec.key, o.Priority, flags, string(o.mode()), spec.channel, spec.options},
		func(r rows) error { return r.Scan(&id) })
	return id, err
}

func (o Options) mode() KeyMode {
	if o.KeyMode == "" {
		return Replace
	}
	return o.KeyMode
}

// AddMany adds many jobs, all or none, in one statement, and answers their ids in the order of the specs. NotifyChannel
// and KeyMode UnsafeDedupe are not for bulk adding; all specs with keys must have the same KeyMode. It is fastest where
// specs differ in their payloads only.
func (c *Client) AddMany(ctx context.Context, specs []Spec) ([]int64, error) {
	specs = c.traced(ctx, specs)
	switch {
	case len(specs) == 0:
		return nil, nil
	case alike(specs):
		return c.addAlike(ctx, specs)
	}
	keyed, preserve, anyOptions := false, false, false
	list := make([]map[string]any, len(specs))
	for i, s := range specs {
		e, err := encode(s)
		switch {
		case err != nil:
			return nil, fmt.Errorf("spec %d: %w", i, err)
		case s.NotifyChannel != "":
			return nil, fmt.Errorf("add many: spec %d has a NotifyChannel: add it alone", i)
		case s.KeyMode == UnsafeDedupe:
			return nil, fmt.Errorf("add many: spec %d has KeyMode unsafe_dedupe: add it alone", i)
		case s.mode() != Replace && s.mode() != PreserveRunAt:
			return nil, fmt.Errorf("add many: spec %d has the unknown KeyMode %q", i, s.KeyMode)
		case s.Key != "" && keyed && preserve != (s.KeyMode == PreserveRunAt):
			return nil, fmt.Errorf("add many: spec %d has another KeyMode than those before", i)
		}
		if s.Key != "" {
			keyed, preserve = true, s.KeyMode == PreserveRunAt
		}
		m := map[string]any{"t": e.task}
		put := func(k string, v any) {
			if v != nil {
				m[k] = v
			}
		}
		put("p", e.payload) // as text: SQL would unescape what is inside, and take JSON's null for none
		put("q", e.queue)
		put("r", e.runAt)
		put("m", e.maxAttempts)
		put("k", e.key)
		if s.Priority != 0 {
			m["i"] = s.Priority
		}
		if e.flags != nil {
			m["f"] = e.flags
		}
		if e.options != nil {
			anyOptions = true
			m["o"] = e.options
		}
		list[i] = m
	}
	body, err := json.Marshal(list)
	if err != nil {
		return nil, fmt.Errorf("add many: %w", err)
	}
	ids := make([]int64, 0, len(specs))
	err = c.each(ctx, "add many", `
		select a.id from (
		  select array_agg((x.t, x.p::json, x.q, x.r, x.m, x.k, x.i, x.f)::offstage.job_spec order by x.n) as specs, array_agg(x.o::json order by x.n) as options
		  from (select row_number() over () as n, y.* from json_to_recordset($1::text::json)
		    y (t text, p text, q text, r timestamptz, m smallint, k text, i smallint, f text[], o text)) x
		) s, lateral offstage.add_jobs(s.specs, $2::boolean, case when $3::boolean then s.options end) a`,
		[]any{string(body), preserve, anyOptions},
		func(r rows) error {
			var id int64
			err := r.Scan(&id)
			ids = append(ids, id)
			return err
		})
	if err != nil {
		return nil, err
	}
	return ids, nil
}

// traced are the specs, in the trace of ctx where they do not name one.
func (c *Client) traced(ctx context.Context, specs []Spec) []Spec {
	if c.trace == nil {
		return specs
	}
	parent := c.trace(ctx)
	if parent == "" {
		return specs
	}
	specs = slices.Clone(specs)
	for i := range specs {
		if specs[i].Traceparent == "" {
			specs[i].Traceparent = parent
		}
	}
	return specs
}

// alike says that the specs differ in nothing but their payloads, and have no key.
func alike(specs []Spec) bool {
	first := &specs[0]
	for i := range specs {
		s := &specs[i]
		if s.Task != first.Task || s.Key != "" || s.KeyMode != "" || s.NotifyChannel != "" || s.NotifyNode != nil ||
			s.Queue != first.Queue || !s.RunAt.Equal(first.RunAt) || s.MaxAttempts != first.MaxAttempts || s.Priority != first.Priority ||
			!slices.Equal(s.Flags, first.Flags) || s.Timeout != first.Timeout || !s.ExpiresAt.Equal(first.ExpiresAt) ||
			s.Keep != first.Keep || s.Traceparent != first.Traceparent {
			return false
		}
		if raw, ok := s.Payload.(json.RawMessage); ok && len(bytes.TrimSpace(raw)) != len(raw) {
			return false // stays as it stands, which an element of an array does not
		}
	}
	return true
}

// addAlike adds specs that are alike: their payloads go over the wire as one JSON array.
func (c *Client) addAlike(ctx context.Context, specs []Spec) ([]int64, error) {
	first, err := encode(Spec{specs[0].Task, nil, specs[0].Options})
	if err != nil {
		return nil, fmt.Errorf("spec 0: %w", err)
	}
	payloads := []byte{'['}
	for i, s := range specs {
		p, err := encodePayload(s.Task, s.Payload)
		if err != nil {
			return nil, fmt.Errorf("spec %d: %w", i, err)
		}
		if i > 0 {
			payloads = append(payloads, ',')
		}
		if p == nil {
			p = []byte("{}")
		}
		payloads = append(payloads, p...)
	}
	var flags any
	if first.flags != nil {
		flags = textArray(first.flags)
	}
	var list string
	err = c.each(ctx, "add many",
		`select offstage.add_many($1::text, $2::text::json, $3::text, $4::timestamptz, $5::int, $6::int, $7::text::text[], $8::text::json)::text`,
		[]any{first.task, string(append(payloads, ']')), first.queue, first.runAt, first.maxAttempts, specs[0].Priority, flags, first.options},
		func(r rows) error { return r.Scan(&list) })
	if err != nil {
		return nil, err
	}
	ids := make([]int64, 0, len(specs))
	for id := range strings.SplitSeq(strings.Trim(list, "{}"), ",") {
		n, err := strconv.ParseInt(id, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("add many: %w", err)
		}
		ids = append(ids, n)
	}
	return ids, nil
}

// encoded is a spec as arguments of SQL; nil is null.
type encoded struct {
	task                                    string
	payload, queue, runAt, maxAttempts, key any
	channel, options                        any
	flags                                   []string
}

func encode(s Spec) (e encoded, err error) {
	e.task = s.Task
	payload, err := encodePayload(s.Task, s.Payload)
	if err != nil {
		return e, err
	}
	if payload != nil {
		e.payload = string(payload)
	}
	if s.Queue != "" {
		e.queue = s.Queue
	}
	if !s.RunAt.IsZero() {
		e.runAt = s.RunAt
	}
	if s.MaxAttempts != 0 {
		e.maxAttempts = s.MaxAttempts
	}
	if s.Key != "" {
		e.key = s.Key
	}
	if s.NotifyChannel != "" {
		e.channel = s.NotifyChannel
	}
	if s.KeyMode != "" && s.Key == "" {
		return e, fmt.Errorf("add %s: KeyMode without Key", s.Task)
	}
	e.flags = s.Flags
	opts := map[string]any{}
	if s.NotifyNode != nil {
		opts["notify_node"] = s.NotifyNode
	}
	if s.Timeout != 0 {
		opts["timeout"] = strconv.FormatFloat(s.Timeout.Seconds(), 'f', 6, 64) + " s" // PostgreSQL 14 takes 2³¹ of a unit at most
	}
	if !s.ExpiresAt.IsZero() {
		opts["expires_at"] = s.ExpiresAt
	}
	if s.Keep != "" {
		opts["keep"] = s.Keep
	}
	if s.Traceparent != "" {
		opts["traceparent"] = s.Traceparent
	}
	if len(opts) > 0 {
		b, err := json.Marshal(opts)
		if err != nil {
			return e, fmt.Errorf("add %s: options: %w", s.Task, err)
		}
		e.options = string(b)
	}
	return e, nil
}

// encodePayload is a payload as JSON; nil is none.
func encodePayload(task string, payload any) ([]byte, error) {
	switch p := payload.(type) {
	case nil:
		return nil, nil
	case json.RawMessage:
		if !json.Valid(p) || !utf8.Valid(p) {
			return nil, fmt.Errorf("add %s: the payload is not JSON", task)
		}
		return p, nil
	}
	b, err := json.Marshal(payload)
	if err != nil {
		return nil, fmt.Errorf("add %s: the payload does not encode to JSON: %w", task, err)
	}
	return b, nil
}

// textArray is a text[] literal, which every driver can pass as text.
func textArray(list []string) string {
	quoted := make([]string, len(list))
	for i, s := range list {
		quoted[i] = `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
	}
	return "{" + strings.Join(quoted, ",") + "}"
}

func idArray(ids []int64) string {
	return strings.ReplaceAll(strings.Trim(fmt.Sprint(ids), "[]"), " ", ",")
}
