package cli

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/offstage-dev/offstage/internal/pgtest"
	"github.com/offstage-dev/offstage/schema"
)

// visit runs doctor and answers what each check said, the worst first.
func (s *stage) visit(exit int, args ...string) map[string]finding {
	s.t.Helper()
	worst := map[string]finding{}
	order := map[string]int{"ok": 0, "warn": 1, "fail": 2}
	for _, f := range decode[[]finding](s.t, s.want(exit, append([]string{"doctor", "--json"}, args...)...)) {
		if old, seen := worst[f.Check]; !seen || order[f.Status] > order[old.Status] {
			worst[f.Check] = f
		}
		if (f.Status == "ok") != (f.Do == "") {
			s.t.Errorf("what is there to do about it? %+v", f)
		}
	}
	return worst
}

func (s *stage) found(all map[string]finding, check, status, detail string) {
	s.t.Helper()
	if f := all[check]; f.Status != status || !strings.Contains(f.Detail+" "+f.Do, detail) {
		s.t.Errorf("%s: got %+v, want %s with %q", check, f, status, detail)
	}
}

func TestDoctorFindsNothing(t *testing.T) {
	s := newStage(t)
	all := s.visit(Done)
	for _, check := range []string{"connect", "clock", "connections", "pooler", "listen", "schema", "privileges", "drift", "snapshots", "autovacuum", "indexes", "chores", "workers"} {
		s.found(all, check, "ok", "")
	}
	s.found(all, "server", "warn", "fsync") // as the tests have it
	s.want(Done, "doctor").says(t, "ok    drift", "do: set fsync", "1 warning, 0 failed")
}

func TestDoctorWithoutSchema(t *testing.T) {
	t.Parallel()
	db := pgtest.Bare(t)
	s := onStage(t, db.URL)
	all := s.visit(Failed)
	s.found(all, "schema", "fail", "offstage migrate")
	s.found(all, "privileges", "ok", "may install the schema")
	if _, looked := all["drift"]; looked {
		t.Error("there is nothing to compare")
	}
	all = s.visit(Failed, "-c", newRole(t, db, "r", ""))
	s.found(all, "schema", "fail", "offstage migrate")
	s.found(all, "privileges", "fail", "lacks CREATE on the database")
	s.found(all, "privileges", "fail", "grant create on database")
	s.found(all, "privileges", "fail", "create schema offstage_private authorization r_")
}

// Every command works again when one has done what doctor says.
func TestDoctorWithoutPublicSchema(t *testing.T) {
	s := newStage(t)
	s.want(Done, "add", "t", "--key", "k")
	s.exec(`drop schema offstage cascade`)
	s.want(MigrationNeeded, "jobs").says(t, "its jobs are still in offstage_private", "type: offstage migrate")
	all := s.visit(Failed)
	s.found(all, "schema", "fail", "its jobs are still in offstage_private")
	s.found(all, "schema", "fail", "offstage migrate")
	s.found(all, "privileges", "ok", "")
	s.found(s.visit(Failed, "-c", newRole(t, s.db, "r", "grant usage on schema offstage_private to $r; grant all on all tables in schema offstage_private to $r; "+
		"grant all on all sequences in schema offstage_private to $r")), "privileges", "fail", "lacks CREATE on the database")
	s.want(Done, "migrate").says(t, "made anew")
	s.found(s.visit(Done), "drift", "ok", "")
	s.want(Done, "jobs").says(t, "waiting  t ")
}

func TestDoctorWithoutPrivateSchema(t *testing.T) {
	s := newStage(t)
	s.exec(`drop schema offstage_private cascade`)
	for _, command := range []string{"migrate", "jobs"} {
		s.want(Failed, command).says(t, "the tables that were in offstage_private are gone", "drop schema offstage cascade")
	}
	s.found(s.visit(Failed), "schema", "fail", "restore it from a backup; or make the schema anew, which loses all jobs, in psql: drop schema if exists offstage, offstage_private cascade; then: offstage migrate")
	s.exec(`drop schema if exists offstage, offstage_private cascade`)
	s.want(Done, "migrate")
	s.found(s.visit(Done), "drift", "ok", "")
}

