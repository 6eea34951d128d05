package maintain

import (
	"context"
	"fmt"
	"log/slog"
	"regexp"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/offstage-dev/offstage/internal/cron"
	"github.com/offstage-dev/offstage/internal/store"
)

const (
	lookAtLeast = 10 * time.Second // add_schedule says when there is something new
	sawEvery    = time.Minute
	punctual    = time.Minute // a tick that is later was missed
	maxDue      = 100         // schedules in one transaction
	maxTicks    = 1000        // jobs in one transaction
)

// Ticker is what one worker has to do with schedules: it knows those of its crontab file and program, and ticks them and those of
// the database. It uses the database's clock alone. Make it with NewTicker; it outlives connections.
type Ticker struct {
	log *slog.Logger
	// Patience is how long a new one waits before it gives up ticks from before its time: another worker may have lived
	// then, and be about to come back to a database that was away.
	Patience time.Duration

	mu   sync.Mutex // guards mine, todo and look
	mine map[string]map[string]bool
	todo map[string][]store.Schedule // what is not registered yet, by source
	look bool                        // at once

	// Of the goroutine that calls turn.
	lookAt, sawAt time.Time
	began         time.Time            // on this process's clock
	since         map[string]time.Time // when a schedule was first seen here, on the database's clock; "": the database's own
	expressions   map[[2]string]*cron.Expression
}

// NewTicker makes one without schedules of its own.
func NewTicker(log *slog.Logger) *Ticker {
	return &Ticker{
		log: log, Patience: 11 * time.Second, // a lost connection is tried again every ten
		mine: map[string]map[string]bool{}, todo: map[string][]store.Schedule{},
		since: map[string]time.Time{}, expressions: map[[2]string]*cron.Expression{},
	}
}

// Set replaces the schedules of a source, crontab or program. They must have been checked.
func (t *Ticker) Set(source string, list []store.Schedule) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.mine[source] = map[string]bool{}
	for _, s := range list {
		t.mine[source][s.Name] = true
	}
	t.todo[source] = list
	t.look = true
}

// Look makes the next turn look at the database, whatever is known to be due.
func (t *Ticker) Look() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.look = true
}

// CheckSchedule says what is wrong with a schedule that the database would take, or that it would refuse later.
func CheckSchedule(s store.Schedule) error {
	if _, err := expression(s.Expression, s.TimeZone); err != nil {
		return fmt.Errorf("schedule %s: %w", s.Name, err)
	}
	if _, err := s.MarshalJSON(); err != nil {
		return fmt.Errorf("schedule %s: %w", s.Name, err)
	}
	if !validCatchup.MatchString(s.Catchup) {
		return fmt.Errorf("schedule %s: catchup is %q; use none, one, all, or a number up to 1000", s.Name, s.Catchup)
	}
	return nil
}

var validCatchup = regexp.MustCompile(`^(none|one|all|[1-9][0-9]{0,2}|1000)?$`)

func expression(text, zone string) (*cron.Expression, error) {
	location, err := time.LoadLocation(zone)
	if err != nil {
		return nil, fmt.Errorf("the time zone is not known here: %w (import _ \"time/tzdata\" brings all of them)", err)
	}
	return cron.Parse(text, location)
}

// turn looks at the schedules if it is time to, and answers when the next one comes.
func (t *Ticker) turn(ctx context.Context, conn *pgx.Conn, db *store.Store, as store.Chore) (time.Duration, error) {
	t.mu.Lock()
	look := t.look
	t.look = false
	t.mu.Unlock()
	if look {
		t.lookAt = time.Time{}
	}
	if wait := time.Until(t.lookAt); wait > 0 {
		return wait, nil
	}
	begin := time.Now()
	if t.began.IsZero() {
		t.began = begin
	}
	err := t.register(ctx, conn, db, look)
	wait := time.Duration(0)
	if err == nil {
		wait, err = t.tick(ctx, conn, db)
	}
	if err == nil {
		err = db.Ran(ctx, conn, as, time.Since(begin))
	}
	if err != nil {
		t.Look()
		return 0, err
	}
	t.lookAt = time.Now().Add(wait)
	return max(wait, time.Microsecond), nil
}

