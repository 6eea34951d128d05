// Package devpg runs a private PostgreSQL: it finds the binaries, initialises a data directory, starts
// the server as a child of this process, and stops it. `offstage dev` keeps its data with it, the tests
// take a temporary one.
//
// The server listens on 127.0.0.1 only and asks for a generated password, so that neither the network
// nor another user of the machine gets in. It never outlives the process that started it, however that
// process ends.
package devpg

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"
)

const (
	superuser = "postgres"
	host      = "127.0.0.1"

	// startTimeout bounds what Start waits for when its context has no deadline of its own. Recovery
	// after a crash is the slow case.
	startTimeout = 60 * time.Second
	stopTimeout  = 20 * time.Second
)

// Config says which server to start. The zero value is a temporary server of any supported version.
type Config struct {
	// Dir keeps the data between runs; see KeptDir for a good place. Empty means a temporary
	// directory, removed by Stop.
	Dir string

	// InMemory puts a temporary directory on a file system in memory where there is one with room:
	// tests create and drop thousands of small files. Measurements should leave it off.
	InMemory bool

	// Settings are server settings (fsync, max_connections, …) for this start. They go on the command
	// line and so are not kept with the data. A server that already runs in Dir keeps its own.
	Settings map[string]string

	// Log gets one line for everything that takes a while. Nil means silence.
	Log io.Writer

	// Binaries is what Find returned. Where it is empty, Start looks by itself: for Version, or for
	// the version that made Dir, or for any.
	Binaries Binaries

	// Version is the major version to look for, such as "15". Empty means any supported one.
	Version string
}

// Server is a running PostgreSQL. Its methods may be called from several goroutines.
type Server struct {
	home     *home
	bin      Binaries
	who      account
	settings map[string]string
	password string
	port     int
	reused   int // the process id of a postmaster that another process started, or 0

	mu      sync.Mutex // guards proc and stopped
	proc    *process   // nil while the server is down, and for a reused one
	stopped bool       // Stop was called; the temporary directory is gone
}

// Start returns a server that answers. Where Dir already has one running, started by another process,
// that one is used: it is not stopped by Stop, and it ends with the process that started it. Of two
// processes that start on one Dir at the same time, one starts the server and the other waits for it.
//
// The context bounds the start alone; the server lives until Stop or until this process ends.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	s, err := start(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("start a private PostgreSQL: %w", err)
	}
	return s, nil
}

func start(ctx context.Context, cfg Config) (_ *Server, err error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	who, err := serverAccount()
	if err != nil {
		return nil, err
	}
	h, err := openHome(ctx, cfg, who)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			h.discard()
		}
	}()
	defer h.unlockKept()

	s := &Server{home: h, who: who, settings: cfg.Settings}
	made, err := h.madeBy()
	if err != nil {
		return nil, err
	}
	if s.bin, err = chooseBinaries(ctx, cfg, h, made); err != nil {
		return nil, err
	}
	if made == 0 {
		progress(cfg.Log, "initialising a private PostgreSQL %d in %s", s.bin.Major, h.dir)
		if err := h.initialise(ctx, &s.bin, who); err != nil {
			return nil, err
		}
	}
	if s.password, err = h.password(); err != nil {
		return nil, err
	}
	if s.reused, s.port, err = h.running(ctx, s.password); err != nil {
		return nil, err
	}
	if s.reused != 0 {
		progress(cfg.Log, "using the PostgreSQL %d that already runs in %s", s.bin.Major, h.dir)
		return s, nil
	}
	if s.bin, err = reachable(s.bin, who); err != nil {
		return nil, err
	}
	if cfg.Dir != "" {
		progress(cfg.Log, "starting PostgreSQL %d in %s", s.bin.Major, h.dir)
	}
	return s, s.launch(ctx, os.O_TRUNC)
}

// chooseBinaries finds binaries that can work on the data: those of the major version that made it.
func chooseBinaries(ctx context.Context, cfg Config, h *home, made int) (Binaries, error) {
	bin, want := cfg.Binaries, cfg.Version
	if bin.Dir == "" && want == "" && made != 0 {
		want = strconv.Itoa(made)
	}
	if bin.Dir == "" {
		var err error
		if bin, err = Find(ctx, FindOptions{Version: want}); err != nil {
			if made != 0 && errors.Is(err, ErrNotFound) {
				return Binaries{}, fmt.Errorf("%s holds data of PostgreSQL %d: %w, or remove that directory to begin anew", h.dir, made, err)
			}
			return Binaries{}, err
		}
	}
	if made != 0 && bin.Major != made {
		return Binaries{}, fmt.Errorf("%s holds data of PostgreSQL %d, and the binaries in %s are PostgreSQL %d: point OFFSTAGE_PG_BIN to those of PostgreSQL %d, or remove that directory to begin anew",
			h.dir, made, bin.Dir, bin.Major, made)
	}
	return bin, nil
}

// launch starts postgres and waits until it answers. The caller owns s.proc.
func (s *Server) launch(ctx context.Context, logMode int) error {
	const tries = 5
	for try := 1; ; try++ {
		fixed := s.port != 0 // a server that starts again keeps its port: pools reconnect to it
		if !fixed {
			var err error
			if s.port, err = freePort(); err != nil {
				return err
			}
		}
		proc, err := s.launchOnce(ctx, logMode)
		if err == nil {
			s.proc = proc
			return nil
		}
		// postgres gives up at once when another program took the port a moment ago, and when
		// processes of a killed predecessor still hold its shared memory. Both pass.
		if try == tries || ctx.Err() != nil || !errors.Is(err, errExited) {
			return err
		}
		if !fixed {
			s.port = 0
		}
		if pause(ctx, 200*time.Millisecond) != nil {
			return err
		}
	}
}

