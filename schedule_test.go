package offstage_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/internal/cron"
)

func TestEveryPartOfAScheduleArrives(t *testing.T) {
	s := newStage(t)
	full := offstage.Schedule{
		Name: `nightly "1", \2 — 'ü'`, Task: "report", Expression: "30 2 * * MON-FRI", TimeZone: "Europe/Berlin", Payload: json.RawMessage(`{"b":12345678901234567890,"a":"☃"}`),
		Queue: "q ü", MaxAttempts: 7, Priority: -5, Key: "k", KeyMode: offstage.PreserveRunAt, Jitter: 90*time.Second + 1500*time.Microsecond,
		From: time.Date(2030, 1, 2, 3, 4, 5, 123456000, time.UTC), Until: time.Date(2999, 12, 31, 0, 0, 0, 0, time.FixedZone("", 5*3600)), SkipOverlap: true, Catchup: "7",
	}
	if err := s.client.AddSchedule(s.ctx(), full); err != nil {
		t.Fatal(err)
	}
	plain := offstage.Schedule{Task: "plain", Expression: "@hourly", Fill: 36500 * 24 * time.Hour, Until: time.Date(2999, 12, 31, 0, 0, 0, 0, time.UTC)}
	if err := s.client.AddSchedule(s.ctx(), plain); err != nil {
		t.Fatal(err)
	}
	list, err := s.client.Schedules(s.ctx())
	if err != nil || len(list) != 2 {
		t.Fatalf("%v %v", list, err)
	}
	got := list[0]
	if !got.From.Equal(full.From) || !got.Until.Equal(full.Until) || string(got.Payload.(json.RawMessage)) != string(full.Payload.(json.RawMessage)) {
		t.Errorf("%+v", got)
	}
	got.From, got.Until, got.Payload = full.From, full.Until, full.Payload
	if !reflect.DeepEqual(got.Schedule, full) || got.Source != "database" || got.Paused || !got.Next.IsZero() || !got.LastTick.IsZero() || got.LastJob != 0 {
		t.Errorf("got\n%+v\nexpected\n%+v", got, full)
	}
	plain.Name, plain.TimeZone, plain.Until = "plain", "UTC", list[1].Until
	if !reflect.DeepEqual(list[1].Schedule, plain) {
		t.Errorf("got\n%+v\nexpected\n%+v", list[1].Schedule, plain)
	}
}

