package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/internal/cli"
)

const (
	retryAfter   = 200 * time.Millisecond
	invoiceTakes = 60 * time.Millisecond
	remindAfter  = time.Second
	patience     = 12 * time.Second // for all jobs together
)

// role is a job of the story: how it was added, and what must become of it.
type role struct {
	id     int64
	task   string
	by     string
	path   string // outcomes of its attempts, in order
	result string // compact JSON; "": none
	says   string // what its log must contain

	added, started, settled time.Time // by the server's clock; started is the first attempt
	gotPath                 string
	gotResult               string
	gotLog                  string
}

func perform(ctx context.Context, call cli.Main, once bool) (err error) {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	s := &stage{}
	say := narrator{call.Stdout}
	begin := time.Now()
	defer func() { err = errors.Join(err, s.close()) }()
	if err := s.open(ctx, call, once); err != nil {
		return err
	}
	say.say("A private PostgreSQL, the schema and a worker are up after %d ms.", time.Since(begin).Milliseconds())
	say.say("\nAdding jobs")
	roles, err := s.add(ctx, say)
	if err != nil {
		return err
	}
	if err := s.follow(ctx, roles); err != nil {
		return err
	}
	report(say, roles)
	if err := s.judge(roles); err != nil {
		return err
	}
	say.say("\nEverything came out as told.")
	if once {
		if err := s.close(); err != nil {
			return fmt.Errorf("stop: %w", err)
		}
		say.say("Worker and PostgreSQL have stopped; %.1f s in all.", time.Since(begin).Seconds())
		return nil
	}
	return s.stay(ctx, call, say)
}

