// Package lines cuts what a task prints into lines for a log. The runners share it.
package lines

import (
	"bytes"
	"fmt"
	"strings"
	"unicode/utf8"
)

// Writer cuts what is written to it into lines fit for a log and for PostgreSQL's text: without their line end, valid
// UTF-8 (a run of other bytes becomes one U+FFFD), without NUL. It holds at most one line of Limit bytes; what a
// line has beyond is counted and named at its end. One goroutine writes.
type Writer struct {
	Limit int
	Emit  func(line string)
	held  []byte // the beginning of the current line, at most Limit+1 bytes: one more for a carriage return
	size  int    // bytes of the current line so far
}

func (l *Writer) Write(p []byte) (int, error) {
	n := len(p)
	for {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			l.hold(p)
			return n, nil
		}
		l.hold(p[:i])
		l.end()
		p = p[i+1:]
	}
}

// Flush emits the last line if nothing ended it.
func (l *Writer) Flush() {
	if l.size > 0 {
		l.end()
	}
}

func (l *Writer) hold(p []byte) {
	l.size += len(p)
	room := l.Limit + 1 - len(l.held)
	l.held = append(l.held, p[:min(room, len(p))]...)
}

func (l *Writer) end() {
	line, size := l.held, l.size
	if size == len(line) && size > 0 && line[size-1] == '\r' {
		line, size = line[:size-1], size-1
	}
	marker := ""
	if size > l.Limit {
		line = WholeRunes(line[:l.Limit])
		marker = fmt.Sprintf(" … [cut: %d bytes in all]", size)
	}
	l.Emit(printable(line) + marker)
	l.held, l.size = l.held[:0], 0
}

// printable is b as text that logs and PostgreSQL take.
func printable(b []byte) string {
	return strings.ReplaceAll(strings.ToValidUTF8(string(b), "\uFFFD"), "\x00", "")
}

// WholeRunes leaves out the rune at the end of b that a cut has left incomplete.
func WholeRunes(b []byte) []byte {
	for back := 1; back <= min(utf8.UTFMax, len(b)); back++ {
		if start := len(b) - back; utf8.RuneStart(b[start]) {
			if !utf8.FullRune(b[start:]) {
				return b[:start]
			}
			break
		}
	}
	return b
}
