package metrics

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
)

const (
	fresh    = 5 * time.Second // what was read is told again for so long, whoever asks
	patience = 5 * time.Second // for all of it
	depths   = 10000           // what is counted goes no further
)

// Database are the metrics of what is in the database, of all workers together. It reads when somebody looks, at most every five
// seconds, and only what costs the same however much there is.
type Database struct {
	pool   *pgxpool.Pool
	schema string
	opts   DatabaseOptions

	mu     sync.Mutex // guards what is below, and lets one read at a time
	at     time.Time
	last   []prometheus.Metric
	err    error
	labels map[string]string    // of each task
	seen   map[[2]string]bool   // task and state: told as 0 when there are none any more
	counts map[minuteOf]counted // what statistics had, of the last minutes
	totals map[[2]string]uint64 // of task and outcome, since this began
	times  map[string]*times    // of tasks, since this began
	from   time.Time            // the database's clock, when it was last read
}

// DatabaseOptions of a Database.
type DatabaseOptions struct {
	// Totals tells what workers measure, too, by their statistics, with the label source="database": offstage_jobs_total,
	// offstage_job_run_seconds, offstage_job_wait_seconds and offstage_slots. For a process that has no worker, whose metrics have the same names.
	Totals bool
	// Failed is told of errors; default: they are counted in offstage_db_errors_total.
	Failed func(error)
}

type minuteOf struct {
	at            time.Time
	task, outcome string
}

// counted is what statistics have of a minute: how many attempts, and, where they were read, histograms of their times. Those have no bucket behind
// the last that is not empty.
type counted struct {
	n           int64
	timed       bool
	waits, runs []int64
}

// times are histograms of a task, and have all buckets.
type times struct{ waits, runs []uint64 }

var (
	depthDesc = prometheus.NewDesc("offstage_queue_depth",
		"Jobs that have not ended, by task and state. Each state is counted to 10,000; what waits, to 10,000 of each task.", []string{"task", "state"}, nil)
	oldestDesc = prometheus.NewDesc("offstage_oldest_waiting_seconds",
		"For how long the job that has waited longest has been due, by task; 0: none waits. Those that are paused do not count.", []string{"task"}, nil)
	tickDesc = prometheus.NewDesc("offstage_schedule_last_tick_timestamp",
		"When a schedule last ticked, in seconds since 1970. Schedules that never did are left out, and all but the first 200.", []string{"schedule"}, nil)
	fromDatabase   = prometheus.Labels{"source": "database"}
	totalsDesc     = prometheus.NewDesc("offstage_jobs_total", jobsHelp, []string{"task", "outcome"}, fromDatabase)
	runDesc        = prometheus.NewDesc("offstage_job_run_seconds", runHelp, []string{"task"}, fromDatabase)
	waitDesc       = prometheus.NewDesc("offstage_job_wait_seconds", waitHelp, []string{"task"}, fromDatabase)
	totalSlotsDesc = prometheus.NewDesc("offstage_slots", "Slots of all workers that live, by state: to a busy one a job is given.", []string{"state"}, fromDatabase)
)

// NewDatabase makes the metrics and registers them. The name of the schema must have been checked.
func NewDatabase(r prometheus.Registerer, pool *pgxpool.Pool, schema string, opts DatabaseOptions) *Database {
	d := &Database{
		pool: pool, schema: schema, opts: opts, labels: map[string]string{}, seen: map[[2]string]bool{}, counts: map[minuteOf]counted{},
		totals: map[[2]string]uint64{}, times: map[string]*times{},
	}
	if opts.Failed == nil {
		errors := newErrors()
		r.MustRegister(errors)
		d.opts.Failed = func(error) { errors.Inc() }
	}
	r.MustRegister(d)
	return d
}

// Describe is prometheus.Collector's.
func (d *Database) Describe(c chan<- *prometheus.Desc) {
	c <- depthDesc
	c <- oldestDesc
	c <- tickDesc
	if d.opts.Totals {
		c <- totalsDesc
		c <- runDesc
		c <- waitDesc
		c <- totalSlotsDesc
	}
}

