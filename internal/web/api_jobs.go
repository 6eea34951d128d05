package web

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/internal/view"
	"github.com/offstage-dev/offstage/internal/web/guard"
)

// OneJob is the path of a job. (What huma is to find in embedded structs must be exported.)
type OneJob struct {
	ID string `path:"id" pattern:"^[0-9]{1,100}$" patternDescription:"decimal digits" doc:"The job's id." example:"7"`
}

// id is the job's, or the answer that there is none: ids end at 2^63.
func (in OneJob) id() (view.ID, error) {
	n, err := strconv.ParseInt(in.ID, 10, 64)
	if err != nil {
		return 0, offstage.ErrNotFound
	}
	return view.ID(n), nil
}

// FilterQuery is view.JobFilter as query parameters.
type FilterQuery struct {
	State       string    `query:"state" enum:"scheduled,waiting,parked,paused,running,failed,succeeded,cancelled,removed,completed" doc:"Where the job is, or how it ended."`
	Task        string    `query:"task" maxLength:"1000"`
	Queue       string    `query:"queue" maxLength:"1000"`
	Key         string    `query:"key" maxLength:"1000" doc:"The job_key."`
	Flag        string    `query:"flag" maxLength:"1000"`
	Worker      string    `query:"worker" maxLength:"1000" example:"worker-7"`
	Error       string    `query:"error" maxLength:"1000" doc:"A part of the last error, in any case."`
	Fingerprint string    `query:"fingerprint" maxLength:"1000" doc:"Of the last error: see /errors."`
	AddedAfter  time.Time `query:"added_after"`
	AddedBefore time.Time `query:"added_before"`
	PayloadPath string    `query:"payload_path" maxLength:"1000" doc:"Where in the payload to look." example:"user.id"`
	PayloadIs   string    `query:"payload_value" maxLength:"1000" doc:"What has to be there, compared as text."`
}

func (a *api) filter(in FilterQuery) (view.JobFilter, error) {
	f := view.JobFilter{
		State: in.State, Task: in.Task, Queue: in.Queue, Key: in.Key, Flag: in.Flag, Worker: in.Worker, Error: in.Error, Fingerprint: in.Fingerprint,
		AddedAfter: given(in.AddedAfter), AddedBefore: given(in.AddedBefore), PayloadPath: in.PayloadPath, PayloadIs: in.PayloadIs,
	}
	if f.PayloadIs != "" && f.PayloadPath == "" {
		return f, refused("query.payload_value", "needs payload_path, which says where to look")
	}
	return f, a.searchable("query.payload_path", f)
}

// searchable refuses to search for what is hidden: it could be guessed letter by letter.
func (a *api) searchable(where string, f view.JobFilter) error {
	if f.PayloadPath != "" && a.guard.Hides(f.PayloadPath) {
		return refused(where, "is hidden here, and cannot be searched for")
	}
	return nil
}

