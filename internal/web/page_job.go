package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/internal/view"
	"github.com/offstage-dev/offstage/internal/web/guard"
)

func (s *Server) jobRoutes(mux *http.ServeMux) {
	mux.HandleFunc("GET /jobs/{id}", s.jobPage)
	mux.HandleFunc("GET /jobs/{id}/{part}", s.jobPart)
	mux.HandleFunc("POST /jobs/{id}/{part}", s.jobAct)
	s.live.register("job", s.readJob)
}

func (s *Server) readJob(ctx context.Context, args url.Values) (any, error) {
	id, err := pathID(args.Get("id"), "job")
	if err != nil {
		return nil, err
	}
	return s.job(ctx, id)
}

// job is one job, as nobody may change it: tabs share it. The error of a job that is not there says what may have become of it.
func (s *Server) job(ctx context.Context, id view.ID) (view.Job, error) {
	j, err := s.db.Job(ctx, id)
	if errors.Is(err, offstage.ErrNotFound) {
		return j, refuse(http.StatusNotFound, "There is no job "+id.String(), "No job of this number has been added, or it has ended and its history is not kept.",
			"History is kept for some days, and of some tasks not at all: see their settings. The list of jobs has the others.")
	}
	return j, err
}

// jobData is the page of one job.
type jobData struct {
	view.Job
	Story    []event
	Errors   []failure
	Payload  *jsonBox
	Result   *jsonBox
	Lines    []logLine
	MoreLog  bool   // there may be more lines than are shown
	TraceID  string // "" if there is none
	TraceURL string
	List     copyText
	Can      jobCan
	Zone     string
	Question string // above why it is where it is
	Tone     string // wait, run, bad or end
	RunAt    string // for the form
	Copies   []bulkAct
}

// jobCan is what can be done to a job as it is now.
type jobCan struct{ Run, Retry, Edit, Reschedule, Cancel, Stop, Delete, Duplicate bool }

func canDo(j view.Job) jobCan {
	live := !j.Ended
	resting := live && j.State != "running"
	failed := live && j.State == "failed"
	return jobCan{
		Run: resting && !failed, Retry: failed, Edit: resting, Reschedule: resting, Cancel: resting && !failed, Stop: live && j.State == "running",
		Delete: resting, Duplicate: true,
	}
}

// failure is the error of an attempt.
type failure struct {
	Attempt  int
	At       time.Time
	Outcome  string
	Headline string
	Rest     string // what follows the headline; all of it, where the headline is cut
	Cut      bool
	Last     bool
}

// shownError is how much of an error's text is shown.
const shownError = 32 << 10

func (f *failure) fill(text string) {
	text = strings.TrimSpace(text)
	line := firstLine(text)
	f.Headline = cutText(line, 500)
	rest := strings.Trim(strings.TrimPrefix(text, line), "\r\n")
	if len(f.Headline) < len(line) {
		rest = text
	}
	f.Rest = cutText(rest, shownError)
	f.Cut = len(f.Rest) < len(rest)
}

func failures(j view.Job) (list []failure) {
	for _, a := range j.Attempts {
		if a.Error == nil || strings.TrimSpace(*a.Error) == "" || a.StartedAt == nil && a.Outcome == "retried" {
			continue
		}
		f := failure{Attempt: a.Attempt, At: a.EndedAt, Outcome: a.Outcome}
		f.fill(*a.Error)
		list = append([]failure{f}, list...) // the newest is what people look for
	}
	if len(list) == 0 && j.LastError != nil && strings.TrimSpace(*j.LastError) != "" { // its attempts are not kept
		f := failure{Attempt: j.Attempt, Outcome: "failed"}
		f.fill(*j.LastError)
		list = append(list, f)
	}
	if len(list) > 0 {
		list[0].Last = true
	}
	return list
}

// logLine is a line of a log with its level in words and its attributes in order.
type logLine struct {
	view.LogLine
	Class string // debug, info, warn or error
	Pairs [][2]string
}

