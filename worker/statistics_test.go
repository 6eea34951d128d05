package worker_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/worker"
)

// What a worker measures comes out of offstage.statistics, for jobs that ended in every way, and chores roll it up.
func TestStatistics(t *testing.T) {
	s := newStage(t)
	w := s.worker(worker.Config{Jobs: 2})
	worker.Handle(w, "sleep", func(ctx context.Context, job *worker.Job[none]) (none, error) {
		select {
		case <-time.After(150 * time.Millisecond):
		case <-ctx.Done():
		}
		if job.Queue == "bad" {
			return none{}, offstage.Fail(errors.New("no"))
		}
		return none{}, nil
	})
	worker.Handle(w, "quick", func(context.Context, *worker.Job[none]) (none, error) { return none{}, nil })
	for i := range 8 { // four pairs, one after the other: the last ones wait for half a second
		opts := offstage.Options{}
		if i == 0 {
			opts.Key = "k"
		}
		s.add("sleep", nil, opts)
	}
	s.add("sleep", nil, offstage.Options{Queue: "bad"})
	for range 100 {
		s.add("quick", nil)
	}
	s.run(w)
	type row struct {
		n                 int
		wait, run, waited float64
	}
	read := func(task, outcome string) (r row) {
		t.Helper()
		err := s.pool.QueryRow(s.ctx(), `select coalesce(sum(n), 0), coalesce(max(offstage.quantile(waits, 1)), 0), coalesce(max(offstage.quantile(runs, 0.5)), 0),
			coalesce(sum((select sum(w) from unnest(waits) w)), 0)
			from offstage.statistics(now() - interval '5 min', null, $1, by => '{outcome}') where outcome = $2`, task, outcome).Scan(&r.n, &r.wait, &r.run, &r.waited)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	s.eventually(func() bool {
		return read("sleep", "succeeded").n == 8 && read("sleep", "failed").n == 1 && read("quick", "succeeded").n == 100
	}, "all jobs are counted")
	if r := read("sleep", "succeeded"); r.waited != 8 || r.wait < 0.25 || r.run < 0.128 || r.run > 20 {
		t.Errorf("of 8 jobs that took 150 ms each, two at a time: %+v", r)
	}
	if r := read("sleep", "failed"); r.run < 0.128 {
		t.Errorf("the failed one took %v", r.run)
	}
	if r := read("quick", "succeeded"); r.run > 0.1 {
		t.Errorf("jobs that do nothing took %v", r.run)
	}
	s.eventually(func() bool { return one[int](s, "select count(*) from offstage_private.statistic_raw") == 0 }, "what was counted is rolled up")
	s.eventually(func() bool {
		return one[int](s, "select count(*) from offstage.chores where state = 'ok' and worker_id is not null and took > interval '0'") >= 4
	}, "the chores have said that they ran")
}