func (s *Server) launchOnce(ctx context.Context, logMode int) (*process, error) {
	log, err := os.OpenFile(s.home.logFile(), os.O_CREATE|os.O_WRONLY|os.O_APPEND|logMode, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the log of the server: %w", err)
	}
	defer log.Close()
	begin, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, fmt.Errorf("open the log of the server: %w", err)
	}
	args := []string{"-D", s.home.data()}
	for name, value := range s.commandSettings() {
		args = append(args, "-c", name+"="+value)
	}
	proc, err := startProcess(s.bin.Path("postgres"), args, s.who, log, s.home.inherited())
	if err != nil {
		return nil, err
	}
	if err := proc.waitReady(ctx, s.URL("postgres")); err != nil {
		proc.stop(immediate, stopTimeout)
		return nil, fmt.Errorf("%w; the end of %s says:\n%s", err, s.home.logFile(), tail(s.home.logFile(), begin))
	}
	return proc, nil
}

// commandSettings are the caller's settings with ours over them: where the server listens is not the
// caller's choice. There is no socket: its path would have to be short and its directory writable.
func (s *Server) commandSettings() map[string]string {
	all := map[string]string{}
	for name, value := range s.settings {
		all[name] = value
	}
	all["listen_addresses"] = host
	all["port"] = strconv.Itoa(s.port)
	all["unix_socket_directories"] = ""
	return all
}

// URL connects to a database of the server as its superuser. It is complete, so that PG* variables of
// the environment do not show through, and it holds the password: do not log it.
func (s *Server) URL(database string) string {
	return s.URLFor(superuser, s.password, database)
}

// URLFor connects to a database of the server as another role.
func (s *Server) URLFor(role, password, database string) string {
	u := url.URL{
		Scheme:   "postgres",
		User:     url.UserPassword(role, password),
		Host:     host + ":" + strconv.Itoa(s.port),
		Path:     "/" + database,
		RawQuery: "sslmode=disable",
	}
	return u.String()
}

// Major is the major version of the server, such as 15.
func (s *Server) Major() int { return s.bin.Major }

// Dir is where data, log and password are.
func (s *Server) Dir() string { return s.home.dir }

// LogFile is the server's own log.
func (s *Server) LogFile() string { return s.home.logFile() }

// Reused says that another process started this server, and will stop it.
func (s *Server) Reused() bool { return s.reused != 0 }

// AwaitEnd returns when a reused server has ended, which is not in our hands, or with the context's error.
func (s *Server) AwaitEnd(ctx context.Context) error {
	for runsOn(s.reused, s.home.data()) {
		if err := pause(ctx, time.Second); err != nil {
			return err
		}
	}
	return nil
}

// Pid is the process id of the postmaster, 0 while the server is down or where it was reused.
func (s *Server) Pid() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc == nil {
		return 0
	}
	return s.proc.cmd.Process.Pid
}

// Stop ends the server without waiting for its clients, and removes a temporary directory. A reused
// server keeps running. Calling it twice does no harm.
func (s *Server) Stop() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped || s.Reused() {
		return nil
	}
	s.stopped = true
	how := fast
	if s.home.temporary {
		how = immediate // a checkpoint for data that is about to be removed would be wasted
	}
	s.halt(how)
	if err := s.home.discard(); err != nil {
		return fmt.Errorf("stop a private PostgreSQL: %w", err)
	}
	return nil
}

// StopImmediate ends the server as a crash would: no checkpoint, recovery at the next start. The data
// stays, also of a temporary server; StartAgain brings it back.
func (s *Server) StopImmediate() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.Reused() {
		return errors.New("stop a private PostgreSQL: another process started this server; stop it there")
	}
	s.halt(immediate)
	return nil
}

// StartAgain starts the server after StopImmediate, or after it died, on the same port and data.
func (s *Server) StartAgain(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.Reused():
		return errors.New("start PostgreSQL again: another process started this server; start it there")
	case s.stopped:
		return errors.New("start PostgreSQL again: Stop has ended this server for good; use StopImmediate before StartAgain")
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	s.halt(fast)
	if err := s.launch(ctx, 0); err != nil {
		return fmt.Errorf("start PostgreSQL again: %w", err)
	}
	return nil
}

// halt stops the process if there is one. The caller holds s.mu.
func (s *Server) halt(how stopSignal) {
	if s.proc != nil {
		s.proc.stop(how, stopTimeout)
		s.proc = nil
	}
}

func progress(w io.Writer, format string, args ...any) {
	if w != nil {
		fmt.Fprintf(w, format+"\n", args...)
	}
}

// pause waits, or returns the context's error.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// tail returns the last two kilobytes that were written to a log after offset.
func tail(path string, offset int64) string {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) || int64(len(text)) <= offset {
		return "  (nothing)"
	}
	text = text[offset:]
	return string(text[max(0, len(text)-2048):])
}

// KeptDir proposes a directory for the data of a project, outside of it: a data directory must not end
// up in version control, nor on a share. Root's own home is closed to the user that postgres runs as,
// so root's data is under /var/tmp, which survives a restart of the machine.
func KeptDir(project string) (string, error) {
	project, err := filepath.Abs(project)
	if err != nil {
		return "", fmt.Errorf("choose a directory for PostgreSQL: %w", err)
	}
	name := filepath.Base(project) + "-" + shortHash(project)
	if os.Geteuid() == 0 {
		return filepath.Join(rootsPlace, name), nil
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("choose a directory for PostgreSQL: %w", err)
	}
	return filepath.Join(cache, "offstage", name), nil
}
