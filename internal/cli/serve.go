package cli

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/offstage-dev/offstage/internal/web"
	"github.com/offstage-dev/offstage/internal/web/guard"
)

const defaultListen = "127.0.0.1:8484"

// serveFlags are those of the web UI.
type serveFlags struct {
	listen      string
	basePath    string
	users       string
	tokens      bool
	proxyHeader string
	proxyRole   string
	roleHeader  string
	proxies     []string
	readOnly    bool
	redact      []string
	showSecrets bool
	secure      bool

	format, levelName string
	level             slog.Level
}

func (a *app) serveCommand() *cobra.Command {
	var f serveFlags
	c := &cobra.Command{
		Use:   "serve",
		Short: "Serve the web UI and the HTTP API",
		Long: `Serves the web UI and the HTTP API, until Ctrl-C. It runs no jobs.

It listens on this machine alone, and refuses any other address without authentication: by a file of users (offstage password makes
its lines), by bearer tokens (offstage tokens), or by a proxy in front that says who somebody is. OFFSTAGE_SESSION_KEY, 64
hexadecimal digits, keeps people logged in over restarts, and among several processes.`,
		Example: `  offstage serve
  offstage serve --listen :8484 --users users.txt --tokens
  offstage serve --base-path /jobs --proxy-header X-Forwarded-User --trusted-proxy 10.0.0.7`,
		Args: cobra.NoArgs,
	}
	fl := c.Flags()
	fl.StringVar(&f.listen, "listen", defaultListen, "the address, host:port")
	fl.StringVar(&f.basePath, "base-path", "", "the path that it is mounted at, such as /jobs")
	fl.StringVar(&f.users, "users", "", "a file of users: lines of name:role:hash")
	fl.BoolVar(&f.tokens, "tokens", false, "let bearer tokens in, that offstage tokens has made")
	fl.StringVar(&f.proxyHeader, "proxy-header", "", "the header in which a trusted proxy says who somebody is, such as X-Forwarded-User")
	fl.StringVar(&f.roleHeader, "proxy-role-header", "", "the header in which it says their role")
	fl.StringVar(&f.proxyRole, "proxy-role", "viewer", "the role of those for whom it says none: viewer, operator or admin")
	fl.StringArrayVar(&f.proxies, "trusted-proxy", nil, "the address of that proxy, or its network; may be repeated")
	fl.BoolVar(&f.readOnly, "read-only", false, "let nobody change anything")
	fl.StringArrayVar(&f.redact, "redact", nil, "hide a field of payloads and results, besides passwords and the like: iban, *.email; may be repeated")
	fl.BoolVar(&f.showSecrets, "show-secrets", false, "do not hide passwords, tokens and the like by themselves")
	fl.BoolVar(&f.secure, "secure-cookies", false, "cookies are for HTTPS alone; they are anyway where it is seen")
	fl.StringVar(&f.format, "log-format", "text", "text or json")
	fl.StringVar(&f.levelName, "log-level", "info", "debug, info, warn or error")
	complete(c, "proxy-role", fixed("viewer", "operator", "admin"))
	complete(c, "log-format", fixed("text", "json"))
	complete(c, "log-level", fixed("debug", "info", "warn", "error"))
	c.RunE = func(cmd *cobra.Command, args []string) error {
		cfg, err := f.check(a, cmd)
		if err != nil {
			return err
		}
		return a.run(func(ctx context.Context, _ []string) error { return stopped(ctx, a.serveUI(ctx, &f, cfg)) })(cmd, args)
	}
	return c
}

