package worker

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/internal/store"
	"github.com/offstage-dev/offstage/internal/wake"
)

// What attempts tell while they run reaches the database in one call for all of them. An attempt that is over sooner than
// reportAfter costs no call of its own: what it has told goes with its settle.
const (
	reportAfter   = 100 * time.Millisecond // from the first line on
	reportEvery   = 250 * time.Millisecond // at most
	reportSize    = 1 << 20                // bytes in one call, about
	reportTimeout = 5 * time.Second
	reportIdle    = time.Minute // then the connection is closed
)

// report is what one attempt has to tell: the lines of its log, and how far it is. It is made when the attempt first has
// something to tell. Handlers tell from many goroutines, and after they have returned; the reporter sends; what is left
// when the attempt has ended goes with its settle, and what comes later goes nowhere.
type report struct {
	once   sync.Once
	logger *slog.Logger

	mu      sync.Mutex // guards what is below
	lines   lines
	percent *float32 // the latest, if it is not stored
	message string
	since   time.Time // when the first was told of what is to be sent; zero: nothing is
	over    bool      // nothing more is taken

	// Under session.mu: an attempt is not settled while something of it is under way, so that no two transactions
	// write the same lines.
	flying bool
	ended  *attempt // it has ended meanwhile
}

// reports is the attempt's report, which is made if there is none.
func (a *attempt) reports() *report {
	r := a.report.Load()
	if r == nil {
		a.report.CompareAndSwap(nil, &report{})
		r = a.report.Load()
	}
	return r
}

// keep takes a line of the attempt's log.
func (a *attempt) keep(level slog.Level, message string, attrs []slog.Attr) {
	line := store.Line{Level: strings.ToLower(level.String()), Message: strings.Clone(storable(message, longestLine)), Attrs: encodeAttrs(attrs)}
	a.tell(func(r *report, now time.Time) bool {
		line.After = max(now.Sub(a.arrival.at), 0).Seconds()
		return r.lines.add(line)
	})
}

// progress takes how far the attempt is.
func (a *attempt) progress(percent float32, message string) {
	message = storable(message, 1000)
	a.tell(func(r *report, _ time.Time) bool {
		r.percent, r.message = &percent, message
		return true
	})
}

// tell lets f write to the report, and wakes the reporter if f says that there is something to send.
func (a *attempt) tell(f func(r *report, now time.Time) bool) {
	r := a.reports()
	r.mu.Lock()
	now := time.Now()
	first := !r.over && f(r, now) && r.since.IsZero()
	if first {
		r.since = now
	}
	r.mu.Unlock()
	if first {
		kick(a.s.telling)
	}
}

// rest is what the settle of an attempt has to store, the same however often it is asked.
func (r *report) rest() []store.Line {
	if r == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.over = true
	return r.lines.rest()
}

// reporter sends what attempts tell. It has a connection of its own, while they do.
func (s *session) reporter(ctx context.Context) error {
	var conn *pgx.Conn
	hangUp := func() {
		if conn != nil {
			wake.Close(conn)
			conn = nil
		}
	}
	defer hangUp()
	var sent time.Time
	for failures := 0; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-s.telling:
		case <-time.After(reportIdle):
			hangUp()
			continue
		}
		for more := true; more; {
			if !sleep(ctx, max(reportAfter, time.Until(sent.Add(reportEvery)))) {
				return nil
			}
			var batch []told
			batch, more = s.gather(time.Now())
			if len(batch) == 0 {
				continue
			}
			var err error
			if conn, err = s.sendReport(ctx, conn, batch); err == nil {
				sent, failures = time.Now(), 0
				continue
			}
			hangUp()
			failures, more = failures+1, true
			if ctx.Err() == nil {
				s.log.Warn("lines of logs and progress could not be stored, will try again", "error", err, "failures", failures)
				s.failed(err)
			}
			sleep(ctx, wake.Backoff(failures))
		}
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// told is what is sent of one attempt.
type told struct {
	*attempt
	report *report
	entry  store.Told
}

// gather takes what is to be sent; more says that something is left for the next time.
func (s *session) gather(now time.Time) (batch []told, more bool) {
	s.mu.Lock() // an attempt that ends from here on finds that it is under way; one that has ended is not among them
	defer s.mu.Unlock()
	size := 0
	s.each(func(a *attempt) {
		r := a.report.Load()
		if r == nil || a.finishing.Load() || a.arrival.lost.Load() {
			return // what called Complete may have no job any more: its lines go with its settle
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		switch {
		case r.over || r.since.IsZero():
			return
		case now.Sub(r.since) < reportAfter, size > reportSize, !a.arrival.isOver():
			more = true
			return
		}
		t := told{a, r, store.Told{Claim: a.claim, JobID: a.job.ID, Lines: r.lines.first, Percent: r.percent, Message: r.message}}
		for _, line := range t.entry.Lines {
			size += sizeOf(line)
		}
		r.since, r.percent, r.message, r.flying = time.Time{}, nil, "", true
		batch = append(batch, t)
	})
	return batch, more
}

// sendReport sends a batch over conn, which is made if there is none.
func (s *session) sendReport(ctx context.Context, conn *pgx.Conn, batch []told) (*pgx.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, reportTimeout)
	defer cancel()
	if conn == nil {
		var err error
		if conn, err = s.w.connect(ctx); err != nil {
			s.landed(batch, nil, err)
			return nil, err
		}
	}
	entries := make([]store.Told, len(batch))
	for i := range batch {
		entries[i] = batch[i].entry
	}
	gone, err := s.store.Report(ctx, conn, s.id, entries)
	if !isData(err) {
		s.landed(batch, gone, err)
		return conn, err
	}
	if len(batch) == 1 { // one that the database will not take holds up no others
		s.log.Error("the database refuses lines of a log; they are left out", "job_id", batch[0].job.ID, "task", batch[0].job.Task, "error", err)
		s.landed(batch, nil, nil)
		return conn, nil
	}
	for i := range batch {
		if conn, err = s.sendReport(ctx, conn, batch[i:i+1]); err != nil {
			s.landed(batch[i+1:], nil, err)
			return conn, err
		}
	}
	return conn, nil
}

// landed takes the answer. With an error nobody knows whether it was stored: it is sent again, and stored once.
func (s *session) landed(batch []told, gone []int64, err error) {
	var lost []*attempt
	ready := false
	s.mu.Lock()
	for _, t := range batch {
		isGone := slices.Contains(gone, t.claim)
		t.report.flying = false
		t.report.mu.Lock()
		switch {
		case err != nil, isGone && t.finishing.Load(): // its own handler has ended the job since
			t.report.back(t.entry)
		case isGone:
			t.report.over, t.report.lines = true, lines{}
			lost = append(lost, t.attempt)
		default:
			t.report.lines.stored(len(t.entry.Lines))
		}
		t.report.mu.Unlock()
		if a := t.report.ended; a != nil {
			t.report.ended = nil
			ready = s.turns.put(a) || ready
		}
	}
	s.mu.Unlock()
	for _, a := range lost {
		s.log.Warn("the claim is gone: its attempt is cancelled, and what it logs is not stored", "job_id", a.job.ID, "task", a.job.Task, "attempt", a.job.Attempt)
		a.cancel(offstage.ErrLost)
	}
	if ready {
		kick(s.turns.kicks[0])
	}
}

// back undoes that an entry was taken. mu is held.
func (r *report) back(entry store.Told) {
	r.since = time.Now().Add(-reportAfter)
	if r.percent == nil {
		r.percent, r.message = entry.Percent, entry.Message
	}
}
