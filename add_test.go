package offstage_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/offstage-dev/offstage"
)

// everything uses every option, with characters that must not get lost on the way.
var everything = offstage.Options{
	Queue:         `q "1", \2 — 'ü'`,
	RunAt:         time.Date(2999, 12, 31, 23, 59, 59, 123456000, time.FixedZone("", 5*3600)),
	MaxAttempts:   7,
	Key:           `key: {"a",b}\`,
	KeyMode:       offstage.PreserveRunAt,
	Priority:      -32768,
	Flags:         []string{"plain", `"quoted"`, `back\slash`, "a,b", "{}", "NULL", "", " ", "日本語 🎭", "tab\tnewline\n", "it's $1"},
	NotifyChannel: "postgraphile:job:ü\"",
	NotifyNode:    []any{"JobRequest", 17, nil, "☃"},
	Timeout:       90*time.Minute + 1500*time.Microsecond,
	ExpiresAt:     time.Date(3000, 1, 1, 0, 0, 0, 999999000, time.UTC),
	Keep:          "failures",
	Traceparent:   "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
}

// checkArrived compares a job's row with the options it was added with.
func checkArrived(s *stage, id int64, o offstage.Options, channel bool) {
	s.t.Helper()
	var queue, key, notify, timeout, keep, trace string
	var runAt, expires time.Time
	var attempts, priority int
	var flags map[string]bool
	var node []any
	err := s.pool.QueryRow(s.ctx(), `select q.name, j.run_at, j.max_attempts, j.key, j.priority, j.flags, coalesce(j.notify_channel, ''),
		j.options -> 'notify_node', (j.options ->> 'timeout')::interval::text, (j.options ->> 'expires_at')::timestamptz,
		j.options ->> 'keep', j.options ->> 'traceparent'
		from offstage_private.job j join offstage_private.queue q on q.id = j.queue_id where j.id = $1`, id).
		Scan(&queue, &runAt, &attempts, &key, &priority, &flags, &notify, &node, &timeout, &expires, &keep, &trace)
	if err != nil {
		s.t.Fatal(err)
	}
	if queue != o.Queue || attempts != o.MaxAttempts || key != o.Key || priority != o.Priority || keep != o.Keep || trace != o.Traceparent {
		s.t.Errorf("queue %q, %d attempts, key %q, priority %d, keep %q, traceparent %q", queue, attempts, key, priority, keep, trace)
	}
	if !runAt.Equal(o.RunAt) || !expires.Equal(o.ExpiresAt) || timeout != "01:30:00.0015" {
		s.t.Errorf("run_at %v, expires_at %v, timeout %s", runAt, expires, timeout)
	}
	if channel && notify != o.NotifyChannel {
		s.t.Errorf("notify_channel %q", notify)
	}
	if fmt.Sprint(node) != "[JobRequest 17 <nil> ☃]" {
		s.t.Errorf("notify_node %v", node)
	}
	if len(flags) != len(o.Flags) {
		s.t.Errorf("flags %v", flags)
	}
	for _, f := range o.Flags {
		if !flags[f] {
			s.t.Errorf("the flag %q is missing from %v", f, flags)
		}
	}
}

func TestEveryOptionArrives(t *testing.T) {
	ways := map[string]func(*stage) (int64, error){
		"pool": func(s *stage) (int64, error) { return s.client.Add(s.ctx(), "t", nil, everything) },
		"pgx transaction": func(s *stage) (id int64, err error) {
			err = pgx.BeginFunc(s.ctx(), s.pool, func(tx pgx.Tx) error {
				id, err = s.client.With(tx).Add(s.ctx(), "t", nil, everything)
				return err
			})
			return id, err
		},
		"database/sql": func(s *stage) (int64, error) {
			db := stdlib.OpenDBFromPool(s.pool)
			defer db.Close()
			tx, err := db.BeginTx(s.ctx(), nil)
			if err != nil {
				return 0, err
			}
			defer tx.Rollback()
			id, err := s.client.WithSQL(tx).Add(s.ctx(), "t", nil, everything)
			if err != nil {
				return 0, err
			}
			return id, tx.Commit()
		},
		"in bulk": func(s *stage) (int64, error) {
			o := everything
			o.NotifyChannel = ""
			ids, err := s.client.AddMany(s.ctx(), []offstage.Spec{{Task: "other"}, {Task: "t", Options: o}})
			if err != nil {
				return 0, err
			}
			return ids[1], nil
		},
	}
	t.Parallel()
	for name, add := range ways {
		t.Run(name, func(t *testing.T) {
			s := newStage(t)
			id, err := add(s)
			if err != nil {
				t.Fatal(err)
			}
			checkArrived(s, id, everything, name != "in bulk")
		})
	}
}

// A job without options has none: nothing is written that a task's settings could not change later.
func TestNoOptions(t *testing.T) {
	s := newStage(t)
	ids, err := s.client.AddMany(s.ctx(), []offstage.Spec{{Task: "t"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range append(ids, s.add("t", nil), s.add("t", nil, offstage.Options{Flags: []string{}})) {
		if !one[bool](s, `select j.max_attempts is null and j.queue_id is null and j.key is null and j.flags is null and j.options is null
			and j.notify_channel is null and j.priority = 0 and j.payload::text = '{}' and j.run_at <= now()
			from offstage_private.job j where j.id = $1`, id) {
			t.Errorf("job %d has what it was not given", id)
		}
	}
	if _, err := s.client.Add(s.ctx(), "t", nil, offstage.Options{}, offstage.Options{}); err == nil {
		t.Error("two Options were accepted")
	}
}

// What is a JSON text already comes out as it went in; the rest means the same.
func TestPayloads(t *testing.T) {
	s := newStage(t)
	type letter struct {
		To   string `json:"to"`
		Size int64  `json:"size"`
	}
	big := mustJSON(strings.Repeat("ä€\"\\", 600_000)) // more than 5 MB
	cases := map[string]struct {
		payload any
		text    string
	}{
		"nil":          {nil, `{}`},
		"null":         {json.RawMessage("null"), `null`},
		"nil pointer":  {(*letter)(nil), `null`},
		"struct":       {letter{"ann", math.MaxInt64}, `{"to":"ann","size":9223372036854775807}`},
		"big integer":  {json.RawMessage(`123456789012345678901234567890`), `123456789012345678901234567890`},
		"fraction":     {json.RawMessage(`{"n": 1.10, "e": 1E+400}`), `{"n": 1.10, "e": 1E+400}`},
		"beyond 2^53":  {uint64(math.MaxUint64), `18446744073709551615`},
		"as it stands": {json.RawMessage(` { "b" : 1, "a" : 2, "a" : 3 } `), ` { "b" : 1, "a" : 2, "a" : 3 } `},
		"NUL":          {json.RawMessage(`{"s":"a\u0000b"}`), `{"s":"a\u0000b"}`},
		"NUL in Go":    {"a\x00b", `"a\u0000b"`},
		"lonely half":  {json.RawMessage(`"\ud83c"`), `"\ud83c"`},
		"text":         {json.RawMessage(`"it's <b> & \"c\" \\ 🎭"`), `"it's <b> & \"c\" \\ 🎭"`},
		"array":        {[]any{1, "two", nil}, `[1,"two",null]`},
		"5 MB":         {json.RawMessage(big), big},
	}
	for name, c := range cases {
		id := s.add("t", c.payload)
		ids, err := s.client.AddMany(s.ctx(), []offstage.Spec{{Task: "t", Payload: c.payload}})
		if err != nil {
			t.Errorf("%s in bulk: %v", name, err)
		}
		for _, id := range append(ids, id) {
			job, err := s.client.Get(s.ctx(), id)
			if err != nil || string(job.Payload) != c.text {
				t.Errorf("%s: the payload is %.100s, expected %.100s (%v)", name, job.Payload, c.text, err)
			}
		}
	}
}

func mustJSON(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(b)
}

func TestPayloadsRefused(t *testing.T) {
	s := newStage(t)
	for text, payload := range map[string]any{
		"payload is not JSON":     json.RawMessage(`{"a":`),
		"is not JSON":             json.RawMessage("\"\xff\""),
		"add t: the payload is n": json.RawMessage(nil),
		"does not encode":         func() {},
		"unsupported value":       math.NaN(),
	} {
		if _, err := s.client.Add(s.ctx(), "t", payload); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%v: %v", payload, err)
		}
		_, err := s.client.AddMany(s.ctx(), []offstage.Spec{{Task: "t"}, {Task: "t"}, {Task: "t", Payload: payload}})
		if err == nil || !strings.Contains(err.Error(), text) || !strings.Contains(err.Error(), "spec 2") {
			t.Errorf("%v in bulk: %v", payload, err)
		}
	}
	if n := one[int](s, "select count(*) from offstage_private.job"); n != 0 {
		t.Errorf("%d jobs were added", n)
	}
}

func TestTransactions(t *testing.T) {
	s := newStage(t)
	db := stdlib.OpenDBFromPool(s.pool)
	defer db.Close()
	// Each way adds two jobs, one of them in bulk.
	add := func(c *offstage.Client) []int64 {
		t.Helper()
		id, err := c.Add(s.ctx(), "t", nil)
		if err != nil {
			t.Fatal(err)
		}
		ids, err := c.AddMany(s.ctx(), []offstage.Spec{{Task: "t"}})
		if err != nil {
			t.Fatal(err)
		}
		return append(ids, id)
	}
	begin := func() pgx.Tx {
		tx, err := s.pool.Begin(s.ctx())
		if err != nil {
			t.Fatal(err)
		}
		return tx
	}
	beginSQL := func() *sql.Tx {
		tx, err := db.BeginTx(s.ctx(), nil)
		if err != nil {
			t.Fatal(err)
		}
		return tx
	}
	ways := map[string]func() (ids []int64, end error){
		"pgx commit": func() ([]int64, error) {
			tx := begin()
			return add(s.client.With(tx)), tx.Commit(s.ctx())
		},
		"pgx rollback": func() ([]int64, error) {
			tx := begin()
			return add(s.client.With(tx)), tx.Rollback(s.ctx())
		},
		"savepoint rollback": func() ([]int64, error) {
			tx := begin()
			save, err := tx.Begin(s.ctx())
			if err != nil {
				t.Fatal(err)
			}
			ids := add(s.client.With(save))
			return ids, errors.Join(save.Rollback(s.ctx()), tx.Commit(s.ctx()))
		},
		"sql commit": func() ([]int64, error) {
			tx := beginSQL()
			return add(s.client.WithSQL(tx)), tx.Commit()
		},
		"sql rollback": func() ([]int64, error) {
			tx := beginSQL()
			return add(s.client.WithSQL(tx)), tx.Rollback()
		},
	}
	for name, way := range ways {
		ids, err := way()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for _, id := range ids {
			_, err := s.client.Status(s.ctx(), id)
			switch there := strings.Contains(name, "commit"); {
			case there && err != nil:
				t.Errorf("%s: %v", name, err)
			case !there && !errors.Is(err, offstage.ErrNotFound):
				t.Errorf("%s: the job is there (%v)", name, err)
			}
		}
	}
	// The transaction's client sees its own job before anybody else does.
	tx := beginSQL()
	defer tx.Rollback()
	id := add(s.client.WithSQL(tx))[0]
	if st, err := s.client.WithSQL(tx).Status(s.ctx(), id); err != nil || st.State != offstage.Waiting {
		t.Errorf("inside the status is %+v, %v", st, err)
	}
	if _, err := s.client.Status(s.ctx(), id); !errors.Is(err, offstage.ErrNotFound) {
		t.Errorf("outside the job is visible before the commit: %v", err)
	}
}

// Specs that differ in their payloads only take a way of their own; what they say arrives all the same.
func TestAddManyAlike(t *testing.T) {
	s := newStage(t)
	at := time.Now().Add(time.Hour).Truncate(time.Microsecond)
	o := offstage.Options{Queue: "q, \"x\"", RunAt: at, MaxAttempts: 3, Priority: -7, Flags: []string{"a b", `c"\d`}, Timeout: time.Minute, Keep: "none", Traceparent: "00-1"}
	specs := []offstage.Spec{
		{Task: "t", Payload: map[string]any{"x": "<\u2028é"}, Options: o}, {Task: "t", Options: o}, {Task: "t", Payload: json.RawMessage(`{"a" : 1, "a": 2}`), Options: o},
	}
	ids, err := s.client.AddMany(s.ctx(), specs)
	if err != nil || len(ids) != 3 || ids[0] >= ids[1] || ids[1] >= ids[2] {
		t.Fatalf("ids are %v, %v", ids, err)
	}
	got := one[string](s, `select string_agg(concat_ws(' ', j.payload, q.name, extract(epoch from j.run_at - $2), j.max_attempts, j.priority, j.flags, j.options ->> 'timeout',
		j.options ->> 'keep', j.options ->> 'traceparent'), E'\n' order by j.id)
		from offstage_private.job j join offstage_private.queue q on q.id = j.queue_id where j.id = any ($1)`, ids, at)
	const all = ` q, "x" 0.000000 3 -7 {"a b": true, "c\"\\d": true} 60.000000 s none 00-1`
	want := `{"x":"\u003c\u2028é"}` + all + "\n{}" + all + "\n" + `{"a" : 1, "a": 2}` + all
	if got != want {
		t.Errorf("they are\n%s\nexpected\n%s", got, want)
	}
	if _, err := s.client.AddMany(s.ctx(), []offstage.Spec{{Task: "t"}, {Task: "t", Payload: make(chan int)}}); err == nil || !strings.Contains(err.Error(), "spec 1") {
		t.Errorf("a payload that is not JSON gives %v", err)
	}
	if n := one[int](s, "select count(*) from offstage_private.job"); n != 3 {
		t.Errorf("there are %d jobs", n)
	}
}

func TestAddManyInOrder(t *testing.T) {
	s := newStage(t)
	const n = 10_000
	specs := make([]offstage.Spec, n)
	for i := range specs {
		specs[i] = offstage.Spec{Task: fmt.Sprint("t", i*7919%13), Payload: i}
		if i%3 == 0 {
			specs[i].Queue = fmt.Sprint("q", i%5)
		}
		if i%100 == 0 {
			specs[i].Key = fmt.Sprint("key ", n-i) // keyed ones go in one by one, in another order
		}
	}
	ids, err := s.client.AddMany(s.ctx(), specs)
	if err != nil || len(ids) != n {
		t.Fatalf("%d ids, %v", len(ids), err)
	}
	for i, id := range ids {
		if i > 0 && id <= ids[i-1] {
			t.Fatalf("id %d of spec %d follows %d", id, i, ids[i-1])
		}
	}
	wrong := one[int](s, `select count(*) from unnest($1::bigint[]) with ordinality x (id, n)
		left join offstage_private.job j on j.id = x.id left join offstage_private.task t on t.id = j.task_id
		where j.payload::text is distinct from (x.n - 1)::text or t.name <> 't' || (x.n - 1) * 7919 % 13`, ids)
	if wrong != 0 {
		t.Errorf("%d ids belong to other specs", wrong)
	}
	if list, err := s.client.AddMany(s.ctx(), nil); list != nil || err != nil {
		t.Errorf("adding nothing answered %v, %v", list, err)
	}
}

func TestKeyModes(t *testing.T) {
	s := newStage(t)
	later, muchLater := time.Now().Add(time.Hour).Round(time.Second), time.Now().Add(9*time.Hour).Round(time.Second)
	type what struct {
		mode    offstage.KeyMode
		runAt   time.Time
		payload string
	}
	for _, w := range []what{
		{"", muchLater, `{"n":2}`},
		{offstage.Replace, muchLater, `{"n":2}`},
		{offstage.PreserveRunAt, later, `{"n":2}`},
		{offstage.UnsafeDedupe, later, `{"n":1}`},
	} {
		key := fmt.Sprintf("%d keys are unique, one of them is %q", 512, w.mode)
		first := s.add("t", json.RawMessage(`{"n":1}`), offstage.Options{Key: key, RunAt: later})
		second := s.add("t", json.RawMessage(`{"n":2}`), offstage.Options{Key: key, RunAt: muchLater, KeyMode: w.mode})
		job, err := s.client.Get(s.ctx(), second)
		if first != second || err != nil || !job.RunAt.Equal(w.runAt) || string(job.Payload) != w.payload || job.Key != key {
			t.Errorf("mode %q: jobs %d and %d, the second is %+v with %s, %v", w.mode, first, second, job, job.Payload, err)
		}
	}
	if _, err := s.client.Add(s.ctx(), "t", nil, offstage.Options{KeyMode: offstage.Replace}); err == nil || !strings.Contains(err.Error(), "KeyMode without Key") {
		t.Errorf("a mode without a key: %v", err)
	}
	if _, err := s.client.Add(s.ctx(), "t", nil, offstage.Options{Key: "k", KeyMode: "keep"}); sqlState(err) != "GWBKM" {
		t.Errorf("an unknown mode: %v", err)
	}
}

func sqlState(err error) string {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return ""
	}
	return pg.Code
}

