package compat_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// side is one of the two databases of a comparison: a session in it, its worker, and the names by which both sides
// speak of the same things.
type side struct {
	name     string
	url      string
	conn     *pgconn.PgConn
	worker   worker
	types    map[string]string // oid → name
	notices  []string
	notified []string // channels, once the session listens
	*names
}

// names is what is needed to say the same thing in both databases (job 3, worker w1) and to recognise the same thing
// in both answers. All sessions of a side share it.
type names struct {
	step    int
	ids     map[string]int    // real job id → number, in the order of first appearance
	real    []string          // number - 1 → real job id
	workers map[string]string // locked_by → w1, w2, …; several when a worker had to register again
	holders map[string]string // w1, w2, … → its last locked_by
	tasks   map[string]string // task_id → identifier, learned from rows and the view together
	queues  map[string]string
	claimed int              // the last job that was claimed
	seen    map[string]place // real job id → what the view last said
	stamps  map[int64]string // microseconds → now@step
	spans   []span           // of steps of workers, which may read another clock than now()
}

type place struct {
	task, queue string
	locked      bool
}

type span struct {
	step       int
	begin, end int64
}

// worker does to a job what a worker process does, through the means of its side.
type worker interface {
	// claim takes the most urgent ready job of the task; id is "" when there is none.
	claim(ctx context.Context, task, name string) (id, lockedBy string, err error)
	// fail and succeed end the attempt that claim started.
	fail(ctx context.Context, id, message string) error
	succeed(ctx context.Context, id string) error
	// age makes all locks older.
	age(ctx context.Context, by string) error
	// session is the connection that all this goes through.
	session() *pgx.Conn
}

// viewColumns are Graphile Worker's columns of the view jobs.
const viewColumns = `id, queue_name, task_identifier, priority, run_at, attempts, max_attempts, last_error, created_at,
	updated_at, key, locked_at, locked_by, revision, flags`

// rowColumns are the columns of the row that the functions return.
var rowColumns = []column{
	{"id", "bigint"}, {"job_queue_id", "integer"}, {"task_id", "integer"}, {"payload", "json"}, {"priority", "smallint"},
	{"run_at", timestamptz}, {"attempts", "smallint"}, {"max_attempts", "smallint"}, {"last_error", "text"},
	{"created_at", timestamptz}, {"updated_at", timestamptz}, {"key", "text"}, {"locked_at", timestamptz},
	{"locked_by", "text"}, {"revision", "integer"}, {"flags", "jsonb"}, {"is_available", "boolean"},
}

const (
	timestamptz = "timestamp with time zone"
	rowType     = "graphile_worker._private_jobs"
)

type column struct{ name, typ string }

func newSide(t *testing.T, name, url string, w worker) *side {
	t.Helper()
	s := &side{name: name, url: url, worker: w, types: map[string]string{}, names: new(names)}
	s.forget()
	s.dial(t)
	results, err := s.conn.Exec(t.Context(), "select oid, format_type(oid, null) from pg_type").ReadAll()
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	for _, r := range results[0].Rows {
		s.types[string(r[0])] = string(r[1])
	}
	return s
}

// session is another session of the same side.
func (s *side) session(t *testing.T) *side {
	t.Helper()
	other := *s
	other.dial(t)
	return &other
}

func (s *side) dial(t *testing.T) {
	t.Helper()
	config, err := pgconn.ParseConfig(s.url)
	if err != nil {
		t.Fatal(err)
	}
	config.RuntimeParams["search_path"] = ""
	config.RuntimeParams["timezone"] = "UTC"
	config.RuntimeParams["datestyle"] = "ISO"
	config.OnNotification = func(_ *pgconn.PgConn, n *pgconn.Notification) { s.notified = append(s.notified, n.Channel) }
	config.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) {
		s.notices = append(s.notices, fmt.Sprintf("%s %s %s", n.Severity, n.Code, n.Message))
	}
	if s.conn, err = pgconn.ConnectConfig(t.Context(), config); err != nil {
		t.Fatalf("%s: %v", s.name, err)
	}
	conn := s.conn
	t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
}

