package node

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/internal/pgtest"
	"github.com/offstage-dev/offstage/worker"
)

// BenchmarkRun is the cost of a round trip, with ten attempts at a time.
func BenchmarkRun(b *testing.B) {
	for _, task := range []string{"sync", "async", "logger"} {
		for _, processes := range []int{1, 2} {
			b.Run(fmt.Sprintf("%s/%d", task, processes), func(b *testing.B) {
				r := open(b, map[string]string{
					"sync.js":   `module.exports = () => {}`,
					"async.js":  `module.exports = async (payload, helpers) => { await null; }`,
					"logger.js": `module.exports = async (payload, { job, logger }) => job.id`,
				}, func(c *Config) { c.Processes = processes })
				work := make(chan *offstage.Job, 100)
				var slots sync.WaitGroup
				for range 10 {
					slots.Go(func() {
						for job := range work {
							if _, err := r.Run(b.Context(), job); err != nil {
								b.Error(err)
							}
						}
					})
				}
				for i := 0; b.Loop(); i++ {
					work <- &offstage.Job{ID: int64(i), Task: task, Payload: []byte(`{"id": 1}`), Attempt: 1, MaxAttempts: 25}
				}
				close(work)
				slots.Wait()
			})
		}
	}
}

// BenchmarkWorker is a job from its ticket to its settle, beside a task in Go.
func BenchmarkWorker(b *testing.B) {
	for _, task := range []string{"go", "sync", "async"} {
		for _, slots := range []int{10, 50} {
			b.Run(fmt.Sprintf("%s/%d", task, slots), func(b *testing.B) {
				db := pgtest.New(b)
				pool := db.Pool(b)
				r := open(b, map[string]string{"sync.js": `module.exports = () => {}`, "async.js": `module.exports = async () => {}`},
					func(c *Config) { c.Pool, c.Processes = pool, 0; c.Jobs = slots })
				w, err := worker.New(pool, worker.Config{Jobs: slots, Runners: []worker.Runner{r}})
				if err != nil {
					b.Fatal(err)
				}
				worker.Handle(w, "go", func(context.Context, *worker.Job[struct{}]) (struct{}, error) { return struct{}{}, nil })
				_, err = pool.Exec(b.Context(), `select count(*) from offstage.add_jobs(array(
					select row($1, '{"id": 1}', null, null, null, null, null, null)::offstage.job_spec from generate_series(1, $2)))`, task, b.N)
				if err != nil {
					b.Fatal(err)
				}
				b.ResetTimer()
				if err := w.RunOnce(b.Context()); err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "jobs/s")
			})
		}
	}
}
