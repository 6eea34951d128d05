package view_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/offstage-dev/offstage/internal/pgtest"
	"github.com/offstage-dev/offstage/internal/view"
)

// slowly makes a read of the depth of the task "slow" take so many seconds.
const slowly = `
create or replace function offstage.queue_depth(task text default null, queue text default null) returns integer language plpgsql as $$
begin
  if task = 'slow' then
    perform pg_sleep(1.5);
  end if;
  return 7;
end $$`

// One client with many slow reads has two at a time, and nobody else waits for them.
func TestClientsTakeTurns(t *testing.T) {
	t.Parallel()
	db, pool := open(t)
	pgtest.Do(t, pool, slowly)
	greedy, other := view.ForClient(t.Context(), "greedy"), view.ForClient(t.Context(), "other")
	if _, err := db.Depth(other, "", ""); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	ended := make(chan error, 8)
	for range cap(ended) {
		go func() {
			_, err := db.Depth(greedy, "slow", "")
			ended <- err
		}()
	}
	pgtest.Eventually(t, 30*time.Second, func() error {
		if n := pgtest.One[int](t, pool, `select count(*) from pg_stat_activity where wait_event = 'PgSleep' and datname = current_database()`); n < 2 {
			return errors.New("they have not begun")
		}
		return nil
	})
	for who, ctx := range map[string]context.Context{"another client": other, "the program": t.Context()} {
		asked := time.Now()
		if _, err := db.Depth(ctx, "", ""); err != nil || time.Since(asked) > time.Second {
			t.Errorf("%s waited for %v, and got %v", who, time.Since(asked), err)
		}
	}
	if n := pgtest.One[int](t, pool, `select count(*) from pg_stat_activity where wait_event = 'PgSleep' and datname = current_database()`); n != 2 && time.Since(begun) < 1400*time.Millisecond {
		t.Errorf("%d of its reads are under way", n)
	}
	for range 2 { // a stream has a turn of its own, and the next one waits for it
		_, leave, err := db.EnterStream(greedy, nil)
		if err != nil {
			t.Fatal(err)
		}
		stopping := make(chan struct{})
		close(stopping)
		if _, _, err := db.EnterStream(greedy, stopping); !errors.Is(err, context.Canceled) {
			t.Errorf("a second stream at the same time: %v", err)
		}
		leave()
		leave()
	}
	crowded := 0
	for range cap(ended) {
		if err := <-ended; errors.Is(err, view.ErrCrowded) {
			crowded++
		} else if err != nil {
			t.Error(err)
		}
	}
	if took := time.Since(begun); crowded != 4 || took > 10*time.Second {
		t.Errorf("%d of %d did not begin in time, after %v; expected 4", crowded, cap(ended), took)
	}

	// A turn for several reads, and what was given up, leave nothing behind.
	own, leave, err := db.Enter(greedy)
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		if _, err := db.Depth(own, "", ""); err != nil {
			t.Fatal(err)
		}
	}
	leave()
	gone, give := context.WithCancel(greedy)
	give()
	for range 5 {
		_, _ = db.Depth(gone, "slow", "")
		_, _ = db.Jobs(gone, view.JobFilter{}, "", 10)
		_, _ = db.Standing(gone)
		_, _ = db.Rates(gone, "1h")
		_, _ = db.Problems(gone)
	}
	for range 5 {
		if _, err := db.Jobs(greedy, view.JobFilter{}, "", 10); err != nil {
			t.Fatal(err)
		}
		if _, err := db.Job(greedy, 4711); err == nil {
			t.Error("there is a job")
		}
		if _, err := db.Problems(greedy); err != nil {
			t.Fatal(err)
		}
		if _, err := db.Workers(greedy); err != nil {
			t.Fatal(err)
		}
		if _, err := db.Schedules(greedy); err != nil {
			t.Fatal(err)
		}
	}
}