// Collect is prometheus.Collector's.
func (d *Database) Collect(c chan<- prometheus.Metric) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if time.Since(d.at) >= fresh || d.at.IsZero() {
		d.last, d.err = d.read()
		d.at = time.Now()
		if d.err != nil {
			d.opts.Failed(d.err)
		}
	}
	if d.err != nil {
		c <- prometheus.NewInvalidMetric(depthDesc, fmt.Errorf("read the database's metrics: %w", d.err))
		return
	}
	for _, m := range d.last {
		c <- m
	}
}

// What is asked. All of it reads what is counted already, or counts a little of an index.
const (
	// Lanes that have tickets, one step of the index for each. 100,000 tickets are counted at most, in about a tenth of a second: 10,000
	// of each of ten lanes, a hundred of each of a thousand.
	waitingSQL = `
		with recursive lanes as (
		  (select k.lane_id, 1 as n from offstage_private.ticket k order by k.lane_id limit 1)
		  union all
		  select f.lane_id, h.n + 1 from lanes h cross join lateral (
		    select k.lane_id from offstage_private.ticket k where k.lane_id > h.lane_id order by k.lane_id limit 1) f
		  where h.n < 1000
		)
		select t.name, case when t.paused then 'paused' else 'waiting' end, least(sum(c.n), 10000)::bigint
		from lanes h
		left join offstage_private.lane l on l.id = h.lane_id
		join offstage_private.task t on t.id = coalesce(l.task_id, h.lane_id)
		cross join lateral (
		  select offstage_private.count_tickets(h.lane_id, (select least(10000, 100000 / max(m.n))::integer from lanes m)) as n) c
		group by 1, 2`

	// The first 10,000 of each table, as they come in an index.
	othersSQL = `
		select t.name, x.state, sum(x.n)::bigint
		from (
		  select 'scheduled' as state, s.lane_id, count(*) as n from (
		    select o.lane_id from offstage_private.scheduled o order by o.run_at, o.job_id limit 10000) s group by s.lane_id
		  union all
		  select case when q.paused then 'paused' else 'parked' end, p.lane_id, count(*) from (
		    select o.queue_id, o.lane_id from offstage_private.parked o order by o.queue_id, o.lane_id, o.priority, o.run_at, o.job_id limit 10000) p
		    left join offstage_private.queue_setting q on q.queue_id = p.queue_id group by 1, 2
		  union all
		  select 'failed', f.lane_id, count(*) from (
		    select j.lane_id from offstage_private.job j where j.failed order by j.id limit 10000) f group by f.lane_id
		  union all
		  select 'running', r.lane_id, count(*) from (
		    select j.lane_id from offstage_private.lease l cross join lateral unnest(l.job_ids) i (id)
		    join offstage_private.job j on j.id = i.id and j.released_claim < l.claim limit 10000) r group by r.lane_id
		) x
		left join offstage_private.lane l on l.id = x.lane_id
		join offstage_private.task t on t.id = coalesce(l.task_id, x.lane_id)
		group by 1, 2`

	// The first ticket of each lane and priority, by the index.
	oldestSQL = `
		select t.name, greatest(extract(epoch from offstage_private.clock() - min(h.run_at)), 0)::float8 from offstage_private.heads() h
		left join offstage_private.lane l on l.id = h.lane_id
		join offstage_private.task t on t.id = coalesce(l.task_id, h.lane_id) where not t.paused
		group by t.name`

	tasksSQL = `select t.name from offstage_private.task t order by t.id limit 200`

	ticksSQL = `select s.name, extract(epoch from s.last_tick)::float8 from (
		  select o.name, o.last_tick from offstage_private.schedule o order by o.name limit 200) s where s.last_tick is not null`

	slotsSQL = `select coalesce(sum(w.slots), 0)::bigint from offstage_private.worker w
		where offstage_private.lives(w, offstage_private.clock())`

	totalsSQL = `select s.task, s.outcome, s.starts_at, s.n, coalesce(s.waits, '{}'), coalesce(s.runs, '{}')
		from offstage.statistics($1, '1 min', by => '{task,outcome}', times => $2) s where s.task is not null`
)

