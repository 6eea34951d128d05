package schema_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/offstage-dev/offstage/internal/pgtest"
)

var update = flag.Bool("update", false, "write what the statements give into testdata")

// TestSessions runs testdata/*.txt: what named sessions do, and the rows that they must get. A file has scenarios, each with a
// database to itself, as good as new, where time stands still at 2100-01-01 00:00 UTC until t.pass moves it:
//
//	== title of a scenario
//	# a comment
//	a> select 1, null;            session a runs a statement, which ends with a semicolon at the end of a line
//	1 | ∅                         and gives this row
//	b> select pg_sleep_for('1 h');
//	(blocks)                      waits for another session
//	b<                            and goes on when that one has ended: its rows follow
//	b! select 1;                  a statement that may wait for a moment and goes on by itself
//	ERROR 22012: division by zero an error: SQLSTATE and message
//	a notified>                   notifications that session a got: channel and payload
//
// At the end of a scenario all sessions roll back, and the whole must be whole.
func TestSessions(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no testdata: %v", err)
	}
	watch := pgtest.Bare(t).SuperPool(t)
	all := &stages{whole: t}
	for _, path := range files {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txt"), func(t *testing.T) {
			t.Parallel()
			src, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			parts := strings.Split("\n"+string(src), "\n== ")
			got := make([]string, len(parts))
			got[0] = strings.TrimPrefix(parts[0], "\n")
			t.Run("scenarios", func(t *testing.T) {
				for i, part := range parts[1:] {
					title, body, _ := strings.Cut(part, "\n")
					got[i+1] = part // stays when the scenario does not come to its end
					t.Run(title, func(t *testing.T) {
						t.Parallel()
						got[i+1] = title + "\n" + play(t, all, watch, body)
					})
				}
			})
			if *update { // also what is wrong: to be read
				if err := os.WriteFile(path, []byte(strings.Join(got, "\n== ")), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// setting is what every scenario finds: a clock of its own, and short forms of what takes many arguments.
const setting = `
create schema t;
create table t.clock (at timestamptz);
insert into t.clock values ('2100-01-01 00:00 UTC');
create or replace function offstage_private.clock() returns timestamptz language sql volatile as $$ select at from t.clock $$;
create function t.pass(span interval) returns void language sql as $$ update t.clock set at = at + span $$;

-- register with these tasks; answers the worker's id
create function t.worker(variadic tasks text[]) returns integer language sql as $$
  select worker_id from offstage.register('host', 7, 'test', 10, (select json_agg(json_build_object('name', x)) from unnest(tasks) x))
$$;
-- ids of tasks by name
create function t.task(variadic names text[]) returns integer[] language sql as $$
  select array_agg(offstage_private.task_id(x) order by o) from unnest(names) with ordinality x (x, o)
$$;
create function t.claim(worker integer, want integer, variadic tasks text[])
returns table (kind text, job_id bigint, claim bigint, attempt smallint) language sql as $$
  select kind, job_id, claim, attempt from offstage.claim(worker, want, t.task(variadic tasks)) where kind not in ('mark', 'rest')
$$;
-- one entry of a report; answers whether the claim is held
create function t.report(worker integer, claim bigint, job_id bigint, percent real default null, message text default null, lines json default null)
returns boolean language sql as $$
  select not exists (select from offstage.report(worker, json_build_array(json_build_object('claim', claim, 'job_id', job_id, 'percent', percent, 'message', message, 'lines', lines))))
$$;
-- where jobs are
create view t.jobs as
  select j.id, t.name as task, offstage_private.state_of(j) as state, j.attempts, j.run_at, q.name as queue, j.key, j.revision, j.released_claim, j.crashes,
    j.payload, j.last_error
  from offstage_private.job j join offstage_private.task t on t.id = j.task_id left join offstage_private.queue q on q.id = j.queue_id order by j.id;
-- tickets, and which of the jobs that share one have not left it
create view t.tickets as
  select t.job_id, t.priority, t.jobs, array(
    select i from unnest(coalesce(t.job_ids, array[t.job_id])) i
    where t.jobs = 1 or not exists (select from offstage_private.stub s where s.lane_id = t.lane_id and s.ticket = t.job_id and s.job_id = i)) as waiting
  from offstage_private.ticket t order by t.job_id, t.jobs;
create view t.history as
  select job_id, outcome, attempt, claim, worker_id as worker, error, payload, result, settled_at from offstage_private.history order by settled_at, job_id, outcome;
-- n beats, a second apart, of these workers
create function t.beat(n integer, variadic workers integer[]) returns void language plpgsql as $$
begin
  for i in 1..n loop
    perform t.pass('1 s');
    perform offstage.heartbeat(w) from unnest(workers) w;
  end loop;
end $$;
`

var command = regexp.MustCompile(`^([a-z]+)(>|!|<| notified>)(.*)$`)

// play runs one scenario and gives its text as it came true.
func play(t *testing.T, all *stages, watch pgtest.Querier, script string) string {
	here := all.take(t)
	sessions := map[string]*session{}
	get := func(name string) *session {
		if sessions[name] == nil {
			s := &session{conn: all.conn(t, here)}
			sessions[name] = s
		}
		return sessions[name]
	}
	var out strings.Builder
	lines := strings.Split(script, "\n")
	for i := 0; i < len(lines); {
		line := lines[i]
		i++
		m := command.FindStringSubmatch(line)
		if m == nil {
			if line != "" && !strings.HasPrefix(line, "#") && !*update {
				t.Fatalf("not a command: %q", line)
			}
			if line == "" || strings.HasPrefix(line, "#") {
				out.WriteString(line)
				if i < len(lines) {
					out.WriteByte('\n')
				}
			}
			continue
		}
		said := line
		s := get(m[1])
		var got string
		switch m[2] {
		case ">", "!":
			sql := m[3]
			for !strings.HasSuffix(strings.TrimSpace(sql), ";") && i < len(lines) {
				said += "\n" + lines[i]
				sql += "\n" + lines[i]
				i++
			}
			got = s.run(t, watch, sql)
			if m[2] == "!" && s.answer != nil {
				got = s.goOn(t)
			}
		case "<":
			got = s.goOn(t)
		default:
			got = s.notified(t)
		}
		var want strings.Builder
		for i < len(lines) && lines[i] != "" && !strings.HasPrefix(lines[i], "#") && !command.MatchString(lines[i]) {
			want.WriteString(lines[i] + "\n")
			i++
		}
		if got != want.String() && !*update {
			t.Fatalf("%s\ngave\n%swant\n%s", said, got, want.String())
		}
		out.WriteString(said + "\n" + got)
	}
	var conns []*pgx.Conn
	for name, s := range sessions {
		if s.answer != nil {
			t.Fatalf("session %s still waits for another one", name)
		}
		pgtest.Do(t, s.conn, "rollback")
		s.notified(t) // nobody else is to hear of it
		asNew(t, s.conn)
		conns = append(conns, s.conn)
	}
	checkWhole(t, conns[0])
	all.leave(t, here, conns)
	return out.String()
}

// session is a connection that may be waiting for another one.
type session struct {
	conn   *pgx.Conn
	answer chan string // of the statement that waits
}

// run starts a statement and answers what it gives, or that it waits for another session.
func (s *session) run(t *testing.T, watch pgtest.Querier, sql string) string {
	t.Helper()
	if s.answer != nil {
		t.Fatalf("the session waits, it cannot run %s", sql)
	}
	ctx := pgtest.Context(t)
	answer := make(chan string, 1)
	go func() { answer <- show(s.conn.PgConn().Exec(ctx, sql).ReadAll()) }()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for seen := 0; seen < 4; {
		select {
		case got := <-answer:
			return got
		case <-tick.C:
			var blocked bool
			err := watch.QueryRow(ctx, `select cardinality(pg_blocking_pids($1)) > 0`, s.conn.PgConn().PID()).Scan(&blocked)
			if err != nil {
				t.Fatalf("%s: %v", sql, err)
			}
			if blocked {
				seen++
			} else {
				seen = 0
			}
		}
	}
	s.answer = answer
	return "(blocks)\n"
}

// goOn waits for a statement that was waiting.
func (s *session) goOn(t *testing.T) string {
	t.Helper()
	if s.answer == nil {
		t.Fatal("the session does not wait")
	}
	got := <-s.answer
	s.answer = nil
	return got
}

// notified asks for the notifications up to one of its own.
func (s *session) notified(t *testing.T) string {
	t.Helper()
	ctx := pgtest.Context(t)
	pgtest.Do(t, s.conn, "listen t_end; notify t_end")
	var out strings.Builder
	for {
		n, err := s.conn.WaitForNotification(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if n.Channel == "t_end" {
			pgtest.Do(t, s.conn, "unlisten t_end") // that of another session is not ours
			return out.String()
		}
		fmt.Fprintf(&out, "%s %s\n", n.Channel, n.Payload)
	}
}

func show(results []*pgconn.Result, err error) string {
	var out strings.Builder
	for _, r := range results {
		if r.Err != nil {
			break
		}
		if r.CommandTag.Select() && len(r.Rows) == 0 {
			out.WriteString("(no rows)\n")
		}
		for _, row := range r.Rows {
			for i, v := range row {
				if i > 0 {
					out.WriteString(" | ")
				}
				switch {
				case v == nil:
					out.WriteString("∅")
				case len(v) == 0 && r.FieldDescriptions[i].DataTypeOID == 2278: // void
					out.WriteString("(done)")
				default:
					out.Write(v)
				}
			}
			out.WriteByte('\n')
		}
	}
	var pg *pgconn.PgError
	switch {
	case errors.As(err, &pg):
		fmt.Fprintf(&out, "ERROR %s: %s\n", pg.Code, pg.Message)
	case errors.Is(err, context.DeadlineExceeded):
		out.WriteString("ERROR: does not come to an end\n")
	case err != nil:
		fmt.Fprintf(&out, "ERROR: %v\n", err)
	}
	return out.String()
}
