package web

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/offstage-dev/offstage/internal/view"
)

// copyText is the same thing as it is done elsewhere.
type copyText struct{ SQL, CLI string }

// copyAs says how to list the jobs of a filter (do is ""), or how to do something to them, in SQL and on the command line.
func (s *Server) copyAs(do string, ids []view.ID, f view.JobFilter, at *time.Time, reason string) copyText {
	sql := s.copySQL(do, ids, f, at, reason)
	return copyText{SQL: sql + ";", CLI: s.copyCLI(do, ids, f, reason, sql)}
}

func (s *Server) copySQL(do string, ids []view.ID, f view.JobFilter, at *time.Time, reason string) string {
	where := s.whereSQL(f)
	if do == "" {
		if ended(f.State) {
			text := fmt.Sprintf("select * from %s.history(ended_as => %s", s.cfg.Schema, sqlLiteral(f.State))
			if f.Task != "" {
				text += ", task => " + sqlLiteral(f.Task)
			}
			return text + ")"
		}
		return fmt.Sprintf("select * from %s.jobs%s order by id desc limit 100", s.cfg.Schema, where)
	}
	which := fmt.Sprintf("array(select id from %s.jobs%s)", s.cfg.Schema, where)
	if len(ids) > 0 {
		which = "array[" + joinIDs(ids, ", ") + "]"
	}
	switch do {
	case "cancel":
		if reason != "" {
			which += ", " + sqlLiteral(reason)
		}
	case "reschedule":
		when := "now()"
		if at != nil {
			when = sqlLiteral(at.UTC().Format(time.RFC3339Nano))
		}
		which += ", run_at => " + when
	}
	return fmt.Sprintf("select * from %s.%s_jobs(%s)", s.cfg.Schema, do, which)
}

func ended(state string) bool { return slices.Contains(endedStates, state) }

// whereSQL is the filter over the view jobs.
func (s *Server) whereSQL(f view.JobFilter) string {
	var and []string
	add := func(format string, values ...any) { and = append(and, fmt.Sprintf(format, values...)) }
	for _, p := range filterPairs(f) {
		value := sqlLiteral(p[1])
		switch p[0] {
		case "state", "key":
			add("%s = %s", p[0], value)
		case "task":
			add("task_identifier = %s", value)
		case "queue":
			add("queue_name = %s", value)
		case "flag":
			add("flags ? %s", value)
		case "worker":
			add("locked_by = %s", value)
		case "error":
			add("strpos(lower(last_error), lower(%s)) > 0", value)
		case "fingerprint":
			add("%s_private.fingerprint(task_identifier, last_error) = %s", s.cfg.Schema, value)
		case "added_after":
			add("created_at > %s", value)
		case "added_before":
			add("created_at < %s", value)
		case "payload_path":
			var keys []string
			for _, key := range strings.Split(p[1], ".") {
				keys = append(keys, sqlLiteral(key))
			}
			add("%s.job_payload(id) #>> array[%s] = %s", s.cfg.Schema, strings.Join(keys, ", "), sqlLiteral(f.PayloadIs))
		}
	}
	if len(and) == 0 {
		return ""
	}
	return " where " + strings.Join(and, " and ")
}

// copyCLI uses the flags of the command where they are enough, and psql for what to hand it where not.
func (s *Server) copyCLI(do string, ids []view.ID, f view.JobFilter, reason, sql string) string {
	command := "offstage jobs "
	options := ""
	if s.cfg.Schema != "offstage" {
		options = " --schema " + s.cfg.Schema
	}
	plain := view.JobFilter{State: f.State, Task: f.Task, Queue: f.Queue, Key: f.Key} == f
	if do == "" && ended(f.State) {
		if f.Task != "" {
			options += " --task " + shellWord(f.Task)
		}
		return command + "history --outcome " + f.State + options
	}
	if do == "reschedule" || do == "" && !plain {
		return `psql "$DATABASE_URL" -c ` + shellWord(sql)
	}
	if do == "" {
		do = "list"
	}
	if do == "cancel" && reason != "" {
		options += " --reason " + shellWord(reason)
	}
	if len(ids) > 0 {
		return command + do + options + " " + joinIDs(ids, " ")
	}
	if !plain {
		which := fmt.Sprintf("select id from %s.jobs%s", s.cfg.Schema, s.whereSQL(f))
		return `psql "$DATABASE_URL" -Atc ` + shellWord(which) + " | xargs " + command + do + options + " --yes"
	}
	for _, p := range filterPairs(f) {
		options += " --" + p[0] + " " + shellWord(p[1])
	}
	if do != "list" && f == (view.JobFilter{}) {
		options += " --all"
	}
	return command + do + options
}

func joinIDs(ids []view.ID, sep string) string {
	var b strings.Builder
	for i, id := range ids {
		if i > 0 {
			b.WriteString(sep)
		}
		b.WriteString(id.String())
	}
	return b.String()
}
