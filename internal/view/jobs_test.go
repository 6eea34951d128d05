package view_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/internal/pgtest"
	"github.com/offstage-dev/offstage/internal/view"
)

// everyState has jobs in each, 25 of most: a job's task says where it is.
const everyState = `
select offstage.add_many('waiting', (select json_agg(n) from generate_series(1, 25) n));
select offstage.add_job('waiting', priority => n % 3, flags => case when n % 2 = 0 then array['f' || n] end) from generate_series(1, 25) n;
select offstage.add_many('scheduled', (select json_agg(n) from generate_series(1, 15) n), run_at => now() + interval '1 day');
select offstage.add_job('scheduled', run_at => now() + n * interval '1 h') from generate_series(1, 10) n;
select t.worker('running', 'parked', 'failed', 'succeeded');
select offstage.add_many('failed', (select json_agg(n) from generate_series(1, 25) n));
select t.work(1, 10, 'failed', 'fail', 'No such file: ' || n) from generate_series(1, 3) n;
select offstage.add_many('succeeded', (select json_agg(n) from generate_series(1, 25) n));
select t.work(1, 7, 'succeeded', 'succeed') from generate_series(1, 4) n;
select offstage.add_many('removed', (select json_agg(n) from generate_series(1, 25) n));
select offstage.delete_jobs(array(select id from offstage.jobs where task_identifier = 'removed' order by id limit 13));
select offstage.delete_jobs(array(select id from offstage.jobs where task_identifier = 'removed'));
select offstage.add_job('parked', queue_name => 'q' || n % 3) from generate_series(1, 28) n;
select t.claim(1, 1000, 'parked');
select offstage.add_many('running', (select json_agg(n) from generate_series(1, 25) n));
select t.claim(1, 4, 'running') from generate_series(1, 7);
select offstage.add_many('paused', (select json_agg(n) from generate_series(1, 12) n));
select offstage.add_job('paused', queue_name => 'closed') from generate_series(1, 6) n;
select offstage.add_job('closed', queue_name => 'closed') from generate_series(1, 7) n;
select offstage.pause_task('paused');
select offstage.pause_queue('closed');`

// walk reads a list page by page, to its end and back to its beginning, and answers it as it came in each direction. between is called
// before each page.
func walk(t *testing.T, db *view.DB, f view.JobFilter, limit int, between func()) (down, up []view.ID) {
	t.Helper()
	cursor, last := "", ""
	for n := 0; ; n++ {
		between()
		page, err := db.Jobs(t.Context(), f, cursor, limit)
		if err != nil {
			t.Fatalf("%+v, %d a page, page %d: %v", f, limit, n, err)
		}
		if len(page.Jobs) > limit || n > 1000 {
			t.Fatalf("page %d has %d jobs", n, len(page.Jobs))
		}
		if (page.Newer == "") != (cursor == "") {
			t.Errorf("page %d says that before it there is %q", n, page.Newer)
		}
		down = append(down, ids(page.Jobs)...)
		if last = page.Newer; page.Older == "" {
			up = ids(page.Jobs)
			break
		}
		cursor = page.Older
	}
	for n := 0; last != ""; n++ {
		between()
		page, err := db.Jobs(t.Context(), f, last, limit)
		if err != nil {
			t.Fatalf("%+v, %d a page, upwards %d, %s: %v", f, limit, n, last, err)
		}
		if n > 1000 {
			t.Fatal("there is always something newer")
		}
		up = append(ids(page.Jobs), up...)
		last = page.Newer
	}
	return down, up
}