func TestAddManyWithKeys(t *testing.T) {
	s := newStage(t)
	later, muchLater := time.Now().Add(time.Hour).Round(time.Second), time.Now().Add(9*time.Hour).Round(time.Second)
	old := s.add("t", nil, offstage.Options{Key: "b", RunAt: later})
	keyed := func(key string, mode offstage.KeyMode) offstage.Spec {
		return offstage.Spec{Task: "t", Options: offstage.Options{Key: key, KeyMode: mode, RunAt: muchLater}}
	}
	plain := offstage.Spec{Task: "t"}
	ids, err := s.client.AddMany(s.ctx(), []offstage.Spec{plain, keyed("c", offstage.PreserveRunAt), keyed("b", offstage.PreserveRunAt), plain})
	if err != nil || len(ids) != 4 || ids[2] != old {
		t.Fatalf("ids %v, %v; job %d has the key of the third", ids, err, old)
	}
	for id, runAt := range map[int64]time.Time{ids[1]: muchLater, old: later} {
		if job, err := s.client.Get(s.ctx(), id); err != nil || !job.RunAt.Equal(runAt) {
			t.Errorf("preserving: job %d runs at %v, expected %v (%v)", id, job.RunAt, runAt, err)
		}
	}
	if ids, err = s.client.AddMany(s.ctx(), []offstage.Spec{plain, keyed("b", "")}); err != nil || ids[1] != old {
		t.Fatalf("ids %v, %v", ids, err)
	}
	if job, err := s.client.Get(s.ctx(), old); err != nil || !job.RunAt.Equal(muchLater) {
		t.Errorf("replacing: it runs at %v (%v)", job.RunAt, err)
	}

	before := one[int](s, "select count(*) from offstage_private.job")
	told := plain
	told.NotifyChannel = "c"
	modeOnly := plain
	modeOnly.KeyMode = offstage.Replace
	wrongNode := plain
	wrongNode.NotifyNode = []any{func() {}}
	for text, specs := range map[string][]offstage.Spec{
		"spec 1 has a NotifyChannel":           {plain, told},
		"spec 1 has KeyMode unsafe_dedupe":     {plain, keyed("x", offstage.UnsafeDedupe)},
		"spec 2 has another KeyMode":           {keyed("x", offstage.PreserveRunAt), plain, keyed("y", offstage.Replace)},
		"spec 1 has another KeyMode":           {keyed("x", ""), keyed("y", offstage.PreserveRunAt)},
		`spec 1 has the unknown KeyMode "odd"`: {plain, keyed("x", "odd")},
		"spec 1: add t: KeyMode without Key":   {plain, modeOnly},
		"spec 1: add t: options":               {plain, wrongNode},
	} {
		if _, err := s.client.AddMany(s.ctx(), specs); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("expected %q, got %v", text, err)
		}
	}
	if _, err := s.client.AddMany(s.ctx(), []offstage.Spec{keyed("z", ""), plain, keyed("z", "")}); sqlState(err) != "21000" {
		t.Errorf("a key twice: %v", err)
	}
	if _, err := s.client.AddMany(s.ctx(), []offstage.Spec{plain, {Task: strings.Repeat("x", 129)}}); sqlState(err) != "23514" {
		t.Errorf("a long name: %v", err)
	}
	if after := one[int](s, "select count(*) from offstage_private.job"); after != before {
		t.Errorf("%d jobs were added by calls that failed", after-before)
	}
}

