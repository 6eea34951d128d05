package node

import (
	"fmt"
	"sync"
	"testing"
	"time"
)

// Tasks that compute are shared out, in turns with one that does nothing, too.
func TestComputingIsSharedOut(t *testing.T) {
	t.Parallel()
	b := open(t, map[string]string{
		"compute.js": `module.exports = () => { const end = performance.now() + 1; while (performance.now() < end); return process.pid }`,
		"later.js":   `module.exports = async () => { await null; const end = performance.now() + 1; while (performance.now() < end); return process.pid }`,
		"nothing.js": `module.exports = () => {}`,
		"long.js":    `module.exports = () => { const end = performance.now() + 100; while (performance.now() < end); return process.pid }`,
	}, func(c *Config) { c.Processes = 2 })
	b.eventually(func() bool { b.mu.Lock(); defer b.mu.Unlock(); return len(b.ready) == 2 })
	for _, x := range []struct {
		task        string
		slots, each int
	}{{"nothing", 20, 1500}, {"long", 4, 1}, {"compute", 4, 50}, {"nothing", 20, 1500}, {"later", 4, 50}} {
		task := x.task
		var mu sync.Mutex
		processes := map[string]int{}
		var slots sync.WaitGroup
		for range x.slots {
			slots.Go(func() {
				for range x.each {
					pid, _, err := b.run(task, "{}")
					if err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					processes[pid]++
					mu.Unlock()
				}
			})
		}
		slots.Wait()
		for pid, n := range processes {
			if task != "nothing" && (len(processes) != 2 || n < x.each) {
				t.Errorf("of %d attempts of %s, process %s made %d, of %d processes", x.slots*x.each, task, pid, n, len(processes))
			}
		}
	}
}

// What does nearly nothing goes to one process, as many attempts at a time as there are, until it computes or does not turn.
func TestBriefAttemptsGoTogether(t *testing.T) {
	newProcess := func(load int64) *process {
		p := &process{running: map[int64]*call{}}
		p.load.Store(load)
		return p
	}
	hear := func(p *process, attempts int, busy time.Duration) {
		t.Helper()
		for seq := range int64(attempts) {
			p.running[seq] = &call{done: make(chan outcome, 1)}
			p.load.Add(1)
			p.finish(seq, outcome{})
		}
		p.unread++
		if err := p.hear(message{kind: 'k', rest: fmt.Appendf(nil, "%d", busy.Microseconds())}); err != nil {
			t.Fatal(err)
		}
	}
	other, p := newProcess(0), newProcess(9)
	less := func(what string, first, second *process) {
		t.Helper()
		if a, b := first.weight("t", soon/2), second.weight("t", soon/2); a >= b {
			t.Errorf("%s: weights %d and %d", what, a, b)
		}
	}
	less("of which nothing is known, who has less", other, p)
	hear(p, 5, 4*time.Millisecond) // the first ones are always slow
	less("who computes", other, p)
	for range 1000 {
		hear(p, 5, 25*time.Microsecond)
	}
	less("brief ones", p, other)
	p.light.Store(8)
	if weight := p.weight("t", soon); weight != 1 {
		t.Errorf("of nine attempts eight do not count: weight %d", weight)
	}
	p.light.Store(0)
	if known, unknown := p.weight("t", soon), p.weight("t", 0); known != 9 || unknown != 9 {
		t.Errorf("for a task that takes longer, or of which nothing is known, weights %d and %d", known, unknown)
	}
	hear(p, 0, time.Microsecond)
	less("and nothing for a while", p, other)
	p.since.Store(time.Now().Add(-2 * sluggish).UnixNano())
	less("an event loop that does not turn", other, p)
	p.since.Store(0)
	for range 20 {
		hear(p, 5, 500*time.Microsecond)
	}
	less("who computes again", other, p)
	if err := p.hear(message{kind: 'k', rest: []byte("soon")}); err == nil {
		t.Error("took that for a duration")
	}
}
