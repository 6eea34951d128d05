package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/internal/maintain"
	"github.com/offstage-dev/offstage/internal/store"
	"github.com/offstage-dev/offstage/internal/wake"
	"github.com/offstage-dev/offstage/schema"
)

// errDeclaredDead ends a session whose worker has been declared dead.
var errDeclaredDead = errors.New("declared dead")

// session is one identity of a worker in the database, from register to sign_off. Its goroutines:
//
//	runner ×Jobs  start what is in ready, put what has ended into ended            run.go
//	turner ×2     settle what has ended and claim what fits, in one round trip     claim.go, settle.go
//	beater        heartbeats; learns of cancelled jobs, settings, its own death    beat.go
//	reporter      sends the logs and the progress of running attempts              report.go
//	watchdog      stops claiming, then cancels attempts, while no heartbeat lands  beat.go
//	chores        promote, ticks, rescue, statistics, tidy, indexes                 internal/maintain
//	listener      wakes, and jobs that were claimed for the worker                 internal/wake, offer.go
//	ear           tests now and then whether notifications arrive                  ear.go
//
// Fields under mu belong to whoever holds it; the others say who writes them.
type session struct {
	w       *Worker
	cfg     Config
	store   *store.Store
	log     *slog.Logger
	id      int32
	taskIDs []int32
	once    bool

	conn  *pgx.Conn             // the lead's, before it begins and after it has ended; may be nil
	begun chan struct{}         // closed when the lead has made its first turn: everything else waits for that, though not long
	base  context.Context       // of attempts; never ends, so that starting one costs no lock of a parent
	cause atomic.Pointer[error] // why all attempts are cancelled, those to come too; see cancelAll

	ready   chan *attempt             // claimed, not started; who holds mu sends, runners receive
	current []atomic.Pointer[attempt] // what each runner runs; runner i writes current[i]

	tasks     atomic.Pointer[map[int32]known]  // beater writes
	cancelled atomic.Pointer[map[int64]string] // beater writes
	period    atomic.Int64                     // of heartbeats, ns; beater writes
	lastBeat  atomic.Pointer[time.Time]        // when the last one that landed was sent; beater writes
	clock     atomic.Pointer[clock]            // the database's; beater writes
	rounds    [loops]atomic.Int64              // when each of these loops last came round; see observe.go
	wanted    store.Wish                       // what somebody wants of the worker, as far as it is heeded; beater writes
	beatNow   chan struct{}
	telling   chan struct{} // kicks the reporter
	chore     chan struct{} // kicks promote
	given     string        // the channel on which jobs arrive that somebody has claimed for the worker
	ear       ear

	mu    sync.Mutex
	turns turns
}

// known is a task of this worker, with its settings.
type known struct {
	name        string
	handler     Handler
	timeout     time.Duration
	maxAttempts int
}

// open registers the worker, drained if that is wanted, over conn (nil: a new connection), which it takes over.
func (w *Worker) open(ctx context.Context, conn *pgx.Conn, wanted store.Wish) (_ *session, err error) {
	if conn == nil {
		if conn, err = w.connect(ctx); err != nil {
			return nil, err
		}
	}
	defer func() {
		if err != nil {
			wake.Close(conn)
		}
	}()
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	var tasks []store.Task
	for _, name := range w.order {
		tasks = append(tasks, store.Task{Name: name, Settings: w.tasks[name].settings})
	}
	for name, reason := range w.cfg.Unable {
		tasks = append(tasks, store.Task{Name: name, Unable: storable(reason, 1000)})
	}
	sent := time.Now()
	r, err := w.store.Register(ctx, conn, host, os.Getpid(), offstage.Version, w.cfg.Jobs, tasks, w.cfg.ForbiddenFlags)
	if err != nil {
		return nil, err
	}
	s := &session{
		w: w, cfg: w.cfg, store: w.store, id: r.Worker, taskIDs: r.Tasks, conn: conn, begun: make(chan struct{}),
		log:     w.cfg.Log.With("worker", r.Worker),
		ready:   make(chan *attempt, 2*w.cfg.Jobs+maxAhead+1), // one is a suspect's
		current: make([]atomic.Pointer[attempt], w.cfg.Jobs),
		beatNow: make(chan struct{}, 1),
		telling: make(chan struct{}, 1),
		chore:   make(chan struct{}, 1),
		given:   store.OfferChannel(),
		ear:     ear{test: make(chan struct{}, 1)},
	}
	s.period.Store(int64(r.Period))
	s.lastBeat.Store(&sent)
	s.clock.Store(newClock(sent, r.Clock))
	s.turns.init(s)
	settings, err := w.store.TaskSettings(ctx, conn, r.Tasks)
	if err != nil {
		return nil, err
	}
	s.know(settings)
	if wanted == store.WantDrain {
		if err := w.store.StayDrained(ctx, conn, r.Worker); err != nil {
			return nil, err
		}
		s.wanted = wanted
		s.turns.drained.Store(true)
	}
	return s, nil
}

