package metrics

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/worker"
)

// mostTasks is how many tasks have labels of their own; all others are counted together, as "other", so that no database
// makes a monitoring system fall over.
const (
	mostTasks = 200
	other     = "other"
)

// Worker are the metrics of a worker of this process; it is the worker's Observer.
type Worker struct {
	jobs          *prometheus.CounterVec
	run, wait     *prometheus.HistogramVec
	claim, settle prometheus.Histogram
	errors        prometheus.Counter

	mu    sync.Mutex // guards tasks
	tasks map[string]*taskMetrics
}

// taskMetrics are looked up once for each task and outcome: finding them by their labels takes longer than counting.
type taskMetrics struct {
	label     string
	jobs      map[offstage.Outcome]prometheus.Counter
	run, wait prometheus.Observer
}

// NewWorker makes the metrics and registers them.
func NewWorker(r prometheus.Registerer) *Worker {
	m := &Worker{
		jobs: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "offstage_jobs_total", Help: jobsHelp}, []string{"task", "outcome"}),
		run: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "offstage_job_run_seconds", Help: runHelp, Buckets: bounds,
		}, []string{"task"}),
		wait: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "offstage_job_wait_seconds", Help: waitHelp, Buckets: bounds,
		}, []string{"task"}),
		claim: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "offstage_claim_seconds", Help: "How long claims took, from asking the database to having its jobs.", Buckets: callBuckets(),
		}),
		settle: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "offstage_settle_seconds", Help: "How long it took to settle a batch of attempts, to the commit.", Buckets: callBuckets(),
		}),
		errors: newErrors(),
		tasks:  map[string]*taskMetrics{},
	}
	r.MustRegister(m.jobs, m.run, m.wait, m.claim, m.settle, m.errors)
	return m
}

// Follow registers what the worker itself knows; Status is asked when somebody looks.
func (m *Worker) Follow(r prometheus.Registerer, status func() worker.Status) {
	r.MustRegister(slots{status})
}

// bounds are those of offstage.buckets() in SQL, so that both sides tell the same: powers of two from 1 ms to 37 hours.
var bounds = prometheus.ExponentialBuckets(0.001, 2, 28)

// callBuckets are for calls of the database: from 0.25 ms to 33 s, which is more than any may take.
func callBuckets() []float64 { return prometheus.ExponentialBuckets(0.00025, 2, 18) }

const (
	jobsHelp = "Attempts that ended, by task and by what became of them."
	runHelp  = "How long attempts ran, by task."
	waitHelp = "How long jobs were due before an attempt was started, by task."
)

func newErrors() prometheus.Counter {
	return prometheus.NewCounter(prometheus.CounterOpts{
		Name: "offstage_db_errors_total", Help: "Calls of the database that failed, and were or will be tried again.",
	})
}

// Settled counts attempts.
func (m *Worker) Settled(all []worker.Settled) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range all {
		s := &all[i]
		t := m.tasks[s.Task]
		if t == nil {
			t = m.task(s.Task)
		}
		c := t.jobs[s.Outcome]
		if c == nil {
			c = m.jobs.WithLabelValues(t.label, string(s.Outcome))
			t.jobs[s.Outcome] = c
		}
		c.Inc()
		if s.Started {
			t.run.Observe(s.Run.Seconds())
			t.wait.Observe(s.Wait.Seconds())
		}
	}
}

// task makes the metrics of a task. mu is held.
func (m *Worker) task(name string) *taskMetrics {
	label := name
	if len(m.tasks) >= mostTasks {
		label = other
	}
	t := &taskMetrics{label, map[offstage.Outcome]prometheus.Counter{}, m.run.WithLabelValues(label), m.wait.WithLabelValues(label)}
	m.tasks[name] = t
	return t
}

// Know makes a task's metrics before it has any jobs, so that rates begin at nothing.
func (m *Worker) Know(tasks []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, name := range tasks {
		if m.tasks[name] != nil {
			continue
		}
		t := m.task(name)
		for _, o := range []offstage.Outcome{offstage.OutcomeSucceeded, offstage.OutcomeFailed, offstage.OutcomeRetried} {
			t.jobs[o] = m.jobs.WithLabelValues(t.label, string(o))
		}
	}
}

// Turned measures a round trip.
func (m *Worker) Turned(t worker.Turned) {
	if t.Claim > 0 {
		m.claim.Observe(t.Claim.Seconds())
	}
	if t.Settle > 0 {
		m.settle.Observe(t.Settle.Seconds())
	}
}

// Failed counts an error.
func (m *Worker) Failed(error) { m.errors.Inc() }

var slotsDesc = prometheus.NewDesc("offstage_slots", "Slots of the worker, by state: in a busy one an attempt runs.", []string{"state"}, nil)

type slots struct{ status func() worker.Status }

func (s slots) Describe(c chan<- *prometheus.Desc) { c <- slotsDesc }

func (s slots) Collect(c chan<- prometheus.Metric) {
	st := s.status()
	busy := min(st.Busy, st.Slots)
	free := st.Slots - busy
	if st.State != worker.Working {
		free = 0 // it takes nothing new
	}
	c <- prometheus.MustNewConstMetric(slotsDesc, prometheus.GaugeValue, float64(busy), "busy")
	c <- prometheus.MustNewConstMetric(slotsDesc, prometheus.GaugeValue, float64(free), "free")
}
