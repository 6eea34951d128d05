package worker_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/worker"
)

// instead puts a function in place of report, until restore.
func (s *stage) instead(body string) (restore func()) {
	s.t.Helper()
	s.exec(`create schema real`)
	s.exec(`alter function offstage.report(integer, json) set schema real`) // it names itself
	s.exec(`create function offstage.report(worker_id integer, entries json) returns table (claim bigint, job_id bigint)
		language plpgsql as $$ begin ` + body + ` end $$`)
	return func() {
		s.exec(`drop function offstage.report; alter function real.report(integer, json) set schema offstage`)
	}
}

const callReal = `return query select * from real.report(worker_id, entries);`

// What an attempt logs can be read while it runs, and in order afterwards, attempt by attempt.
func TestLogWhileRunning(t *testing.T) {
	s := newStage(t)
	goOn := make(chan none)
	w := s.worker(worker.Config{})
	worker.Handle(w, "talk", func(ctx context.Context, job *worker.Job[none]) (none, error) {
		log := worker.Log(ctx).With("who", "me")
		log.Info("first", "n", 1)
		<-goOn
		log.WithGroup("g").Warn("second", "n", 2)
		if job.Attempt == 1 {
			return none{}, offstage.RetryIn(0, errors.New("again"))
		}
		return none{}, nil
	})
	s.run(w)
	id := s.add("talk", nil)
	var want []string
	for attempt := 1; attempt <= 2; attempt++ {
		want = append(want, fmt.Sprintf(`%d info first {"who":"me","n":1}`, attempt))
		s.eventually(func() bool { return slices.Equal(s.log(id), want) }, "the log does not become %q", want)
		goOn <- none{}
		want = append(want, fmt.Sprintf(`%d warn second {"who":"me","g":{"n":2}}`, attempt))
	}
	s.outcome(id)
	if got := s.log(id); !slices.Equal(got, want) {
		t.Errorf("the log is %q, expected %q", got, want)
	}
	lines, err := s.client.Log(s.ctx(), id, nil)
	if err != nil {
		t.Fatal(err)
	}
	h := one[time.Time](s, "select min(claimed_at) from offstage_private.history where job_id = $1", id)
	for i, l := range lines {
		if l.At.Before(h) || l.At.After(time.Now().Add(time.Second)) || i > 0 && l.At.Before(lines[i-1].At) {
			t.Errorf("line %d is of %v; the job was claimed at %v", i+1, l.At, h)
		}
	}
	if n := one[int](s, "select count(*) from pg_stat_activity where datname = current_database() and query like '%offstage.report(%' and pid <> pg_backend_pid()"); n != 1 {
		t.Errorf("%d sessions report, expected 1", n)
	}
}

// A job that is soon over costs no call besides its settle, whatever it logs.
func TestLogOfShortJobs(t *testing.T) {
	s := newStage(t)
	s.instead(`raise 'report was called';`)
	w := s.worker(worker.Config{})
	worker.Handle(w, "short", func(ctx context.Context, job *worker.Job[int]) (none, error) {
		worker.Log(ctx).Info("here", "payload", job.Payload)
		if job.Payload%3 == 0 {
			return none{}, offstage.Cancel(errors.New("no"))
		}
		return none{}, nil
	})
	worker.Handle(w, "silent", func(ctx context.Context, job *worker.Job[none]) (none, error) { return none{}, nil })
	s.run(w)
	ids := map[int]int64{}
	for i := range 30 {
		ids[i] = s.add("short", i, offstage.Options{Key: strings.Repeat("k", i%2*(i+1))})
	}
	for i, id := range ids {
		s.outcome(id)
		if got := s.log(id); !slices.Equal(got, []string{fmt.Sprintf(`1 info here {"payload":%d}`, i)}) {
			t.Errorf("the log of job %d is %q", i, got)
		}
	}
	silent := s.add("silent", nil)
	s.outcome(silent)
	if got := s.log(silent); got != nil {
		t.Errorf("the log of a silent job is %q", got)
	}
	if n := one[int](s, "select count(*) from pg_stat_activity where datname = current_database() and usename = 'owner' and query like '%offstage.report(%' and pid <> pg_backend_pid()"); n != 0 {
		t.Errorf("%d sessions report", n)
	}
}

