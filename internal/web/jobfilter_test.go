package web

import (
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/offstage-dev/offstage/internal/view"
)

func TestSearch(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		query string
		want  view.JobFilter
		id    string
		wrong string
	}{
		{query: "task:hello queue:x error:timeout payload.user.id:7", want: view.JobFilter{Task: "hello", Queue: "x", Error: "timeout", PayloadPath: "user.id", PayloadIs: "7"}},
		{query: "#123", id: "123"},
		{query: " 123 ", id: "123"},
		{query: "id:99999999999999999999", id: "99999999999999999999"},
		{query: `error:"connection \"refused\" \\ x" state:failed`, want: view.JobFilter{Error: `connection "refused" \ x`, State: "failed"}},
		{query: "ECONNREFUSED 127.0.0.1:5432", want: view.JobFilter{Error: "ECONNREFUSED 127.0.0.1:5432"}},
		{query: "http://example.com/x", want: view.JobFilter{Error: "http://example.com/x"}},
		{query: `"task:x"`, want: view.JobFilter{Error: "task:x"}},
		{query: `"7"`, want: view.JobFilter{Error: "7"}},
		{query: "queue:a:b", want: view.JobFilter{Queue: "a:b"}},
		{query: "worker:7 key:k flag:f fingerprint:abc", want: view.JobFilter{Worker: "worker-7", Key: "k", Flag: "f", Fingerprint: "abc"}},
		{query: "payload.empty:", want: view.JobFilter{PayloadPath: "empty"}},
		{query: "task:שלום", want: view.JobFilter{Task: "שלום"}},
		{query: "quue:x", wrong: `"quue:"`},
		{query: "task:", wrong: "task: has no value"},
		{query: `error:"open`, wrong: "quote is open"},
		{query: "#1 #2", wrong: "#1 names one job"},
		{query: "state:dead", wrong: `no state "dead"`},
		{query: "worker:x", wrong: "not the name of a worker"},
		{query: "after:yesterday", wrong: `"yesterday" is not a time`},
	} {
		got, id, err := search(view.JobFilter{}, c.query)
		if c.wrong != "" {
			if err == nil || !strings.Contains(err.Error(), c.wrong) {
				t.Errorf("%s: got error %v, want %q", c.query, err, c.wrong)
			}
			continue
		}
		if err != nil || id != c.id || got != c.want {
			t.Errorf("%s: got %+v, %q, %v", c.query, got, id, err)
		}
	}
	// It adds to what is there.
	got, _, err := search(view.JobFilter{State: "failed", Task: "a"}, "task:b queue:q")
	if err != nil || got != (view.JobFilter{State: "failed", Task: "b", Queue: "q"}) {
		t.Errorf("got %+v, %v", got, err)
	}
	got, _, err = search(view.JobFilter{}, "after:2h before:2026-01-31")
	if err != nil || got.AddedAfter == nil || time.Since(*got.AddedAfter).Round(time.Minute) != 2*time.Hour || got.AddedBefore == nil || got.AddedBefore.Local().Format(time.DateOnly) != "2026-01-31" {
		t.Errorf("got %+v, %v", got, err)
	}
}

// Whatever is searched for, the filter survives its URL.
func FuzzSearch(f *testing.F) {
	for _, seed := range []string{`task:a error:"b c" #7`, `payload.a.b:"`, "after:3d", `\"`, "a:b:c", "::", "key:\x00", "task:\xff"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, query string) {
		got, _, err := search(view.JobFilter{}, query)
		if err != nil {
			return
		}
		v, err := url.ParseQuery(filterValues(got).Encode())
		if err != nil {
			t.Fatal(err)
		}
		again, err := readFilter(v)
		if err != nil {
			t.Fatalf("%q: %v", query, err)
		}
		for _, at := range []**time.Time{&got.AddedAfter, &got.AddedBefore, &again.AddedAfter, &again.AddedBefore} {
			if *at != nil {
				utc := (*at).UTC()
				*at = &utc
			}
		}
		if !reflect.DeepEqual(got, again) {
			t.Fatalf("%q: %+v became %+v", query, got, again)
		}
		chips(got)
		filterWords(got)
	})
}

func TestCopyJobsAs(t *testing.T) {
	t.Parallel()
	s := &Server{cfg: Config{Schema: "offstage"}}
	at := time.Date(2026, 1, 31, 15, 4, 5, 0, time.UTC)
	for _, c := range []struct {
		do       string
		ids      []view.ID
		f        view.JobFilter
		at       *time.Time
		reason   string
		sql, cli string
	}{
		{
			sql: "select * from offstage.jobs order by id desc limit 100;", cli: "offstage jobs list",
		},
		{
			do: "retry", f: view.JobFilter{State: "failed", Task: "it's"},
			sql: "select * from offstage.retry_jobs(array(select id from offstage.jobs where state = 'failed' and task_identifier = 'it''s'));",
			cli: `offstage jobs retry --state failed --task 'it'\''s'`,
		},
		{
			do: "delete", f: view.JobFilter{Error: "no"},
			sql: "select * from offstage.delete_jobs(array(select id from offstage.jobs where strpos(lower(last_error), lower('no')) > 0));",
			cli: `psql "$DATABASE_URL" -Atc 'select id from offstage.jobs where strpos(lower(last_error), lower('\''no'\'')) > 0' | xargs offstage jobs delete --yes`,
		},
		{
			do: "cancel", ids: []view.ID{7, 8}, reason: "no; more",
			sql: "select * from offstage.cancel_jobs(array[7, 8], 'no; more');", cli: "offstage jobs cancel --reason 'no; more' 7 8",
		},
		{
			do: "reschedule", ids: []view.ID{7}, at: &at,
			sql: "select * from offstage.reschedule_jobs(array[7], run_at => '2026-01-31T15:04:05Z');",
			cli: `psql "$DATABASE_URL" -c 'select * from offstage.reschedule_jobs(array[7], run_at => '\''2026-01-31T15:04:05Z'\'')'`,
		},
		{
			f:   view.JobFilter{State: "succeeded", Task: "a"},
			sql: "select * from offstage.history(ended_as => 'succeeded', task => 'a');", cli: "offstage jobs history --outcome succeeded --task a",
		},
		{
			do: "retry", sql: "select * from offstage.retry_jobs(array(select id from offstage.jobs));", cli: "offstage jobs retry --all",
		},
	} {
		got := s.copyAs(c.do, c.ids, c.f, c.at, c.reason)
		if got.SQL != c.sql || got.CLI != c.cli {
			t.Errorf("%s %+v: got\n%s\n%s", c.do, c.f, got.SQL, got.CLI)
		}
	}
	other := &Server{cfg: Config{Schema: "jobs"}}
	got := other.copyAs("retry", nil, view.JobFilter{Task: "offstage.x", Fingerprint: "abc", PayloadPath: "a.b", PayloadIs: "1"}, nil, "")
	want := "select * from jobs.retry_jobs(array(select id from jobs.jobs where task_identifier = 'offstage.x' and jobs_private.fingerprint(task_identifier, last_error) = 'abc'" +
		" and jobs.job_payload(id) #>> array['a', 'b'] = '1'));"
	if got.SQL != want {
		t.Errorf("got %s", got.SQL)
	}
}
