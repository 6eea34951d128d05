package cli

import (
	"os/user"
	"strings"
	"testing"
)

func TestAudit(t *testing.T) {
	s := newStage(t)
	s.want(Done, "audit").says(t, "no changes")
	s.want(Done, "queues", "pause", "mail", "--create")
	s.want(Done, "queues", "configure", "mail", "--concurrency", "3")
	s.want(Done, "add", "t", "--queue", "mail")
	s.want(Done, "jobs", "cancel", "1", "--yes", "--reason", "a mistake")
	s.exec(`select offstage.resume_queue('mail')`)

	rows := decode[[]auditRow](t, s.want(Done, "audit", "--json"))
	if len(rows) != 4 {
		t.Fatalf("%+v", rows)
	}
	u, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	by := func(r auditRow) bool {
		return r.Source == "cli" && r.Who == u.Username && strings.HasPrefix(r.From, u.Username+"@")
	}
	if r := rows[0]; r.Source != "sql" || r.Action != "resume" || r.Target != "queue mail" {
		t.Errorf("%+v", r)
	}
	if r := rows[1]; !by(r) || r.Action != "cancel" || r.Target != "job 1" || len(r.IDs) != 1 || r.IDs[0] != "1" || r.Reason == nil || *r.Reason != "a mistake" {
		t.Errorf("%+v", r)
	}
	if r := rows[2]; !by(r) || r.Action != "configure" || string(r.After) == "" {
		t.Errorf("%+v", r)
	}
	s.want(Done, "audit", "--target", "queue mail", "--limit", "2").says(t, "resume").says(t, `{"concurrency" : 1} -> {"concurrency" : 3}`).says(t, "there are more: --before "+rows[2].ID)
	if rows = decode[[]auditRow](t, s.want(Done, "audit", "--who", u.Username, "--action", "pause", "--json")); len(rows) != 1 {
		t.Errorf("%+v", rows)
	}
	s.want(Usage, "audit", "--limit", "0").says(t, "1 to 999")
	s.want(Usage, "audit", "--action", "cancle").says(t, "there is no action 'cancle'").says(t, "bulk retry, cancel, ")
	s.want(Done, "audit", "--action", "bulk retry").says(t, "no changes")
	// Who paused it, where somebody asks why a job waits.
	s.want(Done, "queues", "pause", "mail")
	s.want(Done, "add", "t", "--queue", "mail")
	s.want(Done, "jobs", "get", "2").says(t, "its queue 'mail' is paused since ").says(t, " by "+u.Username+" (cli, ").says(t, "offstage queues resume mail")
	d := decode[jobDetail](t, s.want(Done, "jobs", "get", "2", "--json"))
	if d.Why.Kind != "queue_paused" || d.Why.Since == nil || !strings.HasPrefix(d.Explanation, d.Why.Because) {
		t.Errorf("%+v", d.Why)
	}
}

// TestAuditBehindPoolers: one that refuses settings which it does not know leaves the role in the audit.
func TestAuditBehindPoolers(t *testing.T) {
	s := newStage(t)
	s.env["DATABASE_URL"] = lending(t, s.db.URL)
	s.want(Done, "queues", "pause", "mail", "--create")
	rows := decode[[]auditRow](t, s.want(Done, "audit", "--json"))
	if len(rows) != 1 || rows[0].Source != "sql" || rows[0].Action != "pause" {
		t.Errorf("%+v", rows)
	}
}
