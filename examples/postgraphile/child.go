package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// child is a process that the example has started. It ends with the example, on Linux also when that is killed.
type child struct {
	name string
	cmd  *exec.Cmd
	in   io.WriteCloser
	done chan struct{} // closed when it has ended

	mu   sync.Mutex // guards said
	said []string   // its last lines, for the error when it ends by itself
}

// hearing is who hears the lines that a process prints; nil: nobody.
type hearing struct{ out, errs func(line string) }

// start starts a process with this environment in addition to ours.
func start(name, dir string, environment []string, h hearing, path string, args ...string) (*child, error) {
	c := &child{name: name, done: make(chan struct{})}
	c.cmd = exec.Command(path, args...)
	c.cmd.Dir = dir
	c.cmd.Env = append(cleanEnvironment(), environment...)
	c.cmd.SysProcAttr = endsWithUs()
	c.cmd.WaitDelay = time.Second // what it has started itself may hold its output open
	c.cmd.Stdout = &lines{on: c.heard(h.out)}
	c.cmd.Stderr = &lines{on: c.heard(h.errs)}
	var err error
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	started := make(chan error, 1)
	go func() {
		// The signal that ends it with us comes when the thread ends that has started it: the thread is kept as long.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := c.cmd.Start()
		started <- err
		if err == nil {
			_ = c.cmd.Wait() // how it has ended is in ProcessState
			close(c.done)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return c, nil
}

// cleanEnvironment is ours without what would lead to another database.
func cleanEnvironment() (list []string) {
	for _, entry := range os.Environ() {
		if name, _, _ := strings.Cut(entry, "="); name != "DATABASE_URL" && !strings.HasPrefix(name, "PG") && !strings.HasPrefix(name, "OFFSTAGE_") {
			list = append(list, entry)
		}
	}
	return list
}

// heard notes a line, and passes it on.
func (c *child) heard(on func(string)) func(string) {
	return func(line string) {
		c.mu.Lock()
		c.said = append(c.said, line)
		c.said = c.said[max(0, len(c.said)-30):]
		c.mu.Unlock()
		if on != nil {
			on(line)
		}
	}
}

// ended is the error of a process that has ended although it was needed.
func (c *child) ended() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return fmt.Errorf("%s has ended (%v) and said:\n%s", c.name, c.cmd.ProcessState, strings.Join(c.said, "\n"))
}

// stop asks the process to end, and ends it where it does not.
func (c *child) stop() error {
	c.in.Close()
	if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop %s: %w", c.name, err)
	}
	timer := time.NewTimer(10 * time.Second)
	defer timer.Stop()
	select {
	case <-c.done:
	case <-timer.C:
		c.kill()
	}
	return nil
}

// kill ends the process at once.
func (c *child) kill() {
	_ = c.cmd.Process.Kill() // fails only when it has ended
	<-c.done
}

// lines calls on with each line that is written to it.
type lines struct {
	on   func(string)
	part []byte
}

func (l *lines) Write(p []byte) (int, error) {
	l.part = append(l.part, p...)
	for {
		line, rest, found := bytes.Cut(l.part, []byte("\n"))
		if !found {
			return len(p), nil
		}
		l.on(strings.TrimSuffix(string(line), "\r"))
		l.part = append(l.part[:0], rest...)
	}
}
