package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// agent is a running process of one of the systems. One goroutine reads its lines into events; everything else
// belongs to the caller.
type agent struct {
	name   string
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	events chan event

	cpuAtStart int64 // what the process had used up when it was told to go; set by the reader before it hands that event on

	exited chan struct{} // closed after err was set
	err    error
}

// startAgent starts cmd, hands it its config and waits until it is ready. When ctx ends, the process is ended.
func startAgent(ctx context.Context, name string, cmd *exec.Cmd, config agentConfig) (*agent, error) {
	a, err := launchAgent(ctx, name, cmd, config)
	if err != nil {
		return nil, err
	}
	if _, err := a.wait(ctx, "ready"); err != nil {
		return nil, errors.Join(err, a.end())
	}
	return a, nil
}

// launchAgent starts cmd and hands it its config.
func launchAgent(ctx context.Context, name string, cmd *exec.Cmd, config agentConfig) (*agent, error) {
	// A process group of its own: Ctrl-C reaches the harness only, which then ends its agents in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	a := &agent{name: name, cmd: cmd, stdin: stdin, events: make(chan event, 4096), exited: make(chan struct{})}
	go a.read(stdout)
	stop := context.AfterFunc(ctx, a.kill)
	go func() {
		<-a.exited
		stop()
	}()
	if err := a.write(config); err != nil {
		return nil, errors.Join(err, a.end())
	}
	return a, nil
}

func (a *agent) read(stdout io.Reader) {
	lines := bufio.NewScanner(stdout)
	lines.Buffer(nil, 1<<20)
	var bad error
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			bad = fmt.Errorf("%s wrote %q", a.name, lines.Text())
			break
		}
		if e.Event == "started" {
			a.cpuAtStart = e.CPU
		}
		a.events <- e
	}
	_, _ = io.Copy(io.Discard, stdout)
	a.err = errors.Join(bad, lines.Err(), a.cmd.Wait())
	close(a.events)
	close(a.exited)
}

func (a *agent) write(line any) error {
	data, err := json.Marshal(line)
	if err != nil {
		return err
	}
	if _, err := a.stdin.Write(append(data, '\n')); err != nil {
		return fmt.Errorf("write to %s: %w", a.name, err)
	}
	return nil
}

func (a *agent) tell(do string) error { return a.write(command{Do: do}) }

// wait returns the next event of that name and drops others on the way.
func (a *agent) wait(ctx context.Context, name string) (event, error) {
	for {
		e, err := a.next(ctx)
		if err != nil {
			return event{}, fmt.Errorf("waiting for %q: %w", name, err)
		}
		if e.Event == name {
			return e, nil
		}
	}
}

func (a *agent) next(ctx context.Context) (event, error) {
	select {
	case e, ok := <-a.events:
		if !ok {
			return event{}, fmt.Errorf("%s ended: %w", a.name, errors.Join(a.err, io.ErrUnexpectedEOF))
		}
		return e, nil
	case <-ctx.Done():
		return event{}, fmt.Errorf("%s: %w", a.name, context.Cause(ctx))
	}
}

// alive returns an error if the process has ended by itself.
func (a *agent) alive() error {
	select {
	case <-a.exited:
		return fmt.Errorf("%s ended: %w", a.name, errors.Join(a.err, io.ErrUnexpectedEOF))
	default:
		return nil
	}
}

// stop ends the agent in order and returns what it says at its end.
func (a *agent) stop(ctx context.Context) (event, error) {
	if err := a.tell("stop"); err != nil {
		return event{}, errors.Join(err, a.end())
	}
	e, err := a.wait(ctx, "stopped")
	return e, errors.Join(err, a.end())
}

// end closes the agent's input, which ends it, and kills it if that takes longer than ten seconds. It may be
// called more than once.
func (a *agent) end() error {
	_ = a.stdin.Close()
	timer := time.AfterFunc(10*time.Second, a.kill)
	defer timer.Stop()
	for range a.events { // the reader must not block on a full channel
	}
	<-a.exited
	return a.err
}

func (a *agent) kill() { _ = a.cmd.Process.Kill() }

// clockOffset is how far the agent's clock is ahead of ours, in microseconds, and how far off that may be.
func (a *agent) clockOffset(ctx context.Context) (offset, bound int64, err error) {
	bound = 1 << 62
	for range 100 {
		sent := wall()
		if err := a.tell("ping"); err != nil {
			return 0, 0, err
		}
		e, err := a.wait(ctx, "pong")
		if err != nil {
			return 0, 0, err
		}
		if received := wall(); received-sent < 2*bound {
			bound = (received - sent) / 2
			offset = e.T - sent - bound
		}
	}
	return offset, bound, nil
}
