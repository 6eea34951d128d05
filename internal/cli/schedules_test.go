package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/offstage-dev/offstage/internal/pgtest"
)

func TestSchedules(t *testing.T) {
	s := newStage(t)
	s.want(Done, "schedules").says(t, "no schedules; such as: offstage schedules add nightly")
	s.want(Done, "schedules", "add", "nightly", "report", "30 2 * * 1-5", `{"pages": 3}`, "--tz", "Europe/Berlin", "--dry-run").
		says(t, "schedule nightly would be due at 02:30 on Monday to Friday, in Europe/Berlin", "Next\n  ", "02:30:00 +0")
	s.want(Done, "schedules").says(t, "no schedules")
	r := s.want(Done, "schedules", "add", "nightly", "report", "30 2 * * 1-5", `{"pages": 3}`, "--tz", "Europe/Berlin", "--queue", "q", "--max-attempts", "3",
		"--priority", "-5", "--key", "k", "--key-mode", "preserve_run_at", "--jitter", "5m", "--from", "2020-01-01", "--until", "2999-12-31", "--overlap", "skip", "--catchup", "7").
		says(t, "schedule nightly is due at 02:30 on Monday to Friday, in Europe/Berlin")
	if n := strings.Count(r.out, " 02:30:00 +0"); n != 5 {
		t.Errorf("%d next times\n%s", n, r.out)
	}
	s.want(Done, "schedules", "add", "never", "t", "0 0 30 2 *").says(t, "never")
	s.want(Done, "schedules", "add", "often", "t", "*/5 * * * *", "--fill", "1d")

	got := decode[scheduleJSON](t, s.want(Done, "schedules", "get", "nightly", "--json"))
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	if got.Task != "report" || got.State != "on" || got.Source != "database" || len(got.Next) != 5 || got.Next[0].In(berlin).Format("15:04") != "02:30" || *got.Queue != "q" ||
		*got.MaxAttempts != 3 || got.Priority != -5 || *got.Key != "k" || *got.KeyMode != "preserve_run_at" || *got.Jitter != "5m0s" || got.Overlap != "skip" || *got.Catchup != "7" ||
		!got.From.Equal(time.Date(2020, 1, 1, 0, 0, 0, 0, berlin)) || !got.Until.Equal(time.Date(2999, 12, 31, 23, 59, 59, 0, berlin)) || got.Fill != nil {
		t.Errorf("%+v", got)
	}
	s.want(Done, "schedules", "get", "nightly").says(t, "schedule nightly  report  on", "at 02:30 on Monday to Friday, in Europe/Berlin", "expression    30 2 * * 1-5",
		"from          the database", "jitter        5m0s", "0 added a job", "Payload", `"pages": 3`)

	if id := strings.TrimSpace(s.want(Done, "schedules", "run", "nightly").out); id != "1" {
		t.Errorf("%q", id)
	}
	if id := decode[map[string]string](t, s.want(Done, "schedules", "run", "often", "--json"))["id"]; id != "2" {
		t.Errorf("%q", id)
	}
	s.want(Done, "schedules", "pause", "nightly").says(t, "offstage schedules resume nightly")
	list := s.want(Done, "schedules", "list").says(t, "NAME", "WHEN")
	for _, line := range []string{"nightly paused report at 02:30 on Monday to Friday Europe/Berlin - - 1 waiting database", "never over t", "often on t every 5 minutes UTC in"} {
		if !strings.Contains(squeeze(list.out), line) {
			t.Errorf("%q is missing in\n%s", line, list.out)
		}
	}
	states := map[string]string{}
	for _, one := range decode[[]scheduleJSON](t, s.want(Done, "schedules", "--json")) {
		states[one.Name] = one.State
	}
	if fmt.Sprint(states) != "map[never:over nightly:paused often:on]" {
		t.Error(states)
	}
	s.want(Done, "schedules", "resume", "nightly").says(t, "goes on")

	s.want(Usage, "schedules", "remove", "nightly").says(t, "remove schedule nightly (report at 02:30 on Monday to Friday)?", "--yes")
	s.want(Done, "schedules", "remove", "nightly", "--dry-run").says(t, "would remove schedule nightly")
	s.want(Done, "schedules", "remove", "nightly", "--yes").says(t, "schedule nightly is removed")
	for _, verb := range []string{"get", "pause", "resume", "run", "remove"} {
		s.want(NotFound, "schedules", verb, "nightly").says(t, "nightly", "offstage schedules list")
	}
	if out := s.want(Done, "__complete", "schedules", "get", "").out; !strings.HasPrefix(out, "never\noften\n") {
		t.Errorf("completion: %q", out)
	}
	if out := s.want(Done, "__complete", "schedules", "add", "x", "").out; !strings.HasPrefix(out, "report\nt\n") {
		t.Errorf("completion: %q", out)
	}
}