// looked is one look at the database.
type looked struct {
	depth  map[[2]string]int64
	oldest map[string]float64
	ticks  map[string]float64
	slots  int64
}

// read looks once, in one transaction that reads only. mu is held.
func (d *Database) read() ([]prometheus.Metric, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	l := looked{depth: map[[2]string]int64{}, oldest: map[string]float64{}, ticks: map[string]float64{}}
	err := pgx.BeginTxFunc(ctx, d.pool, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error { return d.look(ctx, tx, &l) })
	if err != nil {
		return nil, err
	}
	return d.metrics(&l), nil
}

func (d *Database) look(ctx context.Context, tx pgx.Tx, l *looked) error {
	var clock time.Time
	if err := tx.QueryRow(ctx, d.sql(`select offstage_private.clock() from (
		select set_config('statement_timeout', '2s', true), set_config('jit', 'off', true), set_config('enable_seqscan', 'off', true)) s`)).Scan(&clock); err != nil {
		return err
	}
	var name, state string
	var n int64
	var seconds float64
	if err := d.each(ctx, tx, tasksSQL, nil, []any{&name}, func() {
		l.depth[[2]string{d.label(name), "waiting"}] = 0
		l.oldest[d.label(name)] = 0
	}); err != nil {
		return err
	}
	count := func() { l.depth[[2]string{d.label(name), state}] += n }
	for _, sql := range []string{waitingSQL, othersSQL} {
		if err := d.each(ctx, tx, sql, nil, []any{&name, &state, &n}, count); err != nil {
			return err
		}
	}
	if err := d.each(ctx, tx, oldestSQL, nil, []any{&name, &seconds}, func() {
		l.oldest[d.label(name)] = max(l.oldest[d.label(name)], seconds)
	}); err != nil {
		return err
	}
	if err := d.each(ctx, tx, ticksSQL, nil, []any{&name, &seconds}, func() {
		l.ticks[strings.ToValidUTF8(name, "\uFFFD")] = seconds
	}); err != nil {
		return err
	}
	if !d.opts.Totals {
		return nil
	}
	if err := tx.QueryRow(ctx, d.sql(slotsSQL)).Scan(&l.slots); err != nil {
		return err
	}
	return d.addTotals(ctx, tx, clock)
}

// addTotals adds what statistics have counted since the last look. A minute may still grow when it is over, because batches commit later than
// they count. Histograms are dear, and are read from the first minute on that has grown, mostly the one that is not over, and of five minutes at
// most: when nobody has looked for longer, what ended before is counted without its times.
func (d *Database) addTotals(ctx context.Context, tx pgx.Tx, clock time.Time) error {
	const late = 5 * time.Minute
	first := d.from.IsZero()
	since := clock.Add(-late)
	if !first {
		since = d.from.Add(-late)
	}
	if oldest := clock.Add(-24 * time.Hour); since.Before(oldest) {
		since = oldest
	}
	counts, err := d.count(ctx, tx, since, false)
	if err != nil {
		return err
	}
	var grown time.Time
	for m, c := range counts {
		before := d.counts[m]
		if c.n != before.n && (grown.IsZero() || m.at.Before(grown)) {
			grown = m.at
		}
		before.n = c.n
		counts[m] = before
	}
	if !grown.IsZero() {
		oldest := clock.Add(-late).Truncate(time.Minute)
		if first {
			oldest = clock.Add(-time.Minute).Truncate(time.Minute)
		}
		if grown.Before(oldest) {
			grown = oldest
		}
		times, err := d.count(ctx, tx, grown, true)
		if err != nil {
			return err
		}
		maps.Copy(counts, times)
	}
	for m, c := range counts { // not before all is read: what is added is not taken back
		d.grow(m, c, first)
	}
	d.counts, d.from = counts, clock
	return nil
}