func (f *serveFlags) check(a *app, cmd *cobra.Command) (guard.Config, error) {
	cfg := guard.Config{
		Tokens: f.tokens, ProxyHeader: f.proxyHeader, ProxyRoleHeader: f.roleHeader, ReadOnly: f.readOnly, Redact: f.redact,
		ShowSecrets: f.showSecrets, SecureCookies: f.secure,
	}
	if f.format != "text" && f.format != "json" {
		return cfg, fmt.Errorf("--log-format is %q; use text or json", f.format)
	}
	if !slices.Contains([]string{"debug", "info", "warn", "error"}, f.levelName) {
		return cfg, fmt.Errorf("--log-level is %q; use debug, info, warn or error", f.levelName)
	}
	if err := f.level.UnmarshalText([]byte(f.levelName)); err != nil {
		return cfg, err
	}
	if f.proxyHeader != "" || cmd.Flags().Changed("proxy-role") {
		role, err := guard.ParseRole(f.proxyRole)
		if err != nil {
			return cfg, fmt.Errorf("--proxy-role: %w", err)
		}
		cfg.ProxyRole = role
	}
	for _, text := range f.proxies {
		p, err := netip.ParsePrefix(text)
		if addr, single := netip.ParseAddr(text); err != nil && single == nil {
			p, err = netip.PrefixFrom(addr, addr.BitLen()), nil
		}
		if err != nil {
			return cfg, fmt.Errorf("--trusted-proxy is %q; write an address such as 10.0.0.7, or a network such as 10.0.0.0/24", text)
		}
		cfg.TrustedProxies = append(cfg.TrustedProxies, p)
	}
	if f.users != "" {
		file, err := os.Open(f.users)
		if errors.Is(err, fs.ErrNotExist) {
			return cfg, fmt.Errorf("--users: %w; make it with: offstage password NAME --role admin >> %s", err, f.users)
		}
		if err != nil {
			return cfg, fmt.Errorf("--users: %w", err)
		}
		defer file.Close()
		if cfg.Users, err = guard.ParseUsers(file); err != nil {
			return cfg, fmt.Errorf("--users %s: %w", f.users, err)
		}
	}
	if key := a.Getenv("OFFSTAGE_SESSION_KEY"); key != "" {
		var err error
		if cfg.SessionKey, err = hex.DecodeString(strings.TrimSpace(key)); err != nil {
			return cfg, errors.New("OFFSTAGE_SESSION_KEY is not hexadecimal; make one: openssl rand -hex 32")
		}
	}
	return cfg, guard.CheckAddress(f.listen, cfg)
}

func (a *app) serveUI(ctx context.Context, f *serveFlags, who guard.Config) error {
	log := a.logger(f.format, f.level)
	cfg, err := a.config(false)
	if err != nil {
		return err
	}
	db, err := a.connect(ctx, cfg)
	if err != nil {
		return err
	}
	defer db.close()
	if err := db.check(ctx); err != nil {
		return err
	}
	site, err := a.openUI(ctx, db.pool, f.listen, web.Config{Schema: a.schema, BasePath: f.basePath, Guard: who, Log: log})
	if err != nil {
		return err
	}
	if err := site.server.Check(ctx); err != nil {
		site.server.Close()
		return errors.Join(fmt.Errorf("serve the web UI: %w", err), site.listen.Close())
	}
	a.say("the web UI is at %s", a.errPaint().paint(bold, site.url))
	return site.run(ctx)
}

// site is the UI on an address.
type site struct {
	url    string
	listen net.Listener
	server *web.Server
}

// openUI listens; run serves. What is asked for meanwhile waits.
func (a *app) openUI(ctx context.Context, pool *pgxpool.Pool, listen string, cfg web.Config) (*site, error) {
	server, err := web.New(pool, cfg)
	if err != nil {
		return nil, failed(Usage, "", "serve the web UI: %w", err)
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", listen)
	if err != nil {
		server.Close()
		return nil, failed(Failed, "choose another address with --listen; with 127.0.0.1:0 the system chooses a free port", "cannot listen: %w", err)
	}
	host, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		return nil, err
	}
	if ip, err := netip.ParseAddr(host); err == nil && ip.IsUnspecified() {
		host = "localhost"
	}
	return &site{url: "http://" + net.JoinHostPort(host, port) + strings.TrimRight(cfg.BasePath, "/") + "/", listen: l, server: server}, nil
}

// run serves until ctx ends; then it lets requests that are under way come to their ends.
func (s *site) run(ctx context.Context) error {
	defer s.server.Close()
	h := &http.Server{Handler: s.server.Handler(), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10}
	g, running := errgroup.WithContext(ctx)
	g.Go(func() error { return s.server.Run(running) })
	g.Go(func() error {
		if err := h.Serve(s.listen); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	g.Go(func() error {
		<-running.Done()
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if err := h.Shutdown(last); err != nil {
			return h.Close()
		}
		return nil
	})
	return g.Wait()
}

// ServeUI serves the web UI of a database on this machine, on the usual port or, where that is taken, another one, and answers where.
// run serves until its context ends.
func (m Main) ServeUI(ctx context.Context, pool *pgxpool.Pool) (url string, run func(context.Context) error, err error) {
	a := &app{Main: m}
	site, err := a.openUsual(ctx, pool, defaultListen, web.Config{})
	if err != nil {
		return "", nil, err
	}
	return site.url, site.run, nil
}

// openUsual gives way to whoever has the address.
func (a *app) openUsual(ctx context.Context, pool *pgxpool.Pool, listen string, cfg web.Config) (*site, error) {
	if site, err := a.openUI(ctx, pool, listen, cfg); err == nil {
		return site, nil
	}
	return a.openUI(ctx, pool, "127.0.0.1:0", cfg)
}