// forget starts numbering anew.
func (n *names) forget() {
	*n = names{
		ids: map[string]int{}, workers: map[string]string{}, holders: map[string]string{}, tasks: map[string]string{},
		queues: map[string]string{}, seen: map[string]place{}, stamps: map[int64]string{},
	}
}

// run executes a statement, in a transaction of its own unless one is open, and describes everything that can be
// seen of it in words that do not depend on the database.
func (s *side) run(ctx context.Context, sql string) (string, error) {
	s.step++
	s.notices = nil
	sql = s.fill(sql)
	view := "select " + viewColumns + " from graphile_worker.jobs"
	const clock = "select now(), clock_timestamp();"
	var all []*pgconn.Result
	var err error
	status := s.conn.TxStatus()
	control := controls.MatchString(sql)
	switch {
	case control || status == 'E':
		all, err = s.conn.Exec(ctx, sql).ReadAll()
	case status == 'I':
		all, err = s.conn.Exec(ctx, "begin;"+clock+sql+";"+view+";commit").ReadAll()
		all = all[min(1, len(all)):]
	default:
		all, err = s.conn.Exec(ctx, clock+sql+";"+view).ReadAll()
	}
	failure := new(pgconn.PgError)
	if err != nil && !errors.As(err, &failure) {
		return "", fmt.Errorf("%s: %w", s.name, err)
	}

	var out strings.Builder
	for _, n := range s.notices {
		fmt.Fprintf(&out, "notice %s\n", n)
	}
	if err == nil && !control && status != 'E' {
		s.stamp(all[0])
		all = all[1:]
		if status == 'I' {
			all = all[:len(all)-1] // of commit
		}
		jobs, answers := all[len(all)-1], all[:len(all)-1]
		s.look(jobs)
		for _, r := range answers {
			s.learn(r)
		}
		for _, r := range answers {
			s.describe(&out, r, ordered.MatchString(sql))
		}
		s.view(&out, jobs)
		return out.String(), nil
	}
	if err != nil {
		fmt.Fprintf(&out, "error %s\n", failed(failure))
		if status == 'I' && !control {
			if _, err := s.conn.Exec(ctx, "rollback").ReadAll(); err != nil {
				return "", fmt.Errorf("%s: %w", s.name, err)
			}
		}
	}
	if s.conn.TxStatus() == 'E' {
		return out.String(), nil
	}
	jobs, err := s.jobs(ctx)
	return out.String() + jobs, err
}

var (
	controls = regexp.MustCompile(`(?is)^\s*(begin|commit|rollback|savepoint|release|set)\b`)
	ordered  = regexp.MustCompile(`(?is)\border by\b`)
	holes    = regexp.MustCompile(`\{(w?\d+)\}`)
)

// fill puts the real ids of jobs and workers where a statement says {3} and {w1}. A job that does not exist (yet)
// has the same large id everywhere.
func (s *side) fill(sql string) string {
	return holes.ReplaceAllStringFunc(sql, func(hole string) string {
		hole = hole[1 : len(hole)-1]
		if hole[0] == 'w' {
			return cmp.Or(s.holders[hole], "nobody")
		}
		n, _ := strconv.Atoi(hole)
		if n >= 1 && n <= len(s.real) {
			return s.real[n-1]
		}
		return strconv.Itoa(900_000_000 + n)
	})
}

// wording are the SQLSTATEs whose text names a private table or a command on one: for them it is not compared.
var wording = regexp.MustCompile(`^(23...|42501|25006)$`)

// failed describes an error. Which column of a constraint violation it names is part of it.
func failed(e *pgconn.PgError) string {
	if wording.MatchString(e.Code) {
		return fmt.Sprintf("%s constraint %q column %q", e.Code, e.ConstraintName, e.ColumnName)
	}
	return fmt.Sprintf("%s constraint %q: %s", e.Code, e.ConstraintName, e.Message)
}