func TestEveryState(t *testing.T) {
	t.Parallel()
	db, pool := open(t)
	pgtest.Do(t, pool, stage)
	pgtest.Do(t, pool, everyState)
	for state, order := range map[string]string{
		"waiting":   `select id from offstage.jobs where state = 'waiting' order by priority, run_at, id`,
		"scheduled": `select id from offstage.jobs where state = 'scheduled' order by run_at, id`,
		"parked":    `select id from offstage.jobs where state = 'parked' order by priority, run_at, id`,
		"paused":    `select id from offstage.jobs where state = 'paused' order by priority, run_at, id`,
		"running": `select j.id from offstage.jobs j join offstage_private.lease l on j.id = any (l.job_ids) where j.state = 'running'
			order by l.claim desc, array_position(l.job_ids, j.id) desc`,
		"failed":    `select id from offstage.jobs where state = 'failed' order by id desc`,
		"":          `select id from offstage.jobs order by id desc`,
		"succeeded": `select job_id from offstage_private.history where outcome = 'succeeded' order by settled_at desc, job_id desc`,
		"removed":   `select job_id from offstage_private.history where outcome = 'removed' order by settled_at desc, job_id desc`,
		"cancelled": `select 1 where false`,
	} {
		var want []view.ID
		for _, id := range pgtest.List[int64](t, pool, order) {
			want = append(want, view.ID(id))
		}
		if len(want) < 25 && state != "cancelled" {
			t.Errorf("%s: there are %d jobs", state, len(want))
		}
		for _, limit := range []int{1, 7, 25, 500} {
			down, up := walk(t, db, view.JobFilter{State: state}, limit, func() {})
			if !slices.Equal(down, want) {
				t.Errorf("%s, %d a page: got %v\nwant %v", state, limit, down, want)
			}
			up = unique(up) // the first page is a whole one, and may overlap with the one behind it
			if !slices.Equal(up, want) {
				t.Errorf("%s, %d a page, upwards: got %v\nwant %v", state, limit, up, want)
			}
		}
		page, err := db.Jobs(t.Context(), view.JobFilter{State: state}, "", 500)
		if err != nil {
			t.Fatal(err)
		}
		for _, j := range page.Jobs {
			if state != "" && j.State != state {
				t.Errorf("job %d in the list of %s is %s", j.ID, state, j.State)
			}
			switch {
			case (j.Worker == nil || j.StartedAt == nil) && (state == "running" || state == "succeeded"):
				t.Errorf("job %d is %s, nobody knows where or since when", j.ID, state)
			case j.EndedAt == nil && (state == "failed" || state == "succeeded" || state == "removed"):
				t.Errorf("job %d is %s, nobody knows since when", j.ID, state)
			case state == "failed" && (j.Error == nil || !strings.HasPrefix(*j.Error, "No such file")):
				t.Errorf("job %d failed with %v", j.ID, j.Error)
			}
		}
	}
	counts, err := db.JobCounts(t.Context(), view.JobFilter{})
	if err != nil {
		t.Fatal(err)
	}
	for _, state := range []string{"scheduled", "waiting", "parked", "paused", "running", "failed"} {
		if n := pgtest.One[int64](t, pool, `select count(*) from offstage.jobs where state = $1`, state); counts[state] != (view.Count{N: n}) {
			t.Errorf("%s: counted %v, there are %d", state, counts[state], n)
		}
	}
}

func unique(list []view.ID) []view.ID {
	seen := map[view.ID]bool{}
	var out []view.ID
	for _, id := range list {
		if !seen[id] {
			out, seen[id] = append(out, id), true
		}
	}
	return out
}

// TestGrowing: while jobs come, and some go, pages have every job once that was there all the time.
func TestGrowing(t *testing.T) {
	t.Parallel()
	db, pool := open(t)
	pgtest.Do(t, pool, stage)
	pgtest.Do(t, pool, `select t.worker('succeeded')`)
	for _, f := range []view.JobFilter{{}, {State: "waiting"}, {State: "failed"}, {State: "waiting", Task: "b"}, {State: "scheduled", Queue: "q"}, {State: "succeeded"}} {
		left := 30 // upwards, the beginning would never be reached otherwise
		one := func() {
			if left--; left < 0 {
				return
			}
			pgtest.Do(t, pool, `select offstage.add_job('a'), offstage.add_job('b', priority => -1), offstage.add_job('b', priority => 1, flags => '{x}'),
				offstage.add_job('a', queue_name => 'q', run_at => now() + random() * interval '1 day'), offstage.add_job('succeeded')`)
			pgtest.Do(t, pool, `select offstage.permanently_fail_jobs(array[(select id from offstage.add_job('a'))]), t.work(1, 10, 'succeeded', 'succeed')`)
		}
		for range 12 {
			one()
		}
		all, err := db.Jobs(t.Context(), f, "", 500)
		if err != nil {
			t.Fatal(err)
		}
		down, up := walk(t, db, f, 3, one)
		for _, id := range ids(all.Jobs) {
			if n := len(slices.DeleteFunc(slices.Clone(down), func(x view.ID) bool { return x != id })); n != 1 {
				t.Errorf("%+v: job %d was on %d pages", f, id, n)
			}
			if !slices.Contains(up, id) {
				t.Errorf("%+v: job %d was on no page upwards", f, id)
			}
		}
	}
}