// count reads what statistics have, by minute, with histograms or without.
func (d *Database) count(ctx context.Context, tx pgx.Tx, since time.Time, times bool) (map[minuteOf]counted, error) {
	counts := map[minuteOf]counted{}
	var m minuteOf
	var c counted
	err := d.each(ctx, tx, totalsSQL, []any{since, times}, []any{&m.task, &m.outcome, &m.at, &c.n, &c.waits, &c.runs}, func() {
		m.at = m.at.UTC()
		c.timed = times
		counts[m] = c
		c = counted{} // the next row has slices of its own
	})
	return counts, err
}

// grow adds by how much a minute has grown since the last look; the first one only finds out what there is. mu is held.
func (d *Database) grow(m minuteOf, c counted, first bool) {
	label := d.label(m.task)
	key := [2]string{label, m.outcome}
	t := d.times[label]
	if t == nil {
		t = &times{make([]uint64, len(bounds)+1), make([]uint64, len(bounds)+1)}
		d.times[label] = t
	}
	if first {
		d.totals[key] += 0
		return
	}
	before := d.counts[m]
	d.totals[key] += uint64(max(0, c.n-before.n))
	if c.timed && (before.timed || before.n == 0) { // else nobody knows how much of it is new
		more(t.waits, c.waits, before.waits)
		more(t.runs, c.runs, before.runs)
	}
}

// more adds to all what a histogram has more than before.
func more(all []uint64, now, before []int64) {
	for i := range min(len(now), len(all)) {
		n := now[i]
		if i < len(before) {
			n -= before[i]
		}
		all[i] += uint64(max(0, n))
	}
}

// histogram is one of the database's: the values of a bucket are taken for its middle, because their sum is not kept.
func histogram(desc *prometheus.Desc, n []uint64, label string) prometheus.Metric {
	var count uint64
	var sum, low float64
	buckets := make(map[float64]uint64, len(bounds))
	for i, high := range bounds {
		count += n[i]
		sum += float64(n[i]) * (low + high) / 2
		buckets[high] = count
		low = high
	}
	beyond := n[len(bounds)]
	return prometheus.MustNewConstHistogram(desc, count+beyond, sum+float64(beyond)*low, buckets, label)
}

func (d *Database) each(ctx context.Context, tx pgx.Tx, sql string, args, into []any, do func()) error {
	rows, err := tx.Query(ctx, d.sql(sql), args...)
	if err != nil {
		return err
	}
	_, err = pgx.ForEachRow(rows, into, func() error { do(); return nil })
	return err
}

// label is the task's, or "other". mu is held.
func (d *Database) label(task string) string {
	label, known := d.labels[task]
	if !known {
		label = strings.ToValidUTF8(task, "\uFFFD") // a database may have any encoding
		if len(d.labels) >= mostTasks {
			return other // not remembered: there is no end to them
		}
		d.labels[task] = label
	}
	return label
}

func (d *Database) metrics(l *looked) (all []prometheus.Metric) {
	gauge := func(desc *prometheus.Desc, v float64, labels ...string) {
		all = append(all, prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, v, labels...))
	}
	var running int64
	for key, n := range l.depth {
		d.seen[key] = true
		if key[1] == "running" {
			running += n
		}
	}
	for key := range d.seen {
		gauge(depthDesc, float64(min(l.depth[key], depths)), key[0], key[1])
	}
	for task, seconds := range l.oldest {
		gauge(oldestDesc, seconds, task)
	}
	for schedule, at := range l.ticks {
		gauge(tickDesc, at, schedule)
	}
	if d.opts.Totals {
		busy := min(running, l.slots)
		gauge(totalSlotsDesc, float64(busy), "busy")
		gauge(totalSlotsDesc, float64(l.slots-busy), "free")
		for key, n := range d.totals {
			all = append(all, prometheus.MustNewConstMetric(totalsDesc, prometheus.CounterValue, float64(n), key[0], key[1]))
		}
		for label, t := range d.times {
			all = append(all, histogram(runDesc, t.runs, label), histogram(waitDesc, t.waits, label))
		}
	}
	return all
}

// sql puts the schema's name into a statement.
func (d *Database) sql(text string) string {
	if d.schema == "offstage" {
		return text
	}
	return strings.NewReplacer("offstage_private.", d.schema+"_private.", "offstage.", d.schema+".").Replace(text)
}