// add adds the jobs, in every way there is.
func (s *stage) add(ctx context.Context, say narrator) ([]*role, error) {
	var roles []*role
	play := func(by, how, task, path, result string, ids ...int64) {
		var list []string
		for i, id := range ids {
			each := result
			if len(ids) > 1 {
				each = fmt.Sprintf(result, i+1)
			}
			roles = append(roles, &role{id: id, task: task, by: by, path: path, result: each})
			list = append(list, "#"+strconv.FormatInt(id, 10))
		}
		say.say("  %-7s %-76s %s", by, how, strings.Join(list, " "))
	}
	const once, thrice = "succeeded", "retried, retried, succeeded"

	id, err := s.client.Add(ctx, "greet", person{"Ada"})
	if err != nil {
		return nil, err
	}
	play("Go", `client.Add(ctx, "greet", person{"Ada"})`, "greet", once, `{"text":"Hello Ada"}`, id)

	if id, err = s.one(ctx, `select id from offstage.add_job('greet', '{"name": "Grace"}')`); err != nil {
		return nil, err
	}
	play("SQL", `select offstage.add_job('greet', '{"name": "Grace"}')`, "greet", once, `{"text":"Hello Grace"}`, id)

	insert := `insert into demo.signup values ('lin@example.com')`
	if _, err := s.pool.Exec(ctx, insert); err != nil {
		return nil, err
	}
	// The trigger's job has the newest id; it may have ended already, and then only history knows it.
	id, err = s.one(ctx, `select max(x.id) from (select j.id from offstage.jobs j where j.task_identifier = 'welcome'
		union all select h.job_id from offstage_private.history h join offstage_private.task t on t.id = h.task_id where t.name = 'welcome') x`)
	if err != nil {
		return nil, err
	}
	play("trigger", insert, "welcome", once, `{"email":"lin@example.com"}`, id)

	line := `offstage add word_count '{"text": "the show must go on"}'`
	if id, err = s.shell(ctx, line); err != nil {
		return nil, err
	}
	play("shell", line+"   (a shell script)", "word_count", once, `{"words":5}`, id)

	if s.noNode != nil {
		say.say("  (no job for a task in JavaScript: %v)", s.noNode)
	} else {
		line := `select offstage.add_job('hello', json_build_object('name', 'Bobby Tables'))`
		if id, err = s.one(ctx, strings.Replace(line, "select ", "select id from ", 1)); err != nil {
			return nil, err
		}
		play("SQL", line, "hello", once, "", id)
		roles[len(roles)-1].says = "Hello, Bobby Tables"
	}

	if id, err = s.client.Add(ctx, "charge_card", charge{Cents: 4200}); err != nil {
		return nil, err
	}
	play("Go", fmt.Sprintf(`client.Add(ctx, "charge_card", …)   (fails twice, tried again after %s)`, retryAfter), "charge_card", thrice,
		`{"cents":4200,"attempt":3}`, id)

	// All or none, in the caller's own transaction.
	var ids []int64
	err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		var err error
		ids, err = s.client.With(tx).AddMany(ctx, []offstage.Spec{
			{Task: "invoice", Payload: number{1}, Options: offstage.Options{Queue: "invoices"}},
			{Task: "invoice", Payload: number{2}, Options: offstage.Options{Queue: "invoices"}},
			{Task: "invoice", Payload: number{3}, Options: offstage.Options{Queue: "invoices"}},
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	play("Go", `client.With(tx).AddMany(ctx, …)   (a serial queue: one at a time)`, "invoice", once, `{"number":%d}`, ids...)

	later := fmt.Sprintf(`run_at => now() + interval '%d s')`, int(remindAfter.Seconds()))
	if id, err = s.one(ctx, `select id from offstage.add_job('remind', '{"name": "Ada"}', `+later); err != nil {
		return nil, err
	}
	play("SQL", "select offstage.add_job('remind', …, "+later, "remind", once, `{"text":"It is time, Ada"}`, id)
	return roles, nil
}

func (s *stage) one(ctx context.Context, sql string) (id int64, err error) {
	err = s.pool.QueryRow(ctx, sql).Scan(&id)
	return id, err
}

// shell adds a job as people do in a terminal.
func (s *stage) shell(ctx context.Context, line string) (int64, error) {
	c := exec.CommandContext(ctx, "sh", "-c", line)
	c.Env = append(os.Environ(), "PATH="+s.bin+string(os.PathListSeparator)+os.Getenv("PATH"), "DATABASE_URL="+s.url)
	var fault bytes.Buffer
	c.Stderr = &fault
	out, err := c.Output()
	if err != nil {
		return 0, fmt.Errorf("%s: %w: %s", line, err, strings.TrimSpace(fault.String()))
	}
	return strconv.ParseInt(strings.TrimSpace(string(out)), 10, 64)
}

// follow waits for every job to end, and reads what history tells of it.
func (s *stage) follow(ctx context.Context, roles []*role) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for _, r := range roles {
		result, err := offstage.Await[json.RawMessage](ctx, s.client, r.id)
		if err != nil {
			return err
		}
		var compact bytes.Buffer
		if len(result) == 0 {
			// It has none.
		} else if err := json.Compact(&compact, result); err != nil {
			return fmt.Errorf("result of job %d: %w", r.id, err)
		}
		r.gotResult = compact.String()
		err = s.pool.QueryRow(ctx, `
			select min(h.added_at), min(h.claimed_at), max(h.settled_at), string_agg(h.outcome, ', ' order by h.settled_at)
			from offstage_private.history h where h.job_id = $1`, r.id).Scan(&r.added, &r.started, &r.settled, &r.gotPath)
		if err != nil {
			return fmt.Errorf("history of job %d: %w", r.id, err)
		}
		lines, err := s.client.Log(ctx, r.id, nil)
		if err != nil {
			return err
		}
		for _, l := range lines {
			r.gotLog += l.Message + "\n"
		}
	}
	return nil
}

func report(say narrator, roles []*role) {
	say.say("\nWhat happened (milliseconds since the job was added, by the server's clock)")
	say.say("  %-4s %-12s %-8s %8s %8s   %-30s %s", "JOB", "TASK", "ADDED BY", "STARTED", "SETTLED", "ATTEMPTS", "RESULT")
	for _, r := range roles {
		ms := func(t time.Time) string { return fmt.Sprintf("%.1f", float64(t.Sub(r.added))/1e6) }
		say.say("  %-4s %-12s %-8s %8s %8s   %-30s %s", "#"+strconv.FormatInt(r.id, 10), r.task, r.by, ms(r.started), ms(r.settled), r.gotPath, r.gotResult)
	}
}

// judge compares what happened with what was told.
func (s *stage) judge(roles []*role) error {
	var wrong []error
	invoices := time.Time{}
	for _, r := range roles {
		if r.gotPath != r.path {
			wrong = append(wrong, fmt.Errorf("job %d (%s) went %s; it should have gone %s", r.id, r.task, r.gotPath, r.path))
		}
		if r.gotResult != r.result {
			wrong = append(wrong, fmt.Errorf("job %d (%s) has the result %s; it should be %s", r.id, r.task, r.gotResult, r.result))
		}
		if !strings.Contains(r.gotLog, r.says) {
			wrong = append(wrong, fmt.Errorf("job %d (%s) has the log %q; it should say %q", r.id, r.task, r.gotLog, r.says))
		}
		switch r.task {
		case "remind":
			if waited := r.started.Sub(r.added); waited < remindAfter {
				wrong = append(wrong, fmt.Errorf("job %d (%s) started after %s; that is too early", r.id, r.task, waited))
			}
		case "invoice":
			if r.settled.Before(invoices) {
				wrong = append(wrong, fmt.Errorf("job %d (%s) was settled before the one ahead of it in the queue", r.id, r.task))
			}
			invoices = r.settled
		}
	}
	if s.crowd.Load() {
		wrong = append(wrong, errors.New("two jobs of the serial queue ran at the same time"))
	}
	return errors.Join(wrong...)
}

// stay leaves everything up for those who want to try, until Ctrl-C.
func (s *stage) stay(ctx context.Context, call cli.Main, say narrator) error {
	forget, err := call.ShareURL(s.url)
	if err != nil {
		return err
	}
	defer forget()
	where, serve, err := call.ServeUI(ctx, s.pool)
	if err != nil {
		return err
	}
	serving := make(chan error, 1)
	go func() { serving <- serve(ctx) }()
	s.talk.Store(true)
	say.say(`
It stays up. The web UI is at %s

In another terminal, in this directory:

  bin/offstage add greet '{"name": "you"}' --wait
  bin/offstage jobs get 1
  bin/offstage tasks
  bin/offstage doctor
  psql "$(bin/offstage dev url)" -c "insert into demo.signup values ('you@example.com')"

Ctrl-C stops the worker and PostgreSQL.
`, where)
	err = <-serving
	say.say("\nStopping.")
	return err
}