// register tells the database of this worker's own schedules: at once when there are new ones, and what was refused, because
// the name was another's or the row was locked, every minute again.
func (t *Ticker) register(ctx context.Context, conn *pgx.Conn, db *store.Store, now bool) error {
	if !now && time.Since(t.sawAt) < sawEvery {
		return nil
	}
	t.mu.Lock()
	todo := t.todo
	t.todo = map[string][]store.Schedule{}
	t.mu.Unlock()
	for source, list := range todo {
		reasons := map[string]string{}
		if len(list) > 0 {
			err := db.SyncSchedules(ctx, conn, source, list, func(name, reason string) { reasons[name] = reason })
			if err != nil {
				t.again(todo)
				return err
			}
		}
		var left []store.Schedule
		for _, s := range list {
			if reason, refused := reasons[s.Name]; refused {
				t.log.Error("a schedule was refused; will try again in a minute", "schedule", s.Name, "reason", reason)
				left = append(left, s)
			}
		}
		todo[source] = left
	}
	t.again(todo)
	if time.Since(t.sawAt) >= sawEvery {
		if err := db.SawSchedules(ctx, conn, t.names()); err != nil {
			return err
		}
		t.sawAt = time.Now()
	}
	return nil
}

// again puts back what could not be done, unless Set was called meanwhile.
func (t *Ticker) again(todo map[string][]store.Schedule) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for source, list := range todo {
		if _, newer := t.todo[source]; !newer && len(list) > 0 {
			t.todo[source] = list
		}
	}
}

// names are those of this worker's own schedules that are registered.
func (t *Ticker) names() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	names := []string{}
	for source, mine := range t.mine {
		refused := map[string]bool{}
		for _, s := range t.todo[source] {
			refused[s.Name] = true
		}
		for name := range mine {
			if !refused[name] {
				names = append(names, name)
			}
		}
	}
	return names
}

// tick ticks what is due, in one transaction, and answers how long nothing will be.
func (t *Ticker) tick(ctx context.Context, conn *pgx.Conn, db *store.Store) (time.Duration, error) {
	begin := time.Now()
	tx, err := conn.Begin(ctx)
	if err != nil {
		return 0, err
	}
	defer tx.Rollback(context.WithoutCancel(ctx))
	names := t.names()
	due, err := db.Due(ctx, tx, names, maxDue)
	if err != nil {
		return 0, err
	}
	if due.Busy {
		return jitter(150 * time.Millisecond), nil
	}
	t.lived(due.At, names)
	plans, later := t.plan(due)
	answers, err := db.Tick(ctx, tx, plans)
	if err != nil {
		return 0, err
	}
	if err := tx.Commit(ctx); err != nil {
		return 0, err
	}
	wait := jitter(lookAtLeast)
	if due.Wait > 0 {
		wait = min(wait, max(due.Wait-time.Since(begin), 0))
	}
	if later {
		wait = min(wait, time.Second)
	}
	for i, p := range plans {
		switch {
		case answers[i] == "failed":
			t.log.Error("a schedule cannot be ticked; will try again", "schedule", p.Of.Name, "error", p.Err)
			wait = min(wait, time.Second)
		case answers[i] == "busy":
			wait = min(wait, jitter(200*time.Millisecond))
		case p.Next != nil && answers[i] == "ticked":
			wait = min(wait, max(p.Next.Sub(due.At)-time.Since(begin), 0))
			if p.Missed != nil {
				t.log.Warn("ticks were missed, and are not made up for (catchup)", "schedule", p.Of.Name, "first", *p.Missed)
			}
		}
	}
	return wait, nil
}

// lived notes since when this process has had a schedule: a tick after that is not missed, however late it is.
func (t *Ticker) lived(at time.Time, names []string) {
	since := map[string]time.Time{"": at}
	for _, name := range names {
		since[name] = at
	}
	for name := range since {
		if before, had := t.since[name]; had {
			since[name] = before
		}
	}
	t.since = since
}

