package web

import (
	"fmt"
	"time"

	"github.com/offstage-dev/offstage/internal/view"
)

// event is a point in the story of a job, the oldest first.
type event struct {
	At      time.Time
	Kind    string // added, due, attempt, settled, note, now, next: how it looks
	Word    string // a state or outcome, where it has one
	Title   string
	Text    string
	Waited  time.Duration // before an attempt; 0: not known
	Waiting string        // for what
	Took    time.Duration
	Start   *time.Time
	Worker  string
	Error   string
	Attempt int
}

// settling outcomes end a job.
var settling = map[string]bool{"succeeded": true, "failed": true, "cancelled": true, "removed": true, "completed": true}

// story is what has happened to a job, from what is kept of it, and what comes next.
func story(j view.Job) []event {
	first := event{At: j.AddedAt, Kind: "added", Title: "Added"}
	if j.Queue != nil {
		first.Text = fmt.Sprintf("to queue %q", *j.Queue)
	}
	due := j.RunAt
	if len(j.Attempts) > 0 {
		due = j.Attempts[0].RunAt
	}
	if later := due.Sub(j.AddedAt); later > time.Second {
		if first.Text != "" {
			first.Text += ", "
		}
		first.Text += "to run " + seconds(later) + " later"
	}
	list := []event{first}
	from := j.AddedAt // since when it could have waited
	for _, a := range j.Attempts {
		e := event{At: a.EndedAt, Word: a.Outcome, Attempt: a.Attempt, Kind: "attempt", Title: fmt.Sprintf("Attempt %d", a.Attempt)}
		if a.Error != nil {
			e.Error = cutText(firstLine(*a.Error), 300)
		}
		if a.StartedAt == nil {
			e.Kind, e.Attempt = "note", 0
			e.Title, e.Text = asides(a.Outcome)
			if e.Error == "by hand" {
				e.Error = ""
			}
			if settling[a.Outcome] {
				e.Kind = "settled"
			}
			from = a.EndedAt
			list = append(list, e)
			continue
		}
		e.Start, e.Took = a.StartedAt, a.EndedAt.Sub(*a.StartedAt)
		e.Waited, e.Waiting = waited(from, a.RunAt, *a.StartedAt, j.Queue)
		if a.Worker != nil {
			e.Worker = *a.Worker
		}
		switch a.Outcome {
		case "retried":
			e.Text = "It failed and is tried again."
		case "snoozed":
			e.Text = "It put itself off, which spends no attempt."
		case "released":
			e.Text = "Its worker gave it back, which spends no attempt."
		case "rescued":
			e.Text = "Its worker died; another one took the job over."
		case "refused":
			e.Text = "Its worker had lost it, so its result was not taken."
		}
		if settling[a.Outcome] {
			e.Kind = "settled"
		}
		from = a.EndedAt
		list = append(list, e)
	}
	if j.Ended {
		return list
	}
	switch j.State {
	case "running":
		e := event{Kind: "now", Word: "running", Title: fmt.Sprintf("Attempt %d", j.Attempt), Attempt: j.Attempt}
		if j.StartedAt != nil {
			e.At, e.Start = *j.StartedAt, j.StartedAt
			e.Waited, e.Waiting = waited(from, j.RunAt, *j.StartedAt, j.Queue)
		}
		if j.Worker != nil {
			e.Worker = *j.Worker
		}
		list = append(list, e)
	case "scheduled":
		list = append(list, event{At: j.RunAt, Kind: "next", Word: "scheduled", Title: fmt.Sprintf("Attempt %d is due", j.Attempt+1)})
	case "failed":
		if n := len(list); list[n-1].Word != "failed" { // its history is not kept
			e := event{Kind: "settled", Word: "failed", Title: "Failed"}
			if j.EndedAt != nil {
				e.At = *j.EndedAt
			}
			list = append(list, e)
		}
	default:
		list = append(list, event{At: j.RunAt, Kind: "next", Word: j.State, Title: fmt.Sprintf("Attempt %d is due", j.Attempt+1)})
	}
	return list
}

// asides names what happened to a job while it did not run.
func asides(outcome string) (title, text string) {
	switch outcome {
	case "retried":
		return "Retried by hand", "It starts again from its first attempt."
	case "cancelled":
		return "Cancelled", "It was not running."
	case "removed":
		return "Deleted", "It did not run."
	case "completed":
		return "Completed by hand", "It did not run."
	case "failed":
		return "Set aside as failed", "It was not running."
	case "rescued":
		return "Rescued", "Its worker died."
	}
	return titled(outcome), ""
}

// waited is how long a job that was due could not start. Less than 100 ms is what starting takes.
func waited(from, due, start time.Time, queue *string) (time.Duration, string) {
	if due.Before(from) {
		due = from
	}
	d := start.Sub(due)
	if d < 100*time.Millisecond {
		return 0, ""
	}
	if queue != nil {
		return d, fmt.Sprintf("for its turn in queue %q, or a free slot", *queue)
	}
	return d, "for a free slot of a worker"
}
