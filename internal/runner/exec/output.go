package exec

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"

	"github.com/offstage-dev/offstage/internal/runner/lines"
)

// lineCost is what a line takes of the output's budget besides its bytes, so that a flood of empty lines ends too.
const lineCost = 64

// output takes the lines of one attempt to its log: the first ones as they come, up to a budget, the last ones when
// the attempt is over, and in between a count. It also keeps the end of stderr for the attempt's error.
type output struct {
	log *slog.Logger

	mu     sync.Mutex // guards all below, and the order of lines in the log
	budget int
	over   bool // the budget is used up
	tail   tail // lines that came after that
	stderr tail
}

func newOutput(log *slog.Logger, config Config) *output {
	return &output{
		log:    log,
		budget: config.MaxOutput,
		tail:   tail{limit: config.KeptOutput, cost: lineCost},
		stderr: tail{limit: config.ErrorTail, cost: 1},
	}
}

func (o *output) stdoutLine(text string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.line(slog.LevelInfo, text)
}

func (o *output) stderrLine(text string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if strings.TrimSpace(text) != "" {
		o.stderr.push(entry{text: text})
	}
	o.line(slog.LevelError, text)
}

// line is called with mu held.
func (o *output) line(level slog.Level, text string) {
	o.budget -= len(text) + lineCost
	if !o.over && o.budget >= 0 {
		o.write(entry{level, text})
		return
	}
	if !o.over {
		o.over = true
		o.write(entry{slog.LevelWarn, "the task prints much: from here on only its last lines are logged, when it has ended"})
	}
	o.tail.push(entry{level, text})
}

// finish writes what was held back. Both streams must have ended.
func (o *output) finish() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.tail.lost > 0 {
		o.write(entry{slog.LevelWarn, fmt.Sprintf("%d lines (%d bytes) of the task's output were dropped here", o.tail.lost, o.tail.lostBytes)})
	}
	for _, e := range o.tail.entries {
		o.write(e)
	}
	o.tail.entries = nil
}

// write does without the attempt's context, which may have ended: that is no reason for a handler to lose a line.
func (o *output) write(e entry) { o.log.Log(context.Background(), e.level, e.text) }

// errorTail is the end of what the task wrote to stderr.
func (o *output) errorTail() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	var texts []string
	for _, e := range o.stderr.entries {
		texts = append(texts, e.text)
	}
	return strings.Join(texts, "\n")
}

type entry struct {
	level slog.Level
	text  string
}

// tail keeps the last entries that fit in limit.
type tail struct {
	limit int // bytes
	cost  int // of an entry besides its text
	used  int

	entries   []entry
	lost      int
	lostBytes int64
}

func (t *tail) push(e entry) {
	if most := t.limit - t.cost; len(e.text) > most {
		e.text = strings.Clone(string(lines.WholeRunes([]byte(e.text[:max(most-len("…"), 0)])))) + "…"
	}
	t.entries = append(t.entries, e)
	t.used += len(e.text) + t.cost
	for t.used > t.limit && len(t.entries) > 1 {
		first := t.entries[0]
		t.used -= len(first.text) + t.cost
		t.lost++
		t.lostBytes += int64(len(first.text))
		t.entries[0] = entry{} // the array outlives the entry
		t.entries = t.entries[1:]
	}
}