func (s *session) know(settings []store.TaskSettings) {
	m := make(map[int32]known, len(settings))
	for _, t := range settings {
		k := known{name: t.Name, handler: s.w.tasks[t.Name].handler, maxAttempts: int(t.MaxAttempts)}
		if t.Timeout != nil {
			k.timeout = *t.Timeout
		}
		m[t.ID] = k
	}
	s.tasks.Store(&m)
}

// run works until ctx ends (or, with once, until nothing is left), stops gracefully and signs off.
func (s *session) run(ctx context.Context, once bool) error {
	s.once = once
	s.base = context.WithoutCancel(ctx)
	defer func() {
		if s.conn != nil {
			wake.Close(s.conn)
		}
	}()

	// Three circles that end one after another: what claims, what runs, what keeps the claims alive meanwhile.
	alive, stopAlive := context.WithCancel(context.WithoutCancel(ctx))
	defer stopAlive()
	var keepers errgroup.Group
	keep := func(do func(context.Context) error) {
		keepers.Go(func() error {
			select { // on a machine of few cores their connections would keep the first jobs waiting
			case <-s.begun:
			case <-time.After(100 * time.Millisecond):
			case <-alive.Done():
			}
			return do(alive)
		})
	}
	keep(s.beater)
	keepers.Go(func() error { return s.watchdog(alive) })
	keepers.Go(func() error { return s.reporter(alive) })
	if once {
		if err := s.promoteOnce(ctx); err != nil {
			s.log.Warn("promote", "error", err)
		}
	}
	chores := maintain.Chores{
		Store: s.store, Connect: s.w.connect, Worker: s.id, Log: s.log, Kick: s.chore, Promoted: s.wakeUp, Failed: s.failed,
		Period: func() time.Duration { return time.Duration(s.period.Load()) },
	}
	if !once {
		chores.Ticker = s.w.ticker
		wakeChores := func() { kick(s.chore) }
		s.w.kickChores.Store(&wakeChores)
	}
	keep(chores.Run)
	listener := wake.Listener{
		Connect: s.w.connect, Channels: []string{s.given, "offstage:wake", "offstage:due", "offstage:cancel", "offstage:schedule", store.EarChannel(s.id)}, On: s.heard, Log: s.log,
	}
	keep(listener.Run)
	if !once {
		keep(s.testEar)
	}

	var runners errgroup.Group
	for i := range s.current {
		s.goRunner(&runners, i)
	}
	var turning errgroup.Group
	for i := range turners {
		turning.Go(func() error { return s.turner(i) })
	}

	s.log.Info("worker is ready", "tasks", len(s.taskIDs), "slots", s.cfg.Jobs, "schema", s.cfg.Schema)
	stopped := s.stopper(ctx, &runners)
	err := turning.Wait() // ends when everything has been settled, or cannot be any more
	s.cancelAll(offstage.ErrLost)
	s.turns.closeUnsure()
	<-stopped
	stopAlive()
	keepers.Wait()
	switch {
	case errors.Is(err, errDeclaredDead):
		s.lastWords()
	case err == nil || errors.Is(err, schema.ErrNewer):
		s.signOff()
		s.log.Info("worker has stopped")
	}
	return err
}

// lastWords sends what a dead worker could not settle any more. It is refused, and history says so.
func (s *session) lastWords() {
	s.mu.Lock()
	batch := append(s.turns.queue, s.turns.busy...)
	p := &plan{batch: batch, settle: s.turns.settleOf(batch)}
	s.mu.Unlock()
	if len(batch) == 0 {
		return
	}
	s.log.Warn("worker: results came too late and are refused", "jobs", len(batch))
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	err := s.overLead(ctx, func(conn *pgx.Conn) error {
		_, err := s.store.Turn(ctx, conn, p.settle, nil, nil, &store.Look{}, nil)
		return err
	})
	if err != nil {
		s.log.Warn("worker: could not record the refused results", "error", err)
	}
}