// While the database refuses, or its sessions are cut, lines are kept, and then stored once, in order.
func TestLogThroughTrouble(t *testing.T) {
	s := newStage(t)
	super := s.db.SuperPool(t)
	restore := s.instead(`raise 'not today';`)
	logged, finish := make(chan none), make(chan none)
	const n = 300
	w := s.worker(worker.Config{Jobs: 2})
	worker.Handle(w, "talk", func(ctx context.Context, job *worker.Job[none]) (none, error) {
		for i := range n {
			worker.Log(ctx).Info(fmt.Sprint("line ", i))
			if err := worker.Progress(ctx, float32(i)/n*100, ""); err != nil {
				return none{}, err
			}
			if i%100 == 50 {
				logged <- none{}
			}
		}
		<-finish
		return none{}, nil
	})
	s.run(w)
	id := s.add("talk", nil)
	<-logged
	restore()
	s.eventually(func() bool { return len(s.log(id)) > 0 }, "nothing is stored")
	for range 2 { // cut in the middle of it, whatever it is about
		<-logged
		s.eventually(func() bool {
			var cut int
			err := super.QueryRow(s.ctx(), `select count(pg_terminate_backend(pid)) from pg_stat_activity
				where datname = current_database() and query like '%offstage.report(%' and pid <> pg_backend_pid()`).Scan(&cut)
			return err == nil && cut > 0
		}, "nobody reports")
	}
	s.eventually(func() bool { return len(s.log(id)) == n }, "not all is stored")
	close(finish)
	s.outcome(id)
	got := s.log(id)
	for i, line := range got {
		if line != fmt.Sprint("1 info line ", i) {
			t.Fatalf("line %d is %q", i, line)
		}
	}
	if len(got) != n {
		t.Errorf("%d lines, expected %d", len(got), n)
	}
}

// An attempt that ends while what it told is under way is settled when that has landed.
func TestLogUnderWay(t *testing.T) {
	s := newStage(t)
	conn := s.db.Conn(t)
	if _, err := conn.Exec(s.ctx(), `select pg_advisory_lock(4711)`); err != nil {
		t.Fatal(err)
	}
	s.instead(callReal + ` perform pg_advisory_xact_lock(4711);`)
	finish := make(chan none)
	w := s.worker(worker.Config{Jobs: 2})
	worker.Handle(w, "talk", func(ctx context.Context, job *worker.Job[none]) (none, error) {
		worker.Log(ctx).Info("first")
		<-finish
		worker.Log(ctx).Info("second")
		return none{}, nil
	})
	worker.Handle(w, "other", func(ctx context.Context, job *worker.Job[none]) (none, error) {
		worker.Log(ctx).Info("other")
		return none{}, nil
	})
	s.run(w)
	id := s.add("talk", nil)
	s.eventually(func() bool {
		return one[bool](s, "select exists (select"+waitsToCommit+")")
	}, "no report is under way")
	close(finish)
	s.outcome(s.add("other", nil)) // which nobody holds up
	if st, err := s.client.Status(s.ctx(), id); err != nil || st.State != offstage.Running {
		t.Errorf("it is %+v, %v", st, err)
	}
	if _, err := conn.Exec(s.ctx(), `select pg_advisory_unlock(4711)`); err != nil {
		t.Fatal(err)
	}
	s.outcome(id)
	if got := s.log(id); !slices.Equal(got, []string{"1 info first", "1 info second"}) {
		t.Errorf("the log is %q", got)
	}
}

// An attempt whose claim is gone hears of it from its report, and what it logs is not stored.
func TestReportOfLostClaim(t *testing.T) {
	s := newStage(t)
	started := make(chan none)
	lost := make(chan error)
	w := s.worker(worker.Config{})
	worker.Handle(w, "lost", func(ctx context.Context, job *worker.Job[none]) (none, error) {
		if job.Attempt > 1 {
			return none{}, nil
		}
		started <- none{}
		<-started
		worker.Log(ctx).Info("is anybody there?")
		<-ctx.Done()
		lost <- worker.Progress(ctx, 50, "")
		return none{}, ctx.Err()
	})
	s.run(w)
	id := s.add("lost", nil)
	<-started
	s.claimed(id)
	s.exec(`update offstage_private.job set released_claim = (select max(claim) + 1 from offstage_private.lease) where id = $1`, id)
	started <- none{}
	select {
	case err := <-lost:
		if !errors.Is(err, offstage.ErrLost) {
			t.Errorf("progress of an attempt whose claim is gone: %v", err)
		}
	case <-s.ctx().Done():
		t.Fatal("the attempt whose claim is gone goes on")
	}
	if got := s.log(id); got != nil {
		t.Errorf("the log is %q", got)
	}
}

