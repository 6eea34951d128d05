package main

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/offstage-dev/offstage/internal/devpg"
)

// server is the PostgreSQL that all systems use, one after the other. Each measured block has a database of its
// own, copied from a template in which the system was installed, so that no block inherits dead rows, statistics
// or background vacuums of another. Databases that were there before are not touched.
type server struct {
	base    *url.URL
	private *devpg.Server // nil for --database-url
	admin   *pgx.Conn     // creates and drops the databases; used by the main goroutine only
	prefix  string
	made    []string // databases to drop in the end
}

func openServer(ctx context.Context, databaseURL, version string) (_ *server, err error) {
	s := &server{prefix: fmt.Sprintf("offstage_bench_%d", os.Getpid())}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if databaseURL == "" {
		s.private, err = devpg.Start(ctx, devpg.Config{Version: version, Log: os.Stderr})
		if err != nil {
			return nil, err
		}
		databaseURL = s.private.URL("postgres")
	}
	if s.base, err = url.Parse(databaseURL); err != nil || s.base.Scheme == "" {
		return nil, fmt.Errorf("--database-url must be a URL such as postgres://user@host:5432/postgres")
	}
	if s.admin, err = pgx.Connect(ctx, databaseURL); err != nil {
		return nil, err
	}
	return s, nil
}

// close drops what was made and stops the private server. It works after the run was interrupted, too.
func (s *server) close() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if s.admin != nil {
		if s.admin.IsClosed() { // an interrupted statement closes the connection
			s.admin, _ = pgx.Connect(ctx, s.base.String())
		}
		if s.private == nil && s.admin != nil {
			for _, name := range s.made {
				if err := s.drop(ctx, name); err != nil {
					progress("database %s stays: %v", name, err)
				}
			}
		}
		if s.admin != nil {
			_ = s.admin.Close(ctx)
		}
	}
	if s.private != nil {
		if err := s.private.Stop(); err != nil {
			progress("stop the private server: %v", err)
		}
	}
}

func (s *server) url(database string) string {
	u := *s.base
	u.Path = "/" + database
	return u.String()
}

func (s *server) exec(ctx context.Context, sql string) error {
	_, err := s.admin.Exec(ctx, sql)
	if err != nil {
		return fmt.Errorf("%s: %w", sql, err)
	}
	return nil
}

func (s *server) drop(ctx context.Context, name string) error {
	return s.exec(ctx, "drop database if exists "+pgx.Identifier{name}.Sanitize()+" with (force)")
}

// template makes a database with the system in it and returns its name.
func (s *server) template(ctx context.Context, sys system) (string, error) {
	name := s.prefix + "_template_" + sys.name()
	s.made = append(s.made, name)
	if err := s.exec(ctx, "create database "+name+" template template0"); err != nil {
		return "", err
	}
	if err := sys.install(ctx, s.url(name)); err != nil {
		return "", fmt.Errorf("install %s: %w", sys.title(), err)
	}
	return name, nil
}

// fresh makes the database of a block anew and returns its URL.
func (s *server) fresh(ctx context.Context, template string) (string, error) {
	name := s.prefix + "_block"
	if len(s.made) == 0 || s.made[0] != name {
		s.made = append([]string{name}, s.made...)
	}
	if err := s.drop(ctx, name); err != nil {
		return "", err
	}
	var err error
	for range 50 { // the last session of the template may still be ending
		if err = s.exec(ctx, "create database "+name+" template "+template); err == nil {
			return s.url(name), nil
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return "", context.Cause(ctx)
		}
	}
	return "", err
}