func TestLimits(t *testing.T) {
	s := newStage(t)
	long := func(n int) string { return strings.Repeat("ß", n) } // two bytes each: limits count characters
	for name, c := range map[string]struct {
		task             string
		o                offstage.Options
		code, constraint string
		hint             string
	}{
		"task that fits":     {task: long(128)},
		"task too long":      {task: long(129), code: "23514", constraint: "tasks_identifier_check"},
		"task without name":  {task: ""}, // as in Graphile Worker
		"queue that fits":    {task: "t", o: offstage.Options{Queue: long(128)}},
		"queue too long":     {task: "t", o: offstage.Options{Queue: long(129)}, code: "23514", constraint: "job_queues_queue_name_check"},
		"key that fits":      {task: "t", o: offstage.Options{Key: long(512)}},
		"key too long":       {task: "t", o: offstage.Options{Key: long(513)}, code: "23514", constraint: "jobs_key_check"},
		"channel that fits":  {task: "t", o: offstage.Options{NotifyChannel: long(31) + "x"}},
		"channel too long":   {task: "t", o: offstage.Options{NotifyChannel: long(32)}, code: "22023", hint: "1 to 63"},
		"negative attempts":  {task: "t", o: offstage.Options{MaxAttempts: -1}, code: "23514", constraint: "jobs_max_attempts_check"},
		"too many attempts":  {task: "t", o: offstage.Options{MaxAttempts: 32768}, code: "22003"},
		"priority too large": {task: "t", o: offstage.Options{Priority: 32768}, code: "22003"},
		"negative timeout":   {task: "t", o: offstage.Options{Timeout: -time.Second}, code: "22023", hint: "positive interval"},
		"timeout below 1 us": {task: "t", o: offstage.Options{Timeout: time.Nanosecond}, code: "22023"},
		"keep what":          {task: "t", o: offstage.Options{Keep: "some"}, code: "22023", hint: "all, failures or none"},
		"NUL in a name":      {task: "a\x00b", code: "22021"},
		"bad UTF-8":          {task: "a\xffb", code: "22021"},
	} {
		_, err := s.client.Add(s.ctx(), c.task, nil, c.o)
		var pg *pgconn.PgError
		switch errors.As(err, &pg); {
		case c.code == "" && err != nil, c.code != "" && pg == nil:
			t.Errorf("%s: %v", name, err)
		case c.code != "" && (pg.Code != c.code || pg.ConstraintName != c.constraint || !strings.Contains(err.Error(), c.hint)):
			t.Errorf("%s: %v (%s, constraint %q)", name, err, pg.Code, pg.ConstraintName)
		}
	}
}