func TestProgressRefuses(t *testing.T) {
	s := newStage(t)
	w := s.worker(worker.Config{})
	worker.Handle(w, "try", func(ctx context.Context, job *worker.Job[none]) (none, error) {
		for _, p := range []float32{-1, 100.1, float32(math.NaN()), float32(math.Inf(1))} {
			if err := worker.Progress(ctx, p, ""); err == nil || !strings.Contains(err.Error(), "use 0 to 100") {
				t.Errorf("%v percent: %v", p, err)
			}
		}
		if err := worker.Progress(context.Background(), 1, ""); err == nil || !strings.Contains(err.Error(), "not that of an attempt") {
			t.Errorf("outside of an attempt: %v", err)
		}
		return none{}, errors.Join(worker.Progress(ctx, 0, ""), worker.Progress(ctx, 100, ""))
	})
	s.run(w)
	if st := s.outcome(s.add("try", nil)); st.Outcome != offstage.OutcomeSucceeded {
		t.Errorf("it ended as %+v", st)
	}
}

// Lines before and after Complete are the attempt's; that the job is gone then cancels nothing.
func TestLogOfComplete(t *testing.T) {
	s := newStage(t)
	goOn := make(chan none)
	w := s.worker(worker.Config{})
	worker.Handle(w, "complete", func(ctx context.Context, job *worker.Job[none]) (none, error) {
		worker.Log(ctx).Info("before")
		<-goOn
		err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error { return worker.Complete(ctx, tx, 1) })
		worker.Log(ctx).Info("after")
		if err == nil {
			err = worker.Progress(ctx, 100, "")
		}
		goOn <- none{}
		<-goOn
		return none{}, errors.Join(err, ctx.Err())
	})
	worker.Handle(w, "other", func(ctx context.Context, job *worker.Job[none]) (none, error) {
		worker.Log(ctx).Info("sent")
		<-goOn
		return none{}, nil
	})
	s.run(w)
	id := s.add("complete", nil)
	s.eventually(func() bool { return len(s.log(id)) == 1 }, "the first line is not stored")
	goOn <- none{}
	<-goOn
	other := s.add("other", nil)
	s.eventually(func() bool { return len(s.log(other)) == 1 }, "the reporter is not at work")
	goOn <- none{}
	goOn <- none{}
	s.outcome(other)
	s.eventually(func() bool { return slices.Equal(s.log(id), []string{"1 info before", "1 info after"}) }, "the log is not that of the attempt")
	if got := s.history(id); !slices.Equal(got, []string{"succeeded"}) {
		t.Errorf("history is %v", got)
	}
}

// A flood takes neither memory nor the database.
func TestLogFlood(t *testing.T) {
	s := newStage(t)
	const n = 50_000
	var used uint64
	w := s.worker(worker.Config{})
	worker.Handle(w, "flood", func(ctx context.Context, job *worker.Job[none]) (none, error) {
		log := worker.Log(ctx)
		heap := func() uint64 {
			var m runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&m)
			return m.HeapAlloc
		}
		before := heap()
		for i := range n {
			log.Info("a line that says nothing, as there are many", "i", i)
		}
		used = max(heap(), before) - before
		return none{}, nil
	})
	s.run(w)
	id := s.add("flood", nil)
	s.outcome(id)
	if used > 8<<20 {
		t.Errorf("%d bytes are in use after %d lines", used, n)
	}
	got := s.log(id)
	lost := -1
	for i, line := range got {
		if strings.Contains(line, "left out") {
			if _, err := fmt.Sscanf(line, "1 info … %d lines", &lost); err != nil {
				t.Errorf("the gap reads %q", line)
			}
			continue
		}
		at := i
		if lost >= 0 {
			at += lost - 1
		}
		if want := fmt.Sprintf(`1 info a line that says nothing, as there are many {"i":%d}`, at); line != want {
			t.Fatalf("line %d is %q, expected %q", i, line, want)
		}
	}
	if lost+len(got)-1 != n || len(got) > 1500 {
		t.Errorf("%d lines are stored, and %d left out", len(got), lost)
	}
}

