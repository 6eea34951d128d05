package offstage_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/internal/pgtest"
)

// crowd is a process of its own, as far as the database can tell: a pool, a client, and many who await.
type crowd struct {
	*stage
	ids   []int64
	hands *hands
}

const crowdName = "the crowd"

// newCrowd adds n jobs, which a worker has claimed.
func newCrowd(t testing.TB, s *stage, n int) *crowd {
	t.Helper()
	c := &crowd{stage: &stage{t: s.t, db: s.db, pool: s.db.Pool(t, func(c *pgxpool.Config) {
		c.ConnConfig.RuntimeParams["application_name"] = crowdName
	})}, hands: s.hands("t")}
	c.client = c.clientOf(offstage.Config{})
	ids, err := s.client.AddMany(t.Context(), slices.Repeat([]offstage.Spec{{Task: "t"}}, n))
	if err != nil {
		t.Fatal(err)
	}
	c.ids = ids
	for claimed := 0; claimed < n; {
		claimed += len(c.hands.claim(n))
	}
	return c
}

// settle ends all jobs in one batch, each with its id as its result.
func (c *crowd) settle(s *stage) {
	s.t.Helper()
	s.exec(`select offstage.settle($1, array_agg(c order by i), array_agg(i order by i), array_agg(to_json(i) order by i))
		from unnest($2::bigint[], $3::bigint[]) x (c, i)`, c.hands.worker, c.claims(), c.ids)
}

func (c *crowd) claims() (list []int64) {
	for _, id := range c.ids {
		list = append(list, c.hands.claims[id])
	}
	return list
}

// connections are those of the crowd.
func (c *crowd) connections(s *stage) int {
	s.t.Helper()
	return one[int](s, `select count(*) from pg_catalog.pg_stat_activity where datname = current_database() and application_name = $1`, crowdName)
}

// wait has everybody await his job, until the database knows of all.
func (c *crowd) wait(s *stage) (answers []<-chan answer[int64]) {
	s.t.Helper()
	for _, id := range c.ids {
		answers = append(answers, await[int64](c.stage, id))
	}
	pgtest.Eventually(s.t, 30*time.Second, func() error {
		if n := one[int](s, "select count(*) from offstage_private.waiter"); n != len(c.ids) {
			return fmt.Errorf("%d jobs are awaited", n)
		}
		return nil
	})
	return answers
}

// check takes the answers and says how late the last one was.
func (c *crowd) check(s *stage, answers []<-chan answer[int64], ended time.Time) (latest time.Duration) {
	s.t.Helper()
	for i, w := range answers {
		a := <-w
		if a.err != nil || a.result != c.ids[i] {
			s.t.Fatalf("job %d: await answered %d, %v", c.ids[i], a.result, a.err)
		}
		latest = max(latest, a.at.Sub(ended))
	}
	return latest
}

// A thousand who await have one connection between them, are told at once, in few notifications, and leave no connection.
func TestAThousandAwaits(t *testing.T) {
	s := newStage(t)
	c := newCrowd(t, s, 1000)
	listener := s.db.Conn(t)
	if _, err := listener.Exec(s.ctx(), `listen "offstage:settled"`); err != nil {
		t.Fatal(err)
	}
	answers := c.wait(s)
	if n := c.connections(s); n != 1 {
		t.Errorf("%d connections while all wait, expected 1", n)
	}
	c.settle(s)
	late := c.check(s, answers, time.Now())
	t.Logf("the last one was answered %v after the settle", late)
	if late > time.Second { // whoever was not told would have looked after two at most
		t.Errorf("somebody was answered %v after the settle", late)
	}
	told := map[string]bool{}
	for notifications := 0; len(told) < len(c.ids); notifications++ {
		n, err := listener.WaitForNotification(s.ctx())
		if err != nil || notifications == 3 {
			t.Fatalf("%d jobs in %d notifications, %v", len(told), notifications, err)
		}
		for _, id := range strings.Split(strings.TrimPrefix(n.Payload, "offstage:"), ",") {
			told[id] = true
		}
	}
	pgtest.Eventually(t, 20*time.Second, func() bool { return c.connections(s) == 0 })
}

// What has ended long ago is answered at once, for all in a few looks, and leaves no trace.
func TestAThousandAwaitsOfWhatHasEnded(t *testing.T) {
	s := newStage(t)
	c := newCrowd(t, s, 1000)
	c.settle(s)
	var answers []<-chan answer[int64]
	for _, id := range c.ids {
		answers = append(answers, await[int64](c.stage, id))
	}
	c.check(s, answers, time.Now())
	if n := c.connections(s); n != 1 {
		t.Errorf("%d connections, expected the pool's only", n)
	}
	if n := one[int](s, "select count(*) from offstage_private.waiter"); n != 0 {
		t.Errorf("%d rows in waiter for what need not be awaited", n)
	}
}