// What doctor says of tables helps, as far as anything does.
func TestDoctorDriftOfTables(t *testing.T) {
	s := newStage(t)
	s.exec(`drop index offstage_private.job_key`)
	s.exec(`alter table offstage_private.ticket drop constraint ticket_pkey`)
	s.exec(`alter table offstage_private.job alter column payload drop not null, add column mine text not null`)
	repairs := map[string]string{}
	for _, f := range decode[[]finding](t, s.want(Failed, "doctor", "--json")) {
		if sql, ok := strings.CutPrefix(f.Do, "in psql: "); ok && f.Check == "drift" {
			repairs[f.Detail] = sql
		}
	}
	if len(repairs) != 4 || repairs["index job_key of offstage_private.job is missing"] == "" || repairs["constraint ticket_pkey of offstage_private.ticket is missing"] == "" {
		t.Errorf("%+v", repairs)
	}
	for _, sql := range repairs {
		s.exec(sql)
	}
	s.found(s.visit(Done), "drift", "ok", "")

	s.exec(`drop view offstage.jobs; alter table offstage_private.job drop column last_error; drop table offstage_private.stub cascade`)
	all := s.visit(Failed)
	s.found(all, "drift", "fail", "") // the first of them
	s.want(Failed, "doctor").says(t, "missing: view offstage.jobs", "do: offstage migrate makes them anew",
		"column last_error of offstage_private.job is missing, table offstage_private.stub is missing", "do: restore it from a backup; or make the schema anew")
}

func TestDoctorDrift(t *testing.T) {
	s := newStage(t)
	s.exec(`create or replace function offstage.pause_queue(queue_name text) returns void language plpgsql as $$ begin end $$`)
	s.exec(`drop function offstage.await_job`)
	s.exec(`create function offstage_private.mine() returns int language sql as 'select 1'`)
	s.exec(`create function offstage.cancel_jobs() returns int language sql as 'select 1'`)
	s.exec(`drop view offstage.workers`)
	var text strings.Builder
	for _, f := range decode[[]finding](t, s.want(Failed, "doctor", "--json")) {
		text.WriteString(f.Check + " " + f.Status + " " + f.Detail + "\n")
	}
	for _, want := range []string{
		"drift fail not as this program would install them: offstage.pause_queue\n",
		"drift fail missing: offstage.await_job, view offstage.workers\n",
		"drift warn not ours: offstage.cancel_jobs (overloaded), offstage_private.mine\n",
	} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("%q is missing in\n%s", want, text.String())
		}
	}
}

// Every function of the script is found in it, whatever the schema is called.
func TestSources(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"offstage", "graphile_worker"} {
		script, err := schema.Dump(name, 0)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, bodies := range sources(script) {
			n += len(bodies)
		}
		if want := strings.Count(script, "\ncreate or replace function "); n != want || n < 50 {
			t.Errorf("%s: %d functions instead of %d", name, n, want)
		}
	}
}

func TestDoctorOtherSchema(t *testing.T) {
	s := newStage(t)
	s.want(Done, "migrate", "--schema", "other")
	s.found(s.visit(Done, "--schema", "other"), "drift", "ok", "")
}

// newRole makes a role that may do what these statements say of it, "$r", and answers how to connect as it.
func newRole(t *testing.T, db *pgtest.DB, name, grants string) (url string) {
	t.Helper()
	super := db.SuperPool(t)
	name += "_" + db.Name
	role := pgx.Identifier{name}.Sanitize()
	t.Cleanup(func() {
		for _, sql := range []string{"drop owned by " + role, "drop role " + role} {
			if _, err := super.Exec(context.Background(), sql); err != nil {
				t.Error(err)
			}
		}
	})
	pgtest.Do(t, super, "create role "+role)
	pgtest.Do(t, super, "grant "+role+" to "+pgtest.One[string](t, db.Conn(t), `select quote_ident(current_user)`))
	grant(t, db, name, grants)
	return db.URL + "&options=-c%20role%3D" + name
}

func grant(t *testing.T, db *pgtest.DB, name, grants string) {
	t.Helper()
	for _, sql := range strings.Split(grants, ";") {
		if sql = strings.ReplaceAll(sql, "$r", pgx.Identifier{name}.Sanitize()); strings.TrimSpace(sql) != "" {
			pgtest.Do(t, db.SuperPool(t), sql)
		}
	}
}

