// Package wake hears what the database notifies. Wakes are hints: they may be late, doubled or lost, and nothing may
// depend on one arriving. It knows nothing of jobs.
package wake

import (
	"context"
	"crypto/tls"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Listener keeps one connection listening and reconnects for ever.
type Listener struct {
	// Connect makes a connection of the listener's own.
	Connect func(context.Context) (*pgx.Conn, error)
	// Channels are listened to. Names are quoted.
	Channels []string
	// On gets every notification, and one with an empty channel after every connect, because anything may have been
	// missed until then. It must not block.
	On func(channel, payload string)
	// Log gets lost and regained connections; nil is silent.
	Log *slog.Logger
}

// Run listens until ctx ends. A connection that fails is made again after a growing, jittered pause of at most ten
// seconds.
func (l *Listener) Run(ctx context.Context) error {
	log := l.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	failures := 0
	for ctx.Err() == nil {
		err := l.listen(ctx, func() {
			if failures > 0 {
				log.Info("listening again", "failures", failures)
			}
			failures = 0
		})
		if ctx.Err() != nil {
			break
		}
		failures++
		log.Warn("listen: lost the connection; jobs are found by polling until it is back", "error", err, "failures", failures)
		select {
		case <-ctx.Done():
		case <-time.After(Backoff(failures)):
		}
	}
	return nil
}

func (l *Listener) listen(ctx context.Context, connected func()) error {
	conn, err := l.Connect(ctx)
	if err != nil {
		return err
	}
	defer Close(conn)
	for _, channel := range l.Channels {
		if _, err := conn.Exec(ctx, "listen "+pgx.Identifier{channel}.Sanitize()); err != nil {
			return err
		}
	}
	connected()
	l.On("", "")
	for {
		n, err := conn.WaitForNotification(ctx)
		if err != nil {
			return err
		}
		l.On(n.Channel, n.Payload)
	}
}

// Backoff is how long to wait after the n-th failure in a row: 50 ms, doubled up to 10 s, half of it by chance, so
// that many processes do not come back at once.
func Backoff(n int) time.Duration {
	d := min(50*time.Millisecond<<min(n-1, 8), 10*time.Second)
	return d/2 + rand.N(d/2+1)
}

// Connector makes connections like those of the pool, outside of it: for sessions that are kept. A server that has refused TLS where it is only preferred (sslmode=prefer) is first asked
// without it the next time: each try costs it a process.
func Connector(pool *pgxpool.Pool) func(context.Context) (*pgx.Conn, error) {
	var refused atomic.Bool
	return func(ctx context.Context) (*pgx.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		cfg := pool.Config()
		conf := cfg.ConnConfig.Copy()
		if cfg.BeforeConnect != nil {
			if err := cfg.BeforeConnect(ctx, conf); err != nil {
				return nil, err
			}
		}
		conf.OnNotification = nil // the pool's own would take what we wait for
		if refused.Load() {
			plainFirst(&conf.Config)
		}
		conn, err := pgx.ConnectConfig(ctx, conf)
		if err != nil {
			return nil, err
		}
		_, encrypted := conn.PgConn().Conn().(*tls.Conn)
		refused.Store(!encrypted && conf.TLSConfig != nil || refused.Load() && !encrypted)
		if cfg.AfterConnect != nil {
			if err := cfg.AfterConnect(ctx, conn); err != nil {
				Close(conn)
				return nil, err
			}
		}
		return conn, nil
	}
}

// plainFirst puts a host's way without TLS in front of the one with it, where both are allowed.
func plainFirst(conf *pgconn.Config) {
	ways := []*pgconn.FallbackConfig{{Host: conf.Host, Port: conf.Port, TLSConfig: conf.TLSConfig}}
	ways = append(ways, conf.Fallbacks...)
	for i := 1; i < len(ways); i++ {
		if a, b := ways[i-1], ways[i]; a.Host == b.Host && a.Port == b.Port && a.TLSConfig != nil && b.TLSConfig == nil {
			ways[i-1], ways[i] = b, a
		}
	}
	conf.Host, conf.Port, conf.TLSConfig, conf.Fallbacks = ways[0].Host, ways[0].Port, ways[0].TLSConfig, ways[1:]
}

// Close says goodbye to the server, for at most a second, whatever the caller's context says.
func Close(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	conn.Close(ctx)
}