// With every notification lost, everybody is answered within the interval at which they look.
func TestAwaitsWithoutNotifications(t *testing.T) {
	s := newStage(t)
	c := newCrowd(t, s, 200)
	s.exec(`create or replace function offstage_private.notify_waiters(ids bigint[]) returns void language sql as 'select'`)
	answers := c.wait(s)
	c.settle(s)
	late := c.check(s, answers, time.Now())
	t.Logf("the last one was answered %v after the settle", late)
	if late > 5*time.Second { // two, and what a busy machine adds
		t.Errorf("somebody was answered %v after the settle", late)
	}
}

// Nobody can connect for a while, and then again. Who cannot wait so long is told why.
func TestAwaitOutlivesAnOutage(t *testing.T) {
	s := newStage(t)
	c := newCrowd(t, s, 3)
	answers := c.wait(s)
	super := pgtest.Bare(t).SuperPool(t) // of another database
	database := pgx.Identifier{s.db.Name}.Sanitize()
	pgtest.Do(t, super, "alter database "+database+" with allow_connections false")
	pgtest.Do(t, super, `select pg_catalog.pg_terminate_backend(pid) from pg_catalog.pg_stat_activity where application_name = $1 and datname = $2`, crowdName, s.db.Name)
	pgtest.Eventually(t, 20*time.Second, func() error {
		ctx, cancel := context.WithTimeout(s.ctx(), 200*time.Millisecond)
		defer cancel()
		_, err := offstage.Await[any](ctx, c.client, c.ids[0])
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "the database could not be asked") {
			return fmt.Errorf("await answered %w", err)
		}
		return nil
	})
	c.settle(s) // by a connection that was there before
	select {
	case a := <-answers[0]:
		t.Fatalf("answered %d, %v, without a database to ask", a.result, a.err)
	default:
	}
	pgtest.Do(t, super, "alter database "+database+" with allow_connections true")
	c.check(s, answers, time.Now())
}

// Callers may hold all connections of the pool until they are answered.
func TestAwaitWhileThePoolIsTaken(t *testing.T) {
	s := newStage(t, func(c *pgxpool.Config) { c.MaxConns = 1 })
	id := s.add("t", nil)
	s.exec("select offstage.complete_jobs(array[$1::bigint])", id)
	tx, err := s.pool.Begin(s.ctx())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.WithoutCancel(s.ctx()))
	var ended *offstage.EndedError
	if _, err := offstage.Await[any](s.ctx(), s.client, id); !errors.As(err, &ended) {
		t.Errorf("await: %v", err)
	}
}

// A pool whose connections have a handler for notifications may keep it: it says that there was one.
func TestAwaitBesideAHandler(t *testing.T) {
	s := newStage(t, func(c *pgxpool.Config) {
		c.ConnConfig.OnNotification = func(*pgconn.PgConn, *pgconn.Notification) {}
	})
	h := s.hands("t")
	id := s.add("t", nil)
	got := await[int](s, id)
	s.awaited(id)
	h.claim(1)
	h.succeed(id, "1")
	if a := <-got; a.err != nil || a.result != 1 {
		t.Errorf("await answered %d, %v", a.result, a.err)
	}
}

// Who cannot be answered, ever, is told so.
func TestAwaitWhatCannotBeAsked(t *testing.T) {
	t.Parallel()
	bare, err := offstage.New(pgtest.Bare(t).Pool(t), offstage.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer bare.Close()
	if _, err := offstage.Await[any](pgtest.Context(t), bare, 1); !errors.Is(err, offstage.ErrNotInstalled) || !strings.Contains(err.Error(), "offstage migrate") {
		t.Errorf("without a schema: %v", err)
	}
	none, err := offstage.New(nil, offstage.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := offstage.Await[any](pgtest.Context(t), none, 1); err == nil || !strings.Contains(err.Error(), "no pool") {
		t.Errorf("without a pool: %v", err)
	}
}

// BenchmarkAwait: a thousand await; how long after the settle of all their jobs, in one batch, the last one is answered.
func BenchmarkAwait(b *testing.B) {
	db := pgtest.New(b)
	s := &stage{t: b, db: db, pool: db.Pool(b)}
	s.client = s.clientOf(offstage.Config{})
	var worst time.Duration
	for b.Loop() {
		b.StopTimer()
		c := newCrowd(b, s, 1000)
		s.exec("delete from offstage_private.waiter")
		answers := c.wait(s)
		b.StartTimer()
		c.settle(s)
		ended := time.Now()
		worst = max(worst, c.check(s, answers, ended))
		b.StopTimer()
		c.client.Close()
		c.pool.Close()
		b.StartTimer()
	}
	b.ReportMetric(float64(worst.Microseconds())/1000, "worst-ms")
}
