package worker_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/worker"
)

// cronPayload is what a job of a schedule gets besides its own payload.
type cronPayload struct {
	Whose string
	Cron  struct {
		TS         time.Time `json:"ts"`
		Backfilled bool      `json:"backfilled"`
	} `json:"_cron"`
}

// ticks notes what a worker has run of schedules.
type ticks struct {
	mu   sync.Mutex // guards what is below
	of   map[string][]time.Time
	late []time.Duration
}

func (s *stage) ticking(cfg worker.Config) (*worker.Worker, *ticks) {
	w, all := s.worker(cfg), &ticks{of: map[string][]time.Time{}}
	worker.Handle(w, "tick", func(ctx context.Context, job *worker.Job[cronPayload]) (struct{}, error) {
		all.mu.Lock()
		defer all.mu.Unlock()
		all.of[job.Payload.Whose] = append(all.of[job.Payload.Whose], job.Payload.Cron.TS)
		all.late = append(all.late, time.Since(job.Payload.Cron.TS))
		return struct{}{}, nil
	})
	return w, all
}

func (a *ticks) count(whose string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.of[whose])
}

func everySecond(name string) offstage.Schedule {
	return offstage.Schedule{Name: name, Task: "tick", Expression: "* * * * * *", Payload: map[string]string{"Whose": name}}
}

// Two workers tick the schedules of their program, of a crontab and of the database: each second once, and on time.
func TestSchedulesAreTicked(t *testing.T) {
	s := newStage(t)
	cfg := worker.Config{Schedules: []offstage.Schedule{everySecond("program")}}
	w, all := s.ticking(cfg)
	w2 := s.worker(cfg)
	worker.Handle(w2, "other", func(context.Context, *worker.Job[struct{}]) (struct{}, error) { return struct{}{}, nil })
	s.run(w)
	s.run(w2)
	s.eventually(func() bool { return all.count("program") >= 2 }, "no ticks")
	if err := s.client.AddSchedule(s.ctx(), everySecond("database")); err != nil {
		t.Fatal(err)
	}
	s.eventually(func() bool { return all.count("database") >= 2 && all.count("program") >= 4 }, "no ticks of the database's")
	if err := w.SetSchedules(nil); err != nil { // the other one still has it
		t.Fatal(err)
	}
	seen := all.count("program")
	s.eventually(func() bool { return all.count("program") >= seen+2 }, "no ticks by the other worker")
	if err := w2.SetSchedules([]offstage.Schedule{everySecond("later")}); err != nil {
		t.Fatal(err)
	}
	s.eventually(func() bool { return all.count("later") >= 2 }, "no ticks of one that was added")
	gone := one[time.Time](s, "select last_tick from offstage.schedules where name = 'program'")
	before := all.count("database")
	s.eventually(func() bool { return all.count("database") >= before+3 }, "no ticks any more")
	if last := one[time.Time](s, "select last_tick from offstage.schedules where name = 'program'"); last.After(gone.Add(time.Second)) {
		t.Errorf("a schedule that no worker has was ticked at %v, after %v", last, gone)
	}

	all.mu.Lock()
	defer all.mu.Unlock()
	for name, list := range all.of {
		slices.SortFunc(list, time.Time.Compare)
		for i := 1; i < len(list); i++ {
			if list[i].Sub(list[i-1]) != time.Second {
				t.Errorf("%s was ticked at %v", name, list)
				break
			}
		}
	}
	slices.Sort(all.late)
	median := all.late[len(all.late)/2]
	t.Logf("jobs started %v after their tick (median), %v at worst", median, all.late[len(all.late)-1])
	if median > time.Second {
		t.Errorf("jobs started %v after their tick (median)", median)
	}
	if all.late[0] < 0 {
		t.Errorf("a job started %v before its tick", -all.late[0])
	}
}

func TestSchedulesAreChecked(t *testing.T) {
	s := newStage(t)
	for text, list := range map[string][]offstage.Schedule{
		"schedule t: cron expression":     {{Task: "t", Expression: "x"}},
		"unknown time zone Mars":          {{Task: "t", Expression: "@daily", TimeZone: "Mars"}},
		`catchup is "1001"`:               {{Task: "t", Expression: "@daily", Catchup: "1001"}},
		"does not encode to JSON":         {{Task: "t", Expression: "@daily", Payload: make(chan int)}},
		`two schedules have the name "t"`: {{Task: "t", Expression: "@daily"}, {Name: "t", Task: "u", Expression: "@daily"}},
	} {
		if _, err := worker.New(s.pool, worker.Config{Schedules: list}); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%v: %v, expected %q", list, err, text)
		}
	}
}

