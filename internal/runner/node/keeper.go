package node

import (
	"slices"
	"time"
)

// keep keeps one process running: p, or when that is nil a new one.
func (r *Runner) keep(p *process) {
	for failures := 0; ; {
		var err error
		if p == nil {
			p, err = r.start()
		}
		if err == nil {
			if r.serve(p) {
				failures = 0
			} else {
				failures++
			}
			if failures > 1 && !r.isClosed() {
				r.config.Log.Error("a Node process ends as soon as it starts; trying again", "reason", p.how())
			}
		} else {
			failures++
			r.config.Log.Error("cannot start Node; trying again", "error", err)
		}
		p = nil
		var pause time.Duration
		if failures > 0 {
			pause = min(100*time.Millisecond<<min(failures, 10), 10*time.Second)
		}
		timer := time.NewTimer(pause)
		select {
		case <-r.closed:
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}

func (r *Runner) isClosed() bool {
	select {
	case <-r.closed:
		return true
	default:
		return false
	}
}

// serve lets p take attempts until it is given up or has ended. It says whether it ever could.
func (r *Runner) serve(p *process) bool {
	late := time.NewTimer(r.config.LoadTimeout)
	defer late.Stop()
	select {
	case <-p.ready:
	case <-late.C:
		p.kill()
		<-p.exited
		return false
	case <-p.exited:
		return false
	case <-r.closed:
		p.end()
		<-p.exited
		return false
	}
	for task, reason := range p.failed {
		if _, known := r.unable[task]; !known {
			r.config.Log.Error("a task does not load any more; its jobs are put off", "task", task, "reason", reason)
		}
	}
	r.mu.Lock()
	r.ready = append(r.ready, p)
	close(r.changed)
	r.changed = make(chan struct{})
	r.mu.Unlock()

	select {
	case <-p.retired:
	case <-p.exited:
	case <-r.closed:
	}
	r.mu.Lock()
	if i := slices.Index(r.ready, p); i >= 0 {
		r.ready = slices.Delete(r.ready, i, i+1)
	}
	r.mu.Unlock()
	// A successor need not wait until its last attempts have ended.
	r.keepers.Go(func() { r.drain(p) })
	return true
}

// drain ends a process when its attempts have ended, or as soon as it is told to.
func (r *Runner) drain(p *process) {
	select {
	case <-p.idle():
	case <-p.exited:
	case <-r.closed:
	}
	p.end()
	<-p.exited
}