func TestFilters(t *testing.T) {
	t.Parallel()
	db, pool := open(t)
	pgtest.Do(t, pool, stage)
	pgtest.Do(t, pool, everyState)
	pgtest.Do(t, pool, `select offstage.add_job('x', '{"user": {"id": 7}}', job_key => 'k', flags => '{f}'), offstage.add_job('x', queue_name => 'q é/')`)
	print := pgtest.One[string](t, pool, `select offstage_private.fingerprint('failed', 'No such file: 2')`)
	hour := time.Now().Add(time.Hour)
	for _, c := range []struct {
		filter view.JobFilter
		where  string // of offstage.jobs
	}{
		{view.JobFilter{Task: "failed"}, `task_identifier = 'failed'`},
		{view.JobFilter{Task: "nobody"}, `false`},
		{view.JobFilter{State: "waiting", Task: "waiting", Flag: "f2"}, `flags ? 'f2'`},
		{view.JobFilter{Flag: "f2"}, `flags ? 'f2'`},
		{view.JobFilter{Queue: "q1"}, `queue_name = 'q1'`},
		{view.JobFilter{Queue: "q é/"}, `queue_name = 'q é/'`},
		{view.JobFilter{State: "parked", Queue: "q1"}, `queue_name = 'q1' and state = 'parked'`},
		{view.JobFilter{State: "paused", Task: "closed"}, `task_identifier = 'closed'`},
		{view.JobFilter{State: "running", Queue: "q1"}, `queue_name = 'q1' and state = 'running'`},
		{view.JobFilter{Key: "k"}, `key = 'k'`},
		{view.JobFilter{Key: "k", State: "waiting"}, `key = 'k'`},
		{view.JobFilter{Key: "k", State: "failed"}, `false`},
		{view.JobFilter{Worker: "worker-1"}, `locked_by = 'worker-1'`},
		{view.JobFilter{Worker: "worker-1", State: "running", Task: "running"}, `locked_by = 'worker-1' and task_identifier = 'running'`},
		{view.JobFilter{Worker: "worker-2"}, `false`},
		{view.JobFilter{Error: "SUCH FILE: 2"}, `last_error = 'No such file: 2'`},
		{view.JobFilter{State: "failed", Error: "file"}, `last_error like 'No such file%'`},
		{view.JobFilter{Fingerprint: print}, `task_identifier = 'failed' and last_error = 'No such file: 2' or exists (
			select from offstage.jobs o where o.id = j.id and offstage_private.fingerprint(o.task_identifier, o.last_error) = offstage_private.fingerprint('failed', 'No such file: 2'))`},
		{view.JobFilter{AddedBefore: &hour, State: "failed"}, `state = 'failed'`},
		{view.JobFilter{AddedAfter: &hour}, `false`},
		{view.JobFilter{PayloadPath: "user.id", PayloadIs: "7"}, `key = 'k'`},
		{view.JobFilter{PayloadPath: "user.id"}, `key = 'k'`},
		{view.JobFilter{PayloadPath: "user.id", PayloadIs: "8"}, `false`},
	} {
		page, err := db.Jobs(t.Context(), c.filter, "", 500)
		if err != nil {
			t.Errorf("%+v: %v", c.filter, err)
			continue
		}
		got := ids(page.Jobs)
		slices.Sort(got)
		var want []view.ID
		for _, id := range pgtest.List[int64](t, pool, `select j.id from offstage.jobs j where `+c.where+` order by j.id`) {
			want = append(want, view.ID(id))
		}
		if !slices.Equal(got, want) || (len(want) == 0) != (c.where == "false") {
			t.Errorf("%+v: got %v, want %v", c.filter, got, want)
		}
		if page.Looked != "" || page.Older != "" {
			t.Errorf("%+v: looked %q, older %q", c.filter, page.Looked, page.Older)
		}
		// What is counted is what is listed.
		counts, err := db.JobCounts(t.Context(), c.filter)
		if err != nil {
			t.Errorf("%+v: %v", c.filter, err)
		}
		for _, state := range []string{"scheduled", "waiting", "parked", "paused", "running", "failed"} {
			f := c.filter
			f.State = state
			page, err := db.Jobs(t.Context(), f, "", 500)
			if err != nil || counts[state] != (view.Count{N: int64(len(page.Jobs))}) {
				t.Errorf("%+v: counted %v, listed %d: %v", f, counts[state], len(page.Jobs), err)
			}
		}
	}
	for _, c := range []view.JobFilter{{State: "dead"}, {Worker: "w"}, {PayloadIs: "7"}} {
		if _, err := db.Jobs(t.Context(), c, "", 1); !errors.Is(err, view.ErrInvalid) {
			t.Errorf("%+v: %v", c, err)
		}
	}
	page, err := db.Jobs(t.Context(), view.JobFilter{State: "waiting"}, "", 1)
	if err != nil {
		t.Fatal(err)
	}
	for _, cursor := range []string{"x", "e30", page.Older} {
		if _, err := db.Jobs(t.Context(), view.JobFilter{State: "failed"}, cursor, 1); !errors.Is(err, view.ErrInvalid) {
			t.Errorf("cursor %q: %v", cursor, err)
		}
	}
}