func logLines(lines []view.LogLine, redact func(json.RawMessage) json.RawMessage) (out []logLine) {
	for _, l := range lines {
		line := logLine{LogLine: l, Class: "info"}
		for _, class := range []string{"debug", "info", "warn", "error"} { // "info+2" lies between
			if strings.HasPrefix(strings.ToLower(l.Level), class) {
				line.Class = class
			}
		}
		if len(l.Attrs) > 0 {
			n, err := parseJSON(redact(l.Attrs))
			switch {
			case err != nil:
			case n.kind == '{':
				for i, kid := range n.kids {
					value := string(kid.bytes())
					if kid.kind == 0 && value[0] == '"' {
						value = unquote(value)
					}
					line.Pairs = append(line.Pairs, [2]string{unquote(n.keys[i]), value})
				}
			case string(n.scalar) != "null":
				line.Pairs = append(line.Pairs, [2]string{"", string(n.bytes())})
			}
		}
		out = append(out, line)
	}
	return out
}

func (s *Server) jobPage(w http.ResponseWriter, r *http.Request) {
	args := url.Values{"id": {r.PathValue("id")}}
	j, err := read[view.Job](r.Context(), s, "job", args)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	data := jobData{
		Job: j, Story: story(j), Errors: failures(j), Can: canDo(j), Zone: zone(), MoreLog: len(j.Log) >= 1000,
		Payload: boxJSON(s.redacted(j.Payload), "/jobs/"+j.ID.String()+"/payload"),
		Result:  boxJSON(s.redacted(j.Result), "/jobs/"+j.ID.String()+"/result"),
		Lines:   logLines(j.Log, s.guard.Redact),
		RunAt:   time.Now().Add(time.Hour).Format("2006-01-02T15:04"),
		List: copyText{
			SQL: s.sqlText("select * from offstage.jobs where id = ") + j.ID.String() + ";",
			CLI: s.cliText("offstage jobs get %s", j.ID),
		},
	}
	if j.Ended {
		data.List.SQL = s.sqlText("select * from offstage.job_history(") + j.ID.String() + ");"
	}
	data.Question, data.Tone = question(j)
	data.TraceID, data.TraceURL = s.trace(j.Traceparent)
	for _, a := range bulkActs {
		if !j.Ended {
			a.Copy = s.copyAs(a.Do, []view.ID{j.ID}, view.JobFilter{}, nil, "")
			data.Copies = append(data.Copies, a)
		}
	}
	s.render(w, r, "job", page{Title: fmt.Sprintf("Job %s, %s", j.ID, j.Task), Nav: "jobs", Live: liveTopic("job", args), Data: data})
}

// question is what the box at the top of a job answers, and how it looks.
func question(j view.Job) (text, tone string) {
	switch {
	case j.Ended:
		return "How it ended", "end"
	case j.State == "running":
		return "What it is doing", "run"
	case j.State == "failed":
		return "Why it is not running", "bad"
	}
	return "Why it is not running", "wait"
}

func (s *Server) redacted(raw json.RawMessage) json.RawMessage {
	if len(raw) == 0 {
		return nil
	}
	return s.guard.Redact(raw)
}

// trace is the id of the trace that a job belongs to, and where it is shown.
func (s *Server) trace(parent *string) (id, link string) {
	if parent == nil {
		return "", ""
	}
	parts := strings.Split(*parent, "-")
	hex := func(s string, n int) bool { return len(s) == n && strings.Trim(s, "0123456789abcdef") == "" }
	if len(parts) < 4 || !hex(parts[1], 32) || !hex(parts[2], 16) {
		return "", ""
	}
	if s.cfg.TraceURL != "" {
		link = strings.NewReplacer("{trace_id}", parts[1], "{span_id}", parts[2]).Replace(s.cfg.TraceURL)
	}
	return parts[1], link
}

