package maintain_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/offstage-dev/offstage/internal/cron"
	"github.com/offstage-dev/offstage/internal/maintain"
	"github.com/offstage-dev/offstage/internal/pgtest"
	"github.com/offstage-dev/offstage/internal/store"
)

// stretched is a database with a clock of its own, decades away from the processes', which the test moves.
func stretched(t *testing.T) *pgx.Conn {
	t.Helper()
	conn := pgtest.New(t).Conn(t)
	pgtest.Do(t, conn, `create schema t`)
	pgtest.Do(t, conn, `create table t.clock (at timestamptz not null)`)
	pgtest.Do(t, conn, `insert into t.clock values ('2099-12-31 23:59:30.5 UTC')`)
	pgtest.Do(t, conn, `create or replace function offstage_private.clock() returns timestamptz language sql volatile as 'select at from t.clock'`)
	return conn
}

// fragile is a connection that breaks after so many bytes, in either direction: also when a commit has been sent and its
// answer has not come.
type fragile struct {
	net.Conn
	left *atomic.Int64
}

var errBroken = errors.New("the test broke the connection")

func (c fragile) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.left.Add(-int64(n)) < 0 {
		c.Close()
		return 0, errBroken
	}
	return n, err
}

func (c fragile) Write(b []byte) (int, error) {
	if left := c.left.Add(-int64(len(b))); left < 0 {
		n, _ := c.Conn.Write(b[:max(int64(len(b))+left, 0)]) // a part of it has left
		c.Close()
		return n, errBroken
	}
	return c.Conn.Write(b)
}

// An hour of a database whose workers are killed at any point of a tick, all of them at it at once: the advisory lock that
// saves them work is taken away. Each schedule has exactly the ticks that it should have.
func TestTicksAreExact(t *testing.T) {
	t.Parallel()
	conn := stretched(t)
	ctx := t.Context()
	source := pgtest.One[string](t, conn, "select pg_catalog.pg_get_functiondef('offstage.due_schedules'::regproc)")
	const lock = "pg_try_advisory_xact_lock(hashtext('offstage'), -8)"
	if !strings.Contains(source, lock) {
		t.Fatalf("due_schedules does not take its lock as this test knows it:\n%s", source)
	}
	pgtest.Do(t, conn, strings.ReplaceAll(source, lock, "true"))

	expressions := map[string]string{ // by name; those with a ! make up for everything, the others rely on the one that lives
		"minutes": "* * * * *", "minutes!": "* * * * *", "seconds": "*/10 * * * * *", "seconds!": "*/10 * * * * *", "hour": "@hourly", "odd!": "7-59/13 0 * * *",
		"lists": "0,5,59 0,1 1 JAN FRI", "file": "*/2 * * * *", "file!": "*/3 * * * *",
	}
	var files []store.Schedule
	for name, expression := range expressions {
		options, catchup := "{}", ""
		if strings.HasSuffix(name, "!") {
			options, catchup = `{"catchup": "all"}`, "all"
		}
		if strings.HasPrefix(name, "file") {
			files = append(files, store.Schedule{Name: name, Task: name, Expression: expression, Catchup: catchup})
			continue
		}
		pgtest.Do(t, conn, "select offstage.add_schedule($1, $1, $2, null, $3)", name, expression, options)
	}

	seed := uint64(time.Now().UnixNano())
	connect := func(r *rand.Rand) (*pgx.Conn, error) {
		cfg := conn.Config().Copy()
		left := new(atomic.Int64)
		left.Store(3000 + r.Int64N(20000)) // to connect takes less
		cfg.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := (&net.Dialer{}).DialContext(ctx, network, addr)
			return fragile{c, left}, err
		}
		return pgx.ConnectConfig(ctx, cfg)
	}
	var over atomic.Bool
	var broken, lives atomic.Int64
	// A process looks as often as it can, until its connection breaks. One of them lives on and connects again.
	newTicker := func() *maintain.Ticker {
		ticker := maintain.NewTicker(slog.New(slog.DiscardHandler))
		ticker.Patience = time.Hour
		ticker.Set("crontab", files)
		lives.Add(1)
		return ticker
	}
	process := func(n uint64, ticker *maintain.Ticker) error {
		r := rand.New(rand.NewPCG(seed, n))
		survives := ticker != nil
		for !over.Load() {
			if !survives {
				ticker = newTicker()
			}
			c, err := connect(r)
			if err != nil {
				continue
			}
			for !over.Load() {
				ticker.Look()
				if _, err := maintain.Turn(ticker, ctx, c, store.New("offstage")); err != nil {
					broken.Add(1)
					break
				}
			}
			c.Close(ctx)
		}
		return nil
	}
	survivor := newTicker() // it has seen all of them before the first is due
	if _, err := maintain.Turn(survivor, ctx, conn, store.New("offstage")); err != nil {
		t.Fatal(err)
	}
	var processes errgroup.Group
	processes.Go(func() error { return process(0, survivor) })
	for n := range uint64(2) {
		processes.Go(func() error { return process(n+1, nil) })
	}

	begin := pgtest.One[time.Time](t, conn, "select at from t.clock")
	end := begin.Add(time.Hour)
	for at := begin; at.Before(end) && !t.Failed(); {
		at = at.Add(time.Duration(1+rand.IntN(20_000)) * time.Millisecond)
		if at.After(end) {
			at = end
		}
		pgtest.Do(t, conn, "update t.clock set at = $1", at)
		pgtest.Do(t, conn, "select pg_sleep(0.005)") // the processes look meanwhile, or do not
	}
	ready := func() error {
		for name, expression := range expressions {
			late := pgtest.One[bool](t, conn, "select s.next_at is null or s.due_at <= $2 from offstage_private.schedule s where s.name = $1", name, end)
			if late {
				return fmt.Errorf("%s (%s) is not done", name, expression)
			}
		}
		return nil
	}
	pgtest.Eventually(t, time.Minute, ready)
	over.Store(true)
	if err := processes.Wait(); err != nil {
		t.Fatal(err)
	}

	for name, expression := range expressions {
		e, err := cron.Parse(expression, time.UTC)
		if err != nil {
			t.Fatal(err)
		}
		var want []string
		for next, ok := e.Next(begin); ok && !next.After(end); next, ok = e.Next(next) {
			want = append(want, next.UTC().Format("2006-01-02T15:04:05.000Z"))
		}
		got := pgtest.List[string](t, conn, `select j.payload -> '_cron' ->> 'ts' from offstage_private.job j join offstage_private.task t on t.id = j.task_id
			where t.name = $1 order by 1`, name)
		if strings.Join(got, " ") != strings.Join(want, " ") {
			t.Errorf("%s (%s) has the ticks\n%v\nexpected\n%v\n(seed %d)", name, expression, got, want, seed)
		}
		if n := pgtest.One[int](t, conn, "select ticks from offstage.schedules where name = $1", name); n != len(want) {
			t.Errorf("%s counts %d ticks, expected %d", name, n, len(want))
		}
	}
	t.Logf("%d lives, %d broken connections", lives.Load(), broken.Load())
	if broken.Load() < 5 {
		t.Errorf("only %d connections were broken", broken.Load())
	}
}
