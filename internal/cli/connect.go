package cli

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/user"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/schema"
)

// Where the name of the database comes from.
const (
	fromFlag = iota
	fromURL
	fromLibpq
	fromDev
	fromNothing
)

func (a *app) source() int {
	switch {
	case a.url != "":
		return fromFlag
	case a.Getenv("DATABASE_URL") != "":
		return fromURL
	}
	for _, name := range []string{"PGHOST", "PGHOSTADDR", "PGPORT", "PGDATABASE", "PGUSER", "PGSERVICE"} {
		if a.Getenv(name) != "" {
			return fromLibpq
		}
	}
	if a.devURL() != "" {
		return fromDev
	}
	return fromNothing
}

// connString is "" for what the PG* variables say; pgx reads those itself.
func (a *app) connString() string {
	switch a.source() {
	case fromFlag:
		return a.url
	case fromURL:
		return a.Getenv("DATABASE_URL")
	case fromDev:
		return a.devURL()
	}
	return ""
}

var quotedURL = regexp.MustCompile("(?s)`.*`")

// config is that of the pool. One-shot commands send statements without preparing them, so that they work behind
// every pooler.
func (a *app) config(oneShot bool) (*pgxpool.Config, error) {
	cfg, err := pgxpool.ParseConfig(a.connString())
	if err != nil {
		// The parser's error quotes the URL; its redaction is a best effort.
		why := strings.TrimPrefix(quotedURL.ReplaceAllString(err.Error(), ""), "cannot parse : ")
		return nil, failed(Usage, "write postgres://user:password@host:5432/database; in passwords, @ is %40, / is %2F and : is %3A",
			"the database URL cannot be read: %s", why)
	}
	if cfg.ConnConfig.ConnectTimeout == 0 || cfg.ConnConfig.ConnectTimeout > 10*time.Second {
		cfg.ConnConfig.ConnectTimeout = 10 * time.Second
	}
	if cfg.ConnConfig.RuntimeParams["application_name"] == "" {
		cfg.ConnConfig.RuntimeParams["application_name"] = "offstage"
	}
	if oneShot {
		cfg.MaxConns = 4
		if cfg.ConnConfig.DefaultQueryExecMode == pgx.QueryExecModeCacheStatement {
			cfg.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeExec
		}
		cfg.ConnConfig.RuntimeParams[a.actorSetting()] = actor()
		cfg.ConnConfig.RuntimeParams["datestyle"] = "ISO" // answers are text
	}
	return cfg, nil
}

// actorSetting is the setting by which the audit knows who changes something.
func (a *app) actorSetting() string { return a.schema + ".actor" }

// actor is who calls this program, as the audit notes it. As the server sets it when the session begins, a pooler that lends sessions
// for a transaction cannot leave it behind for others.
func actor() string {
	who := "unknown"
	if u, err := user.Current(); err == nil {
		who = u.Username
	}
	from := who
	if host, err := os.Hostname(); err == nil {
		from += "@" + host
	}
	text, err := json.Marshal(map[string]string{"who": who, "source": "cli", "from": from})
	if err != nil {
		return "{}"
	}
	return string(text)
}

// place names the database without its password.
func (a *app) place() string {
	cfg, err := pgx.ParseConfig(a.connString())
	if err != nil {
		return "(unreadable)"
	}
	return placeOf(cfg)
}

func placeOf(cfg *pgx.ConnConfig) string {
	u := url.URL{Scheme: "postgres", User: url.User(cfg.User), Path: "/" + cfg.Database}
	if filepath.IsAbs(cfg.Host) { // a socket
		u.RawQuery = "host=" + cfg.Host
	} else {
		u.Host = fmt.Sprintf("%s:%d", cfg.Host, cfg.Port)
	}
	return u.String()
}

// database is a pool with a client on it.
type database struct {
	pool   *pgxpool.Pool
	client *offstage.Client
	schema string
}

func (db *database) close() {
	db.client.Close()
	db.pool.Close()
}

// connect opens a pool and sees whether it answers. It does not look at the schema.
func (a *app) connect(ctx context.Context, cfg *pgxpool.Config) (*database, error) {
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", placeOf(cfg.ConnConfig), err)
	}
	err = pool.Ping(ctx)
	var refused *pgconn.PgError
	for _, setting := range []string{a.actorSetting(), "datestyle"} {
		if errors.As(err, &refused) && cfg.ConnConfig.RuntimeParams[setting] != "" && strings.Contains(strings.ToLower(refused.Message), setting) {
			// Poolers know no settings of others, and some refuse them: then the audit has the role alone.
			pool.Close()
			delete(cfg.ConnConfig.RuntimeParams, setting)
			return a.connect(ctx, cfg)
		}
	}
	if err != nil {
		pool.Close()
		return nil, fmt.Errorf("connect to %s: %w", placeOf(cfg.ConnConfig), err)
	}
	client, err := offstage.New(pool, offstage.Config{Schema: a.schema, Traceparent: a.traceparent})
	if err != nil {
		pool.Close()
		return nil, err
	}
	if a.source() == fromDev {
		a.more("using the private PostgreSQL of offstage dev")
	}
	return &database{pool, client, a.schema}, nil
}

// open connects for a one-shot command and checks the schema.
func (a *app) open(ctx context.Context) (*database, error) {
	cfg, err := a.config(true)
	if err != nil {
		return nil, err
	}
	db, err := a.connect(ctx, cfg)
	if err != nil {
		return nil, err
	}
	if err := db.check(ctx); err != nil {
		db.close()
		return nil, err
	}
	return db, nil
}

func (db *database) check(ctx context.Context) error {
	return db.pool.AcquireFunc(ctx, func(conn *pgxpool.Conn) error {
		return schema.Check(ctx, conn.Conn(), db.schema)
	})
}

// with opens the database for do.
func (a *app) with(ctx context.Context, do func(db *database) error) error {
	db, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer db.close()
	return do(db)
}

// note is the file in which offstage dev notes the URL of its server: in the user's own directory, readable by nobody
// else, one for each project.
func (a *app) note() (string, error) {
	if a.Notes == "" {
		return "", errors.New("the user has no cache directory")
	}
	project, err := filepath.Abs(a.Project)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256([]byte(project))
	return filepath.Join(a.Notes, "dev-"+hex.EncodeToString(sum[:8])+".url"), nil
}

func (a *app) devURL() string {
	file, err := a.note()
	if err != nil {
		return ""
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

// ShareURL lets the commands that are called in this project find a database without being told; forget ends that.
func (m Main) ShareURL(url string) (forget func(), err error) {
	file, err := (&app{Main: m}).note()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return nil, err
	}
	// Never through a file that somebody else may have opened before.
	if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if err := os.WriteFile(file, []byte(url+"\n"), 0o600); err != nil {
		return nil, err
	}
	return func() {
		if text, err := os.ReadFile(file); err == nil && strings.TrimSpace(string(text)) == url {
			os.Remove(file) // unless another one has taken over
		}
	}, nil
}
