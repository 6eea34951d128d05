package worker_test

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/worker"
)

// slowCommit keeps claims from being committed while the lock of hold is held.
func (s *stage) slowCommit() (hold func() (release func())) {
	// Not to be cancelled: a client whose connection breaks asks for that, and then there would be nothing to commit.
	s.exec(`create function public.wait_at_commit() returns trigger language plpgsql as $$
		begin
		  loop
		    begin
		      perform pg_catalog.pg_advisory_xact_lock_shared(4711);
		      return null;
		    exception when query_canceled then
		      null;
		    end;
		  end loop;
		end $$`)
	s.exec(`create constraint trigger wait_at_commit after insert on offstage_private.lease
		deferrable initially deferred for each row execute function public.wait_at_commit()`)
	return func() func() {
		conn := s.db.Conn(s.t)
		if _, err := conn.Exec(s.ctx(), "select pg_advisory_lock(4711)"); err != nil {
			s.t.Fatal(err)
		}
		return func() {
			if err := conn.Close(context.Background()); err != nil {
				s.t.Error(err)
			}
		}
	}
}

// waitsToCommit are the sessions whose claims slowCommit holds up, in this database: pg_locks shows those of all.
const waitsToCommit = ` from pg_locks join pg_database d on d.oid = database and datname = current_database()
	where locktype = 'advisory' and objid = 4711 and not granted`

// A job starts while its claim is still being committed; what must see the claim waits for it.
func TestStartsBeforeCommit(t *testing.T) {
	s := newStage(t)
	hold := s.slowCommit()
	started := make(chan none)
	w := s.worker(worker.Config{})
	worker.Handle(w, "early", func(ctx context.Context, job *worker.Job[none]) (none, error) {
		close(started)
		if err := worker.Progress(ctx, 50, "half"); err != nil {
			return none{}, err
		}
		return none{}, pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error { return worker.Complete(ctx, tx, "done") })
	})
	release := hold()
	id := s.add("early", nil)
	s.run(w)
	<-started
	if n := one[int](s, "select count(*) from offstage_private.lease"); n != 0 {
		t.Errorf("%d leases are committed", n)
	}
	release()
	if st := s.outcome(id); st.Outcome != "succeeded" || string(st.Result) != `"done"` {
		t.Errorf("it ended as %+v", st)
	}
}

// The connection breaks before the claim is committed: the attempt that has begun is cancelled, and the second run is
// on record as a rescue.
func TestNeverCommitted(t *testing.T) { neverCommitted(t, "") }

// The same of a worker that is declared dead before it can ask what has become of the claim.
func TestNeverCommittedOfTheDead(t *testing.T) {
	neverCommitted(t, "update offstage_private.worker set dead_at = offstage_private.clock()")
}

func neverCommitted(t *testing.T, meanwhile string) {
	s := newStage(t)
	hold := s.slowCommit()
	causes := make(chan error, 1)
	runs := make(chan int32, 10)
	w := s.worker(worker.Config{})
	var n atomic.Int32
	worker.Handle(w, "early", func(ctx context.Context, job *worker.Job[none]) (none, error) {
		run := n.Add(1)
		runs <- run
		if run == 1 {
			<-ctx.Done()
			causes <- context.Cause(ctx)
			return none{}, ctx.Err()
		}
		return none{}, nil
	})
	release := hold()
	id := s.add("early", nil)
	s.run(w)
	if n := <-runs; n != 1 {
		t.Fatalf("run %d came first", n)
	}
	s.eventually(func() bool { return one[int](s, `select count(*)`+waitsToCommit) > 0 }, "no claim waits to be committed")
	if meanwhile != "" {
		s.exec(meanwhile)
	}
	s.exec(`select pg_terminate_backend(pid)` + waitsToCommit)
	release()
	select {
	case err := <-causes:
		if !errors.Is(err, offstage.ErrLost) {
			t.Errorf("the first run ended because of %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the first run was not cancelled")
	}
	if st := s.outcome(id); st.Outcome != "succeeded" {
		t.Errorf("it ended as %+v", st)
	}
	s.eventually(func() bool {
		h := s.history(id)
		slices.Sort(h)
		return slices.Equal(h, []string{"rescued", "succeeded"})
	}, "history is %v", s.history(id))
	s.empty()
}

// line is a network that can break without the server's noticing at once: it is busy, and does not read.
type line struct {
	mu    sync.Mutex
	conns []net.Conn
}

func (l *line) through(c *pgxpool.Config) {
	dial := c.ConnConfig.DialFunc
	c.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err == nil {
			l.mu.Lock()
			l.conns = append(l.conns, conn)
			l.mu.Unlock()
		}
		return conn, err
	}
}

func (l *line) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.conns {
		c.Close()
	}
	l.conns = nil
}

// The connection breaks while the claim is being committed, and the server commits it after the worker has looked for it
// and given it up: its jobs do not wait for the worker's end.
func TestCommittedTooLate(t *testing.T) {
	s := newStage(t)
	hold := s.slowCommit()
	var net line
	w, err := worker.New(s.db.Pool(t, net.through), worker.Config{Log: quiet(), PollInterval: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	causes := make(chan error, 1)
	running := make(chan none)
	var n atomic.Int32
	worker.Handle(w, "early", func(ctx context.Context, job *worker.Job[none]) (none, error) {
		if n.Add(1) == 1 {
			close(running)
			<-ctx.Done()
			causes <- context.Cause(ctx)
			return none{}, ctx.Err()
		}
		return none{}, nil
	})
	release := hold()
	id := s.add("early", nil)
	s.run(w)
	<-running
	// Before it waits, what the worker asks for when its connection breaks, to cancel, would roll the claim back.
	s.eventually(func() bool {
		return one[int](s, `select count(*)`+waitsToCommit) > 0
	}, "no claim waits to be committed")
	net.cut()
	if err := <-causes; !errors.Is(err, offstage.ErrLost) {
		t.Errorf("the first run ended because of %v", err)
	}
	s.eventually(func() bool { return slices.Equal(s.history(id), []string{"rescued"}) }, "the first run is not on record")
	if n := one[int](s, "select count(*) from offstage_private.lease"); n != 0 {
		t.Fatalf("%d leases are committed too early", n)
	}
	release()
	if st := s.outcome(id); st.Outcome != "succeeded" {
		t.Errorf("it ended as %+v", st)
	}
	if h := s.history(id); !slices.Equal(h, []string{"rescued", "released", "succeeded"}) {
		t.Errorf("history is %v", h)
	}
	s.empty()
}

// A commit that takes long does not keep the worker from looking at everything for many times as long: what comes in front of its marks is started as soon as it is woken.
func TestSlowCommitOnce(t *testing.T) {
	s := newStage(t)
	hold := s.slowCommit()
	w := s.worker(worker.Config{PollInterval: time.Hour})
	worker.Handle(w, "tick", func(context.Context, *worker.Job[none]) (none, error) { return none{}, nil })
	s.run(w)
	queue := offstage.Options{Queue: "q"} // for a job of a queue nobody takes an offer
	s.outcome(s.add("tick", nil, queue))
	release := hold()
	slow := s.add("tick", nil, queue)
	s.eventually(func() bool { return one[int](s, "select count(*)"+waitsToCommit) > 0 }, "no claim waits for its commit")
	s.exec("select pg_sleep(1)")
	release()
	s.outcome(slow)
	begun := time.Now()
	queue.RunAt = time.Unix(0, 0)
	s.outcome(s.add("tick", nil, queue))
	if took := time.Since(begun); took > 10*time.Second {
		t.Errorf("after a commit that took a second, the next job waited %v", took)
	}
}
