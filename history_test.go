package offstage_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/offstage-dev/offstage"
)

// What is kept of a job depends on its task's setting, or on its own: of attempts that failed and jobs that did, in "failures"; a
// failed job is both where Graphile's users find it and in history.
func TestHistoryKeeps(t *testing.T) {
	for _, c := range []struct {
		task, job  string // keep
		ok, failed string // what is left of a job that succeeds, and one that is tried again and then fails
	}{
		{"", "", "succeeded", "retried failed"},
		{"all", "", "succeeded", "retried failed"},
		{"failures", "", "", "retried failed"},
		{"none", "", "", ""},
		{"none", "all", "succeeded", "retried failed"},
		{"all", "none", "", ""},
		{"all", "failures", "", "retried failed"},
	} {
		t.Run(c.task+","+c.job, func(t *testing.T) {
			s := newStage(t)
			if c.task != "" {
				s.exec("select offstage.configure_task('t', json_build_object('keep', $1::text))", c.task)
			}
			h := s.hands("t")
			o := offstage.Options{Keep: c.job}
			good, keyed, bad := s.add("t", nil, o), s.add("t", nil, offstage.Options{Keep: c.job, Key: "k"}), s.add("t", []int{1}, o)
			h.claim(3)
			h.succeed(good, `"well"`)
			h.succeed(keyed, "")
			h.end(bad, "retry", "it broke\n    at line 1\ncaused by: rust")
			s.exec("select offstage.retry_jobs(array[$1::bigint])", bad)
			h.claim(1)
			h.end(bad, "fail", "it broke for good")
			for id, want := range map[int64]string{good: c.ok, keyed: c.ok, bad: c.failed} {
				list, err := s.client.History(s.ctx(), id)
				if err != nil {
					t.Fatal(err)
				}
				var got []string
				for _, e := range list {
					got = append(got, string(e.Outcome))
					if e.SettledAt.IsZero() || e.ClaimedAt.IsZero() || e.ClaimedAt.After(e.SettledAt) || e.Worker != fmt.Sprintf("worker-%d", h.worker) {
						t.Errorf("entry %+v", e)
					}
				}
				if strings.Join(got, " ") != want {
					t.Errorf("of job %d is kept %v, expected %q", id, got, want)
				}
				if id == good && len(list) == 1 && (string(list[0].Result) != `"well"` || list[0].Attempt != 1) {
					t.Errorf("the good one: %+v", list[0])
				}
				if id == bad && len(list) == 2 && (list[0].Error != "it broke\n    at line 1\ncaused by: rust" || list[0].Payload != nil ||
					list[1].Error != "it broke for good" || list[1].Attempt != 2 || string(list[1].Payload) != "[1]") {
					t.Errorf("the bad one: %+v", list)
				}
			}
			if j, err := s.client.Get(s.ctx(), bad); err != nil || j.State != offstage.Failed || j.LastError != "it broke for good" {
				t.Errorf("the failed job itself: %+v, %v", j, err)
			}
		})
	}
}

// Pages follow one another without a gap or a repetition, whichever way history is filtered, also where many ended in one moment.
func TestListHistory(t *testing.T) {
	s := newStage(t)
	s.exec("select offstage_private.task_id('a'), offstage_private.task_id('b'), offstage.tidy()")
	const n = 30_000
	s.exec(`insert into offstage_private.history (settled_at, job_id, added_at, run_at, task_id, attempt, priority, outcome)
		select now() - i / 7 * interval '1 s', i, now(), now(), t.id, 1, 0, case when i % 5000 < 2 then 'retried' else 'succeeded' end
		from generate_series(1, $1::integer) i join offstage_private.task t on t.name = case when i % 3 = 0 then 'b' else 'a' end`, n)
	all := func(f offstage.HistoryFilter, most int) (list []offstage.Entry) {
		t.Helper()
		next := &f
		for len(list) < most && next != nil {
			var page []offstage.Entry
			var err error
			if page, next, err = s.client.ListHistory(s.ctx(), *next); err != nil {
				t.Fatal(err)
			}
			list = append(list, page...)
		}
		for i := 1; i < len(list); i++ {
			a, b := list[i-1], list[i]
			if a.SettledAt.Before(b.SettledAt) || a.SettledAt.Equal(b.SettledAt) && a.JobID <= b.JobID {
				t.Fatalf("%d at %v comes before %d at %v", a.JobID, a.SettledAt, b.JobID, b.SettledAt)
			}
		}
		return list
	}
	if list := all(offstage.HistoryFilter{Limit: 10}, 1000); len(list) != 1000 || list[0].JobID != 6 || list[6].JobID != 13 {
		t.Errorf("%d entries, beginning with %d, %d", len(list), list[0].JobID, list[6].JobID)
	}
	if list := all(offstage.HistoryFilter{Limit: 10000}, n+1); len(list) != n {
		t.Errorf("%d entries of %d", len(list), n)
	}
	var rare []int64
	for _, e := range all(offstage.HistoryFilter{Outcome: offstage.OutcomeRetried}, n) {
		rare = append(rare, e.JobID)
	}
	if want := []int64{1, 5000, 5001, 10000, 10001, 15000, 15001, 20000, 20001, 25000, 25001, 30000}; !slices.Equal(slices.Sorted(slices.Values(rare)), want) {
		t.Errorf("retried: %v, expected %v", rare, want)
	}
	if list := all(offstage.HistoryFilter{Task: "b", Limit: 7}, 100); len(list) < 100 || list[0].Task != "b" || list[0].JobID != 6 || list[1].JobID != 3 {
		t.Errorf("of task b: %+v", list[:2])
	}
	if list := all(offstage.HistoryFilter{Task: "nobody's"}, n); len(list) != 0 {
		t.Errorf("%d entries of no task", len(list))
	}
	if list := all(offstage.HistoryFilter{Since: all(offstage.HistoryFilter{Limit: 1}, 1)[0].SettledAt.Add(-10 * time.Second)}, n); len(list) != 6+70 {
		t.Errorf("%d entries of the last ten seconds, expected 76", len(list))
	}
}