// A name that is the database's is refused, and said; when it is free, the schedule holds.
func TestScheduleWhoseNameIsTaken(t *testing.T) {
	s := newStage(t)
	if err := s.client.AddSchedule(s.ctx(), offstage.Schedule{Name: "mine", Task: "t", Expression: "@yearly"}); err != nil {
		t.Fatal(err)
	}
	w, all := s.ticking(worker.Config{Schedules: []offstage.Schedule{everySecond("mine"), everySecond("other")}})
	s.run(w)
	s.eventually(func() bool { return all.count("other") > 0 }, "no ticks")
	if source := one[string](s, "select source || ' ' || expression from offstage.schedules where name = 'mine'"); source != "database @yearly" {
		t.Error(source)
	}
}

// RunOnce runs what is there, and ticks nothing.
func TestRunOnceTicksNothing(t *testing.T) {
	s := newStage(t)
	if err := s.client.AddSchedule(s.ctx(), everySecond("s")); err != nil {
		t.Fatal(err)
	}
	s.exec("update offstage_private.schedule set known_at = now() - interval '5 s'")
	w, all := s.ticking(worker.Config{})
	if err := w.RunOnce(s.ctx()); err != nil {
		t.Fatal(err)
	}
	if n := all.count("s"); n != 0 {
		t.Errorf("%d ticks", n)
	}
}

func ExampleConfig_schedules() {
	ctx := context.Background()
	pool, client, done := connect()
	defer done()

	w, err := worker.New(pool, worker.Config{Schedules: []offstage.Schedule{
		{Task: "clean_up", Expression: "@hourly", Jitter: 5 * time.Minute},
		{Name: "morning_report", Task: "report", Expression: "30 8 * * MON-FRI", TimeZone: "Europe/Berlin", Payload: map[string]any{"pages": 3}},
	}})
	if err != nil {
		panic(err)
	}
	worker.Handle(w, "clean_up", func(ctx context.Context, job *worker.Job[json.RawMessage]) (struct{}, error) { return struct{}{}, nil })
	worker.Handle(w, "report", func(ctx context.Context, job *worker.Job[json.RawMessage]) (struct{}, error) { return struct{}{}, nil })

	running, stop := context.WithCancel(ctx)
	stopped := make(chan error, 1)
	go func() { stopped <- w.Run(running) }()
	for known := 0; known < 2; { // within moments
		list, err := client.Schedules(ctx)
		if err != nil {
			panic(err)
		}
		known = len(list)
	}
	stop()
	fmt.Println("the database knows both;", <-stopped)
	// Output: the database knows both; <nil>
}

func TestCrontab(t *testing.T) {
	s := newStage(t)
	w, all := s.ticking(worker.Config{Schedules: []offstage.Schedule{everySecond("program")}})
	err := w.SetCrontab("# all there is\n* * * * * * tick ?id=file&tz=Europe/Berlin&queue=q&max=7&priority=-3&jobKey=k&jobKeyMode=preserve_run_at&jitter=1s" +
		"&from=2020-01-01&until=2999-12-31&overlap=skip&catchup=12 {Whose: 'file',}\n0 4 * * * tick ?id=other&fill=4w3d2h1m5s\n@daily plain\n")
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"* * * * tick", "@daily tick ?catchup=1001", "@daily tick\n@daily tick"} {
		if err := w.SetCrontab(bad); err == nil || !strings.HasPrefix(err.Error(), "crontab: ") {
			t.Errorf("%q: %v", bad, err)
		}
	}
	s.run(w)
	s.eventually(func() bool { return all.count("file") > 0 && all.count("program") > 0 }, "no ticks")
	list, err := s.client.Schedules(s.ctx())
	if err != nil || len(list) != 4 {
		t.Fatalf("%+v %v", list, err)
	}
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	got := list[0]
	if got.Name != "file" || got.Source != "crontab" || got.Task != "tick" || got.Expression != "* * * * * *" || got.TimeZone != "Europe/Berlin" || got.Queue != "q" || got.MaxAttempts != 7 ||
		got.Priority != -3 || got.Key != "k" || got.KeyMode != offstage.PreserveRunAt || got.Jitter != time.Second || !got.SkipOverlap || got.Catchup != "12" ||
		!got.From.Equal(time.Date(2020, 1, 1, 0, 0, 0, 0, berlin)) || !got.Until.Equal(time.Date(2999, 12, 31, 23, 59, 59, 0, berlin)) {
		t.Errorf("%+v", got)
	}
	if other := list[1]; other.Name != "other" || other.Fill != 31*24*time.Hour+2*time.Hour+time.Minute+5*time.Second || other.Catchup != "" {
		t.Errorf("%+v", other)
	}
	if plain := list[2]; plain.Name != "plain" || plain.Expression != "@daily" || plain.MaxAttempts != 0 || plain.Key != "" || plain.KeyMode != "" {
		t.Errorf("%+v", plain)
	}
}