// jobPart is a part of a job by itself: its values and its log as files, the forms.
func (s *Server) jobPart(w http.ResponseWriter, r *http.Request) {
	id, err := pathID(r.PathValue("id"), "job")
	if err != nil {
		s.fail(w, r, err)
		return
	}
	switch part := r.PathValue("part"); part {
	case "payload", "result":
		s.jobFile(w, r, id, part)
	case "log":
		s.jobLog(w, r, id)
	case "edit":
		s.editForm(w, r, id)
	default:
		s.notFound(w, r)
	}
}

// jobFile is a payload or result as a file, redacted as on the page.
func (s *Server) jobFile(w http.ResponseWriter, r *http.Request, id view.ID, part string) {
	j, err := s.job(r.Context(), id)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	raw := j.Payload
	if part == "result" {
		raw = j.Result
	}
	if raw = s.redacted(raw); raw == nil {
		s.fail(w, r, missing("job %s has no %s that is kept", id, part))
		return
	}
	attachment(w, fmt.Sprintf("job-%s-%s.json", id, part), "application/json")
	_, _ = w.Write(raw) // whoever has gone needs no answer
}

func attachment(w http.ResponseWriter, name, kind string) {
	h := w.Header()
	h.Set("Content-Type", kind)
	h.Set("Content-Disposition", `attachment; filename="`+name+`"`)
	h.Set("Cache-Control", "no-store")
}

// jobLog is the whole log as text, a line each; a line break in a message would make two of one, so it is written as \n.
func (s *Server) jobLog(w http.ResponseWriter, r *http.Request, id view.ID) {
	var claim view.ID
	n := 0
	begun := false
	for {
		lines, err := s.db.JobLog(r.Context(), id, claim, n)
		if err != nil {
			if !begun {
				s.fail(w, r, err)
				return
			}
			_, _ = fmt.Fprintln(w, "the log ends here, because the database did not answer")
			return
		}
		if !begun {
			attachment(w, fmt.Sprintf("job-%s.log", id), "text/plain; charset=utf-8")
			begun = true
		}
		flat := strings.NewReplacer("\r", `\r`, "\n", `\n`)
		for _, l := range logLines(lines, s.guard.Redact) {
			text := fmt.Sprintf("%s attempt %d %-5s %s", l.At.UTC().Format("2006-01-02T15:04:05.000Z"), l.Attempt, strings.ToUpper(l.Level), flat.Replace(l.Message))
			for _, p := range l.Pairs {
				text += " " + flat.Replace(p[0]) + "=" + strconv.Quote(p[1])
			}
			if _, err := fmt.Fprintln(w, text); err != nil {
				return
			}
			claim, n = l.Claim, l.N
		}
		if len(lines) == 0 {
			return
		}
	}
}

