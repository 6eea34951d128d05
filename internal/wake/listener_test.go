package wake_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/offstage-dev/offstage/internal/pgtest"
	"github.com/offstage-dev/offstage/internal/wake"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

type note struct{ channel, payload string }

// listen runs a listener until stop is called, or the test ends; stop waits for Run to return.
func listen(t *testing.T, l *wake.Listener) (heard <-chan note, stop func()) {
	t.Helper()
	ch := make(chan note, 1000)
	l.On = func(channel, payload string) { ch <- note{channel, payload} }
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("run: %v", err)
			}
		case <-time.After(20 * time.Second):
			t.Error("the listener did not stop")
		}
	}
	t.Cleanup(stop)
	return ch, stop
}

func next(t *testing.T, heard <-chan note) note {
	t.Helper()
	select {
	case n := <-heard:
		return n
	case <-time.After(20 * time.Second):
		t.Fatal("nothing was heard")
		return note{}
	}
}

func notify(t *testing.T, pool *pgxpool.Pool, channel, payload string) {
	t.Helper()
	if _, err := pool.Exec(t.Context(), "select pg_catalog.pg_notify($1, $2)", channel, payload); err != nil {
		t.Fatal(err)
	}
}

// A pool whose connections have a handler for notifications keeps it to itself.
func TestListenerBesideAHandler(t *testing.T) {
	t.Parallel()
	pool := pgtest.Bare(t).Pool(t, func(c *pgxpool.Config) {
		c.ConnConfig.OnNotification = func(*pgconn.PgConn, *pgconn.Notification) {}
	})
	heard, _ := listen(t, &wake.Listener{Connect: wake.Connector(pool), Channels: []string{"c"}})
	if n := next(t, heard); n != (note{}) {
		t.Errorf("heard %+v, expected word of the connection", n)
	}
	notify(t, pool, "c", "hello")
	if n := next(t, heard); n != (note{"c", "hello"}) {
		t.Errorf("heard %+v", n)
	}
}

func TestListener(t *testing.T) {
	t.Parallel()
	db := pgtest.Bare(t)
	pool := db.Pool(t)
	odd := `it's "odd": ü`
	heard, stop := listen(t, &wake.Listener{Connect: wake.Connector(pool), Channels: []string{"a", odd}})
	if n := next(t, heard); n != (note{}) {
		t.Errorf("first it heard %+v, expected to be told of the connection", n)
	}
	for _, n := range []note{{"a", "1"}, {odd, `"2"`}, {"a", ""}} {
		notify(t, pool, "A", "not for us")
		notify(t, pool, n.channel, n.payload)
		if got := next(t, heard); got != n {
			t.Errorf("heard %+v, expected %+v", got, n)
		}
	}
	stop()
	super := db.SuperPool(t)
	pgtest.Eventually(t, 20*time.Second, func() error { // the server ends a session after its client has gone
		if n := listeners(t, super); n != 0 {
			return fmt.Errorf("%d connections are left", n)
		}
		return nil
	})
}