// plan says which ticks of the schedules are to be added. later: something was left for a later look.
func (t *Ticker) plan(due store.Due) (plans []store.Tick, later bool) {
	budget := maxTicks
	for _, s := range due.Schedules {
		if budget <= 0 {
			break
		}
		e, err := t.expression(s)
		if err != nil {
			plans = append(plans, store.Tick{Of: s, Err: err})
			continue
		}
		since, mine := t.since[s.Name]
		if !mine {
			since = t.since[""]
		}
		p := planOf(window{e, s.From, s.Until}, s, due.At, since, budget)
		if p.Missed != nil && s.Catchup == nil && time.Since(t.began) < t.Patience {
			later = true
			continue
		}
		budget -= len(p.Ticks)
		plans = append(plans, p)
	}
	return plans, later
}

func (t *Ticker) expression(s store.DueSchedule) (*cron.Expression, error) {
	key := [2]string{s.Expression, s.Zone}
	if e := t.expressions[key]; e != nil {
		return e, nil
	}
	e, err := expression(s.Expression, s.Zone)
	if err == nil {
		if len(t.expressions) > 10000 {
			clear(t.expressions)
		}
		t.expressions[key] = e
	}
	return e, err
}

// planOf says which ticks of a schedule are to be added at a moment, at most limit of them; the first one after them comes next.
// Ticks that are late by a minute at most are always among them, the others as its catch-up says.
func planOf(w window, s store.DueSchedule, at, since time.Time, limit int) store.Tick {
	p := store.Tick{Of: s, Ticks: []time.Time{}}
	next, ok := w.next(s.Since)
	if s.NextAt != nil {
		next, ok = *s.NextAt, true
	}
	if !ok {
		return p
	}
	timely := at.Add(-punctual)
	if s.Catchup == nil {
		timely = earlier(timely, since)
	}
	start := timely
	switch {
	case s.Fill != nil:
		start = earlier(start, at.Add(-*s.Fill))
	case s.Catchup == nil || *s.Catchup == "none":
	case *s.Catchup == "all":
		start = next
	default:
		start = earlier(start, w.latest(next, at, number(*s.Catchup)))
	}
	if next.Before(start) {
		missed := next
		p.Missed = &missed
		next, ok = w.next(start.Add(-1))
	}
	for ; ok && !next.After(at) && len(p.Ticks) < limit; next, ok = w.next(next) {
		p.Ticks = append(p.Ticks, next)
		if next.Before(timely) {
			p.Backfilled++
		}
	}
	if ok {
		p.Next = &next
	}
	return p
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// number of ticks that a catch-up allows; "one" is one.
func number(catchup string) int {
	n, err := strconv.Atoi(catchup)
	if err != nil {
		return 1
	}
	return n
}

// window is an expression with bounds.
type window struct {
	*cron.Expression
	from, until *time.Time
}

// next is the first tick after a moment.
func (w window) next(after time.Time) (time.Time, bool) {
	if w.from != nil && after.Before(*w.from) {
		after = w.from.Add(-1)
	}
	next, ok := w.Next(after)
	if w.until != nil && next.After(*w.until) {
		return time.Time{}, false
	}
	return next, ok
}

// latest is the n-th last of the ticks from first to at, or first where there are fewer. Ticks are whole seconds, and the
// last one is the first moment that has no tick after it: so it is found by halving.
func (w window) latest(first, at time.Time, n int) time.Time {
	low, end := first.Unix(), at.Unix()
	for range n {
		from, to := low, end // the last tick in [low, end]
		for from < to {
			middle := from + (to-from)/2
			if next, ok := w.next(time.Unix(middle, 0)); ok && next.Unix() <= end {
				from = next.Unix()
			} else {
				to = middle
			}
		}
		if from <= low {
			return first
		}
		end = from - 1
		at = time.Unix(from, 0)
	}
	return at
}
