package worker

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/internal/store"
	"github.com/offstage-dev/offstage/internal/wake"
)

// A worker is dead for others when five beats are missing. It must have let go by itself before: at three it claims
// nothing more, at four its attempts are cancelled. Beats count from when they were sent, on this process's own
// clock, so that a stopped process (SIGSTOP, a suspended machine) knows as soon as it goes on.
const (
	quietAfter = 3
	letGoAfter = 4
)

// beater beats once a period, and at once when kicked: over a connection of its own or, while that cannot be had, over the lead's. Where many workers start at once, or come back to
// a server that was gone, each new connection takes seconds, and whoever beat over it only would be declared dead, come back, and keep the server from all that is useful.
func (s *session) beater(ctx context.Context) error {
	line := beatLine{s: s}
	defer line.close()
	defer s.roundsEnd(beating)
	settings := int64(-1)
	for failures := 0; ; {
		period := time.Duration(s.period.Load())
		s.round(beating, time.Now())
		var sent time.Time
		var read *clock
		var beat store.Beat
		err := line.over(ctx, period, func(ctx context.Context, conn *pgx.Conn) (err error) {
			sent = time.Now()
			beat, err = s.store.Heartbeat(ctx, conn, s.id, s.turns.leaves(), s.ear.deaf())
			read = newClock(sent, beat.Clock)
			if err == nil && beat.Alive && beat.Settings != settings {
				all, err := s.store.TaskSettings(ctx, conn, s.taskIDs)
				if err != nil {
					return err
				}
				s.know(all)
				settings = beat.Settings
			}
			return err
		})
		wait := period
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			failures++
			s.log.Warn("heartbeat failed", "error", err, "failures", failures)
			s.failed(err)
			if errors.Is(err, offstage.ErrNotInstalled) {
				s.turns.end(err)
			}
			wait = min(wake.Backoff(failures), period)
		case !beat.Alive:
			s.turns.end(errDeclaredDead)
			return nil
		default:
			failures = 0
			s.lastBeat.Store(&sent)
			s.clock.Store(read)
			s.period.Store(int64(beat.Period))
			s.cancelled.Store(&beat.Cancelled)
			s.cancelJobs(beat.Cancelled)
			s.turns.strays(beat.Leases)
			s.heed(beat.Wanted)
			if err := s.checkVersion(beat.Breaking); err != nil {
				s.turns.endGracefully(err)
			}
			s.turns.unstick()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-s.beatNow:
		case <-time.After(wait):
		}
	}
}

// beatLine is what the beater beats over.
type beatLine struct {
	s        *session
	conn     *pgx.Conn
	making   chan made // one is being made
	lost     error     // why the last one could not be
	failures int       // in a row,
	again    time.Time // and when to try again
}

type made struct {
	conn *pgx.Conn
	err  error
}

// over does something over the beater's connection if there is one, or comes before the next beat is due; otherwise over the lead's.
func (l *beatLine) over(ctx context.Context, period time.Duration, do func(context.Context, *pgx.Conn) error) error {
	l.connect(ctx, time.Until(l.s.lastBeat.Load().Add(period)))
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if l.conn == nil {
		err := l.s.turns.lend(ctx, 2*period, func(conn *pgx.Conn) error {
			ctx, cancel := context.WithTimeout(ctx, turnTimeout)
			defer cancel()
			return do(ctx, conn)
		})
		if errors.Is(err, errNotLent) && l.lost != nil {
			return l.lost
		}
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*period)
	defer cancel()
	err := do(ctx, l.conn)
	if err != nil {
		wake.Close(l.conn)
		l.conn = nil
	}
	return err
}

// connect waits so long for a connection, which goes on being made when that is over.
func (l *beatLine) connect(ctx context.Context, wait time.Duration) {
	if l.conn != nil {
		return
	}
	if l.making == nil {
		if time.Now().Before(l.again) {
			return
		}
		l.making = make(chan made, 1)
		go func(done chan<- made) {
			conn, err := l.s.w.connect(ctx)
			done <- made{conn, err}
		}(l.making)
	}
	select {
	case m := <-l.making:
		l.making, l.conn, l.lost = nil, m.conn, m.err
		if m.err == nil {
			l.failures = 0
			return
		}
		l.failures++
		l.again = time.Now().Add(wake.Backoff(l.failures))
		if l.failures == 1 && ctx.Err() == nil {
			l.s.log.Warn("heartbeats have no connection of their own, and go over the one that claims", "error", m.err)
		}
	case <-time.After(wait):
	case <-ctx.Done():
	}
}

func (l *beatLine) close() {
	if l.making != nil {
		l.conn = (<-l.making).conn
	}
	if l.conn != nil {
		wake.Close(l.conn)
	}
}

// heed does what somebody wants of the worker, and has the next beat say so at once. A stop cannot be taken back.
func (s *session) heed(wanted store.Wish) {
	if wanted == s.wanted || s.wanted == store.WantStop {
		return
	}
	s.wanted = wanted
	switch wanted {
	case store.WantStop:
		s.log.Info("worker was told to stop", "running", s.runningNow())
		s.turns.leave()
		return // the next beat says so
	case store.WantDrain:
		s.log.Info("worker was drained: it claims nothing more, and finishes what runs", "running", s.runningNow())
	default:
		s.log.Info("worker goes on")
	}
	s.turns.drain(wanted == store.WantDrain)
	kick(s.beatNow)
}

// watchdog acts while no beat lands.
func (s *session) watchdog(ctx context.Context) error {
	letGo := false
	for {
		period := time.Duration(s.period.Load())
		silent := time.Since(*s.lastBeat.Load())
		s.turns.hold(silent > quietAfter*period)
		if silent > letGoAfter*period {
			if !letGo {
				letGo = true
				s.log.Error("no heartbeat has landed for too long: cancelling all attempts, before others may take the jobs", "silent", silent)
			}
			s.each(func(a *attempt) { a.cancel(offstage.ErrLost) })
		} else {
			letGo = false
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(period / 8):
		}
	}
}

// cancelJobs cancels the attempts among these jobs that run, and the suspects that wait. What is ready is looked up when it starts.
func (s *session) cancelJobs(reasons map[int64]string) {
	if len(reasons) == 0 {
		return
	}
	s.each(func(a *attempt) {
		if reason, ok := reasons[a.job.ID]; ok {
			a.cancel(cancelledBy(reason))
		}
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.turns.takeSuspects(func(a *attempt) bool { _, ok := reasons[a.job.ID]; return ok }) {
		s.turns.skip(a, a.end("cancel", cancelledBy(reasons[a.job.ID])))
	}
	kick(s.turns.kicks[0])
}

// each calls f for every attempt that runs.
func (s *session) each(f func(*attempt)) {
	for i := range s.current {
		if a := s.current[i].Load(); a != nil {
			f(a)
		}
	}
}

// cancelAll cancels all attempts, also those that are about to start.
func (s *session) cancelAll(cause error) {
	s.cause.Store(&cause)
	s.each(func(a *attempt) { a.cancel(cause) })
}