// TestLooked: a filter that finds nothing stops, says so, and goes on from there, in both directions.
func TestLooked(t *testing.T) {
	t.Parallel()
	db, pool := open(t)
	first := add(t, pool, "rare", 1)[0]
	add(t, pool, "a", 45_000)
	last := add(t, pool, "rare", 1)[0]
	add(t, pool, "a", 1_000)
	f := view.JobFilter{Task: "rare"}
	down, up := walk(t, db, f, 10, func() {})
	if want := []view.ID{view.ID(last), view.ID(first)}; !slices.Equal(down, want) || !slices.Equal(unique(up), want) {
		t.Errorf("found %v, and upwards %v, want %v", down, up, want)
	}
	page, err := db.Jobs(t.Context(), f, "", 10)
	// At 20,000, or at as many as a busy machine looks at in its time.
	if err != nil || page.Older == "" || !regexp.MustCompile(`^Looked at (20,000|1?\d,\d{3}|\d{2,3}) jobs, down to job \d+: there may be more\.$`).MatchString(page.Looked) {
		t.Errorf("looked %q, older %q: %v", page.Looked, page.Older, err)
	}
}

func TestJob(t *testing.T) {
	t.Parallel()
	db, pool := open(t)
	pgtest.Do(t, pool, stage)
	pgtest.Do(t, pool, `select t.worker('a')`)
	pgtest.Do(t, pool, `select offstage.add_job('a', '{"x": 1}', 'q', job_key => 'k', flags => '{b,a}', max_attempts => 5, priority => -1, options => '{"traceparent": "00-1"}')`)
	pgtest.Do(t, pool, `select t.work(1, 1, 'a', 'retry', repeat('é', 400))`)
	pgtest.Do(t, pool, `select offstage.retry_jobs('{1}'), offstage.add_job('a', queue_name => 'q') from generate_series(1, 13)`)
	claim := pgtest.One[int64](t, pool, `select claim from t.claim(1, 100, 'a') where job_id = 1`)
	pgtest.Do(t, pool, `select offstage.report(1, json_build_array(json_build_object('claim', $1::bigint, 'job_id', 1, 'percent', 40, 'message', 'half',
		'lines', '[{"n": 1, "after": 1, "level": "info", "message": "one"}, {"n": 2, "after": 2, "level": "warn", "message": "two", "attrs": {"a": 1}}]'::json)))`, claim)
	j, err := db.Job(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	if j.State != "running" || j.Attempt != 2 || j.MaxAttempts != 5 || *j.Key != "k" || *j.Queue != "q" || *j.Worker != "worker-1" || *j.Progress != 40 || *j.Message != "half" ||
		j.Priority != -1 || *j.Traceparent != "00-1" || !slices.Equal(j.Flags, []string{"a", "b"}) || string(j.Payload) != `{"x": 1}` || j.Ended || j.StartedAt == nil ||
		*j.LastError != strings.Repeat("é", 400) || *j.Error != strings.Repeat("é", 300) || j.Why.Because == "" {
		t.Errorf("a running job is %+v", j)
	}
	if len(j.Attempts) != 1 || j.Attempts[0].Outcome != "retried" || len(j.Log) != 2 || j.Log[1].Message != "two" || string(j.Log[1].Attrs) != `{"a": 1}` || j.Log[0].Attrs != nil {
		t.Errorf("attempts %+v, log %+v", j.Attempts, j.Log)
	}
	if len(j.Related) != 10 || j.Related[0].State != "parked" {
		t.Errorf("related are %+v", j.Related)
	}
	if further, err := db.JobLog(t.Context(), 1, j.Log[0].Claim, j.Log[0].N); err != nil || len(further) != 1 || further[0].N != 2 {
		t.Errorf("the log goes on with %+v: %v", further, err)
	}
	pgtest.Do(t, pool, `select offstage.settle(1, array[$1::bigint], array[1::bigint], results => array['{"y": 2}'::json])`, claim)
	j, err = db.Job(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	if !j.Ended || j.State != "succeeded" || j.Task != "a" || *j.Queue != "q" || *j.Key != "k" || string(j.Payload) != `{"x": 1}` || j.Priority != -1 || j.EndedAt == nil || len(j.Attempts) != 2 ||
		j.Error != nil || len(j.Log) != 2 || j.Attempt != 2 {
		t.Errorf("an ended job is %+v", j)
	}
	var result map[string]int
	if err := json.Unmarshal(j.Result, &result); err != nil || result["y"] != 2 {
		t.Errorf("the result is %s", j.Result)
	}
	if _, err := db.Job(t.Context(), 99); !errors.Is(err, offstage.ErrNotFound) {
		t.Errorf("job 99: %v", err)
	}
}

// TestReads: whatever there is, a page reads little. Autovacuum is off, so that nothing changes meanwhile.
func TestReads(t *testing.T) {
	t.Parallel()
	own := pgtest.New(t)
	conn := own.Conn(t)
	pgtest.Do(t, conn, stage)
	pgtest.Do(t, conn, `alter table offstage_private.job set (autovacuum_enabled = off); alter table offstage_private.ticket set (autovacuum_enabled = off)`)
	pgtest.Do(t, conn, everyState)
	add(t, conn, "a", 200_000)
	pgtest.Do(t, conn, `select offstage.add_job('many', queue_name => 'many' || n, job_key => 'k' || n) from generate_series(1, 500) n`)
	pgtest.Do(t, conn, `insert into offstage_private.history (settled_at, job_id, added_at, run_at, task_id, attempt, priority, outcome)
		select now() - n * interval '1 s', -n, now(), now(), 1, 1, 0, case when n % 3 = 0 then 'succeeded' else 'retried' end from generate_series(1, 200000) n`)
	filters := map[string]int{ // buffers
		`{}`:                   2000,
		`{"state": "waiting"}`: 2500,
		`{"state": "waiting", "task": "waiting"}`: 2000,
		`{"state": "waiting", "queue": "many7"}`:  1000,
		`{"state": "scheduled"}`:                  2000,
		`{"state": "parked"}`:                     2500,
		`{"state": "paused"}`:                     2500,
		`{"state": "running"}`:                    2000,
		`{"state": "failed"}`:                     2000,
		`{"state": "failed", "fingerprint": "x"}`: 1000,
		`{"state": "succeeded"}`:                  4000,
		`{"key": "k7"}`:                           1000,
		`{"worker": "worker-1"}`:                  2000,
	}
	for _, analyzed := range []bool{false, true} {
		if analyzed {
			pgtest.Do(t, conn, `analyze offstage_private.job, offstage_private.ticket, offstage_private.parked, offstage_private.scheduled, offstage_private.history, offstage_private.lease, offstage_private.queue`)
		}
		for filter, most := range filters {
			least := math.MaxInt // of three: one that plans anew reads the catalog, too, and autovacuum makes it do so at any time
			for range 3 {
				text := pgtest.List[string](t, conn, fmt.Sprintf(`explain (analyze, buffers, format json)
					select r.* from offstage_private.find('%s') f, offstage_private.job_rows(array[f.job_id]) r`, filter))
				var plan []struct {
					Plan struct {
						Hit  int `json:"Shared Hit Blocks"`
						Read int `json:"Shared Read Blocks"`
					}
				}
				if err := json.Unmarshal([]byte(strings.Join(text, "\n")), &plan); err != nil {
					t.Fatal(err)
				}
				least = min(least, plan[0].Plan.Hit+plan[0].Plan.Read)
			}
			if least > most {
				t.Errorf("%s, analyzed %t: %d buffers", filter, analyzed, least)
			}
		}
	}
}