// stamp notes the transaction's now(), so that timestamps equal to it are recognised from then on.
func (s *side) stamp(r *pgconn.Result) {
	if now, ok := micros(string(r.Rows[0][0])); ok {
		if _, known := s.stamps[now]; !known {
			s.stamps[now] = fmt.Sprintf("now@%d", s.step)
		}
	}
}

// look remembers what the view says about each job: its task and queue by name.
func (s *side) look(r *pgconn.Result) {
	for _, row := range r.Rows {
		s.seen[string(row[0])] = place{task: string(row[2]), queue: string(row[1]), locked: row[11] != nil}
	}
}

// learn connects the task and queue numbers of a row with the names that the view shows for its job.
func (s *side) learn(r *pgconn.Result) {
	for _, row := range r.Rows {
		values := map[string][]byte{}
		for i, f := range r.FieldDescriptions {
			if s.typeOf(f) == rowType {
				for j, v := range record(row[i]) {
					values[rowColumns[j].name] = v
				}
			} else {
				values[f.Name] = row[i]
			}
		}
		if seen, ok := s.seen[string(values["id"])]; ok {
			if v := values["task_id"]; v != nil {
				s.tasks[string(v)] = seen.task
			}
			if v := values["job_queue_id"]; v != nil {
				s.queues[string(v)] = seen.queue
			}
		}
	}
}

func (s *side) typeOf(f pgconn.FieldDescription) string {
	return s.types[strconv.FormatUint(uint64(f.DataTypeOID), 10)]
}

// describe writes the columns and rows of a result. Rows come in no order unless the statement asks for one: they are
// sorted, and jobs that appear for the first time are numbered in that order.
func (s *side) describe(out *strings.Builder, r *pgconn.Result, keepOrder bool) {
	fmt.Fprintf(out, "%s\n", r.CommandTag)
	if r.FieldDescriptions == nil {
		return
	}
	var columns []string
	for _, f := range r.FieldDescriptions {
		columns = append(columns, f.Name+" "+s.typeOf(f))
	}
	fmt.Fprintf(out, "columns %s\n", strings.Join(columns, ", "))
	s.number(r)
	var lines []string
	for _, row := range r.Rows {
		lines = append(lines, "row "+s.line(r, row, true))
	}
	if !keepOrder {
		sort.Strings(lines)
	}
	for _, l := range lines {
		out.WriteString(l + "\n")
	}
}

// number gives jobs that appear for the first time their numbers, in the order of everything else that is known of
// them: neither ids nor rows of a bulk add come in a promised order.
func (s *side) number(r *pgconn.Result) {
	type fresh struct{ id, rest string }
	var found []fresh
	for _, row := range r.Rows {
		for i, f := range r.FieldDescriptions {
			id := row[i]
			if typ := s.typeOf(f); typ == rowType {
				if fields := record(row[i]); fields != nil {
					id = fields[0]
				}
			} else if f.Name != "id" || typ != "bigint" {
				continue
			}
			if id != nil && s.ids[string(id)] == 0 {
				found = append(found, fresh{string(id), s.line(r, row, false)})
			}
		}
	}
	slices.SortStableFunc(found, func(a, b fresh) int { return strings.Compare(a.rest, b.rest) })
	for _, f := range found {
		if s.ids[f.id] == 0 {
			s.real = append(s.real, f.id)
			s.ids[f.id] = len(s.real)
		}
	}
}

func (s *side) line(r *pgconn.Result, row [][]byte, withID bool) string {
	var cells []string
	for i, f := range r.FieldDescriptions {
		cells = append(cells, f.Name+"="+s.cell(f.Name, s.typeOf(f), row[i], withID))
	}
	return strings.Join(cells, " ")
}

