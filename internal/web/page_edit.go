package web

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/offstage-dev/offstage/internal/view"
	"github.com/offstage-dev/offstage/internal/web/guard"
)

// maxForm and formTime bound what a form may send, and how long it may take; maxEdit is the largest payload that a form shows for editing.
const (
	maxForm  = 8 << 20
	formTime = 30 * time.Second
	maxEdit  = 1 << 20
)

// editData is the form for a job's payload, and the difference that it would make.
type editData struct {
	ID          view.ID
	Task, State string
	Text        string // the payload, as typed
	Priority    string
	MaxAttempts string
	Revision    int
	Redacted    bool // some of what is stored is not shown
	Wrong       string
	Conflict    bool // somebody changed the job meanwhile; Now is what it is by now
	Now         string
	Diff        []diffLine
	Changed     int
	Settings    [][3]string // name, before, after
}

func (s *Server) editForm(w http.ResponseWriter, r *http.Request, id view.ID) {
	if !s.allowed(w, r, guard.Operator) {
		return
	}
	data, _, err := s.editable(r, id)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	s.renderEdit(w, r, http.StatusOK, "job_edit", data)
}

func (s *Server) renderEdit(w http.ResponseWriter, r *http.Request, status int, name string, data editData) {
	s.renderStatus(w, r, status, name, page{Title: fmt.Sprintf("Edit job %s", data.ID), Nav: "jobs", Data: data}, 0)
}

// stored is a payload as it is, and as it is shown.
type stored struct {
	whole json.RawMessage
	shown *jsonNode
}

// editable is a job that can be edited, as it is now.
func (s *Server) editable(r *http.Request, id view.ID) (data editData, payload stored, err error) {
	j, err := s.job(r.Context(), id)
	if err != nil {
		return data, payload, err
	}
	if !canDo(j).Edit {
		return data, payload, s.untouched(r.Context(), id, "edited")
	}
	if len(j.Payload) > maxEdit {
		return data, payload, refuse(http.StatusUnprocessableEntity, "This payload is too large to edit here",
			fmt.Sprintf("It has %s; a form takes %s.", bytesOf(len(j.Payload)), bytesOf(maxEdit)), "Change it with SQL, or duplicate the job from your program.")
	}
	if payload.whole = j.Payload; len(payload.whole) == 0 {
		payload.whole = json.RawMessage("null")
	}
	whole, err := parseJSON(payload.whole)
	if err == nil {
		payload.shown, err = parseJSON(s.guard.Redact(payload.whole))
	}
	if err != nil {
		return data, payload, unfit("the payload cannot be edited here: %v", err)
	}
	data = editData{
		ID: id, Task: j.Task, State: j.State, Text: payload.shown.indented(), Priority: strconv.Itoa(j.Priority), MaxAttempts: strconv.Itoa(j.MaxAttempts),
		Redacted: !payload.shown.equal(whole), Revision: j.Revision,
	}
	return data, payload, nil
}

// edit shows what an edit would change; with confirm=yes it saves it, and the job runs.
func (s *Server) edit(w http.ResponseWriter, r *http.Request, id view.ID) {
	now, payload, err := s.editable(r, id)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	form := now
	form.Text = strings.ReplaceAll(r.PostForm.Get("payload"), "\r\n", "\n")
	form.Priority, form.MaxAttempts = strings.TrimSpace(r.PostForm.Get("priority")), strings.TrimSpace(r.PostForm.Get("max_attempts"))
	again := func(status int, wrong string) {
		form.Wrong = wrong
		s.renderEdit(w, r, status, "job_edit", form)
	}
	seen, err := strconv.Atoi(r.PostForm.Get("revision"))
	if err != nil {
		again(http.StatusUnprocessableEntity, "The form does not say which revision of the job it changes. Here is the latest.")
		return
	}
	if seen != now.Revision {
		form.Conflict, form.Now = true, now.Text
		again(http.StatusConflict, "Somebody changed this job while you were editing. Nothing was saved.")
		return
	}
	edited, err := parseJSON([]byte(form.Text))
	if err != nil {
		again(http.StatusUnprocessableEntity, "The payload is no JSON. "+sentence(err.Error()))
		return
	}
	if strings.Contains(form.Text, `\u0000`) { // json takes it, and no function that reads it as text does
		again(http.StatusUnprocessableEntity, `The payload holds \u0000, which PostgreSQL cannot read as text.`)
		return
	}
	whole, err := s.guard.Restore(edited.bytes(), payload.whole)
	if err != nil {
		again(http.StatusUnprocessableEntity, "A hidden value cannot be put back. "+sentence(err.Error()))
		return
	}
	e := view.Edit{Revision: &seen}
	form.Diff = diffLines(payload.shown.canonical(), edited.canonical())
	if form.Changed = changed(form.Diff); form.Changed > 0 {
		e.Payload = whole
	}
	for _, set := range []struct {
		name, before, after string
		low, high           int
		to                  **int
	}{
		{"Priority", now.Priority, form.Priority, -32768, 32767, &e.Priority}, {"Max attempts", now.MaxAttempts, form.MaxAttempts, 1, 32767, &e.MaxAttempts},
	} {
		n, err := strconv.Atoi(set.after)
		if err != nil || n < set.low || n > set.high {
			again(http.StatusUnprocessableEntity, fmt.Sprintf("%s must be a whole number from %d to %d.", set.name, set.low, set.high))
			return
		}
		if set.after = strconv.Itoa(n); set.after != set.before {
			form.Settings = append(form.Settings, [3]string{set.name, set.before, set.after})
			*set.to = &n
		}
	}
	switch r.PostForm.Get("confirm") {
	case "yes":
	case "no":
		again(http.StatusOK, "")
		return
	default:
		s.renderEdit(w, r, http.StatusOK, "job_diff", form)
		return
	}
	err = s.db.EditAndRetry(r.Context(), actor(r), id, e)
	if errors.Is(err, view.ErrConflict) { // between our look and the edit
		if now, _, err = s.editable(r, id); err != nil {
			s.fail(w, r, err)
			return
		}
		form.Conflict, form.Now, form.Revision = true, now.Text, now.Revision
		again(http.StatusConflict, "Somebody changed this job while you were editing. Nothing was saved.")
		return
	}
	if err != nil {
		err = s.refused(r.Context(), id, "edited", err)
	}
	s.act(w, r, guard.Operator, func(view.Actor) (string, error) {
		return fmt.Sprintf("Job %s is saved. It runs as soon as a worker takes it.", id), err
	}, "/jobs/"+id.String())
}
