package node

import (
	"fmt"
	"sync"
	"testing"

	"github.com/offstage-dev/offstage"
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