// cell says a value in words that mean the same in both databases.
func (s *side) cell(name, typ string, v []byte, withID bool) string {
	text := string(v)
	switch {
	case v == nil:
		return "null"
	case typ == rowType:
		var cells []string
		for i, f := range record(v) {
			c := rowColumns[i]
			cells = append(cells, c.name+"="+s.cell(c.name, c.typ, f, withID))
		}
		return "(" + strings.Join(cells, " ") + ")"
	case name == "id" && typ == "bigint":
		if !withID {
			return "?"
		}
		return fmt.Sprintf("job %d", s.ids[text])
	case name == "task_id" && typ == "integer":
		if t, ok := s.tasks[text]; ok {
			return fmt.Sprintf("task %q", t)
		}
	case name == "job_queue_id" && typ == "integer":
		if q, ok := s.queues[text]; ok {
			return fmt.Sprintf("queue %q", q)
		}
	case name == "locked_by" && s.workers[text] != "":
		return s.workers[text]
	case typ == timestamptz:
		return s.moment(text)
	}
	return strconv.Quote(text)
}

// moment says when a timestamp is, relative to what the script did.
func (s *side) moment(text string) string {
	at, ok := micros(text)
	if !ok {
		return text // infinity
	}
	if name, ok := s.stamps[at]; ok {
		return name
	}
	for now, name := range s.stamps {
		if d := at - now; d%60e6 == 0 {
			return name + " + " + (time.Duration(d) * time.Microsecond).String()
		}
	}
	for i := len(s.spans) - 1; i >= 0; i-- {
		sp := s.spans[i]
		if sp.begin <= at && at <= sp.end {
			return fmt.Sprintf("during@%d", sp.step)
		}
		for n := 1; n <= 10; n++ {
			delay := int64(math.Round(math.Exp(float64(n)) * 1e6))
			if sp.begin+delay-1 <= at && at <= sp.end+delay+1 {
				return fmt.Sprintf("during@%d + exp(%d)", sp.step, n)
			}
		}
	}
	return text
}

func micros(text string) (int64, bool) {
	at, err := time.Parse("2006-01-02 15:04:05.999999-07", text)
	return at.UnixMicro(), err == nil
}

// jobs describes the view as it is now.
func (s *side) jobs(ctx context.Context) (string, error) {
	results, err := s.conn.Exec(ctx, "select "+viewColumns+" from graphile_worker.jobs").ReadAll()
	if err != nil {
		return "", fmt.Errorf("%s: view jobs: %w", s.name, err)
	}
	s.look(results[0])
	var out strings.Builder
	s.view(&out, results[0])
	return out.String(), nil
}

func (s *side) view(out *strings.Builder, r *pgconn.Result) {
	out.WriteString("view jobs: ")
	s.describe(out, r, false)
}

// locked says whether the job of that number is locked, according to the last look at the view.
func (s *side) locked(n int) bool {
	return n >= 1 && n <= len(s.real) && s.seen[s.real[n-1]].locked
}

// act runs one step of a worker, and remembers when it was.
func (s *side) act(ctx context.Context, do func() error) error {
	s.step++
	begin, err := s.clock(ctx)
	if err != nil {
		return err
	}
	if err := do(); err != nil {
		return fmt.Errorf("%s: %w", s.name, err)
	}
	end, err := s.clock(ctx)
	s.spans = append(s.spans, span{s.step, begin, end})
	return err
}

func (s *side) clock(ctx context.Context) (int64, error) {
	results, err := s.conn.Exec(ctx, "select clock_timestamp()").ReadAll()
	if err != nil {
		return 0, fmt.Errorf("%s: %w", s.name, err)
	}
	at, _ := micros(string(results[0].Rows[0][0]))
	return at, nil
}

// record takes the text form of a composite value apart; nil for NULL.
func record(v []byte) [][]byte {
	if len(v) < 2 {
		return nil
	}
	var fields [][]byte
	var field []byte
	quoted := false
	for i := 1; i < len(v); i++ {
		switch c := v[i]; {
		case quoted && (c == '"' || c == '\\') && v[i+1] == c:
			field = append(field, c)
			i++
		case c == '"':
			quoted = !quoted
			if field == nil {
				field = []byte{}
			}
		case !quoted && (c == ',' || c == ')'):
			fields = append(fields, field)
			field = nil
		default:
			field = append(field, c)
		}
	}
	return fields
}