// listeners counts the connections whose last statement was a LISTEN.
func listeners(t *testing.T, super *pgxpool.Pool) (n int) {
	t.Helper()
	err := super.QueryRow(t.Context(), `select count(*) from pg_catalog.pg_stat_activity
		where datname = pg_catalog.current_database() and query ilike 'listen %'`).Scan(&n)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// A connection that is lost is made again, and everybody is told, because something may have been missed.
func TestListenerReconnects(t *testing.T) {
	t.Parallel()
	db := pgtest.Bare(t)
	pool, super := db.Pool(t), db.SuperPool(t)
	heard, _ := listen(t, &wake.Listener{Connect: wake.Connector(pool), Channels: []string{"a"}})
	const lost = "sent while perhaps nobody listens"
	hear := func() note {
		t.Helper()
		n := next(t, heard)
		for n.payload == lost {
			n = next(t, heard)
		}
		return n
	}
	for range 3 {
		if n := hear(); n != (note{}) {
			t.Fatalf("heard %+v, expected to be told of the connection", n)
		}
		notify(t, pool, "a", "before")
		if n := hear(); n != (note{"a", "before"}) {
			t.Fatalf("heard %+v", n)
		}
		if _, err := super.Exec(t.Context(), `select pg_catalog.pg_terminate_backend(pid) from pg_catalog.pg_stat_activity
			where datname = pg_catalog.current_database() and query ilike 'listen %'`); err != nil {
			t.Fatal(err)
		}
		notify(t, pool, "a", lost)
	}
	if n := hear(); n != (note{}) {
		t.Fatalf("heard %+v", n)
	}
}

// While no connection can be made it tries again, more and more rarely, and stops when it is told to.
func TestListenerWithoutDatabase(t *testing.T) {
	t.Parallel()
	db := pgtest.Bare(t)
	connect := wake.Connector(db.Pool(t))
	var tries atomic.Int32
	heard, _ := listen(t, &wake.Listener{Channels: []string{"a"}, Connect: func(ctx context.Context) (*pgx.Conn, error) {
		if tries.Add(1) < 4 {
			return nil, errors.New("no route to host")
		}
		return connect(ctx)
	}})
	began := time.Now()
	if n := next(t, heard); n != (note{}) || tries.Load() != 4 {
		t.Errorf("heard %+v after %d tries", n, tries.Load())
	}
	if waited := time.Since(began); waited > 5*time.Second { // 50, 100 and 200 ms at most
		t.Errorf("it took %v", waited)
	}

	failed := make(chan struct{}, 100)
	_, stop := listen(t, &wake.Listener{Connect: func(context.Context) (*pgx.Conn, error) {
		failed <- struct{}{}
		return nil, errors.New("no route to host")
	}})
	for range 5 {
		<-failed
	}
	asked := time.Now()
	stop()
	if took := time.Since(asked); took > 2*time.Second {
		t.Errorf("it took %v to stop", took)
	}
}

func TestBackoff(t *testing.T) {
	t.Parallel()
	for n := 1; n <= 70; n++ {
		most := 10 * time.Second
		if n < 9 {
			most = 50 * time.Millisecond << (n - 1)
		}
		seen := map[time.Duration]bool{}
		for range 200 {
			d := wake.Backoff(n)
			if d < most/2 || d > most {
				t.Fatalf("after failure %d it waits %v, expected %v to %v", n, d, most/2, most)
			}
			seen[d] = true
		}
		if len(seen) < 100 {
			t.Errorf("after failure %d there are only %d different waits in 200", n, len(seen))
		}
	}
	if d := wake.Backoff(1 << 40); d > 10*time.Second {
		t.Errorf("it waits %v", d)
	}
}

// A connection of the listener's own is like those of the pool.
func TestConnector(t *testing.T) {
	t.Parallel()
	db := pgtest.Bare(t)
	refuse := errors.New("refused")
	var broken atomic.Bool
	var closed *pgx.Conn
	pool := db.Pool(t, func(c *pgxpool.Config) {
		c.BeforeConnect = func(_ context.Context, c *pgx.ConnConfig) error {
			c.RuntimeParams["application_name"] = "changed on the way"
			return nil
		}
		c.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
			if broken.Load() {
				closed = conn
				return refuse
			}
			_, err := conn.Exec(ctx, "select pg_catalog.set_config('my.setting', 'here', false)")
			return err
		}
	})
	connect := wake.Connector(pool)
	conn, err := connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer wake.Close(conn)
	var name, setting string
	if err := conn.QueryRow(t.Context(), "select pg_catalog.current_setting('application_name'), pg_catalog.current_setting('my.setting')").
		Scan(&name, &setting); err != nil || name != "changed on the way" || setting != "here" {
		t.Errorf("the connection has %q and %q, %v", name, setting, err)
	}
	if pool.Stat().TotalConns() != 0 {
		t.Error("it is one of the pool's")
	}
	broken.Store(true)
	if _, err := connect(t.Context()); !errors.Is(err, refuse) || !closed.IsClosed() {
		t.Errorf("a connection that AfterConnect refused: %v, closed %t", err, closed.IsClosed())
	}
}

// A server that has no TLS is asked for it once, where it is only preferred.
func TestConnectorRemembersTLS(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	direct := db.Pool(t).Config().ConnConfig
	var dials atomic.Int32
	pool := db.Pool(t, func(cfg *pgxpool.Config) {
		preferred, err := pgx.ParseConfig(fmt.Sprintf("host=%s port=%d user=%s password=%s dbname=%s sslmode=prefer", direct.Host, direct.Port, direct.User, direct.Password, direct.Database))
		if err != nil {
			t.Fatal(err)
		}
		dial := preferred.DialFunc
		preferred.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
			dials.Add(1)
			return dial(ctx, network, addr)
		}
		cfg.ConnConfig = preferred
	})
	connect := wake.Connector(pool)
	for i, most := range []int32{2, 1, 1} {
		dials.Store(0)
		conn, err := connect(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		wake.Close(conn)
		if n := dials.Load(); n != most {
			t.Errorf("connection %d took %d dials, expected %d", i+1, n, most)
		}
	}
}
