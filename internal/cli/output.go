package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"
)

// printJSON writes data for programs.
func (a *app) printJSON(v any) error {
	enc := json.NewEncoder(a.Stdout)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// Colours, as what comes after ESC[.
const (
	bold   = "1m"
	dim    = "2m"
	red    = "31m"
	green  = "32m"
	yellow = "33m"
	blue   = "34m"
)

// painter colours text, or does not.
type painter bool

func (p painter) paint(colour, text string) string {
	if !p || colour == "" || text == "" {
		return text
	}
	return "\x1b[" + colour + text + "\x1b[0m"
}

// outPaint and errPaint follow NO_COLOR (any value but empty), TERM=dumb, and whether a person reads.
func (a *app) outPaint() painter { return painter(a.OutTerminal && a.colours()) }
func (a *app) errPaint() painter { return painter(a.ErrTerminal && a.colours()) }
func (a *app) colours() bool     { return a.Getenv("NO_COLOR") == "" && a.Getenv("TERM") != "dumb" }

var stateColours = map[string]string{
	"running": blue, "waiting": green, "scheduled": dim, "parked": dim, "paused": yellow, "failed": red,
	"succeeded": green, "cancelled": yellow, "retried": yellow, "rescued": yellow,
	"on": green, "overdue": red, "failing": red, "over": dim,
	"alive": green, "silent": red, "dead": red, "draining": yellow, "ok": green, "warn": yellow, "fail": red,
}

// table is text in columns. Numbers are right-aligned; the last column may be as long as it likes.
type table struct {
	head  []string
	right map[int]bool
	rows  [][]string
}

func newTable(head ...string) *table {
	t := &table{right: map[int]bool{}}
	for i, h := range head {
		if name, ok := strings.CutPrefix(h, ">"); ok { // right-aligned
			h, t.right[i] = name, true
		}
		t.head = append(t.head, h)
	}
	return t
}

func (t *table) add(cells ...string) {
	for i := range cells {
		cells[i] = clean(cells[i], false)
	}
	t.rows = append(t.rows, cells)
}

func (a *app) print(t *table) {
	widths := make([]int, len(t.head))
	for _, row := range append([][]string{t.head}, t.rows...) {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	p := a.outPaint()
	line := func(row []string, colour func(cell string) string) {
		var b strings.Builder
		for i, cell := range row {
			gap := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			text := p.paint(colour(cell), cell)
			switch {
			case t.right[i]:
				b.WriteString(gap + text)
			case i == len(row)-1:
				b.WriteString(text)
			default:
				b.WriteString(text + gap)
			}
			if i < len(row)-1 {
				b.WriteString("  ")
			}
		}
		fmt.Fprintln(a.Stdout, strings.TrimRight(b.String(), " "))
	}
	line(t.head, func(string) string { return bold })
	for _, row := range t.rows {
		line(row, func(cell string) string { return stateColours[cell] })
	}
}

// clean takes out what would move the cursor or colour the terminal: job data comes from anywhere.
func clean(text string, keepLines bool) string {
	return strings.Map(func(r rune) rune {
		switch {
		case keepLines && (r == '\n' || r == '\t'):
			return r
		case r == '\n' || r == '\t' || r == '\r':
			return ' '
		case unicode.IsControl(r), r == '\u2028', r == '\u2029', '\u202a' <= r && r <= '\u202e', '\u2066' <= r && r <= '\u2069':
			return '\ufffd'
		}
		return r
	}, text)
}

// short cuts a text for a column.
func short(text string, n int) string {
	text = strings.TrimSpace(text)
	if line, _, more := strings.Cut(text, "\n"); more {
		text = line + " …"
	}
	if utf8.RuneCountInString(text) > n {
		text = string([]rune(text)[:n-1]) + "…"
	}
	return text
}

// or is the text, or a dash for none.
func dash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

// span is a duration for people: three digits are enough.
func span(d time.Duration) string {
	if d < 0 {
		return "-" + span(-d)
	}
	in := func(unit time.Duration) int { return int((d + unit/2) / unit) }
	two := func(n, per int, a, b string) string {
		if n%per == 0 {
			return fmt.Sprintf("%d %s", n/per, a)
		}
		return fmt.Sprintf("%d %s %d %s", n/per, a, n%per, b)
	}
	switch {
	case d < time.Millisecond:
		return fmt.Sprintf("%d us", d.Microseconds())
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.1f ms", float64(d)/1e6)
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < 10*time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case in(time.Second) < 120:
		return fmt.Sprintf("%d s", in(time.Second))
	case in(time.Minute) < 120:
		return fmt.Sprintf("%d min", in(time.Minute))
	case in(time.Minute) < 10*60:
		return two(in(time.Minute), 60, "h", "min")
	case in(time.Hour) < 48:
		return fmt.Sprintf("%d h", in(time.Hour))
	case in(time.Hour) < 10*24:
		return two(in(time.Hour), 24, "days", "h")
	}
	return fmt.Sprintf("%d days", in(24*time.Hour))
}

// when is a time for people, relative to now.
func when(t time.Time) string {
	d := time.Until(t)
	switch {
	case t.IsZero():
		return "-"
	case d > time.Second:
		return "in " + span(d)
	case d > -time.Second:
		return "now"
	}
	return span(-d) + " ago"
}

// stamp is a time for people, absolute.
func stamp(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05.000 -0700") }

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// confirm asks before something that cannot be undone.
func (a *app) confirm(ctx context.Context, question string) error {
	if a.yes {
		return nil
	}
	if !a.Ask {
		return failed(Usage, "add --yes to do it, or --dry-run to see what it would do", "%s? nobody can be asked here: this is not a terminal", question)
	}
	fmt.Fprintf(a.Stderr, "%s? [y/N] ", question)
	answer := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(a.Stdin).ReadString('\n')
		answer <- line
	}()
	select {
	case <-ctx.Done():
		a.say("")
		return ctx.Err()
	case line := <-answer:
		switch strings.ToLower(strings.TrimSpace(line)) {
		case "y", "yes":
			return nil
		}
	}
	return failed(Failed, "", "nothing was changed")
}

// progress tells on stderr how far something is, once it has taken a second: on a terminal in one line that changes,
// elsewhere in a line every ten seconds.
type progress struct {
	w        io.Writer
	terminal bool
	stopped  chan struct{}
	done     chan struct{}

	mu   sync.Mutex // guards text
	text string
}

func (a *app) progress(text string) *progress {
	p := &progress{w: a.Stderr, terminal: a.ErrTerminal, text: text, stopped: make(chan struct{}), done: make(chan struct{})}
	go p.run()
	return p
}

func (p *progress) set(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.text = fmt.Sprintf(format, args...)
}

func (p *progress) run() {
	defer close(p.done)
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	shown := false
	for n := 0; ; n++ {
		select {
		case <-p.stopped:
			if shown && p.terminal {
				fmt.Fprint(p.w, "\r\x1b[K")
			}
			return
		case <-ticker.C:
		}
		p.mu.Lock()
		text := clean(p.text, false)
		p.mu.Unlock()
		switch {
		case p.terminal:
			fmt.Fprintf(p.w, "\r\x1b[K%s …", text)
		case n%10 == 0:
			fmt.Fprintf(p.w, "%s …\n", text)
		}
		shown = true
	}
}

// stop ends the line. It must be called, once.
func (p *progress) stop() {
	close(p.stopped)
	<-p.done
}