// One whose lines the database refuses holds up no others.
func TestReportRefused(t *testing.T) {
	s := newStage(t)
	s.instead(`if entries::text like '%poison%' then raise data_exception; end if; ` + callReal)
	finish := make(chan none)
	w := s.worker(worker.Config{})
	worker.Handle(w, "talk", func(ctx context.Context, job *worker.Job[string]) (none, error) {
		worker.Log(ctx).Info(job.Payload)
		<-finish
		worker.Log(ctx).Info("end")
		return none{}, nil
	})
	s.run(w)
	poisoned, healthy := s.add("talk", "poison"), s.add("talk", "hello")
	s.eventually(func() bool { return slices.Equal(s.log(healthy), []string{"1 info hello"}) }, "the healthy one's line is not stored")
	close(finish)
	for _, id := range []int64{poisoned, healthy} {
		if st := s.outcome(id); st.Outcome != offstage.OutcomeSucceeded {
			t.Errorf("job %d ended as %+v", id, st)
		}
	}
	if got := s.log(healthy); !slices.Equal(got, []string{"1 info hello", "1 info end"}) {
		t.Errorf("the log is %q", got)
	}
	if got := s.log(poisoned); !slices.Contains(got, "1 info end") {
		t.Errorf("the log is %q", got)
	}
}

type asJSON string

func (a asJSON) MarshalJSON() ([]byte, error) { return []byte(a), nil }

// Whatever is logged can be stored, while the attempt runs and with its settle.
func TestLogOfAnything(t *testing.T) {
	s := newStage(t)
	finish := make(chan none)
	all := func(log *slog.Logger) {
		log.Info("nul \x00, half \xff\xed\xa0\x80, <&>, \u2028, 😀", "key\x00", "\xff\x00")
		log.Info("", "", "", "a", 1, "a", 2)
		log.Info("raw", "half", asJSON(`"\ud800"`), "nul", asJSON(`{"\u0000": 1}`), "deep", asJSON(strings.Repeat("[", 9000)+strings.Repeat("]", 9000)), "big", asJSON("1e999999"))
		log.Info("twice", "o", asJSON(`{"a": 1, "a": 2}`), "no", asJSON("{"), "f", math.Inf(-1), "fn", func() {}, "nil", nil)
		log.Info(strings.Repeat("é", 100_000), "long", strings.Repeat("\\", 100_000))
		log.Log(context.Background(), slog.Level(100), "level")
	}
	w := s.worker(worker.Config{})
	worker.Handle(w, "any", func(ctx context.Context, job *worker.Job[none]) (none, error) {
		all(worker.Log(ctx))
		<-finish
		all(worker.Log(ctx))
		return none{}, nil
	})
	s.run(w)
	id := s.add("any", nil)
	s.eventually(func() bool { return len(s.log(id)) == 6 }, "the lines are not stored")
	close(finish)
	if st := s.outcome(id); st.Outcome != offstage.OutcomeSucceeded {
		t.Errorf("it ended as %+v", st)
	}
	got := s.log(id)
	if len(got) != 12 || !slices.Equal(got[:6], got[6:]) {
		t.Fatalf("the lines are %q", got)
	}
	for i, want := range []string{
		"1 info nul \uFFFD, half \uFFFD, <&>, \u2028, 😀 {\"key\uFFFD\":\"\uFFFD\uFFFD\"}", `1 info  {"":"","a":1,"a":2}`,
		`1 info raw {"cut":"\"half\":\"\\\"\\\\ud800`, `1 info twice {"o":{"a":1,"a":2},"no":"{","f":"-Inf","fn":"0x`, "1 info éé", "1 error+92 level",
	} {
		if !strings.HasPrefix(got[i], want) || len(got[i]) > 13<<10 {
			t.Errorf("line %d is %.300q, expected %q", i+1, got[i], want)
		}
	}
}
