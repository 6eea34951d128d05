package devpg

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// stopSignal is how postgres is asked to end. Its third way, SIGTERM, waits for the clients, who may
// never leave.
type stopSignal = syscall.Signal

const (
	fast      stopSignal = syscall.SIGINT
	immediate stopSignal = syscall.SIGQUIT
)

// errExited says that postgres ended while it was being waited for.
var errExited = errors.New("postgres ended right after its start")

// process is a running postmaster.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when the process has ended
	err  error         // how it ended; read after done
}

// startProcess forks postgres, in a process group of its own: Ctrl-C in a terminal goes to the group, and
// the server must outlast the jobs that are still ending.
func startProcess(program string, args []string, who account, log, inherited *os.File) (*process, error) {
	cmd := exec.Command(program, args...)
	cmd.Dir = "/"
	cmd.Env = cleanEnv()
	cmd.Stdout, cmd.Stderr = log, log
	if inherited != nil {
		cmd.ExtraFiles = []*os.File{inherited}
	}
	cmd.SysProcAttr = childAttributes(who)
	diesWithParent(cmd.SysProcAttr, fast)

	p := &process{cmd: cmd, done: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		// Linux sends the death signal when the thread that forked ends, not the process; so this
		// thread belongs to the server for as long as it runs.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := cmd.Start(); err != nil {
			started <- fmt.Errorf("start %s as user %s: %w", program, who.name, err)
			return
		}
		stopWatch, err := watchParent(cmd.Process.Pid)
		if err != nil {
			cmd.Process.Signal(fast)
			cmd.Wait()
			started <- fmt.Errorf("watch over %s: %w", program, err)
			return
		}
		started <- nil
		p.err = cmd.Wait()
		stopWatch()
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// waitReady returns when the server answers a query.
func (p *process) waitReady(ctx context.Context, url string) error {
	for {
		conn, err := connect(ctx, url)
		if err == nil {
			return conn.Close(ctx)
		}
		wait, cancel := context.WithTimeout(ctx, 15*time.Millisecond)
		select {
		case <-p.done:
			cancel()
			return fmt.Errorf("%w (%v)", errExited, p.err)
		case <-wait.Done():
			cancel()
		}
		if ctx.Err() != nil {
			return fmt.Errorf("postgres does not answer: %w", err)
		}
	}
}

// stop ends the process and returns when it is gone; harder after each patience.
func (p *process) stop(how stopSignal, patience time.Duration) {
	for _, signal := range []os.Signal{how, immediate, os.Kill} {
		p.cmd.Process.Signal(signal) // fails only when it is gone, which done tells
		timer := time.NewTimer(patience)
		select {
		case <-p.done:
			timer.Stop()
			return
		case <-timer.C:
		}
	}
	<-p.done
}

// connect uses what the URL says and nothing of the environment, in which PGOPTIONS or PGAPPNAME may
// stand.
func connect(ctx context.Context, url string) (*pgx.Conn, error) {
	cfg, err := pgx.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	cfg.RuntimeParams = map[string]string{"application_name": "offstage devpg"}
	cfg.ValidateConnect = nil
	cfg.ConnectTimeout = 5 * time.Second
	return pgx.ConnectConfig(ctx, cfg)
}

// freePort picks a port below the range that systems give to outgoing connections: no such connection
// can take it while the server is down for a moment.
func freePort() (int, error) {
	const low, high = 15000, 32000
	for range 100 {
		port := low + rand.IntN(high-low)
		listener, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(port)))
		if err == nil {
			return port, listener.Close()
		}
	}
	return 0, fmt.Errorf("find a free port between %d and %d on %s: all that were tried are taken", low, high, host)
}

// cleanEnv is the environment without what changes the behaviour of initdb and postgres.
func cleanEnv() []string {
	var env []string
	for _, entry := range os.Environ() {
		name, _, _ := strings.Cut(entry, "=")
		if strings.HasPrefix(name, "PG") || strings.HasPrefix(name, "LC_") || name == "LANG" || name == "LANGUAGE" || name == "DATABASE_URL" {
			continue
		}
		env = append(env, entry)
	}
	return append(env, "LC_ALL=C")
}