func TestSchedulesUsage(t *testing.T) {
	t.Parallel()
	s := onStage(t, "postgres://nobody:secret@127.0.0.1:1/none")
	for text, args := range map[string][]string{
		"destination is not larger than source": {"5-5 * * * *"},
		"@reboot has no meaning here":           {"@reboot"},
		`--tz is "Mars"`:                        {"@daily", "--tz", "Mars"},
		`--overlap is "never"`:                  {"@daily", "--overlap", "never"},
		`--from: "soon" is no time`:             {"@daily", "--from", "soon"},
		"taken the quotes away":                 {"@daily", "{a:1}"},
		"none of the others can be":             {"@daily", "--fill", "1h", "--catchup", "all"},
	} {
		s.want(Usage, append([]string{"schedules", "add", "n", "t"}, args...)...).says(t, text)
	}
	s.want(Usage, "worker", "--once", "--crontab", "x").says(t, "leave --crontab out")
}

// crontab writes the project's file.
func (s *stage) crontab(text string) {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, "crontab"), []byte(text), 0o644); err != nil {
		s.t.Fatal(err)
	}
}

func (s *stage) ticked(name string, n int) {
	s.t.Helper()
	pgtest.Eventually(s.t, 30*time.Second, func() error {
		var ticks int
		err := s.pool.QueryRow(s.t.Context(), "select ticks from offstage.schedules where name = $1", name).Scan(&ticks)
		if err != nil && err != pgx.ErrNoRows {
			return err
		}
		if ticks < n {
			return fmt.Errorf("%s has %d ticks", name, ticks)
		}
		return nil
	})
}

func TestWorkerFollowsTheCrontab(t *testing.T) {
	s := newStage(t)
	s.script("hello.sh", "#!/bin/sh\n")
	hangups := make(chan os.Signal, 1)
	s.edit = func(m *Main) { m.Hangups = func() (<-chan os.Signal, func()) { return hangups, func() {} } }
	s.crontab("* * * * * bad")
	s.crontab("* * * * * hello ?max=none")
	s.want(Usage, "worker").says(t, filepath.Join(s.dir, "crontab"), "Options on line 1 of crontab contains invalid value for 'max'")
	s.want(Usage, "worker", "--crontab", "other").says(t, "read the crontab file", "other")

	s.crontab("# one a second\n* * * * * * hello ?id=first {a: 1}\n")
	errs, stop := s.start("worker")
	s.ticked("first", 2)
	s.want(Done, "schedules", "get", "first").says(t, "from          a crontab file", "every second")
	s.want(Refused, "schedules", "remove", "first", "--yes").says(t, "comes from a crontab file, and would come back", "pause")
	s.want(Refused, "schedules", "add", "first", "hello", "@daily").says(t, "there is a schedule 'first' already")

	s.crontab("nonsense")
	hangups <- os.Interrupt
	pgtest.Eventually(t, 30*time.Second, func() bool { return strings.Contains(errs.String(), "the schedules from before hold") })
	s.crontab("* * * * * * hello ?id=second\n")
	hangups <- os.Interrupt
	s.ticked("second", 2)
	stop()
	s.want(Done, "schedules").says(t, "first", "second")
}

// A file that is not there is no mistake unless it was named; offstage dev reads it when it comes.
func TestDevWatchesTheCrontab(t *testing.T) {
	s := newStage(t)
	s.script("hello.sh", "#!/bin/sh\n")
	errs, stop := s.start("worker")
	pgtest.Eventually(t, 30*time.Second, func() bool {
		return strings.Contains(errs.String(), "there is no crontab file; schedules are those of the database")
	})
	stop()
	errs, stop = s.start("dev")
	defer stop()
	pgtest.Eventually(t, 30*time.Second, func() bool { return strings.Contains(errs.String(), "worker is ready") })
	s.crontab("* * * * * * hello ?id=first\n")
	s.ticked("first", 1)
	s.crontab("* * * * * * *hello\n")
	pgtest.Eventually(t, 30*time.Second, func() bool { return strings.Contains(errs.String(), "the schedules from before hold") })
	s.crontab("* * * * * * hello ?id=second\n")
	s.ticked("second", 1)
}

func TestDoctorSeesSchedules(t *testing.T) {
	s := newStage(t)
	s.found(s.visit(Done), "schedules", "ok", "there are none")
	s.exec(`select offstage.add_schedule(x, 't', '@daily') from unnest('{fine,resting,bad,late}'::text[]) x`)
	s.exec(`select offstage.pause_schedule('resting')`)
	s.found(s.visit(Done), "schedules", "ok", "4 schedules, 1 of them paused")
	s.exec(`update offstage_private.schedule set due_at = now() - interval '2 min' where name = 'late'`)
	s.found(s.visit(Done), "schedules", "warn", "no worker ticks them: late")
	s.exec(`update offstage_private.schedule set source = 'crontab' where name = 'late'`)
	s.found(s.visit(Done), "schedules", "warn", "in no running worker's crontab file or program: late")
	s.exec(`select offstage.schedule_failed(id, revision, 'it hurts') from offstage_private.schedule where name = 'bad'`)
	s.found(s.visit(Done), "schedules", "warn", "bad cannot be ticked: it hurts")
}
