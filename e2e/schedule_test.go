//go:build unix

package e2e_test

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// noteTicks notes in app.tick which ticks have got jobs.
func (s *stage) noteTicks() {
	s.t.Helper()
	s.exec(`create table app.tick (task_id integer not null, ts timestamptz not null, job_id bigint not null)`)
	s.exec(`create function app.note_tick() returns trigger language plpgsql as $$
		begin
			insert into app.tick values (new.task_id, (new.payload -> '_cron' ->> 'ts')::timestamptz, new.id);
			return null;
		end $$`)
	s.exec(`create trigger note_tick after insert on offstage_private.job for each row execute function app.note_tick()`)
}

func (s *stage) crontab(text string) (path string) {
	s.t.Helper()
	path = filepath.Join(s.dir, "crontab")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		s.t.Fatal(err)
	}
	return path
}

// Workers are killed again and again, and others started: each second has its job, once.
func TestTicksOfKilledWorkers(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.noteTicks()
	s.script("file", "")
	s.script("row", "")
	path := s.crontab("* * * * * * file ?catchup=all\n")
	s.exec(`select offstage.add_schedule('row', 'row', '* * * * * *', null, '{"catchup": "all"}')`)
	workers := []*process{s.cliWorker(2, "--crontab", path), s.cliWorker(2, "--crontab", path)}
	for n := range 6 {
		s.reaches(30*time.Second, 2*(n+1), `select count(distinct ts) from app.tick where task_id = offstage_private.task_id('file')`)
		s.exec(`select pg_sleep(random())`)
		workers[0].signal(syscall.SIGKILL)
		workers[0].exit(10 * time.Second)
		if rand.IntN(3) == 0 { // for a moment there is none
			workers[1].signal(syscall.SIGKILL)
			workers[1].exit(10 * time.Second)
			workers[1] = s.cliWorker(2, "--crontab", path)
		}
		workers = []*process{workers[1], s.cliWorker(2, "--crontab", path)}
	}
	for _, w := range workers {
		s.reaches(20*time.Second, 1, `select count(*) from offstage_private.worker where pid = $1`, w.pid) // before, it knows no signals
		w.leave()
	}

	for _, name := range []string{"file", "row"} {
		var first, last time.Time
		var n, distinct, counted int
		err := s.pool.QueryRow(s.ctx(), `
			select min(k.ts), max(k.ts), count(*), count(distinct k.ts), (select s.ticks from offstage.schedules s where s.name = $1)
			from app.tick k where k.task_id = offstage_private.task_id($1)`, name).Scan(&first, &last, &n, &distinct, &counted)
		if err != nil {
			t.Fatal(err)
		}
		if want := int(last.Sub(first)/time.Second) + 1; n != want || distinct != want || counted != want {
			t.Errorf("%s: %d seconds from %v to %v; %d have jobs, there are %d, and %d are counted", name, want, first, last, distinct, n, counted)
		}
		known := one[time.Time](s, `select known_at from offstage_private.schedule where name = $1`, name)
		if wait := first.Sub(known); wait <= 0 || wait > time.Second {
			t.Errorf("%s is known since %v, and its first tick was at %v", name, known, first)
		}
		t.Logf("%s: %d ticks", name, n)
	}
}

// SIGHUP makes the program read its crontab again; a bad one leaves the schedules from before.
func TestHangup(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.noteTicks()
	s.script("first", "")
	s.script("second", "")
	const ticks = `select count(*) from app.tick where task_id = offstage_private.task_id($1)`
	path := s.crontab("* * * * * * first ?tz=America/New_York\n")
	w := s.cliWorker(2, "--crontab", path)
	s.reaches(30*time.Second, 1, ticks, "first")
	s.crontab("no crontab\n")
	w.signal(syscall.SIGHUP)
	before := one[int](s, ticks, "first")
	s.reaches(30*time.Second, before+2, ticks, "first")
	s.crontab("* * * * * * second\n")
	w.signal(syscall.SIGHUP)
	s.reaches(30*time.Second, 2, ticks, "second")
	last := one[time.Time](s, `select last_tick from offstage.schedules where name = 'first'`)
	s.reaches(30*time.Second, 4, ticks, "second")
	if again := one[time.Time](s, `select last_tick from offstage.schedules where name = 'first'`); !again.Equal(last) && again.After(last.Add(time.Second)) {
		t.Errorf("a schedule that is not in the file any more was ticked at %v", again)
	}
	w.leave()
}