// jobAct does something to one job.
func (s *Server) jobAct(w http.ResponseWriter, r *http.Request) {
	id, err := pathID(r.PathValue("id"), "job")
	if err != nil {
		s.fail(w, r, err)
		return
	}
	if !s.allowed(w, r, guard.Operator) {
		return
	}
	here := "/jobs/" + id.String()
	switch r.PathValue("part") {
	case "retry":
		s.act(w, r, guard.Operator, func(by view.Actor) (string, error) {
			return fmt.Sprintf("Job %s runs as soon as a worker takes it.", id), s.as(r.Context(), by, id, "run", func(c *offstage.Client) (bool, error) {
				done, err := c.Retry(r.Context(), int64(id))
				return len(done) > 0, err
			})
		}, here)
	case "cancel":
		s.act(w, r, guard.Operator, func(by view.Actor) (flash string, err error) {
			err = s.as(r.Context(), by, id, "cancelled", func(c *offstage.Client) (bool, error) {
				cancelled, requested, err := c.Cancel(r.Context(), strings.TrimSpace(r.PostForm.Get("reason")), int64(id))
				flash = fmt.Sprintf("Job %s is cancelled.", id)
				if len(requested) > 0 {
					flash = fmt.Sprintf("Job %s was asked to stop. It ends as cancelled when its attempt returns.", id)
				}
				return len(cancelled)+len(requested) > 0, err
			})
			return flash, err
		}, here)
	case "reschedule":
		at, err := readTime(strings.TrimSpace(r.PostForm.Get("run_at")), time.Now())
		if err != nil {
			s.fail(w, r, unfit("%v", err))
			return
		}
		s.act(w, r, guard.Operator, func(by view.Actor) (string, error) {
			when := "now"
			if at != nil {
				when = "at " + stamp(*at)
			}
			if at == nil {
				now := time.Now()
				at = &now
			}
			err := s.db.EditAndRetry(r.Context(), by, id, view.Edit{RunAt: at})
			if err != nil {
				err = s.refused(r.Context(), id, "rescheduled", err)
			}
			return fmt.Sprintf("Job %s runs %s.", id, when), err
		}, here)
	case "duplicate":
		by := actor(r)
		copied, err := s.db.Duplicate(r.Context(), by, id, view.Edit{}, onceKey(r))
		if err != nil {
			s.fail(w, r, err)
			return
		}
		s.act(w, r, guard.Operator, func(view.Actor) (string, error) {
			return fmt.Sprintf("Job %s is a copy of job %s.", copied, id), nil
		}, "/jobs/"+copied.String())
	case "delete":
		if r.PostForm.Get("confirm") != "yes" {
			s.deleteAsk(w, r, id)
			return
		}
		s.act(w, r, guard.Operator, func(by view.Actor) (string, error) {
			return fmt.Sprintf("Job %s is deleted.", id), s.as(r.Context(), by, id, "deleted", func(c *offstage.Client) (bool, error) {
				done, err := c.Delete(r.Context(), int64(id))
				return len(done) > 0, err
			})
		}, "/jobs")
	case "edit":
		s.edit(w, r, id)
	default:
		s.notFound(w, r)
	}
}

// as does something to one job in a transaction that is audited. What finds nothing to do says why.
func (s *Server) as(ctx context.Context, by view.Actor, id view.ID, past string, fn func(c *offstage.Client) (done bool, err error)) error {
	done := false
	err := s.db.As(ctx, by, func(tx pgx.Tx) (err error) {
		done, err = fn(s.client.With(tx))
		return err
	})
	if err == nil && !done {
		err = s.untouched(ctx, id, past)
	}
	return err
}

// refused says why an edit of a job that is not as it was is refused: as untouched, where that explains it.
func (s *Server) refused(ctx context.Context, id view.ID, past string, err error) error {
	j, look := s.job(ctx, id)
	if look == nil && (j.Ended || j.State == "running") {
		return s.untouched(ctx, id, past)
	}
	return err
}

// untouched says why nothing was done to a job: it runs, or has ended, by now.
func (s *Server) untouched(ctx context.Context, id view.ID, past string) error {
	j, err := s.job(ctx, id)
	if err != nil {
		return err
	}
	text, next := fmt.Sprintf("Job %s is %s now.", id, j.State), "Look at the job again."
	switch {
	case j.Ended:
		text, next = fmt.Sprintf("Job %s has ended as %s.", id, j.State), "Duplicate it to run it again."
	case j.State == "running":
		next = "Cancel it first: a running job is asked to stop. Then try again."
	case j.State == "failed":
		next = "Retry or delete it."
	}
	return refuse(http.StatusConflict, fmt.Sprintf("Job %s was not %s", id, past), text, next)
}

func (s *Server) deleteAsk(w http.ResponseWriter, r *http.Request, id view.ID) {
	j, err := s.job(r.Context(), id)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	s.render(w, r, "job_delete", page{Title: "Delete job " + id.String() + "?", Nav: "jobs", Data: j})
}