// given is t, or nil for the zero time.
func given(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// PageQuery is where a list goes on.
type PageQuery struct {
	Cursor string `query:"cursor" maxLength:"2000" doc:"older or newer of another page; opaque. The filter must be the same."`
	Limit  int    `query:"limit" minimum:"1" maximum:"500" default:"50"`
}

// OnceKey makes a request one that can be sent again. (What huma is to find in embedded structs must be exported.)
type OnceKey struct {
	IdempotencyKey string `header:"Idempotency-Key" maxLength:"255" doc:"Something that nothing else is asked for with, such as a UUID. For 24 hours the same request with the same key does nothing more, and has the answer of the first one."`
}

// of is the key of what is asked for: the same one for something else is another.
func (k OnceKey) of(what string) string {
	if k.IdempotencyKey == "" {
		return ""
	}
	sum := sha256.Sum256([]byte(what + "\n" + k.IdempotencyKey))
	return "api-" + hex.EncodeToString(sum[:16])
}

// addBody is a job to be added.
type addBody struct {
	Task        string          `json:"task" minLength:"1" maxLength:"128"`
	Payload     json.RawMessage `json:"payload,omitempty" doc:"Any JSON; {} if it is left out."`
	Queue       *string         `json:"queue,omitempty" minLength:"1" maxLength:"128" doc:"Its jobs run one at a time, unless configured otherwise."`
	Key         *string         `json:"key,omitempty" minLength:"1" maxLength:"512" doc:"At most one waiting job has it: a second one replaces the first."`
	RunAt       *time.Time      `json:"run_at,omitempty" doc:"Now, if it is left out."`
	Priority    *int            `json:"priority,omitempty" minimum:"-32768" maximum:"32767" doc:"Lower is more urgent."`
	MaxAttempts *int            `json:"max_attempts,omitempty" minimum:"1" maximum:"32767"`
	Flags       []string        `json:"flags,omitempty" maxItems:"100"`
}

// editBody is a job as somebody wants it.
type editBody struct {
	Payload     json.RawMessage `json:"payload,omitempty" doc:"Instead of what it has."`
	RunAt       *time.Time      `json:"run_at,omitempty"`
	Priority    *int            `json:"priority,omitempty" minimum:"-32768" maximum:"32767"`
	MaxAttempts *int            `json:"max_attempts,omitempty" minimum:"1" maximum:"32767"`
	Revision    *int            `json:"revision,omitempty" doc:"The edit is refused if the job has changed since."`
}

type cancelBody struct {
	Reason string `json:"reason,omitempty" maxLength:"2000"`
}

type rescheduleBody struct {
	RunAt *time.Time `json:"run_at,omitempty" doc:"Now, if it is left out."`
}

func (b editBody) edit() view.Edit {
	return view.Edit{Payload: b.Payload, RunAt: b.RunAt, Priority: b.Priority, MaxAttempts: b.MaxAttempts, Revision: b.Revision}
}

// acted is what became of a job.
type acted struct {
	ID     view.ID `json:"id"`
	Answer string  `json:"answer" enum:"retried,cancelled,requested,rescheduled,edited,deleted" doc:"requested: it is running, and was asked to stop."`
}

// added is a job that is new.
type added struct {
	Location string `header:"Location" doc:"Where the job is."`
	Body     addedBody
}

type addedBody struct {
	ID view.ID `json:"id"`
}

func (a *api) added(id view.ID) *added {
	return &added{a.base + "/api/v1/jobs/" + id.String(), addedBody{id}}
}

func (a *api) jobOperations() {
	register(a, op{id: "list-jobs", tag: "jobs", method: http.MethodGet, path: "/jobs", role: guard.Viewer, summary: "List jobs",
		about: "Newest first. Without a filter, jobs that have not ended. A page may hold fewer jobs than the limit though there is a next one: looked says how far a filter has looked."},
		func(ctx context.Context, in *struct {
			FilterQuery
			PageQuery
		}) (*body[view.JobPage], error) {
			f, err := a.filter(in.FilterQuery)
			if err != nil {
				return nil, err
			}
			page, err := a.db.Jobs(ctx, f, in.Cursor, in.Limit)
			page.Jobs = filled(page.Jobs)
			return answerOf(page, err)
		})
	register(a, op{id: "count-jobs", tag: "jobs", method: http.MethodGet, path: "/jobs/counts", role: guard.Viewer, summary: "Count jobs by state",
		about: "Each is counted up to a limit: more says that there are more."},
		func(ctx context.Context, in *FilterQuery) (*body[map[string]view.Count], error) {
			f, err := a.filter(*in)
			if err != nil {
				return nil, err
			}
			return answerOf(a.db.JobCounts(ctx, f))
		})
	register(a, op{id: "get-job", tag: "jobs", method: http.MethodGet, path: "/jobs/{id}", role: guard.Viewer, summary: "Get a job",
		about: "All that is known of it: why it is not running, its attempts, its log, payload and result."},
		func(ctx context.Context, in *OneJob) (*body[view.Job], error) {
			id, err := in.id()
			if err != nil {
				return nil, err
			}
			j, err := a.db.Job(ctx, id)
			j.Payload, j.Result, j.Log = a.redacted(j.Payload), a.redacted(j.Result), a.redactedLog(j.Log)
			j.Flags, j.Attempts, j.Related = filled(j.Flags), filled(j.Attempts), filled(j.Related)
			return answerOf(j, err)
		})
	register(a, op{id: "get-job-log", tag: "jobs", method: http.MethodGet, path: "/jobs/{id}/log", role: guard.Viewer, summary: "Read the log of a job",
		about: "A thousand lines at most, oldest first. after is the cursor with which to go on, now or when there may be more."},
		func(ctx context.Context, in *struct {
			OneJob
			After string `query:"after" maxLength:"100" doc:"The cursor of the answer before."`
		}) (*body[logPage], error) {
			id, err := in.id()
			if err != nil {
				return nil, err
			}
			claim, n, err := parsePlace(in.After)
			if err != nil {
				return nil, refused("query.after", "is not a cursor of this log: leave it out, or give the after of the answer before")
			}
			lines, err := a.db.JobLog(ctx, id, claim, n)
			if err == nil && len(lines) == 0 {
				_, err = a.status(ctx, id)
			}
			page := logPage{Lines: a.redactedLog(lines), After: in.After}
			if len(lines) > 0 {
				page.After = place(lines[len(lines)-1])
			}
			return answerOf(page, err)
		})
	register(a, op{id: "add-job", tag: "jobs", method: http.MethodPost, path: "/jobs", role: guard.Operator, status: http.StatusCreated, body: a.maxBody(), summary: "Add a job",
		about: "With an Idempotency-Key, a request that is sent again adds nothing and answers the job of the first one."},
		func(ctx context.Context, in *struct {
			OnceKey
			Body addBody
		}) (*added, error) {
			b := in.Body
			if err := textual(b.Payload); err != nil {
				return nil, err
			}
			id, err := a.db.AddJob(ctx, by(ctx), view.Add{
				Task: b.Task, Payload: b.Payload, Queue: b.Queue, Key: b.Key, RunAt: b.RunAt, Priority: b.Priority, MaxAttempts: b.MaxAttempts, Flags: b.Flags,
				IdempotencyKey: in.IdempotencyKey,
			})
			if err != nil {
				return nil, err
			}
			return a.added(id), nil
		})
	a.oneJobOperations()
}

// oneJobOperations change one job.
func (a *api) oneJobOperations() {
	register(a, op{id: "retry-job", tag: "jobs", method: http.MethodPost, path: "/jobs/{id}/retry", role: guard.Operator, summary: "Retry a job",
		about: "A failed job is tried again from its first attempt; one that waits or is scheduled runs now."},
		func(ctx context.Context, in *OneJob) (*body[acted], error) {
			return a.change(ctx, in, "retried", func(c *offstage.Client, id int64) (bool, error) {
				done, err := c.Retry(ctx, id)
				return len(done) > 0, err
			})
		})
	register(a, op{id: "cancel-job", tag: "jobs", method: http.MethodPost, path: "/jobs/{id}/cancel", role: guard.Operator, summary: "Cancel a job",
		about: "One that runs is asked to stop, and has ended when its handler has."},
		func(ctx context.Context, in *struct {
			OneJob
			Body *cancelBody
		}) (*body[acted], error) {
			reason := ""
			if in.Body != nil {
				reason = in.Body.Reason
			}
			requested := false
			out, err := a.change(ctx, &in.OneJob, "cancelled", func(c *offstage.Client, id int64) (bool, error) {
				cancelled, asked, err := c.Cancel(ctx, reason, id)
				requested = len(asked) > 0
				return len(cancelled)+len(asked) > 0, err
			})
			if err == nil && requested {
				out.Body.Answer = "requested"
			}
			return out, err
		})
	register(a, op{id: "delete-job", tag: "jobs", method: http.MethodDelete, path: "/jobs/{id}", role: guard.Operator, summary: "Delete a job",
		about: "It ends as removed. One that runs cannot be deleted: cancel it."},
		func(ctx context.Context, in *OneJob) (*body[acted], error) {
			return a.change(ctx, in, "deleted", func(c *offstage.Client, id int64) (bool, error) {
				done, err := c.Delete(ctx, id)
				return len(done) > 0, err
			})
		})
	register(a, op{id: "reschedule-job", tag: "jobs", method: http.MethodPost, path: "/jobs/{id}/reschedule", role: guard.Operator, summary: "Run a job at another time"},
		func(ctx context.Context, in *struct {
			OneJob
			Body rescheduleBody
		}) (*body[acted], error) {
			at := time.Now()
			if in.Body.RunAt != nil {
				at = *in.Body.RunAt
			}
			return a.edit(ctx, &in.OneJob, view.Edit{RunAt: &at}, "rescheduled")
		})
	register(a, op{id: "edit-job", tag: "jobs", method: http.MethodPost, path: "/jobs/{id}/edit", role: guard.Operator, body: a.maxBody(), summary: "Edit a job, and retry it",
		about: "What is left out stays. A failed job is tried again as it is now."},
		func(ctx context.Context, in *struct {
			OneJob
			Body editBody
		}) (*body[acted], error) {
			return a.edit(ctx, &in.OneJob, in.Body.edit(), "edited")
		})
	register(a, op{id: "duplicate-job", tag: "jobs", method: http.MethodPost, path: "/jobs/{id}/duplicate", role: guard.Operator, status: http.StatusCreated, body: a.maxBody(),
		summary: "Add a job like this one", about: "It may have ended. What the body names is different in the new one; it has no job_key. With an Idempotency-Key it is added once."},
		func(ctx context.Context, in *struct {
			OneJob
			OnceKey
			Body *editBody
		}) (*added, error) {
			id, err := in.id()
			if err != nil {
				return nil, err
			}
			var e view.Edit
			if in.Body != nil {
				e = in.Body.edit()
			}
			if err := a.complete(ctx, id, &e); err != nil {
				return nil, err
			}
			id, err = a.db.Duplicate(ctx, by(ctx), id, e, in.of("duplicate "+id.String()))
			if err != nil {
				return nil, err
			}
			return a.added(id), nil
		})
}

// change does something to one job, and says why it could not be done.
func (a *api) change(ctx context.Context, in *OneJob, word string, do func(c *offstage.Client, id int64) (bool, error)) (*body[acted], error) {
	id, err := in.id()
	if err != nil {
		return nil, err
	}
	done := false
	err = a.db.As(ctx, by(ctx), func(tx pgx.Tx) (err error) {
		done, err = do(a.client.With(tx), int64(id))
		return err
	})
	if err != nil {
		return nil, err
	}
	if !done {
		return nil, a.whyNot(ctx, id, word)
	}
	return answerOf(acted{id, word}, nil)
}

func (a *api) edit(ctx context.Context, in *OneJob, e view.Edit, word string) (*body[acted], error) {
	id, err := in.id()
	if err != nil {
		return nil, err
	}
	if err := a.complete(ctx, id, &e); err != nil {
		return nil, err
	}
	if err := a.db.EditAndRetry(ctx, by(ctx), id, e); err != nil {
		return nil, err
	}
	return answerOf(acted{id, word}, nil)
}

// complete puts what was hidden from the client back into the payload that it sends; if the job changes meanwhile, the edit is refused.
func (a *api) complete(ctx context.Context, id view.ID, e *view.Edit) error {
	if err := textual(e.Payload); err != nil || !mayHide(e.Payload) {
		return err
	}
	j, err := a.db.Job(ctx, id)
	if err != nil {
		return err
	}
	if e.Revision == nil && !j.Ended {
		e.Revision = &j.Revision
	}
	e.Payload, err = a.restored(e.Payload, j.Payload)
	return err
}

// mayHide says whether there may be a hidden value in what a client sends back. Many escape what is not ASCII.
func mayHide(payload json.RawMessage) bool {
	return bytes.Contains(payload, []byte(guard.Hidden)) || bytes.Contains(payload, []byte(`\u2022`))
}

func (a *api) restored(edited, original json.RawMessage) (json.RawMessage, error) {
	whole, err := a.guard.Restore(edited, original)
	if err != nil {
		return nil, refused("body.payload", "has %s where nothing was hidden: %s", guard.Hidden, err)
	}
	return whole, nil
}

// whyNot is the problem with a job that was left as it is.
func (a *api) whyNot(ctx context.Context, id view.ID, word string) error {
	s, err := a.status(ctx, id)
	switch {
	case err != nil:
		return err
	case s.State == string(offstage.Running):
		return conflicting(isRunning, "Job %d is running, and cannot be %s. Wait for it (GET /api/v1/jobs/%d/wait), or cancel it first.", id, word, id)
	case s.State == string(offstage.Failed):
		return conflicting(isConflict, "Job %d has failed, and cannot be %s. Retry it, or delete it.", id, word)
	case s.Ended:
		return conflicting(isConflict, "Job %d has %s, and cannot be %s. POST /api/v1/jobs/%d/duplicate adds another one like it.", id, s.State, word, id)
	}
	return conflicting(isChanged, "Job %d has just changed, and was not %s. Try again.", id, word)
}

// jobStatus is where a job is, in short.
type jobStatus struct {
	ID       view.ID         `json:"id"`
	State    string          `json:"state" doc:"Or, when it has ended, its outcome."`
	Ended    bool            `json:"ended" doc:"failed is an end, until somebody retries the job."`
	Attempt  int             `json:"attempt"`
	Progress *float32        `json:"progress" doc:"Percent, while it runs."`
	Message  *string         `json:"message" doc:"Of its progress."`
	Result   json.RawMessage `json:"result"`
	Error    *string         `json:"error" doc:"The last one, or the reason of a cancel."`
	RunAt    time.Time       `json:"run_at"`
	EndedAt  *time.Time      `json:"ended_at"`
}

func (a *api) status(ctx context.Context, id view.ID) (jobStatus, error) {
	s, err := a.client.Status(ctx, int64(id))
	if err != nil {
		return jobStatus{}, err
	}
	return a.statusOf(id, s), nil
}

func (a *api) statusOf(id view.ID, s offstage.Status) jobStatus {
	out := jobStatus{
		ID: id, State: string(s.State), Ended: s.Outcome != "", Attempt: s.Attempt, Progress: s.Progress, Message: textOrNil(s.Message), Result: a.redacted(s.Result),
		Error: textOrNil(s.Error), RunAt: s.RunAt, EndedAt: given(s.SettledAt),
	}
	if out.Ended {
		out.State = string(s.Outcome)
	}
	return out
}

func textOrNil(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// logPage is a piece of a log.
type logPage struct {
	Lines []view.LogLine `json:"lines"`
	After string         `json:"after" doc:"The cursor with which to go on."`
}

func (a *api) redactedLog(lines []view.LogLine) []view.LogLine {
	for i := range lines {
		lines[i].Attrs = a.redacted(lines[i].Attrs)
	}
	return filled(lines)
}

// place is a cursor into a log: the attempt's claim, and the line in it.
func place(l view.LogLine) string { return l.Claim.String() + "-" + strconv.Itoa(l.N) }

func parsePlace(cursor string) (claim view.ID, n int, err error) {
	if cursor == "" {
		return 0, 0, nil
	}
	left, right, ok := strings.Cut(cursor, "-")
	c, err := strconv.ParseInt(left, 10, 64)
	line, err2 := strconv.ParseInt(right, 10, 32)
	if !ok || errors.Join(err, err2) != nil || c < 0 || line < 0 {
		return 0, 0, errors.New("not a cursor")
	}
	return view.ID(c), int(line), nil
}

// textual refuses a payload with the character U+0000 in a string: it can be stored, but whoever reads that string in SQL gets an
// error of PostgreSQL.
func textual(payload json.RawMessage) error {
	for rest := []byte(payload); ; {
		i := bytes.Index(rest, []byte(`\u0000`))
		if i < 0 {
			return nil
		}
		slashes := 0
		for i-slashes > 0 && rest[i-slashes-1] == '\\' {
			slashes++
		}
		if slashes%2 == 0 {
			return refused("body.payload", "holds the character U+0000 (NUL), which PostgreSQL cannot read as text: leave it out")
		}
		rest = rest[i+6:]
	}
}

// maxBody is how large a request with a payload may be.
func (a *api) maxBody() int64 {
	if a.cfg.MaxBody > 0 {
		return a.cfg.MaxBody
	}
	return defaultMaxBody
}