// Whoever is told "permission denied" is sent to doctor: it says who lacks what, however little they may do.
func TestDoctorPrivileges(t *testing.T) {
	s := newStage(t)
	as := newRole(t, s.db, "r", "")
	all := s.visit(Failed, "-c", as)
	s.found(all, "privileges", "fail", "r_"+s.db.Name+" may not use the schemas: offstage, offstage_private")
	s.found(all, "privileges", "fail", "connect as "+currentRole(t, s)+", who owns the schema, or: grant "+currentRole(t, s)+" to r_"+s.db.Name)
	s.found(all, "schema", "warn", "see privileges")
	s.want(Failed, "jobs", "-c", as).says(t, "permission denied", "offstage doctor")

	step := func(grants string) { grant(t, s.db, "r_"+s.db.Name, grants) }
	step("grant usage on schema offstage, offstage_private to $r")
	all = s.visit(Failed, "-c", as)
	s.found(all, "privileges", "fail", "may not use: offstage.bulks, offstage.chores, offstage.jobs,")
	s.found(all, "privileges", "fail", " more")
	s.found(all, "schema", "warn", "see privileges")

	step("grant select on all tables in schema offstage_private to $r; grant insert, update, delete on all tables in schema offstage_private to $r;" +
		"revoke update on offstage_private.job from $r")
	all = s.visit(Failed, "-c", as)
	s.found(all, "privileges", "fail", "offstage.workers, offstage_private.claim, offstage_private.job,")
	s.found(all, "schema", "ok", "")
	s.found(all, "chores", "warn", "see privileges")

	step("grant update on offstage_private.job to $r; grant select on all tables in schema offstage to $r; grant usage on all sequences in schema offstage_private to $r")
	s.found(s.visit(Done, "-c", as), "privileges", "warn", "daily partitions")
	step("revoke usage on schema offstage from $r")
	s.found(s.visit(Failed, "-c", as), "privileges", "fail", "may not use the schemas: offstage connect")
}

func currentRole(t *testing.T, s *stage) (role string) {
	t.Helper()
	if err := s.pool.QueryRow(t.Context(), `select quote_ident(current_user)`).Scan(&role); err != nil {
		t.Fatal(err)
	}
	return role
}

func TestDoctorVacuumAndSnapshots(t *testing.T) {
	s := newStage(t)
	s.exec(`alter table offstage_private.job set (autovacuum_enabled = false)`)
	s.found(s.visit(Failed), "autovacuum", "fail", "reset (autovacuum_enabled)")

	// Somebody who keeps a transaction open; the clock of the check is moved instead of waiting.
	tx, err := s.pool.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.Background())
	if _, err := tx.Exec(t.Context(), `select 1`); err != nil {
		t.Fatal(err)
	}
	for limit, want := range map[time.Duration]string{time.Nanosecond: "warn", time.Hour: "ok"} {
		d := &doctor{db: &database{pool: s.pool, schema: "offstage"}, conn: s.db.Conn(t), old: limit, veryOld: time.Hour}
		if err := d.snapshots(t.Context()); err != nil {
			t.Fatal(err)
		}
		if f := d.findings[0]; f.Status != want || want == "warn" && !strings.Contains(f.Do, "pg_terminate_backend") {
			t.Errorf("%v: %+v", limit, d.findings)
		}
	}
	d := &doctor{db: &database{pool: s.pool, schema: "offstage"}, conn: s.db.Conn(t), old: time.Nanosecond, veryOld: time.Nanosecond}
	if err := d.snapshots(t.Context()); err != nil || d.findings[0].Status != "fail" {
		t.Errorf("%+v %v", d.findings, err)
	}
}

func TestDoctorWorkers(t *testing.T) {
	s := newStage(t)
	s.add("mail", nil)
	s.add("report", nil)
	s.exec(`select offstage.add_job('flagged', flags => array['x'])`)
	s.found(s.visit(Done), "workers", "warn", "no worker runs; tasks: flagged, mail, report")
	s.script("mail.sh", "#!/bin/sh\n")
	errs, _ := s.start("worker")
	s.eventually(func() bool { return strings.Contains(errs.String(), "worker is ready") })
	s.found(s.visit(Done), "workers", "warn", "no running worker knows: flagged, report")
	s.exec(`select offstage.pause_task('report'), offstage.pause_task('flagged')`)
	s.found(s.visit(Done), "workers", "ok", "1 worker running")
}

func TestDoctorReadOnly(t *testing.T) {
	s := newStage(t)
	s.found(s.visit(Failed, "-c", s.db.URL+"&default_transaction_read_only=on&statement_timeout=5000"), "server", "fail", "read-only")
}

func TestDoctorBehindPoolers(t *testing.T) {
	s := newStage(t)
	s.env["DATABASE_URL"] = lending(t, s.db.URL)
	all := s.visit(Done)
	s.found(all, "pooler", "warn", "session mode")
	s.found(all, "listen", "warn", "--poll-interval")
	s.found(all, "drift", "ok", "")
	s.want(Done, "add", "t")
	s.want(Done, "jobs").says(t, "waiting")
}

