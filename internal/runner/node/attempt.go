package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/worker"
)

// await returns when the attempt has ended. If its context ends first, the task is told to stop, and if that does not
// help, its process is ended.
func (p *process) await(ctx context.Context, c *call) (json.RawMessage, error) {
	select {
	case o := <-c.done:
		return o.result, o.err
	case <-ctx.Done():
	}
	cause := context.Cause(ctx)
	p.send(appendAbort(nil, c.seq, cause.Error()))
	grace, drain := worker.Grace(cause, p.r.config.AbortGrace), p.r.config.DrainGrace
	if errors.Is(cause, offstage.ErrStopping) || errors.Is(cause, offstage.ErrLost) {
		drain = 0
	}
	timer := time.NewTimer(grace)
	defer timer.Stop()
	var o outcome
	select {
	case o = <-c.done:
	case <-timer.C:
		p.condemn(c, grace, drain)
		o = <-c.done
	}
	if o.aborted {
		return nil, cause
	}
	return o.result, o.err
}

// condemn ends a process for an attempt that has not stopped within its grace: at once if its event loop does not turn,
// otherwise when its other attempts have ended, or drain is over.
func (p *process) condemn(c *call, grace, drain time.Duration) {
	p.mu.Lock()
	c.overdue = true
	first := !p.condemned
	p.condemned = true
	p.mu.Unlock()
	if !first && drain > 0 {
		return
	}
	p.retire()
	p.mu.Lock()
	if since := p.since.Load(); since != 0 && drain > 0 { // that the worker leaves is nobody's fault
		if stuck := time.Duration(time.Now().UnixNano() - since); stuck > grace/2 && len(p.running) > 0 {
			p.blocked = stuck
			if len(p.running) == 1 {
				p.culprit = c.seq
			}
		}
	}
	stuck := p.blocked > 0
	p.mu.Unlock()
	if stuck || drain == 0 {
		p.kill()
		return
	}
	p.work.Go(func() {
		p.waitForOthers(drain)
		p.kill()
	})
}

// waitForOthers returns when only attempts are left that do not stop.
func (p *process) waitForOthers(most time.Duration) {
	end := time.NewTimer(most)
	defer end.Stop()
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for {
		p.mu.Lock()
		others := false
		for _, c := range p.running {
			others = others || !c.overdue
		}
		p.mu.Unlock()
		if !others {
			return
		}
		select {
		case <-look.C:
		case <-end.C:
			return
		case <-p.calls.Done():
			return
		}
	}
}

// verdict is the error of an attempt whose process has ended; it was one of n.
func (p *process) verdict(c *call, n int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.blocked > 0 && p.culprit == c.seq:
		return fmt.Errorf("it blocked the event loop for %s; its Node process was killed", p.blocked.Round(100*time.Millisecond))
	case p.blocked > 0 && p.culprit == 0:
		return worker.Crashed(fmt.Errorf("its Node process was killed, because one of the %d jobs in it blocked the event loop for %s", n, p.blocked.Round(100*time.Millisecond)))
	case p.blocked > 0:
		return worker.Released(errors.New("its Node process was killed, because another job blocked the event loop"))
	case p.condemned && c.overdue:
		return errors.New("it went on when its abortSignal had fired; its Node process was killed")
	case p.condemned:
		return worker.Released(errors.New("its Node process was killed, because another job did not stop"))
	case p.killed:
		return worker.Released(errClosed)
	}
	return worker.Crashed(fmt.Errorf("its Node process died (%s), with %d jobs in it", p.how(), n))
}

// watch sees to it that a process in which something runs is heard of, and tells once when it is not.
func (p *process) watch() {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	var told int64
	for {
		select {
		case <-ticker.C:
		case <-p.calls.Done():
			return
		}
		if p.load.Load() == 0 {
			continue
		}
		since := p.since.Load()
		if since == 0 {
			p.mu.Lock()
			if !p.gone {
				p.append(nil) // to be acknowledged
			}
			p.mu.Unlock()
			continue
		}
		if age := time.Duration(time.Now().UnixNano() - since); age > blockedFor && since != told {
			told = since
			p.r.config.Log.Warn("the event loop of a Node process does not turn: a task computes, or waits synchronously",
				"node", p.pid, "for", age.Round(time.Second), "running", p.tasksNow())
		}
	}
}

// tasksNow are the names of the tasks that run in it.
func (p *process) tasksNow() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var names []string
	for _, c := range p.running {
		if !slices.Contains(names, c.job.Task) {
			names = append(names, c.job.Task)
		}
	}
	slices.Sort(names)
	return names
}