// stopper brings the session to its end when ctx ends or the turners are done: no new claims, what is ready goes back,
// what runs may finish for StopGrace, then is cancelled, then left alone.
func (s *session) stopper(ctx context.Context, runners *errgroup.Group) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		select {
		case <-ctx.Done():
			s.log.Info("worker is stopping", "running", s.runningNow())
		case <-s.turns.halt:
		case <-s.turns.over:
		}
		s.turns.stop()
		idle := make(chan struct{})
		go func() { runners.Wait(); close(idle) }()
		select {
		case <-idle:
			return
		case <-s.turns.over: // declared dead: nothing that still runs can be settled
			s.cancelAll(offstage.ErrLost)
		case <-time.After(s.cfg.StopGrace):
			s.log.Warn("worker: grace period is over, cancelling what still runs", "running", s.runningNow())
			s.cancelAll(offstage.ErrStopping)
		}
		select {
		case <-idle:
		case <-time.After(abandonAfter):
			s.log.Error("worker: handlers ignore their cancelled context; their jobs are released and may run twice", "running", s.runningNow())
			s.abandon()
		}
	}()
	return done
}

// abandonAfter is how long a handler may take to return once its context was cancelled for good.
const abandonAfter = 2 * time.Second

func (s *session) goRunner(g *errgroup.Group, i int) {
	g.Go(func() error {
		ended := false
		defer func() {
			if !ended { // a handler called runtime.Goexit
				s.goRunner(g, i)
			}
		}()
		for now := time.Now(); ; { // the clock is read once an attempt: it takes as long as the rest of this loop
			var a *attempt
			select {
			case a = <-s.ready:
			default:
				a = <-s.ready
				now = time.Now()
			}
			if a == nil {
				ended = true
				return nil
			}
			if s.admits(a) {
				now = s.attempt(i, a, now)
			} else {
				now = time.Now()
			}
		}
	})
}

func (s *session) runningNow() (n int) {
	for i := range s.current {
		if s.current[i].Load() != nil {
			n++
		}
	}
	return n
}

// heard gets notifications; their payload is the schema, or a job.
func (s *session) heard(channel, payload string) {
	if channel == s.given {
		s.givenJob(payload)
		return
	}
	if channel != "" && payload != s.cfg.Schema {
		return
	}
	switch channel {
	case "offstage:cancel":
		kick(s.beatNow)
	case "offstage:due":
		kick(s.chore)
	case "offstage:wake":
		s.wakeUp()
	case "offstage:schedule":
		s.w.ticker.Look()
		kick(s.chore)
	case store.EarChannel(s.id):
		s.heardTest()
	default: // connected: anything may have been missed
		s.ear.connected()
		s.turns.missed()
		s.w.ticker.Look()
		kick(s.chore)
		s.wakeUp()
	}
}

func (s *session) signOff() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	err := s.overLead(ctx, func(conn *pgx.Conn) error { return s.store.SignOff(ctx, conn, s.id) })
	if err != nil {
		s.log.Warn("worker: could not sign off; others will find it dead", "error", err)
	}
}

// overLead does something over the lead's connection, while the lead does not run; over a new one if that turns out to be lost.
func (s *session) overLead(ctx context.Context, do func(*pgx.Conn) error) error {
	for again := false; ; again = true {
		if s.conn == nil || s.conn.IsClosed() {
			conn, err := s.w.connect(ctx)
			if err != nil {
				return err
			}
			s.conn = conn
		}
		if err := do(s.conn); err == nil || again || !s.conn.IsClosed() {
			return err
		}
	}
}

func (s *session) promoteOnce(ctx context.Context) error {
	return s.overLead(ctx, func(conn *pgx.Conn) error {
		for {
			n, _, busy, err := s.store.Promote(ctx, conn, store.Chore{Name: "promote", Worker: s.id, Period: 2 * time.Second}, maxBatch, 0)
			if err != nil || busy || n < maxBatch {
				return err
			}
		}
	})
}

// checkVersion ends the session when a newer program has made a breaking change.
func (s *session) checkVersion(breaking int) error {
	if breaking <= schema.Version() {
		return nil
	}
	return fmt.Errorf("worker: the database was migrated to version %d, this program knows versions up to %d; stopping: %w",
		breaking, schema.Version(), schema.ErrNewer)
}

func kick(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// stack is the stack of a panic, without the frames of this package.
func stack() string { return string(debug.Stack()) }