func TestAddWithEndedContext(t *testing.T) {
	s := newStage(t)
	ctx, cancel := context.WithCancel(s.ctx())
	cancel()
	if _, err := s.client.Add(ctx, "t", nil); !errors.Is(err, context.Canceled) {
		t.Errorf("add: %v", err)
	}
	if _, err := s.client.AddMany(ctx, []offstage.Spec{{Task: "t"}}); !errors.Is(err, context.Canceled) {
		t.Errorf("add many: %v", err)
	}
}

// eavesdropper is a transaction that keeps the arguments of a query and refuses it.
type eavesdropper struct {
	pgx.Tx
	args []any
}

var errHeard = errors.New("heard enough")

func (e *eavesdropper) Query(_ context.Context, _ string, args ...any) (pgx.Rows, error) {
	e.args = args
	return nil, errHeard
}

// Flags and ids travel as array literals, which every driver can pass on: another parser must read in them what was meant.
func FuzzArrayLiterals(f *testing.F) {
	f.Add("", "", "", uint8(0), int64(0))
	f.Add("plain", "two words", "a,b", uint8(3), int64(1))
	f.Add(`"`, `\`, `\"`, uint8(3), int64(-1))
	f.Add("{", "}", "{}", uint8(3), int64(math.MaxInt64))
	f.Add("NULL", "null", "", uint8(3), int64(math.MinInt64))
	f.Add("\n", "\t ", " ü🎭 ", uint8(2), int64(404))
	f.Add(`\\"\`, `","`, "'", uint8(3), int64(7))
	client, err := offstage.New(nil, offstage.Config{})
	if err != nil {
		f.Fatal(err)
	}
	types := pgtype.NewMap()
	f.Fuzz(func(t *testing.T, a, b, c string, n uint8, id int64) {
		if !utf8.ValidString(a) || !utf8.ValidString(b) || !utf8.ValidString(c) {
			return // PostgreSQL refuses it
		}
		flags := []string{a, b, c}[:n%4]
		tx := &eavesdropper{}
		if _, err := client.With(tx).Add(t.Context(), "t", nil, offstage.Options{Flags: flags}); !errors.Is(err, errHeard) {
			t.Fatal(err)
		}
		var got []string
		if err := types.Scan(pgtype.TextArrayOID, pgx.TextFormatCode, []byte(tx.args[7].(string)), &got); err != nil || !slices.Equal(got, flags) {
			t.Errorf("%q became %s, which reads %q (%v)", flags, tx.args[7], got, err)
		}
		ids := []int64{id, id / 3, -id}[:n%4]
		if _, err := client.With(tx).Retry(t.Context(), ids...); !errors.Is(err, errHeard) {
			t.Fatal(err)
		}
		var gotIDs []int64
		if err := types.Scan(pgtype.Int8ArrayOID, pgx.TextFormatCode, []byte(tx.args[0].(string)), &gotIDs); err != nil || !slices.Equal(gotIDs, ids) {
			t.Errorf("%d became %s, which reads %d (%v)", ids, tx.args[0], gotIDs, err)
		}
	})
}