// The pages would leave their settings behind in sessions that others get.
func TestServeBehindPoolers(t *testing.T) {
	s := newStage(t)
	url := lending(t, s.db.URL)
	for _, mode := range []string{"", "&default_query_exec_mode=exec"} {
		s.env["DATABASE_URL"] = url + mode
		s.want(Failed, "serve", "--listen", "127.0.0.1:0").says(t, "a pooler lends a session for each transaction")
	}
	cfg, err := pgx.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	for range 4 { // each of its sessions, as all stay open
		conn, err := pgx.ConnectConfig(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(context.Background())
		tx, err := conn.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var readOnly, timeout string
		err = tx.QueryRow(t.Context(), `select current_setting('default_transaction_read_only'), current_setting('statement_timeout')`, pgx.QueryExecModeExec).
			Scan(&readOnly, &timeout)
		if err != nil || readOnly != "off" || timeout != "0" {
			t.Errorf("read-only %s, timeout %s (%v)", readOnly, timeout, err)
		}
	}
	// What a program that prepares statements meets there when another one had the session before.
	a := &app{Main: Main{Getenv: func(string) string { return "" }}, ran: true}
	if code, next := a.classify(&pgconn.PgError{Code: "42P05"}); code != Failed || !strings.Contains(next, "PostgreSQL itself") {
		t.Errorf("%d %s", code, next)
	}
}

// lending is a pooler that lends a session of the server for each transaction, the one that was given back last.
func lending(t *testing.T, url string) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := pgconn.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	free := make(chan *pgproto3.Frontend, 4)
	var stack []*pgconn.HijackedConn
	lend := make(chan *pgproto3.Frontend)
	done := make(chan struct{})
	for range cap(free) {
		conn, err := pgconn.ConnectConfig(context.Background(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		h, err := conn.Hijack()
		if err != nil {
			t.Fatal(err)
		}
		stack = append(stack, h)
	}
	ended := make(chan struct{})
	go func() { // keeps the sessions; the last one given back is lent first
		defer close(ended)
		idle := []*pgproto3.Frontend{}
		for _, h := range stack {
			idle = append(idle, h.Frontend)
		}
		for {
			var out chan *pgproto3.Frontend
			var next *pgproto3.Frontend
			if len(idle) > 0 {
				out, next = lend, idle[len(idle)-1]
			}
			select {
			case out <- next:
				idle = idle[:len(idle)-1]
			case back := <-free:
				idle = append(idle, back)
			case <-done:
				return
			}
		}
	}()
	accepting := make(chan struct{})
	go func() {
		defer close(accepting)
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				serveClient(c, lend, free, done)
			}()
		}
	}()
	t.Cleanup(func() {
		listener.Close()
		<-accepting
		close(done)
		<-ended
		for _, h := range stack {
			h.Conn.Close()
		}
	})
	where := listener.Addr().String()
	return "postgres://" + cfg.User + ":x@" + where + "/" + cfg.Database + "?sslmode=disable"
}

func serveClient(c net.Conn, lend <-chan *pgproto3.Frontend, free chan<- *pgproto3.Frontend, done <-chan struct{}) {
	client := pgproto3.NewBackend(c, c)
	first, err := client.ReceiveStartupMessage()
	if err != nil {
		return
	}
	if m, ok := first.(*pgproto3.StartupMessage); ok {
		for name := range m.Parameters {
			if strings.Contains(name, ".") { // as PgBouncer does
				client.Send(&pgproto3.ErrorResponse{Severity: "FATAL", Code: "08P01", Message: "unsupported startup parameter: " + name})
				client.Flush()
				return
			}
		}
	}
	client.Send(&pgproto3.AuthenticationOk{})
	for name, value := range map[string]string{"server_version": "15.0", "client_encoding": "UTF8", "standard_conforming_strings": "on", "TimeZone": "UTC"} {
		client.Send(&pgproto3.ParameterStatus{Name: name, Value: value})
	}
	client.Send(&pgproto3.BackendKeyData{ProcessID: 1, SecretKey: []byte{0, 0, 0, 1}})
	client.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
	if client.Flush() != nil {
		return
	}
	var server *pgproto3.Frontend
	for {
		msg, err := client.Receive()
		if err != nil {
			return
		}
		if _, bye := msg.(*pgproto3.Terminate); bye {
			return
		}
		if server == nil {
			select {
			case server = <-lend:
			case <-done:
				return
			}
		}
		server.Send(msg)
		_, query := msg.(*pgproto3.Query)
		_, sync := msg.(*pgproto3.Sync)
		if !query && !sync {
			continue
		}
		if server.Flush() != nil {
			return
		}
		for ready := false; !ready; {
			answer, err := server.Receive()
			if err != nil {
				return
			}
			client.Send(answer)
			if r, ok := answer.(*pgproto3.ReadyForQuery); ok {
				ready = true
				if r.TxStatus == 'I' {
					free <- server
					server = nil
				}
			}
		}
		if client.Flush() != nil {
			return
		}
	}
}
