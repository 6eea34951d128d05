package exec

import (
	"context"
	"io"
	"log/slog"
	"os"
	osexec "os/exec"
	"sync"
	"syscall"
	"time"

	"github.com/offstage-dev/offstage/internal/runner/lines"
	"github.com/offstage-dev/offstage/worker"
)

// unkillable is how long a process may take to vanish after SIGKILL. Only one that waits for a broken disk, or that
// runs as another user, takes longer.
const unkillable = 5 * time.Second

// attempt is one run of an executable. The fields are set before run and not changed.
type attempt struct {
	config Config
	path   string
	env    []string
	stdin  []byte
	log    *slog.Logger
	output *output
}

// run starts the executable, waits for it and clears up after it. Whatever happens, it leaves no goroutine and no open
// file, and no process but such as cannot be killed.
func (a *attempt) run(ctx context.Context) error {
	cmd := &osexec.Cmd{Path: a.path, Args: []string{a.path}, Env: a.env, SysProcAttr: attributes()}
	pipes, err := openPipes()
	if err != nil {
		return err
	}
	defer pipes.close()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = pipes.stdin.child, pipes.stdout.child, pipes.stderr.child

	g, err := start(cmd)
	pipes.closeChild()
	if err != nil {
		return startFailure(a.path, err)
	}
	streams := a.attach(pipes)
	how := a.wait(ctx, g, streams.read)
	if !g.clear() {
		a.log.Warn("the task left processes behind that cannot be killed", "process_group", g.id)
	}
	if !streams.end(pipes) {
		a.log.Warn("the task left a process in another session behind, which holds its output open; what it prints is not read")
	}
	a.output.finish()

	if how != "" {
		return stopFailure(ctx, how, a.output.errorTail())
	}
	return exitFailure(cmd.ProcessState, a.output.errorTail())
}

// wait returns when the group is to be killed: its leader has ended, and read is closed (nobody holds the output open)
// or nobody may hold it any longer. It returns "" if the leader ended by itself, otherwise how it was stopped.
func (a *attempt) wait(ctx context.Context, g *group, read <-chan struct{}) string {
	select {
	case <-g.exited:
	case <-ctx.Done():
	}
	select {
	case <-g.exited: // in time, even if the context has ended as well
		within(a.config.Linger, read)
		return ""
	default:
	}

	grace := worker.Grace(context.Cause(ctx), a.config.KillGrace)
	end := time.Now().Add(grace)
	if grace > 0 {
		g.terminate()
		if within(grace, g.exited) {
			// Its children got SIGTERM too, and have the rest of the grace to finish.
			within(time.Until(end), read)
			return "it was ended by SIGTERM"
		}
	}
	g.kill()
	if !within(unkillable, g.exited) {
		return "it cannot be killed"
	}
	if grace < 0 {
		return "it was killed"
	}
	return "it was killed, " + grace.String() + " after SIGTERM"
}

// within waits for done, at most for d, and says whether it came.
func within(d time.Duration, done <-chan struct{}) bool {
	timer := time.NewTimer(max(d, 0))
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
		return false
	}
}

// streams are the goroutines that serve a task's stdin, stdout and stderr.
type streams struct {
	all  sync.WaitGroup
	read chan struct{} // closed when stdout and stderr have ended
	held [2]bool       // stdout and stderr did not end, because somebody holds them open; to be read after all
}

func (a *attempt) attach(p *pipes) *streams {
	s := &streams{read: make(chan struct{})}
	s.all.Go(func() {
		// A task need not read its input, so an error here is none of the attempt.
		_, _ = p.stdin.ours.Write(a.stdin)
		_ = p.stdin.ours.Close()
	})
	var reading sync.WaitGroup
	follow := func(i int, from *os.File, emit func(string)) {
		l := &lines.Writer{Limit: a.config.MaxLine, Emit: emit}
		buf := make([]byte, 32<<10)
		_, err := io.CopyBuffer(l, onlyReader{from}, buf)
		s.held[i] = err != nil && !drain(from, l, buf)
		l.Flush()
	}
	reading.Go(func() { follow(0, p.stdout.ours, a.output.stdoutLine) })
	reading.Go(func() { follow(1, p.stderr.ours, a.output.stderrLine) })
	s.all.Go(func() {
		reading.Wait()
		close(s.read)
	})
	return s
}

// end ends the streams once the group is gone: what is in the pipes is read, but what a process prints that has escaped
// from the group is not waited for. It says whether there was none.
func (s *streams) end(p *pipes) bool {
	past := time.Unix(1, 0)
	_ = p.stdout.ours.SetReadDeadline(past) // pipes have deadlines
	_ = p.stderr.ours.SetReadDeadline(past)
	_ = p.stdin.ours.Close()
	s.all.Wait()
	return !s.held[0] && !s.held[1]
}

// drain copies what is in a pipe, without waiting for more, and says whether the pipe has ended. A process that goes on
// writing is left alone after as much as a pipe can hold.
func drain(from *os.File, to io.Writer, buf []byte) bool {
	_ = from.SetReadDeadline(time.Time{})
	raw, err := from.SyscallConn()
	if err != nil {
		return false
	}
	for left := 1 << 20; left > 0; {
		var n int
		var readErr error
		err := raw.Read(func(fd uintptr) bool {
			n, readErr = syscall.Read(int(fd), buf)
			return true // also with nothing to read
		})
		switch {
		case err != nil:
			return false
		case readErr == syscall.EINTR:
		case readErr != nil:
			return false
		case n == 0:
			return true
		default:
			_, _ = to.Write(buf[:n])
			left -= n
		}
	}
	return false
}

// onlyReader hides the file's own ways to copy, which would not use our buffer.
type onlyReader struct{ io.Reader }

// pipe has an end for the task and one for us.
type pipe struct{ child, ours *os.File }

type pipes struct{ stdin, stdout, stderr pipe }

func openPipes() (_ *pipes, err error) {
	p := &pipes{}
	defer func() {
		if err != nil {
			p.closeChild()
			p.close()
		}
	}()
	if p.stdin.child, p.stdin.ours, err = os.Pipe(); err != nil {
		return nil, err
	}
	if p.stdout.ours, p.stdout.child, err = os.Pipe(); err != nil {
		return nil, err
	}
	if p.stderr.ours, p.stderr.child, err = os.Pipe(); err != nil {
		return nil, err
	}
	return p, nil
}

// closeChild closes the ends that are the task's alone, so that they end with it.
func (p *pipes) closeChild() {
	_ = p.stdin.child.Close()
	_ = p.stdout.child.Close()
	_ = p.stderr.child.Close()
}

func (p *pipes) close() {
	_ = p.stdin.ours.Close()
	_ = p.stdout.ours.Close()
	_ = p.stderr.ours.Close()
}