func TestSchedules(t *testing.T) {
	s := newStage(t)
	ctx, c := s.ctx(), s.client
	add := func(schedule offstage.Schedule) error { return c.AddSchedule(ctx, schedule) }
	for text, schedule := range map[string]offstage.Schedule{
		"5 or 6 are needed":                     {Task: "t", Expression: "daily"},
		"the time zone 'Mars' is not known":     {Task: "t", Expression: "@daily", TimeZone: "Mars"},
		"must be a JSON object, not array":      {Task: "t", Expression: "@daily", Payload: []int{1}},
		"does not encode to JSON":               {Task: "t", Expression: "@daily", Payload: make(chan int)},
		"fill and catchup exclude each other":   {Task: "t", Expression: "@daily", Catchup: "one", Fill: time.Hour},
		"expected replace or preserve_run_at":   {Task: "t", Expression: "@daily", Key: "k", KeyMode: offstage.UnsafeDedupe},
		"a number up to 1000":                   {Task: "t", Expression: "@daily", Catchup: "some"},
		"a schedule has 1 to 128 characters":    {Expression: "@daily"},
		"Write two parts, such as 22-23,0-5":    {Task: "t", Expression: "* 22-5 * * *"},
		"has more than 128 characters":          {Task: "t", Expression: "@daily", Queue: strings.Repeat("q", 129)},
		"out of range for type smallint":        {Task: "t", Expression: "@daily", Priority: 40000},
		"max_attempts is -1":                    {Task: "t", Expression: "@daily", MaxAttempts: -1},
		"jitter is -00:00:01; expected nothing": {Task: "t", Expression: "@daily", Jitter: -time.Second},
	} {
		if err := add(schedule); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%+v: %v, expected %q", schedule, err, text)
		}
	}
	for what, err := range map[string]error{
		"pause": c.PauseSchedule(ctx, "s"), "resume": c.ResumeSchedule(ctx, "s"), "remove": c.RemoveSchedule(ctx, "s"),
		"run": func() error { _, err := c.RunSchedule(ctx, "s"); return err }(),
	} {
		if !errors.Is(err, offstage.ErrNoSchedule) || !strings.Contains(err.Error(), "there is no schedule 's'") {
			t.Errorf("%s of an unknown one: %v", what, err)
		}
	}

	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if err := c.With(tx).AddSchedule(ctx, offstage.Schedule{Task: "s", Expression: "@daily"}); err != nil {
			return err
		}
		return errors.New("rolled back")
	})
	if list, _ := c.Schedules(ctx); err == nil || len(list) != 0 {
		t.Errorf("%v, %v", err, list)
	}
	if err := add(offstage.Schedule{Name: "s", Task: "t", Expression: "@daily", Payload: map[string]int{"a": 1}, Queue: "q"}); err != nil {
		t.Fatal(err)
	}
	id, err := c.RunSchedule(ctx, "s")
	if err != nil {
		t.Fatal(err)
	}
	job, err := c.Get(ctx, id)
	if err != nil || job.Task != "t" || job.Queue != "q" || !strings.Contains(string(job.Payload), `"a" : 1, "_cron" : {"ts" : "2`) {
		t.Errorf("%+v %s %v", job, job.Payload, err)
	}
	if err := c.PauseSchedule(ctx, "s"); err != nil {
		t.Fatal(err)
	}
	list, err := c.Schedules(ctx)
	if err != nil || len(list) != 1 || !list[0].Paused || list[0].LastJob != id || list[0].LastState != "waiting" || list[0].Ticks != 0 {
		t.Errorf("%+v %v", list, err)
	}
	if err := c.ResumeSchedule(ctx, "s"); err != nil {
		t.Fatal(err)
	}
	if err := c.RemoveSchedule(ctx, "s"); err != nil {
		t.Fatal(err)
	}
	if list, err = c.Schedules(ctx); err != nil || len(list) != 0 {
		t.Errorf("%+v %v", list, err)
	}
	if _, err := c.Get(ctx, id); err != nil {
		t.Errorf("its job is gone: %v", err)
	}
}

// What docs/schedules.md shows works as it stands.
func TestSchedulesPage(t *testing.T) {
	s := newStage(t)
	b, err := os.ReadFile("docs/schedules.md")
	if err != nil {
		t.Fatal(err)
	}
	block := func(begins string) string {
		_, after, ok := strings.Cut(string(b), begins)
		if !ok {
			t.Fatalf("the page has no block that begins with %q", begins)
		}
		text, _, _ := strings.Cut(after, "```")
		return text
	}
	for statement := range strings.SplitAfterSeq(block("```sql\n"), ";\n") {
		s.exec(statement)
	}
	if n := one[int](s, "select count(*) from offstage.jobs"); n != 1 {
		t.Errorf("%d jobs", n)
	}
	crontab := block("```\n# minute")
	items, err := cron.ParseCrontab("#" + crontab)
	if err != nil || len(items) != 4 {
		t.Errorf("%d items, %v in\n%s", len(items), err, crontab)
	}
}

func ExampleClient_AddSchedule() {
	ctx := context.Background()
	client, done := connect()
	defer done()

	err := client.AddSchedule(ctx, offstage.Schedule{
		Name: "morning_report", Task: "report", Expression: "30 8 * * MON-FRI", TimeZone: "Europe/Berlin",
		Payload: map[string]string{"for": "everybody"}, SkipOverlap: true, Catchup: "one",
	})
	if err != nil {
		panic(err)
	}
	schedules, err := client.Schedules(ctx)
	if err != nil {
		panic(err)
	}
	for _, s := range schedules {
		fmt.Println(s.Name, "does", s.Task, "at", s.Expression, "in", s.TimeZone)
	}
	// Output: morning_report does report at 30 8 * * MON-FRI in Europe/Berlin
}
